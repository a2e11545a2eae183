"""Faces leave a clean study before anyone sees it: series by series, the brain untouched, or the study is refused. PS3.15 E.3.2.

The files are clean already and still lie where nobody looks (`Deidentifier`'s draft, the folders' staging place).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from node.bundle import Bundle
from node.codes import Code
from node.domain import CleanUid, Instance
from node.errors import GeometryRefused, NotAnalysed, PixelsUnreadable, RecognizableFeatures
from node.identified.clean_file import check_paintable, repainted
from node.identified.faces import MODALITIES, SLAB_MM, Choice, Told, said_clean, told
from node.imaging.brain import Head, Network, head_by_network, head_in_ct
from node.imaging.build import is_localizer
from node.imaging.decode import is_image, stored_frames
from node.imaging.face import ears_of, face_of
from node.imaging.functional import number_of
from node.imaging.order import Slice, Stack, at_one_place, slices_of, stack_of
from node.imaging.patient_grid import Mask, PatientGrid, grid_of, millilitres
from node.imaging.rescale import grey_of, stored_range

METHOD = Code("113102", "DCM", "Clean Recognizable Visual Features Option")
AIR_HU = -1000.0
SMALLEST_FACE_ML = 15.0  #: of what lies before and below the brain; less is no face that could have been taken out
GAP_MM = 12.0  #: between slices; what lies wider apart is no volume
SHOWS_MM = 80.0  #: of a volume each way; a head that is in it is seen
WHAT_HELPS = {
    Told.HEAD: "leave the series out, or send the study to a node that may keep faces",
    Told.SILENT: "nothing says which part of the body it is: set Body Part Examined at the source",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """What was done to one series, in words without values."""

    series: CleanUid
    done: str  #: "untouched", "defaced" or "left out"
    reason: str
    painted: tuple[Path, ...] = field(default=(), repr=False)  #: files with new pixels
    left_out: tuple[tuple[Path, Instance], ...] = field(default=(), repr=False)  #: to be taken away by the caller


class Faces:
    """Finds faces, and takes them out or refuses them.

    Parameters
    ----------
    choice
        `keep` looks at nothing; `refuse` refuses a study that shows a face; `deface` takes the face out.
    bundle
        The folder of the network that finds brains in MR and PET; opened when the first one comes.
    """

    def __init__(self, choice: Choice = "keep", bundle: Path | None = None) -> None:
        self.choice: Choice = choice
        self.bundle = bundle

    @property
    def on(self) -> bool:
        return self.choice != "keep"

    def treat(self, files: Sequence[Path]) -> list[Treated]:
        """Every series among the clean files, rewritten in place where it shows a face.

        Raises
        ------
        RecognizableFeatures
            With the reason and the clean UID of the series: a face is there and may not be, or can't be taken out.
        """
        return (
            [self._series(list(members)) for _, members in groupby(sorted(_read(files), key=_series_of), key=_series_of)] if self.on else []
        )

    def _series(self, instances: list[Instance]) -> Treated:
        header, uid = instances[0].header, CleanUid(_series_of(instances[0]))
        images = [instance for instance in instances if is_image(instance) and not said_clean(instance.header)]
        modality = str(header.get("Modality", ""))
        part = Told.HEAD if any(told(image.header) is Told.HEAD for image in images) else told(header)
        flagged = any(str(image.header.get("RecognizableVisualFeatures") or "").strip().upper() == "YES" for image in images)
        if not images:
            return Treated(series=uid, done="untouched", reason="it holds no image, or says that it shows no recognizable features")
        if modality not in MODALITIES:
            if flagged:
                raise RecognizableFeatures("Recognizable Visual Features is YES, and such images can't be defaced", series=uid)
            return Treated(series=uid, done="untouched", reason="no volume that shows a face")
        scouts = [] if part is Told.OTHER else [image for image in images if is_localizer(image)]
        images = [image for image in images if image not in scouts]
        if scouts and self.choice == "refuse":
            raise RecognizableFeatures("a localizer of a head shows its profile", series=uid)
        out = tuple((scout.path, scout) for scout in scouts)
        if not images:
            return Treated(series=uid, done="left out", reason="a localizer may show a profile", left_out=out)
        try:
            face = self._face(images, modality, part, flagged)
        except NotAnalysed as why:
            raise RecognizableFeatures(f"it can't be defaced: {why.detail or why.message}", series=uid) from None
        if isinstance(face, str):
            return Treated(series=uid, done="untouched", reason=face, left_out=out)
        if self.choice == "refuse":
            raise RecognizableFeatures("a head with its face is seen", series=uid)
        try:
            painted = tuple(face.paint(images))
        except NotAnalysed as why:
            raise RecognizableFeatures(f"it can't be defaced: {why.detail or why.message}", series=uid) from None
        return Treated(
            series=uid,
            done="defaced",
            reason="the face before and below the brain and the ears beside it were taken out",
            painted=painted,
            left_out=out,
        )

    def _face(self, images: list[Instance], modality: str, part: Told, flagged: bool) -> _Face | str:
        """The face to take out, or why there is none. Raises NotAnalysed when there may be one that can't be found."""
        if part is Told.OTHER and modality != "CT":
            return "the header names another part of the body"
        try:
            stack = _stack(images)
            if not flagged and _thin(stack):
                return "a transverse slab too thin to show a face"
            if part is not Told.OTHER and (_least_mm(stack) < SLAB_MM or stack.spacing_mm[0] > GAP_MM):
                raise GeometryRefused(f"the slices are too few or too far apart to find the brain that must stay; {WHAT_HELPS[part]}")
            grid = grid_of(stack, _Planes(stack))
        except NotAnalysed:
            if part is Told.OTHER:
                return "the header names another part of the body"
            raise
        head = head_in_ct(grid) if modality == "CT" else head_by_network(grid, self._network)
        if isinstance(head, str):
            if part is Told.HEAD or (part is Told.SILENT and _least_mm(stack) < SHOWS_MM):
                raise GeometryRefused(f"the brain that must stay is not found with confidence ({head}); {WHAT_HELPS[part]}")
            return "no head is seen"
        for image in images:
            check_paintable(image)
        return _face_at(grid, head, modality)

    @property
    def _network(self) -> Network:
        if self.bundle is None:
            raise PixelsUnreadable("no model that finds brains is installed: models/brain_mask")
        return _network(self.bundle)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Face:
    """Where a face is, and what takes its place."""

    grid: PatientGrid
    face: Mask
    background: float  #: in the reader's units

    def paint(self, images: Sequence[Instance]) -> Iterator[Path]:
        """Write every image again without the face; those in which a pixel changed."""
        for image in images:
            slices = {s.frame.number: s for s in slices_of(image)}

            def paint(number: int, image: Instance = image, slices: dict[int, Slice] = slices) -> tuple[Mask, int]:
                return self.grid.spread(self.face, slices[number]), _stored(self.background, image, number)

            instance, changed = repainted(image, paint, method=METHOD)
            draft = image.path.with_suffix(".new")
            with draft.open("wb", buffering=1 << 20) as file:
                file.writelines(instance.file())
            draft.replace(image.path)
            if changed:
                yield image.path


