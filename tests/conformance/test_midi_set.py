"""Studies with an answer key through the node's folder machinery: every action the right one, no identifier left anywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import config
from node.commands.offline import own_house
from node.testing.midi_answers import Do
from node.testing.midi_grade import Grade, grade
from node.testing.midi_set import write_midi_set

PIXELS = {Do.PIXELS_HIDDEN, Do.PIXELS_RETAINED}


@pytest.fixture
def cleaned(tmp_path: Path):
    """The set and its key, through `deidentify`, graded."""

    def through(*, patients: int, kinds: tuple[str, ...], seed: int = 1) -> Grade:
        write_midi_set(tmp_path / "in", tmp_path / "key", patients=patients, kinds=kinds, seed=seed)
        with own_house(config.load(None)) as home:
            home.folders().deidentify(tmp_path / "in", tmp_path / "out")
        return grade(tmp_path / "in", tmp_path / "out", tmp_path / "key")

    return through


def test_doing_nothing_is_found_out(tmp_path: Path):
    """The grader finds every text that was burned in, and every value that was left."""
    files, key = tmp_path / "in", tmp_path / "key"
    count = write_midi_set(files, key, patients=2, kinds=("CT", "SC"))

    found = grade(files, files, key)

    assert count > 5
    assert found.withheld == []
    assert found.of[Do.PIXELS_HIDDEN] == len(found.missed) > 5
    assert {str(do): found.right[do] for do in (Do.TEXT_REMOVED, Do.DATE_SHIFTED, Do.UID_CHANGED, Do.PIXELS_HIDDEN)} == {
        "text removed": 0,
        "date shifted": 0,
        "uid changed": 0,
        "pixels hidden": 0,
    }
    assert found.share_of(Do.TAG_RETAINED, Do.TEXT_RETAINED, Do.PIXELS_RETAINED) == 1
    assert len({leak["number"] for leak in found.leaks}) == count


def test_headers_in_many_character_sets_are_cleaned_as_the_key_says(cleaned):
    """27 patients, one in three with a name beyond ASCII; names in free text, private attributes, unknown VRs and nested items."""
    found = cleaned(patients=27, kinds=("MR",))

    assert found.withheld == []
    assert found.leaks == []
    assert found.wrong == []
    assert sum(found.of.values()) > 3000
    assert max(found.outside) == 0  # nothing was burned in, and nothing was painted over


def test_a_set_is_the_same_every_time(tmp_path: Path):
    write_midi_set(tmp_path / "one", tmp_path / "key", patients=2, kinds=("CT", "US"))
    write_midi_set(tmp_path / "two", tmp_path / "again", patients=2, kinds=("CT", "US"))

    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.dcm")]
    assert len(files) >= 5
    assert Counter(path.read_bytes() for path in (tmp_path / "one").rglob("*.dcm")) == Counter(
        path.read_bytes() for path in (tmp_path / "two").rglob("*.dcm")
    )
    assert (tmp_path / "key" / "answers.json").read_bytes() == (tmp_path / "again" / "answers.json").read_bytes()


def test_no_name_or_number_in_the_pixels_can_be_read(cleaned):
    """Ultrasound, a film and screen pages, texts from 8 to 40 pixels: what identifies is painted over, and hardly anything else."""
    found = cleaned(patients=1, kinds=("US", "CR", "SC"), seed=3)

    texts = sum(number for height, number in found.texts.items() if height != "other")
    assert found.withheld == []
    assert texts >= 8
    assert found.missed == []
    assert found.leaks == []
    assert found.share >= 0.995
