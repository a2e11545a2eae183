"""What a run has left becomes a bundle: from its weights or its checkpoint, of a GPU too, and whole or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from node.bundle import Bundle, bundles_in
from tests.rooms.tiny_breast_set import a_breast_set
from training.course import Course
from training.export_bundle import app
from training.recipes import breast_ultrasound


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_breast_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run of one step."""
    out = data / "run"
    breast_ultrasound.run(data, out, Course(minutes=1e-6))
    return out


def exported(weights: Path, data: Path, models: Path) -> Bundle:
    words = ["bundle", "breast_ultrasound", "--weights", str(weights), "--data", str(data), "--models", str(models), "--version", "2.0.0"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [folder] = bundles_in(models)
    return Bundle.open(folder)


def test_weights_and_checkpoint_of_a_run_give_the_same_bundle(data: Path, run: Path, tmp_path: Path) -> None:
    """From weights.pt the card could not be written, and a bundle without one was left."""
    one, other = (exported(run / name, data, tmp_path / name) for name in ("weights.pt", "checkpoint.pt"))

    assert one.digest == other.digest
    assert one.node["training"] == other.node["training"] == {"steps": 1, "minutes": one.node["training"]["minutes"]}
    assert one.model_card == other.model_card
    assert "Training: 1 steps" in one.model_card
    assert [path.name for path in (tmp_path / "weights.pt" / "breast_ultrasound").iterdir()] == ["2.0.0"]
    json.loads((one.path / "configs" / "metadata.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_weights_that_lie_alone_are_enough(data: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes((run / "weights.pt").read_bytes())

    assert "Training: ? steps" in exported(tmp_path / "weights.pt", data, tmp_path / "models").model_card


def test_a_checkpoint_of_a_gpu_becomes_a_bundle_without_one(data: Path, run: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: the file would open in any case")
    with zipfile.ZipFile(run / "checkpoint.pt") as plain, zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as moved:
        for name in plain.namelist():
            content = plain.read(name)
            if name.endswith("data.pkl"):  # strings with their length before them: where each storage lay
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            moved.writestr(name, content)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)

    assert (
        exported(tmp_path / "checkpoint.pt", data, tmp_path / "models").digest
        == exported(run / "weights.pt", data, tmp_path / "cpu").digest
    )


def test_an_export_that_fails_leaves_the_bundle_before_as_it_was(data: Path, run: Path, tmp_path: Path) -> None:
    """Half of it was left: new weights, thresholds that nobody had set, and sums that said all was well."""
    before = exported(run / "weights.pt", data, tmp_path / "models")
    other = torch.load(run / "weights.pt", weights_only=True)
    torch.save({key: value + 1 if value.is_floating_point() else value for key, value in other.items()}, tmp_path / "weights.pt")
    index = tmp_path / "data" / "images" / "busi_breast_us" / "index.csv"
    index.parent.mkdir(parents=True)
    index.write_text("file,mask,split,label,group\nlost.png,,val,benign,g\n")

    with pytest.raises(ValueError, match=r"lost.png is not there"):
        exported(tmp_path / "weights.pt", tmp_path / "data", tmp_path / "models")

    [left] = bundles_in(tmp_path / "models")
    assert Bundle.open(left).digest == before.digest
    assert [path.name for path in left.parent.iterdir()] == ["2.0.0"]
