"""What a job's result has to show: slices in order, windows, edges, segments, captures. Opened from headers; pixels are read one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from node import codes
from node.domain import Instance, Job, WrittenObject
from node.errors import GeometryRefused, PixelsUnreadable
from node.imaging.build import is_localizer
from node.imaging.decode import LIMIT_BYTES, check_declared, frame_count, is_image, stored_frames, whole
from node.imaging.functional import numbers_of, value_of
from node.imaging.order import at_one_place, slices_of
from node.imaging.rescale import grey_of, is_colour, rgb_of
from node.imaging.spacing import image_spacing, pixel_aspect
from node.imaging.study import instance_path
from node.imaging.volume import Frame
from node.viewing.overlays import Layer, Overlays, open_overlays, painted
from node.viewing.windows import SAMPLES, Window, as_grey, titles, windows_of

Pixels = NDArray[Any]
MOST_SLICES = 5000
LUNGS = {codes.LUNG.meaning, codes.CHEST.meaning}
SEGMENTATIONS = ("SEG", "SEG-LABELMAP", "SEG-FRACTIONAL")  #: kinds of objects; the first one that is there is shown
_OPPOSITE = dict(zip("LRAPHF", "RLPAFH", strict=True))


@dataclass(frozen=True, slots=True)
class Film:
    """The result of one job, ready to be looked at. Every index counts from 0."""

    frames: tuple[Frame, ...] = field(repr=False)
    windows: dict[str, Window]  #: empty for colour; the first one is to begin with
    edges: tuple[str, str, str, str]  #: letters of PS3.3 C.7.6.1.1.1 at left, right, top and bottom; empty where nothing is known
    aspect: float  #: height of a pixel by its width
    overlays: Overlays | None
    captures: tuple[int | None, ...]  #: frames of the Secondary Capture, and the slice that each shows
    capture: Instance | None = field(repr=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The segments that show anywhere."""
        return self.overlays.layers if self.overlays else ()

    @property
    def keys(self) -> tuple[int, ...]:
        """Slices worth a look, in the order of the slices: those of the captures, else one for each segment, in its middle."""
        shown = {at for at in self.captures if at is not None}
        return tuple(sorted(shown or {layer.slices[len(layer.slices) // 2] for layer in self.layers}))

    def described(self) -> dict[str, Any]:
        """For a page, in JSON values."""
        first = next((at for at in self.captures if at is not None), None)
        return {
            "slices": len(self.frames),
            "first": first if first is not None else (self.keys[0] if self.keys else len(self.frames) // 2),
            "keys": list(self.keys),
            "aspect": self.aspect,
            "edges": list(self.edges),
            "windows": titles(self.windows),
            "segments": [
                {
                    "number": layer.number,
                    "label": layer.label,
                    "color": "#{:02x}{:02x}{:02x}".format(*layer.color),
                    "slices": list(layer.slices),
                }
                for layer in self.layers
            ],
            "captures": list(self.captures),
        }

    # --- pictures -----------------------------------------------------------------------------------------------------------
    def slice_png(self, at: int, window: str = "") -> bytes:
        """One slice as PNG, pixel for pixel. Raises IndexError, KeyError, PixelsUnreadable."""
        frame = _at(self.frames, at)
        pixels = _reader_units(frame)
        if pixels.ndim == 3:
            return png(pixels)
        return png(as_grey(pixels, self.windows[window] if window else next(iter(self.windows.values()))))

    def segment_png(self, segment: int, at: int) -> bytes:
        """One segment on one slice as PNG with an alpha channel, on the slice's own pixels. Raises KeyError where it has nothing."""
        layer = {one.number: one for one in self.layers}[segment]
        mask = self.overlays.mask(segment, at) if self.overlays else None
        if mask is None:
            raise KeyError(at)
        return png(painted(mask, layer.color))

    def capture_png(self, number: int) -> bytes:
        """One frame of the Secondary Capture as PNG. Raises IndexError, PixelsUnreadable."""
        _at(self.captures, number)
        assert self.capture
        stored, photometric = next(stored_frames(self.capture, [number + 1]))
        return png(rgb_of(stored, self.capture.header, photometric))


def open_film(job: Job, objects: Collection[WrittenObject], sites: Collection[str] = ()) -> Film:
    """Open the images that a job was made for, and what it wrote.

    `sites` are the meanings of its findings' sites: lungs are shown in a lung window. Raises PixelsUnreadable when an image is gone or
    nothing is an image.
    """
    frames = in_order([one for uid in job.inputs if (one := _instance(job.folder, job.route.series, uid)) is not None])
    first = frames[0]
    header = first.instance.header
    where = {(str(frame.instance.sop_instance_uid), frame.number): at for at, frame in enumerate(frames)}
    paths = {str(written.role): written.path for written in objects}
    seg = next((paths[kind] for kind in SEGMENTATIONS if kind in paths), None)
    capture = Instance(header=dcmread(paths["SC"], stop_before_pixels=True), path=paths["SC"]) if "SC" in paths else None
    grey = not is_colour(str(header.get("PhotometricInterpretation", "")))
    spacing = numbers_of(header, first.number, "PixelMeasuresSequence", "PixelSpacing", 2)
    return Film(
        frames=frames,
        windows=windows_of(header, first.number, _unit(header), lambda: _sampled(frames), lungs=not LUNGS.isdisjoint(sites))
        if grey
        else {},
        edges=edges_of(header, first.number),
        aspect=pixel_aspect(header, image_spacing(header, None if spacing is None else (spacing[0], spacing[1]), [])),
        overlays=open_overlays(seg, where) if seg else None,
        captures=_captured(capture.header, where) if capture else (),
        capture=capture,
    )


def in_order(instances: Sequence[Instance]) -> tuple[Frame, ...]:
    """Every frame along the normal of the slices; by Instance Number where they are no stack. Raises PixelsUnreadable."""
    images = [instance for instance in instances if is_image(instance)]
    images = [instance for instance in images if not is_localizer(instance)] or images
    if not images:
        raise PixelsUnreadable("the series has no images")
    if sum(frame_count(instance.header) for instance in images) > MOST_SLICES:
        raise PixelsUnreadable(f"the series has more than {MOST_SLICES} slices; look at it in a viewer")
    by_number = sorted(images, key=lambda i: (whole(i.header, "InstanceNumber"), i.sop_instance_uid))
    slices = [one for instance in by_number for one in slices_of(instance)]
    try:
        return tuple(one.frame for place in at_one_place(slices) for one in place)
    except GeometryRefused:
        return tuple(one.frame for one in slices)


def edges_of(header: Dataset, frame: int) -> tuple[str, str, str, str]:
    """Which side of the patient lies at the picture's left, right, top and bottom: of Image or of Patient Orientation."""
    cosines = numbers_of(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    if cosines is not None:
        right, bottom = (_letter(direction) for direction in cosines.reshape(2, 3))
    else:
        told = value_of(header, frame, "", "PatientOrientation")
        if told is None or isinstance(told, str) or len(told) != 2:
            return "", "", "", ""
        right, bottom = (str(one)[:1].upper() for one in told)
    return _OPPOSITE.get(right, ""), right if right in _OPPOSITE else "", _OPPOSITE.get(bottom, ""), bottom if bottom in _OPPOSITE else ""


def png(pixels: Pixels) -> bytes:
    """Grey, RGB or RGBA bytes as PNG: quickly rather than small."""
    swapped = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(swapped), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise PixelsUnreadable("the picture can't be written as PNG")
    return bytes(encoded)


# --- below --------------------------------------------------------------------------------------------------------------------
def _instance(folder: Path, series: str, uid: str) -> Instance | None:
    """None: it is of another series, which the model read beside this one."""
    path = instance_path(folder, series, uid)
    if not path.exists() and any(folder.glob(f"*/{path.name}")):
        return None
    try:
        return Instance(header=dcmread(path, stop_before_pixels=True), path=path)
    except OSError:
        raise PixelsUnreadable(f"the file of {uid} is gone") from None


def _reader_units(frame: Frame) -> Pixels:
    """(rows, columns) after the modality LUT, or (rows, columns, 3) RGB."""
    instance = frame.instance
    check_declared([instance], limit_bytes=LIMIT_BYTES)
    stored, photometric = next(stored_frames(instance, [frame.number]))
    if stored.ndim == 3 or photometric == "PALETTE COLOR":
        return rgb_of(stored, instance.header, photometric)
    return grey_of(stored, instance.header, frame.number, photometric)


def _sampled(frames: Sequence[Frame]) -> list[Pixels]:
    at = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(SAMPLES, len(frames)))})
    return [_reader_units(frames[i]) for i in at]


def _unit(header: Dataset) -> str:
    told = "RescaleIntercept" in header or "SharedFunctionalGroupsSequence" in header
    return "HU" if header.get("Modality") == "CT" and told else "1"


def _captured(header: Dataset, where: dict[tuple[str, int], int]) -> tuple[int | None, ...]:
    """The slice of each frame of the capture: Source Image Sequence names them in that order."""
    found = [
        where.get((str(item.ReferencedSOPInstanceUID), whole(item, "ReferencedFrameNumber", 1)))
        for item in header.get("SourceImageSequence") or ()
    ]
    count = frame_count(header)
    return tuple([*found, *[None] * count][:count])


def _letter(direction: NDArray[np.float64]) -> str:
    """Patient Orientation (PS3.3 C.7.6.1.1.1) of a direction in LPS."""
    axis = int(np.abs(direction).argmax())
    return "LPH"[axis] if direction[axis] > 0 else "RAF"[axis]


def _at(items: Sequence[Any], index: int) -> Any:
    if index < 0:
        raise IndexError(index)
    return items[index]
