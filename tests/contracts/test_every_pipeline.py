"""What every pipeline promises: cheap to import, honest about its input, the same answer twice, findings on the image's own grid."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.bundle import Bundle, bundles_in
from node.domain import Result
from node.errors import NotAnalysed
from node.imaging.build import build_volume, images_of
from node.imaging.study import read_study
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from node.registry import Registry
from node.testing.studies import a_study
from tests.rooms.workbench import clean_study

ROOT = Path(__file__).parents[2]
REGISTRY: Registry[Pipeline] = Registry("node.pipelines", Pipeline)  # type: ignore[type-abstract]
PHANTOMS = {
    "CT": {"modality": "CT", "slices": 24, "slice_mm": 10.0},
    "US": {"modality": "US"},
    "MR": {"modality": "MR", "slices": 22},
    "CR": {"modality": "DX", "Modality": "CR"},
    "DX": {"modality": "DX"},
}


def bundle_of(name: str) -> Bundle:
    """The newest bundle in the repository that says it is for the pipeline."""
    found = [Bundle.open(folder) for folder in bundles_in(ROOT / "models" / name)]
    if not found:
        pytest.fail(f"no bundle for {name} in models/")
    return found[-1]


@pytest.fixture(scope="module", params=list(REGISTRY))
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    kind: Any = REGISTRY[request.param]
    made: Pipeline = kind(bundle_of(request.param))
    return made


@pytest.fixture(scope="module")
def model(pipeline: Pipeline) -> Any:
    return pipeline.load("cpu")


@pytest.fixture(scope="module")
def volume(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """A phantom of the pipeline's first modality, as the worker would build it."""
    modality = pipeline.bundle.intended_use["modality"][0]
    study = read_study(clean_study(a_study(**PHANTOMS[modality]), tmp_path_factory.mktemp(modality)))
    [series] = study.series
    return build_volume(series) if pipeline.takes is Takes.VOLUME else next(images_of(series))


@pytest.fixture(scope="module")
def result(pipeline: Pipeline, model: Any, volume: Volume) -> Result:
    return pipeline.run(volume, model)


def test_no_pipeline_is_broken() -> None:
    assert REGISTRY.broken == {}


def test_importing_a_pipeline_is_cheap() -> None:
    """No torch at module level: the gateway and `radnode explain` list pipelines too."""
    names = ", ".join(REGISTRY[name].__module__ for name in REGISTRY)
    code = f"import sys; import {names}; print([m for m in ('torch', 'monai', 'openvino') if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_it_has_a_bundle_that_says_what_it_is_for(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle

    assert pipeline.takes in Takes
    assert bundle.labels
    assert bundle.intended_use["modality"]
    assert bundle.licence["name"]
    assert len(bundle.model_card) > 1000
    assert len(bundle.digest) == 64


def test_it_finds_something_to_say_about_a_phantom_of_its_modality(pipeline: Pipeline, result: Result) -> None:
    assert result.analysed
    assert result.label
    assert result.confidence is not None
    assert 0 <= result.confidence <= 1
    assert set(pipeline.bundle.labels) <= {finding.name for finding in result.findings}


def test_what_was_not_trained_is_not_said(result: Result) -> None:
    for finding in result.findings:
        assert (finding.probability is None) == (finding.present is None)
        assert finding.probability is None or 0 <= finding.probability <= 1


def test_masks_heat_map_and_regions_lie_on_the_grid_of_the_images(volume: Volume, result: Result) -> None:
    grid = volume.pixels.shape[:3]
    assert [segment.number for segment in result.segments] == list(range(1, len(result.segments) + 1))
    for segment in result.segments:
        assert (segment.mask.shape, segment.mask.dtype) == (grid, np.dtype(bool))
    if result.heatmap is not None:
        values = result.heatmap.values
        assert (values.shape, values.dtype) == (grid, np.dtype(np.float32))
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1
        assert set(result.heatmap.frames) <= set(range(grid[0]))
    for finding in result.findings:
        assert finding.segment is None or 1 <= finding.segment <= len(result.segments)
        if finding.region is not None:
            assert 0 <= finding.region.frame < grid[0]
            assert (finding.region.outline >= 0).all()
            assert (finding.region.outline <= [grid[2], grid[1]]).all()


def test_measurements_are_finite_and_have_ucum_units(result: Result) -> None:
    for finding in result.findings:
        for measurement in finding.measurements:
            assert np.isfinite(measurement.value)
            assert measurement.unit.scheme_designator == "UCUM"


def test_facts_cross_a_pipe(result: Result) -> None:
    assert json.loads(json.dumps(result.facts)) == result.facts


def test_the_same_series_gives_the_same_answer_and_stays_as_it_was(pipeline: Pipeline, model: Any, volume: Volume, result: Result) -> None:
    before = volume.pixels.copy()

    again = pipeline.run(volume, model)

    assert np.array_equal(volume.pixels, before)
    assert (again.label, again.confidence) == (result.label, result.confidence)
    assert [finding.probability for finding in again.findings] == [finding.probability for finding in result.findings]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(again.segments, result.segments, strict=True))


@pytest.mark.parametrize("pixels", [np.zeros, lambda shape, dtype: np.full(shape, 3000, dtype)], ids=["black", "white"])
def test_an_image_without_anything_on_it_is_refused_and_not_guessed_about(
    pipeline: Pipeline, model: Any, volume: Volume, pixels: Any
) -> None:
    empty = replace(volume, pixels=pixels(volume.pixels.shape, volume.pixels.dtype))

    with pytest.raises(NotAnalysed):
        pipeline.run(empty, model)
