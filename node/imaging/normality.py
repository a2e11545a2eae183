"""What normal films of one age look like: forests grown on them, and the scores of others of them to compare a film with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.imaging.isolation import Forest, Normals, Projection

Floats = NDArray[np.float32]


class Measured(NamedTuple):
    """Films as numbers, one row each."""

    edges: Floats  #: (films, values): histograms of oriented gradients
    whole: Floats  #: (films, values): what the transformer says of the film as a whole
    patches: Floats  #: (films, patches, width): what it says of each patch


class Normality(nn.Module):  # type: ignore[misc]
    """One age group.

    Parameters
    ----------
    edges, whole, width : numbers that describe a film by its edges, as a whole, and one of its patches
    patches : how many
    components : (edges, whole, patch): principal components that the forests are grown on
    trees, nodes, samples : of each forest
    examples : normal films that no forest was grown on
    """

    def __init__(
        self,
        *,
        edges: int,
        whole: int,
        width: int,
        patches: int,
        components: list[int],
        trees: int,
        nodes: int,
        samples: int,
        examples: int,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            [Projection(features=n, components=k) for n, k in zip((edges, whole, width), components, strict=True)]
        )
        self.forests = nn.ModuleList([Forest(trees=trees, nodes=nodes, samples=samples) for _ in range(3)])
        self.register_buffer("place", torch.zeros(patches, width))  # the mean patch of normal films at each place
        self.register_buffer("middle", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))
        self.register_buffer("weights", torch.full((2,), 0.5))  # of edges, of the film as a whole; they add up to 1
        self.normals = Normals(examples=examples)
        self.normal_patches = Normals(examples=201)

    def oddness(self, films: Measured) -> NDArray[np.float64]:
        """How unlike normal films each film is, (films,): its forests' scores in deviations of normal ones, averaged by weight."""
        return np.asarray(self.apart(films) @ self.weights.double().cpu().numpy())

    def apart(self, films: Measured) -> NDArray[np.float64]:
        """The same by edges and by the transformer, (films, 2)."""
        middle, spread = self.middle.double().cpu().numpy(), self.spread.double().cpu().numpy()
        scores = [self.forests[i].scores(self.projections[i].of(films[i])) for i in range(2)]
        return np.asarray((np.stack(scores, axis=1) - middle) / spread)

    def patch_scores(self, films: Measured) -> NDArray[np.float64]:
        """How unlike the patches at the same place of normal films each patch is, (films, patches)."""
        beside = films.patches - self.place.float().cpu().numpy()
        flat = self.projections[2].of(beside.reshape(-1, beside.shape[-1]))
        return np.asarray(self.forests[2].scores(flat).reshape(beside.shape[:2]))
