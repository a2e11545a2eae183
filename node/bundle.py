"""Opens a model bundle (MONAI Bundle folder): metadata, every digest checked, weights loaded as data and never as code.

A bundle describes its network as `network_def` in `configs/inference.json`. MONAI would resolve any importable callable and
evaluate `$` expressions there; this reader builds networks of known libraries from plain values only, and never pre-trained ones.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version
from pydicom.dataset import Dataset

from node import codes
from node.device import check
from node.domain import Algorithm
from node.errors import BundleDamaged, BundleInvalid
from node.weighting import weighting_of

if TYPE_CHECKING:
    import torch

SUMS = "SHA256SUMS"
METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
GUEST = "node.json"  #: the sidecar of a bundle that dropped in (`node/guests/`): its own files stay as they came
WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.ts")
GUEST_WEIGHTS = (*WEIGHTS, "models/model.onnx")
BUILDERS = (
    "torch.nn.",
    "monai.networks.",
    "segmentation_models_pytorch.",
    "node.imaging.mesh_net.",
    "node.imaging.stages.",
    "node.imaging.chest_vit.",
    "node.imaging.normality.",
    "node.networks.",
)  #: where a network may come from
PRETRAINED = {"encoder_weights": None, "pretrained": False, "load_pretrain": False}  #: never ask the net for weights
GUEST_BYTES = 512 << 20  #: a process with torch and MONAI, beside what it shares with others
AGREE = 0.05  #: how far another engine's output, after a sigmoid, may lie from torch's in float32
LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$")


@dataclass(frozen=True, eq=False)
class Bundle:
    """One model at one version, intact when it was opened."""

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    inference: Mapping[str, Any] = field(repr=False)
    sums: Mapping[str, str] = field(repr=False)  #: relative path → SHA-256, hexadecimal
    sidecar: Mapping[str, Any] = field(default_factory=dict, repr=False)  #: of a guest; empty for a bundle that a pipeline's code runs

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """The bundle in folder `path`.

        Raises
        ------
        BundleDamaged
            When a listed file is missing or has another digest; it names the file.
        BundleInvalid
            When the folder is no bundle, lists a path outside itself, or would use a file that it does not list.
        """
        path = Path(path)
        sums = _sums(path)
        for name, expected in sums.items():
            if sha256(path / name) != expected:
                raise BundleDamaged(file=name, bundle=path.name)
        sidecar = _json(path / GUEST) if GUEST in sums else {}
        for name in (METADATA,) if sidecar else (METADATA, INFERENCE):  # a guest's configuration is read in its own process only
            if name not in sums:
                raise BundleInvalid(f"{SUMS} does not list {name}", bundle=path.name)
        bundle = cls(path, _json(path / METADATA), {} if sidecar else _json(path / INFERENCE), sums, sidecar)
        _ = bundle.weights, bundle.version  # must be there
        return bundle

    # --- what it says about itself ---------------------------------------------------------------------------------------
    @property
    def node(self) -> Mapping[str, Any]:
        """The `radnode` object of the metadata, or a guest's sidecar; empty for a bundle that was not made for a node."""
        found = self.sidecar or self.metadata.get("radnode", {})
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """The pipeline's name, else the bundle's."""
        return str(self.node.get("pipeline") or self.metadata.get("name") or self.path.name)

    @property
    def version(self) -> str:
        try:
            return str(self.sidecar.get("version") or self.metadata["version"])
        except KeyError:
            raise BundleInvalid("metadata.json has no version", bundle=self.path.name) from None

    @property
    def title(self) -> str:
        """What a person calls it."""
        return str(self.metadata.get("name", self.name))

    @property
    def licence(self) -> Mapping[str, Any]:
        """`{"name", "non_commercial", "text"}`."""
        return dict(self.node.get("licence", {}))

    @property
    def intended_use(self) -> Mapping[str, Any]:
        """Machine-readable: modality, body_part, min_slices, max_slice_thickness_mm, …"""
        return dict(self.node.get("intended_use", {}))

    def refusal(self, header: Dataset) -> str:
        """Why an image with this header is outside the intended use; empty when the header does not speak against it.

        Modality (unless it is unknown or OT), the patient's age (an age that can't be read does not count), the weighting of MR where it
        can be told, and the body part where the bundle says `body_part_required`: many CT headers name only one of several parts that
        were scanned.
        """
        use = self.intended_use
        modality = str(header.get("Modality", "") or "")
        if use.get("modality") and modality not in ("", "OT", *use["modality"]):
            return f"the model was made for {' or '.join(use['modality'])}, not for {modality}"
        years = age_in_years(str(header.get("PatientAge", "") or ""))
        if years is not None and years < float(use.get("min_age_years", 0)):
            return f"the model was made for patients from {use['min_age_years']} years on"
        part = str(header.get("BodyPartExamined", "") or "").upper()
        if use.get("body_part_required") and part and not any(allowed in part for allowed in use.get("body_part", ())):
            return f"the model was made for {' or '.join(use['body_part'])}; the header names another body part"
        weighting = weighting_of(header) if modality == "MR" and use.get("weighting") else ""
        if weighting and weighting not in use["weighting"]:
            return f"the model was made for {' or '.join(use['weighting'])}-weighted images, not for {weighting}"
        return ""

    @property
    def thresholds(self) -> Mapping[str, float]:
        return {str(k): float(v) for k, v in self.node.get("thresholds", {}).items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """The findings it names, in the order of its outputs."""
        if "labels" in self.node:
            return tuple(str(label) for label in self.node["labels"])
        outputs = self.metadata.get("network_data_format", {}).get("outputs", {})
        for output in outputs.values():
            channels = output.get("channel_def") or {}
            return tuple(str(channels[key]) for key in sorted(channels, key=int) if channels[key] != "background")
        return ()

    @property
    def model_card(self) -> str:
        """The model card's text, empty when there is none."""
        for name in ("MODEL_CARD.md", "docs/README.md"):
            if name in self.sums:
                return (self.path / name).read_text(encoding="utf-8")
        return ""

    @cached_property
    def weights(self) -> str:
        """The weights file, relative to the bundle."""
        for name in GUEST_WEIGHTS if self.sidecar else WEIGHTS:
            if name in self.sums:
                return name
        if (self.path / "large_files.yml").exists():
            raise BundleInvalid("weights missing: large_files.yml says where to fetch them", bundle=self.path.name)
        raise BundleInvalid(f"{SUMS} lists none of {', '.join(WEIGHTS)}", bundle=self.path.name)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, hexadecimal: the model's identity in every result. A guest is its code too: that of its SHA256SUMS."""
        return sha256(self.path / SUMS) if self.sidecar else self.sums[self.weights]

    @cached_property
    def size_in_memory(self) -> int:
        """Bytes that the loaded model takes, about: its weights in float32, twice.

        The engine keeps a copy of its own beside torch's or packs it anew: letting go of the shipped models frees 1.6 to 2.4 times
        their weights. A guest's process holds libraries of its own.
        """
        return (GUEST_BYTES if self.sidecar else 0) + 2 * _float32_bytes(self.path / self.weights)

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm(name=self.name, version=self.version, digest=self.digest, family=codes.ARTIFICIAL_INTELLIGENCE)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """(channels, rows, columns …) of the first input; None when the metadata leaves it open."""
        return next(iter(self.input_shapes.values()), None)

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...] | None]:
        """(channels, rows, columns …) of each input by its name; None where the metadata leaves it open."""
        shapes: dict[str, tuple[int, ...] | None] = {}
        for name, one in self.metadata.get("network_data_format", {}).get("inputs", {}).items():
            try:
                shapes[str(name)] = (int(one["num_channels"]), *(int(n) for n in one["spatial_shape"]))
            except (KeyError, TypeError, ValueError):
                shapes[str(name)] = None
        return shapes

    # --- the network ----------------------------------------------------------------------------------------------------
    def network(self, device: str = "cpu", *, engine: str = "torch") -> Callable[[torch.Tensor], Any]:
        """The network with its weights, ready to be called with a float32 batch, wherever that lies; outputs are float32, on `device`.

        `engine="openvino"` compiles it for this CPU (bfloat16 where the CPU has it) and checks it against torch on one input;
        on another device, without OpenVINO, or when the two disagree, it is torch all the same.
        """
        return _ready(self.module(device), self.input_shape, device, engine)

    def stages(self, device: str = "cpu", *, engine: str = "torch") -> Mapping[str, Callable[[torch.Tensor], Any]]:
        """The networks of a bundle that holds several (`node.imaging.stages`), each as `network` gives it, by name.

        Raises BundleInvalid when the bundle holds one network. The inputs of the metadata carry the names of the stages.
        """
        from torch import nn

        held = self.module(device)
        if not isinstance(held, nn.ModuleDict):
            raise BundleInvalid("network_def is one network and not several stages", bundle=self.path.name)
        shapes = self.input_shapes
        return {name: _ready(one, shapes.get(name), device, engine) for name, one in held.items()}

    def module(self, device: str = "cpu") -> torch.nn.Module:
        """The network as a torch module in evaluation mode, float32, weights strictly loaded. Raises DeviceUnusable where it can't lie there."""
        import torch

        check(device)
        data = self._weights()
        if self.weights.endswith(".ts"):
            import io

            loaded: torch.nn.Module = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
            return loaded.eval()
        module: torch.nn.Module = _built(self.inference.get("network_def"), self.inference, self.path.name)
        try:
            module.load_state_dict(_tensors(data), strict=True)
        except RuntimeError:
            raise BundleInvalid("the weights do not fit network_def", bundle=self.path.name) from None
        return module.to(device).eval().requires_grad_(False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by themselves, for a model that is no network."""
        return _tensors(self._weights())

    def _weights(self) -> bytes:
        """The weights file, read once and checked as read."""
        data = (self.path / self.weights).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sums[self.weights]:
            raise BundleDamaged(file=self.weights, bundle=self.path.name)
        return data


def bundles_in(folder: Path) -> Iterator[Path]:
    """The bundle folders under `folder`: `<pipeline>/<version>/`, the newest version last, or a bundle lying there by itself."""
    found = (metadata.parents[1] for metadata in folder.rglob(METADATA))
    whole = (bundle for bundle in found if not any(part.startswith(".") for part in bundle.relative_to(folder).parts))  # not being added
    yield from sorted(whole, key=lambda bundle: (bundle.parent, _number(bundle.name), bundle.name))


def _number(version: str) -> Version:
    """What is no version is the oldest."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def age_in_years(age: str) -> float | None:
    """Patient's Age (0010,1010), `nnnD`, `nnnW`, `nnnM` or `nnnY`, as years; a bare number counts as years.

    None when it can't be read, and for `000Y`, which is what anonymizers write: the newborn have days, weeks or months.
    """
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY]?)\s*", age)
    if match is None or int(match[1]) == 0:
        return None
    return int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}[match[2]]


