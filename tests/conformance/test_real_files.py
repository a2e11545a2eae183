"""Real files through de-identification and back: valid stays valid, and home is byte for byte where it came from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread

from node.identified.folders import REPORT, Folders
from node.identified.profile import Options, Profile
from tests.conformance.validity import new_errors, new_iod_errors
from tests.conftest import need
from tests.rooms.test_deidentifier import Wing

#: all of them, or a few of each folder
EVERY_FILE = bool(os.environ.get("RADNODE_TEST_EVERY_FILE"))
#: with the options that let the most leave
OPTIONS = Options(clean_graphics=True, clean_structured_content=True)
LIBRARY = Path(pydicom.__file__).parent / "data"


@dataclass(frozen=True)
class Trip:
    """Real files, what left, and the report."""

    source: Path
    clean: Path
    folders: Callable[[], Folders]
    report: dict[str, object]
    pairs: list[tuple[Path, Path]]  #: original and clean file


@pytest.fixture(scope="module")
def trip(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trip:
    """Every file in a folder of its own, so that original and clean file can be told by their place."""
    home = tmp_path_factory.mktemp("real")
    source = home / "in"
    for number, path in enumerate(chosen(shared)):
        (source / f"{number:04d}").mkdir(parents=True)
        shutil.copyfile(path, source / f"{number:04d}" / "one.dcm")
    wing = Wing(home)

    def folders() -> Folders:
        profile = Profile(OPTIONS)
        return Folders(wing.engine, wing.identities, wing.keyring, home / "sealed", profile=profile, clean_uids=wing.clean_uids)

    report = folders().deidentify(source, home / "clean")
    pairs = []
    for folder in sorted(source.iterdir()):
        place = home / "clean" / ("d" + wing.clean_uids.of(f"folder {folder.name}")[-12:])
        pairs += [(folder / "one.dcm", clean) for clean in place.glob("*.dcm")]
    return Trip(source, home / "clean", folders, report, pairs)


def chosen(shared: Path) -> list[Path]:
    """All files, or of each folder the odd ones whole and three of the others."""
    folders: dict[Path, list[Path]] = {}
    for root in (shared / "data" / "dicom", LIBRARY / "test_files", LIBRARY / "charset_files"):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in {".dcm", ""} and path.stat().st_size < (64 << 20):
                folders.setdefault(path.parent, []).append(path)
    whole = {"odd", "enhanced", "seg_sr", "dcmqi_sr_example", "us", "wrapped"}
    return [
        path
        for folder, files in folders.items()
        for path in (files if EVERY_FILE or folder.name in whole or len(files) < 6 else files[:: max(1, len(files) // 4)])
    ]


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != REPORT}


def test_what_was_valid_is_still_valid(trip: Trip) -> None:
    """dciodvfy finds no error in a clean file that it did not find in the original."""
    dciodvfy = need("dciodvfy", "dicom3tools")
    with ThreadPoolExecutor(2) as pool:
        fresh = dict(zip(trip.pairs, pool.map(lambda pair: new_errors(dciodvfy, *pair), trip.pairs), strict=True))

    assert len(trip.pairs) == trip.report["deidentified"] > 100
    assert {before.parent.name: new for (before, _), new in fresh.items() if new} == {}


def test_a_clean_file_has_every_attribute_its_original_had_to_have(trip: Trip) -> None:
    """dicom-validator finds no error in a clean file that it did not find in the original."""
    pairs = trip.pairs if EVERY_FILE else trip.pairs[::4]

    fresh = {before.parent.name: new_iod_errors(before, after) for before, after in pairs}

    assert {name: new for name, new in fresh.items() if new} == {}


def test_every_real_study_comes_home_byte_for_byte(trip: Trip, tmp_path: Path) -> None:
    """Identity, UIDs and dates are the original's again, and so is every other byte."""
    home = trip.folders().reidentify(trip.clean, tmp_path / "home")

    report = trip.report
    assert report["deidentified"] + report["left_out"] + report["refused"] + report["not_dicom"] == report["files"]  # type: ignore[operator]
    assert home["restored"] == report["deidentified"]
    before, after = tree(trip.source), tree(tmp_path / "home")
    assert len(after) == report["deidentified"]
    assert [path for path, data in after.items() if before[path] != data] == []


def test_what_did_not_leave_has_a_reason(trip: Trip) -> None:
    outcomes = trip.report["outcomes"]

    assert isinstance(outcomes, list)
    assert all(one.get("reason") for one in outcomes if one["outcome"] != "deidentified")
    assert {one["outcome"] for one in outcomes} == {"deidentified", "left out", "refused"}


def test_a_real_report_keeps_its_numbers_and_codes(trip: Trip) -> None:
    """An SR of TID 1500, cleaned: a valid tree with the same measurements, without the words that nobody knows."""
    checked = 0
    for before, after in trip.pairs:
        original, clean = dcmread(before, stop_before_pixels=True, force=True), dcmread(after, stop_before_pixels=True)
        if original.get("Modality") != "SR":
            continue
        assert numbers(clean) == numbers(original)
        assert "ContentSequence" in clean
        assert clean.PatientName == clean.PatientID
        checked += 1

    assert checked >= 1


def numbers(ds: pydicom.Dataset) -> list[str]:
    return [str(element.value) for element in ds.iterall() if element.keyword == "NumericValue"]
