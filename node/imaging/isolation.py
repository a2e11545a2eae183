"""Isolation forests kept as plain numbers: no pickle, one weights file, one digest. How odd a vector is beside those a forest was grown on.

A forest is grown with scikit-learn and read here with numpy; both give the same scores.
Liu, Ting and Zhou, Isolation Forest (ICDM 2008): an odd sample is parted from the others by few random cuts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

EULER = 0.5772156649015329
TAIL = 0.1  #: share of the normals above which their scores are told by a curve: few lie there


class Forest(nn.Module):  # type: ignore[misc]
    """`trees` trees of at most `nodes` nodes each, every one grown on `samples` vectors.

    A node's left child follows it. `right` is where its right child stands; in a leaf (feature -1), how many samples ended there.
    """

    def __init__(self, *, trees: int, nodes: int, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("feature", torch.full((trees, nodes), -1, dtype=torch.int16))
        self.register_buffer("threshold", torch.zeros((trees, nodes), dtype=torch.float32))
        self.register_buffer("right", torch.ones((trees, nodes), dtype=torch.int16))

    def scores(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """How odd each vector is, 0 to 1, from (vectors, features): scikit-learn's `score_samples` with the sign turned."""
        feature, threshold, right = (getattr(self, name).cpu().numpy() for name in ("feature", "threshold", "right"))
        x = np.asarray(vectors, np.float32)
        trees = np.arange(len(feature))[None]
        at = np.zeros((len(x), len(feature)), np.int64)
        depth = np.zeros(at.shape, np.float64)
        for _ in range(feature.shape[1]):
            asked = feature[trees, at]
            inner = asked >= 0
            if not inner.any():
                break
            goes_left = np.take_along_axis(x, np.maximum(asked, 0).astype(np.int64), axis=1) <= threshold[trees, at]
            at = np.where(inner, np.where(goes_left, at + 1, right[trees, at]), at)
            depth += inner
        depth += unsuccessful(right[trees, at])
        whole = float(unsuccessful(np.array([self.samples]))[0])
        return np.asarray(2.0 ** -(depth.mean(axis=1) / max(whole, 1e-9)), np.float64)

    def take(self, grown: Any) -> None:
        """The trees of a fitted `sklearn.ensemble.IsolationForest`."""
        for i, (tree, features) in enumerate(zip(grown.estimators_, grown.estimators_features_, strict=True)):
            tree, count = tree.tree_, tree.tree_.node_count
            leaf = tree.children_left < 0
            assert (tree.children_left[~leaf] == np.flatnonzero(~leaf) + 1).all()
            self.feature[i, :count] = torch.from_numpy(np.where(leaf, -1, np.asarray(features)[tree.feature]).astype(np.int16))
            self.threshold[i, :count] = torch.from_numpy(not_above(tree.threshold))
            self.right[i, :count] = torch.from_numpy(np.where(leaf, tree.n_node_samples, tree.children_right).astype(np.int16))


def not_above(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each number: single-precision values fall on the same side of both."""
    near = numbers.astype(np.float32)
    return np.where(near > numbers, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def unsuccessful(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Mean depth of an unsuccessful search in a binary tree of so many samples (formula 1 of the paper)."""
    n = np.maximum(np.asarray(samples, np.float64), 3)
    long = 2.0 * (np.log(n - 1.0) + EULER) - 2.0 * (n - 1.0) / n
    return np.asarray(np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, long)), np.float64)


class Projection(nn.Module):  # type: ignore[misc]
    """Vectors as their leading principal components, each with the spread 1."""

    def __init__(self, *, features: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(components, features))

    def of(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(vectors, features) → (vectors, components)."""
        mean, axes = self.mean.float().cpu().numpy(), self.axes.float().cpu().numpy()
        return np.asarray((np.asarray(vectors, np.float32) - mean) @ axes.T, np.float32)

    def fit(self, vectors: NDArray[np.float32]) -> None:
        """Principal components of `vectors`, whitened."""
        mean = vectors.mean(axis=0)
        _, spread, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        count = len(self.axes)
        scale = spread[:count, None] / np.sqrt(len(vectors) - 1)
        self.mean[:] = torch.from_numpy(mean)
        self.axes[:] = torch.from_numpy(axes[:count] / np.maximum(scale, 1e-6))


class Normals(nn.Module):  # type: ignore[misc]
    """Scores of normal examples that no forest was grown on, in rising order: where a score stands among them."""

    def __init__(self, *, examples: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(examples, dtype=torch.float32))

    def percentile(self, score: float) -> float:
        """Share of normal examples that are less odd, above 0 and below 1. Beyond most of them by an exponential tail."""
        known = self.scores.double().cpu().numpy()
        start = float(np.quantile(known, 1 - TAIL))
        if score <= start:
            shares = (np.arange(len(known)) + 0.5) / len(known)
            return float(np.clip(np.interp(score, known, shares), 1e-4, 1 - TAIL))
        spread = max(float((known[known > start] - start).mean()), 1e-9)
        return float(1 - TAIL * np.exp(-min((score - start) / spread, 12.0)))
