"""Property tests that draw the same examples on every machine, whatever else changes in the code.

`derandomize` takes the seed from the test's own source, but hypothesis also mixes in numbers and texts that it finds in the modules of
this repository, so that any edit anywhere gives other examples. A backend of our own, as hypothesis lets one be registered, leaves
these out. A run that hunts for new examples asks for them by number: RADNODE_TEST_EXAMPLES=5000.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

HUNT = int(os.environ.get("RADNODE_TEST_EXAMPLES", "0"))
BACKEND = "seed alone"


class SeedAlone(HypothesisProvider):
    """Draws from the seed and nothing else."""

    def _maybe_draw_constant(self, *args: Any, **kwargs: Any) -> None:
        return None


AVAILABLE_PROVIDERS[BACKEND] = SeedAlone


def bounded(examples: int, **more: Any) -> settings:
    """So many examples, always the same; in a hunt other ones, and as many as were asked for."""
    return settings(
        max_examples=HUNT or examples,
        backend=BACKEND,
        deadline=None,
        derandomize=not HUNT,
        phases=(Phase.explicit, Phase.generate),  # no search for a smaller example: it costs minutes
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        **more,
    )
