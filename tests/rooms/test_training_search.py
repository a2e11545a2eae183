"""A search tries values in short runs, breaks off what falls behind, goes on where it was, and leaves what a training run takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from tests.rooms.tiny_breast_set import a_breast_set
from training.__main__ import app
from training.course import FACTORS, Course, Diverged
from training.search import LOOKS, RANGES, UNBROKEN, BestUnreadable, SearchRefused, factors_in, search, worth
from training.splits import GroupInTwoSplits


class Hill:
    """A run whose figures climb towards what its values are worth: best at three times the recipe's learning rate."""

    def __init__(self, cut_off_at: int | None = None) -> None:
        self.begun: list[Mapping[str, float]] = []
        self.looks = 0
        self.cut_off_at = cut_off_at

    def __call__(self, folder: Path, course: Course) -> None:
        self.begun.append(course.factors)
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"large")
        if len(self.begun) == self.cut_off_at:
            raise KeyboardInterrupt
        height = 1 - abs(math.log(course.factors["peak_rate"] / 3)) / 4
        for look in range(1, LOOKS + 1):
            self.looks += 1
            course.watch(look, {"val_dice": height * look / LOOKS, "val_unseen": 7})


def test_the_search_begins_with_the_recipe_finds_what_is_better_and_breaks_off_what_falls_behind(tmp_path: Path) -> None:
    hill = Hill()

    best = json.loads(search("lung_field", hill, tmp_path, trials=20, minutes=5, aim=("val_dice",)).read_text())

    assert hill.begun[0] == dict.fromkeys(FACTORS, 1.0)
    assert best["runs"] == len(hill.begun) == 20
    assert 1.5 < best["factors"]["peak_rate"] < 5
    assert best["worth"] > best["worth_of_the_recipe"] == pytest.approx(1 - math.log(3) / 4, abs=1e-4)
    assert factors_in(tmp_path / "best.json", "lung_field") == best["factors"]
    assert 0 < best["broken_off"] <= 20 - UNBROKEN
    assert hill.looks < 20 * LOOKS
    assert not list(tmp_path.rglob("*.pt"))


def test_a_search_that_was_cut_off_goes_on_with_what_it_was_trying(tmp_path: Path) -> None:
    cut = Hill(cut_off_at=3)
    with pytest.raises(KeyboardInterrupt):
        search("lung_field", cut, tmp_path, trials=5, minutes=5, aim=("val_dice",))
    killed = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}").ask()  # and nobody says how it went
    was_trying = {name: killed.suggest_float(name, *RANGES[name], log=True) for name in FACTORS}

    again = Hill()
    best = json.loads(search("lung_field", again, tmp_path, trials=5, minutes=5, aim=("val_dice",)).read_text())

    assert len(again.begun) == 3  # two had ended
    assert again.begun[:2] == [cut.begun[2], was_trying]
    assert best["runs"] == 5
    nothing_left = Hill()
    search("lung_field", nothing_left, tmp_path, trials=5, minutes=5, aim=("val_dice",))
    assert nothing_left.begun == []


def test_values_with_which_a_run_diverges_are_an_answer_and_no_end_of_the_search(tmp_path: Path) -> None:
    hill = Hill()

    def steep(folder: Path, course: Course) -> None:
        if course.factors["peak_rate"] > 1:
            raise Diverged("10 steps in a row gave no numbers")
        hill(folder, course)

    best = json.loads(search("lung_field", steep, tmp_path / "some", trials=8, minutes=5, aim=("val_dice",)).read_text())

    assert best["runs"] == 8
    assert best["factors"]["peak_rate"] <= 1
    assert best["broken_off"] >= 8 - len(hill.begun) > 0

    def always(folder: Path, course: Course) -> None:
        raise Diverged("10 steps in a row gave no numbers")

    with pytest.raises(SearchRefused, match="every run ended in steps that gave no numbers"):
        search("lung_field", always, tmp_path / "all", trials=2, minutes=5)


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    search("lung_field", Hill(), tmp_path, trials=1, minutes=5)

    with pytest.raises(SearchRefused, match=r"with pipeline lung_field: .* another --out"):
        search("covid_ct", Hill(), tmp_path, trials=2, minutes=5)
    with pytest.raises(SearchRefused, match="with minutes 5"):
        search("lung_field", Hill(), tmp_path, trials=2, minutes=9)
    with pytest.raises(SearchRefused, match="reports no figure"):
        search("picture_kinds", lambda folder, course: None, tmp_path / "kinds", trials=1, minutes=5)


def test_a_run_is_worth_the_mean_of_what_can_be_said() -> None:
    figures = {"val_dice": 0.5, "val_auc": 0.9, "val_auc_rare": float("nan"), "val_unseen": 3}

    assert worth({k: figures[k] for k in ("val_dice", "val_auc", "val_auc_rare")}) == pytest.approx(0.7)
    assert worth(figures, ("val_dice",)) == 0.5
    with pytest.raises(SearchRefused, match="too small"):
        worth(figures, ("val_auc_rare",))


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("no json", "is no best.json"),
        ('{"pipeline": "covid_ct", "factors": {"peak_rate": 1}}', "needs factors with peak_rate, weight_decay, averaging"),
        ('{"pipeline": "covid_ct", "factors": {"peak_rate": -1, "weight_decay": 1, "averaging": 1}}', "above 0"),
        (
            '{"pipeline": "brain_mri", "factors": {"peak_rate": 1, "weight_decay": 1, "averaging": 1}}',
            "found for brain_mri, not for covid_ct",
        ),
    ],
)
def test_a_file_that_is_no_result_of_this_search_is_refused(tmp_path: Path, text: str, because: str) -> None:
    (tmp_path / "best.json").write_text(text)

    with pytest.raises(BestUnreadable, match=because):
        factors_in(tmp_path / "best.json", "covid_ct")


def test_a_real_recipe_is_searched_and_then_trained_with_what_was_found(tmp_path: Path) -> None:
    data = a_breast_set(tmp_path / "data")
    words = ["breast_ultrasound", "--data", str(data), "--minutes", "0.03"]

    found = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "search"), "--search", "2"])
    assert found.exit_code == 0, found.output
    trained = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run"), "--tuned", str(tmp_path / "search" / "best.json")])
    assert trained.exit_code == 0, trained.output

    best = json.loads((tmp_path / "search" / "best.json").read_text())
    logs = [(tmp_path / "search" / "trials" / str(n) / "log.jsonl").read_text().splitlines() for n in range(2)]
    assert best["runs"] == 2
    assert all(1 <= len(log) <= LOOKS and json.loads(log[-1])["final"] for log in logs)
    assert best["worth"] == pytest.approx(
        max(worth({k: v for k, v in json.loads(log[-1]).items() if k.startswith("val_")}) for log in logs), abs=1e-4
    )
    assert (tmp_path / "run" / "weights.pt").exists()
    assert json.loads((tmp_path / "run" / "notes.json").read_text()) == {"tuned": best["factors"]}


def test_patients_stay_apart_in_a_search(tmp_path: Path) -> None:
    data = a_breast_set(tmp_path / "data", mixed=True)

    done = CliRunner().invoke(
        app, ["breast_ultrasound", "--data", str(data), "--minutes", "0.03", "--out", str(tmp_path / "search"), "--search", "2"]
    )

    assert isinstance(done.exception, GroupInTwoSplits)
    assert not (tmp_path / "search" / "best.json").exists()
