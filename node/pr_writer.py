"""Result → softcopy presentation state: outlines, labels, window and displayed area laid over the key images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import NamedTuple

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import GraphicAnnotation, GraphicLayer, GraphicObject, TextObject
from numpy.typing import NDArray
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.uid import ColorSoftcopyPresentationStateStorage, GrayscaleSoftcopyPresentationStateStorage

from node.derived import body_part, class_like, decimal, reference_to
from node.domain import Finding, Result, Role, Segment, Study
from node.errors import ResultInvalid
from node.imaging.decode import frame_count
from node.imaging.functional import number_of, value_of
from node.imaging.rescale import turned
from node.imaging.spacing import aspect_ratio
from node.imaging.volume import Frame, Volume
from node.imaging.window import told_window
from node.picture import RESEARCH, headline, key_frames, maker, outlines_of, said_briefly, window_of
from node.provenance import Provenance
from node.report import told

WHITE = CIELabColor.from_rgb(255, 255, 255)
MOST_OUTLINES = 20  # of one segment on one image
LINE = 0.035  # of the displayed area: height of a line of text
RESCALE = ("RescaleSlope", "RescaleIntercept")


class _Text(NamedTuple):
    """A label in pixels: where its box is, and what it says."""

    words: str
    left: float
    top: float
    right: float
    bottom: float


def write_pr(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset:
    """One presentation state for the key images: grayscale, or colour where the images are.

    Each segment has a layer in its own colour; findings stand beside their outlines, those without a place at the upper edge. The state
    applies to the key images only, so that the others keep the window a reader chose.

    Raises
    ------
    ResultInvalid
        When a region or a mask is not on the volume's frames.

    Standard: PS3.3 A.33.1 and A.33.2; C.10.4, C.10.5, C.11.10, C.11.11.
    """
    _check(volume, result)
    shown = _alike(volume, key_frames(volume, result))
    header = volume.frames[shown[0]].instance.header
    colour = volume.pixels.ndim == 4
    sop_class = ColorSoftcopyPresentationStateStorage if colour else GrayscaleSoftcopyPresentationStateStorage
    ds = provenance.new_object(Role.PR, sop_class_uid=sop_class, modality="PR", source=header)
    body_part(ds, header)
    ds.PresentationCreationDate, ds.PresentationCreationTime = provenance.date, provenance.time
    ds.ContentLabel, ds.ContentDescription = "AI_OUTLINES", provenance.series_description(Role.PR)
    ds.ContentCreatorName = None

    series = Dataset()
    series.SeriesInstanceUID = volume.series.series_instance_uid
    series.ReferencedImageSequence = _references(volume, shown)
    ds.ReferencedSeriesSequence = [series]
    ds.DisplayedAreaSelectionSequence = [_displayed_area(volume)]
    layers = {0: GraphicLayer("AI_TEXT", 100, "Findings", WHITE)}
    layers |= {
        s.number: GraphicLayer(f"AI_SEGMENT_{s.number}", s.number, s.label[:64], CIELabColor.from_rgb(*s.color)) for s in result.segments
    }
    ds.GraphicLayerSequence = list(layers.values())
    ds.GraphicAnnotationSequence = [one for at in shown for one in _annotations(volume, at, result, provenance, layers)]
    if colour:
        ds.ICCProfile = _srgb()
    else:
        _grey(ds, volume, shown, result)
    return ds


# --- does it fit? ---------------------------------------------------------------------------------------------------------
def _check(volume: Volume, result: Result) -> None:
    for segment in result.segments:
        if segment.mask.shape != volume.pixels.shape[:3]:
            raise ResultInvalid("A mask is not on the grid of its images.", segment=segment.number)
    for finding in result.findings:
        if finding.region is not None and not 0 <= finding.region.frame < len(volume.frames):
            raise ResultInvalid("A finding's region is on a frame that the volume does not have.", frame=finding.region.frame)


def _alike(volume: Volume, shown: Sequence[int]) -> list[int]:
    """Those that share the first one's rescaling: a presentation state has one Modality LUT for all its images."""
    first = _rescale(volume.frames[shown[0]])
    return [at for at in shown if _rescale(volume.frames[at]) == first]


