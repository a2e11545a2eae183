"""Captures of a screen and dose pages: masked, or kept back with a reason that can be read; none is lost without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from node.errors import BurnedInAnnotation
from node.identified.boxes import Box
from node.identified.folders import Folders
from node.identified.looking import Looker
from node.identified.looking_apart import LookingApart
from node.identified.profile import Profile
from tests.rooms.test_deidentifier import Wing, a_slice, as_received

LINES = [Box(8, 10, 190, 24), Box(354, 10, 505, 24), Box(400, 48, 505, 62)]  #: date and time, hospital, sex, age and number


@pytest.fixture
def capture(shared: Path) -> Dataset:
    """A surface rendering from a workstation with what its screen showed, of a private SOP class; here under the name of a capture."""
    ds = dcmread(shared / "data" / "dicom" / "odd" / "fodicom_GH355.dcm")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    return ds


def folders(wing: Wing, folder: Path, looker: LookingApart | None) -> Folders:
    return Folders(
        wing.engine, wing.identities, wing.keyring, folder / "sealed", profile=Profile(), clean_uids=wing.clean_uids, looker=looker
    )


def test_a_capture_of_a_screen_is_masked_in_a_folder(tmp_path: Path, capture: Dataset) -> None:
    (tmp_path / "in").mkdir()
    capture.save_as(tmp_path / "in" / "one")
    looker = LookingApart(Looker(), threads=1)

    report = folders(Wing(tmp_path), tmp_path, looker).deidentify(tmp_path / "in", tmp_path / "out")

    [outcome] = report["outcomes"]
    assert outcome["boxes"] >= 3
    before, after = capture.pixel_array, dcmread(tmp_path / "out" / outcome["file"]).pixel_array
    for box in LINES:
        assert before[box.top : box.bottom, box.left : box.right].max() > 4000
        assert len(np.unique(after[box.top : box.bottom, box.left : box.right])) == 1
    middle = (slice(110, 400), slice(170, 330))
    assert np.array_equal(after[middle], before[middle])


def test_where_nobody_looks_it_stays_behind_with_the_reason(tmp_path: Path, capture: Dataset) -> None:
    (tmp_path / "in").mkdir()
    capture.save_as(tmp_path / "in" / "one")

    report = folders(Wing(tmp_path), tmp_path, None).deidentify(tmp_path / "in", tmp_path / "out")

    assert [(o["outcome"], o["reason"]) for o in report["outcomes"]] == [("left out", "a capture of a screen")]


def test_in_the_node_a_study_of_captures_only_is_refused(tmp_path: Path) -> None:
    capture = a_slice(9, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])

    with pytest.raises(BurnedInAnnotation, match="captures of a screen only"):
        Wing(tmp_path).deidentify(capture, as_received(capture))


def test_every_odd_file_has_an_outcome_and_what_stays_behind_a_reason(tmp_path: Path, shared: Path) -> None:
    """Among them a capture of an unknown SOP class, and a dose page without pixels that calls itself a screen save."""
    source = shared / "data" / "dicom" / "odd"
    count = len(list(source.iterdir()))

    report = folders(Wing(tmp_path), tmp_path, None).deidentify(source, tmp_path / "out")

    assert len(report["outcomes"]) == count
    behind = [outcome for outcome in report["outcomes"] if outcome["outcome"] != "deidentified"]
    assert behind
    assert all(len(outcome["reason"]) > 10 for outcome in behind)
    reasons = " ".join(outcome["reason"] for outcome in behind)
    assert "an unknown SOP class" in reasons
    assert "a capture of a screen" in reasons or "it has no pixel data" in reasons
