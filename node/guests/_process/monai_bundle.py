"""A MONAI bundle made ready: its network with weights, its own preprocessing, inferer and postprocessing. The evaluator is never built.

The node reads and writes, so transforms that load or save are left out; the rest is the bundle's own. Expressions (`$…`) and the
bundle's `scripts` run here, which is why this is a process of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.networks import nets
from monai.transforms import Compose
from numpy.typing import NDArray

from node.guests._process import networks
from node.guests._process.answers import Answer, Given, answered
from node.guests._process.endings import ending
from node.guests._process.refusal import Refusal

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
NETWORKS = ("network_def", "network", "net")
WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.ts", "models/model.onnx")
PRETRAINED = {"encoder_weights": None, "pretrained": False, "load_pretrain": False}  #: there is no net to ask for weights
GONE = {
    "SwinUNETR": {"img_size"}
}  #: arguments that MONAI no longer takes and that never changed what is computed; the zoo's bundles still name them
GPU = re.compile(r"torch\.device\(\s*(['\"])cuda(:\d+)?\1\s*\)|^cuda(:\d+)?$")  #: a device by its name, where the node decides which it is
READS_OR_WRITES = re.compile(r"^(Load|Save)[A-Z]\w*$")  #: LoadImaged, SaveImaged, SaveClassificationd …
#: of what a reader gave; the node's image has its channels first. Old names too, which MONAI has no more
CHANNEL_FIRST = re.compile(r"^(EnsureChannelFirst|AsChannelFirst|AddChannel)(d|D|Dict)?$")
DECIDES = re.compile(r"^AsDiscrete(d|D|Dict)?$")
TO_WORLD = re.compile(r"^(AffineBoxToWorldCoordinate|ConvertBoxMode)(d|D|Dict)$")
UNWANTED = {  #: at the end, by task
    "classification": DECIDES,  # the node decides, and tells how sure the network was
    "detection": TO_WORLD,  # boxes are wanted on the image's grid
}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(slots=True)
class Ready:
    """The bundle, warm."""

    sidecar: Mapping[str, Any]
    network: Callable[..., Any]
    preprocessing: Compose
    postprocessing: Compose
    inferer: Callable[..., Any]
    image_key: str
    pred_key: str
    device: str
    half: bool  #: the evaluator's `amp`, on a GPU only, as MONAI itself does
    told: dict[str, Any]

    @classmethod
    def load(cls, bundle: Path, sidecar: Mapping[str, Any], device: str) -> Ready:
        """Everything built once. Raises Refusal with what is wrong in the bundle."""
        if any(bundle.rglob("*.py")):  # most call the folder `scripts`
            sys.path.insert(0, str(bundle))
        networks.read_numpy_too()
        config = _config(bundle)
        task = str(sidecar["task"])
        config = _without(config, lambda name: bool(READS_OR_WRITES.match(name) or CHANNEL_FIRST.match(name)))
        config = _on_device(config, device)
        config |= {"bundle_root": str(bundle), "device": f"$torch.device('{device}')"}
        config |= {key: "." for key in ("output_dir", "dataset_dir", "data_file_base_dir") if key in config}
        parser = ConfigParser(config)
        network = _network(bundle, parser, config, device)
        pre = _composed(parser, config, "preprocessing", CHANNEL_FIRST)
        post = _composed(parser, config, "postprocessing", UNWANTED.get(task))
        inferer = parser.get_parsed_content("inferer") if "inferer" in config else SimpleInferer()
        if asked := _asked_beside(inferer):
            raise Refusal(f"its inferer asks for more than an image: {', '.join(asked)}; a job has nothing of it to give")
        evaluator = config.get("evaluator")
        _required(parser, config, evaluator)
        told = {
            "network": type(network).__name__ if isinstance(network, torch.nn.Module) else "ONNX",
            "parameters": sum(p.numel() for p in network.parameters()) if isinstance(network, torch.nn.Module) else 0,
            "preprocessing": [type(t).__name__ for t in pre.transforms],
            "inferer": type(inferer).__name__,
            "postprocessing": [type(t).__name__ for t in post.transforms],
            **_geometry(pre),
        }
        return cls(
            sidecar={"ends_with": ending(network), **sidecar},
            network=network,
            preprocessing=pre,
            postprocessing=post,
            inferer=inferer,
            image_key=str(sidecar.get("image_key") or _first_key(pre, config.get("image_key", "image"))),
            pred_key=str(sidecar.get("pred_key") or _first_key(post, "pred")),
            device=device,
            half=device.startswith("cuda") and isinstance(evaluator, dict) and evaluator.get("amp") is True,
            told=told,
        )

    def answer(self, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Answer:
        """One image or volume through the bundle.

        Parameters
        ----------
        facts
            `affine`: 4x4, (column, row, frame) → mm in LPS, or None; `spacing_mm`: between frames, rows, columns, or None; `dims`: 2 or 3.
        arrays
            `pixels`: (frames, rows, columns) or (frames, rows, columns, 3).
        """
        if self.sidecar["task"] == "generation":
            return self._generated()
        image = _image(arrays["pixels"], facts, str(self.sidecar.get("axes", "monai")))
        meta = {f"{self.image_key}_meta_dict": dict(image.meta)}
        item: Any = self.preprocessing({self.image_key: image, **meta})
        if not isinstance(item, dict) or self.image_key not in item:
            raise Refusal("its preprocessing does not give one image: the node can run no training patches")
        given = item[self.image_key]
        batch = torch.as_tensor(given).as_tensor() if isinstance(given, MetaTensor) else torch.as_tensor(given)
        batch = batch[None].to(self.device, torch.float32)
        with torch.no_grad(), torch.autocast("cuda", enabled=self.half):
            try:
                out = self.inferer(batch, self.network)
            except torch.OutOfMemoryError:  # of a GPU
                raise
            except (RuntimeError, ValueError) as why:
                if isinstance(self.network, torch.nn.Module) and "allocate memory" not in str(why) and _about_shape(why):
                    said = str(why).strip().splitlines()[-1][:200]
                    raise Refusal(f"the network does not take {tuple(batch.shape)} (batch, channels, then the image): {said}") from None
                raise
        geometry = Given(source=image, affine=getattr(given, "affine", image.affine), shape=tuple(batch.shape[2:]))
        return answered(self.sidecar, out, item, self.image_key, self.pred_key, self.postprocessing, geometry)

    def _generated(self) -> Answer:
        """That a generator runs at all: one draw, and the shape of what comes out. There is nothing of a patient in it."""
        with torch.no_grad():
            out = self.inferer(torch.rand(1, *self.sidecar["latent"], device=self.device), self.network)
        item = {self.pred_key: torch.as_tensor(out[0])}
        after = torch.as_tensor(self.postprocessing(item)[self.pred_key])
        return {"shape": list(after.shape), "finite": bool(torch.isfinite(after.float()).all())}, {}


# --- the configuration ----------------------------------------------------------------------------------------------------
def _config(bundle: Path) -> dict[str, Any]:
    for name in CONFIGS:
        if (bundle / "configs" / name).exists():
            try:
                read = ConfigParser.load_config_files(str(bundle / "configs" / name))
            except Exception as why:
                raise Refusal(f"configs/{name} can't be read: {getattr(why, 'problem', None) or type(why).__name__}") from None
            if not isinstance(read, dict):
                raise Refusal(f"configs/{name} must hold keys and values")
            parser = ConfigParser(dict(read))
            parser.resolve_macro_and_relative_ids()  # what another file holds is looked at as well
            return dict(parser.get())
    raise Refusal(f"configs/ has none of {', '.join(CONFIGS)}")


def _without(config: Any, unwanted: Callable[[str], bool]) -> Any:
    """The configuration with components of such names disabled, as the bundle's author would: `_disabled_`."""
    if isinstance(config, list):
        return [_without(value, unwanted) for value in config]
    if not isinstance(config, dict):
        return config
    out = {key: _without(value, unwanted) for key, value in config.items()}
    if isinstance(out.get("_target_"), str) and unwanted(out["_target_"].rpartition(".")[2]):
        out["_disabled_"] = True
    return out


