"""`radnode demo` as a stranger runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
from pydicom import dcmread

from tests.conftest import ROOT


def test_the_demo_brings_every_phantom_home_with_the_known_answers(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RADNODE_")}

    done = subprocess.run(
        [sys.executable, "-m", "node", "demo", "--all", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )

    assert done.returncode == 0, done.stderr
    for known in ("infection", "no infection", "malignant", "benign", "tumor", "no tumor", "anomaly", "no anomaly"):
        assert known in done.stdout
    studies = sorted(path for path in (tmp_path / "out").iterdir())
    assert len(studies) == 11
    for study in studies:
        whole = ("brain", "chest-film-unlike", "chest-film-like", "chest-film-findings")  # what says yes or no of a study outlines nothing
        outlined = {"SEG"} if not study.name.startswith(whole) else set()
        assert {dcmread(path, stop_before_pixels=True).Modality for path in study.glob("*.dcm")} == {"OT", "SR"} | outlined
        picture = cv2.imread(str(study / "picture-1.png"))
        assert picture.shape[0] > 400
        assert picture.std() > 20
