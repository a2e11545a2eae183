"""The report of a study: what it says, what it never says, and what its signature holds together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from config import Settings
from node.assembly import House
from node.errors import ProofInvalid
from node.gateway import Gateway
from node.identified import folders as folders_room
from node.identified.cleaning import Cleaner, CleanInstance
from node.identified.elements import encode
from node.identified.folders import Folders
from node.identified.proof import PROOF, SigningKey, public_key, read, verify
from node.testing.studies import a_study, write_study
from tests.rooms.front_door import radnode
from tests.rooms.test_commands import settings
from tests.rooms.test_leak_scan import ProvenWing, jane, planted, put

__all__ = ["settings"]
KEY = SigningKey(b"s" * 32)


@pytest.fixture
def wing(tmp_path: Path) -> ProvenWing:
    return ProvenWing(tmp_path)


def test_a_report_says_what_was_looked_for_and_names_nobody(wing: ProvenWing) -> None:
    study = wing.deidentify(jane(1), jane(2))

    text = (study.folder / PROOF).read_text()
    report = json.loads(text)
    assert (report["study"], report["revision"], report["instances"]) == (study.ref.study, 1, 2)
    assert report["leak_scan"]["hits"] == 0
    assert report["leak_scan"]["searched_for"]["names"] == 4
    assert report["leak_scan"]["searched_for"]["birth dates"] == 1
    assert report["leak_scan"]["pixels"]["text"] == "not looked at again"
    assert report["profile"]["edition"] == "2026c"
    assert len(report["digests"]) == 2
    for value in ("lindqvist", "jane", "4711", "1961", "quimby", "karol", "zbigniew", "kbct", "88213", "wojcik", "1.2.826"):
        assert value not in text.lower()


def test_the_report_and_its_files_hold_together(wing: ProvenWing) -> None:
    study = wing.deidentify(jane(1), jane(2))
    path, key = study.folder / PROOF, public_key(KEY.pem.encode())
    assert verify(path, key).good

    [first, second] = sorted(study.folder.rglob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-1] + b"\1")
    second.unlink()
    checked = verify(path, key)

    assert checked.signed
    assert not checked.good
    assert checked.differ == (str(first.relative_to(study.folder)),)
    assert checked.missing == (str(second.relative_to(study.folder)),)


@pytest.mark.parametrize("change", [{"hits": 0, "study": "2.25.1"}, {"instances": 3}, {"digests": {}}, {"more": 1}])
def test_a_report_that_was_altered_is_not_signed(wing: ProvenWing, change: dict[str, object]) -> None:
    path = wing.deidentify(jane()).folder / PROOF
    path.write_text(json.dumps({**read(path), **change}))

    assert not verify(path, KEY.public).signed


def test_another_site_did_not_sign_it(wing: ProvenWing) -> None:
    path = wing.deidentify(jane()).folder / PROOF

    assert not verify(path, SigningKey(b"t" * 32).public).signed


def test_a_report_that_names_files_elsewhere_finds_none(wing: ProvenWing, tmp_path: Path) -> None:
    path = wing.deidentify(jane()).folder / PROOF
    path.write_text(json.dumps(KEY.signed({**read(path), "digests": {"../../../identified.sqlite": "0" * 64}})))

    assert verify(path, KEY.public).missing == ("../../../identified.sqlite",)


def test_what_is_no_report_and_no_key_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")

    with pytest.raises(ProofInvalid):
        read(tmp_path / "x.json")
    with pytest.raises(ProofInvalid):
        public_key(b"no key")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_with_a_leak_in_one_study_gives_the_others_only(wing: ProvenWing, tmp_path: Path, monkeypatch, workers: int) -> None:
    write_study(a_study("CT", slices=3, rows=64, patient=1), tmp_path / "in" / "one")
    write_study(a_study("CT", slices=3, rows=64, patient=2), tmp_path / "in" / "two")
    clean = Cleaner.clean

    def leaky(self: Cleaner, opened: folders_room.Opened) -> object:
        found = clean(self, opened)
        if isinstance(found, CleanInstance) and b"PHANTOM-0002" in opened.data:
            more = encode(0x00080070, b"LO", "Åström".encode(), explicit=True)
            chunks = (more, *(c for c in found.chunks if bytes(c[:4]) != b"\x08\0\x70\0"))
            return _with(found, chunks)
        return found

    monkeypatch.setattr(Cleaner, "clean", leaky)
    folders = Folders(
        wing.engine, wing.identities, wing.keyring, tmp_path / "sealed",
        profile=wing.deidentifier.profile, clean_uids=wing.clean_uids, workers=workers, prover=wing.prover,
    )  # fmt: skip

    report = folders.deidentify(tmp_path / "in", tmp_path / "out")

    assert (report["deidentified"], report["refused"]) == (3, 3)
    assert {outcome["kind"] for outcome in report["outcomes"] if outcome["outcome"] == "refused"} == {"LeakFound"}
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "report.json"]) == 3
    assert all(dcmread(p).PatientID.startswith("P") for p in (tmp_path / "out").rglob("*.dcm"))
    assert "str\u00f6m" not in (tmp_path / "out" / "report.json").read_text().lower()
    checked = verify(tmp_path / "out" / "report.json", KEY.public)
    assert checked.good
    assert checked.files == 3


def _with(found: CleanInstance, chunks: tuple[bytes, ...]) -> CleanInstance:
    facts = {name: getattr(found, name) for name in CleanInstance.__slots__}
    return CleanInstance(**{**facts, "chunks": chunks})


def test_a_leak_ends_in_quarantine_and_nothing_reaches_the_hall(tmp_path: Path, monkeypatch) -> None:
    """The gateway's own path, with a cleaner that lets a name through; then the same study once that is mended."""
    write_study(a_study("CT", slices=2, rows=64, patient=2), tmp_path / "in")
    home = House(Settings(data_dir=tmp_path / "data", intake={"settle_after_s": 0, "min_free_mb": 1}))
    home.take_folder(tmp_path / "in")
    with monkeypatch.context() as patch:
        planted(patch, put(0x00081030, "LO", "Thorax Anne-Sofie"))
        Gateway(home).settle()
        [refused] = home.overview()["quarantine"]

    assert refused["kind"] == "LeakFound"
    assert "(0008,1030) StudyDescription" in refused["reason"]
    assert "anne" not in json.dumps(refused).lower()
    assert not list(home.clean.rglob("*.dcm"))
    assert home.overview()["proven"] == 0
    assert [record["what"] for record in home.trail.of_study(refused["study"])][-1] == "refused: LeakFound"

    home.intake.give_again(home.intake.refs()[0])
    study = home.deidentifier.deidentify(home.intake.open(home.intake.refs()[0]))
    assert home.overview()["proven"] == 1
    assert home.check_proof(home.proofs()[study.ref.study]).good
    Gateway(home).purge(study.ref.study)
    assert home.proofs() == {}
    home.close()


