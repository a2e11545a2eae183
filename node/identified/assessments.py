"""A reader's SR or SEG on its way in: what it says of our results, without a name, and a clean copy of it.

It is read as it came, since cleaning may take a vendor's codes away. Out go opinions, our own UIDs, clean UIDs, outlines, and words that
`words.py` lets pass; who it was only as a keyed hash. The clean copy is searched for leaks before anything is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID_dictionary

from node import log
from node.assessment import reports, segmentations
from node.assessment.answers import OURS, Answer
from node.assessment.told import Ours
from node.codes import LABEL_MAP
from node.domain import CleanUid, Origin, StudyRef
from node.errors import IdentityConflict, InstanceUnreadable, NodeError
from node.identified import words
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import EXPLICIT, IMPLICIT, Cleaner, LeftOut, Opened, identifiers, open_data_set
from node.identified.deidentifier import patient_of, pseudonym_of, write_instance
from node.identified.elements import Malformed
from node.identified.identifying import Kind
from node.identified.identities import Identities
from node.identified.leak_scan import LeakScan
from node.identified.named import IdentifiedStudy, ReceivedInstance
from node.identified.profile import Profile
from node.identified.proof import Prover, leak_found

REPORTS = "1.2.840.10008.5.1.4.1.1.88."
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_PIXELS = 0x7FE00010

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What an object of a reader says. With `refused` it says nothing here, and that is the reason."""

    object: CleanUid
    kind: str  #: SR or SEG
    origin: Origin
    reader: str = ""
    answers: tuple[Answer, ...] = ()
    file: Path | None = None  #: the clean copy
    refused: str = ""


def may_answer(sop_class_uid: str) -> bool:
    """Kinds of objects in which readers answer."""
    return sop_class_uid.startswith(REPORTS) or sop_class_uid in (SEGMENTATION, LABEL_MAP)