def sha256(path: Path) -> str:
    """The digest of a file; empty when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return ""


def _float32_bytes(weights: Path) -> int:
    """Of safetensors, four for each number; of other files their size, which is nearly all weights."""
    if weights.suffix != ".safetensors":
        return weights.stat().st_size
    from safetensors import safe_open

    with safe_open(weights, "np") as tensors:
        return sum(4 * math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 it is no dict


def write_sums(path: Path) -> None:
    """Write SHA256SUMS over every file of the bundle, so that `sha256sum -c` can check it too."""
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p.name != SUMS)
    (path / SUMS).write_text("".join(f"{sha256(path / name)}  {name}\n" for name in names), encoding="utf-8")


def _sums(path: Path) -> dict[str, str]:
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BundleInvalid(f"no readable {SUMS}", bundle=path.name) from None
    found: dict[str, str] = {}
    root = path.resolve()
    for line in filter(str.strip, lines):
        match = LINE.match(line)
        if match is None:
            raise BundleInvalid(f"{SUMS} has a line that is no digest and path", bundle=path.name)
        digest, name = match.groups()
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not (path / name).resolve().is_relative_to(root):
            raise BundleInvalid(f"{SUMS} names a path outside the bundle", bundle=path.name)
        found[inside.as_posix()] = digest
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise BundleInvalid(f"{path.name} is not JSON", bundle=path.parent.parent.name) from None
    if not isinstance(read, dict):
        raise BundleInvalid(f"{path.name} is not a JSON object", bundle=path.parent.parent.name)
    return read


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    """A state dict from bytes, by what they are and not by their suffix: a zip is torch's, the rest safetensors'."""
    import io
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if data[:2] == b"PK":
        try:
            read: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except UnpicklingError:
            raise BundleInvalid("the weights hold more than tensors (weights_only=True refuses them)") from None
        for key in ("model", "state_dict"):
            if isinstance(read, dict) and isinstance(read.get(key), dict):
                read = read[key]
        return dict(read)
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except SafetensorError:
        raise BundleInvalid("the weights are neither safetensors nor a state dict") from None
    return tensors


def _built(definition: Any, config: Mapping[str, Any], bundle: str) -> Any:
    """The network that `network_def` describes, from plain values and `@` references to plain values."""
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise BundleInvalid("inference.json has no network_def with a _target_", bundle=bundle)
    target = str(definition["_target_"])
    if "." not in target:
        target = f"monai.networks.nets.{target}"
    if not target.startswith(BUILDERS):
        raise BundleInvalid(f"network_def may be built from {', '.join(BUILDERS)} only", bundle=bundle)
    module, _, name = target.rpartition(".")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise BundleInvalid("network_def names a network that is not installed", bundle=bundle) from None
    arguments = {k: _plain(v, config, bundle) for k, v in definition.items() if not (k.startswith("_") and k.endswith("_"))}
    arguments.update({k: v for k, v in PRETRAINED.items() if k in arguments})
    try:
        return build(**arguments)
    except (TypeError, ValueError, KeyError, RuntimeError) as why:
        raise BundleInvalid(f"network_def can't be built: {type(why).__name__}", bundle=bundle) from None


def _plain(value: Any, config: Mapping[str, Any], bundle: str, depth: int = 0) -> Any:
    if depth > 20:
        raise BundleInvalid("network_def refers to itself", bundle=bundle)
    if isinstance(value, dict):
        if "_target_" in value:
            return _built(value, config, bundle)
        return {k: _plain(v, config, bundle, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, config, bundle, depth + 1) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        raise BundleInvalid("network_def holds an expression; write the value instead", bundle=bundle)
    if isinstance(value, str) and value.startswith("@"):
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, ValueError, IndexError, TypeError):
                raise BundleInvalid("network_def refers to a key that is not there", bundle=bundle) from None
        return _plain(found, config, bundle, depth + 1)
    return value


def _ready(module: torch.nn.Module, shape: tuple[int, ...] | None, device: str, engine: str) -> Callable[[torch.Tensor], Any]:
    """The module to be called: compiled where that was asked for and is the same, else as it is, with what it is given on its device."""
    import torch

    if engine == "openvino" and device == "cpu" and shape is not None:
        compiled = _compiled(module, shape)
        if compiled is not None:
            return compiled
    if isinstance(module, torch.jit.ScriptModule) and device != "cpu":  # takes no hooks
        return lambda *given: module(*(one.to(device) for one in given))
    if device != "cpu":
        module.register_forward_pre_hook(lambda _, given: tuple(one.to(device) for one in given))
    plain: Callable[[torch.Tensor], Any] = module
    return plain


def _compiled(module: torch.nn.Module, shape: tuple[int, ...]) -> Callable[[torch.Tensor], Any] | None:
    """The module compiled by OpenVINO for one image at a time; None when that is not to be had or not the same."""
    import warnings

    import torch

    try:
        import openvino as ov
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    except ImportError:
        return None
    core = ov.Core()
    example = torch.linspace(0, 1, int(torch.tensor(shape).prod())).reshape(1, *shape)
    example = (example * 37).sin().abs()  # stripes: something every layer answers to
    options: dict[str, str] = {"PERFORMANCE_HINT": "LATENCY"}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        options["INFERENCE_PRECISION_HINT"] = "bf16"
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns of shape checks in python
        try:
            # traced once, not three times: the answers are compared below
            traced = TorchScriptPythonDecoder(module, example_input=example, trace_kwargs={"check_trace": False})
            request = core.compile_model(ov.convert_model(traced, example_input=example, input=[(1, *shape)]), "CPU", options)
        except RuntimeError:
            return None
        expected = module(example)

    def run(batch: torch.Tensor) -> Any:
        rows = []
        for image in batch.float().cpu().numpy():
            answer = request(image[None])
            rows.append([torch.from_numpy(answer[i].copy()) for i in range(len(request.outputs))])
        outputs = tuple(torch.cat(column) for column in zip(*rows, strict=True))
        return outputs if isinstance(expected, (tuple, list)) else outputs[0]

    def flat(outputs: Any) -> list[torch.Tensor]:
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]

    for ours, theirs in zip(flat(run(example)), flat(expected), strict=True):
        if float((torch.sigmoid(ours) - torch.sigmoid(theirs)).abs().max()) > AGREE:
            return None
    return run
