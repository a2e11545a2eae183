"""What leaves is read once more, after masking: a name that is still legible stops the study, and the report says how each image was looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.errors import LeakFound, TextDetectorFailed
from node.identified.account import Account, Look
from node.identified.deidentifier import Deidentifier
from node.identified.folders import Folders
from node.identified.identifying import Identifying, Kind
from node.identified.looking import ALL_FRAMES, ByHand, Looker
from node.identified.looking_apart import LookingApart
from node.identified.profile import Profile
from node.identified.proof import PROOF, Prover, SigningKey
from node.identified.rendering import Picture
from node.identified.second_look import SecondLook
from node.identified.spoken import Spoken, near
from node.identified.text_detector import read_text
from tests.rooms.front_door import radnode
from tests.rooms.lettering import Text, written
from tests.rooms.test_commands import settings
from tests.rooms.test_deidentifier import Wing
from tests.rooms.test_looking import NAME, a_slice_of_ct, an_image, nothing, speckle

__all__ = ["settings"]


class LookedAt(Wing):
    """A wing whose images are looked at by one, and read by another."""

    def __init__(self, folder: Path, looker: Looker, reader: Looker | None = None) -> None:
        super().__init__(folder)
        self.by_hand: dict[str, ByHand] = {}
        self.prover = Prover(partial(SigningKey, b"s" * 32), edition="2026c", options=(), read_text=SecondLook(reader or looker))
        self.deidentifier = Deidentifier(
            Profile(), self.clean_uids, self.identities, self.volume,
            prover=self.prover, looker=looker, by_hand=lambda study: self.by_hand,
        )  # fmt: skip


def leila(number: int = 1, pixels: np.ndarray | None = None, **changes: object) -> Dataset:
    """An ultrasound image of Leila, her name burned in."""
    ds = an_image(written(speckle(), 255, NAME) if pixels is None else pixels, PatientName="Haddad^Leila", **changes)
    ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{number}"
    return ds


def report_of(wing: LookedAt, *images: Dataset) -> dict[str, dict[str, object]]:
    study = wing.deidentify(*images)
    return dict(json.loads((study.folder / PROOF).read_text()))


def test_a_name_that_the_detector_missed_is_read_and_stops_the_study(tmp_path: Path) -> None:
    wing = LookedAt(tmp_path, Looker(find_text=nothing), Looker())

    with pytest.raises(LeakFound, match="names at pixels of frame 1") as refused:
        wing.deidentify(leila(pixels=speckle()), leila(2))

    assert "haddad" not in str(refused.value).lower()
    assert not list(wing.volume.rglob("*.dcm"))


def test_the_report_says_how_each_image_was_looked_at(tmp_path: Path) -> None:
    """One masked and read again, one in which nothing was found, one slice in which nothing stands out: that one nobody reads."""
    wing = LookedAt(tmp_path, Looker())
    ct = a_slice_of_ct()
    ct.StudyInstanceUID, ct.PatientName = leila().StudyInstanceUID, "Haddad^Leila"

    report = report_of(wing, leila(1), leila(2, pixels=speckle()), ct)

    assert report["done"]["images"] == {str(Look.MASKED): 1, str(Look.CLEAR): 1, str(Look.FLAT): 1}
    assert report["done"]["masked_boxes"] == 1
    pixels = report["leak_scan"]["pixels"]
    assert pixels["text"] == "looked at again"
    uids = {wing.clean_uids.of(ds.SOPInstanceUID) for ds in (leila(1), leila(2))}
    assert {Path(name).stem for name in pixels["looked_at"]} == uids


def test_what_nobody_can_look_at_again_goes_nowhere_but_on_a_persons_word(tmp_path: Path) -> None:
    def down(picture: Picture) -> list[str]:
        raise TextDetectorFailed("it failed")

    wing = LookedAt(tmp_path, Looker(find_text=nothing), Looker(read_text=down))
    with pytest.raises(LeakFound, match="can't be looked at again"):
        wing.deidentify(leila(pixels=speckle()))

    wing.by_hand = {wing.clean_uids.of(leila().SOPInstanceUID): ByHand(released=True)}
    assert report_of(wing, leila(pixels=speckle()))["done"]["images"] == {str(Look.BY_HAND): 1}


def test_text_over_all_frames_is_read_too(tmp_path: Path) -> None:
    """Ten frames, each with a part of the name: only the brightest of all frames shows it whole."""
    frames = np.stack([speckle()] * 10)
    name = written(speckle(), 255, NAME)
    for i, frame in enumerate(frames):
        frame[:, 20 * i : 20 * i + 20] = name[:, 20 * i : 20 * i + 20]
    ds = an_image(frames, frames=10)

    texts = Looker().read(ds, "1.2.840.10008.1.2.1")

    assert any("HADDAD" in text for frame, text in texts if frame == ALL_FRAMES)


@pytest.mark.parametrize("workers", [1, 2])
def test_in_a_folder_the_study_with_the_legible_name_stays_behind(tmp_path: Path, workers: int) -> None:
    wing = Wing(tmp_path)
    looker = LookingApart(Looker(find_text=nothing), threads=1)
    one, two = leila(1, pixels=speckle()), leila(2)
    two.StudyInstanceUID, two.SeriesInstanceUID = "1.2.826.9.1", "1.2.826.9.2"
    (tmp_path / "in").mkdir()
    for name, ds in (("one", one), ("two", two)):
        ds.save_as(tmp_path / "in" / name, enforce_file_format=True)
    prover = Prover(partial(SigningKey, b"s" * 32), edition="2026c", options=(), read_text=SecondLook(looker))
    folders = Folders(
        wing.engine, wing.identities, wing.keyring, tmp_path / "sealed",
        profile=Profile(), clean_uids=wing.clean_uids, looker=looker, workers=workers, prover=prover,
    )  # fmt: skip

    report = folders.deidentify(tmp_path / "in", tmp_path / "out")
    looker.close()

    assert (report["deidentified"], report["refused"]) == (1, 1)
    [refused] = [outcome for outcome in report["outcomes"] if outcome["outcome"] == "refused"]
    assert "names at pixels of frame 1" in refused["reason"]
    assert report["done"]["images"] == {str(Look.CLEAR): 1}  # what leaves
    assert len(report["leak_scan"]["pixels"]["looked_at"]) == 1


def test_the_table_of_what_was_done_is_shown(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    leila().save_as(tmp_path / "in" / "one.dcm", enforce_file_format=True)
    away = radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings)
    assert away.returncode == 0, away.stderr

    shown = radnode("proof", "show", tmp_path / "out", config=settings).stdout

    assert "text looked at again: 1 files" in shown
    rows = {line.strip().partition("  ")[2]: line.split()[0] for line in shown.splitlines() if line.startswith("   ")}
    assert rows["images looked at: masked"] == "1"
    assert rows["boxes of text painted over"] == "1"
    assert int(next(number for words, number in rows.items() if words.startswith("U "))) >= 3


def test_actions_are_counted_at_every_depth(tmp_path: Path) -> None:
    """A name in an item, an unknown attribute, a description, two dates: each under the letter of what became of it."""
    wing = LookedAt(tmp_path, Looker(find_text=nothing), Looker(read_text=blind_reader))
    plain = report_of(wing, leila(pixels=speckle()))["done"]["actions"]
    more = leila(pixels=speckle())
    more.StudyInstanceUID = "1.2.826.9.7"
    more.add_new(0x00291001, "LO", "private")
    more.PatientComments = "a comment"
    more.AcquisitionDate = "20240102"
    counted = report_of(wing, more)["done"]["actions"]

    assert counted["X"] == plain["X"] + 2
    assert counted["C"] == plain["C"] + 1
    assert counted["U"] == plain["U"] >= 3
    assert plain["D"] >= 2


def blind_reader(picture: Picture) -> list[str]:
    return []


# --- reading ------------------------------------------------------------------------------------------------------------------------------
def test_long_lines_and_short_words_are_read() -> None:
    line = Text("HADDAD LEILA ZEYNEP  12.03.1961  ID 4711-0815-22", 10, 60, 12)
    picture = np.repeat(written(np.tile(speckle(), (1, 2)), 255, line, Text("L", 500, 150, 16))[..., None], 3, 2)

    texts = " ".join(read_text(picture)).upper()

    assert "HADDAD" in texts
    assert "4711" in texts


def spoken(**values: str) -> Callable[[str], Kind | None]:
    found = Identifying()
    for name, value in values.items():
        found.values[Kind[name]].add(value)
    return Spoken(found).says


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("HADDAD, LEILA", Kind.NAME),
        ("HADDADLEILA", Kind.NAME),
        ("HAODAD", Kind.NAME),
        ("Wu", None),  # too short to tell
        ("LEE", Kind.NAME),
        ("SLEEVE", None),
        ("LEF", None),
        ("4711-0815", Kind.IDENTIFIER),
        ("4711-08l5", Kind.IDENTIFIER),
        ("20.3 mm 110 kV", None),
        ("03/12/1961", Kind.BIRTH_DATE),
        ("1961-03-13", None),
        ("GAIN 62 %", None),
        ("R", None),
        ("", None),
    ],
)
def test_what_a_reader_may_mistake_counts_and_short_words_raise_no_alarm(text: str, kind: Kind | None) -> None:
    says = spoken(NAME="Haddad^Leila^Lee^Wu", IDENTIFIER="47110815", BIRTH_DATE="19610312")

    assert says(text) is kind


@pytest.mark.parametrize(
    ("word", "so"), [("smith", True), ("smlth", True), ("smth", True), ("smiith", True), ("smyte", False), ("sm", False)]
)
def test_one_letter_may_be_wrong(word: str, so: bool) -> None:
    assert near("smith", word) is so


def test_of_two_files_of_one_instance_the_closer_look_counts() -> None:
    account, more = Account(), Account()
    account.saw("2.25.1", Look.FLAT, 0)
    more.saw("2.25.1", Look.MASKED, 2)
    account.merge(more)

    assert account.looks == {"2.25.1": Look.MASKED}
    assert account.done(defaced=0)["masked_boxes"] == 2