def _rescale(frame: Frame) -> tuple[float, float]:
    slope, intercept = (
        number_of(frame.instance.header, frame.number, "PixelValueTransformationSequence", keyword, default)
        for keyword, default in zip(RESCALE, (1.0, 0.0), strict=True)
    )
    return slope, intercept


# --- the images -----------------------------------------------------------------------------------------------------------
def _references(volume: Volume, shown: Sequence[int]) -> list[Dataset]:
    """Each image once, with its frames where it has several."""
    frames: dict[str, list[Frame]] = {}
    for at in shown:
        frames.setdefault(volume.frames[at].instance.sop_instance_uid, []).append(volume.frames[at])
    items = []
    for of_one in frames.values():
        item = reference_to(of_one[0], with_frame=False)
        if frame_count(of_one[0].instance.header) > 1:
            item.ReferencedFrameNumber = [frame.number for frame in of_one]
        items.append(item)
    return items


def _displayed_area(volume: Volume) -> Dataset:
    """All of the image, as large as it fits, with square millimetres; pixels of an unknown size in the ratio that the image tells."""
    rows, columns = (int(n) for n in volume.pixels.shape[1:3])
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = volume.pixel_spacing_mm
    if spacing and min(spacing) > 0:
        area.PresentationPixelSpacing = [decimal(spacing[0]), decimal(spacing[1])]
    else:
        area.PresentationPixelAspectRatio = list(aspect_ratio(volume.frames[0].instance.header))
    return area


def _grey(ds: Dataset, volume: Volume, shown: Sequence[int], result: Result) -> None:
    """From stored values to what is seen: Modality LUT, window, and whether low values are white."""
    frame = volume.frames[shown[0]]
    header = frame.instance.header
    if header.get("ModalityLUTSequence"):
        ds.ModalityLUTSequence = deepcopy(header.ModalityLUTSequence)
    elif value_of(header, frame.number, "PixelValueTransformationSequence", "RescaleSlope") is not None:
        slope, intercept = _rescale(frame)
        ds.RescaleSlope, ds.RescaleIntercept = decimal(slope), decimal(intercept)
        ds.RescaleType = "HU" if volume.unit == "HU" else "US"
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    window = told_window(header, frame.number) if inverted else window_of(volume, result)
    if window is None:
        low, high = (float(v) for v in np.percentile(volume.pixels[list(shown)], (0.5, 99.5)))
        middle = (low + high) / 2
        window = (turned(middle, header, frame.number) if inverted else middle, max(high - low, 1.0))
    item = VOILUTTransformation(window_center=round(window[0], 3), window_width=round(max(window[1], 1.0), 3))
    ds.SoftcopyVOILUTSequence = [item]
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"


@cache
def _srgb() -> bytes:
    """An sRGB profile without the date of its making: the same work gives the same bytes."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes((7, 234, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))  # ICC.1 7.2.1: date and time in the header
    profile[84:100] = bytes(16)  # the checksum that covered it
    return bytes(profile)


# --- what is laid over them ------------------------------------------------------------------------------------------------
def _annotations(
    volume: Volume, at: int, result: Result, provenance: Provenance, layers: dict[int, GraphicLayer]
) -> list[GraphicAnnotation]:
    """The outlines of one image, each in its segment's layer, and the words."""
    frame = volume.frames[at]
    number = frame.number if frame_count(frame.instance.header) > 1 else None
    found = []
    labels: list[_Text] = []
    for segment in result.segments:
        outlines = outlines_of(segment.mask[at])[:MOST_OUTLINES] if segment.mask[at].any() else []
        if not outlines:
            continue
        tracking = provenance.segment_tracking(result, segment.number)
        found.append(_annotation(frame, number, layers[segment.number], [_polyline(one, tracking) for one in outlines], []))
        labels.append(_beside(outlines[0], _label(segment, result), volume))
    drawn = [f for f in result.findings if f.segment is None and f.region is not None and f.region.frame == at]
    shapes = []
    for finding in drawn:
        assert finding.region is not None
        outline = np.clip(np.asarray(finding.region.outline, np.float32), 0, volume.pixels.shape[2:0:-1])
        outline = outline if np.array_equal(outline[0], outline[-1]) else np.vstack([outline, outline[:1]])
        shapes.append(_polyline(outline, (provenance.tracking_id(finding), provenance.tracking_uid(finding))))
        labels.append(_beside(outline, said_briefly(finding), volume))
    words = [_text(one) for one in _apart(labels, int(volume.pixels.shape[1]))]
    placeless = [f for f in told(result) if f.segment is None and f.region is None]
    words += _list([f"AI {headline(result)}", *(said_briefly(f) for f in placeless[:6])], LINE / 2)
    words += _list([RESEARCH, maker(provenance.maker)], 1 - 2.5 * LINE)
    found.append(_annotation(frame, number, layers[0], shapes, words))
    return found


