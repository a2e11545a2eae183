"""`radnode-train` on data of one's own: what is wrong is named before anything is learned, and nothing of a run is lost in silence."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.rooms.tiny_breast_set import a_breast_set
from training.__main__ import main
from training.datasets import busi_breast_us
from training.datasets.table import DataRefused, mask

ROOT = Path(__file__).parents[2]
ONE_STEP = "0.000001"  # minutes


Train = Callable[..., tuple[int, str]]  #: data, out and other words → exit status, what was said


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Train:
    def run(data: Path, out: Path, *words: str, recipe: str = "breast_ultrasound") -> tuple[int, str]:
        command = ["radnode-train", recipe, "--data", str(data), "--out", str(out), "--minutes", ONE_STEP, *words]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), " ".join("".join(capfd.readouterr()).replace("│", " ").split())

    return run


def breast(data: Path) -> Path:
    return data / "images" / "busi_breast_us"


def index_with(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "index.csv"
        path.write_text(change(path.read_text()))

    return damage


def without(word: str) -> Callable[[Path], None]:
    return index_with(lambda text: "".join(line for line in text.splitlines(keepends=True) if word not in line))


def replaced(name: str, picture: np.ndarray) -> Callable[[Path], None]:
    return lambda root: cv2.imwrite(str(root / name), picture) and None


def no_picture(root: Path) -> None:
    (root / "train-benign-0.png").write_bytes(b"\0" * 128 + b"DICM")


def black_masks(root: Path) -> None:
    for path in root.glob("*_mask.png"):
        cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (lambda root: (root / "index.csv").unlink(), "index.csv can't be read"),
        (lambda root: (root / "index.csv").write_bytes("file,mask\nö.png,\n".encode("cp1252")), "save it as UTF-8"),
        (index_with(lambda text: text.splitlines()[0]), "has no rows"),
        (index_with(lambda text: text.replace("group", "patient", 1)), "lacks the columns group; it has file"),
        (index_with(lambda text: text.replace(",benign,", ",Benign,", 1)), "has the label Benign; known: normal, benign, malignant"),
        (without("val"), "there is nothing of: val normal"),
        (without("train-malignant"), "there is nothing of: train malignant"),
        (black_masks, "there is nothing of: train with a mask that shows something"),
        (no_picture, "train-benign-0.png is neither PNG nor JPEG, or damaged"),
        (lambda root: (root / "val-normal-0.png").unlink(), "val-normal-0.png is not there"),
        (replaced("train-benign-1.png", np.full((64, 64), 3000, np.uint16)), "train-benign-1.png has 16 bits"),
        (replaced("train-benign-1_mask.png", np.full((32, 48), 255, np.uint8)), "has not the size of its image: 48 x 32 for 64 x 64"),
    ],
)  # fmt: skip
def test_data_that_nothing_can_be_learned_from_are_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None], because: str, trained: Train
) -> None:
    data = a_breast_set(tmp_path / "data")
    damage(breast(data))

    status, words = trained(data, tmp_path / "run")

    assert (status, because in words) == (1, True), words
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_patient_in_both_splits_is_named_without_a_traceback(tmp_path: Path, trained: Train) -> None:
    status, words = trained(a_breast_set(tmp_path / "data", mixed=True), tmp_path / "run")

    assert (status, words) == (1, "radnode-train: 1 groups in two splits: same")


def test_an_index_and_masks_are_read_as_other_tools_write_them(tmp_path: Path) -> None:
    """Masks of 0 and 1 were taken for empty ones, and a network learned that there are no lesions."""
    plain, other = breast(a_breast_set(tmp_path / "plain")), breast(a_breast_set(tmp_path / "other"))
    text = (other / "index.csv").read_text().replace(",label_conflict_duplicate", "").replace(",0\n", "\n")
    (other / "index.csv").write_bytes(text.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"))
    kinds = [np.uint8, np.uint16]
    for number, path in enumerate(sorted(other.glob("*_mask.png"))):
        shown = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(kinds[number % 2])
        cv2.imwrite(str(path), np.stack([shown] * 3, axis=2) if number % 3 else shown)

    for one, same in zip(busi_breast_us.load(plain), busi_breast_us.load(other), strict=True):
        assert (one.name, one.split, one.group, one.label) == (same.name, same.split, same.group, same.label)
        np.testing.assert_array_equal(one.grey, same.grey)
        np.testing.assert_array_equal(one.mask, same.mask)


def test_the_soft_edge_of_a_black_and_white_mask_is_cut_at_half(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.array([[0, 100, 200, 255]], np.uint8))

    assert mask(tmp_path / "mask.png").tolist() == [[False, False, True, True]]
    with pytest.raises(DataRefused, match="is not there"):
        mask(tmp_path / "other.png")


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_are_a_number_above_zero(tmp_path: Path, minutes: str, trained: Train) -> None:
    """With -1 a run had no end."""
    status, words = trained(tmp_path, tmp_path / "run", "--minutes", minutes)

    assert status == 2
    assert "'--minutes': a number above 0 is expected" in words


def test_slices_of_expert_masks_alone_are_enough_for_the_ct(tmp_path: Path, trained: Train) -> None:
    """Neither model-made masks nor a CT without infection: recipes for them are not everybody's."""
    root, rng = tmp_path / "data" / "images" / "covid_ct_medseg", np.random.default_rng(0)
    root.mkdir(parents=True)
    lines = ["file,mask,split"]
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        cv2.imwrite(str(root / f"{name}.png"), cv2.resize(rng.integers(0, 250, (9, 9), dtype=np.uint8), (96, 96)))
        cv2.imwrite(str(root / f"{name}_mask.png"), np.eye(96, dtype=np.uint8))
        lines.append(f"{name}.png,{name}_mask.png,{split}")
    (root / "index.csv").write_text("\n".join(lines))

    assert trained(tmp_path / "data", tmp_path / "run", recipe="covid_ct") == (0, "")
    shutil.copy(root / "c.png", root / "a.png")
    shutil.copy(root / "c.png", root / "b.png")
    assert trained(tmp_path / "data", tmp_path / "other", recipe="covid_ct") == (
        1,
        "radnode-train: there is nothing of: train that does not look like val",
    )


