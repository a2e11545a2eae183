"""The results of a study as its own archive knows it: asked for by the original Study Instance UID, given out with the patient's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from sqlalchemy import Engine, false, select

from node.domain import CleanUid
from node.identified.clean_uids import CleanUids
from node.identified.reidentifier import Reidentifier
from node.ledger.database import reading
from node.ledger.tables import JobRow, ObjectRow

obj, job = ObjectRow.__table__.c, JobRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ResultObject:
    """One object of a result, still without a name on the clean volume."""

    study: CleanUid
    sop_class_uid: str
    sop_instance_uid: str
    path: Path


class Results:
    """Finds results and names copies of them. Shadows are left out: nobody outside is told what they found."""

    def __init__(self, ledger: Engine, clean_uids: CleanUids, reidentifier: Reidentifier, clean_folder: Path) -> None:
        self._ledger, self._clean_uids = ledger, clean_uids
        self._reidentifier, self._clean_folder = reidentifier, clean_folder

    def of(self, study_instance_uid: str) -> Sequence[ResultObject]:
        """What was written about a study (by its original UID), in the order of the jobs; nothing once it was purged."""
        study = self._clean_uids.of(study_instance_uid)
        query = select(ObjectRow.__table__).join(JobRow.__table__, job.id == obj.job).where(obj.study == study, job.shadow == false())
        with reading(self._ledger) as db:
            rows = db.execute(query.order_by(job.scheduled_at, job.id, obj.role, obj.sop_instance_uid)).all()
        found = [
            ResultObject(
                study=study,
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
                path=self._clean_folder / row.path,
            )
            for row in rows
        ]
        return [one for one in found if one.path.is_file()]

    def header(self, one: ResultObject) -> Dataset:
        """The named object without its pixels. Raises KeyMissing."""
        cut = dcmread(one.path, stop_before_pixels=True)
        out = BytesIO()
        dcmwrite(out, cut, enforce_file_format=True)
        named: Dataset = dcmread(BytesIO(self._reidentifier.name_again(out.getvalue(), one.study)))
        return named

    def whole(self, one: ResultObject) -> bytes:
        """The named object, as PS3.10 bytes. Raises KeyMissing."""
        return self._reidentifier.name_again(one.path.read_bytes(), one.study)
