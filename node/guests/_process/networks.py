"""A bundle's weights, and the network that they fit: a state dict, a TorchScript file, or ONNX. Weights are data: nothing in them runs."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from node.guests._process.endings import of_onnx
from node.guests._process.refusal import Refusal

MOST_NAMED = 4
NUMPYS = ("numpy.core.multiarray", "numpy._core.multiarray")  #: as numpy 1 and numpy 2 wrote it


def scripted(path: Path) -> bool:
    """Whether the file is a TorchScript archive, whatever it is called."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def torchscript(path: Path, device: str) -> torch.nn.Module:
    """A TorchScript file as a network. torch calls the format old on every use; it is what people have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            loaded: torch.nn.Module = torch.jit.load(io.BytesIO(path.read_bytes()), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as why:
            raise Refusal(f"{path.name} is no TorchScript that this torch reads: {_first_line(why)}") from None
    return loaded.eval().float()  # of half or double precision: an image comes in float32


class Onnx:
    """An ONNX file as a network, by OpenVINO in float32: gives a tensor, or a dict of tensors where the file has several outputs.

    Attributes
    ----------
    size
        What its input must have, without batch and channels; empty where the file leaves it open.
    ending
        "sigmoid" or "softmax", where it ends with that.
    """

    def __init__(self, path: Path) -> None:
        import openvino as ov

        core = ov.Core()
        try:
            model = core.read_model(path)
            self.ending = of_onnx(model)
            compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as why:
            raise Refusal(_unreadable(path, why)) from None
        if len(compiled.inputs) != 1:
            inputs = ", ".join(sorted(one.any_name for one in compiled.inputs))
            raise Refusal(f"{path.name} takes {len(compiled.inputs)} inputs ({inputs}); the node has one image to give")
        batch, channels, *asked = [dimension.get_length() if dimension.is_static else 0 for dimension in compiled.inputs[0].partial_shape]
        if len(asked) > 1 and asked[-1] in (1, 3, 4) and channels not in (1, 3, 4):
            raise Refusal(
                f"{path.name} takes its channels last; the node gives them before the image. Export it so, with tf2onnx by"
                " --inputs-as-nchw and --outputs-as-nchw"
            )
        if batch > 1:
            raise Refusal(f"{path.name} takes {batch} images at once and no other number; export it for one, or for any number")
        self.size = tuple(asked) if asked and all(asked) else ()
        self._whole = compiled.inputs[0].element_type.is_integral()
        self._names = [sorted(one.names)[0] if one.names else str(i) for i, one in enumerate(compiled.outputs)]
        self._request = compiled.create_infer_request()

    def __call__(self, batch: torch.Tensor) -> Any:
        if self._whole:
            if batch.max() - batch.min() <= 1:
                raise Refusal(
                    "the network takes whole numbers, and is given values within 0 to 1; say in the mapping file how they are to be scaled, for"
                    " example preprocessing: [{_target_: ScaleIntensityd, keys: image, maxv: 255}]"
                )
            batch = batch.round()
        try:
            answer = self._request.infer([batch.detach().float().cpu().contiguous().numpy()])
        except RuntimeError as why:
            raise Refusal(f"the network does not take {tuple(batch.shape)}: {_first_line(why)}") from None
        outputs = [torch.from_numpy(answer[i].copy()) for i in range(len(self._names))]
        return outputs[0] if len(outputs) == 1 else dict(zip(self._names, outputs, strict=True))


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, read by what the file is and not by its suffix; `{"model": …}` and `{"state_dict": …}` are unwrapped."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    read: Any
    header = int.from_bytes(data[:8], "little")  # of safetensors: its length, which may begin like a pickle
    headed = data[8:9] == b"{" and header <= len(data)
    if not headed and (data[:2] == b"PK" or data[:1] == b"\x80"):  # torch's zip, and the pickle of before 1.6
        try:
            read = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except UnpicklingError:
            raise Refusal(
                f"{path.name} holds more than tensors, and could run code (weights_only=True refuses it); save the state dict alone"
            ) from None
        except (RuntimeError, EOFError, ValueError) as why:
            raise Refusal(f"{path.name} is damaged: {_first_line(why)}") from None
    else:
        try:
            read = load(data)
        except SafetensorError:
            raise Refusal(f"{path.name} is neither a state dict of torch nor safetensors") from None
    for key in ("model", "state_dict", "model_state_dict", "network"):
        if isinstance(read, dict) and isinstance(read.get(key), dict):
            read = read[key]
    if not isinstance(read, dict) or not all(isinstance(value, torch.Tensor) for value in read.values()):
        raise Refusal(f"{path.name} is no state dict: tensors by name")
    return read


def read_numpy_too() -> None:
    """Let `weights_only=True` read numpy's arrays and numbers, by the names that numpy 1 and 2 give them: they are data as tensors are."""
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    named = [(getattr(multiarray, name), f"{home}.{name}") for name in ("_reconstruct", "scalar") for home in NUMPYS]
    torch.serialization.add_safe_globals([np.ndarray, np.dtype, *dtypes, *named])


def fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], file: str) -> None:
    """Put the weights into the network, every one of them. Raises Refusal, naming what does not fit."""
    wanted = network.state_dict()
    while weights and not set(wanted) & set(weights):  # saved as part of something: "model.0.weight", "model.module.0.weight"
        [(head, _)] = Counter(name.partition(".")[0] for name in weights).most_common(1)
        if not any(name.startswith(f"{head}.") for name in weights):
            break
        weights = {name.removeprefix(f"{head}."): tensor for name, tensor in weights.items()}
    missing = [name for name in wanted if name not in weights]
    more = [name for name in weights if name not in wanted]
    other = [
        f"{name} is {tuple(weights[name].shape)}, the network has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    if missing or more or other:
        parts = [_named("missing", missing), _named("not in the network", more), _named("of another shape", other)]
        raise Refusal(f"{file} does not fit the network that the bundle describes: {'; '.join(filter(None, parts))}")
    if broken := [name for name in wanted if torch.is_floating_point(weights[name]) and weights[name].isnan().any()]:
        raise Refusal(f"{file} is damaged: {_named('values that are no numbers in', broken)}")
    network.load_state_dict(dict(weights), strict=True)


def _unreadable(path: Path, why: BaseException) -> str:
    """Why OpenVINO does not read a file, and what helps."""
    if (elsewhere := re.search(r"externally stored data in file \(([^,)]+)", str(why))) is not None:
        return f"{path.name} keeps its weights in a file of its own, {elsewhere[1][:80]}: put that beside it, and add it again"
    if "Unable to read the model" in str(why):
        return f"{path.name} is damaged or no ONNX file"
    return f"{path.name} can't be read as ONNX: {_first_line(why)}"


def _named(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{what}: {', '.join(names[:MOST_NAMED])}{rest}" if names else ""


def _first_line(why: BaseException) -> str:
    lines = [line.strip() for line in str(why).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(why).__name__
