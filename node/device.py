"""Where a process computes: on a GPU where there is one that torch can use, else on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

from node import log
from node.errors import DeviceUnusable

_log = log.get(__name__)

GPUS = ("nvidia[0-9]*", "dxg")  #: below /dev, on Linux and in Windows' Linux; a container has those it was given, not always the first


def chosen(wanted: str, number: int, *, devices: Path = Path("/dev")) -> str:
    """The device of worker `number`: with "auto" the GPUs in turn, or the CPU where there is none that can be used."""
    if wanted != "auto":
        return wanted
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not any(found for name in GPUS for found in devices.glob(name)):
        return "cpu"  # and torch, which takes long to import, need not be asked
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = f"cuda:{number % count}" if count else ""
    if device and computes(device):
        return device
    _log.warning("there is a GPU that torch can't use; this process computes on the CPU", extra={"torch": torch.__version__, "gpus": count})
    return "cpu"


def computes(device: str) -> bool:
    """Whether torch can add there. That it sees a GPU is not enough: its kernels are made for some generations only."""
    import torch

    try:
        return bool(torch.ones(1, device=device).sum() == 1)
    except (RuntimeError, AssertionError):
        return False


def check(device: str) -> None:
    """Raises DeviceUnusable where nothing can be computed on `device`."""
    if device != "cpu" and not computes(device):
        raise DeviceUnusable(device=device)
