"""A bundle on images with known answers: what is read from the index, what is counted, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from node import codes
from node.__main__ import front_door
from node.bundle import Bundle, write_sums
from node.domain import Finding, Result, Segment
from node.errors import EvaluationRefused, OutsideIntendedUse
from node.evaluation import card, metrics, plots, report
from node.evaluation.images import cases_in, volume_of
from node.evaluation.readings import Reading, read_all, truth_of
from node.imaging.volume import Volume
from node.interlock import Interlock
from node.pipelines.interface import Pipeline, Takes
from node.testing.studies import a_study
from node.web.ui import model_card
from tests.rooms.workbench import bundle

SHIPPED = Path(__file__).parents[2] / "models"


# --- metrics ------------------------------------------------------------------------------------------------------------
def test_reliability_and_its_error_by_hand() -> None:
    chances, truth = np.array([0.9, 0.1, 0.7, 0.3]), np.array([True, False, False, True])

    assert metrics.reliability(chances, truth, bins=2) == [(0.2, 0.5, 2), (0.8, 0.5, 2)]
    assert metrics.calibration_error(chances, truth, bins=2) == pytest.approx(0.3)
    assert metrics.calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_the_roc_curve_goes_through_every_threshold_and_holds_the_auc() -> None:
    scores, truth = np.array([0.9, 0.4, 0.4, 0.1, 0.6]), np.array([True, True, False, False, False])

    points = metrics.roc(scores, truth)

    assert points.tolist() == [[0, 0], [0, 0.5], [1 / 3, 0.5], [2 / 3, 1], [1, 1]]
    assert float(np.trapezoid(points[:, 1], points[:, 0])) == pytest.approx(metrics.auc(scores, truth))


def test_the_error_of_equal_chances_does_not_hang_on_their_order() -> None:
    """Half of the images are ill and every one gets a half: perfectly calibrated, also when the index lists the ill ones first."""
    chances, truth = np.full(40, 0.5), np.arange(40) < 20

    assert metrics.calibration_error(chances, truth) == 0
    mixed, order = np.repeat([0.2, 0.9], 20), np.random.default_rng(0).permutation(40)
    assert metrics.calibration_error(mixed, truth, bins=3) == pytest.approx(metrics.calibration_error(mixed[order], truth[order], bins=3))
    assert metrics.reliability(np.zeros(0), np.zeros(0, bool)) == []


def test_a_set_of_twenty_thousand_images_is_counted_in_little_time_and_memory() -> None:
    rng = np.random.default_rng(0)
    scores, groups = rng.random(20_000), [f"patient {n}" for n in range(20_000)]
    truth = rng.random(20_000) < scores

    begun = time.monotonic()
    low, high = metrics.bootstrap(groups, lambda i: float(scores[i].mean()), rounds=20)
    assert time.monotonic() - begun < 15
    assert low < 0.5 < high
    tracemalloc.start()
    points = metrics.roc(scores, truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert float(np.trapezoid(points[:, 1], points[:, 0])) == pytest.approx(metrics.auc(scores, truth))


def test_what_one_patient_gives_has_no_interval() -> None:
    """Drawing one group again and again gives itself: that is no certainty."""
    found = metrics.figure(["p1"] * 12, lambda i: float((i < 9).mean()))

    assert found == {"value": 0.75, "interval": None}
    assert metrics.written(found) == "0.750 (no interval)"
    assert metrics.figure(["p1", "p2"], lambda i: float("nan")) == {"value": None, "interval": None}


def test_dice_of_nothing_found_where_nothing_is_can_not_be_pooled() -> None:
    assert np.isnan(metrics.pooled_dice(np.array([[0, 0, 0, 64]])))


# --- a set with known answers -------------------------------------------------------------------------------------------
class Brightness(Pipeline):
    """Bright pictures hold a lesion, and the bright half of it is outlined; very dark ones are outside its use."""

    takes: ClassVar[Takes] = Takes.IMAGE

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        grey = float(volume.pixels.max()) / 255
        if grey < 0.1:
            raise OutsideIntendedUse("too dark")
        mask = volume.pixels > 0.6 * 255
        mask[:, :, mask.shape[2] // 2 :] = False
        segment = Segment(
            number=1,
            label="Lesion",
            mask=mask,
            category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE,
            type=codes.LESION,
            color=(1, 2, 3),
        )
        return Result(
            analysed=True,
            label="lesion" if grey >= 0.5 else "none",
            findings=(Finding(name="lesion", code=codes.LESION, probability=grey, present=grey >= 0.5),),
            segments=(segment,) if mask.any() else (),
            facts={"age": str(volume.series.header.get("PatientAge", "")), "sex": str(volume.series.header.get("PatientSex", ""))},
        )


PICTURES = [  # grey, label, group, sex, age: two lesions found, one missed, one false alarm, one refused
    (230, "cyst", "p1", "F", "34"),
    (200, "cyst", "p1", "F", "34"),
    (90, "cyst", "p2", "M", "71"),
    (140, "nothing", "p3", "F", "85"),
    (60, "nothing", "p4", "M", "12"),
    (40, "nothing", "p5", "M", ""),
    (5, "nothing", "p6", "F", "50"),
]


def a_set(folder: Path, pictures: list[tuple[int, str, str, str, str]] = PICTURES, *, masks: bool = True) -> Path:
    """Pictures of 8 x 8 with that grey in their upper half."""
    folder.mkdir()
    rows = []
    for number, (grey, label, group, sex, age) in enumerate(pictures):
        picture = np.zeros((8, 8), np.uint8)
        picture[:4] = grey
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        row = {"file": f"{number}.png", "split": "test", "label": label, "group": group, "sex": sex, "age": age}
        if masks:
            cv2.imwrite(str(folder / f"{number}_mask.png"), picture * (label == "cyst"))
            row["mask"] = f"{number}_mask.png"
        rows.append(row)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def brightness(tmp_path: Path) -> Brightness:
    small = bundle(tmp_path / "models", "brightness")
    metadata = json.loads((small.path / "configs" / "metadata.json").read_text())
    metadata["radnode"] |= {"labels": ["lesion"], "intended_use": {"modality": ["US"]}}
    (small.path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_sums(small.path)
    return Brightness(Bundle.open(small.path))


def readings_of(folder: Path, pipeline: Brightness) -> list[Reading]:
    cases = cases_in(folder, "test")
    truth = truth_of(cases, pipeline.bundle, {"lesion": frozenset({"cyst"})})
    return read_all(cases, pipeline, None, truth=truth, interlock=Interlock(folder))


def test_figures_are_those_worked_out_by_hand(tmp_path: Path, brightness: Brightness) -> None:
    found = report.figures(readings_of(a_set(tmp_path / "set"), brightness), brightness.bundle, data="set", split="test")

    assert (found["images"], found["groups"], found["analysed"], found["not_analysed"]) == (7, 6, 6, {"OutsideIntendedUse": 1})
    lesion = found["findings"]["lesion"]
    assert (lesion["images"], lesion["positives"]) == (6, 3)
    assert lesion["auc"]["value"] == round(8 / 9, 3)  # 140 stands above 90 and below 200 and 230
    assert lesion["sensitivity"]["value"] == round(2 / 3, 3)
    assert lesion["false_negative_rate"]["value"] == round(1 / 3, 3)
    assert lesion["specificity"]["value"] == round(2 / 3, 3)
    assert lesion["confusion"] == [[2, 1], [1, 2]]
    assert found["confusion"] == {"labels": ["cyst", "nothing"], "headlines": ["lesion", "none"], "counts": [[2, 1], [1, 2]]}
    segmentation = found["segmentation"]
    assert (segmentation["images"], segmentation["with_lesion"]) == (6, 3)
    assert segmentation["lesion_dice"]["value"] == round((2 / 3 + 2 / 3 + 0) / 3, 3)  # half of each that was called is outlined
    assert segmentation["lesion_iou"]["value"] == round((1 / 2 + 1 / 2 + 0) / 3, 3)
    low, high = lesion["sensitivity"]["interval"]
    assert low <= lesion["sensitivity"]["value"] <= high
    assert json.loads(json.dumps(found)) == found
    words = report.in_words(found)
    assert "6 of 7 images analysed (6 groups); not: 1 OutsideIntendedUse" in words
    assert "sensitivity          0.667" in words


def test_what_can_not_be_said_of_one_class_is_none_and_small_subgroups_are_left_out(tmp_path: Path, brightness: Brightness) -> None:
    many = [(150 + number, "cyst", f"p{number}", "F", "30") for number in range(10)] + PICTURES[4:6]
    found = report.figures(readings_of(a_set(tmp_path / "set", many), brightness), brightness.bundle, data="set", split="test")

    assert list(found["subgroups"]["sex"]) == ["F"]
    women = found["subgroups"]["sex"]["F"]["findings"]["lesion"]
    assert women["auc"] == {"value": None, "interval": None}
    assert women["sensitivity"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert list(found["subgroups"]["age"]) == ["18 to 39"]
    assert "sex F, lesion (10 of 10): auc —" in report.in_words(found)


def test_the_pipeline_is_told_what_the_index_knows_of_the_patient(tmp_path: Path, brightness: Brightness) -> None:
    cases = cases_in(a_set(tmp_path / "set"), "test")

    facts = [brightness.run(volume_of(case, brightness.bundle, None), None).facts for case in cases[:6]]

    assert facts[0] == {"age": "034Y", "sex": "F"}
    assert facts[5] == {"age": "", "sex": "M"}


def test_ages_are_read_as_tables_and_as_dicom_write_them(tmp_path: Path, brightness: Brightness) -> None:
    """A table tool writes 34.0 where some ages are missing; an infant must not pass as a patient of unknown age."""
    ages = ["34.0", "034Y", "0.5", "006M", "unknown", ""]
    cases = cases_in(a_set(tmp_path / "set", [(200, "cyst", f"p{n}", "F", age) for n, age in enumerate(ages)]), "test")

    told = [str(volume_of(case, brightness.bundle, None).series.header.get("PatientAge", "")) for case in cases]
    bands = [dict(case.subgroups).get("age") for case in cases]

    assert told == ["034Y", "034Y", "006M", "006M", "", ""]
    assert bands == ["18 to 39", "18 to 39", "0 to 17", "0 to 17", None, None]


def test_dicom_files_are_read_as_the_node_reads_them(tmp_path: Path, brightness: Brightness) -> None:
    [ds] = a_study("US")
    (tmp_path / "set").mkdir()
    ds.save_as(tmp_path / "set" / "one.dcm", enforce_file_format=True)
    (tmp_path / "set" / "index.csv").write_text("file,split,label\none.dcm,test,cyst\n")

    [case] = cases_in(tmp_path / "set", "test")
    volume = volume_of(case, brightness.bundle, None)

    assert volume.pixels.shape[1:3] == (ds.Rows, ds.Columns)
    (tmp_path / "set" / "one.dcm").write_bytes(b"nothing")
    with pytest.raises(EvaluationRefused, match="neither a picture nor DICOM"):
        volume_of(case, brightness.bundle, None)


def test_a_ct_picture_needs_to_be_told_its_window(tmp_path: Path, brightness: Brightness) -> None:
    [case, *_] = cases_in(a_set(tmp_path / "set", [(255, "cyst", "p1", "", "")]), "test")
    metadata = json.loads((brightness.bundle.path / "configs" / "metadata.json").read_text())
    metadata["radnode"]["intended_use"] = {"modality": ["CT"]}
    (brightness.bundle.path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_sums(brightness.bundle.path)
    ct = Bundle.open(brightness.bundle.path)

    with pytest.raises(EvaluationRefused, match="--window-hu=-1350,150"):
        volume_of(case, ct, None)

    volume = volume_of(case, ct, (-1350, 150))
    assert (volume.unit, float(volume.pixels.min()), float(volume.pixels.max())) == ("HU", -1350, 150)


def test_a_network_that_reads_colour_is_given_the_colours_of_a_picture(tmp_path: Path, brightness: Brightness) -> None:
    [case] = cases_in(a_set(tmp_path / "set", [(255, "cyst", "p1", "", "")]), "test")
    cv2.imwrite(str(case.path), np.full((8, 8, 3), (10, 20, 200), np.uint8))  # blue, green, red
    metadata = json.loads((brightness.bundle.path / "configs" / "metadata.json").read_text())
    metadata["radnode"]["channels"] = 3
    (brightness.bundle.path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    write_sums(brightness.bundle.path)

    colour, grey = (volume_of(case, bundle, None) for bundle in (Bundle.open(brightness.bundle.path), brightness.bundle))

    assert (colour.pixels.dtype, colour.pixels.shape, colour.pixels[0, 0, 0].tolist()) == (np.uint8, (1, 8, 8, 3), [200, 20, 10])
    assert grey.pixels.shape == (1, 8, 8)


def test_lungs_that_are_drawn_beside_an_opacity_are_not_measured_against_its_outline(tmp_path: Path, brightness: Brightness) -> None:
    class WithLungs(Brightness):
        def run(self, volume: Volume, model: Any) -> Result:
            result = super().run(volume, model)
            everywhere, kind = np.ones(volume.pixels.shape, bool), codes.ANATOMICAL_STRUCTURE
            lung = Segment(number=2, label="Right lung", mask=everywhere, category=kind, type=codes.LUNG, color=(1, 2, 3))
            return dataclasses.replace(result, segments=(*result.segments, lung))

    folder = a_set(tmp_path / "set")

    alone, beside = (readings_of(folder, pipeline) for pipeline in (brightness, WithLungs(brightness.bundle)))

    assert [one.pixels for one in beside] == [one.pixels for one in alone]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("value", [1, 255])
def test_whatever_is_not_black_in_a_mask_is_lesion(tmp_path: Path, brightness: Brightness, kind: type, colour: bool, value: int) -> None:
    folder = a_set(tmp_path / "set")
    as_it_was = [one.pixels for one in readings_of(folder, brightness)]
    for number in range(len(PICTURES)):
        path = str(folder / f"{number}_mask.png")
        mask = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) > 0).astype(kind) * kind(value)
        cv2.imwrite(path, np.stack([mask, np.zeros_like(mask), np.zeros_like(mask)], axis=2) if colour else mask)

    assert [one.pixels for one in readings_of(folder, brightness)] == as_it_was


def test_an_index_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    folder = a_set(tmp_path / "set")
    plain = [(case.name, case.label, case.group, case.mask) for case in cases_in(folder, "test")]
    text = (folder / "index.csv").read_text()

    for changed in (text.replace(",", ";"), text.replace(",", "\t"), text.replace(",", ", "), text.replace("\n", " \r\n")):
        (folder / "index.csv").write_bytes(changed.encode("utf-8-sig"))
        assert [(case.name, case.label, case.group, case.mask) for case in cases_in(folder, "test")] == plain
    (folder / "index.csv").write_bytes("file,label\nröntgen.png,x\n".encode("cp1252"))
    with pytest.raises(EvaluationRefused, match="save it as UTF-8"):
        cases_in(folder, "test")


def test_a_row_without_a_label_tells_nothing_or_what_its_column_says(tmp_path: Path, brightness: Brightness) -> None:
    """Such a row was counted as a negative of every finding."""
    folder = a_set(tmp_path / "set", masks=False)
    lines = ["file,label,lesion", "0.png,cyst,", "1.png,,1.0", "2.png,,0", "3.png,nothing,", "4.png,,-1", "5.png,,"]
    (folder / "index.csv").write_text("\n".join(lines))

    readings = readings_of(folder, brightness)

    assert [one.truth.get("lesion") for one in readings] == [True, True, False, False, None, None]
    assert report.figures(readings, brightness.bundle, data="set", split="test")["findings"]["lesion"]["images"] == 4


def test_a_dicom_file_may_be_named_by_its_uid_and_the_index_tells_what_its_header_does_not(tmp_path: Path, brightness: Brightness) -> None:
    [ds] = a_study("US")
    ds.PatientAge, ds.PatientSex = "", "M"
    (tmp_path / "set").mkdir()
    ds.save_as(tmp_path / "set" / "1.2.826.3", enforce_file_format=True)
    (tmp_path / "set" / "index.csv").write_text("file,label,age,sex\n1.2.826.3,cyst,34,F\n")

    [case] = cases_in(tmp_path / "set", "test")
    header = volume_of(case, brightness.bundle, None).series.header

    assert (header.PatientAge, header.PatientSex, header.SOPInstanceUID) == ("034Y", "M", ds.SOPInstanceUID)


# --- the model card -------------------------------------------------------------------------------------------------------
CARD = "# Brightness 1.0.0\n\n## Figures\nTyped by the makers.\n\n## Where it fails\nIn the dark.\n"


def evaluated(brightness: Brightness, folder: Path, **changed: Any) -> dict[str, Any]:
    return report.figures(readings_of(folder, brightness), brightness.bundle, data="set", split="test") | changed


def test_the_card_says_what_was_measured_and_says_it_once(tmp_path: Path, brightness: Brightness) -> None:
    path = brightness.bundle.path
    (path / "MODEL_CARD.md").write_text(CARD)
    write_sums(path)
    found = evaluated(brightness, a_set(tmp_path / "set"))

    card.renew(brightness.bundle, found)
    card.renew(brightness.bundle, found | {"split": "other"})
    again = found | {"analysed": 5}
    card.renew(brightness.bundle, again)

    opened = Bundle.open(path)  # the sums are right
    assert opened.digest == brightness.bundle.digest
    written = opened.model_card
    assert written.count("### On set, split test") == written.count("### On set, split other") == 1
    assert "5 of 7 images analysed (6 groups); not: 1 OutsideIntendedUse" in written
    low, high = found["findings"]["lesion"]["auc"]["interval"]
    assert f"| lesion | 3 of 6 | 0.889 ({low:.3f}–{high:.3f}) |" in written
    assert f"| Dice, images with a lesion | {metrics.written(found['segmentation']['lesion_dice'])} |" in written
    assert written.startswith(CARD[: CARD.index("## Where")])
    assert written.endswith("\n\n" + CARD[CARD.index("## Where") :])
    assert "split other" in model_card.figures(written)  # what the page of models shows


def test_a_bundle_without_a_card_gets_one_and_one_that_was_added_stays_as_it_came(tmp_path: Path, brightness: Brightness) -> None:
    found = evaluated(brightness, a_set(tmp_path / "set"))
    card.renew(brightness.bundle, found)
    assert Bundle.open(brightness.bundle.path).model_card.startswith("# brightness 1.0.0\n\n## Figures\n\n### On set")

    with pytest.raises(EvaluationRefused, match="stays as it came"):
        card.renew(dataclasses.replace(brightness.bundle, sidecar={"version": "1"}), found)


def test_a_card_that_is_made_anew_keeps_what_was_measured_with_its_weights(tmp_path: Path, brightness: Brightness) -> None:
    section = card.section(evaluated(brightness, a_set(tmp_path / "set")))
    text = card.with_section(CARD, section)

    [kept] = card.sections(text, weights=brightness.bundle.digest)
    assert (kept, card.with_section(CARD, kept), card.with_section(text, kept)) == (section, text, text)
    assert card.sections(text, weights="0" * 64) == []


# --- what is refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("index", "because"),
    [
        (None, "no readable index.csv"),
        ("", "it has no rows"),
        ("picture,label\n0.png,cyst\n", "needs a column file"),
        ("file,split\n0.png,test\n", "and label or mask"),
        ("file,split,label\n0.png,train,cyst\n", "no row is of the split test; known: train"),
        ("file,split,label\n../secret.png,test,cyst\n", "not in the folder"),
        ("file,split,label\nmissing.png,test,cyst\n", "not in the folder"),
    ],
)
def test_a_folder_that_can_not_be_read_says_why(tmp_path: Path, index: str | None, because: str) -> None:
    folder = a_set(tmp_path / "set")
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "index.csv").unlink()
    if index is not None:
        (folder / "index.csv").write_text(index)

    with pytest.raises(EvaluationRefused, match=because):
        cases_in(folder, "test")


def test_labels_that_mean_no_finding_are_named(tmp_path: Path, brightness: Brightness) -> None:
    cases = cases_in(a_set(tmp_path / "set", masks=False), "test")

    with pytest.raises(EvaluationRefused, match=r"no label of cyst, nothing is a finding of lesion: .* --truth"):
        truth_of(cases, brightness.bundle, {})
    with pytest.raises(EvaluationRefused, match="no image has the label tumour"):
        truth_of(cases, brightness.bundle, {"lesion": frozenset({"tumour"})})
    with pytest.raises(EvaluationRefused, match="no finding cyst; it has lesion"):
        truth_of(cases, brightness.bundle, {"cyst": frozenset({"cyst"})})


def test_a_mask_of_another_size_is_refused(tmp_path: Path, brightness: Brightness) -> None:
    folder = a_set(tmp_path / "set")
    cv2.imwrite(str(folder / "0_mask.png"), np.zeros((4, 4), np.uint8))

    with pytest.raises(EvaluationRefused, match="not the size of its image"):
        readings_of(folder, brightness)


# --- plots and the command ------------------------------------------------------------------------------------------------
def test_the_curve_goes_where_the_numbers_say() -> None:
    perfect = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    useless = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, False, True])

    def blue(picture: np.ndarray) -> np.ndarray:
        return np.argwhere((picture == plots.BLUE).all(axis=2))

    corner = np.array([plots.MARGIN, plots.MARGIN])  # sensitivity 1 at no false alarm
    assert np.abs(blue(plots.roc("lesion", perfect)) - corner).sum(axis=1).min() <= 2
    assert np.abs(blue(plots.roc("lesion", useless)) - corner).sum(axis=1).min() > 100
    assert len(blue(plots.reliability("lesion", perfect))) > 100


def test_the_command_reads_real_pictures_and_leaves_a_report_and_plots(shared: Path, tmp_path: Path) -> None:
    """Six ultrasound pictures of the validation split, with their masks."""
    root = shared / "data" / "images" / "busi_breast_us"
    with (root / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    chosen = [next(row for row in rows[skip:] if row["label"] == label) for label in ("normal", "benign", "malignant") for skip in (0, 1)]
    chosen = list({row["file"]: row for row in chosen}.values())
    for row in chosen:
        for name in filter(None, (row["file"], row["mask"])):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, tmp_path / "set" / name)
    with (tmp_path / "set" / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen)
    for name in ("breast_ultrasound", "picture_kinds"):
        shutil.copytree(SHIPPED / name, tmp_path / "models" / name)
    (tmp_path / "radnode.yaml").write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "bundles_dir": str(tmp_path / "models")}))
    words = ["bundles", "evaluate", "breast_ultrasound", "--data", str(tmp_path / "set"), "--split", "val", "--out", str(tmp_path / "out")]

    done = CliRunner().invoke(front_door("bundles"), [*words, "--card", "--json", "--config", str(tmp_path / "radnode.yaml")])

    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["images"] == len(chosen)
    assert set(found["findings"]) == {"normal", "benign", "malignant"}
    assert found["segmentation"]["lesion_dice"]["value"] > 0.3
    assert {path.name for path in (tmp_path / "out").glob("*.png")} >= {"roc-malignant.png", "reliability-malignant.png"}
    assert cv2.imread(str(tmp_path / "out" / "roc-malignant.png")).shape == (620, 620, 3)
    assert card.section(found) in Bundle.open(tmp_path / "models" / "breast_ultrasound" / "1.1.0").model_card