def _on_device(config: Any, device: str) -> Any:
    """The configuration with the node's device wherever a bundle names a GPU outright."""
    if isinstance(config, dict):
        return {key: _on_device(value, device) for key, value in config.items()}
    if isinstance(config, list):
        return [_on_device(value, device) for value in config]
    if not isinstance(config, str):
        return config
    return GPU.sub(lambda found: f"torch.device('{device}')" if found[1] else device, config)


def _as_it_runs_here(config: Any) -> Any:
    """The configuration of a network without weights from the net, and for the MONAI that is installed."""
    if isinstance(config, list):
        return [_as_it_runs_here(value) for value in config]
    if not isinstance(config, dict):
        return config
    target = config.get("_target_")
    wanted = {key: PRETRAINED[key] for key in _arguments(target) if key in PRETRAINED}  # many do so by default
    gone = GONE.get(str(target).rpartition(".")[2], ())
    kept = {key: value for key, value in config.items() if key not in gone}
    return wanted | {key: PRETRAINED[key] if key in PRETRAINED else _as_it_runs_here(value) for key, value in kept.items()}


def _arguments(target: Any) -> Iterable[str]:
    """What a component may be told; nothing where it can't be found: to build it says why."""
    try:
        return signature(locate(target) if "." in target else getattr(nets, target)).parameters  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError, ErrorDuringImport):
        return ()


def _composed(parser: ConfigParser, config: Mapping[str, Any], key: str, unwanted: re.Pattern[str] | None) -> Compose:
    """The transforms of `key` one after the other, from whatever expression or other key they come; none where the bundle has none."""
    if key not in config:
        return Compose([])
    made = parser.get_parsed_content(key)
    compose = made if isinstance(made, Compose) else Compose(made)
    dropped = [pattern for pattern in (READS_OR_WRITES, unwanted) if pattern is not None]
    compose.transforms = tuple(t for t in compose.flatten().transforms if not any(pattern.match(type(t).__name__) for pattern in dropped))
    return compose


