"""Writes a bundle around a MeshNet of brainchop: `model.json` lists its convolutions, the weights lie beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from node.errors import BundleRefused

MODEL, WEIGHTS = "model.json", "model.safetensors"
SIZE = 256  #: voxels of 1 mm along each side
LICENCE = "MIT License: brainchop and brainchop-models, neuroneural (https://github.com/neuroneural/brainchop-models)\n"


def is_meshnet(folder: Path) -> bool:
    """A folder as brainchop-models has them."""
    return (folder / MODEL).is_file() and (folder / WEIGHTS).is_file() and isinstance(_model(folder).get("layers"), list)


def write_bundle(folder: Path, to: Path) -> None:
    """A MONAI bundle at `to` that gives what brainchop gives: T1 brain at 1 mm, axes LIA, 256 voxels a side, 2nd to 98th percentile.

    Raises BundleRefused for a MeshNet with layers that `node.imaging.mesh_net` does not build.
    """
    model = _model(folder)
    network = _network(model)
    labels = _names(folder, network["out_channels"])
    for part in ("configs", "models"):
        (to / part).mkdir(parents=True)
    (to / "models" / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    (to / "LICENSE").write_text(LICENCE)
    image, keys = ["image"], {"keys": "image"}
    inference = {
        "imports": ["$import numpy as np"],
        "network_def": {"_target_": "node.imaging.mesh_net.mesh_net", **network},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": image, "ensure_channel_first": True},
                {"_target_": "Orientationd", **keys, "axcodes": "LIA", "labels": [["L", "R"], ["P", "A"], ["I", "S"]]},
                {"_target_": "Spacingd", **keys, "pixdim": [1.0, 1.0, 1.0], "mode": "bilinear"},
                {"_target_": "ResizeWithPadOrCropd", **keys, "spatial_size": [SIZE] * 3},
                {"_target_": "ScaleIntensityRangePercentilesd", **keys, "lower": 2, "upper": 98, "b_min": 0.0, "b_max": 1.0, "clip": True},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": True},
            ],
        },
    }
    metadata = {
        "version": "1.0.0",
        "name": str(model.get("header") or folder.name)[:120],
        "task": "Segmentation of the brain on T1-weighted MR",
        "description": "A MeshNet of brainchop. The whole volume at once: in windows its wide view is lost.",
        "copyright": "the authors of brainchop, MIT licence",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1, "spatial_shape": [SIZE] * 3}},
            "outputs": {"pred": {"type": "image", "format": "segmentation", "channel_def": {str(i): n for i, n in enumerate(labels)}}},
        },
    }
    (to / "configs" / "inference.json").write_text(json.dumps(inference, indent=1))
    (to / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=1))


def _model(folder: Path) -> dict[str, Any]:
    try:
        read = json.loads((folder / MODEL).read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _network(model: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `mesh_net`."""
    *middle, last = model["layers"]
    try:
        plain = all(one["kernel_size"] == 3 and one["padding"] == one["dilation"] and one["stride"] == 1 for one in middle)
        if not plain or last["kernel_size"] != 1:
            raise BundleRefused("the MeshNet has layers other than dilated 3 x 3 x 3 convolutions")
        channels = int(middle[0]["out_channels"])
        dilations: Sequence[int] = [int(one["dilation"]) for one in middle]
        normalised, bias = bool(model.get("bnorm")), bool(model.get("bias", not model.get("bnorm")))
        act = "GELU" if model.get("gelu") else "ELU" if model.get("elu") else "ReLU"
        out = int(last["out_channels"])
    except (KeyError, TypeError, ValueError):
        raise BundleRefused("model.json does not describe a MeshNet") from None
    if channels < 1 or out < 1:
        raise BundleRefused("model.json leaves the number of channels open")
    return {
        "in_channels": max(1, int(middle[0]["in_channels"])),
        "channels": channels,
        "out_channels": out,
        "dilations": dilations,
        "normalised": normalised,
        "bias": bias,
        "activation": act,
    }


def _names(folder: Path, count: int) -> list[str]:
    """The labels of the colour map that has as many as the network has outputs."""
    for file in sorted(folder.glob("colormap*.json")):
        try:
            labels = json.loads(file.read_text())["labels"]
        except (ValueError, KeyError):
            continue
        if len(labels) == count:
            return [str(label) for label in (labels.values() if isinstance(labels, dict) else labels)]
    return ["background", *(f"label {i}" for i in range(1, count))]
