"""Folders of files through the profile and back: any tree, any kind of file, the way home exact to the byte."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedWriter, FileIO
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from node.confinement import end_with_parent
from node.domain import CleanUid, Pseudonym
from node.errors import IdentityConflict, InstanceUnreadable, KeyMissing, NodeError, StudyRefused
from node.identified import pixels
from node.identified.account import Account
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import EXPLICIT, IMPLICIT, Cleaner, CleanInstance, LeftOut, Opened, identifiers, open_data_set
from node.identified.defacing import Faces
from node.identified.deidentifier import patient_of, pseudonym_of, study_attributes, write_to
from node.identified.elements import LONG_VRS, SHORT_VRS, Malformed
from node.identified.folder_faces import Written, move, staging, take_out
from node.identified.folder_proof import CleanFiles, Searched, prove_folder
from node.identified.identifying import Identifying
from node.identified.identities import Identities, Sealer
from node.identified.kept_memory import kept_memory
from node.identified.looking_apart import LookingApart
from node.identified.named import Identity
from node.identified.pixel_tags import PixelTags
from node.identified.profile import Profile
from node.identified.proof import Prover
from node.identified.quick_files import read
from node.identified.reidentifier import CleanUidLeft, Reidentifier
from node.identified.tables import StudyRow

REPORT = "report.json"
PURPOSE = "folder"
AT_ONCE = 256  #: files of one study given to a process at a time, at most
TOLD_AT_ONCE = 32  #: files that a process is asked about at a time
UNREADABLE = "it can't be read"
DIRECTORY, DIRECTORY_NAME = "1.2.840.10008.1.3.10", "Media Storage Directory Storage"  #: a DICOMDIR

Progress = Callable[[int, int], None]  #: files done, files in all
_SOP_INSTANCE, _STUDY = 0x00080018, 0x0020000D


class _Told(NamedTuple):
    """What a file says of the study it belongs to."""

    study: bytes
    patient: tuple[str, str]
    identifiers: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some files of one study, for one process."""

    study: CleanUid
    patient: tuple[str, str]
    banned: frozenset[str]
    files: tuple[tuple[str, str], ...]  #: absolute, and below the folder


@dataclass(slots=True)
class _Done:
    """What became of a chunk. Named things in it are sealed before they touch the disk."""

    study: CleanUid
    pseudonym: Pseudonym
    shift_days: int
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    original_uid: dict[CleanUid, str] = field(default_factory=dict)
    originals: bytes = b""  #: packed, one for each of `written`
    found: Identifying | None = None  #: what identifies in the originals, while somebody searches for it
    written: list[Written] = field(default_factory=list)
    account: Account = field(default_factory=Account)


