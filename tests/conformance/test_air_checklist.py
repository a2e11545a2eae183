"""`docs/ihe-air.md` is a checklist: beside every line stands a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
LINES = [line for line in (HERE.parents[1] / "docs" / "ihe-air.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]


def test_every_line_names_a_test_that_exists():
    assert len(LINES) >= 20
    for line in LINES:
        named = re.findall(r"(\w+)::(test_\w+)", line.rsplit("|", 2)[1])
        assert named, line
        for file, test in named:
            assert re.search(rf"^def {test}\(", (HERE / f"test_{file}.py").read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"
