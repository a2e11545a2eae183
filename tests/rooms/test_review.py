"""A refused study is looked at by a person, masked by hand, released, and comes out; each step is written down."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import SecretStr
from pydicom import dcmread
from pydicom.dataset import Dataset

from config import IntakeSettings, Settings, VaultSettings
from node.assembly import House
from node.domain import CleanUid
from node.errors import ReasonRefused, ReviewFailed
from node.gateway import Gateway
from node.identified.looking import Looker
from node.identified.looking_apart import LookingApart
from node.testing.studies import a_study, write_study
from tests.rooms.lettering import Text, all_ink, written

NAME = Text("HADDAD LEILA", 200, 200, 16)
BOX = (190, 190, 170, 40)


@pytest.fixture(scope="module")
def apart() -> Iterator[LookingApart]:
    """One process that looks, for all nodes of this file: it takes seconds to load."""
    looker = LookingApart(Looker())
    yield looker
    looker.close()


@pytest.fixture
def home(tmp_path: Path, apart: LookingApart) -> Iterator[House]:
    """A node that finds no text in a phantom, so that one which declares text is refused."""
    settings = Settings(
        data_dir=tmp_path / "data",
        vault=VaultSettings(master_key=SecretStr(base64.b64encode(b"m" * 32).decode()), segment_mb=16),
        intake=IntakeSettings(settle_after_s=0, min_free_mb=0),
    )
    found = House(settings)
    found.__dict__["looker"] = apart
    found.check()
    yield found
    found.__dict__.pop("looker", None)
    found.close()


def received(home: House, tmp_path: Path, ds: Dataset) -> CleanUid:
    """The study has come and went its way; its clean UID."""
    write_study([ds], tmp_path / "in")
    home.take_folder(tmp_path / "in")
    Gateway(home).settle()
    return home.clean_uids.of(str(ds.StudyInstanceUID))


def declared(*, text: bool = False) -> Dataset:
    """An ultrasound image that says that text is burned in. Nothing is, or too faint to be found."""
    [ds] = a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES")
    if text:
        pixels = ds.pixel_array
        ds.PixelData = written(pixels, 255, NAME).tobytes()
    return ds


def clean_images(home: House, study: CleanUid) -> list[Dataset]:
    return [dcmread(path) for path in (home.studies / study).rglob("*.dcm")]


def test_a_refused_study_is_seen_masked_released_and_comes_out(home: House, tmp_path: Path) -> None:
    ds = declared()
    study = received(home, tmp_path, ds)
    [refused] = home.quarantine.list()
    assert refused.kind == "BurnedInAnnotation"

    [shown] = home.show_refused(study, tmp_path / "seen")
    home.mask_by_hand(study, shown["instance"], [BOX], "a name that the detector does not see")
    assert clean_images(home, study) == []  # nothing leaves before it is released
    home.release_refused(study, "seen and masked")
    Gateway(home).settle()

    picture = cv2.imread(str(tmp_path / "seen" / shown["files"][0]))
    assert picture.shape[:2] == (shown["rows"], shown["columns"]) == ds.pixel_array.shape
    [clean] = clean_images(home, study)
    x, y, width, height = BOX
    inside = np.zeros(ds.pixel_array.shape, bool)
    inside[y : y + height, x : x + width] = True
    assert (clean.pixel_array[inside] == ds.pixel_array.min()).all()
    assert np.array_equal(clean.pixel_array[~inside], ds.pixel_array[~inside])
    assert (clean.BurnedInAnnotation, home.quarantine.list()) == ("NO", [])
    told = [str(record.get("what", "")) + str(record.get("facts", "")) for record in home.trail.of_study(study)]
    for step in ("looked at in quarantine", "masked by hand: a name that the detector does not see", "released from quarantine: seen and"):
        assert any(step in one for one in told)
    assert any("de-identified" in one and "decided by" in one and "seen and masked" in one for one in told)
    assert home.trail.verify().intact


def test_released_without_masks_it_passes_as_it_is(home: House, tmp_path: Path) -> None:
    ds = declared()
    study = received(home, tmp_path, ds)

    home.release_refused(study, "nothing is written in it")
    Gateway(home).settle()

    [clean] = clean_images(home, study)
    assert np.array_equal(clean.pixel_array, ds.pixel_array)
    assert home.quarantine.list() == []


def test_a_reason_that_names_the_patient_releases_nothing_and_is_not_kept(home: House, tmp_path: Path) -> None:
    """Nor is what else is typed where a study is to be named."""
    ds = declared()
    study = received(home, tmp_path, ds)
    name = str(ds.PatientName).partition("^")[0]

    with pytest.raises(ReasonRefused):
        home.release_refused(study, f"the ward asks for {name}")
    with pytest.raises(ReasonRefused):
        home.mask_by_hand(study, home.clean_uids.of(str(ds.SOPInstanceUID)), [BOX], f"{name} stands there")
    with pytest.raises(ReviewFailed):
        home.show_refused(name, tmp_path / "seen")
    with pytest.raises(ReviewFailed):
        home.mask_by_hand(name, "", [BOX], "a name")

    assert [one.study for one in home.quarantine.list()] == [study]
    assert name not in json.dumps(home.trail.tail(20))


def test_a_release_that_is_broken_off_can_be_done_again(home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = received(home, tmp_path, declared())

    monkeypatch.setattr(home.intake, "again", lambda _ref: (_ for _ in ()).throw(OSError("the power was cut")))

    with pytest.raises(OSError, match="cut"):
        home.release_refused(study, "nothing is written in it")
    monkeypatch.undo()
    home.release_refused(study, "nothing is written in it")
    Gateway(home).settle()

    assert len(clean_images(home, study)) == 1


def test_what_a_person_released_says_nothing_of_images_that_come_later(home: House, tmp_path: Path) -> None:
    study = received(home, tmp_path, declared())
    home.release_refused(study, "nothing is written in it")
    late = declared()
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = f"{late.SOPInstanceUID[:50]}.9"
    late.InstanceNumber = 2

    received(home, tmp_path, late)

    [refused] = home.quarantine.list()
    assert str(home.clean_uids.of(str(late.SOPInstanceUID))) in refused.reason


def test_the_pictures_show_what_would_leave(home: House, apart: LookingApart, tmp_path: Path) -> None:
    ds = declared(text=True)
    home.__dict__["looker"] = None  # nobody looks, so what declares text is refused
    study = received(home, tmp_path, ds)
    home.__dict__["looker"] = apart

    [shown] = home.show_refused(study, tmp_path / "seen")

    whole, masked = (cv2.imread(str(tmp_path / "seen" / name), cv2.IMREAD_GRAYSCALE) for name in shown["files"])
    there = all_ink(whole.shape, NAME)
    assert whole[there].min() > 100
    assert masked[there].max() == 0
    assert (tmp_path / "seen").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("box", [(0, 0, 100_000, 10), (5, 5, 0, 4)])
def test_a_box_outside_of_the_image_is_refused(home: House, tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    ds = declared()
    study = received(home, tmp_path, ds)

    with pytest.raises(ReviewFailed, match="must lie in the image"):
        home.mask_by_hand(study, home.clean_uids.of(str(ds.SOPInstanceUID)), [box], "")


def test_who_is_not_in_quarantine_is_not_shown_or_released(home: House, tmp_path: Path) -> None:
    for act in (lambda: home.release_refused("2.25.1", "x"), lambda: home.show_refused("2.25.1", tmp_path / "seen")):
        with pytest.raises(ReviewFailed, match="not in quarantine"):
            act()


def test_a_purged_study_takes_its_decisions_along(home: House, tmp_path: Path) -> None:
    ds = declared()
    study = received(home, tmp_path, ds)
    home.release_refused(study, "nothing is written in it")

    Gateway(home).purge(study)

    assert home.decisions_by_hand.of(study) == {}
