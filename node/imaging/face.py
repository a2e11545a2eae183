"""Which voxels show the face: everything before and below the planes that touch the brain from there; and the ears, beside it.

A plane that is turned about the axis from ear to ear and pushed against the brain touches it between the frontal lobe and the brain stem.
Brow, eyes, nose, mouth and jaw lie beyond such planes, the brain never does. It holds for any head, however it is tilted or turned a little,
needs no atlas, and can't run into the brain where a picture is poor. Ears are found the same way, with planes that touch the brain from the sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from node.imaging.patient_grid import STEP_MM, Mask, grown

MARGIN_MM = 5.0  #: around the brain that is never touched
TILTS_DEG = (35.0, 65.0)  #: of the planes' normals, from straight ahead downwards; a head that nods moves within them
BACK = 0.45  #: of the brain's length from its front: the face does not reach behind
DOWN_MM = 150.0  #: below the lowest frontal lobe: where the chin ends and the neck begins
FRONT_MM = 25.0  #: of the brain's length that counts as frontal lobe
EARS_ALONG = (0.4, 0.75)  #: of the brain's length from its front
EARS_MM = (-75.0, 40.0)  #: from the lowest frontal lobe, which is about as high as the brow: from below the lobes to above the rims
ROLLS_DEG = (-8.0, 8.0)  #: of the planes at the sides, from upright; a head that leans to a shoulder moves within them


def face_of(brain: Mask, *, margin_mm: float = MARGIN_MM) -> Mask:
    """The face, and the air before it.

    Parameters
    ----------
    brain : boolean array (z, y, x) on a `PatientGrid`; not empty
    margin_mm : kept around the brain

    Returns
    -------
    boolean array of the same shape; no voxel of it lies within `margin_mm` of the brain
    """
    kept = grown(brain, margin_mm)
    z, y, front, back, base = _profile(kept)
    seen = kept.any(axis=2)
    height, depth = np.arange(brain.shape[0])[:, None], np.arange(brain.shape[1])[None, :]
    beyond = np.zeros(seen.shape, bool)
    for tilt in np.radians(np.linspace(*TILTS_DEG, 13)):
        beyond |= _ahead(height, depth, tilt) > _ahead(z, y, tilt).max()
    beyond &= (depth < front + BACK * (back - front)) & (height > base - DOWN_MM / STEP_MM)
    return np.asarray(np.broadcast_to(beyond[:, :, None], brain.shape) & ~kept)


def ears_of(brain: Mask, *, margin_mm: float = MARGIN_MM) -> Mask:
    """The ears, and what else lies beside the brain at their height and depth: skin, and bone as far as it is outside of the margin.

    Parameters and what is returned: as `face_of`.
    """
    kept = grown(brain, margin_mm)
    _, _, front, back, base = _profile(kept)
    low, high = (max(0, base + round(mm / STEP_MM)) for mm in EARS_MM)
    near, far = (front + round(share * (back - front)) for share in EARS_ALONG)
    z, x = np.nonzero(kept[low:high, near:far].any(axis=1))
    height, across = np.arange(high - low)[:, None], np.arange(brain.shape[2])[None, :]
    beside = np.zeros((high - low, brain.shape[2]), bool)
    for roll in np.radians(np.linspace(*ROLLS_DEG, 7)) if z.size else ():
        for side in (-1, 1):
            beside |= _ahead(height, -side * across, roll) > _ahead(z, -side * x, roll).max()
    ears = np.zeros(brain.shape, bool)
    ears[low:high, near:far] = beside[: ears[low:high].shape[0], None, :]
    return np.asarray(ears & ~kept)


def _profile(kept: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int, int]:
    """The outline from the side (heights, depths), where it begins and ends from front to back, and how low its front lies."""
    z, y = np.nonzero(kept.any(axis=2))
    front, back = int(y.min()), int(y.max())
    return z, y, front, back, int(z[y < front + FRONT_MM / STEP_MM].min())


def _ahead(height: NDArray[np.int64], depth: NDArray[np.int64], tilt: float) -> NDArray[np.float64]:
    """How far ahead and down, in voxels, along a normal that points `tilt` below straight ahead."""
    return np.asarray(-depth * np.cos(tilt) - height * np.sin(tilt))
