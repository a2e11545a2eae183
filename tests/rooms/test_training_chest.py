"""Learning from sets that tell different things of different people: no label and no missing value may give a source away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from training.bundles.chest_xray import best_threshold, fitted
from training.datasets import chest_rows, cxr_adult224, cxr_figure1, cxr_nih64
from training.datasets.chest_rows import LABELS, OUTPUTS, targets_of, told_of
from training.evaluate import calibration_error
from training.recipes.chest_xray import (
    BATCH,
    SETS,
    STRIDE,
    Taught,
    against_normal,
    gnawed,
    known_values,
    masked_loss,
    network,
    smaller,
    told_for_training,
    varied,
    where_loss,
)
from training.robustness import CHANGES, moved, table
from training.splits import GroupInTwoSplits, ensure_disjoint


def test_a_row_trains_only_the_labels_that_it_has() -> None:
    logits = torch.zeros(2, len(OUTPUTS), requires_grad=True)
    targets = torch.from_numpy(np.stack([targets_of(normal=0, covid=1), targets_of(normal=1, pneumonia=0)]))

    masked_loss(logits, targets).backward()

    pushed = logits.grad != 0
    assert pushed[0].tolist() == [name in ("normal", "covid") for name in OUTPUTS]
    assert pushed[1].tolist() == [name in ("normal", "pneumonia") for name in OUTPUTS]
    assert torch.isfinite(logits.grad).all()


def test_a_patient_of_two_sets_may_not_stand_in_two_splits(tmp_path: Path) -> None:
    """Some of NIH's patients are in both of its sets, which number them in two ways: nobody saw one in training here and in validation there."""
    film = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name, columns, row in (
        ("cxr_adult224", cxr_adult224.COLUMNS, {"split": "train", "group": "n231", "label": "normal", "original": "00000231_001.png"}),
        ("cxr_nih64", cxr_nih64.COLUMNS, {"split": "val", "patient": "231", "label": "normal", "finding_labels": "No Finding"}),
    ):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "film.png"), film)
        cells = ",".join(({"file": "film.png"} | row).get(column, "") for column in columns)
        (tmp_path / name / "index.csv").write_text(f"{','.join(columns)}\n{cells}\n")

    def lungs(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return grey, np.ones(grey.shape, bool)

    rows = chest_rows.adult_films(tmp_path / "cxr_adult224", lungs) + chest_rows.nih_films(tmp_path / "cxr_nih64", lungs)

    with pytest.raises(GroupInTwoSplits, match="n231"):
        ensure_disjoint((row.split, row.group) for row in rows)


def test_rows_that_tell_nothing_at_all_cost_nothing() -> None:
    loss = masked_loss(torch.zeros(3, len(OUTPUTS)), torch.full((3, len(OUTPUTS)), float("nan")))

    assert float(loss) == 0


def a_row(label: str, source: str, **more: Any) -> chest_rows.Row:
    """A drawn film of 300 x 240 with two lungs."""
    lungs = np.zeros((300, 240), bool)
    lungs[30:270, 20:100] = lungs[30:270, 140:220] = True
    grey = np.where(lungs, np.float32(0.2), np.float32(0.7)) + np.random.default_rng(3).normal(0, 0.05, lungs.shape).astype(np.float32)
    given = {"name": label, "split": "train", "group": label, "grey": np.clip(grey, 0, 1).astype(np.float32), "lungs": lungs, "told": {}}
    return chest_rows.Row(label=label, source=source, targets=targets_of(normal=label == "normal"), **(given | more))


def test_boxes_teach_the_eyes_where_an_opacity_is_and_nothing_behind_them() -> None:
    taught = Taught(network())
    batch = {"opacity": torch.ones(2, 4, 4), "lungs": torch.ones(2, 4, 4), "looked": torch.ones(2)}

    _, where = taught(torch.rand(2, 1, 64, 64), torch.full((2, 3), float("nan")))
    where_loss(where, batch).backward()

    assert where.shape == (2, 64 // STRIDE, 64 // STRIDE)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in taught.net.backbone.parameters())
    assert taught.net.out.weight.grad is None


def test_a_batch_shows_about_as_many_normal_films_as_ill_ones_of_each_source_that_has_both() -> None:
    for source in ("cxr_lungfield256", "cxr_nih64"):
        numbers = {label: n for name, label, n in BATCH if name == source and label != "covid"}
        assert numbers["normal"] / sum(numbers.values()) == pytest.approx(0.5, abs=0.06), source


def test_a_film_to_learn_from_keeps_its_boxes_where_they_were() -> None:
    boxes = np.zeros((300, 240), bool)
    boxes[150:260, 25:95] = True
    row = smaller(a_row("pneumonia_opacity", "cxr_lungfield256", opacity=boxes, whole=False))
    rng = np.random.default_rng(5)

    film, opacity, lungs = varied(row, 112, rng)

    assert max(row.grey.shape) == 176
    assert row.opacity is not None
    assert row.opacity.shape == row.lungs.shape == row.grey.shape
    assert film.shape == (112, 112)
    assert opacity.shape == lungs.shape == (112 // STRIDE, 112 // STRIDE)
    half = opacity.shape[0] // 2
    assert opacity[half:].sum() > 3 * opacity[:half].sum()
    batch = {"opacity": torch.ones(1, 7, 7), "lungs": torch.ones(1, 7, 7), "looked": torch.tensor([0.0])}
    assert float(where_loss(torch.zeros(1, 7, 7), batch)) == 0  # nobody looked: nothing is told


def test_how_much_an_answer_moves_is_measured_against_the_same_film_as_it_is() -> None:
    films = [(np.full((60, 60), level, np.float32), level > 0.5) for level in (0.2, 0.4, 0.6, 0.8)]

    steady = moved(lambda film: 0.7, 0.5, films)
    bright = moved(lambda film: float(film.mean()), 0.5, films)
    choosy = moved(lambda film: None if film.shape != (60, 60) else float(film.mean()), 0.5, films)

    assert set(steady) == set(CHANGES)
    assert all(one["moved"] == 0 == one["called_otherwise"] for one in steady.values())
    assert bright["as it is"] == {"films": 4, "auc": 1.0, "moved": 0.0, "called_otherwise": 0, "refused": 0}
    assert bright["grey values inverted"]["auc"] == 0
    assert bright["grey values inverted"]["called_otherwise"] == 4
    assert choosy["half the pixels"]["refused"] == 4
    assert table(bright).count("\n") == len(CHANGES) + 1


def test_not_known_is_as_frequent_among_those_who_told_as_among_those_who_did_not() -> None:
    known = {"age_years": [30.0, 70.0], "sex": ["F"], "view": ["PA"]}
    rng = np.random.default_rng(0)

    def share(told: dict[str, float | str]) -> float:
        return float(np.mean(["age_years" in told_for_training(told, known, rng) for _ in range(4000)]))

    assert share({"age_years": 50.0, "sex": "M", "view": "AP"}) == pytest.approx(share({}), abs=0.04)


def test_another_outline_of_the_same_lungs_keeps_most_of_them() -> None:
    mask = np.zeros((112, 112), bool)
    mask[20:100, 15:50] = True
    rng = np.random.default_rng(1)

    outlines = [gnawed(mask, rng) for _ in range(40)]

    assert all(one[~mask].sum() == 0 and one.sum() > 0.5 * mask.sum() for one in outlines)
    assert len({int(one.sum()) for one in outlines}) > 10


def test_temperature_and_offset_bring_chances_to_how_often_they_come_true() -> None:
    rng = np.random.default_rng(2)
    honest = rng.normal(-1, 1.5, 4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-honest))
    boastful = 2.0 * (honest + 0.8)

    temperature, offset = fitted(boastful, truth)
    chances = 1 / (1 + np.exp(-(boastful / temperature + offset)))

    assert temperature == pytest.approx(2.0, rel=0.15)
    assert offset == pytest.approx(-0.8, abs=0.15)
    assert calibration_error(chances, truth) < 0.03
    assert calibration_error(1 / (1 + np.exp(-boastful)), truth) > 0.1


def test_the_threshold_is_where_sensitivity_and_specificity_are_best_on_average() -> None:
    chances, truth = np.array([0.1, 0.2, 0.6, 0.7]), np.array([False, False, True, True])

    assert best_threshold(chances, truth) == pytest.approx(0.6)
    assert best_threshold(chances, np.array([False, True, False, True]), np.array([1.0, 9.0, 1.0, 1.0])) == pytest.approx(0.2)


# --- the sets -------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fields(shared_images: Path) -> list[chest_rows.Row]:
    return chest_rows.lung_fields(shared_images / "cxr_lungfield256")


@pytest.fixture(scope="module")
def shared_images() -> Path:
    from tests.conftest import SHARED

    if not (SHARED / "data" / "images" / "cxr_lungfield256").is_dir():
        pytest.skip(f"real images are not here: set RADNODE_SHARED (looked in {SHARED})")
    return SHARED / "data" / "images"


def test_lung_fields_tell_what_their_readers_looked_for_and_no_more(fields: list[chest_rows.Row]) -> None:
    of = {name: next(row for row in fields if row.label == name).targets for name in ("normal", "pneumonia_opacity", "covid")}

    assert of["normal"][:3].tolist() == [1, 0, 0]
    assert np.isnan(of["covid"][LABELS.index("pneumonia")])
    assert of["pneumonia_opacity"][LABELS.index("covid")] == 0
    for row in fields:
        assert np.isnan(row.targets[[LABELS.index("fracture"), LABELS.index("cancer")]]).all()
        assert float(row.told.get("age_years", 18)) >= 18
    ensure_disjoint((row.split, row.group) for row in fields)


def test_only_covid_lacks_an_age_so_values_are_drawn_for_it(fields: list[chest_rows.Row]) -> None:
    """The trap is in the data; `told_for_training` is what is done about it."""
    lacking = [row.label for row in fields if "age_years" not in row.told]

    assert set(lacking) == {"covid"}
    assert len(known_values(fields)["age_years"]) == len(fields) - len(lacking)


def test_small_films_and_photographs_are_read(shared_images: Path) -> None:
    nih, figure1 = cxr_nih64.load(shared_images / "cxr_nih64"), cxr_figure1.load(shared_images / "cxr_figure1")

    assert (len(nih), len(figure1)) == (750, 40)
    assert all(one.normal == (not one.findings) for one in nih)
    ensure_disjoint((one.split, one.patient) for one in nih)
    assert {one.age_years for one in figure1 if one.name.startswith("COVID-00015")} == {67.0}
    assert {one.spo2_percent for one in figure1 if one.name == "COVID-00004"} == {91.0}
    assert all(one.grey.min() >= 0 and one.grey.max() <= 1 for one in nih[:20] + figure1[:5])


def test_films_of_children_tell_of_pneumonia_alone_and_train_nothing(shared_images: Path) -> None:
    def whole(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return grey, np.ones(grey.shape, bool)

    rows = chest_rows.child_films(shared_images / "cxr_pediatric224", whole, ("val",))

    assert {row.label for row in rows} == {"normal", "pneumonia"}
    assert all((row.targets[LABELS.index("pneumonia")] == 1) == (row.label == "pneumonia") for row in rows)
    assert all(np.isnan(row.targets[LABELS.index("covid")]) for row in rows)
    assert "cxr_pediatric224" not in SETS


def test_views_are_read_as_people_write_them() -> None:
    assert told_of(None, "", "AP_Supine") == {"view": "AP"}
    assert told_of(61, "F", "AP erect") == {"age_years": 61, "sex": "F", "view": "AP"}
    assert told_of(61, "?", "Lateral") == {"age_years": 61}


def test_a_difference_of_logits_tells_a_finding_from_normal(fields: list[chest_rows.Row]) -> None:
    some = [row for row in fields if row.label in ("normal", "covid")][:60] + [row for row in fields if row.label == "covid"][:20]
    logits = np.zeros((len(some), len(OUTPUTS)))
    logits[:, OUTPUTS.index("covid")] = [row.label == "covid" for row in some]

    found = against_normal(logits, some)

    assert found["covid"]["value"] == 1
    assert found["covid"]["positive"] == sum(row.label == "covid" for row in some)
