"""Brain MR: heads whose answer is known, real slices and series, and what must be refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from node.bundle import Bundle, bundles_in
from node.domain import VersionState
from node.errors import OutsideIntendedUse
from node.imaging.build import build_volume
from node.imaging.study import read_study
from node.imaging.volume import Volume
from node.pipelines.brain_mri import BrainMri, Warm, grey_of, head_of, series_logit
from node.shelf import Installed, standings
from node.testing.phantom_brain_mr import brain_mr
from node.testing.studies import a_study
from tests.rooms.workbench import clean_study

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def pipeline() -> BrainMri:
    return BrainMri(Bundle.open(MODELS / "brain_mri" / "1.0.0"))


@pytest.fixture(scope="module")
def model(pipeline: BrainMri) -> Warm:
    return pipeline.load("cpu")


def volume_of(datasets: list[Any], folder: Path) -> Volume:
    [series] = read_study(clean_study(datasets, folder)).series
    return build_volume(series)


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return volume_of(a_study("MR", slices=22), tmp_path_factory.mktemp("ill"))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return volume_of(a_study("MR", slices=22, tumor=False), tmp_path_factory.mktemp("healthy"))


# --- the answer is known ------------------------------------------------------------------------------------------------------
def test_a_tumour_is_called_on_a_slice_that_holds_it(pipeline: BrainMri, model: Warm, ill: Volume) -> None:
    result = pipeline.run(ill, model)

    [finding] = result.findings
    assert (finding.name, finding.present, result.label) == ("tumor", True, "tumor")
    assert result.confidence == finding.probability
    key = result.facts["key_slice"] - 1
    assert brain_mr().tumor[key].any()
    assert result.heatmap is not None
    assert result.heatmap.frames[0] == key
    assert finding.region is None  # where a network looks is no border


def test_a_healthy_head_is_called_healthy(pipeline: BrainMri, model: Warm, healthy: Volume) -> None:
    result = pipeline.run(healthy, model)

    assert result.label == "no tumor"
    assert result.findings[0].present is False


def test_the_plain_network_runs_by_the_same_code_and_waits_to_be_promoted(ill: Volume) -> None:
    plain = BrainMri(Bundle.open(MODELS / "brain_mri" / "0.9.0"))

    result = plain.run(ill, plain.load("cpu"))

    assert result.analysed
    assert result.heatmap is not None
    assert float(result.heatmap.values.max()) > 0
    versions = [Installed(pipeline="brain_mri", version=path.name, bundle=Bundle.open(path)) for path in bundles_in(MODELS / "brain_mri")]
    states = {one.installed.version: one.state for one in standings(versions, [])}
    assert states == {"0.9.0": VersionState.RETIRED, "1.0.0": VersionState.ACTIVE}


@pytest.mark.parametrize(
    ("stored", "column", "row"),
    [(lambda a: a[:, ::-1], (1, 0, 0), (0, -1, 0)), (lambda a: a.transpose(0, 2, 1), (0, 1, 0), (1, 0, 0))],
    ids=["rows run to the front", "on its side"],
)
def test_a_head_that_lies_otherwise_gives_the_same_answer(
    pipeline: BrainMri, model: Warm, ill: Volume, stored: Any, column: Any, row: Any
) -> None:
    few = replace(ill, pixels=ill.pixels[8:14], frames=ill.frames[8:14])
    affine = np.array(few.affine)
    affine[:3, :2] = np.stack([column, row], axis=1) * np.abs(affine[0, 0])

    straight = pipeline.run(few, model)
    lying = pipeline.run(replace(few, pixels=np.ascontiguousarray(stored(few.pixels)), affine=affine), model)

    assert lying.findings[0].probability == pytest.approx(straight.findings[0].probability, abs=1e-4)
    assert lying.heatmap is not None
    assert straight.heatmap is not None
    np.testing.assert_allclose(lying.heatmap.values, stored(straight.heatmap.values), atol=1e-3)


def test_a_head_of_oblong_pixels_gives_the_same_answer_on_its_own_grid(pipeline: BrainMri, model: Warm, ill: Volume) -> None:
    """Twice the rows, or twice the columns, for the same patient."""
    square = pipeline.run(ill, model)
    for axis in (1, 2):
        affine, mm = np.array(ill.affine), np.array(ill.spacing_mm)
        affine[:3, 2 - axis] /= 2
        mm[axis] /= 2

        oblong = pipeline.run(replace(ill, pixels=np.repeat(ill.pixels, 2, axis=axis), affine=affine, spacing_mm=tuple(mm)), model)

        assert oblong.label == square.label == "tumor"
        assert oblong.findings[0].probability == pytest.approx(square.findings[0].probability, abs=0.02)
        assert oblong.heatmap is not None
        assert square.heatmap is not None
        key = square.heatmap.frames[0]
        assert oblong.heatmap.frames[0] == key
        assert np.abs(oblong.heatmap.values[key] - np.repeat(square.heatmap.values, 2, axis=axis)[key]).mean() < 0.01


def test_a_part_of_a_head_is_not_called_healthy_without_a_word(pipeline: BrainMri, model: Warm, healthy: Volume) -> None:
    result = pipeline.run(replace(healthy, pixels=healthy.pixels[5:10], frames=healthy.frames[5:10]), model)

    assert any("a part of the head only" in note for note in result.notes)


def test_the_series_is_as_suspicious_as_its_leading_slices() -> None:
    assert series_logit([-3.0, 4.0, 2.0, 0.0, -1.0]) == pytest.approx(2.0)
    assert series_logit([1.5]) == 1.5


def test_grad_cam_points_at_what_the_network_answers_to(ill: Volume, pipeline: BrainMri) -> None:
    """A network that answers to nothing but brightness on one side is seen looking there."""

    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer3 = torch.nn.Conv2d(1, 1, 3, stride=8, padding=1, bias=False)
            torch.nn.init.constant_(self.layer3.weight, 1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            told = torch.relu(self.layer3(x) - 6.5).sum(dim=(1, 2, 3))
            return torch.stack([told, told * 0, told * 0, told * 0], dim=1)

    network = Bright().eval()

    result = pipeline.run(ill, Warm(network, network, "layer3"))

    assert result.heatmap is not None
    z = result.heatmap.frames[0]
    heat = result.heatmap.values[z]
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    around = np.asarray(ill.pixels[z])[max(0, row - 12) : row + 12, max(0, column - 12) : column + 12]
    assert around.max() > np.percentile(np.asarray(ill.pixels[z]), 97)


# --- what is read -------------------------------------------------------------------------------------------------------------
def test_the_head_is_found_wherever_it_lies_and_however_bright() -> None:
    head = grey_of(brain_mr(slices=3, slice_mm=5.0).pixels[1].astype(np.float32))
    canvas = np.zeros((400, 500), np.float32)
    canvas[120:376, 200:456] = head

    box, _ = head_of(canvas)
    dim, _ = head_of(grey_of(canvas * 0.01))

    assert box is not None
    assert 120 < box.top < box.bottom < 376
    assert 200 < box.left < box.right < 456
    assert dim is not None
    assert abs(dim.top - box.top) <= 2
    assert head_of(np.zeros((100, 100), np.float32)) == (None, 0.0)


def test_brightness_and_scale_of_the_stored_values_do_not_matter(pipeline: BrainMri, model: Warm, ill: Volume) -> None:
    plain = pipeline.run(ill, model)
    brighter = pipeline.run(replace(ill, pixels=np.asarray(ill.pixels * np.float32(7.5) + 100)), model)

    assert brighter.confidence == pytest.approx(plain.confidence, abs=0.02)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"unit": "HU"}, "not CT values"),
        ({"pixels": np.zeros((4, 64, 64, 3), np.uint8)}, "grey MR images"),
        ({"pixels": np.where(np.arange(64) == 9, np.nan, np.ones((4, 64, 64), np.float32))}, "no numbers"),
    ],
    ids=["CT", "colour", "no numbers"],
)
def test_what_is_no_grey_mr_is_refused(pipeline: BrainMri, model: Warm, ill: Volume, change: dict[str, Any], because: str) -> None:
    with pytest.raises(OutsideIntendedUse, match=because):
        pipeline.run(replace(ill, **change), model)


def test_a_shoulder_by_its_header_is_refused(pipeline: BrainMri, model: Warm, tmp_path: Path) -> None:
    shoulder = volume_of(a_study("MR", slices=2, BodyPartExamined="SHOULDER"), tmp_path)

    with pytest.raises(OutsideIntendedUse, match="another body part"):
        pipeline.run(shoulder, model)


# --- real images ----------------------------------------------------------------------------------------------------------------
def test_real_glioblastomas_are_called(pipeline: BrainMri, model: Warm, shared: Path, tmp_path: Path) -> None:
    import pydicom

    folders = [p for p in sorted((shared / "data/dicom/mr_brain_tumor_btp").iterdir()) if not p.name.endswith("_mask")]
    for folder in folders:
        result = pipeline.run(volume_of([pydicom.dcmread(f) for f in sorted(folder.glob("*.dcm"))], tmp_path / folder.name), model)
        assert result.label == "tumor", folder.name


@pytest.mark.parametrize("version", ["1.0.0", "0.9.0"])
def test_validation_slices_are_told_apart(version: str, shared: Path) -> None:
    """A sample of the validation slices through each bundle; the whole table stands in its model card."""
    from training.bundles.brain_mri import readings
    from training.datasets.brain_tumor_mri import load
    from training.evaluate import auc

    root = shared / "data/images/brain_tumor_mri"
    with (root / "index.csv").open() as index:
        assert any(row["split"] == "val" for row in csv.DictReader(index))
    scans = [s for s in load(root) if s.split == "val"][::4]

    bundle = Bundle.open(MODELS / "brain_mri" / version)
    low, _ = bundle.metadata["eval_metrics"]["auc_tumor"]["interval"]

    logits, _ = readings(bundle.network(engine="openvino"), [s.grey for s in scans])

    assert auc(logits, np.array([s.label > 0 for s in scans])) > low - 0.05  # a quarter of the slices
