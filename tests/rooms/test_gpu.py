"""What runs on a GPU, met on one that is pretended (`pretended_gpu.py`): no test here needs the hardware, and none says that it is fast."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from node.bundle import Bundle
from node.device import chosen
from node.errors import DeviceUnusable, GuestFailed
from node.guests import host
from node.guests._process.__main__ import _failure
from node.guests._process.answers import Given, answered
from node.guests.host import Guest
from node.imaging.build import build_volume, images_of
from node.imaging.study import read_study
from node.pipelines.interface import Pipeline, Takes
from node.runners import local
from node.testing.studies import a_study
from node.warm_models import MB, Key, WarmModels
from tests.contracts.test_every_pipeline import PHANTOMS, REGISTRY, bundle_of
from tests.rooms import guest_bundles
from tests.rooms.pretended_gpu import GPU, a_gpu
from tests.rooms.test_any_bundle import a_guest
from tests.rooms.test_bundle import folder  # noqa: F401 a bundle whose network is one convolution
from tests.rooms.test_guest_bundles import outputs
from tests.rooms.test_training_loop import draw, loss_of, score
from tests.rooms.workbench import clean_study
from training import export_bundle, processes
from training.course import Course
from training.loop import Loss, _has_bfloat16, train
from training.recipes.chest_xray import notes_of

#: constants of a pipeline that make it look at less: what is asked here is where, not how well
LESS = {"covid_ct": {"SIZE": 96}, "brain_mri": {"MOST_SLICES": 3, "LEADING": 1}}


@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_pipeline_says_the_same_on_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made on the CPU and the network lies elsewhere; reports are written on the CPU again."""
    kind: Any = REGISTRY[name]
    pipeline: Pipeline = kind(bundle_of(name))
    for constant, value in LESS.get(name, {}).items():
        monkeypatch.setattr(importlib.import_module(kind.__module__), constant, value)
    monkeypatch.setattr("node.bundle._compiled", lambda *_: None)  # torch on both
    study = read_study(clean_study(a_study(**PHANTOMS[pipeline.bundle.intended_use["modality"][0]]), tmp_path))
    volume = build_volume(study.series[0]) if pipeline.takes is Takes.VOLUME else next(images_of(study.series[0]))
    here = pipeline.run(volume, pipeline.load("cpu"))

    with a_gpu() as device:
        there = pipeline.run(volume, pipeline.load(device))

    assert (there.label, there.analysed) == (here.label, True)
    assert there.confidence == pytest.approx(here.confidence, abs=1e-4)
    assert [finding.probability for finding in there.findings] == pytest.approx([f.probability for f in here.findings], abs=1e-4)
    assert there.facts.keys() == here.facts.keys()


def test_a_network_takes_what_lies_on_the_cpu_wherever_it_is(folder: Path) -> None:  # noqa: F811
    picture = torch.rand(1, 1, 16, 16)
    expected = Bundle.open(folder).network()(picture)

    with a_gpu() as device:
        answer = Bundle.open(folder).network(device)(picture)

    assert answer.device == GPU
    assert torch.allclose(answer.cpu(), expected)


