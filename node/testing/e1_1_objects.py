"""Small valid objects of many SOP classes, to plant things in: images, reports, presentation states, structures, waveforms, documents."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from node.testing.studies import uid_of

#: the person, the number of the study of that person
Who = tuple[int, int]
ROWS = COLUMNS = 16


def marked(number: int, *, bits: int = 16, samples: int = 1) -> bytes:
    """Pixels that tell which file they belong to: the first four are its number, the others a ramp of even values."""
    values = [number] * 4 + [(7 * i + number) % 200 for i in range(ROWS * COLUMNS * samples - 4)]
    return struct.pack(f"<{len(values)}{'H' if bits == 16 else 'B'}", *values)


def ct(number: int, who: Who) -> Dataset:
    """CT Image."""
    ds = _image("1.2.840.10008.5.1.4.1.1.2", "CT", number, who)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid_of("e1-1", "frame", *who), ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-8, -8, float(number)], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.KVP, ds.AcquisitionNumber = -1024, 1, "HU", 120, 1
    ds.PatientPosition = "HFS"
    return ds


def mr(number: int, who: Who) -> Dataset:
    """MR Image."""
    ds = _image("1.2.840.10008.5.1.4.1.1.4", "MR", number, who)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid_of("e1-1", "frame", *who), ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-8, -8, float(number)], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.PatientPosition = [1, 1], 1, "HFS"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 500, 12, 1
    return ds


def cr(number: int, who: Who) -> Dataset:
    """Computed Radiography Image, which says that nothing is written into it."""
    ds = _image("1.2.840.10008.5.1.4.1.1.1", "CR", number, who)
    ds.ImageType, ds.BurnedInAnnotation = ["ORIGINAL", "PRIMARY"], "NO"
    ds.ViewPosition = "PA"
    return ds


def us(number: int, who: Who) -> Dataset:
    """Ultrasound Image, 8 bit, which says that nothing is written into it."""
    ds = _image("1.2.840.10008.5.1.4.1.1.6.1", "US", number, who, bits=8)
    ds.ImageType, ds.BurnedInAnnotation, ds.LossyImageCompression = ["ORIGINAL", "PRIMARY", "BREAST", "0001"], "NO", "00"
    return ds


def sc(number: int, who: Who) -> Dataset:
    """Secondary Capture Image."""
    ds = _image("1.2.840.10008.5.1.4.1.1.7", "OT", number, who, bits=8)
    ds.ImageType, ds.ConversionType, ds.BurnedInAnnotation = ["DERIVED", "SECONDARY"], "WSD", "NO"
    return ds


def burned_in(number: int, who: Who) -> Dataset:
    """Ultrasound that says it shows a name."""
    ds = us(number, who)
    ds.BurnedInAnnotation = "YES"
    return ds


def report(number: int, who: Who) -> Dataset:
    """Comprehensive SR: coded findings, numbers, texts, names, dates, UIDs and an image."""
    ds = _common("1.2.840.10008.5.1.4.1.1.88.33", "SR", number, who)
    ds.CompletionFlag, ds.VerificationFlag = "PARTIAL", "UNVERIFIED"
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = Items([]), Items([])
    ds.ReferencedRequestSequence = Items([_request(who)])
    ds.CurrentRequestedProcedureEvidenceSequence = Items([_evidence(number, who)])
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = Items([code("126000", "DCM", "Imaging Measurement Report")])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    ds.ContentTemplateSequence = Items([template])
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instance_uid(1, who)
    group = _item("CONTAINS", "CONTAINER", code("125007", "DCM", "Measurement Group"), ContinuityOfContent="SEPARATE")
    group.ContentSequence = Items(
        [
            _item("CONTAINS", "TEXT", code("112039", "DCM", "Tracking Identifier"), TextValue="Lesion 1"),
            _item("CONTAINS", "UIDREF", code("112040", "DCM", "Tracking Unique Identifier"), UID=uid_of("e1-1", "track", *who)),
            _item("CONTAINS", "CODE", code("121071", "DCM", "Finding"), ConceptCodeSequence=Items([code("52988006", "SCT", "Lesion")])),
            _number(number),
        ]
    )
    ds.ContentSequence = Items(
        [
            _item("HAS OBS CONTEXT", "PNAME", code("121008", "DCM", "Person Observer Name"), PersonName="House^Gregory"),
            _item("HAS OBS CONTEXT", "DATE", code("121031", "DCM", "Subject Birth Date"), Date="19610312"),
            _item("CONTAINS", "TEXT", code("121073", "DCM", "Impression"), TextValue="lesion in the left lung"),
            _item("CONTAINS", "DATETIME", code("111526", "DCM", "DateTime Started"), DateTime="20260511093000"),
            _item("CONTAINS", "IMAGE", None, ReferencedSOPSequence=Items([image])),
            group,
        ]
    )
    return ds


def key_objects(number: int, who: Who) -> Dataset:
    """Key Object Selection Document."""
    ds = _common("1.2.840.10008.5.1.4.1.1.88.59", "KO", number, who)
    ds.ReferencedPerformedProcedureStepSequence = Items([])
    ds.ReferencedRequestSequence = Items([_request(who)])
    ds.CurrentRequestedProcedureEvidenceSequence = Items([_evidence(number, who)])
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = Items([code("113000", "DCM", "Of Interest")])
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    ds.ContentTemplateSequence = Items([template])
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instance_uid(1, who)
    ds.ContentSequence = Items([_item("CONTAINS", "IMAGE", None, ReferencedSOPSequence=Items([image]))])
    return ds


def presentation_state(number: int, who: Who) -> Dataset:
    """Grayscale Softcopy Presentation State with a text and a polyline."""
    ds = _common("1.2.840.10008.5.1.4.1.1.11.1", "PR", number, who)
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "ARROWS", "arrows on the lesion", "House^Gregory"
    ds.PresentationCreationDate, ds.PresentationCreationTime = "20260511", "093000"
    ds.ReferencedSeriesSequence = Items([_referenced_series(who)])
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [COLUMNS, ROWS]
    area.PresentationSizeMode, area.PresentationPixelSpacing = "SCALE TO FIT", [1, 1]
    ds.DisplayedAreaSelectionSequence = Items([area])
    text, line, annotation, layer = Dataset(), Dataset(), Dataset(), Dataset()
    text.BoundingBoxAnnotationUnits, text.UnformattedTextValue = "PIXEL", "left lung"
    text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner = [1, 1], [8, 4]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    line.GraphicAnnotationUnits, line.GraphicDimensions, line.NumberOfGraphicPoints = "PIXEL", 2, 2
    line.GraphicData, line.GraphicType, line.GraphicFilled = [2.0, 2.0, 9.0, 9.0], "POLYLINE", "N"
    annotation.GraphicLayer = "LAYER1"
    annotation.TextObjectSequence, annotation.GraphicObjectSequence = Items([text]), Items([line])
    ds.GraphicAnnotationSequence = Items([annotation])
    layer.GraphicLayer, layer.GraphicLayerOrder, layer.GraphicLayerDescription = "LAYER1", 1, "drawn by House"
    ds.GraphicLayerSequence = Items([layer])
    ds.PresentationLUTShape = "IDENTITY"
    return ds


def structure_set(number: int, who: Who) -> Dataset:
    """RT Structure Set with one contour."""
    ds = _common("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", number, who)
    ds.OperatorsName, ds.StructureSetLabel = "Bedient^Gerd", "LUNG"
    ds.StructureSetDate, ds.StructureSetTime, ds.ApprovalStatus = "20260511", "093000", "UNAPPROVED"
    image, series, study, frame = Dataset(), Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instance_uid(1, who)
    series.SeriesInstanceUID, series.ContourImageSequence = series_uid("CT", who), Items([image])
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", study_uid(who)
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = uid_of("e1-1", "frame", *who), Items([study])
    ds.ReferencedFrameOfReferenceSequence = Items([frame])
    region, contours, contour, observation = Dataset(), Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ReferencedFrameOfReferenceUID = 1, uid_of("e1-1", "frame", *who)
    region.ROIName, region.ROIGenerationAlgorithm = "Lung", "MANUAL"
    ds.StructureSetROISequence = Items([region])
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
    contour.ContourData = [0, 0, 1, 4, 0, 1, 4, 4, 1]
    contours.ReferencedROINumber, contours.ContourSequence = 1, Items([contour])
    ds.ROIContourSequence = Items([contours])
    observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", "House^Gregory"
    ds.RTROIObservationsSequence = Items([observation])
    return ds


def ecg(number: int, who: Who) -> Dataset:
    """General ECG Waveform, one channel."""
    ds = _common("1.2.840.10008.5.1.4.1.1.9.1.2", "ECG", number, who)
    ds.AcquisitionDateTime = "20260511091645"
    ds.AcquisitionContextSequence = Items([])
    channel, group = Dataset(), Dataset()
    channel.ChannelSourceSequence = Items([code("2:1", "MDC", "Lead I")])
    channel.ChannelSensitivity, channel.ChannelSensitivityUnitsSequence = 1, Items([code("uV", "UCUM", "microvolt")])
    channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline, channel.ChannelSampleSkew = 1, 0, 0
    channel.WaveformBitsStored = 16
    group.WaveformOriginality, group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = "ORIGINAL", 1, 8
    group.SamplingFrequency, group.ChannelDefinitionSequence = 500, Items([channel])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new("WaveformData", "OW", struct.pack("<8h", number, *range(7)))
    ds.WaveformSequence = Items([group])
    return ds


def document(number: int, who: Who) -> Dataset:
    """Encapsulated PDF: text that no attribute table reaches."""
    ds = _common("1.2.840.10008.5.1.4.1.1.104.1", "DOC", number, who)
    ds.ConversionType, ds.BurnedInAnnotation, ds.DocumentTitle = "WSD", "YES", "Letter"
    ds.ConceptNameCodeSequence, ds.MIMETypeOfEncapsulatedDocument = Items([]), "application/pdf"
    ds.AcquisitionDateTime = "20260511091645"
    ds.EncapsulatedDocument = b"%PDF-1.4 a letter about Gregory House's patient\n%%EOF\n\0"
    return ds


#: maker of each kind, by a short name
KINDS: Mapping[str, Callable[[int, Who], Dataset]] = {
    "ct": ct,
    "mr": mr,
    "cr": cr,
    "us": us,
    "sc": sc,
    "burned in": burned_in,
    "report": report,
    "key objects": key_objects,
    "presentation state": presentation_state,
    "structure set": structure_set,
    "ecg": ecg,
    "document": document,
}


def study_uid(who: Who) -> str:
    """Study Instance UID of a person's study."""
    return uid_of("e1-1", "study", *who)


