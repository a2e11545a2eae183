"""From the instances of a series to a volume, or to its single images. What can't be one regular volume is refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.domain import Instance, Series
from node.errors import GeometryRefused, PixelsUnreadable
from node.imaging.decode import (
    LIMIT_BYTES,
    check_declared,
    frame_count,
    is_image,
    named,
    stored_frames,
    threads_for,
)
from node.imaging.functional import number_of, value_of
from node.imaging.order import Slice, at_one_place, refuse_several, slices_of, stack_of
from node.imaging.rescale import grey_of, is_colour, rgb_of
from node.imaging.spacing import image_spacing
from node.imaging.volume import Frame, Volume

Pixels = NDArray[Any]


def build_volume(series: Series, *, limit_bytes: int = LIMIT_BYTES) -> Volume:
    """The series as one volume, slices in order along their normal.

    Raises
    ------
    GeometryRefused
        The slices are not one regular volume; the reason names the instances.
    PixelsUnreadable
        Pixels are missing, damaged, too many, or in a transfer syntax that can't be decoded.
    """
    instances, notes = _images(series, limit_bytes)
    slices = [s for instance in instances for s in slices_of(instance)]
    if len({_declares_colour(instance) for instance in instances}) > 1:
        raise GeometryRefused("grey and colour images share one series")
    slices = _without_doubles(slices, notes)
    stack = stack_of(slices, spacing_between=_told_spacing(slices[0]))
    notes += stack.notes
    pixels, unit = _pixels([s.frame for s in stack.slices], notes)
    return Volume(
        series=series,
        pixels=pixels,
        unit=unit,
        frames=tuple(s.frame for s in stack.slices),
        affine=stack.affine,
        spacing_mm=stack.spacing_mm,
        notes=tuple(notes),
    )


def images_of(series: Series, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Volume]:
    """Each image of the series by itself, a frame at a time, by Instance Number.

    `affine` is None without a frame of reference; `spacing_mm` is None when the image is not calibrated, and its first number is the
    slice thickness, or 0 where there is none (a projection). Raises PixelsUnreadable.
    """
    instances, notes = _images(series, limit_bytes)
    for instance in sorted(instances, key=lambda i: (_order(i), i.sop_instance_uid)):
        slices = slices_of(instance)
        decoded = stored_frames(instance, [s.frame.number for s in slices])  # one pass over the file, a frame in memory at a time
        for s, (stored, photometric) in zip(slices, decoded, strict=True):
            yield _image(series, s, _reader_units(stored, instance, s.frame.number, photometric), notes)


def _image(series: Series, s: Slice, plane: Pixels, notes: Sequence[str]) -> Volume:
    mine = list(notes)
    unit = _unit(s.frame.instance.header, s.frame.number, mine)
    affine, thickness = None, s.thickness or 0.0
    spacing = image_spacing(s.frame.instance.header, s.spacing, mine)
    if s.position is not None and s.orientation is not None and s.spacing is not None:
        stack = stack_of([s], spacing_between=_told_spacing(s))
        affine, thickness = stack.affine, stack.spacing_mm[0]
        mine += stack.notes
    return Volume(
        series=series,
        pixels=plane[None],
        unit=unit,
        frames=(s.frame,),
        affine=affine,
        spacing_mm=None if spacing is None else (thickness, *spacing),
        notes=tuple(mine),
    )


def _images(series: Series, limit_bytes: int) -> tuple[list[Instance], list[str]]:
    """The instances with pixels, without localizers among other images; checked against the limit."""
    images = [instance for instance in series.instances if is_image(instance)]
    if not images:
        raise PixelsUnreadable("the series has no images")
    notes: list[str] = []
    scouts = [instance for instance in images if is_localizer(instance)]
    if scouts and len(scouts) < len(images):
        images = [instance for instance in images if not is_localizer(instance)]
        notes.append(f"localizer images were left out: {named(i.sop_instance_uid for i in scouts)}")
    check_declared(images, limit_bytes=limit_bytes)
    return images, notes


def frames_in(series: Series) -> int:
    """How many frames a series has, without localizers."""
    images = [one for one in series.instances if is_image(one) and not is_localizer(one)]
    return sum(max(0, frame_count(one.header)) for one in images)


def is_localizer(instance: Instance) -> bool:
    """Image Type (0008,0008) value 3 LOCALIZER, PS3.3 C.8.2.1.1.1; scouts of some makers say SCOUT."""
    kind = instance.header.get("ImageType") or ()
    values = {str(value).upper() for value in ([kind] if isinstance(kind, str) else kind)}
    return bool(values & {"LOCALIZER", "SCOUT"})


def _without_doubles(slices: Sequence[Slice], notes: list[str]) -> list[Slice]:
    """One slice at a place. The same image twice is dropped with a note; different ones are refused."""
    mosaics = [s.uid for s in slices if "MOSAIC" in [str(v).upper() for v in s.frame.instance.header.get("ImageType") or ()]]
    if mosaics:
        raise GeometryRefused(f"mosaics hold many slices in one image: {named(mosaics)}")
    groups = at_one_place(slices)
    if all(len(group) == 1 for group in groups):
        return [group[0] for group in groups]
    dropped = []
    for group in groups:
        for other in group[1:]:
            if not _same_pixels(group[0].frame, other.frame):
                raise refuse_several(groups)
            dropped.append(other.uid)
    notes.append(f"{len(dropped)} images came twice and were left out: {named(dropped)}")
    return [group[0] for group in groups]


def _same_pixels(one: Frame, other: Frame) -> bool:
    (a, _), (b, _) = next(stored_frames(one.instance, [one.number])), next(stored_frames(other.instance, [other.number]))
    return bool(np.array_equal(a, b))


def _pixels(frames: Sequence[Frame], notes: list[str]) -> tuple[Pixels, str]:
    """(frames, rows, columns[, 3]) in the reader's units, and the unit."""
    wanted: dict[str, list[int]] = {}
    instances: dict[str, Instance] = {}
    for index, frame in enumerate(frames):
        uid = str(frame.instance.sop_instance_uid)
        wanted.setdefault(uid, []).append(index)
        instances[uid] = frame.instance
    header = frames[0].instance.header
    colour = _declares_colour(frames[0].instance)
    shape = (len(frames), int(header.Rows), int(header.Columns))
    out: Pixels = np.empty((*shape, 3), np.uint8) if colour else np.empty(shape, np.float32)

    def fill(uid: str) -> None:
        instance, indices = instances[uid], sorted(wanted[uid], key=lambda index: frames[index].number)
        numbers = [frames[index].number for index in indices]
        decoded = stored_frames(instance, numbers)
        for index, number, (stored, photometric) in zip(indices, numbers, decoded, strict=True):
            out[index] = _reader_units(stored, instance, number, photometric)

    failed: list[PixelsUnreadable] = []

    def guarded(uid: str) -> None:
        try:
            fill(uid)
        except PixelsUnreadable as why:
            failed.append(why)

    threads = threads_for(list(instances.values()))
    if threads == 1:
        for uid in instances:
            guarded(uid)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            list(pool.map(guarded, instances))
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise PixelsUnreadable(f"{failed[0].detail}{more}")
    return out, _unit(header, frames[0].number, notes)