# --- which GPU ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("there", "count", "number", "expected"),
    [
        (("nvidia0", "nvidia1", "nvidiactl"), 2, 3, "cuda:1"),
        (("nvidia1", "nvidiactl"), 1, 0, "cuda:0"),
        (("dxg",), 1, 0, "cuda:0"),
        (("nvidiactl", "null"), 1, 0, "cpu"),
        (("nvidia0",), 0, 0, "cpu"),
    ],
    ids=["in turn", "a container with the second one", "Windows' Linux", "a driver without GPUs", "no driver for this torch"],
)
def test_a_worker_takes_the_gpu_that_is_there(
    there: tuple[str, ...], count: int, number: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr("node.device.computes", lambda device: True)

    assert chosen("auto", number, devices=tmp_path) == expected


def test_a_gpu_that_torch_sees_and_has_no_kernels_for_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sees every GPU that the driver knows; the wheels compute on some generations of them."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 100)

    assert chosen("auto", 99, devices=tmp_path) == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named_as_the_reason(folder: Path, device: str) -> None:  # noqa: F811
    with pytest.raises(DeviceUnusable, match=f"no such GPU.*{device}"):
        Bundle.open(folder).network(device)


def test_processes_that_compute_count_the_gpus_in_the_order_that_the_node_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", "1")):
        monkeypatch.setenv(name, value)

    for environment in (local._environment(2), host._environment(tmp_path)):
        assert (environment["CUDA_DEVICE_ORDER"], environment["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", "1")


def test_memory_of_a_gpu_goes_back_when_models_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    warm = WarmModels(1)
    warm.keep(Key("one", "1", "a", "cuda:0"), None, None, MB)

    warm.make_room(MB)

    assert given_back


# --- bundles that drop in -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("channels", "told", "expected"),
    [
        ([9.0, 0.0, 0.0], {"outputs": outputs(0, 1, 2)}, {"labels": [[[0, 0], [0, 0]]]}),
        ([0.4, 0.7], {"activation": "sigmoid", "outputs": outputs(1, 2)}, {"masks": [[[[1, 1], [1, 1]]]] * 2}),
        ([0.4, 0.6], {"outputs": outputs(0, 1)}, {"labels": [[[1, 1], [1, 1]]]}),
    ],
    ids=["classes", "masks", "probabilities already"],
)
def test_a_bundle_s_answer_comes_home_from_a_gpu(channels: list[float], told: dict[str, Any], expected: dict[str, Any]) -> None:
    """It may end with no transform at all: then nothing has brought its answer to the CPU yet."""
    sidecar = {"task": "segmentation", "dims": 2, **told}
    source = MetaTensor(torch.zeros(1, 2, 2), affine=torch.eye(4))
    given = Given(source=source, affine=source.affine, shape=(2, 2))

    with a_gpu() as device:
        out = torch.tensor(channels, device=device).reshape(1, -1, 1, 1).expand(1, -1, 2, 2)
        _, arrays = answered(sidecar, out, {"image": torch.zeros(1, 2, 2)}, "image", "pred", Compose([]), given)

    assert {name: array.tolist() for name, array in arrays.items()} == expected


def test_a_bundle_that_can_not_reach_the_gpu_computes_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what a driver asks for within the cell. The limit on its memory holds all the same."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hungry = guest_bundles.BRIGHT.replace("def forward(self, x):", "def forward(self, x):\n        bytearray(4 << 30)")
    guest = Guest(a_guest(tmp_path, {"task": "segmentation"}, code=hungry, memory_mb=3000).bundle, "cuda:0")

    guest.start()
    with pytest.raises(GuestFailed, match="more than 3000 MB of memory"):
        guest.ask({"dims": 3, "affine": None, "spacing_mm": [2.0, 2.0, 2.0]}, {"pixels": np.eye(16, dtype=np.float32)[None].repeat(16, 0)})

    assert guest.told["device"] == "cpu"


def test_what_a_gpu_has_no_room_for_is_said_in_its_own_words() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB")

    assert "Tried to allocate 2.00 GiB" in _failure(full, 6144)
    assert "more than 6144 MB of memory" in _failure(RuntimeError("DefaultCPUAllocator: can't allocate memory"), 6144)


# --- training -------------------------------------------------------------------------------------------------------------------
def test_a_run_learns_on_a_gpu_and_leaves_weights_for_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are drawn, and the average is evaluated, on the CPU."""
    monkeypatch.setattr(processes, "device", lambda: GPU)
    monkeypatch.setattr(torch, "save", lambda _, path: path.touch())  # what is pretended can't be written
    monkeypatch.setattr("training.loop._has_bfloat16", lambda kind: False)
    torch.manual_seed(0)
    seen = set()

    def lost(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.update((value.device, next(model.parameters()).device) for value in batch.values())
        return loss_of(model, batch)

    def evaluated(model: torch.nn.Module) -> dict[str, float]:
        return score(model) | {"on_gpu": float(next(model.parameters()).device == GPU)}

    with a_gpu():
        model = torch.nn.Conv2d(1, 1, 1)
        before = score(model)
        state = train(
            model, draw=draw, loss_of=lost, evaluate=evaluated, out=tmp_path, course=Course(minutes=0.06), peak_rate=0.3, decay=0.9
        )

    log = json.loads((tmp_path / "log.jsonl").read_text())
    assert seen == {(GPU, GPU)}
    assert log["on_gpu"] == 0
    assert log["loss"] < before["loss"]
    assert {type(value) for value in state.values()} == {torch.Tensor}


@pytest.mark.parametrize("counts", [True, False])
def test_a_gpu_trains_in_bfloat16_only_where_it_counts_in_it_itself(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before Ampere (T4, RTX 20) don't, and torch says they do: it imitates."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: counts or including_emulation)
    _has_bfloat16.cache_clear()
    seen = []

    def lost(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cuda"))
        return batch["image"].sum()

    with a_gpu() as device:
        Loss(torch.nn.Identity(), lost)({"image": torch.ones(1, device=device)})
    _has_bfloat16.cache_clear()

    assert seen == [counts]


def test_more_processes_than_gpus_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match=r"2 processes for 1 GPU\(s\): --nproc-per-node 1 at most"), processes.together():
        pass


def test_a_checkpoint_of_a_gpu_becomes_a_bundle_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README has bundles made from `checkpoint.pt`, which holds tensors as they lay."""
    plain = tmp_path / "plain.pt"
    torch.save({"average": {"weight": torch.ones(2)}, "step": 7, "spent": 60.0}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as written:
        for name in read.namelist():  # torch's own words for where a tensor lay: BINUNICODE, the length, the device
            written.writestr(name, read.read(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x07\x00\x00\x00cuda:99"))
    taken: list[dict[str, torch.Tensor]] = []

    def export(_recipe: Any, state: dict[str, torch.Tensor], *_: Any) -> None:
        taken.append(state)
        raise KeyboardInterrupt  # what comes after needs images

    monkeypatch.setattr(export_bundle, "export", export)
    with pytest.raises(KeyboardInterrupt):
        export_bundle.bundle_of("covid_ct", tmp_path / "checkpoint.pt", tmp_path, tmp_path)

    assert torch.equal(taken[0]["weight"], torch.ones(2))
    assert notes_of(tmp_path) == {"steps": 7, "minutes": 1.0}