def series_uid(modality: str, who: Who) -> str:
    """Series Instance UID: one series a modality."""
    return uid_of("e1-1", "series", modality, *who)


def instance_uid(number: int, who: Who) -> str:
    """SOP Instance UID of a file."""
    return uid_of("e1-1", "instance", number, *who)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _common(sop_class: str, modality: str, number: int, who: Who) -> Dataset:
    """Patient, General Study, General Series, General Equipment and SOP Common modules."""
    person, study = who
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, instance_uid(number, who)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(who), series_uid(modality, who)
    ds.PatientName, ds.PatientID = f"Zqfamily{person}^Zqgiven{person}", f"ZQID000{person}"
    ds.IssuerOfPatientID = "Hospital"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19310214", "F", "095Y"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = f"202605{10 + study:02d}"
    ds.StudyTime, ds.SeriesTime, ds.ContentTime = "091500", "091630", "091650"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = f"ZQACC{person}{study}", f"ZQSTU{person}{study}", "House^Gregory"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, 1 + sum(map(ord, modality)) % 90, number
    ds.Manufacturer, ds.ManufacturerModelName, ds.BodyPartExamined = "Siemens", "SOMATOM", "CHEST"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "ZQSERIAL4711", "VA40A"
    return ds


def _image(sop_class: str, modality: str, number: int, who: Who, *, bits: int = 16) -> Dataset:
    ds = _common(sop_class, modality, number, who)
    ds.PatientOrientation = ["L", "P"] if modality not in {"US", "OT"} else ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, min(bits, 12), min(bits, 12) - 1, 0
    ds.PixelData = marked(number, bits=bits)
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    return ds


