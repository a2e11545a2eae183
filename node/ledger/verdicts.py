"""What readers say of findings: kept as it came, counted for each version of a pipeline. No patient, and readers by a keyed hash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Connection, Engine, Row, Select, delete, null, select

from node.domain import CleanUid, Opinion, Pseudonym, ReaderRegion, Verdict, VerdictSource
from node.ledger.database import insert_of, reading
from node.ledger.tables import JobRow, TallyRow, VerdictRow

VERDICTS = UUID("7a6f5d0e-7c43-49a5-9d53-2f5e1a0b6c4d")  #: name space of verdict ids (RFC 9562, version 5)
MOST_NAME = 64

said = VerdictRow.__table__.c
job = JobRow.__table__.c
tally = TallyRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A verdict and the work that it is about."""

    verdict: Verdict
    study: CleanUid
    series: CleanUid
    pseudonym: Pseudonym
    pipeline: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often readers agreed with one version of a pipeline. Each reader's last word about a finding counts."""

    accept: int = 0
    modify: int = 0
    reject: int = 0
    missed: int = 0
    mean_dice: float | None = None  #: over the regions that could be compared
    compared: int = 0  #: how many they are

    def __add__(self, other: Rates) -> Rates:
        """Both together."""
        compared = self.compared + other.compared
        dice = sum((one.mean_dice or 0.0) * one.compared for one in (self, other))
        return Rates(
            accept=self.accept + other.accept,
            modify=self.modify + other.modify,
            reject=self.reject + other.reject,
            missed=self.missed + other.missed,
            mean_dice=dice / compared if compared else None,
            compared=compared,
        )

    @property
    def total(self) -> int:
        return self.accept + self.modify + self.reject + self.missed

    @property
    def agreement(self) -> float | None:
        """Accepted of all; None when nobody has answered."""
        return self.accept / self.total if self.total else None


def verdict_id(of_job: str, tracking_uid: str, spoken: str, finding: str = "") -> str:
    """The same answer has the same name: 32 hexadecimal digits from what it is about and where it was given.

    `spoken` is the SOP Instance UID of the object that says so, or for the page reader and moment.
    """
    return uuid5(VERDICTS, json.dumps([of_job, tracking_uid, spoken, finding])).hex


class Verdicts:
    """The readers' answers, in the ledger."""

    def __init__(self, engine: Engine, *, clean_folder: Path | None = None) -> None:
        self._engine = engine
        self._volume = clean_folder.absolute() if clean_folder else None

    def record(self, *verdicts: Verdict) -> int:
        """Keep answers; one that is known by its id stays as it is. How many are new."""
        new = 0
        with self._engine.begin() as connection:
            kind = insert_of(connection)
            for one in verdicts:
                row = kind(VerdictRow).values(self._values(one)).on_conflict_do_nothing(index_elements=[said.id])
                new += len(connection.execute(row.returning(said.id)).all())
        return new

    def known(self, ids: Collection[str]) -> set[str]:
        """Which answers are kept, of these ids."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(said.id).where(said.id.in_(ids))))

    def heard(self, *, pipeline: str = "", study: str = "", of_job: str = "", since: datetime | None = None) -> list[Heard]:
        """Answers, the oldest first."""
        wanted = [
            *([job.pipeline == pipeline] if pipeline else []),
            *([job.study == study] if study else []),
            *([said.job == of_job] if of_job else []),
            *([said.at >= since] if since else []),
        ]
        return self._select(*wanted)

    def get(self, id: str) -> Heard | None:
        """The answer of that id, or of the only id that begins so."""
        found = self._select(said.id.startswith(id, autoescape=True)) if id else []
        return found[0] if len(found) == 1 else None

    def rates(self) -> dict[tuple[str, str], Rates]:
        """By pipeline and version; those about studies that were purged since are among them."""
        with reading(self._engine) as connection:
            found = {(row.pipeline, row.version): _tallied(row) for row in connection.execute(select(TallyRow.__table__))}
        for version, rates in _by_version(self._select()).items():
            found[version] = found.get(version, Rates()) + rates
        return dict(sorted(found.items()))

    def answered(self) -> set[str]:
        """Jobs of which somebody said something."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(said.job).distinct()))

    def forget_study(self, study: str) -> None:
        """The study is purged: its answers go, and stay counted for the version of the pipeline that they were about."""
        of_study = select(job.id).where(job.study == study)
        with self._engine.begin() as connection:
            gone = [self._heard(row) for row in connection.execute(_answers(job.study == study))]
            for (pipeline, version), rates in _by_version(gone).items():
                _add_up(connection, pipeline, version, rates)
            connection.execute(delete(VerdictRow).where(said.job.in_(of_study)))

    # --- below ----------------------------------------------------------------------------------------------------------
    def _select(self, *where: Any) -> list[Heard]:
        with reading(self._engine) as connection:
            return [self._heard(row) for row in connection.execute(_answers(*where))]

    def _heard(self, row: Row[Any]) -> Heard:
        return Heard(
            verdict=Verdict(
                id=row.id,
                job=row.job,
                opinion=Opinion(row.opinion),
                source=VerdictSource(row.source),
                at=row.at,
                tracking_uid=row.tracking_uid,
                finding=row.finding,
                reader=row.reader,
                reason=row.reason,
                object=CleanUid(row.object),
                region=self._region(row.region),
                dice=row.dice,
            ),
            study=CleanUid(row.study),
            series=CleanUid(row.series),
            pseudonym=Pseudonym(row.pseudonym),
            pipeline=row.pipeline,
            version=str(row.algorithm["version"]),
            digest=str(row.algorithm["digest"]),
        )

    def _values(self, one: Verdict) -> dict[str, Any]:
        return {
            "id": one.id,
            "job": one.job,
            "tracking_uid": one.tracking_uid,
            "finding": one.finding[:MOST_NAME],
            "opinion": one.opinion.value,
            "source": one.source.value,
            "reader": one.reader,
            "reason": one.reason,
            "object": one.object,
            "region": self._kept(one.region),
            "dice": one.dice,
            "at": one.at,
        }

    def _kept(self, region: ReaderRegion | None) -> Any:
        """JSON values; a file below the clean volume relative to it, so that other machines find it."""
        if region is None:
            return null()
        file = region.file
        if file is not None and self._volume and file.is_absolute() and file.is_relative_to(self._volume):
            file = file.relative_to(self._volume)
        return {
            "image": region.image,
            "frame": region.frame,
            "outline": [list(point) for point in region.outline],
            "file": str(file) if file else "",
            "segment": region.segment,
        }

    def _region(self, kept: dict[str, Any] | None) -> ReaderRegion | None:
        if not kept:
            return None
        file = Path(kept["file"]) if kept["file"] else None
        return ReaderRegion(
            image=CleanUid(kept["image"]),
            frame=kept["frame"],
            outline=tuple((float(x), float(y)) for x, y in kept["outline"]),
            file=self._volume / file if file and self._volume else file,
            segment=kept["segment"],
        )


