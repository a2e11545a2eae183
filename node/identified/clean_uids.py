"""Clean UIDs: a keyed hash of the original, as a UUID-derived UID (PS3.5 B.2), the same for the same UID on every day."""

from __future__ import annotations

import hmac
import re

from node.domain import CleanUid, Pseudonym

#: what viewers write where they know nobody
NOBODY = frozenset({"UNKNOWN", "ANONYMOUS", "OBSERVER", "READER", "NONE", "OHIF", "USER"})


class CleanUids:
    """The way in only. The way back is kept, sealed, with the study's identity."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, uid: str) -> CleanUid:
        """The clean UID of an original one."""
        return CleanUid(f"2.25.{int.from_bytes(self._mac('uid', uid)[:16], 'big')}")

    def pseudonym(self, patient_id: str, issuer: str = "") -> Pseudonym:
        """The pseudonym of a patient, from Patient ID and its issuer (PS3.3 C.7.1.1)."""
        return Pseudonym("P" + self._mac("patient", f"{issuer}\\{patient_id}")[:8].hex().upper())

    def reader(self, name: str) -> str:
        """A keyed hash of who reads images, whatever the case and the separators of the name; empty for nobody."""
        parts = [part for part in re.split(r"[\W_]+", name.upper()) if part and part not in NOBODY]
        return "R" + self._mac("reader", " ".join(parts))[:8].hex().upper() if parts else ""

    def date_shift_days(self, pseudonym: Pseudonym) -> int:
        """How far back the patient's dates are moved: 1 to 3650 days, one shift a patient (PS3.15 E.3.6)."""
        return 1 + int.from_bytes(self._mac("dates", pseudonym)[:8], "big") % 3650

    def derived_key(self, purpose: str) -> bytes:
        """32 bytes for something else that must be the same on every day."""
        return self._mac("key", purpose)

    def _mac(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{text}".encode(errors="surrogatepass"), "sha256")  # a folder's name may be no UTF-8
