"""The way in to the hall: a settled study loses its name, or is refused with a reason. PS3.15 E.1.1, De-identifier."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from node import log
from node.domain import CleanUid, Origin, Pseudonym, Study
from node.errors import BurnedInAnnotation, IdentityConflict, InstanceUnreadable, RecognizableFeatures, SopClassRefused
from node.identified import pixels
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, LeftOut, Opened, identifiers, open_data_set
from node.identified.defacing import Faces, Treated
from node.identified.elements import Malformed, whole
from node.identified.identities import Identities
from node.identified.looking import ByHand, Looks
from node.identified.named import IdentifiedStudy, Identity, ReceivedInstance
from node.identified.profile import Profile
from node.identified.proof import Prover
from node.imaging.study import instance_path, read_study, write_manifest

PIXELS = "pixels.json"  #: how many images were masked, with how many boxes
LEFT_OUT = "left_out.json"  #: instances that are no images: clean UID, SOP class, reason
FEATURES = "recognizable_features.json"  #: what was done about faces, series by series; not there when nothing was asked for

_PATIENT_ID, _ISSUER, _STUDY, _CHARSET = 0x00100020, 0x00100021, 0x0020000D, 0x00080005
#: Patient, General Study, Patient Study and Clinical Trial modules (PS3.3 C.7.1, C.7.2): groups 0010 and 0012, and of the others
STUDY_TAGS = frozenset(
    {0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080096, 0x0008009C, 0x0008009D, 0x00081030, 0x00081032}
    | {0x00081048, 0x00081049, 0x00081060, 0x00081062, 0x00081080, 0x00081084, 0x00081110, 0x0020000D, 0x00200010, 0x00321033, 0x00321034}
    | {0x00321066, 0x00321067, 0x00380010, 0x00380014, 0x00380060, 0x00380062, 0x00380064, 0x00380500, 0x00400012, 0x00401012}
)

_log = log.get(__name__)


class _OtherPatient(Exception):
    """A later instance has the Patient ID that the first ones lacked."""

    def __init__(self, patient: tuple[str, str]) -> None:
        self.patient = patient
        super().__init__()


class Deidentifier:
    """Takes names off, one study at a time.

    Parameters
    ----------
    folder
        The clean volume: `<study>/r<revision>` below it becomes the study's folder.
    unflagged
        What to do with images that often carry text and say nothing of it (`pixels.decide`).
    prover
        Searches the written files for what identifies and signs for them; None: nobody does.
    faces
        What to do with volumes that show a face; nothing when it is not given.
    looker
        Looks for text in pixels; without one nobody does.
    by_hand
        What a person decided about the instances of a study.
    """

    def __init__(
        self,
        profile: Profile,
        clean_uids: CleanUids,
        identities: Identities,
        folder: Path,
        *,
        unflagged: pixels.Unflagged = "accept",
        prover: Prover | None = None,
        faces: Faces | None = None,
        looker: Looks | None = None,
        by_hand: Callable[[CleanUid], Mapping[CleanUid, ByHand]] = lambda study: {},
    ) -> None:
        self.profile = profile
        self._clean_uids = clean_uids
        self._identities = identities
        self._folder = folder
        self._unflagged: pixels.Unflagged = unflagged
        self._prover = prover
        self._faces = faces or Faces()
        self._looker = looker
        self._by_hand = by_hand

    def deidentify(self, study: IdentifiedStudy) -> Study:
        """The study without a name, on the clean volume; its identity sealed. The same revision again gives the same.

        Raises
        ------
        StudyRefused
            One of its kinds, with the clean UID of the instance and never a value: when one instance can't be read or may show who
            the patient is, the study goes no further.
        """
        place = self._folder / study.ref.study
        done = place / f"r{study.ref.revision}"
        if done.is_dir() and self._identities.has(study.ref.study):
            return read_study(done)
        place.mkdir(parents=True, exist_ok=True)
        for leftover in place.glob(f".r{study.ref.revision}-*"):
            shutil.rmtree(leftover)
        draft = place / f".r{study.ref.revision}-{os.getpid()}"
        try:
            try:
                self._write(study, draft, None)
            except _OtherPatient as found:
                shutil.rmtree(draft)
                self._write(study, draft, found.patient)
            if done.exists():
                shutil.rmtree(done)
            draft.rename(done)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return read_study(done)

    def _write(self, study: IdentifiedStudy, draft: Path, patient: tuple[str, str] | None) -> None:
        cleaner: Cleaner | None = None
        attributes = Dataset()
        origin: Origin | None = None
        left_out: list[LeftOut] = []
        written = masked = boxes = 0
        draft.mkdir()
        identifying = self._prover.watch() if self._prover else None
        for received, opened in self._opened(study):
            if identifying is not None:
                identifying.add(opened.data, opened.elements, explicit=opened.explicit)
            found = patient_of(opened)
            if patient is None or not patient[0]:
                if patient is not None and found[0]:
                    raise _OtherPatient(found)
                patient = found
            elif found[0] and found[0] != patient[0]:
                raise IdentityConflict(instance=self._clean_uids.of(received.sop_instance_uid))
            if cleaner is None:
                cleaner = cleaner_for(
                    opened,
                    self.profile,
                    self._clean_uids,
                    patient,
                    unflagged=self._unflagged,
                    looker=self._looker,
                    by_hand=self._by_hand(study.ref.study),
                )
            if opened.value(_STUDY) and cleaner.uid(opened.value(_STUDY)) != study.ref.study:
                raise InstanceUnreadable("it belongs to another study", instance=self._clean_uids.of(received.sop_instance_uid))
            cleaner.ban(identifiers(opened))
            instance = cleaner.clean(opened)
            if isinstance(instance, LeftOut):
                left_out.append(instance)
                continue
            if not written:
                attributes, origin = study_attributes(opened), received.origin
            write_instance(instance, instance_path(draft, instance.series_instance_uid, instance.sop_instance_uid))
            written += 1
            masked, boxes = masked + bool(instance.masked), boxes + instance.masked
        if cleaner is None or origin is None or not written:
            if any(instance.sop_class_uid and instance.reason != "not an image" for instance in left_out):
                raise BurnedInAnnotation("the study holds captures of a screen only", study=study.ref.study)
            raise SopClassRefused("the study holds no image", study=study.ref.study)
        defaced = 0
        if self._faces.on:
            without, defaced = self._without_faces(draft, study.ref.study)
            left_out += without
            cleaner.account.forget(instance.sop_instance_uid for instance in without)
        (draft / LEFT_OUT).write_text(json.dumps([_as_json(instance) for instance in left_out], indent=1))
        (draft / PIXELS).write_text(json.dumps({"masked": masked, "boxes": boxes}))
        write_manifest(draft, ref=study.ref, pseudonym=cleaner.pseudonym, origin=origin)
        if self._prover and identifying is not None:
            self._prover.prove(identifying, draft, study.ref, account=cleaner.account, defaced=defaced, left_out=len(left_out))
        self._identities.put(
            study.ref.study,
            Identity(attributes=attributes, original_uid=cleaner.original_uid, date_shift_days=cleaner.shift_days),
        )
        _log.info(
            "study de-identified",
            extra={
                "study": study.ref.study,
                "revision": study.ref.revision,
                "instances": written,
                "left_out": len(left_out),
                "masked": masked,
            },
        )

    def _without_faces(self, draft: Path, study: CleanUid) -> tuple[list[LeftOut], int]:
        """Take the faces out of the draft, before it becomes the study's folder; the instances that don't go on, and how many were defaced."""
        files = sorted(draft.glob("*/*.dcm"))
        treated = self._faces.treat(files)
        out = [instance for one in treated for instance in _taken_away(one)]
        if len(out) == len(files):
            raise RecognizableFeatures("the study holds localizers of a head only", study=study)
        (draft / FEATURES).write_text(json.dumps([{"series": t.series, "done": t.done, "reason": t.reason} for t in treated], indent=1))
        return out, sum(len(one.painted) for one in treated)

    def _opened(self, study: IdentifiedStudy) -> Iterator[tuple[ReceivedInstance, Opened]]:
        for received in study.instances():
            try:
                opened = open_data_set(received.data, received.transfer_syntax_uid)
            except Malformed as why:
                raise InstanceUnreadable(str(why), instance=self._clean_uids.of(received.sop_instance_uid)) from None
            yield received, opened


def _taken_away(treated: Treated) -> Iterator[LeftOut]:
    for path, instance in treated.left_out:
        path.unlink()
        yield LeftOut(
            sop_class_uid=instance.sop_class_uid, sop_instance_uid=instance.sop_instance_uid, reason="a localizer that may show a profile"
        )


def cleaner_for(
    opened: Opened,
    profile: Profile,
    clean_uids: CleanUids,
    patient: tuple[str, str],
    *,
    unflagged: pixels.Unflagged = "accept",
    looker: Looks | None = None,
    by_hand: Mapping[CleanUid, ByHand] | None = None,
) -> Cleaner:
    """The cleaner of a study, from its first instance."""
    study = clean_uids.of(opened.value(_STUDY).decode("ascii", "backslashreplace"))
    pseudonym = pseudonym_of(patient, study, clean_uids)
    return Cleaner(profile, clean_uids, pseudonym, banned=identifiers(opened), unflagged=unflagged, looker=looker, by_hand=by_hand)


def pixel_counts(folder: Path) -> dict[str, int]:
    """How many images of a de-identified study were masked, with how many boxes."""
    path = folder / PIXELS
    return json.loads(path.read_text()) if path.is_file() else {}


def pseudonym_of(patient: tuple[str, str], study: CleanUid, clean_uids: CleanUids) -> Pseudonym:
    """Of Patient ID and issuer. A study without Patient ID is a patient of its own."""
    patient_id, issuer = patient
    return clean_uids.pseudonym(patient_id, issuer) if patient_id else clean_uids.pseudonym(f"study {study}")


def patient_of(opened: Opened) -> tuple[str, str]:
    """Patient ID and its issuer, decoded (PS3.3 C.7.1.1)."""
    return _text(opened, _PATIENT_ID), _text(opened, _ISSUER)


def study_attributes(opened: Opened) -> Dataset:
    """Patient and study module attributes as they came, with their character set. One that nobody can read is left out."""
    raw: dict[int, bytes] = {}
    for element in opened.elements:
        if not element.tag & 0x10000 and (element.tag >> 16 in (0x0010, 0x0012) or element.tag in STUDY_TAGS):
            one = opened.data[element.start : element.end]
            if whole(opened.data, element, explicit=opened.explicit) and _readable(one, explicit=opened.explicit):
                raw[element.tag] = one
    return read_dataset(BytesIO(b"".join(raw[tag] for tag in sorted(raw))), is_implicit_VR=not opened.explicit, is_little_endian=True)


def _readable(element: bytes, *, explicit: bool) -> bool:
    """The library that writes it home again can read it."""
    try:
        for _ in read_dataset(BytesIO(element), is_implicit_VR=not explicit, is_little_endian=True).iterall():
            pass
    except Exception:  # whatever a library says of a broken element; its text may quote it
        return False
    return True


def write_instance(instance: CleanInstance, path: Path) -> None:
    """A Part 10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_to(file, instance)


def write_to(file: BinaryIO, instance: CleanInstance) -> None:
    """The header in one piece, and the pixels past the file's buffer, which would only copy them."""
    *head, pixels = instance.file()
    file.write(b"".join(head))
    file.write(pixels)


def _text(opened: Opened, tag: int) -> str:
    value = opened.value(tag)
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    charset = opened.value(_CHARSET).decode("ascii", "replace").split("\\")
    try:
        return str(decode_bytes(value, convert_encodings(charset), set())).strip()
    except (LookupError, UnicodeError, ValueError):
        return value.decode("latin-1")


def _as_json(instance: LeftOut) -> dict[str, str]:
    return {"instance": str(instance.sop_instance_uid), "sop_class": instance.sop_class_uid, "reason": instance.reason}
