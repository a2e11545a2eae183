"""`radnode demo` as a stranger runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import pytest
from pydicom import dcmread

from tests.conftest import ROOT
from tests.stories.department import wait_for


def test_the_demo_brings_every_phantom_home_with_the_known_answers(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RADNODE_")}

    with (tmp_path / "said").open("wb") as said:
        demo = subprocess.Popen(
            [sys.executable, "-m", "node", "demo", "--all", "--stay", "--out", str(tmp_path / "out")],
            cwd=ROOT,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            table = wait_for("the demo's end", lambda: _told(tmp_path / "said", demo), seconds=400)
            [address] = re.findall(r"Look around: (http://\S+) Sign in as admin with the one-time password \S+", table)
            page = httpx.get(address, headers={"Accept": "text/html"}, follow_redirects=True)
        finally:
            demo.terminate()
            ended = demo.wait(60)

    assert ended == 0
    assert (page.status_code, page.url.path) == (200, "/login")
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    for known in ("infection", "no infection", "malignant", "benign", "tumor", "no tumor", "anomaly", "no anomaly"):
        assert known in table
    studies = sorted(path for path in (tmp_path / "out").iterdir())
    assert len(studies) == 11
    for study in studies:
        whole = ("brain", "chest-film-unlike", "chest-film-like", "chest-film-findings")  # what says yes or no of a study outlines nothing
        outlined = {"SEG"} if not study.name.startswith(whole) else set()
        assert {dcmread(path, stop_before_pixels=True).Modality for path in study.glob("*.dcm")} == {"OT", "SR"} | outlined
        picture = cv2.imread(str(study / "picture-1.png"))
        assert picture.shape[0] > 400
        assert picture.std() > 20


def _told(said: Path, demo: subprocess.Popen[bytes]) -> str:
    """All that it printed, once it stays."""
    text = said.read_text()
    assert demo.poll() is None, text
    return text if "Ctrl-C ends it" in text else ""