def _annotation(
    frame: Frame, number: int | None, layer: GraphicLayer, shapes: Sequence[GraphicObject], words: Sequence[TextObject]
) -> GraphicAnnotation:
    annotation = GraphicAnnotation(
        [_stand_in(frame)], layer, referenced_frame_number=number, graphic_objects=shapes or None, text_objects=words or None
    )
    for item in annotation.ReferencedImageSequence:
        item.ReferencedSOPClassUID = frame.instance.header.SOPClassUID
    return annotation


def _stand_in(frame: Frame) -> Dataset:
    """What highdicom asks of an image, under a class that it knows."""
    said, header = frame.instance.header, Dataset()
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "NumberOfFrames"):
        if keyword in said:
            setattr(header, keyword, said[keyword].value)
    header.SOPClassUID = class_like(said)
    return header


def _polyline(outline: NDArray[np.float32], tracking: tuple[str, str]) -> GraphicObject:
    return GraphicObject("POLYLINE", np.asarray(outline, np.float64), "PIXEL", tracking_id=tracking[0], tracking_uid=tracking[1])


def _label(segment: Segment, result: Result) -> str:
    """What the segment shows: its finding in words, else its own label."""
    of_it: list[Finding] = [finding for finding in result.findings if finding.segment == segment.number]
    return said_briefly(of_it[0]) if of_it else segment.label


def _beside(outline: NDArray[np.float32], words: str, volume: Volume) -> _Text:
    """A box above the outline, or below where there is no room."""
    rows, columns = volume.pixels.shape[1:3]
    height = max(LINE * rows, 1.0)
    width = min(0.55 * height * len(words), columns - 1.0)
    left = float(min(outline[:, 0].min(), columns - width))
    top = float(outline[:, 1].min()) - 1.3 * height
    if top < 3 * height:
        top = min(float(outline[:, 1].max()) + 0.3 * height, rows - height)
    return _Text(words, left, max(top, 0.0), left + width, max(top, 0.0) + height)


def _apart(labels: list[_Text], rows: int) -> list[_Text]:
    """Labels moved where they cover no other one: down, or else up. The report has those for which no room is left."""
    placed: list[_Text] = []
    for label in sorted(labels, key=lambda one: one.top):
        height = label.bottom - label.top
        steps = [n * height / 2 for n in range(round(2 * rows / height))]
        tops = [label.top + step for step in steps] + [label.top - step for step in steps]
        free = (top for top in tops if 0 <= top <= rows - height and not _covered(label, top, placed))
        if (top := next(free, None)) is not None:
            placed.append(label._replace(top=top, bottom=top + height))
    return placed


def _covered(label: _Text, top: float, placed: Sequence[_Text]) -> bool:
    height = label.bottom - label.top
    return any(abs(top - other.top) < height and label.left < other.right and other.left < label.right for other in placed)


def _text(label: _Text) -> TextObject:
    return TextObject(label.words[:1024], "PIXEL", (label.left, label.top, label.right, label.bottom), text_justification="LEFT")


def _list(lines: Sequence[str], top: float) -> list[TextObject]:
    """Lines below each other at the left edge, from `top` of the displayed area."""
    return [
        TextObject(words[:1024], "DISPLAY", (0.02, top + LINE * n, 0.98, top + LINE * (n + 1)), text_justification="LEFT")
        for n, words in enumerate(lines)
    ]
