"""One training run: a wall-clock budget, cosine schedule over it, moving-average weights, checkpoints.

The budget is in minutes and not in epochs, because the machine may be shared: a run ends when its time
is over, and its learning rate has come down by then. A stopped run goes on where it was (`resume`).
"""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Batch = dict[str, torch.Tensor]
CHECKPOINT_EVERY_S = 120.0


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


def train(
    model: nn.Module,
    *,
    draw: Callable[[np.random.Generator, float], Batch],
    loss_of: Callable[[nn.Module, Batch], torch.Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    out: Path,
    minutes: float,
    peak_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    decay: float = 0.995,
    resume: bool = False,
    seed: int = 0,
    evaluate_every_s: float = 420.0,
) -> dict[str, torch.Tensor]:
    """Train for `minutes` of wall clock and give the averaged weights.

    `draw(rng, progress)` makes one batch (runs in a second thread); `evaluate` gets a copy of the model
    with the averaged weights. Writes `checkpoint.pt` and `log.jsonl` into `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=weight_decay)
    average = Average(model, decay)
    spent, step = 0.0, 0
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.exists():
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, average.steps = saved["average"], saved["average_steps"]
        spent, step = saved["spent"], saved["step"]

    begun = time.monotonic() - spent
    progress_now = [spent / 60 / minutes]
    batches: queue.Queue[Batch] = queue.Queue(maxsize=3)
    ended = threading.Event()

    def produce() -> None:
        rng = np.random.default_rng([seed, step])
        while not ended.is_set():
            batch = draw(rng, progress_now[0])
            while not ended.is_set():
                try:
                    batches.put(batch, timeout=1.0)
                    break
                except queue.Full:
                    continue

    threading.Thread(target=produce, daemon=True).start()
    last_saved = last_evaluated = time.monotonic()
    images, recent = 0, []

    def save() -> None:
        part = checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state,
                "average_steps": average.steps,
                "spent": time.monotonic() - begun,
                "step": step,
            },
            part,
        )
        part.replace(checkpoint)

    def note(**facts: Any) -> None:
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(facts) + "\n")

    while (progress := (time.monotonic() - begun) / 60 / minutes) < 1.0:
        progress_now[0] = progress
        model.train()
        rate = learning_rate(progress, peak_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batches.get(timeout=600)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        average.update(model)
        step += 1
        images += int(batch["image"].shape[0])
        recent.append(float(loss.detach()))
        now = time.monotonic()
        if now - last_saved > CHECKPOINT_EVERY_S:
            save()
            last_saved = now
        if now - last_evaluated > evaluate_every_s:
            model_now = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(average.state)
            model.eval()
            figures = evaluate(model)
            model.load_state_dict(model_now)
            note(
                minutes=round((now - begun) / 60, 2),
                step=step,
                images=images,
                loss=round(float(np.mean(recent)), 4),
                rate=rate,
                **figures,
            )
            recent.clear()
            last_evaluated = time.monotonic()
    ended.set()
    save()
    model.load_state_dict(average.state)
    model.eval()
    note(minutes=minutes, step=step, images=images, final=True, **evaluate(model))
    return average.state