def _face_at(grid: PatientGrid, head: Head, modality: str) -> _Face:
    face = face_of(head.brain)
    if head.scalp and millilitres(face & head.head) < SMALLEST_FACE_ML:
        raise GeometryRefused("nothing of a face is seen before and below the brain; look at the pictures")
    around = grid.values[grid.covered & ~head.head]
    background = AIR_HU if modality == "CT" else float(np.median(around)) if around.size else float(grid.values.min())
    return _Face(grid=grid, face=face | ears_of(head.brain), background=background)


def _stack(images: Sequence[Instance]) -> Stack:
    """One volume of the series: where several images lie at one place, the first of them."""
    if any("MOSAIC" in [str(v).upper() for v in image.header.get("ImageType") or ()] for image in images):
        raise GeometryRefused("mosaics hold many slices in one image")
    slices = [s for image in images for s in slices_of(image)]
    return stack_of([group[0] for group in at_one_place(slices)])


def _thin(stack: Stack) -> bool:
    transverse = abs(float(stack.slices[0].normal[2])) > 0.7
    return transverse and stack.spacing_mm[0] * len(stack.slices) < SLAB_MM


def _least_mm(stack: Stack) -> float:
    """The shortest side of what the stack covers."""
    counts = (len(stack.slices), *stack.slices[0].shape)
    return min(n * mm for n, mm in zip(counts, stack.spacing_mm, strict=True))


class _Planes:
    """The slices of a stack in the reader's units. The frames of one instance are decoded in one pass."""

    def __init__(self, stack: Stack) -> None:
        self._wanted: dict[Path, list[int]] = {}
        self._decoded: dict[tuple[Path, int], NDArray[np.float32]] = {}
        for s in stack.slices:
            self._wanted.setdefault(s.frame.instance.path, []).append(s.frame.number)

    def __call__(self, s: Slice) -> NDArray[np.float32]:
        instance, number = s.frame.instance, s.frame.number
        if (instance.path, number) not in self._decoded:
            self._decoded.clear()
            numbers = sorted(self._wanted[instance.path])
            for n, (stored, photometric) in zip(numbers, stored_frames(instance, numbers), strict=True):
                if stored.ndim != 2 or stored.shape != s.shape:
                    raise PixelsUnreadable(f"{s.uid} decodes to another size or to colour")
                self._decoded[instance.path, n] = grey_of(stored, instance.header, n, photometric)
        return self._decoded.pop((instance.path, number))


def _stored(value: float, image: Instance, frame: int) -> int:
    """A value in the reader's units as this frame stores it, within what it can store (`grey_of` the other way)."""
    macro = "PixelValueTransformationSequence"
    slope = number_of(image.header, frame, macro, "RescaleSlope", 1.0) or 1.0
    intercept = number_of(image.header, frame, macro, "RescaleIntercept", 0.0)
    low, high = stored_range(image.header)
    if str(image.header.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        value = slope * (low + high) + 2.0 * intercept - value
    return int(np.clip(round((value - intercept) / slope), low, high))


def _read(files: Sequence[Path]) -> Iterator[Instance]:
    for path in sorted(files):
        yield Instance(header=dcmread(path, stop_before_pixels=True), path=path)


def _series_of(instance: Instance) -> str:
    return str(instance.header.get("SeriesInstanceUID", ""))


@lru_cache(maxsize=1)
def _network(folder: Path) -> Network:
    """The brain network of a bundle."""
    import torch

    module: Any = Bundle.open(folder).module()

    def network(cube: NDArray[np.float32]) -> Mask:
        with torch.inference_mode():
            logits = module(torch.from_numpy(cube)[None, None])[0]
        return np.asarray((logits[1] > logits[0]).numpy())

    return network


__all__ = ["METHOD", "Faces", "Treated"]
