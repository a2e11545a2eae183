"""A GPU that is not there: its tensors say `cuda:0`, compute on the CPU, and refuse what those of a GPU refuse.

Values are the CPU's, so a whole pipeline can run on it. What mixes devices or hands a tensor to numpy fails as it would on the hardware.
Speed, memory, rounding and the driver are not pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
import torch
from monai.visualize import occlusion_sensitivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
MOVES = {"_to_copy", "copy_"}  #: operations that may know two devices
INDEXES = {"index", "index_put", "index_put_"}  #: of a tensor on the GPU, by others on the CPU


class OnGpu(torch.Tensor):
    """A tensor on the pretended GPU. To torch itself it lies on "meta", for which torch has no kernels and asks no driver."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> OnGpu:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device="meta",
        )

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.numpy()

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


@contextmanager
def a_gpu() -> Iterator[str]:
    """For as long as the block runs there is a GPU, `cuda:0`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "_lazy_init", lambda: None)
        patched.setattr(torch, "inference_mode", torch.no_grad)  # which can't hold tensors of a kind of their own
        patched.setattr(occlusion_sensitivity, "MetaTensor", torch.as_tensor)  # there can be one kind only
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter can't hold another kind of tensor
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=…)` is a copy like any other
        try:
            with _Noticing():
                yield str(GPU)
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(before)


class _Noticing(TorchDispatchMode):
    """What comes to the GPU, or begins there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(one, OnGpu) for one in types) or _elsewhere(kwargs.get("device")):
            return _computed(function, args, kwargs)
        return function(*args, **kwargs)


def _elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device).type != "cpu"


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = any(isinstance(one, OnGpu) for one in tensors)
    if name == "copy_" or name in INDEXES:
        there = isinstance(args[0], OnGpu)
    others = {one.ndim for one in tensors if isinstance(one, OnGpu) is not there}
    if name not in MOVES and (others - {0} if there else others) and not (there and name in INDEXES):  # a number on the CPU goes with all
        raise RuntimeError(f"{function}: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")
    if kwargs.get("device") is not None and name not in {"copy_"}:
        there = _elsewhere(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(OnGpu, lambda one: one.numbers, (args, kwargs))
    out = function(*inner_args, **inner_kwargs)
    if function._schema.is_mutable and isinstance(args[0], torch.Tensor) and name.endswith("_"):
        return args[0]
    return tree_map_only(torch.Tensor, OnGpu, out) if there else out
