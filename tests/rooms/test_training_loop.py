"""A training run keeps to its minutes, learns, and goes on where it was stopped."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.augment import placed, shaded
from training.course import Course
from training.loop import Average, drawn, learning_rate, train


def draw(rng: np.random.Generator, progress: float) -> dict[str, torch.Tensor]:
    image = torch.from_numpy(rng.random((4, 1, 16, 16), dtype=np.float32))
    return {"image": image, "mask": (image > 0.5).float()}


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(model(batch["image"]).float(), batch["mask"])


def score(model: nn.Module) -> dict[str, float]:
    with torch.inference_mode():
        return {"loss": float(loss_of(model, draw(np.random.default_rng(7), 1.0)))}


def test_a_run_learns_within_its_minutes_and_resumes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    begun = time.monotonic()
    first = train(
        nn.Conv2d(1, 1, 1), draw=draw, loss_of=loss_of, evaluate=score, out=tmp_path, course=Course(minutes=0.06), peak_rate=0.3, decay=0.9
    )
    assert time.monotonic() - begun < 20
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["final"]
    assert log[-1]["loss"] < 0.45  # 0.69 at the start
    assert first["weight"].item() > 0

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    train(
        nn.Conv2d(1, 1, 1),
        draw=draw,
        loss_of=loss_of,
        evaluate=score,
        out=tmp_path,
        course=Course(minutes=0.09, resume=True),
        peak_rate=0.3,
        decay=0.9,
    )
    again = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert again["step"] > saved["step"]
    assert again["spent"] == pytest.approx(0.09 * 60, abs=2.0)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["images"]) == (again["step"], again["step"] * 4)  # of the whole run, not of what came after the stop


def test_a_run_that_gets_no_better_ends_early_with_its_best_weights(tmp_path: Path) -> None:
    seen: list[float] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append(float(model.weight.detach()))  # type: ignore[operator, arg-type]
        return {"dice": (0.5, 0.7, float("nan"), 0.6, 0.7, 0.65)[len(seen) - 1], "other": -float(len(seen))}

    course = Course(minutes=0.5, looks=40, patience=3, aim=("dice",))
    begun = time.monotonic()
    last = train(nn.Conv2d(1, 1, 1), draw=draw, loss_of=loss_of, evaluate=evaluate, out=tmp_path, course=course, peak_rate=0.3, decay=0.9)

    assert time.monotonic() - begun < 20  # of 30
    assert len(set(seen)) == 5  # the best was the second; three more
    assert seen[5:] == [seen[1]]  # the last look is at what is given
    assert last["weight"].item() == seen[1]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["final"]
    assert log[-1]["minutes"] < 0.4
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["best"]
    assert (kept["worth"], kept["since"]) == (0.7, 3)


def test_the_rate_warms_up_and_comes_down() -> None:
    assert learning_rate(0.0, 1.0) == pytest.approx(0.05)
    assert learning_rate(0.03, 1.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 1.0) == pytest.approx(0.01)
    rates = [learning_rate(p, 1.0) for p in np.linspace(0.03, 1, 50)]
    assert rates == sorted(rates, reverse=True)


def test_the_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = Average(model, decay=0.5)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(30):
        average.update(model)
    assert average.state["weight"].item() == pytest.approx(1.0, abs=1e-3)


def test_picture_and_mask_move_together() -> None:
    """A disc drawn in both stays one disc, however it is turned, scaled and mirrored."""
    rows, columns = np.mgrid[:120, :160]
    disc = ((rows - 40) ** 2 + (columns - 100) ** 2 < 20**2).astype(np.float32)
    for seed in range(20):
        image, mask = placed(disc, disc, 128, np.random.default_rng(seed), rotate_deg=30, scale=(0.8, 1.2), elastic=0.01)
        assert image.shape == mask.shape == (128, 128)
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert float(np.abs((image > 0.5) - mask).mean()) < 0.01
        assert 0.01 < float(mask.mean()) < 0.2


def test_the_same_seed_gives_the_same_picture() -> None:
    grey = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    one, other = (shaded(grey, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


def test_no_thread_draws_when_the_run_has_ended() -> None:
    """A thread within torch at the end of Python takes the process with it."""
    busy = threading.Event()

    def slowly() -> dict[str, torch.Tensor]:
        busy.set()
        time.sleep(0.3)
        return {"image": torch.zeros(1)}

    before = set(threading.enumerate())
    with drawn(slowly) as following:
        following()
        busy.clear()
        assert busy.wait(10)
    assert set(threading.enumerate()) == before


def test_batches_come_in_the_order_they_were_drawn() -> None:
    numbers = iter(range(100))
    with drawn(lambda: {"image": torch.tensor(next(numbers))}) as following:
        assert [int(following()["image"]) for _ in range(20)] == list(range(20))


def test_a_batch_that_cannot_be_drawn_ends_the_run_at_once(tmp_path: Path) -> None:
    def damaged(rng: np.random.Generator, progress: float) -> dict[str, torch.Tensor]:
        raise OSError("case_17.png is no picture")

    begun = time.monotonic()
    with pytest.raises(OSError, match="case_17"):
        train(nn.Conv2d(1, 1, 1), draw=damaged, loss_of=loss_of, evaluate=score, out=tmp_path, course=Course(minutes=1))
    assert time.monotonic() - begun < 20


def broken(every: int) -> Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]:
    """A loss that is no number at one of so many steps."""
    steps = itertools.count(1)
    return lambda model, batch: loss_of(model, batch) * (float("nan") if next(steps) % every == 0 else 1.0)


def test_a_step_that_gives_no_number_changes_no_weight(tmp_path: Path) -> None:
    found = train(
        nn.Conv2d(1, 1, 1), draw=draw, loss_of=broken(3), evaluate=score, out=tmp_path, course=Course(minutes=0.03), peak_rate=0.3
    )

    assert all(torch.isfinite(value).all() for value in found.values())
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["loss"] < 0.69


def test_a_run_that_gives_no_numbers_any_more_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no numbers"):
        train(nn.Conv2d(1, 1, 1), draw=draw, loss_of=broken(1), evaluate=score, out=tmp_path, course=Course(minutes=1))