class Folders:
    """De-identifies a folder into another one, and brings it home.

    Parameters
    ----------
    sealed
        A folder for what the way home needs besides identity: original headers, paths and file meta, sealed with each study's key.
    looker
        Looks for text in pixels; without one nobody does.
    workers
        Processes to use.
    prover
        Searches the clean files of each study for what identifies, takes back the study when it finds something, and signs the report.
    """

    def __init__(
        self,
        engine: Engine,
        identities: Identities,
        keyring: Sealer,
        sealed: Path,
        *,
        profile: Profile,
        clean_uids: CleanUids,
        unflagged: pixels.Unflagged = "accept",
        faces: Faces | None = None,
        looker: LookingApart | None = None,
        workers: int = 1,
        prover: Prover | None = None,
    ) -> None:
        self._engine = engine
        self._identities = identities
        self._keyring = keyring
        self._sealed = sealed
        self._profile = profile
        self._clean_uids = clean_uids
        self._unflagged: pixels.Unflagged = unflagged
        self._faces = faces or Faces()
        self._looker = looker
        self._workers = workers
        self._study_of: dict[str, CleanUid] = {}
        self._prover = prover
        self._tags = _tags(clean_uids)

    # --- the way in ---------------------------------------------------------------------------------------------------------
    def deidentify(self, source: Path, target: Path, progress: Progress | None = None) -> dict[str, Any]:
        """Every DICOM file below `source`, clean, below `target`; the report, which is also `target/report.json`.

        The tree keeps its shape; folders and files are named by keyed hashes, because their names may name the patient. A file that is
        refused or left out has no file in `target` and one line in the report. Files that are not DICOM are counted.
        """
        with kept_memory():
            return self._deidentified(source, target, progress)

    def _deidentified(self, source: Path, target: Path, progress: Progress | None) -> dict[str, Any]:
        began = time.monotonic()
        source, target = source.resolve(), target.resolve()
        files = sorted(_files(str(source), but=str(target)))
        target.mkdir(parents=True, exist_ok=True)
        studies: dict[CleanUid, list[_Done]] = defaultdict(list)
        searched: Searched | None = None
        if self._prover:
            self._prover.prepare()  # once, here, for every process
        looker = self._looker.with_threads(1) if self._looker and self._workers > 1 else self._looker
        pool = ProcessPoolExecutor(self._workers, initializer=end_with_parent, initargs=(os.getpid(),)) if self._workers > 1 else None
        # the processes end before their folder goes
        with staging(target) if self._faces.on or self._prover else nullcontext(target) as place, pool or nullcontext():
            chunks, outcomes, counts = self._sorted(files, source, pool)
            done_files = len(files) - sum(len(chunk.files) for chunk in chunks)
            heads: dict[CleanUid, str] = {}
            for chunk in chunks:
                heads.setdefault(chunk.study, chunk.files[0][0])
            work = _Work(self._profile, self._clean_uids, self._unflagged, looker, place, self._prover)
            results: Iterator[_Done] = pool.map(work, chunks) if pool else map(work, chunks)
            for chunk, done in zip(chunks, results, strict=True):
                studies[done.study].append(done)
                outcomes += done.outcomes
                done_files += len(chunk.files)
                if progress:
                    progress(done_files, len(files))
            if self._faces.on:
                self._without_faces([done for parts in studies.values() for done in parts], source, place, pool)
            if self._prover:
                searched = prove_folder(
                    self._prover, place, {study: _clean(parts) for study, parts in studies.items()}, pool, self._workers
                )
            ending = Thread(target=pool.shutdown if pool else None)  # its processes end while this one goes on
            ending.start()
            if place != target:
                move(place, target, [file for parts in studies.values() for done in parts for file in done.written])
            if looker:
                looker.close()
            for study, parts in studies.items():
                if any(outcome["outcome"] == "deidentified" for part in parts for outcome in part.outcomes):
                    self._seal(study, parts, heads[study])
            ending.join()
        report = self._report(outcomes, counts, studies, time.monotonic() - began)
        report["done"] = _account([done for parts in studies.values() for done in parts]).done(defaced=report.get("defaced", 0))
        if self._prover and searched:
            report = self._prover.signed({**report, **searched.facts(self._prover, target)})
        (target / REPORT).write_text(json.dumps(report, indent=1))
        return report

    def _without_faces(self, parts: list[_Done], source: Path, place: Path, pool: ProcessPoolExecutor | None) -> None:
        """Take the faces out. What was painted over comes home from the whole original."""
        written = [file for done in parts for file in done.written]
        take_out(self._faces, place, written, pool)
        for done in parts:
            originals = []
            for (facts, rest), file in zip(_unpacked(done.originals), done.written, strict=True):
                if file.painted:
                    key = _key_of((place / file.outcome["file"]).read_bytes(), self._tags)
                    facts, rest = {"path": facts["path"], "whole": True, "key": key}, (source / facts["path"]).read_bytes()
                if not file.gone:
                    originals.append((facts, rest))
            done.originals = _packed(originals)

    def _sorted(
        self, files: list[str], source: Path, pool: ProcessPoolExecutor | None
    ) -> tuple[list[_Chunk], list[dict[str, Any]], dict[str, int]]:
        """Files by study, each study with its patient."""
        outcomes: list[dict[str, Any]] = []
        counts = {"files": len(files), "not_dicom": 0}
        by_study: dict[CleanUid, list[tuple[str, str]]] = defaultdict(list)
        above = len(str(source).rstrip("/")) + 1
        patients: dict[CleanUid, set[tuple[str, str]]] = defaultdict(set)
        banned: dict[CleanUid, set[str]] = defaultdict(set)
        clean: dict[bytes, CleanUid] = {}
        told = pool.map(_told, files, chunksize=TOLD_AT_ONCE) if pool else map(_told, files)
        for path, said in zip(files, told, strict=True):
            if isinstance(said, _Told):
                study = clean.get(said.study) or clean.setdefault(
                    said.study, self._clean_uids.of(said.study.decode("ascii", "backslashreplace"))
                )
                patients[study].add(said.patient)
                banned[study] |= said.identifiers
                by_study[study].append((path, path[above:]))
            elif said:
                outcomes.append(said)
            else:
                counts["not_dicom"] += 1
        chunks = []
        for study, members in sorted(by_study.items()):
            named = {patient for patient in patients[study] if patient[0]}
            if len({patient_id for patient_id, _ in named}) > 1:
                outcomes += [
                    {"outcome": "refused", "kind": IdentityConflict.__name__, "reason": str(IdentityConflict(study=study))} for _ in members
                ]
                continue
            patient = min(named) if named else ("", "")
            rounds = -(-len(members) // (AT_ONCE * self._workers))
            share = -(-len(members) // (rounds * self._workers))  # as much for each process
            for start in range(0, len(members), share):
                chunks.append(_Chunk(study, patient, frozenset(banned[study]), tuple(members[start : start + share])))
        return chunks, outcomes, counts

    def _seal(self, study: CleanUid, parts: list[_Done], head: str) -> None:
        attributes = Dataset()
        with Path(head).open("rb") as file, _mapped(file.fileno()) as data:
            opened = _open(data)
            if opened is not None:
                attributes = study_attributes(opened)
        with Session(self._engine) as db, db.begin():
            if db.get(StudyRow, study) is None:
                now = datetime.now(UTC)
                row = StudyRow(
                    study=study,
                    state="PROCESSED",
                    first_arrival=now,
                    last_arrival=now,
                    settled_reason="a folder",
                    origin={"channel": "folder"},
                )
                db.add(row)
        uids = {clean: original for part in parts for clean, original in part.original_uid.items()}
        self._identities.put(study, Identity(attributes=attributes, original_uid=uids, date_shift_days=parts[0].shift_days))
        sealed = self._keyring.seal(study, b"".join(part.originals for part in parts), PURPOSE)
        place = self._sealed / study
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = place / f".{os.getpid()}"
        draft.write_bytes(sealed)
        draft.rename(place / f"{time.time_ns()}.sealed")

    def _report(
        self, outcomes: list[dict[str, Any]], counts: dict[str, int], studies: dict[CleanUid, list[_Done]], seconds: float
    ) -> dict[str, Any]:
        how_many = {kind: sum(outcome["outcome"] == kind for outcome in outcomes) for kind in ("deidentified", "left out", "refused")}
        return {
            "profile": "PS3.15 Basic Application Level Confidentiality Profile",
            "options": list(self._profile.options.names),
            **counts,
            "deidentified": how_many["deidentified"],
            "left_out": how_many["left out"],
            "refused": how_many["refused"],
            **({"defaced": sum("face" in outcome for outcome in outcomes)} if self._faces.on else {}),
            "masked": sum("boxes" in outcome for outcome in outcomes),
            "boxes": sum(outcome.get("boxes", 0) for outcome in outcomes),
            "studies": len(studies),
            "patients": len({part.pseudonym for parts in studies.values() for part in parts}),
            "seconds": round(seconds, 3),
            "outcomes": outcomes,
        }

    # --- the way home -------------------------------------------------------------------------------------------------------
    def reidentify(self, source: Path, target: Path, progress: Progress | None = None) -> dict[str, Any]:
        """Every file below `source` with its name again, below `target`; the report, which is also `target/report.json`.

        A file that came from `deidentify` is the original again, byte for byte and under its own path; one that was added since, such as a
        result, is named by the re-identifier and lies where it lay.
        """
        source, target = source.resolve(), target.resolve()
        files = [path for path in map(Path, sorted(_files(str(source), but=str(target)))) if path.name != REPORT]
        known: dict[CleanUid, dict[str, list[tuple[dict[str, Any], bytes]]]] = {}
        reidentifier = Reidentifier(self._identities)
        outcomes: list[dict[str, Any]] = []
        for number, path in enumerate(files, 1):
            try:
                data = path.read_bytes()
            except OSError as why:
                outcomes.append({"outcome": "refused", "reason": _plain(why)})
            else:
                outcomes.append(self._named_again(data, path.relative_to(source), target, known, reidentifier))
            if progress:
                progress(number, len(files))
        report = {
            "files": len(files),
            **{
                kind.replace(" ", "_"): sum(o["outcome"] == kind for o in outcomes)
                for kind in ("restored", "named", "refused", "not dicom")
            },
            "outcomes": outcomes,
        }
        target.mkdir(parents=True, exist_ok=True)
        (target / REPORT).write_text(json.dumps(report, indent=1))
        return report

    def _named_again(
        self,
        data: bytes,
        relative: Path,
        target: Path,
        known: dict[CleanUid, dict[str, list[tuple[dict[str, Any], bytes]]]],
        reidentifier: Reidentifier,
    ) -> dict[str, str]:
        try:
            opened = _open(data)
        except (Malformed, ValueError) as why:
            return {"outcome": "refused", "reason": _plain(why)}
        if opened is None:
            return {"outcome": "not dicom"}
        study = self._known_study(opened.value(_STUDY).decode("ascii", "replace"))
        instance = opened.value(_SOP_INSTANCE).decode("ascii", "replace")
        try:
            if study not in known:
                known[study] = self._originals(study)
            pixel_data = opened.pixel_data
            told_by = pixel_data or next(iter(opened.elements), None)
            chunk = opened.data[told_by.start : pixel_data.end if pixel_data else len(opened.data)] if told_by else b""
            waiting = known[study].get(_key(instance, chunk, self._tags)) or known[study].get(_older_key(instance, chunk))
            if waiting:
                facts, rest = waiting.pop(0)
                whole = rest if facts["whole"] else rest[: facts["split"]] + chunk + rest[facts["split"] :]
                return _written(target / facts["path"], whole, {"outcome": "restored", "instance": instance})
            named = _named(reidentifier, data, study)
        except (KeyMissing, CleanUidLeft, Malformed) as why:
            return {"outcome": "refused", "instance": instance, "reason": str(why)}
        return _written(target / relative, named, {"outcome": "named", "instance": instance})

    def _known_study(self, uid: str) -> CleanUid:
        """The study of a file by the Study Instance UID in it: the clean one, or with Retain UIDs the original."""
        if uid not in self._study_of:
            study = CleanUid(uid)
            self._study_of[uid] = study if self._identities.has(study) else self._clean_uids.of(uid)
        return self._study_of[uid]

    def _originals(self, study: CleanUid) -> dict[str, list[tuple[dict[str, Any], bytes]]]:
        found: dict[str, list[tuple[dict[str, Any], bytes]]] = {}
        for path in sorted((self._sealed / study).glob("*.sealed")):
            newer: dict[str, list[tuple[dict[str, Any], bytes]]] = defaultdict(list)
            for facts, rest in _unpacked(self._keyring.unseal(study, path.read_bytes(), PURPOSE)):
                newer[facts["key"]].append((facts, rest))
            found.update(newer)  # a later run knows it better
        return found


@dataclass(frozen=True, slots=True)
class _Work:
    """One chunk of files through the profile, in whatever process."""

    profile: Profile
    clean_uids: CleanUids
    unflagged: pixels.Unflagged
    looker: LookingApart | None
    target: Path
    prover: Prover | None = None

    def __call__(self, chunk: _Chunk) -> _Done:
        pseudonym = pseudonym_of(chunk.patient, chunk.study, self.clean_uids)
        cleaner = Cleaner(
            self.profile,
            self.clean_uids,
            pseudonym,
            banned=chunk.banned,
            unflagged=self.unflagged,
            images_only=False,
            looker=self.looker,
        )
        done = _Done(chunk.study, pseudonym, cleaner.shift_days, found=self.prover.watch() if self.prover else None)
        tags = _tags(self.clean_uids)
        originals: list[tuple[dict[str, Any], bytes]] = []
        for path, relative in chunk.files:
            done.outcomes.append(self._one(path, relative, cleaner, done, originals, tags))
        done.originals = _packed(originals)
        done.original_uid, done.account = cleaner.original_uid, cleaner.account
        if done.found is not None:
            done.found.finish()
        return done

    def _one(
        self, path: str, relative: str, cleaner: Cleaner, done: _Done, originals: list[tuple[dict[str, Any], bytes]], tags: PixelTags
    ) -> dict[str, Any]:
        try:
            data = read(path)
            opened = _open(data)
            if opened is None:  # looked at a moment ago
                return {"outcome": "refused", "kind": InstanceUnreadable.__name__, "reason": "it changed while it was read"}
            if done.found is not None:
                done.found.add(opened.data, opened.elements, explicit=opened.explicit)
                done.found.add_bytes(data[: _before(data)])
            instance = cleaner.clean(opened)
        except StudyRefused as why:
            return {"outcome": "refused", "instance": str(why.facts.get("instance", "")), "kind": type(why).__name__, "reason": str(why)}
        except (Malformed, OSError) as why:
            return {"outcome": "refused", "kind": InstanceUnreadable.__name__, "reason": _plain(why)}
        if isinstance(instance, LeftOut):
            kind = UID_dictionary.get(instance.sop_class_uid, ("",))[0]
            return {"outcome": "left out", "instance": instance.sop_instance_uid, "sop_class": kind, "reason": instance.reason}
        file = self._place(relative, instance)
        originals.append(_original(data, opened, instance, relative, tags))
        masked = {"boxes": instance.masked} if instance.masked else {}
        outcome: dict[str, Any] = {"outcome": "deidentified", "instance": str(instance.sop_instance_uid), "file": file, **masked}
        done.written.append(Written(outcome, instance.series_instance_uid))
        return outcome

    def _place(self, relative: str, instance: CleanInstance) -> str:
        """Write the clean file, and say where it lies below the target. Two files of one instance in one folder get a number."""
        folder = "".join(f"d{self.clean_uids.of(f'folder {part}')[-12:]}/" for part in relative.split("/")[:-1])
        number = 1
        while True:
            place = f"{folder}{instance.sop_instance_uid}{f'-{number}' if number > 1 else ''}.dcm"
            try:
                with BufferedWriter(FileIO(f"{self.target}/{place}", "xb")) as file:
                    write_to(file, instance)
                return place
            except FileExistsError:
                number += 1
            except FileNotFoundError:
                (self.target / folder).mkdir(parents=True, exist_ok=True)


def _clean(parts: list[_Done]) -> CleanFiles:
    """The files of one study, and what is searched for in them."""
    found = parts[0].found or Identifying()
    for part in parts[1:]:
        if part.found is not None:
            found.merge(part.found)
    return CleanFiles(found, [file for part in parts for file in part.written], _account(parts))


def _account(parts: list[_Done]) -> Account:
    """What was done, without what was taken away again."""
    account = Account()
    for part in parts:
        account.merge(part.account)
    account.forget(file.outcome["instance"] for part in parts for file in part.written if file.gone)
    return account


# --- what the way home needs -------------------------------------------------------------------------------------------------------
def _original(data: bytes, opened: Opened, instance: CleanInstance, relative: str, tags: PixelTags) -> tuple[dict[str, Any], bytes]:
    """Everything but the pixel data, which the clean file has; all of it where the pixels were written anew."""
    pixel_data = opened.pixel_data
    written = instance.pixel_chunk
    same = opened.whole and pixel_data is not None and isinstance(written, memoryview)
    facts: dict[str, Any] = {"path": relative, "whole": not same}
    if same and pixel_data is not None:
        facts |= {"split": pixel_data.start, "key": _key(instance.written_uid, written, tags)}
        return facts, data[: pixel_data.start] + data[pixel_data.end :]
    facts["key"] = _key(instance.written_uid, written or b"".join(instance.chunks), tags)
    return facts, data


def _tags(clean_uids: CleanUids) -> PixelTags:
    return PixelTags(clean_uids.derived_key(PURPOSE))


def _key(instance: str, told_by: bytes | memoryview, tags: PixelTags) -> str:
    """Which original a clean file came from: its instance and its pixels, or where it has none the whole data set.

    With others it is another file, and is named as such.
    """
    return f"{instance} {tags.of(instance, told_by)}"


def _older_key(instance: str, told_by: bytes | memoryview) -> str:
    """The same, as it was sealed before there were tags."""
    return f"{instance} {hashlib.sha256(told_by).hexdigest()}"


def _key_of(clean: bytes, tags: PixelTags) -> str:
    """The key of a clean file as it lies there."""
    opened = _open(clean)
    element = opened.pixel_data if opened else None
    assert opened is not None
    assert element is not None
    return _key(opened.value(_SOP_INSTANCE).decode("ascii", "replace"), opened.data[element.start : element.end], tags)


def _packed(originals: Iterable[tuple[dict[str, Any], bytes]]) -> bytes:
    """Compressed; what several processes packed may stand one behind the other."""
    out = []
    for facts, rest in originals:
        text = json.dumps(facts).encode()
        out.append(struct.pack(">IQ", len(text), len(rest)) + text + rest)
    return zlib.compress(b"".join(out), 6)


def _unpacked(packed: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    while packed:
        inflater = zlib.decompressobj()
        plain, packed = inflater.decompress(packed), inflater.unused_data
        pos = 0
        while pos < len(plain):
            text, rest = struct.unpack_from(">IQ", plain, pos)
            pos += 12
            yield json.loads(plain[pos : pos + text]), plain[pos + text : pos + text + rest]
            pos += text + rest


# --- files -----------------------------------------------------------------------------------------------------------------------------
def _files(folder: str, *, but: str) -> Iterator[str]:
    """Every file below a folder, and each folder that may not be read; none of those below another folder. Links to folders are not followed."""
    if f"{folder}/".startswith(f"{but}/"):
        return
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        yield folder  # nobody can read it as a file either: it gets its line
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, but=but)
        elif Path(entry.path).is_file() if entry.is_symlink() else entry.is_file():  # a link may lead to itself
            yield entry.path


def _told(path: str) -> _Told | dict[str, Any] | None:
    """Of which study a file is; its outcome where it goes no further, None when it is not DICOM."""
    try:
        with FileIO(path) as file, _mapped(file.fileno()) as data:
            if data_set_of(data)[2] == DIRECTORY:
                return {"outcome": "left out", "sop_class": DIRECTORY_NAME, "reason": "a list of names and paths"}
            opened = _open(data)
            if opened is None:
                return None
            return _Told(opened.value(_STUDY) or opened.value(_SOP_INSTANCE), patient_of(opened), identifiers(opened))
    except (Malformed, ValueError, OSError) as why:
        return {"outcome": "refused", "kind": InstanceUnreadable.__name__, "reason": _plain(why)}


def _open(data: Any) -> Opened | None:
    """The data set of a Part 10 file, or of one that begins without preamble; None when it is no DICOM, or a DICOMDIR."""
    start, transfer_syntax, sop_class = data_set_of(data)
    if start < 0 or sop_class == DIRECTORY:
        return None
    return open_data_set(data, transfer_syntax, start)


def data_set_of(data: Any) -> tuple[int, str, str]:
    """(where the data set begins, its transfer syntax, Media Storage SOP Class UID) of a file; -1 when it is not DICOM."""
    pos = 132 if data[128:132] == b"DICM" else 0
    if pos == 0 and data[:4] not in {b"\x02\0\0\0", b"\x02\0\1\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0"}:
        return -1, "", ""
    found = {0x0010: "", 0x0002: ""}
    while data[pos : pos + 2] == b"\2\0" and pos + 8 <= len(data):
        element = struct.unpack_from("<H", data, pos + 2)[0]
        if data[pos + 4 : pos + 6] in LONG_VRS:
            value, length = pos + 12, struct.unpack_from("<I", data, pos + 8)[0] if pos + 12 <= len(data) else 0
        else:
            value, length = pos + 8, struct.unpack_from("<H", data, pos + 6)[0]
        if element in found:
            found[element] = data[value : value + length].strip(b" \0").decode("ascii", "replace")
        pos = value + length
    if not found[0x0010]:
        vr = data[pos + 4 : pos + 6]
        found[0x0010] = EXPLICIT if vr in SHORT_VRS or vr in LONG_VRS else IMPLICIT
    return pos, found[0x0010], found[0x0002]


def _before(data: bytes) -> int:
    """Bytes of the preamble."""
    return 128 if data[128:132] == b"DICM" else 0


def _mapped(fd: int) -> mmap.mmap:
    """The file without reading it: only the pages that are looked at come in. ValueError for an empty one."""
    return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)


def _named(reidentifier: Reidentifier, data: bytes, study: CleanUid) -> bytes:
    """An object with its name again.

    Raises
    ------
    KeyMissing, CleanUidLeft, Malformed
    """
    try:
        return reidentifier.name_again(data, study)
    except NodeError:
        raise
    except Exception:  # whatever a library says of a broken element; its text may quote it
        raise Malformed(UNREADABLE) from None


def _written(path: Path, data: bytes, outcome: dict[str, str]) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return outcome


def _plain(why: Exception) -> str:
    return str(why) if isinstance(why, Malformed) else UNREADABLE
