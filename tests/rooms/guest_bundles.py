"""Bundles of random or simple weights, in the forms in which people have them: for tests of what drops in."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

APACHE = "Apache License\nVersion 2.0, January 2004\n"
UNET = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2], "num_res_units": 1}
BRIGHT = """
import torch

class Bright(torch.nn.Module):
    '''Two channels: background, and what is brighter than a threshold that the weights hold.'''

    def __init__(self, pretrained=True):
        super().__init__()
        if pretrained:
            raise RuntimeError("the net was asked for weights")
        self.level = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.cat([self.level - x, x - self.level], dim=1)
"""


def metadata(task: str = "Spleen segmentation", **more: Any) -> dict[str, Any]:
    """As the zoo writes it."""
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": [16, 16, 16],
        "is_patch_data": True,
    }
    pred = {"type": "image", "format": "segmentation", "num_channels": 2, "channel_def": {"0": "background", "1": "spleen"}}
    return {
        "version": "0.5.1",
        "changelog": {"0.5.1": "as the zoo has it"},
        "monai_version": "1.2.0",
        "pytorch_version": "1.13.1",
        "numpy_version": "1.22.2",
        "optional_packages_version": {"nibabel": "3.2.1", "pytorch-ignite": "0.4.8"},
        "name": task,
        "task": task,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        **more,
    }


def inference(network: Any, *, invert: bool = True, spacing: float = 4.0) -> dict[str, Any]:
    """A sliding window, references, expressions and a macro, as in the zoo's spleen bundle; the evaluator would not even build here."""
    after: list[dict[str, Any]] = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    if invert:
        after.append(
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "@image_key",
                "meta_key_postfix": "meta_dict",
                "nearest_interp": False,
                "to_tensor": True,
            }
        )
    after.append({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})
    after.append({"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "meta_keys": "pred_meta_dict"})
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": "/workspace/bundle",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/Task09_Spleen",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "window": 16,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [spacing] * 3, "mode": "bilinear"},
                {"_target_": "EnsureTyped", "keys": "@image_key"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": ["@window", "%window", "$@window"],
            "sw_batch_size": 4,
            "overlap": 0.25,
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'", "load_dict": {"model": "@network"}}
        ],
        "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "inferer": "@inferer", "amp": True, "nonsense": 1},
        "run": ["$@evaluator.run()"],
    }


def bright(folder: Path, *, level: float = 100.0, form: str = "yaml", invert: bool = True, code: str = BRIGHT, **more: Any) -> Path:
    """A zoo-style segmentation bundle whose code lies in `scripts/`: spleen is what is brighter than `level`."""
    network = {"_target_": "scripts.networks.Bright", "pretrained": True}
    path = written(folder, metadata(**more), inference(network, invert=invert), {"level": torch.tensor([level])}, form=form)
    (path / "scripts").mkdir()
    (path / "scripts" / "__init__.py").write_text("")
    (path / "scripts" / "networks.py").write_text(code)
    return path


def written(folder: Path, told: dict[str, Any], config: dict[str, Any], weights: dict[str, torch.Tensor], *, form: str = "json") -> Path:
    """A bundle folder in the zoo's layout."""
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(told))
    text = json.dumps(config) if form == "json" else yaml.safe_dump(config)
    (folder / "configs" / f"inference.{form}").write_text(text)
    torch.save({"model": weights}, folder / "models" / "model.pt")
    (folder / "LICENSE").write_text(APACHE)
    (folder / "docs" / "README.md").write_text("# A bundle of the tests\n")
    return folder


def unet(folder: Path, **more: Any) -> Path:
    """A real network of MONAI with random weights."""
    from monai.networks.nets import UNet

    torch.manual_seed(1)
    network = UNet(**{key: value for key, value in UNET.items() if key != "_target_"})  # type: ignore[arg-type]
    return written(folder, metadata(**more), inference(UNET), network.state_dict())


