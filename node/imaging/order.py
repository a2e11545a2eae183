"""Which way slices lie in space: their order along the normal, their spacing, and whether they form one regular volume."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from node.domain import Instance
from node.errors import GeometryRefused
from node.imaging.decode import frame_count, named, whole
from node.imaging.functional import number_of, numbers_of, value_of
from node.imaging.volume import Frame

Vector = NDArray[np.float64]
T = TypeVar("T")

ANGLE_TOLERANCE = 1e-3  #: between direction cosines
SPACING_TOLERANCE = 0.05  #: of the distance between neighbours
SAME_PLACE_MM = 1e-3
ROUNDED_MM = 0.051  #: positions are believed to be written to a tenth of a millimetre
DRIFT_MM = 0.1  #: in the plane, from the line through the first and the last slice

#: what tells the volumes of one series apart, in the order in which it is looked for
SEPARATORS = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("", "TemporalPositionIdentifier"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("", "TriggerTime"),
    ("", "AcquisitionNumber"),
    ("", "ImageType"),
    ("", "ContentTime"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One frame's place in the patient. PS3.3 C.7.6.2."""

    frame: Frame
    position: Vector | None = field(repr=False)  #: centre of the first pixel, mm in LPS
    orientation: Vector | None = field(repr=False)  #: (2, 3): direction along a row, direction along a column
    spacing: tuple[float, float] | None  #: between rows, between columns
    thickness: float | None
    shape: tuple[int, int]

    @property
    def uid(self) -> str:
        return str(self.frame.instance.sop_instance_uid)

    @property
    def normal(self) -> Vector:
        assert self.orientation is not None
        return np.cross(self.orientation[0], self.orientation[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices in order, the grid they form, and what was noticed on the way."""

    slices: tuple[Slice, ...]
    affine: Vector
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...] = ()


def slices_of(instance: Instance) -> list[Slice]:
    """Every frame of an instance with its place, as far as it is told."""
    ds = instance.header
    out = []
    for number in range(1, frame_count(ds) + 1):
        measures = "PixelMeasuresSequence"
        spacing = numbers_of(ds, number, measures, "PixelSpacing", 2)
        thickness = number_of(ds, number, measures, "SliceThickness", math.nan)
        out.append(
            Slice(
                frame=Frame(instance=instance, number=number),
                position=numbers_of(ds, number, "PlanePositionSequence", "ImagePositionPatient", 3),
                orientation=_directions(numbers_of(ds, number, "PlaneOrientationSequence", "ImageOrientationPatient", 6)),
                spacing=None if spacing is None or (spacing <= 0).any() else (float(spacing[0]), float(spacing[1])),
                thickness=thickness if math.isfinite(thickness) and thickness > 0 else None,
                shape=(whole(ds, "Rows"), whole(ds, "Columns")),
            )
        )
    return out


def _directions(cosines: Vector | None) -> Vector | None:
    """Two unit vectors at a right angle, or None."""
    if cosines is None:
        return None
    rows = cosines.reshape(2, 3)
    lengths = np.linalg.norm(rows, axis=1)
    if (np.abs(lengths - 1.0) > 0.01).any() or abs(float(rows[0] @ rows[1])) > 0.01:
        return None
    return np.asarray(rows / lengths[:, None])


def stack_of(slices: Sequence[Slice], *, spacing_between: float | None = None) -> Stack:
    """The slices as one regular volume.

    Parameters
    ----------
    slices : in any order, no two at one place
    spacing_between : distance to assume where there is a single slice

    Raises
    ------
    GeometryRefused
        With the reason and the SOP Instance UIDs it is about.

    Standard: PS3.3 C.7.6.2.1.1. The distance between slices is taken from their positions, never from Slice Thickness.
    """
    _check_told(slices)
    _check_alike(slices)
    first = slices[0]
    assert first.orientation is not None
    assert first.spacing is not None
    normal = first.normal
    ordered = sorted(slices, key=lambda s: _along(s, normal))
    notes: list[str] = []
    if len(ordered) == 1:
        distance = first.thickness or spacing_between or 1.0
        if first.thickness is None and spacing_between is None:
            notes.append("a single slice without a thickness: 1 mm is assumed")
        step = normal * distance
    else:
        distance = _distance(ordered, normal)
        step = _step(ordered, normal, notes)
    origin = _position(ordered[0])
    rows, columns = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * columns  # one column further lies along the row direction
    affine[:3, 1] = first.orientation[1] * rows
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return Stack(slices=tuple(ordered), affine=affine, spacing_mm=(distance, rows, columns), notes=tuple(notes))


def at_one_place(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices grouped by position along the normal, in order; a group of more than one needs an answer."""
    _check_told(slices)
    _check_alike(slices)
    normal = slices[0].normal
    groups: list[list[Slice]] = []
    for s in sorted(slices, key=lambda s: (_along(s, normal), whole(s.frame.instance.header, "InstanceNumber"), s.frame.number)):
        if groups and np.abs(_position(s) - _position(groups[-1][0])).max() <= SAME_PLACE_MM:
            groups[-1].append(s)
        else:
            groups.append([s])
    return groups


def refuse_several(groups: Sequence[Sequence[Slice]]) -> GeometryRefused:
    """The error for slices that lie at one place with different pixels: several volumes, or a duplicate."""
    sizes = {len(group) for group in groups}
    if len(sizes) == 1 and len(groups) > 1:
        count = sizes.pop()
        by = _separator(groups)
        told = f", told apart by {by}" if by else ""
        return GeometryRefused(f"{count} volumes of {len(groups)} slices share one series{told}; send each as its own series")
    double = [s.uid for group in groups if len(group) > 1 for s in group]
    return GeometryRefused(f"different images lie at one position: {named(double)}")


def _separator(groups: Sequence[Sequence[Slice]]) -> str:
    """The attribute that has as many values as there are volumes, each once at every place."""
    for group, keyword in SEPARATORS:
        values = [tuple(sorted(str(value_of(s.frame.instance.header, s.frame.number, group, keyword)) for s in place)) for place in groups]
        if len(set(values)) == 1 and len(set(values[0])) == len(values[0]):
            return keyword
    return ""


def _check_told(slices: Sequence[Slice]) -> None:
    for what, missing in (
        ("Image Position (Patient) is missing or no number", [s for s in slices if s.position is None]),
        ("Image Orientation (Patient) is missing or not two directions at a right angle", [s for s in slices if s.orientation is None]),
        ("Pixel Spacing is missing, zero or no number", [s for s in slices if s.spacing is None]),
    ):
        if missing:
            raise GeometryRefused(f"{what}: {_names(missing)}")


def _check_alike(slices: Sequence[Slice]) -> None:
    """One size, one orientation, one pixel spacing, one frame of reference. Names the fewer."""
    shape = _most(s.shape for s in slices)
    if odd := [s for s in slices if s.shape != shape]:
        raise GeometryRefused(f"Rows and Columns differ within the series: {_names(odd)}")
    reference = _most(str(s.frame.instance.header.get("FrameOfReferenceUID", "")) for s in slices)
    if odd := [s for s in slices if str(s.frame.instance.header.get("FrameOfReferenceUID", "")) != reference]:
        raise GeometryRefused(f"the frame of reference differs within the series: {_names(odd)}")
    directions = np.stack([np.asarray(s.orientation) for s in slices])
    usual = directions[_densest(directions.reshape(len(slices), 6), ANGLE_TOLERANCE)]
    if odd := [s for s, d in zip(slices, directions, strict=True) if np.abs(d - usual).max() > ANGLE_TOLERANCE]:
        raise GeometryRefused(f"the orientation differs within the series: {_names(odd)}")
    spacings = np.array([s.spacing for s in slices])
    common = spacings[_densest(spacings, 1e-3)]
    if odd := [s for s, x in zip(slices, spacings, strict=True) if (np.abs(x - common) > 1e-3 * common).any()]:
        raise GeometryRefused(f"Pixel Spacing differs within the series: {_names(odd)}")


def _distance(ordered: Sequence[Slice], normal: Vector) -> float:
    """Between neighbours along the normal; raises when they are not evenly spaced."""
    along = np.array([_along(s, normal) for s in ordered])
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if usual <= SAME_PLACE_MM:
        raise GeometryRefused(f"the slices do not advance along their normal: {_names(ordered)}")
    off = np.flatnonzero(np.abs(gaps - usual) > SPACING_TOLERANCE * usual)
    if off.size and not _only_rounded(along):
        at = int(off[0])
        pair = f"{ordered[at].uid} and {ordered[at + 1].uid}"
        others = f" (and {off.size - 1} more)" if off.size > 1 else ""
        times = gaps[at] / usual
        if times > 1.5 and abs(times - round(times)) < 2 * SPACING_TOLERANCE:
            missing = round(float(times)) - 1
            are = "slice is" if missing == 1 else "slices are"
            raise GeometryRefused(f"{missing} {are} missing between {pair}{others}: {gaps[at]:.2f} mm apart where {usual:.2f} mm is usual")
        raise GeometryRefused(f"the slices are not evenly spaced: {gaps[at]:.2f} mm between {pair}{others}, {usual:.2f} mm usual")
    return float((along[-1] - along[0]) / (len(ordered) - 1))


def _only_rounded(along: Vector) -> bool:
    """Whether no slice lies further from an even grid than rounding its position to a tenth of a millimetre moves it."""
    even, first = np.polyfit(np.arange(len(along)), along, 1)
    off = np.abs(along - (first + even * np.arange(len(along)))).max()
    return bool(off <= ROUNDED_MM and off <= 0.25 * even)


def _step(ordered: Sequence[Slice], normal: Vector, notes: list[str]) -> Vector:
    """From one slice's first pixel to the next one's: along the normal, or sheared by a tilted gantry."""
    positions = np.stack([_position(s) for s in ordered])
    step: Vector = (positions[-1] - positions[0]) / (len(ordered) - 1)
    drift = positions - (positions[0] + np.arange(len(ordered))[:, None] * step)
    drift -= np.outer(drift @ normal, normal)
    far = np.linalg.norm(drift, axis=1)
    if far.max() > DRIFT_MM:
        raise GeometryRefused(
            f"slices are shifted in their plane: {_names([s for s, d in zip(ordered, far, strict=True) if d > DRIFT_MM])}"
        )
    sideways = step - (step @ normal) * normal
    angle = math.degrees(math.atan2(float(np.linalg.norm(sideways)), float(step @ normal)))
    if angle < 0.1:
        return np.asarray(normal * float(step @ normal))
    notes.append(f"the gantry was tilted by {angle:.1f} degrees: slices are sheared against their normal, kept on their own grid")
    return step


def _position(s: Slice) -> Vector:
    assert s.position is not None
    return s.position


def _along(s: Slice, normal: Vector) -> float:
    return float(_position(s) @ normal)


def _names(slices: Iterable[Slice]) -> str:
    return named(s.uid for s in slices)


def _most(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _densest(rows: Vector, tolerance: float) -> int:
    """Index of the first row of the largest group of rounded rows."""
    _, inverse, counts = np.unique(np.round(rows / (2 * tolerance)), axis=0, return_inverse=True, return_counts=True)
    return int(np.flatnonzero(inverse.ravel() == counts.argmax())[0])
