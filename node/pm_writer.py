"""Result → Parametric Map: the heat map's values as numbers, on the images' own grid, for viewers that colour it themselves."""

from __future__ import annotations

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ParametricMapStorage

from node.codes import Code
from node.derived import Place, body_part, check_frames, check_geometry, dimensions, frame_groups, lossy, references, shared_groups
from node.domain import Result, Role, Study
from node.errors import ResultInvalid
from node.imaging.volume import Volume
from node.provenance import RESEARCH, Provenance

NO_UNITS = Code("1", "UCUM", "no units")
TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]  # Image Type and Frame Type, PS3.3 C.8.16.1


def write_pm(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset | None:
    """32-bit floats 0 to 1, without the frames that are zero; None when there is no heat map, or when it lies over a colour image.

    OHIF colours and blends floats (not integers), and its shader fails over RGB: there the Secondary Capture shows the heat map.

    Raises
    ------
    ResultInvalid
        When the heat map does not lie on the volume's frames, or has values that are no numbers.

    Standard: PS3.3 A.75, C.8.32; Floating Point Image Pixel C.7.6.24.
    """
    heat = result.heatmap
    if heat is None or volume.pixels.ndim == 4:
        return None
    if heat.values.shape != volume.pixels.shape[:3] or not np.isfinite(heat.values).all():
        raise ResultInvalid("The heat map is not on the grid of its images, or has values that are no numbers.", shape=heat.values.shape)
    shown = [int(at) for at in np.flatnonzero(heat.values.any(axis=(1, 2)))]
    if not shown:
        return None
    header = volume.frames[0].instance.header
    check_frames(volume)
    check_geometry(volume)
    ds = provenance.new_object(Role.PM, sop_class_uid=ParametricMapStorage, modality="OT", source=header)
    body_part(ds, header)
    ds.ImageType, ds.AcquisitionContextSequence = TYPE, []
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_HEAT_MAP", heat.title[:64], None
    ds.ContentQualification, ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "RESEARCH", "NO", "NO"
    ds.ImageComments = f"{heat.title}. {RESEARCH}."
    ds.PresentationLUTShape = "IDENTITY"
    lossy(ds, volume)
    references(ds, volume)
    dimensions(ds, volume, provenance.uid(Role.PM, "dimensions"), by_segment=False)
    if "FrameOfReferenceUID" not in ds:  # Type 1 here; one of its own relates the map to nothing else, as its flat geometry says
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = provenance.uid(Role.PM, "frame of reference"), None
    ds.SharedFunctionalGroupsSequence = [_shared(volume, heat.title)]
    places = (Place(at, rank) for rank, at in enumerate(shown, 1))
    ds.PerFrameFunctionalGroupsSequence = frame_groups(volume, places, codes.DCM.SpatiallyRelatedFramesExtractedFromTheVolume)
    _pixels(ds, heat.values[shown])
    return ds


def _shared(volume: Volume, title: str) -> Dataset:
    """Where the values lie, what they mean and how they are shown at first."""
    shared = shared_groups(volume)
    kind = Dataset()
    kind.FrameType = TYPE
    shared.ParametricMapFrameTypeSequence = [kind]
    mapping = RealWorldValueMapping(
        lut_label="HEAT", lut_explanation=title[:64], unit=NO_UNITS, value_range=(0.0, 1.0), slope=1.0, intercept=0.0
    )
    shared.RealWorldValueMappingSequence = [mapping]
    shared.FrameVOILUTSequence = [VOILUTTransformation(window_center=0.5, window_width=1.0)]
    transformation = Dataset()
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = "0", "1", "US"
    shared.PixelValueTransformationSequence = [transformation]
    return shared


def _pixels(ds: Dataset, values: np.ndarray) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.NumberOfFrames, ds.Rows, ds.Columns = (int(n) for n in values.shape)
    ds.BitsAllocated = 32
    ds.FloatPixelData = np.ascontiguousarray(values, "<f4").tobytes()
