"""Forests as plain numbers: they score as scikit-learn's do, and a score has its place among normal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.ensemble import IsolationForest

from node.imaging.isolation import Forest, Normals, Projection, not_above


@pytest.fixture(scope="module")
def known() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(500, 20)).astype(np.float32)


@pytest.mark.parametrize(("samples", "columns"), [(256, 1.0), (64, 1.0), (128, 0.5), (2, 1.0)])
def test_a_forest_scores_as_scikit_learn_does(known: np.ndarray, samples: int, columns: float) -> None:
    grown = IsolationForest(n_estimators=50, max_samples=samples, max_features=columns, random_state=0).fit(known)
    forest = Forest(trees=50, nodes=511, samples=samples)
    forest.take(grown)
    others = np.random.default_rng(2).normal(size=(300, 20)).astype(np.float32) * 2

    np.testing.assert_allclose(forest.scores(others), -grown.score_samples(others), rtol=1e-12)
    np.testing.assert_allclose(forest.scores(known), -grown.score_samples(known), rtol=1e-12)


def test_values_on_a_cut_go_the_same_way(known: np.ndarray) -> None:
    """Cuts are doubles, values singles: the vector that lies exactly on each cut is where a rounded cut would differ."""
    grown = IsolationForest(n_estimators=20, random_state=0).fit(known)
    forest = Forest(trees=20, nodes=511, samples=256)
    forest.take(grown)
    cuts = np.concatenate([tree.tree_.threshold for tree in grown.estimators_])[:400].astype(np.float32)
    edge = np.repeat(cuts[:, None], 20, axis=1)

    np.testing.assert_allclose(forest.scores(edge), -grown.score_samples(edge), rtol=1e-12)
    assert (not_above(np.array([0.1, -0.1, 2.0])).astype(np.float64) <= [0.1, -0.1, 2.0]).all()


def test_a_forest_survives_its_file(known: np.ndarray) -> None:
    first, second = (Forest(trees=10, nodes=511, samples=256) for _ in range(2))
    first.take(IsolationForest(n_estimators=10, random_state=0).fit(known))

    second.load_state_dict(load(save(first.state_dict())), strict=True)

    np.testing.assert_array_equal(second.scores(known), first.scores(known))


def test_a_projection_spreads_what_it_was_fitted_on_evenly() -> None:
    vectors = np.random.default_rng(3).normal(size=(400, 6)).astype(np.float32) * np.array([9, 5, 1, 0.5, 0.1, 0.01], np.float32)
    projection = Projection(features=6, components=3)

    projection.fit(vectors)

    seen = projection.of(vectors)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(seen.T), np.eye(3), atol=1e-4)


def test_a_percentile_is_the_share_of_normals_below_and_never_all_of_them() -> None:
    normals = Normals(examples=200)
    normals.scores[:] = torch.linspace(0, 1, 200)

    low, middle, high, beyond, far = (normals.percentile(x) for x in (-1.0, 0.5, 0.9, 1.5, 9.0))

    assert 0 < low < 0.01
    assert middle == pytest.approx(0.5, abs=0.01)
    assert high == pytest.approx(0.9, abs=0.02)
    assert high < beyond < far < 1
