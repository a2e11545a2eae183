"""Pseudonym ⇄ person, clean UID ⇄ original UID: sealed with the study's key, so that forgetting the key forgets the person."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from node.domain import CleanUid
from node.errors import KeyMissing
from node.identified.named import Identity
from node.identified.tables import IdentityRow
from node.ledger.database import reading

PURPOSE = "identity"


class Sealer(Protocol):
    """What is asked of the keyring."""

    def seal(self, study: CleanUid, data: bytes, purpose: str) -> bytes: ...

    def unseal(self, study: CleanUid, sealed: bytes, purpose: str) -> bytes: ...


class Identities:
    """The identities of all studies, in the identified database."""

    def __init__(self, engine: Engine, keyring: Sealer) -> None:
        self._engine = engine
        self._keyring = keyring

    def put(self, study: CleanUid, identity: Identity) -> None:
        """Seal a study's identity. What was known of it before stays known: a later revision only adds UIDs."""
        known = self.get(study) if self.has(study) else None
        uids = {**(known.original_uid if known else {}), **identity.original_uid}
        sealed = self._keyring.seal(study, _packed(identity.attributes, uids, identity.date_shift_days), PURPOSE)
        with Session(self._engine) as db, db.begin():
            db.merge(IdentityRow(study=study, sealed=sealed))

    def get(self, study: CleanUid) -> Identity:
        """The study's identity.

        Raises
        ------
        KeyMissing
            When the study was purged, or never had one.
        """
        with reading(self._engine) as db:
            sealed = db.scalar(select(IdentityRow.sealed).where(IdentityRow.study == study))
        if sealed is None:
            raise KeyMissing("no identity is kept for this study", study=study)
        return _unpacked(self._keyring.unseal(study, sealed, PURPOSE))

    def has(self, study: CleanUid) -> bool:
        """An identity is kept, and its key too."""
        try:
            self.get(study)
        except KeyMissing:
            return False
        return True

    def forget(self, study: CleanUid) -> None:
        """Drop the row. The key is shredded by whoever purges the study."""
        with self._engine.begin() as db:
            db.execute(delete(IdentityRow).where(IdentityRow.study == study))


def _packed(attributes: Dataset, original_uid: Mapping[CleanUid, str], shift_days: int) -> bytes:
    facts = json.dumps({"uids": original_uid, "shift": shift_days, "implicit": attributes.original_encoding[0]}).encode()
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, bool(attributes.original_encoding[0])
    write_dataset(out, attributes)
    return zlib.compress(len(facts).to_bytes(8, "big") + facts + out.getvalue())


def _unpacked(packed: bytes) -> Identity:
    plain = zlib.decompress(packed)
    size = int.from_bytes(plain[:8], "big")
    facts = json.loads(plain[8 : 8 + size])
    attributes = read_dataset(BytesIO(plain[8 + size :]), is_implicit_VR=bool(facts["implicit"]), is_little_endian=True)
    return Identity(
        attributes=attributes,
        original_uid={CleanUid(clean): original for clean, original in facts["uids"].items()},
        date_shift_days=int(facts["shift"]),
    )
