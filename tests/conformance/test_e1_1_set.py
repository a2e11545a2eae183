"""The set with every attribute of Table E.1-1: what the node makes of it, judged by a grader that shares no code with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from node.identified.folders import Folders
from node.identified.profile import Options, Profile
from node.testing.e1_1_grade import grade
from node.testing.e1_1_set import NEVER_STORED, Manifest, published_rows, write_set
from tests.conformance.validity import new_errors
from tests.conftest import need
from tests.rooms.test_deidentifier import Wing

BASIC = Options(
    clean_pixel_data=False,
    clean_descriptors=False,
    retain_patient_characteristics=False,
    retain_modified_dates=False,
    retain_safe_private=False,
)
CLEANING = Options(clean_graphics=True, clean_structured_content=True)
RETAINING = Options(
    clean_graphics=True,
    clean_structured_content=True,
    retain_modified_dates=False,
    retain_full_dates=True,
    retain_device_identity=True,
    retain_institution_identity=True,
    retain_uids=True,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("e1-1")
    return folder, write_set(folder)


def cleaned(originals: Path, out: Path, options: Options) -> Path:
    """The set through the node."""
    wing = Wing(out)
    profile = Profile(options)
    folders = Folders(wing.engine, wing.identities, wing.keyring, out / "sealed", profile=profile, clean_uids=wing.clean_uids)
    folders.deidentify(originals, out / "clean")
    return out / "clean"


def test_doing_nothing_earns_nothing(originals: tuple[Path, Manifest]) -> None:
    folder, manifest = originals

    report = grade(folder, folder, manifest)

    assert report.rows == report.fail == len(published_rows()) - len(NEVER_STORED)
    assert report.top_level_ok == report.any_depth_ok == 0
    assert report.leaks > 40_000
    assert not report.missing
    assert not report.perfect
    assert report.outputs == len(manifest.instances)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("options", [Options(), BASIC, CLEANING, RETAINING], ids=["default", "basic", "cleaning", "retaining"])
def test_every_row_at_every_depth(originals: tuple[Path, Manifest], tmp_path: Path, options: Options) -> None:
    """100 % of the required actions, no leak, no fault in a UID, a date or a flag, and no object that was valid is not."""
    dciodvfy = need("dciodvfy", "dicom3tools")
    folder = cleaned(originals[0], tmp_path, options)

    report = grade(originals[0], folder, originals[1], options.names)

    assert (report.failed, report.not_as_asked, report.leaked, report.wrong_flags) == ({}, {}, [], {})
    assert report.rows == report.top_level_ok == report.any_depth_ok == 653
    assert (report.leaks, report.uid_faults, report.date_faults, report.missing) == (0, 0, 0, [])
    assert report.outputs == 23 + 3 * options.clean_structured_content  # with report.json
    assert report.perfect
    fresh = {before.name: new_errors(dciodvfy, before, after) for before, after in pairs(originals[0], folder, originals[1])}
    assert {name: new for name, new in fresh.items() if new} == {}


def pairs(originals: Path, folder: Path, manifest: Manifest) -> list[tuple[Path, Path]]:
    """Original and clean file."""
    clean = {int(dcmread(path, stop_before_pixels=True).InstanceNumber): path for path in folder.rglob("*.dcm")}
    return [(originals / one.file, clean[one.number]) for one in manifest.instances if one.number in clean]
