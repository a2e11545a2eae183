"""The plain network as an older version of the bundle `brain_mri`: measured beside the deeper one, which the node runs."""

from __future__ import annotations

from typing import Any

from node.pipelines.brain_mri import SIZE
from training.bundles import brain_mri
from training.bundles.brain_mri import LICENCE_NOTE, checks, figures, thresholds
from training.recipes.brain_mri_cnn import NETWORK

LAYER = "net.layer_2"  #: the third convolution block, 22 x 22 on the canvas

__all__ = ["LICENCE_NOTE", "checks", "figures", "inference", "metadata", "model_card", "thresholds"]


def inference() -> dict[str, Any]:
    """`configs/inference.json`, with the plain network."""
    return brain_mri.inference(NETWORK)


def metadata(version: str) -> dict[str, Any]:
    """`configs/metadata.json`, without figures."""
    described = brain_mri.metadata(version)
    described["name"] += ", plain network"
    described["description"] = (
        f"Three convolution blocks (32, 64, 128 channels) and a dense layer with sigmoid on {SIZE} x {SIZE} pictures of the head; "
        "binary cross entropy, and cross entropy over three kinds."
    )
    described["changelog"] = {version: "the plain network"}
    described["radnode"]["grad_cam_layer"] = LAYER
    return described


def model_card(meta: dict[str, Any], found: dict[str, Any]) -> str:
    """That of the deeper network, with this one's numbers, and what it is for."""
    card = brain_mri.model_card(meta, found, sizes=(SIZE,))
    aim = (
        "An older version on purpose: a yardstick for the deeper network beside it, which the node runs unless somebody promotes this one."
    )
    return card.replace("\n## What it does\n", f"\n{aim}\n\n## What it does\n", 1)
