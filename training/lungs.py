"""Where the lungs are on a whole film, by the lung network of `models/lung_field`: recipes for chest films look through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from node.bundle import Bundle, bundles_in
from node.imaging.radiograph import Radiograph, lungs_of, radiograph_of

MODELS = Path(__file__).parents[1] / "models"

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def lung_bundle() -> Bundle:
    """The newest bundle of `lung_field`. Raises FileNotFoundError when there is none yet."""
    found = list(bundles_in(MODELS / "lung_field"))
    if not found:
        raise FileNotFoundError("models/lung_field holds no bundle: train and export lung_field first")
    return Bundle.open(found[-1])


def beside(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a network called `name`, and those of the lung network, as one bundle of stages holds them."""
    lungs = lung_bundle().module().state_dict()
    return {f"{name}.{key}": value for key, value in state.items()} | {f"lungs.{key}": value for key, value in lungs.items()}


def found_in(grey: Picture, network: Any) -> tuple[Picture, Mask]:
    """A film at working size and its lungs; no pixel of lungs where none are believed."""
    film = radiograph_of(grey)
    if not isinstance(film, Radiograph):
        return grey, np.zeros(grey.shape, bool)
    lungs = lungs_of(film, network)
    return film.grey, np.zeros(film.grey.shape, bool) if isinstance(lungs, str) else lungs.both
