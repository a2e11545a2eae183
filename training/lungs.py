"""Where the lungs are on a whole film, by the lung network that is shipped with `covid_xray`: other recipes look through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from node.bundle import Bundle, bundles_in
from node.imaging.radiograph import Radiograph, lungs_of, radiograph_of

MODELS = Path(__file__).parents[1] / "models"
STAGE = "lungs"

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def shipped() -> Bundle:
    """The newest bundle of `covid_xray`. Raises FileNotFoundError when there is none yet."""
    found = list(bundles_in(MODELS / "covid_xray"))
    if not found:
        raise FileNotFoundError("models/covid_xray holds no bundle: train and export it first, its lung network is used here")
    return Bundle.open(found[-1])


def definition() -> dict[str, Any]:
    """The lung network as it stands in a `network_def`."""
    stage: dict[str, Any] = shipped().inference["network_def"][STAGE]
    return stage


def weights() -> dict[str, torch.Tensor]:
    """Its weights, by the names they have in a bundle of several stages."""
    return {key: value for key, value in shipped().module().state_dict().items() if key.startswith(f"{STAGE}.")}


def found_in(grey: Picture, network: Any) -> tuple[Picture, Mask]:
    """A film at working size and its lungs; no pixel of lungs where none are believed."""
    film = radiograph_of(grey)
    if not isinstance(film, Radiograph):
        return grey, np.zeros(grey.shape, bool)
    lungs = lungs_of(film, network)
    return film.grey, np.zeros(film.grey.shape, bool) if isinstance(lungs, str) else lungs.both
