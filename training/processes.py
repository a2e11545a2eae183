"""Several processes that train one network together: `torchrun --nproc-per-node N -m training …`, one process a GPU, or some on a CPU.

A process that was not started by torchrun is alone: it is the first, and agrees with itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
from torch import distributed

PATIENCE = timedelta(hours=2)  #: how long the others wait while the first one evaluates and writes


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block runs."""
    if count() == 1:
        yield
        return
    on_gpu = torch.cuda.is_available()
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if on_gpu and here > gpus:
        raise SystemExit(
            f"{here} processes for {gpus} GPU(s): --nproc-per-node {gpus} at most, or CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    if on_gpu:
        torch.cuda.set_device(device())
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def leave(status: int | str | None) -> NoReturn:
    """End this process with what `sys.exit` takes. One of several ends at once.

    torch keeps threads of a group that DistributedDataParallel has used, and one that Python's end finds at work ends the process with SIGABRT.
    """
    if count() == 1:
        sys.exit(status)
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def count() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def first() -> bool:
    """Whether this is the process that evaluates and writes."""
    return rank() == 0


def device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU where there is none."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def agreed(value: float) -> float:
    """What the first process says: clocks differ, and all must take the same number of steps."""
    if count() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=device())
    distributed.broadcast(told, src=0)
    return float(told)


def same(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def keep(state: dict[str, torch.Tensor], out: Path) -> None:
    """`weights.pt` of the run, written by the first process."""
    if first():
        torch.save(state, out / "weights.pt")


def write(path: Path, text: str) -> None:
    """A file of the run, written by the first process."""
    if first():
        path.write_text(text)
