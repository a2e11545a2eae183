"""Who a study belongs to is sealed with the study's key, and goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from node.domain import CleanUid
from node.errors import KeyMissing
from node.identified.cleaning import open_data_set
from node.identified.deidentifier import study_attributes
from node.identified.named import Identity
from node.identified.tables import IdentityRow
from tests.rooms.test_deidentifier import Wing, a_slice, as_received

STUDY = CleanUid("2.25.1")


@pytest.fixture
def wing(tmp_path: Path) -> Wing:
    wing = Wing(tmp_path)
    wing.know(STUDY)
    return wing


def an_identity(transfer_syntax: str = "1.2.840.10008.1.2.1", **changes: object) -> Identity:
    opened = open_data_set(as_received(a_slice(**changes), transfer_syntax).data, transfer_syntax)
    return Identity(attributes=study_attributes(opened), original_uid={CleanUid("2.25.7"): "1.2.3"}, date_shift_days=70)


@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
def test_an_identity_comes_back_as_it_was(wing: Wing, transfer_syntax: str) -> None:
    wing.identities.put(STUDY, an_identity(transfer_syntax, SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎"))

    back = wing.identities.get(STUDY)

    assert str(back.attributes.PatientName) == "山田^太郎"
    assert back.attributes.AccessionNumber == "ACC-99"
    assert back.attributes.StudyDate == "20240102"
    assert (back.original_uid, back.date_shift_days) == ({"2.25.7": "1.2.3"}, 70)


def test_the_database_holds_no_name(wing: Wing, tmp_path: Path) -> None:
    wing.identities.put(STUDY, an_identity())

    with wing.engine.connect() as db:
        sealed = db.scalar(select(IdentityRow.sealed))
    assert sealed
    stored = b"".join(p.read_bytes() for p in tmp_path.glob("identified.sqlite*"))
    assert sealed in stored
    for word in (b"DOE", b"MRN-4711", b"ACC-99", b"1.2.826"):
        assert word not in stored


def test_what_a_later_revision_adds_does_not_lose_what_was_known(wing: Wing) -> None:
    wing.identities.put(STUDY, an_identity())
    later = Identity(attributes=an_identity().attributes, original_uid={CleanUid("2.25.8"): "1.2.4"}, date_shift_days=70)

    wing.identities.put(STUDY, later)

    assert wing.identities.get(STUDY).original_uid == {"2.25.7": "1.2.3", "2.25.8": "1.2.4"}


def test_without_the_key_nobody_knows_any_more(wing: Wing) -> None:
    wing.identities.put(STUDY, an_identity())

    wing.keyring.shred(STUDY)

    assert not wing.identities.has(STUDY)
    with pytest.raises(KeyMissing):
        wing.identities.get(STUDY)


def test_an_unknown_study_has_no_identity(wing: Wing) -> None:
    assert not wing.identities.has(CleanUid("2.25.404"))
    with pytest.raises(KeyMissing):
        wing.identities.get(CleanUid("2.25.404"))


def test_an_identity_refuses_to_be_printed() -> None:
    identity = an_identity()

    assert "DOE" not in f"{identity!r} {identity}"
    assert isinstance(identity.attributes, Dataset)


def test_an_attribute_broken_inside_does_not_spoil_the_way_home(wing: Wing) -> None:
    """Other Patient IDs Sequence whose item promises more than there is."""
    plain = as_received(a_slice()).data
    where = plain.index(b"\x10\x00\x30\x00DA")
    broken = plain.replace(
        plain[where : where + 16], plain[where : where + 16] + b"\x10\x00\x02\x10SQ\0\0\x0c\0\0\0\xfe\xff\x00\xe0\xff\0\0\0DOE!"
    )
    opened = open_data_set(broken, "1.2.840.10008.1.2.1")

    attributes = study_attributes(opened)

    assert "OtherPatientIDsSequence" not in attributes
    assert attributes.PatientName == "DOE^JANE"