def _reader_units(stored: Pixels, instance: Instance, frame: int, photometric: str) -> Pixels:
    """One frame: float32 (rows, columns) after modality LUT, or uint8 (rows, columns, 3)."""
    header, uid = instance.header, instance.sop_instance_uid
    if stored.shape[:2] != (int(header.Rows), int(header.Columns)):
        raise PixelsUnreadable(f"{uid} decodes to another size than it declares")
    if _declares_colour(instance):
        return rgb_of(stored, header, photometric)
    if stored.ndim == 3:
        raise PixelsUnreadable(f"{uid} decodes to colour but is declared grey")
    return grey_of(stored, header, frame, photometric)


def _declares_colour(instance: Instance) -> bool:
    return is_colour(str(instance.header.get("PhotometricInterpretation", "")))


def _unit(header: Any, frame: int, notes: list[str]) -> str:
    """HU for CT that says how to get there, else 1. PS3.3 C.8.2.1: Rescale Slope and Intercept are required of CT."""
    if str(header.get("Modality", "")) != "CT":
        return "1"
    kind = value_of(header, frame, "PixelValueTransformationSequence", "RescaleType")
    told = value_of(header, frame, "PixelValueTransformationSequence", "RescaleIntercept") is not None
    if not told or str(kind or "HU").upper() not in {"HU", "US"}:
        notes.append("the CT does not say how its values become Hounsfield units")
        return "1"
    return "HU"


def _told_spacing(s: Slice) -> float | None:
    value = number_of(s.frame.instance.header, s.frame.number, "PixelMeasuresSequence", "SpacingBetweenSlices", 0.0)
    return value if value > 0 else None


def _order(instance: Instance) -> int:
    try:
        return int(instance.header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        return 0


__all__ = ["build_volume", "frame_count", "frames_in", "images_of", "is_localizer"]
