"""Proof per study: the leak scan's report, signed with this site's key, beside the clean files that it names.

The report holds no value that identifies: kinds and numbers of what was searched for, digests of the clean files, and a signature
(Ed25519, RFC 8032) that anybody can check with the site's public key. Why so: `docs/decisions/0006-proof-per-study.md`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node import __version__
from node.domain import StudyRef
from node.errors import LeakFound, ProofInvalid
from node.identified.account import Account
from node.identified.identifying import Identifying, Kind, kept_by, standard_words
from node.identified.leak_scan import UNREADABLE, UNSEEN, Leak, LeakScan, ReadText, Scanned, Sought
from node.identified.needles import load_character_sets
from node.identified.second_look import SecondLook

PROOF = "proof.json"
SIGNATURE = "signature"
FORMAT = 1
NOT_SEARCHED = (
    "bytes of native pixel data, which hold text by chance only; patterns below 8 bytes in compressed pixel data and binary numbers; "
    "parts of names below 3 letters or that are words of radiology, unless beside another part that is none; other identifiers than the patient's, "
    "the visit's and the order's below 6 characters; words of free text that are common words"
)


class SigningKey:
    """This site's key: 32 random bytes that the keyring keeps, sealed by the master key."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key()

    def __repr__(self) -> str:
        return f"<SigningKey {self.name}>"

    @property
    def name(self) -> str:
        """A fingerprint of the public key, by which a report says who signed it."""
        return name_of(self.public)

    @property
    def pem(self) -> str:
        """The public key (SubjectPublicKeyInfo, RFC 8410), for who wants to check."""
        return self.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def signed(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """The report with its signature, which covers all the rest of it."""
        body = {name: value for name, value in report.items() if name != SIGNATURE}
        value = base64.b64encode(self._private.sign(canonical(body))).decode()
        return {**body, SIGNATURE: {"algorithm": "Ed25519", "key": self.name, "value": value}}


def name_of(public: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key."""
    return hashlib.sha256(public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)).hexdigest()


def public_key(pem: bytes) -> Ed25519PublicKey:
    """A public key that `pem` of a site gave. ProofInvalid when it is none."""
    try:
        found = serialization.load_pem_public_key(pem)
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise ProofInvalid("the key is no Ed25519 public key in PEM; `radnode proof key` prints the right form")
    return found


def canonical(body: Mapping[str, Any]) -> bytes:
    """What is signed: JSON with sorted keys and no blanks, in UTF-8."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `verify` found."""

    signed: bool  #: the signature fits the report and the key
    signer: str  #: the key that the report names
    files: int  #: digests that were compared
    differ: tuple[str, ...] = ()  #: files with other bytes than the report says
    missing: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()  #: DICOM files beside it that it says nothing of: they came later

    @property
    def good(self) -> bool:
        return self.signed and not self.differ and not self.missing


def read(path: Path) -> dict[str, Any]:
    """A report. ProofInvalid when the file is none."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("digests"), dict):
        raise ProofInvalid("this is no report of a leak scan", file=path.name)
    return report


def verify(path: Path, key: Ed25519PublicKey) -> Checked:
    """Whether the report is as it was signed, and the files below its folder are those that it names."""
    report = read(path)
    digests: Mapping[str, str] = report["digests"]
    differ, missing = [], []
    for name, digest in sorted(digests.items()):
        file = path.parent / name
        if not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
            missing.append(name)
        elif sha256(file) != digest:
            differ.append(name)
    there = (file.relative_to(path.parent).as_posix() for file in path.parent.rglob("*.dcm"))
    return Checked(
        signed=is_signed(report, key),
        signer=signer_of(report),
        files=len(digests),
        differ=tuple(differ),
        missing=tuple(missing),
        unnamed=tuple(sorted(name for name in there if name not in digests)),
    )


def is_signed(report: Mapping[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether the report is as it was signed with that key. Says nothing of its files."""
    signature = _signature(report)
    body = {name: value for name, value in report.items() if name != SIGNATURE}
    try:
        key.verify(base64.b64decode(str(signature.get("value", "")), validate=True), canonical(body))
    except (InvalidSignature, ValueError):
        return False
    return bool(signature.get("key") == name_of(key))


def signer_of(report: Mapping[str, Any]) -> str:
    """The key that the report names; empty when it names none."""
    return str(_signature(report).get("key", ""))


def _signature(report: Mapping[str, Any]) -> Mapping[str, Any]:
    found = report.get(SIGNATURE)
    return found if isinstance(found, dict) else {}


def sha256(path: Path) -> str:
    """The digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


#: options of the profile with which a kind of value stays on purpose
RETAINED = {
    "retain_full_dates": Kind.DATE,
    "retain_uids": Kind.UID,
}


class Prover:
    """Lets nothing go on that the leak scan finds fault with, and signs for the rest.

    Parameters
    ----------
    key
        Gives the signing key when it is first needed.
    edition, options
        The profile, as the report names it.
    read_text
        Reads what stands in an instance's frames; None: text in pixels is not looked at again, and the report says so.
    """

    def __init__(
        self,
        key: Callable[[], SigningKey],
        *,
        edition: str,
        options: tuple[str, ...],
        read_text: SecondLook | ReadText | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._key = key
        self._edition, self._options = edition, options
        self.read_text = read_text
        self._clock = clock

    def prepare(self) -> None:
        """What every search reads once, for processes that are forked from this one."""
        standard_words()
        load_character_sets()
        self.watch()

    def watch(self) -> Identifying:
        """An empty list of what identifies, to be filled while the study is read."""
        retained = frozenset(kind for name, kind in RETAINED.items() if name in self._options)
        return Identifying(retained=retained, kept_tags=kept_by(self._options))

    def reads(self, account: Account) -> ReadText | None:
        """Who reads the pixels of a study of which this is known."""
        return self.read_text.of(account.looks) if isinstance(self.read_text, SecondLook) else self.read_text

    def prove(
        self, found: Identifying, folder: Path, ref: StudyRef, *, account: Account | None = None, defaced: int = 0, left_out: int = 0
    ) -> dict[str, Any]:
        """Scan the study's clean files below `folder` and write the report there.

        Raises
        ------
        LeakFound
            With the attribute and the clean UID of the instance, never the value. No report is written.
        """
        account = account or Account()
        scan = LeakScan(found, read_text=self.reads(account))
        scanned = scan.scan(sorted(folder.rglob("*.dcm")))
        if scanned.leaks:
            raise leak_found(scanned.leaks)
        about = {"study": ref.study, "revision": ref.revision, "instances": scanned.instances, "left_out": left_out}
        profile = {"edition": self._edition, "options": list(self._options)}
        done = account.done(defaced=defaced)
        report = self.signed({**about, "profile": profile, "done": done, **self.facts([scan.sought], scanned, folder)})
        (folder / PROOF).write_text(json.dumps(report, indent=1))
        return report

    def facts(self, sought: Sequence[Sought], scanned: Scanned, folder: Path) -> dict[str, Any]:
        """What every report says: what was searched for, what was found, the pixels, the files."""
        below = f"{folder}/"
        return {
            "format": FORMAT,
            "made_at": self._clock().isoformat(timespec="seconds"),
            "leak_scan": {
                "searched_for": {kind.value: sum(one.counts[kind] for one in sought) for kind in Kind},
                "patterns": sum(one.patterns for one in sought),
                "words_beyond_the_limit": any(one.overflow for one in sought),
                "not_searched": NOT_SEARCHED,
                "hits": len(scanned.leaks),
                "pixels": {
                    "native": scanned.native,
                    "compressed": scanned.compressed,
                    "text": "not looked at again" if self.read_text is None else "looked at again",
                    "looked_at": [path.removeprefix(below) for path in sorted(scanned.looked_at)],
                    "texts": scanned.texts,
                },
                "versions": {"radnode": __version__, "pydicom": pydicom.__version__, "ahocorasick_rs": version("ahocorasick_rs")},
            },
            "digests": {path.removeprefix(below): digest for path, digest in sorted(scanned.digests.items())},
        }

    def signed(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """The report with this site's signature."""
        return self._key().signed(report)


def leak_found(leaks: list[Leak]) -> LeakFound:
    """The refusal: the weightiest place, and how many there are."""
    first = min(leaks, key=lambda leak: list(Kind).index(leak.kind))
    places = len({(leak.where, leak.kind) for leak in leaks})
    more = f", and {places - 1} other places" if places > 1 else ""
    what = first.where if first.where in {UNREADABLE, UNSEEN} else f"{first.kind.value} at {first.where}"
    return LeakFound(f"{what}{more}", instance=first.instance)