def _network(bundle: Path, parser: ConfigParser, config: dict[str, Any], device: str) -> Callable[..., Any]:
    """The network with its weights. The parser knows it too: inferers and detectors refer to it."""
    file = next((name for name in WEIGHTS if (bundle / name).exists()), "")
    path = bundle / file
    made: Any
    if not file:
        raise Refusal(f"it has none of {', '.join(WEIGHTS)}")
    if path.suffix == ".onnx" or networks.scripted(path):
        if path.suffix == ".onnx":
            made = networks.Onnx(path)
            if made.size and config.get("fit_input"):
                config["preprocessing"]["transforms"].insert(0, {"_target_": "Resized", "keys": "image", "spatial_size": list(made.size)})
        else:
            made = networks.torchscript(path, device)
        for key in NETWORKS:
            config.pop(key, None)
        parser.set(config)
        parser.parse()
        parser.ref_resolver.resolved_content.update(dict.fromkeys(NETWORKS, made))
        return cast(Callable[..., Any], made)
    key = next((key for key in NETWORKS if key in config), "")
    if not key:
        raise Refusal("its inference configuration has no network_def, so nobody knows which network the weights are of")
    config[key] = _as_it_runs_here(config[key])
    if config.get("load_pretrain"):
        config["load_pretrain"] = False
    parser.set(config)
    parser.parse()
    made = parser.get_parsed_content(key)
    if not isinstance(made, torch.nn.Module):
        raise Refusal(f"{key} is no torch module; is its _target_ a known network?")
    networks.fill(made, networks.state_dict(path), file)
    return cast(Callable[..., Any], made.to(device).eval().requires_grad_(False))


def _required(parser: ConfigParser, config: Mapping[str, Any], evaluator: Any) -> None:
    """What the evaluator `_requires_` before it runs, such as a detector's thresholds; weights are loaded already."""
    wanted = evaluator.get("_requires_") if isinstance(evaluator, dict) else None
    for one in wanted if isinstance(wanted, list) else [wanted]:
        key = one[1:] if isinstance(one, str) and one.startswith("@") else ""
        if key and "Checkpoint" not in str(config.get(key)):
            parser.get_parsed_content(key)


def _asked_beside(inferer: Callable[..., Any]) -> list[str]:
    """What an inferer must be told beside the image and the network, such as the points that a reader clicked."""
    try:
        parameters = list(signature(inferer).parameters.values())[2:]
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def _first_key(compose: Compose, otherwise: Any) -> str:
    for transform in compose.transforms:
        for key in getattr(transform, "keys", None) or ():
            return str(key)
    return str(otherwise if isinstance(otherwise, str) and otherwise[:1] not in "$@%" else "image")


def _geometry(pre: Compose) -> dict[str, Any]:
    """Spacing and orientation that the preprocessing asks for, where it says so in the usual transforms."""
    told: dict[str, Any] = {}
    for transform in pre.transforms:
        inner = getattr(transform, "spacing_transform", None)
        if inner is not None:
            told["spacing_mm"] = [round(float(v), 4) for v in np.ravel(inner.pixdim)]
        inner = getattr(transform, "ornt_transform", None)
        if inner is not None and inner.axcodes:
            told["orientation"] = str(inner.axcodes)
    return told


# --- the image --------------------------------------------------------------------------------------------------------------
def _image(pixels: NDArray[Any], facts: Mapping[str, Any], axes: str) -> MetaTensor:
    """Channel first, with an affine in RAS, as MONAI's readers give it; `axes` "torch": rows before columns, frames before both."""
    dims = int(facts["dims"])
    array = pixels if pixels.ndim == 4 else pixels[..., None]  # (frames, rows, columns, channels)
    affine = _affine(facts)
    array = array[0].transpose(2, 1, 0) if dims == 2 else array.transpose(3, 2, 1, 0)  # (channel, column, row[, frame])
    if dims == 2:
        affine = np.diag([*np.linalg.norm(affine[:3, :2], axis=0), 1.0, 1.0])  # in the plane: where it lies in the patient is the node's
    if axes == "torch":
        array = array.transpose(0, *range(dims, 0, -1))
        affine[:, :dims] = affine[:, :dims][:, ::-1].copy()
        if dims == 2:
            affine = np.diag([affine[1, 0], affine[0, 1], 1.0, 1.0])
    tensor = torch.from_numpy(np.array(array, np.float32))
    meta = {"original_channel_dim": 0, "spatial_shape": np.asarray(tensor.shape[1:]), "filename_or_obj": "series", "space": "RAS"}
    return MetaTensor(tensor, affine=torch.from_numpy(affine), meta={**meta, "original_affine": affine.copy()})


def _affine(facts: Mapping[str, Any]) -> NDArray[np.float64]:
    if facts.get("affine") is not None:
        return LPS_TO_RAS @ np.asarray(facts["affine"], np.float64)
    frame, row, column = facts.get("spacing_mm") or (1.0, 1.0, 1.0)
    return np.diag([column or 1.0, row or 1.0, frame or 1.0, 1.0])


def _about_shape(why: BaseException) -> bool:
    return any(
        word in str(why) for word in ("channels", "size of tensor", "shape", "dimension", "expected input", "Sizes of tensors", "size")
    )
