"""Every result in the ledger with its summary, those of versions in the shadow too: one query for whoever compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select

from node.domain import JobState
from node.ledger.database import reading
from node.ledger.tables import JobRow, SummaryRow

job = JobRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What one version of a pipeline found in one series."""

    job: str
    study: str
    series: str
    pipeline: str
    version: str
    shadow: bool
    inputs: tuple[str, ...]
    summary: dict[str, Any] = field(repr=False)


def read_studies(engine: Engine, pipeline: str = "") -> Iterator[Read]:
    """Jobs that ended with a result, the oldest first."""
    query = (
        select(job.id, job.study, job.series, job.pipeline, job.algorithm, job.shadow, job.inputs, SummaryRow.summary)
        .join(SummaryRow, SummaryRow.job == job.id)
        .where(job.state == JobState.COMPLETED.value, *([job.pipeline == pipeline] if pipeline else []))
        .order_by(job.scheduled_at, job.id)
    )
    with reading(engine) as connection:
        for row in connection.execute(query):
            yield Read(
                job=row.id,
                study=row.study,
                series=row.series,
                pipeline=row.pipeline,
                version=str(row.algorithm["version"]),
                shadow=row.shadow,
                inputs=tuple(sorted(row.inputs)),
                summary=row.summary,
            )
