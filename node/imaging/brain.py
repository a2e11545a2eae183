"""Where the brain lies: in CT by the skull around it, in MR and PET by a small network. With doubt there is none, and a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy  # which loads ndimage when it is first used
from numpy.typing import NDArray

from node.imaging.patient_grid import STEP_MM, Mask, PatientGrid, grown, largest, millilitres

Network = Callable[[NDArray[np.float32]], Mask]  #: (left, down, front) grid of `CUBE` voxels, 0 to 1 → the brain on it

CUBE = 128  #: voxels of the grid each way that the network sees: 256 mm
BRAIN_ML = (500.0, 2300.0)  #: from an infant's to the largest, with what is cut off at the edge of the picture
BONE_HU, SOFT_HU = 150.0, (-25.0, 120.0)
SKULL_SHARE = 0.8  #: of the directions up and sideways in which a skull is met, and of a brain's surface that lies at bone
AT_BONE_MM = 8.0
HEAD_WIDTH_MM = (100.0, 260.0)  #: of what is in the picture, side to side
NEAR_SKIN_MM = 4.0
MOST_NEAR_SKIN = 0.06  #: of a brain; more is a mask that ran into the scalp
NO_SCALP = 1.25  #: head over brain


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A head on its grid: boolean masks (z, y, x)."""

    head: Mask = field(repr=False)  #: everything inside the skin
    brain: Mask = field(repr=False)

    @property
    def scalp(self) -> bool:
        """There is more than the brain: not so where it was cut out before, or where fat gives no signal."""
        return millilitres(self.head) >= NO_SCALP * millilitres(self.brain)


def head_in_ct(grid: PatientGrid) -> Head | str:
    """The head of a CT in Hounsfield units, or why there is none."""
    bone = grid.values > BONE_HU
    inside = _between_bones(bone)
    core = largest(inside & _within(grid.values, SOFT_HU) & ~scipy.ndimage.binary_dilation(bone, iterations=2))
    if millilitres(core) < BRAIN_ML[0] / 2:
        return "no skull with a brain in it is seen"
    brain = grown(core, 2 * STEP_MM + 1.0) & inside & ~bone
    brain = largest(scipy.ndimage.binary_opening(brain, iterations=2))
    if _share_of_rays_to_bone(brain, bone, grid.values > -300.0) < SKULL_SHARE or _share_at_bone(brain, bone) < SKULL_SHARE:
        return "no closed skull is seen"  # muscle between ribs and spine looks like one from within, and has no bone round it
    head = _solid(grid.values > -300.0)
    return _believed(Head(head=head, brain=brain), touching=True)


def head_by_network(grid: PatientGrid, network: Network) -> Head | str:
    """The head of an MR or PET by a network that marks the brain, or why there is none."""
    head = _solid(_above_noise(grid))
    if not head.any():
        return "nothing but noise is seen"
    width = float(np.ptp(np.flatnonzero(head.any(axis=(0, 1)))) + 1) * STEP_MM
    if not HEAD_WIDTH_MM[0] <= width <= HEAD_WIDTH_MM[1]:
        return "what is seen is not as wide as a head"
    cube, put_back = _cube(grid, head)
    brain = put_back(network(cube)) & head
    brain = largest(scipy.ndimage.binary_opening(brain, iterations=3))
    brain = scipy.ndimage.binary_fill_holes(brain)
    return _believed(Head(head=head, brain=brain), touching=False)


def _believed(found: Head, *, touching: bool) -> Head | str:
    """The head when its brain is as large as a brain, as round as one, and lies below a skin; else why not."""
    brain, size = found.brain, millilitres(found.brain)
    if not BRAIN_ML[0] <= size <= BRAIN_ML[1]:
        return "what looks like a brain has not its size"
    box = [np.ptp(where) + 1 for where in np.nonzero(brain)]
    high, long, wide = (float(n) * STEP_MM for n in box)
    if not (40.0 <= high <= 220.0 and 90.0 <= long <= 230.0 and 80.0 <= wide <= 190.0) or brain.sum() < 0.33 * np.prod(box):
        return "what looks like a brain has not its shape"
    if touching or not found.scalp:
        return found
    within = scipy.ndimage.distance_transform_edt(np.pad(found.head, ((0, 0), (1, 1), (1, 1))), sampling=STEP_MM)[:, 1:-1, 1:-1]
    if float((within[brain] <= NEAR_SKIN_MM).mean()) > MOST_NEAR_SKIN:
        return "what looks like a brain reaches the skin"
    return found


# --- what is body ---------------------------------------------------------------------------------------------------------
def _above_noise(grid: PatientGrid) -> Mask:
    """Brighter than the air: well above the darkest part of the picture's own range."""
    smooth = scipy.ndimage.uniform_filter(grid.values, 3)
    seen = smooth[grid.covered]
    low, high = (float(v) for v in np.percentile(seen, [1, 99]))
    if high <= low:
        return np.zeros(grid.values.shape, bool)
    counts, edges = np.histogram(np.clip((seen - low) / (high - low), 0, 1), bins=128)
    return np.asarray((smooth > low + (high - low) * max(0.06, min(0.3, _valley(counts, edges)))) & grid.covered)


