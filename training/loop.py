"""One training run: a wall-clock budget, cosine schedule over it, moving-average weights, checkpoints.

The budget is in minutes and not in epochs, because the machine may be shared: a run ends when its time
is over, and its learning rate has come down by then. A stopped run goes on where it was (`resume`).
Processes that torchrun started train one network: each draws its own batches, gradients are averaged, and
the first one evaluates and writes.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training import processes
from training.best import Best
from training.course import Course, Diverged, RunRefused, Stopped

Batch = dict[str, torch.Tensor]
CHECKPOINT_EVERY_S = 120.0
AHEAD = 3  #: batches that are made before they are asked for
MOST_LOST = 10  #: steps in a row whose gradients are no numbers, before a run is given up


class Average:
    """Exponential moving average of weights and buffers; what is shipped and evaluated."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[key].lerp_(value.detach(), 1 - decay)
            else:
                self.state[key].copy_(value)


def learning_rate(progress: float, peak: float, warm_up: float = 0.03) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak; `progress` is 0 to 1."""
    if progress < warm_up:
        return peak * (0.05 + 0.95 * progress / warm_up)
    x = min(1.0, (progress - warm_up) / (1 - warm_up))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * x)))


@cache
def _has_bfloat16(kind: str) -> bool:
    """Whether this processor, or this process's GPU, counts in bfloat16 itself: where it does not, torch imitates it."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class Loss(nn.Module):
    """A batch in, its loss out: what several processes share, so that `loss_of` may call the model as it likes."""

    def __init__(self, model: nn.Module, loss_of: Callable[[nn.Module, Batch], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss_of = loss_of

    def forward(self, batch: Batch) -> torch.Tensor:
        kind = batch["image"].device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=_has_bfloat16(kind)):
            return self.loss_of(self.model, batch)


@contextmanager
def drawn(draw: Callable[[], Batch]) -> Iterator[Callable[[], Batch]]:
    """The next batch, made in a second thread while the last one trains; what `draw` raises, asking for its batch raises.

    The thread has ended when the block has: one that Python's end finds within torch would end the process with SIGABRT.
    """
    with ThreadPoolExecutor(1, "draw") as thread:
        ahead = deque(thread.submit(draw) for _ in range(AHEAD))

        def following() -> Batch:
            ahead.append(thread.submit(draw))
            return ahead.popleft().result()

        try:
            yield following
        finally:
            thread.shutdown(cancel_futures=True)


def whole(checkpoint: Path) -> dict[str, Any]:
    """What a run has left. Raises RunRefused when it was cut off, or is no checkpoint."""
    try:
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
        if {"model", "optimizer", "average", "average_steps", "spent", "step"} <= set(saved):
            return saved
    except OSError:
        raise
    except Exception:  # a damaged file may fail in any way
        pass
    raise RunRefused(f"{checkpoint} is damaged or no checkpoint of a run: take it away, and the run begins anew")


def train(
    model: nn.Module,
    *,
    draw: Callable[[np.random.Generator, float], Batch],
    loss_of: Callable[[nn.Module, Batch], torch.Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    out: Path,
    course: Course,
    peak_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    decay: float = 0.995,
    seed: int = 0,
    evaluate_every_s: float = 420.0,
) -> dict[str, torch.Tensor]:
    """Train for the minutes of `course` and give the averaged weights, which the model then has too.

    `draw(rng, progress)` makes one batch (runs in a second thread); `evaluate` gets a copy of the model
    with the averaged weights, on the CPU. Writes `checkpoint.pt` and `log.jsonl` into `out`. A step whose gradients are no numbers
    changes nothing; Diverged after `MOST_LOST` of them in a row. Raises RunRefused when the checkpoint to go on from can't be read or is
    of another network.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    minutes, peak_rate = course.minutes, course.times("peak_rate", peak_rate)
    decay = 1 - min(1.0, course.times("averaging", 1 - decay))
    if course.looks is not None:
        evaluate_every_s = minutes * 60 / course.looks
    witness = copy.deepcopy(model)
    model = model.to(processes.device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=course.times("weight_decay", weight_decay))
    spent, step, images, looks = 0.0, 0, 0, 0
    best = Best(course.patience, course.aim)
    checkpoint = out / "checkpoint.pt"
    saved: dict[str, Any] | None = None
    if course.resume and checkpoint.exists():
        saved = whole(checkpoint)
        try:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError):
            raise RunRefused(f"{checkpoint} is of another recipe: go on with that, or take another --out") from None
        spent, step, images = saved["spent"], saved["step"], saved.get("images", 0)
        if course.patience and "best" in saved:
            best.take(saved["best"])
    loss = Loss(model, loss_of)
    several: nn.Module = DistributedDataParallel(loss, find_unused_parameters=True) if processes.count() > 1 else loss
    average = Average(model, decay)  # now that all processes have the weights of the first
    if saved is not None:
        average.steps = saved["average_steps"]
        for key, value in saved["average"].items():
            average.state[key].copy_(value)

    begun = time.monotonic() - spent
    progress = processes.agreed(spent / 60 / minutes)
    rng = np.random.default_rng([seed, step, processes.rank()] if processes.rank() else [seed, step])
    last_saved = last_evaluated = time.monotonic()
    recent, lost = [], 0

    def save() -> None:
        part = checkpoint.with_suffix(".part")
        facts = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state,
            "average_steps": average.steps,
            "spent": time.monotonic() - begun,
            "step": step,
            "images": images,
            "best": best.facts(),
        }
        try:
            torch.save(facts, part)
        except (OSError, RuntimeError) as why:  # RuntimeError: of torch's own writer, when the disk is full
            part.unlink(missing_ok=True)
            raise OSError(f"{checkpoint} can't be written; the one before is as it was: {why}") from why
        part.replace(checkpoint)

    def look(**facts: Any) -> None:
        """Evaluate the averaged weights and write down what they are worth."""
        nonlocal looks
        looks += 1
        witness.load_state_dict(average.state)
        figures = evaluate(witness.eval())
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps({**facts, **figures}) + "\n")
        best.see(figures, average.state)
        course.watch(looks, figures)

    with drawn(lambda: draw(rng, min(progress, 1.0))) as next_batch:
        while progress < 1.0:
            model.train()
            rate = learning_rate(progress, peak_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = {key: value.to(processes.device()) for key, value in next_batch().items()}
            cost = several(batch)
            optimizer.zero_grad(set_to_none=True)
            cost.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 2.0)  # the same in all processes
            if bool(torch.isfinite(norm)):
                optimizer.step()
                average.update(model)
                recent.append(float(cost.detach()))
                lost = 0
            else:
                lost += 1
            if lost == MOST_LOST:
                raise Diverged(f"{lost} steps in a row gave no numbers; --resume goes on from the last checkpoint, if there is one")
            step += 1
            images += int(batch["image"].shape[0]) * processes.count()
            now = time.monotonic()
            if processes.first() and now - last_saved > CHECKPOINT_EVERY_S:
                save()
                last_saved = now
            due = now - last_evaluated > evaluate_every_s and (course.looks is None or looks < course.looks - 1)
            if processes.first() and due:
                look(
                    minutes=round((now - begun) / 60, 2),
                    step=step,
                    images=images,
                    loss=round(float(np.mean(recent)), 4),
                    rate=rate,
                )
                recent.clear()
                last_evaluated = time.monotonic()
            done = (time.monotonic() - begun) / 60
            progress = processes.agreed(math.inf if course.stopped() else max(done / minutes, float(best.is_over)))
            if math.isinf(progress):
                if processes.first():
                    save()
                raise Stopped(f"stopped after {done:.1f} of {minutes:.1f} minutes: --resume goes on from there")
    if processes.first():
        save()
        if best.is_over:
            best.put_back(average.state)
            minutes = round((time.monotonic() - begun) / 60, 2)
        look(minutes=minutes, step=step, images=images, final=True)
        best.put_back(average.state)
    processes.same(average.state.values())  # statistics are each process's own, and the first knows what was best
    shipped = {key: value.cpu() for key, value in average.state.items()}
    model.cpu().load_state_dict(shipped)
    model.eval()
    return shipped
