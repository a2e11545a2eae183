"""What runs on a GPU, met on one that is pretended (`pretended_gpu.py`): no test here needs the hardware, and none says that it is fast."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from node.bundle import Bundle
from node.imaging.build import build_volume, images_of
from node.imaging.study import read_study
from node.pipelines.interface import Pipeline, Takes
from node.testing.studies import a_study
from tests.contracts.test_every_pipeline import PHANTOMS, REGISTRY, bundle_of
from tests.rooms.pretended_gpu import GPU, a_gpu
from tests.rooms.test_bundle import folder  # noqa: F401 a bundle whose network is one convolution
from tests.rooms.workbench import clean_study

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