class Halves(torch.nn.Module):
    """Three logits that say where an image is bright: left, right, or neither more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        left, right = x[..., :half].mean(dim=(1, 2, 3)), x[..., half:].mean(dim=(1, 2, 3))
        return torch.stack([left - right, right - left, torch.zeros_like(left)], dim=1) * 10


def torchscript(path: Path, *, embedded: bool = True) -> Path:
    """A classifier as one TorchScript file, with metadata and configuration inside as MONAI's `ckpt_export` writes them, or bare."""
    told = metadata(
        "Side classification",
        network_data_format={
            "inputs": {"image": {"type": "image", "format": "magnitude", "modality": "US", "num_channels": 1, "spatial_shape": [64, 64]}},
            "outputs": {"pred": {"type": "probabilities", "format": "classes", "channel_def": {"0": "left", "1": "right", "2": "none"}}},
        },
    )
    config = {
        "network_def": {"_target_": "never.built.Network"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]},
                {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64]},
                {"_target_": "ScaleIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    extra = {"metadata.json": json.dumps(told), "inference.json": json.dumps(config)} if embedded else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Halves()), str(path), _extra_files=extra)
    return path


def onnx_detector(path: Path, boxes: list[list[float]], scores: list[float], labels: list[int]) -> Path:
    """An ONNX file of one input, 1 x 1 x 64 x 64, that always sees the same boxes (x1, y1, x2, y2 on its own grid)."""
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 64, 64])
    constants = {
        "boxes": np.asarray([boxes], np.float32),
        "labels": np.asarray([labels], np.int64),
        "fixed": np.asarray([scores], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nought"], ["nothing"]),
        helper.make_node("Add", ["fixed", "nothing"], ["scores"]),
        helper.make_node("Identity", ["known_boxes"], ["boxes"]),
        helper.make_node("Identity", ["known_labels"], ["labels"]),
    ]
    held = [
        numpy_helper.from_array(np.zeros((), np.float32), "nought"),
        numpy_helper.from_array(constants["fixed"], "fixed"),
        numpy_helper.from_array(constants["boxes"], "known_boxes"),
        numpy_helper.from_array(constants["labels"], "known_labels"),
    ]
    count = len(scores)
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, count, 4]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, count]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, count]),
    ]
    return _saved(path, nodes, [given], outputs, held)


def onnx_classifier(path: Path, *, end: str = "") -> Path:
    """An ONNX file that gives one logit: how bright the image is, above one half; or what the operation `end` makes of it."""
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 32, 32])
    out = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n", 1])
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Sub", ["flat", "half"], ["above"]),
        helper.make_node("Mul", ["above", "twenty"], ["scaled" if end else "logit"]),
        *([helper.make_node(end, ["scaled"], ["logit"])] if end else []),
    ]
    held = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in (("half", 0.5), ("twenty", 20.0))]
    return _saved(path, nodes, [given], [out], held)


def _saved(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], held: list[Any]) -> Path:
    model = helper.make_model(helper.make_graph(nodes, "of the tests", inputs, outputs, held), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


FOUR = """
import torch

class Differences(torch.nn.Module):
    '''What T1 gains by contrast, and what is bright on FLAIR: two channels that overlap.'''

    def __init__(self):
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor([150.0, 600.0]))

    def forward(self, x):
        assert x.shape[1] == 4
        return torch.stack([x[:, 0] - x[:, 1] - self.levels[0], x[:, 3] - self.levels[1]], dim=1)
"""


def four_series(folder: Path, *, names: tuple[str, ...] = ("T1c", "T1", "T2", "FLAIR"), label_map: bool = False) -> Path:
    """As the zoo's tumour segmentation: four series at once, masks that overlap; or made into one label map at its end."""
    image = {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 4, "spatial_shape": ["8*n"] * 3}
    channels = dict(zip("0123", names, strict=True))
    pred = {"type": "image", "format": "segmentation", "num_channels": 2, "channel_def": {"0": "Enhancing tumor", "1": "Whole tumor"}}
    formats = {"inputs": {"image": {**image, "channel_def": channels}}, "outputs": {"pred": pred}}
    after: list[dict[str, Any]] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    if label_map:
        after.append(
            {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: torch.where(x[[0]] > 0, 4, torch.where(x[[1]] > 0, 2, 0))"}
        )
    config = {
        "imports": ["$import torch"],
        "network_def": {"_target_": "scripts.networks.Differences"},
        "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "keys": "image"}]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [64, 64, 32], "sw_batch_size": 1, "overlap": 0.25},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    told = metadata("Multimodal brain tumour segmentation", network_data_format=formats)
    path = written(folder, told, config, {"levels": torch.tensor([150.0, 600.0])})
    (path / "scripts").mkdir()
    (path / "scripts" / "__init__.py").write_text("")
    (path / "scripts" / "networks.py").write_text(FOUR)
    return path