def last_words(heard: Iterable[Heard]) -> list[Heard]:
    """Each reader's latest answer about each finding of a job; what was missed stands by itself."""
    latest: dict[tuple[str, ...], Heard] = {}
    for one in sorted(heard, key=lambda one: (one.verdict.at, one.verdict.id)):
        verdict = one.verdict
        key = (verdict.job, verdict.tracking_uid, verdict.reader)
        latest[(*key, verdict.id) if verdict.opinion is Opinion.MISSED else key] = one
    return sorted(latest.values(), key=lambda one: (one.verdict.at, one.verdict.id))


def _answers(*where: Any) -> Select[Any]:
    columns = (job.study, job.series, job.pseudonym, job.pipeline, job.algorithm)
    return select(VerdictRow.__table__, *columns).join(JobRow, job.id == said.job).where(*where).order_by(said.at, said.id)


def _by_version(heard: Iterable[Heard]) -> dict[tuple[str, str], Rates]:
    found: dict[tuple[str, str], list[Verdict]] = {}
    for one in last_words(heard):
        found.setdefault((one.pipeline, one.version), []).append(one.verdict)
    return {version: _rates(verdicts) for version, verdicts in found.items()}


def _tallied(row: Row[Any]) -> Rates:
    counts = {name: getattr(row, name) for name in ("accept", "modify", "reject", "missed", "compared")}
    return Rates(**counts, mean_dice=row.dice / row.compared if row.compared else None)


def _add_up(connection: Connection, pipeline: str, version: str, rates: Rates) -> None:
    kind = insert_of(connection)
    counts = {name: getattr(rates, name) for name in ("accept", "modify", "reject", "missed", "compared")}
    counts["dice"] = (rates.mean_dice or 0.0) * rates.compared
    row = kind(TallyRow).values(pipeline=pipeline, version=version, **counts)
    more = {name: tally[name] + row.excluded[name] for name in counts}
    connection.execute(row.on_conflict_do_update(index_elements=[tally.pipeline, tally.version], set_=more))


def _rates(verdicts: Sequence[Verdict]) -> Rates:
    counts = Counter(one.opinion.value for one in verdicts)
    compared = [one.dice for one in verdicts if one.dice is not None]
    return Rates(**counts, mean_dice=sum(compared) / len(compared) if compared else None, compared=len(compared))
