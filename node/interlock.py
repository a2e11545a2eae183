"""What keeps a model to its intended use when the header's words lie: the picture itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node import log
from node.bundle import Bundle, bundles_in
from node.domain import Result
from node.errors import BundleInvalid, NodeError, OutsideIntendedUse
from node.imaging.facing import Facing
from node.imaging.likeness import Likeness
from node.imaging.scan_region import named_tissue
from node.imaging.shown import as_shown
from node.imaging.spacing import squared, squared_aspect
from node.imaging.volume import Volume

_log = log.get(__name__)

KINDS = "picture_kinds"  #: the bundle that knows what pictures look like
PLANES_LOOKED_AT = 7
MIDDLE = (0.2, 0.8)  #: of a volume's slices: its ends show little
UNCHECKED = "Whether these pictures are of the kind that the model was made for could not be checked: no bundle picture_kinds is installed."


class Interlock:
    """Asked before a model reads a picture."""

    def __init__(self, bundles_dir: Path) -> None:
        self._bundles_dir = bundles_dir

    def check(self, bundle: Bundle, volume: Volume) -> Result:
        """What is to be said of the pictures beside the model's findings: an empty Result with facts and notes.

        Raises
        ------
        OutsideIntendedUse
            When they do not look like what the model was made for.
        """
        kind = bundle.intended_use.get("picture")
        if kind is None:
            return Result(analysed=True)
        likeness = self._likeness()
        if likeness is None or kind not in likeness.kinds:
            return Result(analysed=True, notes=(UNCHECKED,))
        planes = _planes(volume)
        if all(plane.min() == plane.max() for plane in planes):
            raise OutsideIntendedUse("the image has the same value everywhere, so there is nothing to be seen on it")
        judged = likeness.judge(planes, str(kind))
        if judged.refusal:
            raise OutsideIntendedUse(judged.refusal)
        return Result(analysed=True, facts={"picture_kind": kind, "picture_distance": round(judged.distance, 3)})

    def _likeness(self) -> Likeness | None:
        folders = list(bundles_in(self._bundles_dir / KINDS))
        return _opened(folders[-1]) if folders else None


@cache
def _opened(folder: Path) -> Likeness | None:
    """The kinds in `folder`, read once a process; None when they are damaged, which is said in the log."""
    try:
        bundle = Bundle.open(folder)
        arrays = {name: tensor.float().numpy() for name, tensor in bundle.tensors().items()}
        try:
            return Likeness.of(arrays, bundle.thresholds)
        except KeyError as missing:
            raise BundleInvalid(f"the kinds of pictures lack {missing}", bundle=folder.name) from None
    except NodeError:
        _log.warning("the kinds of pictures can't be read", extra={"bundle": f"{folder.parent.name}/{folder.name}"}, exc_info=True)
        return None


def _planes(volume: Volume) -> list[NDArray[Any]]:
    """A few pictures of the middle as a reader sees them: upright, pixels square; a projection through its own VOI LUT, tissue without its screen."""
    count = volume.pixels.shape[0]
    first, last = (round(share * (count - 1)) for share in MIDDLE)
    chosen = np.unique(np.linspace(first, last, min(PLANES_LOOKED_AT, last - first + 1)).round().astype(int))
    facing = Facing.of_volume(volume)
    aspect = squared_aspect(volume.frames[0].instance.header, volume.pixel_spacing_mm)
    planes = [
        _tissue(as_shown(volume, int(z)), volume.frames[z].instance.header) if volume.affine is None else volume.pixels[z] for z in chosen
    ]
    return [facing.turn(squared(plane, aspect)) for plane in planes]


def _tissue(plane: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """An ultrasound picture without the screen around it, where the machine says what is tissue; anything else as it is."""
    for _, box in named_tissue(header, plane.shape)[:1]:
        return plane[box.top : box.bottom, box.left : box.right]
    return plane
