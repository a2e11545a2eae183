"""Jobs and what came of them. A job is a row; whoever holds its lease carries it out, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Connection, Engine, Row, and_, case, delete, false, func, insert, or_, select, true, update

from node.domain import CleanUid, Job, JobState, Priority, Pseudonym, Role, StudyRef, WrittenObject
from node.ledger.comparison import Reading
from node.ledger.database import insert_of, reading
from node.ledger.payload import (
    Made,
    algorithm_from_dict,
    algorithm_to_dict,
    kinds_to_list,
    reading_link_from_dict,
    reading_link_to_dict,
    route_from_dict,
    send_if_to_list,
)
from node.ledger.tables import JobRow, ObjectRow, OursRow, SummaryRow

FAILURES = 2  #: a job that failed this often is set aside
ATTEMPTS = 12  #: a job that took its runner with it this often is set aside
JOBS = UUID("5d0c1cb4-4d57-4b0c-9a0e-6d0a3f7f3c11")  #: name space of job ids (RFC 9562, version 5)

job = JobRow.__table__.c
obj = ObjectRow.__table__.c


def job_id(study: str, series: str, pipeline: str, version: str, digest: str, inputs: Sequence[str]) -> str:
    """Same work, same name: 32 hexadecimal digits from what goes in and who computes it."""
    return uuid5(JOBS, json.dumps([study, series, pipeline, version, digest, sorted(inputs)])).hex


class Jobs:
    """The jobs of this node. Every method is one transaction.

    Parameters
    ----------
    clock
        Gives the time, with its zone.
    clean_folder
        Folder of the clean data on this machine. Paths below it are kept relative to it, so that a worker that mounts it
        elsewhere finds them.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime], *, clean_folder: Path | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._volume = clean_folder.absolute() if clean_folder else None

    # --- towards the runner ---------------------------------------------------------------------------------------------
    def submit(self, new: Job) -> None:
        """Schedule a job; one that is known by its id stays as it is, unless it ran in the shadow and does not any more.

        Nothing of it was delivered then, so it is done again as a job like others: its report may have a predecessor to name.
        """
        with self._engine.begin() as connection:
            kind = insert_of(connection)
            connection.execute(kind(JobRow).values(self._values(new)).on_conflict_do_nothing(index_elements=[job.id]))
            if not new.shadow:
                connection.execute(
                    update(JobRow).where(job.id == new.id, job.shadow == true()).values({**self._values(new), **_WAITING, "reason": ""})
                )

    def claim(self, worker: str, lease_s: float) -> Job | None:
        """The next job, held by `worker` for `lease_s`: STAT before ROUTINE, then the oldest, shadows last; None when nothing waits.

        A job whose lease ran out is taken up again. A later revision of a series waits until the earlier one has ended, so
        that its result can name its predecessor.
        """
        now = self._clock()
        with reading(self._engine) as connection:  # an empty queue is asked often, and must not take the write lock each time
            if connection.execute(select(job.id).where(_free(now)).limit(1)).first() is None:
                return None
        with self._engine.begin() as connection:
            while row := connection.execute(_next(now)).first():
                if row.attempts >= ATTEMPTS:
                    self._set_aside(connection, row.id, f"its worker stopped {row.attempts} times; last: {row.reason or 'no answer'}")
                    continue
                predecessor = "" if row.shadow else row.predecessor or _predecessor(connection, row)
                connection.execute(
                    update(JobRow)
                    .where(job.id == row.id)
                    .values(
                        state=JobState.IN_PROGRESS.value,
                        worker=worker,
                        lease_until=now + timedelta(seconds=lease_s),
                        started_at=now,
                        attempts=row.attempts + 1,
                        predecessor=predecessor,
                    )
                )
                return self._job(connection.execute(select(JobRow.__table__).where(job.id == row.id)).one())
        return None

    def renew(self, id: str, worker: str, lease_s: float) -> bool:
        """Hold the job for longer. False: it is not the worker's any more, and must be dropped."""
        until = self._clock() + timedelta(seconds=lease_s)
        with self._engine.begin() as connection:
            return connection.execute(update(JobRow).where(_held(id, worker)).values(lease_until=until)).rowcount == 1

    def done(self, finished: Job, objects: Sequence[Made], summary: dict[str, Any], *, worker: str = "") -> bool:
        """The job is COMPLETED and its objects are known, in one transaction. False: it was not the worker's any more."""
        with self._engine.begin() as connection:
            ended = update(JobRow).where(_held(finished.id, worker)).values(**self._end(JobState.COMPLETED, ""))
            if connection.execute(ended).rowcount != 1:
                return False
            self._keep(connection, finished.id, objects, summary)
            return True

    def failed(self, lost: Job, reason: str, *, worker: str = "") -> bool:
        """The job failed: tried once more, then set aside with the reason. Returns whether it is tried again."""
        with self._engine.begin() as connection:
            row = connection.execute(select(JobRow.__table__).where(_held(lost.id, worker)).with_for_update()).first()
            if row is None:
                return False
            failures = row.failures + 1
            connection.execute(update(JobRow).where(job.id == lost.id).values(failures=failures))
            if failures >= FAILURES:
                self._set_aside(connection, lost.id, reason)
                return False
            connection.execute(update(JobRow).where(job.id == lost.id).values(reason=reason, **_WAITING))
            return True

    def give_back(self, unfinished: Job, *, worker: str = "", counted: bool = False) -> None:
        """The worker ends before the job does, and not because of it: the job waits again; the attempt counts only if `counted`."""
        attempts = job.attempts if counted else job.attempts - 1
        with self._engine.begin() as connection:
            connection.execute(update(JobRow).where(_held(unfinished.id, worker)).values(attempts=attempts, **_WAITING))

    def give_back_all_of(self, is_gone: Callable[[str], bool]) -> int:
        """Jobs held by workers that are known to be gone wait again at once, before their lease runs out."""
        with self._engine.begin() as connection:
            held = connection.execute(select(job.id, job.worker).where(job.state == JobState.IN_PROGRESS.value)).all()
            lost = [row.id for row in held if is_gone(row.worker)]
            for id in lost:
                connection.execute(update(JobRow).where(job.id == id).values(**_WAITING))
            return len(lost)

    # --- towards the way home -------------------------------------------------------------------------------------------
    def completed_not_handed_over(self) -> list[Job]:
        """Jobs whose objects do not stand in the outbox yet, oldest first."""
        return self._select(job.state == JobState.COMPLETED.value, job.handed_over == false())

    def set_aside_not_reported(self) -> list[Job]:
        """Jobs that were given up and of which no reader has heard yet: each needs a "not analysed" report."""
        return self._select(job.state == JobState.CANCELED.value, job.handed_over == false())

    def reported(self, aside: Job, objects: Sequence[Made], summary: dict[str, Any]) -> None:
        """The report that says why a job was set aside is written; the job stays CANCELED."""
        with self._engine.begin() as connection:
            self._keep(connection, aside.id, objects, summary)

    def objects_of(self, of: Job) -> list[WrittenObject]:
        """What the job wrote: SEG, SC, SR, in that order."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(ObjectRow.__table__).where(obj.job == of.id)).all()
        found = [
            WrittenObject(
                job=row.job,
                study=CleanUid(row.study),
                role=Role(row.role),
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
                path=self._here(row.path),
            )
            for row in rows
        ]
        return sorted(found, key=lambda written: list(Role).index(written.role))

    def handed_over(self, finished: Job) -> None:
        """The job's objects stand in the outbox of every destination."""
        with self._engine.begin() as connection:
            connection.execute(update(JobRow).where(job.id == finished.id).values(handed_over=True))

    def forget_study(self, study: str) -> None:
        """The study is purged: its jobs go with all that they found. What was delivered of them may come back: digests of its UIDs stay."""
        of_study = select(job.id).where(job.study == study)
        sent = select(obj.sop_instance_uid).join(JobRow, job.id == obj.job).where(job.study == study, job.shadow == false())
        with self._engine.begin() as connection:
            kind = insert_of(connection)
            for uid in connection.scalars(sent).all():
                connection.execute(kind(OursRow).values(sha256=_digest(uid)).on_conflict_do_nothing(index_elements=[OursRow.sha256]))
            connection.execute(delete(SummaryRow).where(SummaryRow.job.in_(of_study)))
            connection.execute(delete(ObjectRow).where(obj.job.in_(of_study)))
            connection.execute(delete(JobRow).where(job.study == study))

    # --- questions ------------------------------------------------------------------------------------------------------
    def get(self, id: str) -> Job | None:
        """The job of that id."""
        found = self._select(job.id == id)
        return found[0] if found else None

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        return self._select()

    def of_study(self, study: str) -> list[Job]:
        """Every job of a study, oldest first."""
        return self._select(job.study == study)

    def predecessor_for(self, study: str, series: str, pipeline: str, inputs: Sequence[str], digest: str = "") -> str:
        """The latest job with a report on the same series and pipeline, from other images or other weights; empty when none."""
        with reading(self._engine) as connection:
            rows = connection.execute(_ended_before(study, series, pipeline)).all()
        wanted = sorted(inputs)
        for row in rows:
            if sorted(row.inputs) != wanted or (digest and row.algorithm["digest"] != digest):
                return str(row.id)
        return ""

    def predecessor_report(self, of: Job) -> tuple[str, str] | None:
        """SOP Class and SOP Instance UID of the predecessor's SR, or else its Basic Text SR; None when there is no predecessor."""
        if not of.predecessor:
            return None
        with reading(self._engine) as connection:
            row = connection.execute(
                select(obj.sop_class_uid, obj.sop_instance_uid)
                .where(obj.job == of.predecessor, obj.role.in_([Role.SR, Role.SR_ENHANCED, Role.TEXT]))
                .order_by(obj.role)  # in this order of names: the fullest report first
            ).first()
        return (row.sop_class_uid, row.sop_instance_uid) if row else None

    def is_ours(self, sop_instance_uid: str) -> bool:
        """Whether this node wrote the object: it comes back from an archive, and is not work."""
        return bool(self.ours([sop_instance_uid]))

    def ours(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Which of these objects this node wrote, of purged studies too."""
        found: set[str] = set()
        with reading(self._engine) as connection:
            for start in range(0, len(sop_instance_uids), 500):
                some = sop_instance_uids[start : start + 500]
                found.update(connection.scalars(select(obj.sop_instance_uid).where(obj.sop_instance_uid.in_(some))))
                by_digest = {_digest(uid): uid for uid in some}
                purged = connection.scalars(select(OursRow.sha256).where(OursRow.sha256.in_(by_digest)))
                found.update(by_digest[digest] for digest in purged)
        return found

    def studies(self) -> set[str]:
        """Those that jobs are about."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(job.study).distinct()))

    def ids(self) -> set[str]:
        """Of all jobs."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(job.id)))

    def summary_of(self, id: str) -> dict[str, Any] | None:
        """What the job found, in JSON values; None before its end."""
        with reading(self._engine) as connection:
            return connection.scalar(select(SummaryRow.summary).where(SummaryRow.job == id))

    def scheduled_at(self, id: str) -> datetime | None:
        """When the job was scheduled: the time its objects carry, the same on every try."""
        with reading(self._engine) as connection:
            return connection.scalar(select(job.scheduled_at).where(job.id == id))

    def readings(self, pipeline: str, version: str) -> list[Reading]:
        """What a version of a pipeline found, in the order of its jobs; of jobs that ended with a result."""
        query = (
            select(job.study, job.series, job.inputs, job.algorithm, SummaryRow.summary)
            .join(SummaryRow, SummaryRow.job == job.id)
            .where(job.pipeline == pipeline, job.state == JobState.COMPLETED.value)
            .order_by(job.scheduled_at, job.id)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            Reading(study=row.study, series=row.series, inputs=tuple(sorted(row.inputs)), summary=row.summary)
            for row in rows
            if row.algorithm["version"] == version
        ]

    def counts(self, *, shadow: bool | None = None) -> dict[JobState, int]:
        """How many jobs stand in each state: of all, or of those in the shadow only, or of the others."""
        only = [] if shadow is None else [job.shadow == (true() if shadow else false())]
        with reading(self._engine) as connection:
            rows = connection.execute(select(job.state, func.count()).where(*only).group_by(job.state)).all()
        found = {row[0]: int(row[1]) for row in rows}
        return {state: found.get(state.value, 0) for state in JobState}

    def given_up(self, since: datetime) -> dict[str, list[str]]:
        """Ids of the jobs that were given up since then, by pipeline, the latest first. Shadows are nobody's trouble."""
        gone = (job.state == JobState.CANCELED.value, job.ended_at >= since, job.shadow == false())
        with reading(self._engine) as connection:
            rows = connection.execute(select(job.pipeline, job.id).where(*gone).order_by(job.ended_at.desc(), job.id)).all()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row.pipeline, []).append(row.id)
        return found

    # --- below ----------------------------------------------------------------------------------------------------------
    def _select(self, *where: Any) -> list[Job]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(JobRow.__table__).where(*where).order_by(job.scheduled_at, job.id)).all()
        return [self._job(row) for row in rows]

    def _set_aside(self, connection: Connection, id: str, reason: str) -> None:
        connection.execute(update(JobRow).where(job.id == id).values(**self._end(JobState.CANCELED, reason)))

    def _end(self, state: JobState, reason: str) -> dict[str, Any]:
        return {"state": state.value, "reason": reason, "worker": "", "lease_until": None, "ended_at": self._clock()}

    def _keep(self, connection: Connection, id: str, objects: Sequence[Made], summary: dict[str, Any]) -> None:
        names = [made.object.sop_instance_uid for made in objects]  # the same work has the same name: the later row stands
        connection.execute(delete(ObjectRow).where(or_(obj.job == id, obj.sop_instance_uid.in_(names))))
        connection.execute(delete(SummaryRow).where(SummaryRow.job == id))
        for made in objects:
            written = made.object
            connection.execute(
                insert(ObjectRow).values(
                    sop_instance_uid=written.sop_instance_uid,
                    job=id,
                    study=written.study,
                    role=written.role.value,
                    sop_class_uid=written.sop_class_uid,
                    path=self._kept(written.path),
                    sha256=made.sha256,
                )
            )
        connection.execute(insert(SummaryRow).values(job=id, summary=summary))

    def _kept(self, path: Path) -> str:
        if self._volume and path.is_absolute() and path.is_relative_to(self._volume):
            return str(path.relative_to(self._volume))
        return str(path)

    def _here(self, path: str) -> Path:
        return self._volume / path if self._volume else Path(path)

    def _values(self, new: Job) -> dict[str, Any]:
        return {
            "id": new.id,
            "study": new.study.study,
            "revision": new.study.revision,
            "pseudonym": new.pseudonym,
            "folder": self._kept(new.folder),
            "series": new.route.series,
            "pipeline": new.route.pipeline,
            "rule": new.route.rule,
            "destinations": list(new.route.destinations),
            "priority": new.route.priority.value,
            "reasons": list(new.route.reasons),
            "kinds": kinds_to_list(new.route),
            "algorithm": algorithm_to_dict(new.algorithm),
            "inputs": list(new.inputs),
            "predecessor": new.predecessor,
            "state": JobState.SCHEDULED.value,
            "attempts": 0,
            "failures": 0,
            "scheduled_at": self._clock(),
            "handed_over": False,
            "shadow": new.shadow,
            "not_before": new.not_before,
            "send_if": send_if_to_list(new.route.send_if),
            "reading_link": reading_link_to_dict(new.reading_link),
        }

    def _job(self, row: Row[Any]) -> Job:
        return Job(
            id=row.id,
            study=StudyRef(study=CleanUid(row.study), revision=row.revision),
            pseudonym=Pseudonym(row.pseudonym),
            folder=self._here(row.folder),
            route=route_from_dict(dict(row._mapping)),
            algorithm=algorithm_from_dict(row.algorithm),
            inputs=tuple(CleanUid(uid) for uid in row.inputs),
            state=JobState(row.state),
            attempts=row.attempts,
            reason=row.reason,
            predecessor=row.predecessor,
            not_before=row.not_before,
            shadow=row.shadow,
            reading_link=reading_link_from_dict(row.reading_link),
        )