def _valley(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> float:
    """Half of Otsu's threshold between air and tissue: skin is darker than brain."""
    share = counts / max(1, counts.sum())
    centre = (edges[:-1] + edges[1:]) / 2
    below, mass = np.cumsum(share), np.cumsum(share * centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below - mass) ** 2 / (below * (1 - below))
    return float(centre[int(np.nanargmax(between))]) / 2 if np.isfinite(between).any() else 0.1


def _solid(tissue: Mask) -> Mask:
    """The largest part, without what is thin, and closed in every plane."""
    body = largest(scipy.ndimage.binary_opening(tissue))
    body = scipy.ndimage.binary_closing(np.pad(body, 5), iterations=4)[5:-5, 5:-5, 5:-5]
    for axis in (0, 1, 2):
        for plane in np.moveaxis(body, axis, 0):
            plane[...] = scipy.ndimage.binary_fill_holes(plane)
    return np.asarray(body)


# --- CT -------------------------------------------------------------------------------------------------------------------
def _between_bones(bone: Mask) -> Mask:
    """Bone to the left, to the right, before and behind."""
    out = np.ones(bone.shape, bool)
    for axis in (1, 2):
        out &= np.logical_or.accumulate(bone, axis=axis)
        out &= np.flip(np.logical_or.accumulate(np.flip(bone, axis), axis=axis), axis)
    return out


def _within(values: NDArray[np.float32], limits: tuple[float, float]) -> Mask:
    return np.asarray((values > limits[0]) & (values < limits[1]))


def _share_of_rays_to_bone(brain: Mask, bone: Mask, dense: Mask) -> float:
    """Of rays from the brain's middle, sideways and up: how many meet bone before they meet air. Those that leave the picture don't count."""
    if not brain.any():
        return 0.0
    centre = np.array([where.mean() for where in np.nonzero(brain)])
    around = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    hit = missed = 0
    for up in np.radians([0, 10, 20, 30, 40, 50, 60, 70, 80]):
        for turn in around[:: 1 if up < 1.0 else 3]:
            direction = np.array([np.sin(up), np.cos(up) * np.sin(turn), np.cos(up) * np.cos(turn)])
            path = np.rint(centre + np.arange(1, 90)[:, None] * direction).astype(int)
            path = path[((path >= 0) & (path < bone.shape)).all(axis=1)]
            where = tuple(path.T)
            bones, airs = np.flatnonzero(bone[where]), np.flatnonzero(~dense[where])
            if bones.size and (not airs.size or bones[0] < airs[0]):
                hit += 1
            elif airs.size:
                missed += 1
    return hit / (hit + missed) if hit + missed > 40 else 0.0


def _share_at_bone(brain: Mask, bone: Mask) -> float:
    """How much of the surface of the brain's upper half lies at bone."""
    surface = brain & ~scipy.ndimage.binary_erosion(brain, border_value=1)
    surface[: int(np.nonzero(brain)[0].mean())] = False
    return float((scipy.ndimage.binary_dilation(bone, iterations=round(AT_BONE_MM / STEP_MM)) & surface).sum()) / max(1, int(surface.sum()))


# --- MR -------------------------------------------------------------------------------------------------------------------
def _cube(grid: PatientGrid, head: Mask) -> tuple[NDArray[np.float32], Callable[[Mask], Mask]]:
    """What the network sees, from the top of the head down, and the way of its answer back to the grid."""
    top = int(np.flatnonzero(head.any(axis=(1, 2)))[-1])
    middle = [int((where[0] + where[-1]) // 2) for where in (np.flatnonzero(head.any(axis=axes)) for axes in ((0, 2), (0, 1)))]
    start = np.array([top + 8 - CUBE, middle[0] - CUBE // 2, middle[1] - CUBE // 2])
    low = np.maximum(start, 0)
    high = np.minimum(start + CUBE, grid.values.shape)
    there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    dark, bright = (float(v) for v in np.percentile(grid.values[there], [2, 98]))
    cube = np.zeros((CUBE, CUBE, CUBE), np.float32)
    cube[here] = np.clip((grid.values[there] - dark) / max(bright - dark, 1e-6), 0.0, 1.0)

    def put_back(answer: Mask) -> Mask:
        out = np.zeros(grid.values.shape, bool)
        out[there] = answer[:, ::-1, ::-1].transpose(1, 2, 0)[here]
        return out

    return np.ascontiguousarray(cube.transpose(2, 0, 1)[:, ::-1, ::-1]), put_back


__all__ = ["BRAIN_ML", "CUBE", "Head", "Network", "head_by_network", "head_in_ct"]
