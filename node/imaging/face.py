"""Which voxels show the face: everything before and below the planes that touch the brain from there.

A plane that is turned about the axis from ear to ear and pushed against the brain touches it between the frontal lobe and the brain stem.
Brow, eyes, nose, mouth and jaw lie beyond such planes, the brain never does. It holds for any head, however it is tilted or turned a little,
needs no atlas, and can't run into the brain where a picture is poor.
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
    seen = kept.any(axis=2)  # the outline from the side, (z, y)
    z, y = np.nonzero(seen)
    front, back = int(y.min()), int(y.max())
    base = int(z[y < front + FRONT_MM / STEP_MM].min())
    height, depth = np.arange(brain.shape[0])[:, None], np.arange(brain.shape[1])[None, :]
    beyond = np.zeros(seen.shape, bool)
    for tilt in np.radians(np.linspace(*TILTS_DEG, 13)):
        beyond |= _ahead(height, depth, tilt) > _ahead(z, y, tilt).max()
    beyond &= (depth < front + BACK * (back - front)) & (height > base - DOWN_MM / STEP_MM)
    return np.asarray(np.broadcast_to(beyond[:, :, None], brain.shape) & ~kept)


def _ahead(height: NDArray[np.int64], depth: NDArray[np.int64], tilt: float) -> NDArray[np.float64]:
    """How far ahead and down, in voxels, along a normal that points `tilt` below straight ahead."""
    return np.asarray(-depth * np.cos(tilt) - height * np.sin(tilt))
