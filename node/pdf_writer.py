"""Result → Encapsulated PDF: a page that a person would print. It carries no name: the patient stands in the DICOM header."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import EncapsulatedPDFStorage

from node.derived import reference_to
from node.domain import Instance, Result, Role, Series, Study
from node.imaging.volume import Frame, Volume
from node.provenance import Provenance
from node.report import looked_at


def write_pdf(study: Study, volume: Volume | None, result: Result, provenance: Provenance, *, series: Series) -> Dataset:
    """The answer, the findings and their numbers, the key images, and whose answer it is; of a series that was not analysed, why.

    Parameters
    ----------
    volume : Volume or None
        None when the series could not even be opened; then the result is "not analysed".

    Standard: PS3.3 A.45.1, C.24.2.
    """
    from node.page import page  # its library is loaded by who writes one

    images = looked_at(volume, series)
    header = volume.frames[0].instance.header if volume is not None else series.header
    ds = provenance.new_object(Role.PDF, sop_class_uid=EncapsulatedPDFStorage, modality="DOC", source=header)
    ds.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    ds.AcquisitionDateTime = None
    ds.BurnedInAnnotation = "NO"  # nothing on the page says who the patient is
    ds.RecognizableVisualFeatures = "NO"
    ds.DocumentTitle = provenance.series_description(Role.PDF)
    title = Dataset()
    report = standard.LN.DiagnosticImagingReport
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = report.value, report.scheme_designator, report.meaning
    ds.ConceptNameCodeSequence = [title]
    ds.SourceInstanceSequence = [_source(image) for image in images]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = page(volume, result, provenance, modality=series.modality, images=len(images))
    ds.EncapsulatedDocumentLength = len(document)
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return ds


def _source(image: Instance) -> Dataset:
    return reference_to(Frame(instance=image), with_frame=False)