def _digest(sop_instance_uid: str) -> str:
    return sha256(sop_instance_uid.encode()).hexdigest()


_WAITING = {"state": JobState.SCHEDULED.value, "worker": "", "lease_until": None}


def _held(id: str, worker: str) -> Any:
    """The job is in progress, and `worker` holds it (empty: whoever does)."""
    return and_(job.id == id, job.state == JobState.IN_PROGRESS.value, *([job.worker == worker] if worker else []))


def _free(now: datetime) -> Any:
    """Scheduled and due, or held by nobody any more."""
    return or_(
        and_(job.state == JobState.SCHEDULED.value, or_(job.not_before.is_(None), job.not_before <= now)),
        and_(job.state == JobState.IN_PROGRESS.value, job.lease_until < now),
    )


def _next(now: datetime) -> Any:
    """The row to be claimed, locked against other claimers where the database locks rows."""
    other = JobRow.__table__.alias("other")
    unfinished = (JobState.SCHEDULED.value, JobState.IN_PROGRESS.value)
    earlier = (
        select(other.c.id)
        .where(
            other.c.study == job.study,
            other.c.series == job.series,
            other.c.pipeline == job.pipeline,
            other.c.id != job.id,
            other.c.state.in_(unfinished),
            other.c.shadow == false(),
            job.shadow == false(),
            or_(other.c.scheduled_at < job.scheduled_at, and_(other.c.scheduled_at == job.scheduled_at, other.c.id < job.id)),
        )
        .exists()
    )
    urgent = case((job.priority == Priority.STAT.value, 0), else_=1)
    return (
        select(JobRow.__table__)
        .where(_free(now), ~earlier)
        .order_by(job.shadow, urgent, job.scheduled_at, job.id)  # nobody waits for a shadow
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _ended_before(study: str, series: str, pipeline: str) -> Any:
    return (
        select(job.id, job.inputs, job.algorithm)
        .where(
            job.study == study,
            job.series == series,
            job.pipeline == pipeline,
            job.shadow == false(),  # no reader has seen its report
            select(obj.job).where(obj.job == job.id).exists(),  # a report that says why not is a predecessor too
        )
        .order_by(job.ended_at.desc())
    )


def _predecessor(connection: Connection, row: Row[Any]) -> str:
    found = connection.execute(_ended_before(row.study, row.series, row.pipeline).where(job.id != row.id)).first()
    return str(found.id) if found else ""