def test_without_the_setting_nobody_searches(tmp_path: Path) -> None:
    write_study(a_study("CT", slices=1, rows=64, patient=2), tmp_path / "in")
    home = House(Settings(data_dir=tmp_path / "data", deidentification={"leak_scan": False}))

    report = home.folders().deidentify(tmp_path / "in", tmp_path / "out")
    home.close()

    assert report["deidentified"] == 1
    assert "signature" not in report


def test_on_the_command_line(settings: Path, tmp_path: Path) -> None:
    write_study(a_study("CT", slices=2, rows=64), tmp_path / "in")
    away = radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings)
    assert away.returncode == 0, away.stderr

    good = radnode("proof", "verify", tmp_path / "out", config=settings)
    (tmp_path / "key.pem").write_text(radnode("proof", "key", config=settings).stdout)
    [first, _] = sorted((tmp_path / "out").rglob("*.dcm"))
    (first.parent / "later.dcm").write_bytes(first.read_bytes())
    more = radnode("proof", "verify", tmp_path / "out", config=settings)
    first.write_bytes(first.read_bytes() + b"\0")
    bad = radnode("proof", "verify", tmp_path / "out" / "report.json", "--key", tmp_path / "key.pem", config=settings)
    shown = radnode("proof", "show", tmp_path / "out", config=settings)

    assert good.returncode == 0, good.stdout + good.stderr
    assert "not named" not in good.stdout
    assert (more.returncode, "later.dcm: the report says nothing of it" in more.stdout) == (0, True)
    assert "BEGIN PUBLIC KEY" in (tmp_path / "key.pem").read_text()
    assert bad.returncode == 1
    assert first.name in bad.stdout
    assert "hits       0" in shown.stdout
    assert radnode("proof", "show", "2.25.4711", config=settings).returncode == 1


@pytest.mark.parametrize("signature", ["none of the form", [1], None])
def test_a_signature_of_another_form_is_a_bad_one(tmp_path: Path, signature: object) -> None:
    (tmp_path / "proof.json").write_text(json.dumps({"digests": {}, "signature": signature}))

    checked = verify(tmp_path / "proof.json", KEY.public)

    assert not checked.signed
    assert checked.signer == ""
