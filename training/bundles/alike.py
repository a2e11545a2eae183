"""What bundles say alike: who made them and with which libraries, what goes into a network and comes out, and how it runs on pictures by itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def described(version: str, *, packages: Sequence[str] = ("safetensors",), **facts: Any) -> dict[str, Any]:
    """`configs/metadata.json` without figures; the versions are those of the libraries that are installed, `packages` beside the usual ones."""
    return {
        "version": version,
        "monai_version": _release("monai"),
        "pytorch_version": _release("torch"),
        "numpy_version": _release("numpy"),
        "required_packages_version": {name: _release(name) for name in packages},
        "authors": "The Radnode authors",
        "copyright": "The Radnode authors; training data as the licence note says",
        "data_type": "dicom",
        **facts,
    }


def _release(name: str) -> str:
    """Without what says for which accelerator it was built."""
    return installed(name).split("+")[0]


# --- entries of `network_data_format` ---------------------------------------------------------------------------------------
def image_input(size: int, *, modality: str = "CR", unit: str = "magnitude") -> dict[str, Any]:
    """One grey picture, `size` x `size`."""
    return {
        "type": "image",
        "format": unit,
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": [size, size],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }


def maps_output(size: int, *channels: str) -> dict[str, Any]:
    """Maps of logits, `size` x `size`."""
    return {"type": "image", "format": "segmentation", "spatial_shape": [size, size], **_channels(channels)}


def classes_output(*classes: str) -> dict[str, Any]:
    """A logit for each class."""
    return {"type": "probabilities", "format": "classes", "spatial_shape": [], **_channels(classes)}


def _channels(names: Sequence[str]) -> dict[str, Any]:
    return {
        "num_channels": len(names),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(i): name for i, name in enumerate(names)},
    }


# --- `configs/inference.json` -------------------------------------------------------------------------------------------------
GREY: tuple[dict[str, Any], ...] = (
    {"_target_": "LoadImaged", "keys": "image", "reader": "PILReader", "converter": "$lambda image: image.convert('L')"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]},
)  #: a picture file, as one grey channel
PROBABILITIES: dict[str, Any] = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
MASK: tuple[dict[str, Any], ...] = (
    {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
)  #: probabilities become a mask in a file


def between(low: float, high: float) -> dict[str, Any]:
    """Grey values from `low` to `high` become 0 to 1."""
    return {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}


def on_pictures(network: dict[str, Any], size: int, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The network on every file of a folder, by MONAI alone: `before` makes grey values of 0 to 1, which are put on the canvas with their aspect kept."""
    canvas = [
        {"_target_": "Resized", "keys": "image", "spatial_size": size, "size_mode": "longest", "mode": "bilinear"},
        {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [size, size]},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
    return {
        "imports": ["$import glob", "$import torch", "$from safetensors.torch import load_file"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "datalist": "$[{'image': f} for f in sorted(glob.glob(@dataset_dir + '/*'))]",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "initialize": ["$@network.load_state_dict(load_file(@bundle_root + '/models/model.safetensors'))"],
        "preprocessing": {"_target_": "Compose", "transforms": [*before, *canvas]},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": list(after)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
        "run": ["$@evaluator.run()"],
    }
