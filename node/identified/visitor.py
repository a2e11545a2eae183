"""A study that is only passing: handed in with its names, de-identified, and given its names back, while nothing is written about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from node.domain import CleanUid, Origin, Study, StudyRef
from node.errors import InstanceUnreadable, KeyMissing, UploadRefused
from node.identified.clean_uids import CleanUids
from node.identified.deidentifier import Deidentifier
from node.identified.head import is_uid
from node.identified.identities import Identities
from node.identified.intake import head_of
from node.identified.named import IdentifiedStudy, Identity, ReceivedInstance
from node.identified.reidentifier import Reidentifier


class InMemory(Identities):
    """The identity of one study, for as long as this object lives."""

    def __init__(self) -> None:
        self._kept: dict[CleanUid, Identity] = {}

    def put(self, study: CleanUid, identity: Identity) -> None:
        self._kept[study] = identity

    def get(self, study: CleanUid) -> Identity:
        if study not in self._kept:
            raise KeyMissing("no identity is kept for this study", study=study)
        return self._kept[study]

    def has(self, study: CleanUid) -> bool:
        return study in self._kept

    def forget(self, study: CleanUid) -> None:
        self._kept.pop(study, None)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Found:
    """An instance in its file: where its data set begins, and whose it is."""

    file: BinaryIO = field(repr=False)
    start: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str


class Visitor:
    """One study on a visit.

    Parameters
    ----------
    deidentifier
        Made for an `Identities` and the folder that the clean study goes to.
    """

    def __init__(self, deidentifier: Callable[[Identities, Path], Deidentifier], clean_uids: CleanUids, folder: Path) -> None:
        self._identities = InMemory()
        self._deidentifier = deidentifier(self._identities, folder)
        self._clean_uids = clean_uids

    def deidentified(self, files: Sequence[BinaryIO], origin: Origin) -> Study:
        """The clean study of these DICOM files, below the visit's folder.

        Raises
        ------
        UploadRefused
            When a file can't be read, or they are of several studies: it says which by its number.
        StudyRefused
            When it may not go on, as in `Deidentifier.deidentify`.
        """
        found: dict[str, _Found] = {}
        for number, file in enumerate(files, 1):
            try:
                one = _found(file)
            except InstanceUnreadable as why:
                raise UploadRefused(f"File {number} can't be read as DICOM: {why.detail}.") from None
            found.setdefault(one.sop_instance_uid, one)
        studies = {one.study_instance_uid for one in found.values()}
        if len(studies) > 1:
            raise UploadRefused(f"The upload holds {len(studies)} studies; send one a request.")
        ref = StudyRef(study=self._clean_uids.of(studies.pop()), revision=1)
        return self._deidentifier.deidentify(
            IdentifiedStudy(ref=ref, instances=lambda: _instances(found.values(), origin), count=len(found))
        )

    def name_again(self, part10: bytes, study: CleanUid) -> bytes:
        """An object of the study's results, under the names that it came with."""
        return Reidentifier(self._identities).name_again(part10, study)


def _found(file: BinaryIO) -> _Found:
    transfer_syntax_uid, start, head = head_of(file)
    for name, uid in (
        ("SOP Class UID", head.sop_class_uid),
        ("SOP Instance UID", head.sop_instance_uid),
        ("Study Instance UID", head.study_instance_uid),
    ):
        if not is_uid(uid):
            raise InstanceUnreadable(f"{name} is {'missing' if not uid else 'not a UID'}")
    return _Found(
        file=file,
        start=start,
        transfer_syntax_uid=transfer_syntax_uid,
        sop_class_uid=head.sop_class_uid,
        sop_instance_uid=head.sop_instance_uid,
        study_instance_uid=head.study_instance_uid,
    )


def _instances(found: Iterable[_Found], origin: Origin) -> Iterator[ReceivedInstance]:
    for one in found:
        one.file.seek(one.start)
        yield ReceivedInstance(
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
            origin=origin,
            data=one.file.read(),
        )