def _request(who: Who) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID, item.AccessionNumber = study_uid(who), f"ZQACC{who[0]}{who[1]}"
    item.ReferencedStudySequence, item.RequestedProcedureID, item.PlacerOrderNumberImagingServiceRequest = Items([]), "", ""
    item.FillerOrderNumberImagingServiceRequest, item.RequestedProcedureDescription = "", ""
    item.RequestedProcedureCodeSequence = Items([])
    return item


def _referenced_series(who: Who) -> Dataset:
    image, series = Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instance_uid(1, who)
    series.SeriesInstanceUID, series.ReferencedImageSequence = series_uid("CT", who), Items([image])
    return series


def _evidence(number: int, who: Who) -> Dataset:
    image, series, study = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instance_uid(1, who)
    series.SeriesInstanceUID, series.ReferencedSOPSequence = series_uid("CT", who), Items([image])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = study_uid(who), Items([series])
    return study


def _item(relationship: str, value_type: str, name: Dataset | None, **content: object) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    if name is not None:
        item.ConceptNameCodeSequence = Items([name])
    for keyword, value in content.items():
        setattr(item, keyword, value)
    return item


def _number(value: int) -> Dataset:
    measured = Dataset()
    measured.MeasurementUnitsCodeSequence, measured.NumericValue = Items([code("mm3", "UCUM", "cubic millimeter")]), value
    return _item("CONTAINS", "NUM", code("118565006", "SCT", "Volume"), MeasuredValueSequence=Items([measured]))