# --- runs -----------------------------------------------------------------------------------------------------------------
def test_a_run_is_not_written_over_and_a_damaged_checkpoint_is_named(tmp_path: Path, trained: Train) -> None:
    data, out = a_breast_set(tmp_path / "data"), tmp_path / "run"
    assert trained(data, out, "--resume") == (0, f"radnode-train: {out} holds no checkpoint: the run begins anew")
    kept = (out / "checkpoint.pt").read_bytes()

    status, words = trained(data, out)
    assert status == 2
    assert "holds a run: --resume goes on with it" in words
    assert (out / "checkpoint.pt").read_bytes() == kept

    for damaged in (kept[: len(kept) // 2], b"", b"torn"):
        (out / "checkpoint.pt").write_bytes(damaged)
        status, words = trained(data, out, "--resume")
        assert (status, "checkpoint.pt is damaged or no checkpoint of a run" in words) == (1, True), words
    saved = torch.nn.Conv2d(1, 1, 1).state_dict()
    facts = {"optimizer": {"state": {}, "param_groups": []}, "average": saved, "average_steps": 1, "spent": 1.0, "step": 1}
    torch.save(facts | {"model": saved}, out / "checkpoint.pt")
    status, words = trained(data, out, "--resume")
    assert (status, "checkpoint.pt is of another recipe" in words) == (1, True), words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_a_checkpoint_and_goes_on(tmp_path: Path, number: signal.Signals, trained: Train) -> None:
    """Before the first two minutes were over nothing was left, and --resume began anew."""
    data, out = a_breast_set(tmp_path / "data"), tmp_path / "run"
    command = [sys.executable, "-m", "training", "breast_ultrasound", "--data", str(data), "--out", str(out), "--minutes", "5"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is not None or is_asked_to_stop(process.pid))
        process.send_signal(number)
        _, words = process.communicate(timeout=120)

    assert process.returncode == 1, words
    assert "radnode-train: stopping after this step\nradnode-train: stopped after" in words
    assert "--resume goes on from there" in words
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert step >= 1
    assert trained(data, out, "--resume")[0] == 0
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] >= step
    assert (out / "weights.pt").exists()


def is_asked_to_stop(pid: int) -> bool:
    """Whether a process hears SIGTERM itself by now: a run does, Python alone does not."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_until(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not so():
        assert time.monotonic() < end
        time.sleep(0.1)
