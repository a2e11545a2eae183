"""A study whose every identifying attribute carries an odd word goes the whole way. Where are the words found afterwards?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

import config
from node.assembly import House
from node.testing import canary_study, write_study
from tests.stories.conftest import CHEST, Department
from tests.stories.department import store, wait_for

ODD = re.compile(rb"qx[a-z]{6,8}|q\0x\0(?:[a-z]\0){6,8}", re.IGNORECASE)  # as bytes, and as UTF-16
UID = re.compile(rb"2\.25\.[0-9]{10,39}")


def words_in(data: bytes, words: set[bytes]) -> set[bytes]:
    """Which of the words stand in these bytes, whatever their case; a word may be cut short by its VR."""
    found = {word.replace(b"\0", b"").upper() for word in ODD.findall(data)}
    return {word for word in words if any(word.startswith(one) or one.startswith(word) for one in found)}


def uids_in(data: bytes, uids: set[bytes]) -> set[bytes]:
    """Which of the original UIDs stand in these bytes."""
    return uids & set(UID.findall(data))


def memory_of(process: psutil.Process) -> Iterator[bytes]:
    """What a process holds in writable memory."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Department, set[bytes], set[bytes], Path]]:
    """The canary has been sent, and its results have arrived in a folder outside the node."""
    folder = tmp_path_factory.mktemp("canary")
    home = folder / "home"
    department = Department(folder)
    department.node.settings["destinations"] = {"archive": {"kind": "folder", "path": str(home)}}
    department.node.settings["orthancs"] = {}
    department.node.rules(CHEST)
    canary = canary_study(slices=8)
    write_study(canary.datasets, folder / "study")

    def complete() -> bool:
        assert department.node.status()["quarantine"] == []
        return {dcmread(path, stop_before_pixels=True).Modality for path in home.rglob("*.dcm")} >= {"SR", "OT"}

    try:
        department.node.start()
        assert store(folder / "study", department.node.dicom_port).returncode == 0
        wait_for("results in the folder", complete, seconds=240, every=1)
        yield department, {word.upper().encode() for word in canary.words.values()}, {uid.encode() for uid in canary.uids.values()}, home
    finally:
        department.node.stop()


def test_there_is_something_to_find(story):
    _, words, uids, home = story
    assert len(words) > 400
    assert len(uids) > 20
    sent = b"".join(path.read_bytes() for path in (home.parent / "study").rglob("*.dcm"))
    assert words_in(sent, words) == words
    assert uids_in(sent, uids) == uids


def test_the_results_carry_the_name_again(story):
    _, words, _, home = story
    [report] = [path for path in home.rglob("*.dcm") if dcmread(path, stop_before_pixels=True).Modality == "SR"]
    assert words_in(report.read_bytes(), words)
    assert words_in(str(dcmread(report).PatientName).encode(), words)


def test_no_word_and_no_uid_lies_on_the_nodes_disk(story):
    department, words, uids, _ = story
    files = [path for path in department.node.data.rglob("*") if path.is_file()]
    assert any(path.suffix == ".seg" for path in files)
    assert any(path.name == "ledger.sqlite" for path in files)
    for path in files:
        data = path.read_bytes()
        assert words_in(data, words) == set(), path.name
        assert uids_in(data, uids) == set(), path.name
        assert words_in(str(path).encode(), words) == set()


def test_no_word_and_no_uid_is_in_the_log(story):
    department, words, uids, _ = story
    log = department.node.log.read_bytes()
    assert b"study settled" in log
    assert words_in(log, words) == set()
    assert uids_in(log, uids) == set()


def test_no_word_is_in_the_memory_of_a_worker(story):
    department, words, uids, _ = story
    parts = department.node.parts()
    for process in parts["worker"] + parts["model"]:
        for piece in memory_of(process):
            assert words_in(piece, words) == set()
            assert uids_in(piece, uids) == set()


def test_the_vault_holds_the_words_once_it_is_opened(story):
    department, words, _, _ = story
    house = House(config.load(department.node.config))
    found: set[bytes] = set()
    for ref in house.intake.refs():
        for instance in house.intake.open(ref).instances():
            found |= words_in(instance.data, words)
    house.close()
    assert len(found) > 0.9 * len(words)  # the preamble and the file meta do not come over the wire
