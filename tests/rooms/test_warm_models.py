"""Models stay warm within a budget: who leaves, who stays, and what the shipped ones take."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from node.bundle import Bundle, bundles_in
from node.inference import _load, warm_up
from node.warm_models import MB, Key, WarmModels
from tests.rooms.workbench import FAULTY, bundle

MODELS = Path(__file__).parents[2] / "models"


class Model:
    """Something that can be watched leaving."""


def key(name: str, version: str = "1.0.0") -> Key:
    return Key(name, version, "d" * 64, "cpu")


def test_the_least_recently_used_model_leaves_first() -> None:
    warm = WarmModels(100)
    for name in ("ct", "mr", "us"):
        warm.keep(key(name), None, Model(), 30 * MB)
    assert warm.get(key("ct")) is not None

    warm.keep(key("cr"), None, Model(), 40 * MB)

    assert [one.pipeline for one in warm] == ["us", "ct", "cr"]
    assert warm.size == 100 * MB


def test_a_model_larger_than_the_budget_is_kept_alone() -> None:
    warm = WarmModels(100)
    small = Model()
    gone = weakref.ref(small)
    warm.keep(key("small"), None, small, 10 * MB)
    del small

    warm.keep(key("huge"), None, Model(), 500 * MB)

    assert list(warm) == [key("huge")]
    assert gone() is None
    warm.keep(key("small"), None, Model(), 10 * MB)
    assert list(warm) == [key("small")]


def test_two_versions_are_warm_side_by_side_and_a_model_kept_again_counts_once() -> None:
    warm = WarmModels(100)
    for version in ("1.0.0", "1.1.0", "1.0.0"):
        warm.keep(key("ct", version), None, Model(), 40 * MB)

    assert [one.version for one in warm] == ["1.1.0", "1.0.0"]
    assert warm.size == 80 * MB


def test_room_is_made_before_the_next_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two large models never stand in memory together."""
    warm = WarmModels(1)
    _load(bundle(tmp_path, "works", numbers=100_000), "works", "cpu", warm, FAULTY)
    beside: list[int] = []
    from tests.faulty_pipelines.loads_slowly import LoadsSlowly

    monkeypatch.setattr(LoadsSlowly, "load", lambda *_: beside.append(len(warm)))

    _load(bundle(tmp_path, "loads_slowly", numbers=100_000), "loads_slowly", "cpu", warm, FAULTY)

    assert beside == [0]
    assert [one.pipeline for one in warm] == ["loads_slowly"]


def test_warming_up_takes_the_versions_it_is_given_as_far_as_they_fit(tmp_path: Path) -> None:
    for name, version, numbers in (
        ("works", "1.0.0", 100_000),
        ("works", "2.0.0", 100_000),
        ("raises", "1.0.0", 100_000),
        ("refuses", "1.0.0", 1),
    ):
        bundle(tmp_path, name, version, numbers=numbers)
    first = [("works", "1.0.0"), ("raises", "1.0.0"), ("unheard_of", "1.0.0"), ("refuses", "1.0.0")]

    warm = WarmModels(1)
    assert list(warm_up(tmp_path, "cpu", warm, first=first, room=FAULTY)) == ["works", "refuses"]
    assert {(one.pipeline, one.version) for one in warm} == {("works", "1.0.0"), ("refuses", "1.0.0")}

    everything = WarmModels()
    assert set(warm_up(tmp_path, "cpu", everything, room=FAULTY)) == {"works", "raises", "refuses"}
    assert ("works", "2.0.0") in {(one.pipeline, one.version) for one in everything}


def test_shipped_models_take_turns_where_only_one_fits() -> None:
    """Real bundles, compiled as the node compiles them."""
    brain, breast = (Bundle.open(list(bundles_in(MODELS / name))[-1]) for name in ("brain_mri", "breast_ultrasound"))
    assert brain.size_in_memory == pytest.approx(2 * 2 * (brain.path / brain.weights).stat().st_size, rel=0.05)  # stored in half precision
    warm = WarmModels(breast.size_in_memory / MB + 1)

    _, model = _load(brain, "brain_mri", "cpu", warm, "node.pipelines")
    gone = weakref.ref(model.module)
    del model
    _load(breast, "breast_ultrasound", "cpu", warm, "node.pipelines")

    assert [one.pipeline for one in warm] == ["breast_ultrasound"]
    assert gone() is None
