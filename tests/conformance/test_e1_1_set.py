"""The set with every attribute of Table E.1-1, and its grader: doing nothing earns nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.testing.e1_1_grade import grade
from node.testing.e1_1_set import NEVER_STORED, Manifest, published_rows, write_set


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("e1-1")
    return folder, write_set(folder)


def test_doing_nothing_earns_nothing(originals: tuple[Path, Manifest]) -> None:
    folder, manifest = originals

    report = grade(folder, folder, manifest)

    assert report.rows == report.fail == len(published_rows()) - len(NEVER_STORED)
    assert report.top_level_ok == report.any_depth_ok == 0
    assert report.leaks > 60_000
    assert not report.missing
    assert report.outputs == len(manifest.instances)
    assert Manifest.from_json(manifest.to_json()) == manifest
