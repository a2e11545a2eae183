"""The page of models says what the bundles say."""

from __future__ import annotations

from pathlib import Path

from node.pipelines.interface import Pipeline
from node.registry import Registry
from training import models_page

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_bundles_say() -> None:
    """`python -m training.models_page > docs/models.md` writes it."""
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == models_page.page()


def test_every_pipeline_is_on_the_page() -> None:
    pipelines: Registry[Pipeline] = Registry("node.pipelines", Pipeline)  # type: ignore[type-abstract]

    assert set(pipelines) <= set(models_page.ROWS)