class Assessments:
    """Understands readers' objects of a study.

    Parameters
    ----------
    profile
        For reports and segmentations: with Clean Structured Content, whatever folders do.
    folder
        The clean copies lie in `<study>/<clean SOP Instance UID>.dcm` below it.
    """

    def __init__(
        self, profile: Profile, clean_uids: CleanUids, identities: Identities, folder: Path, *, prover: Callable[[], Prover | None]
    ) -> None:
        options = replace(profile.options, clean_structured_content=True)
        self._profile, self._clean_uids, self._identities = Profile(options), clean_uids, identities
        self.folder, self._prover = folder, prover

    def understood(self, study: IdentifiedStudy, ours: Ours) -> list[Assessment]:
        """What those of the objects say that are about our results; one that is about something else is passed over."""
        found = [self._one(study.ref, one, ours) for one in study.instances()]
        return [one for one in found if one is not None]

    def _one(self, ref: StudyRef, received: ReceivedInstance, ours: Ours) -> Assessment | None:
        kind = "SR" if received.sop_class_uid.startswith(REPORTS) else "SEG"
        instance = self._clean_uids.of(received.sop_instance_uid)
        nothing = Assessment(object=instance, kind=kind, origin=received.origin)
        path = self.folder / ref.study / f"{instance}.dcm"
        try:
            opened = open_data_set(received.data, received.transfer_syntax_uid)
            ds = self._translated(opened, ours)
            answers = reports.answers_of(ds, ours) if kind == "SR" else segmentations.answers_of(ds, path, ours)
            if not answers:
                return None
            banned = self._write_clean(ref, opened, ours, path)
        except (NodeError, Malformed) as why:
            _log.warning("a reader's object is not understood", extra={"study": ref.study, "because": type(why).__name__})
            return replace(nothing, refused=type(why).__name__)
        except Exception as why:  # whatever a library says of a broken object; its text may quote it
            _log.warning("a reader's object can't be read", extra={"study": ref.study, "where": log.where_it_failed(why)})
            return None
        clean = tuple(self._without_names(one, ours, banned) for one in answers)
        return replace(nothing, reader=self._clean_uids.reader(_reader(ds)), answers=clean, file=path)

    def _translated(self, opened: Opened, ours: Ours) -> Dataset:
        """The data set with our UIDs as they are and all others clean, so that images in it are those of the clean study."""
        ds = read_dataset(BytesIO(opened.data), is_implicit_VR=not opened.explicit, is_little_endian=True)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = opened.transfer_syntax_uid
        ds.set_original_encoding(not opened.explicit, True)
        ds.decode()
        _each_uid(ds, lambda uid: uid if uid in ours.uids or uid in UID_dictionary or uid == LABEL_MAP else self._clean_uids.of(uid))
        return ds

    def _without_names(self, answer: Answer, ours: Ours, banned: frozenset[str]) -> Answer:
        """Words of the reader lose what may name somebody; words that are ours stay."""
        mine = {one.finding for one in ours.told.values()}
        finding = answer.finding if answer.finding in mine else words.clean(answer.finding, banned)
        reason = answer.reason if answer.reason in OURS else words.clean(answer.reason, banned)
        return replace(answer, finding=finding, reason=reason)

    def _write_clean(self, ref: StudyRef, opened: Opened, ours: Ours, path: Path) -> frozenset[str]:
        """The object through the profile, searched for leaks, then with our own UIDs again. Gives the words that name somebody.

        Raises
        ------
        IdentityConflict, InstanceUnreadable, LeakFound
        """
        known = self._identity(ref.study)
        patient_id, issuer = patient_of(opened)
        pseudonym = pseudonym_of((patient_id, issuer or _issuer(known, patient_id)), ref.study, self._clean_uids)
        if pseudonym not in {job.pseudonym for job in ours.jobs.values()}:
            raise IdentityConflict
        banned = identifiers(opened) | identifiers(known)
        prover = self._prover()
        identifying = prover.watch() if prover else None
        if identifying is not None:
            for one in (opened, known):
                identifying.add(one.data, one.elements, explicit=one.explicit)
            identifying.values[Kind.IDENTIFIER] -= {one.tracking_id for one in ours.told.values()}  # dcmqi keeps what we had written
        label_map = opened.value(0x00080016) == LABEL_MAP.encode()
        cleaner = Cleaner(self._profile, self._clean_uids, pseudonym, banned=banned, images_only=False)
        instance = cleaner.clean(_as_plain(opened) if label_map else opened)
        if isinstance(instance, LeftOut):
            raise InstanceUnreadable(instance.reason)
        draft = path.with_name(f".{path.stem}.{os.getpid()}.dcm")
        try:
            write_instance(instance, draft)
            if identifying is not None and (leaks := LeakScan(identifying).scan([draft]).leaks):
                raise leak_found(leaks)
            ds = dcmread(draft)
            back = {self._clean_uids.of(uid): uid for uid in ours.uids}
            _each_uid(ds, lambda uid: back.get(CleanUid(uid), uid))
            if label_map:
                ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = LABEL_MAP
            ds.save_as(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return banned

    def _identity(self, study: CleanUid) -> Opened:
        """Patient and study modules of the images, to be searched for: a report may name less than they do."""
        attributes = self._identities.get(study).attributes
        implicit = bool(attributes.original_encoding[0])
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, implicit
        write_dataset(out, attributes)
        return open_data_set(out.getvalue(), IMPLICIT if implicit else EXPLICIT)


def _issuer(known: Opened, patient_id: str) -> str:
    """The issuer of the images' Patient ID, where it is this one: OHIF and dcmqi leave it out of what they write."""
    of_images, issuer = patient_of(known)
    return issuer if patient_id == of_images else ""


def _as_plain(opened: Opened) -> Opened:
    """A label map as the profile knows it: rules for a SEG fit it too, and the SOP class is younger than its tables."""
    return open_data_set(opened.data.replace(LABEL_MAP.encode(), SEGMENTATION.encode(), 1), opened.transfer_syntax_uid)


def _each_uid(ds: Dataset, change: Callable[[str], str]) -> None:
    """Change UIDs at every depth, file meta information too."""
    for part in (ds, ds.file_meta):
        for element in part.iterall():
            if element.VR == "UI" and element.value:
                values = [str(element.value)] if element.VM == 1 else [str(one) for one in element.value]
                new = [change(uid) for uid in values]
                if new != values:
                    element.value = new[0] if len(new) == 1 else new


def _reader(ds: Dataset) -> str:
    """Who says so: who verified, else the observer of the content tree, else who is named as its creator or operator."""
    return next((name for name in _readers(ds) if name.strip(" ^=")), "")


def _readers(ds: Dataset) -> Iterator[str]:
    for item in ds.get("VerifyingObserverSequence") or ():
        yield str(item.get("VerifyingObserverName") or "")
    yield from _persons(ds.get("ContentSequence") or ())
    for keyword in ("ContentCreatorName", "OperatorsName", "PerformingPhysicianName"):
        yield str(ds.get(keyword) or "")


def _persons(items: Sequence[Dataset], depth: int = 0) -> Iterator[str]:
    """PNAME items near the top of a tree: Person Observer Name (121008, DCM)."""
    for item in items:
        if item.get("ValueType") == "PNAME":
            yield str(item.get("PersonName") or "")
        elif depth < 3:
            yield from _persons(item.get("ContentSequence") or (), depth + 1)
