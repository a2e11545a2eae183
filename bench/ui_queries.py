"""How long the questions behind the pages and the API take with many studies in the databases (SQLite by default).

    python -m bench.ui_queries [--studies 100000] [--url postgresql+psycopg://...]

Fills two fresh databases with synthetic rows spread over 14 days, half of the day's studies from the last hours, then asks each question
several times and prints the slowest and the median in milliseconds. The bound for a search is 300 ms.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Engine, insert

from node.audit import Action, AuditEvent, Event
from node.destinations.folder import Folder, FolderSettings
from node.domain import CleanUid
from node.identified.arrivals import Arrivals
from node.identified.deliveries import Deliveries, Refusals
from node.identified.delivery import Outbox
from node.identified.tables import InstanceRow, OutboxRow, QuarantineRow, StudyRow
from node.ledger.cards import LABEL, MODALITY, PIPELINE, Cards, Wanted
from node.ledger.database import open_identified, open_ledger, sqlite_url
from node.ledger.decisions import Decisions
from node.ledger.job_list import JobList
from node.ledger.paging import Page
from node.ledger.tables import CardRow, CardTagRow, DecisionRow, JobRow, SummaryRow
from node.ledger.today import Today
from node.ledger.trail import Trail
from node.ledger.trail_list import TrailList

NOW = datetime.now(UTC)
DAYS, AT_ONCE, TIMES = 14, 5000, 7
PIPELINES = (
    ("chest_xray", "DX", ("normal", "pneumonia", "covid")),
    ("covid_ct", "CT", ("normal", "infection")),
    ("brain_mri", "MR", ("tumor",)),
)
RARE = "one in thirty thousand"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--url", default="", help="of an empty PostgreSQL database; default: SQLite in a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(asked.url or sqlite_url(Path(folder) / "ledger.sqlite"))
        wing = open_identified(asked.url or sqlite_url(Path(folder) / "identified.sqlite"))
        began = time.monotonic()
        some = fill(ledger, wing, asked.studies)
        print(f"{asked.studies} studies with their jobs and deliveries, filled in {time.monotonic() - began:.0f} s, {ledger.dialect.name}")
        print(f"{'':42}{'median ms':>10}{'slowest':>10}{'rows':>7}")
        for name, ask in questions(ledger, wing, Path(folder), some).items():
            took, rows = timed(ask)
            print(f"{name:42}{median(took):10.1f}{max(took):10.1f}{rows:>7}")


def timed(ask: Callable[[], Any]) -> tuple[list[float], int | str]:
    took, answer = [], None
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = ask()
        took.append((time.perf_counter() - began) * 1000)
    return took, len(answer.items) if isinstance(answer, Page) else ""


def questions(ledger: Engine, wing: Engine, folder: Path, some: str) -> dict[str, Callable[[], Any]]:
    """What a page or a route asks."""
    cards, jobs, today, trail = Cards(ledger), JobList(ledger), Today(ledger, lambda: NOW), TrailList(ledger)
    there = {"pacs": Folder("pacs", FolderSettings(path=folder / "pacs"))}
    box = Outbox(wing, there, lambda part10, study: part10, folder, lambda event: None)
    outgoing, arrivals, refusals, decisions = Deliveries(wing, box, there), Arrivals(wing), Refusals(wing), Decisions(ledger, lambda: NOW)
    card = cards.one(some)
    assert card is not None
    deep = cards.find(Wanted(until=NOW - timedelta(days=DAYS - 1)), limit=50).next
    week = NOW - timedelta(days=7)

    def search(**wanted: Any) -> Callable[[], Page[Any]]:
        return lambda: cards.find(Wanted(**wanted), limit=50)

    def story() -> None:
        arrivals.one(CleanUid(some))
        cards.one(some)
        refusals.one(some)
        decisions.of_study(some)
        jobs.of_study(some)
        outgoing.find(limit=500, study=some)
        trail.of_study(some, 500)

    return {
        "today: work": today.work,
        "today: turnaround": lambda: outgoing.turnaround(NOW - timedelta(hours=24)),
        "today: deliveries": outgoing.counts,
        "studies: first page": search(),
        "studies: a page of thirteen days ago": lambda: cards.find(Wanted(), limit=50, cursor=deep),
        "studies: by pseudonym": search(pseudonym=card.pseudonym),
        "studies: by UID": search(study=some),
        "studies: by modality": search(modality="CT"),
        "studies: by pipeline": search(pipeline="chest_xray"),
        "studies: by a usual label": search(label="normal"),
        "studies: by a rare label": search(label=RARE),
        "studies: in quarantine": search(state="QUARANTINED"),
        "studies: processed, a week ago": search(state="PROCESSED", until=week),
        "studies: rare label, pipeline, modality": search(label=RARE, pipeline="chest_xray", modality="DX"),
        "studies: label and a modality it never has": search(label="normal", modality="MR"),
        "studies: pipeline it never has in a state": search(pipeline="chest_xray", state="RECEIVING"),
        "studies: modality that nobody has": search(modality="XA"),
        "studies: processed by a rare label, a week": search(label=RARE, state="PROCESSED", since=week),
        "words to search by": cards.words,
        "jobs: first page": lambda: jobs.find(limit=50),
        "jobs: given up": lambda: jobs.find(limit=50, state="CANCELED"),
        "jobs: of a pipeline": lambda: jobs.find(limit=50, pipeline="brain_mri"),
        "jobs: by state (each second of the stream)": today.jobs,
        "deliveries: first page": lambda: outgoing.find(limit=50),
        "deliveries: dead letters": lambda: outgoing.find(limit=50, state="REFUSED"),
        "deliveries: dead letters of one": lambda: outgoing.find(limit=50, state="REFUSED", destination="pacs"),
        "destinations": outgoing.destinations,
        "quarantine": lambda: refusals.find(limit=50),
        "the story of one study": story,
        "audit: first page": lambda: trail.find(limit=50),
        "audit: an event that never happened": lambda: trail.find(limit=50, event="110106"),
    }


# --- filling --------------------------------------------------------------------------------------------------------------
def fill(ledger: Engine, wing: Engine, studies: int) -> str:
    """Rows as the node would write them, some thousand a transaction; returns a study that has everything."""
    chance = random.Random(7)
    for start in range(0, studies, AT_ONCE):
        rows: dict[Any, list[dict[str, Any]]] = {}
        for number in range(start, min(start + AT_ONCE, studies)):
            for table, row in a_study(number, studies, chance):
                rows.setdefault(table, []).append(row)
        for engine, tables in (
            (ledger, (CardRow, CardTagRow, JobRow, SummaryRow, DecisionRow)),
            (wing, (StudyRow, InstanceRow, QuarantineRow, OutboxRow)),
        ):
            with engine.begin() as db:
                for table in tables:
                    if rows.get(table):
                        db.execute(insert(table), rows[table])
        Trail(ledger, lambda: NOW).record_all([event for row in rows[CardRow] for event in its_events(row["study"], row["pseudonym"])])
    return f"2.25.{studies // 2 * 2 - 2}"


def its_events(study: str, pseudonym: str) -> list[AuditEvent]:
    steps = (
        (Event.INSTANCES_TRANSFERRED, "study received"),
        (Event.INSTANCES_ACCESSED, "de-identified"),
        (Event.INSTANCES_TRANSFERRED, "C-STORE 0x0000"),
    )
    return [AuditEvent(event=event, action=Action.CREATE, study=study, patient=pseudonym, what=what) for event, what in steps]


def a_study(number: int, of: int, chance: random.Random) -> list[tuple[Any, dict[str, Any]]]:
    study, pseudonym = f"2.25.{number}", f"P{number // 3:016X}"
    at = NOW - timedelta(days=DAYS) * (1 - (number + 1) / of)
    pipeline, modality, labels = PIPELINES[chance.choices((0, 1, 2), (6, 3, 1))[0]]
    label = RARE if number % 30_000 == 17 else chance.choice(labels)
    refused, arriving = number % 500 == 3, number > of - 5
    state = "QUARANTINED" if refused else "RECEIVING" if arriving else "PROCESSED"
    images = chance.choice((1, 1, 2, 300))
    origin = {"channel": "dimse", "calling_ae": "CT01", "called_ae": "RADNODE", "peer": "10.0.0.1", "received_at": at.isoformat()}
    seen = {"study": study, "state": state, "revision": 1}
    rows: list[tuple[Any, dict[str, Any]]] = [
        (CardRow, {**seen, "pseudonym": pseudonym, "arrived_at": at, "last_at": at, "instances": images, "series": 1, "channel": "dimse", "source": "CT01"}),
        (StudyRow, {**seen, "first_arrival": at, "last_arrival": at, "settled_reason": "quiet", "settled_at": at, "origin": origin, "expected": None}),
        (InstanceRow, {"sop_instance": f"{study}.1", "study": study, "extents": [["s", 0, 9]], "size": 500_000, "digest": "d" * 64, "arrived_at": at, "revision": 1}),
    ]  # fmt: skip
    if refused:
        return [*rows, (QuarantineRow, {"study": study, "revision": 1, "kind": "BurnedInAnnotation", "reason": "text", "refused_at": at})]
    if arriving:
        return rows
    job, gone = f"job{number:032x}", number % 200 == 11
    words = {MODALITY: modality, PIPELINE: pipeline, LABEL: "not analysed" if gone else label}
    rows += [(CardTagRow, {"kind": kind, "value": value, "study": study, "at": at}) for kind, value in words.items()]
    rows.append(
        (
            DecisionRow,
            {"study": study, "revision": 1, "series": f"{study}.2", "rule": "r", "met": True, "reasons": ["modality is"], "decided_at": at},
        )
    )
    algorithm = {"name": pipeline, "version": "1.0.0", "digest": "d" * 64, "family": ["a", "b", "c"], "source": "Radnode"}
    rows.append((JobRow, {
        "id": job, "study": study, "revision": 1, "pseudonym": pseudonym, "folder": f"studies/{study}/r1", "series": f"{study}.2", "pipeline": pipeline,
        "rule": "r", "destinations": ["pacs"], "priority": "ROUTINE", "reasons": ["modality is"], "algorithm": algorithm,
        "inputs": [f"{study}.{image}" for image in range(images)], "predecessor": "", "state": "CANCELED" if gone else "COMPLETED", "attempts": 1,
        "failures": 2 * gone, "reason": "failed" if gone else "", "worker": "", "scheduled_at": at, "started_at": at, "ended_at": at + timedelta(seconds=9),
        "handed_over": True, "shadow": False,
    }))  # fmt: skip
    finding = {"name": label, "probability": 0.7, "present": True, "measurements": []}
    rows.append(
        (SummaryRow, {"job": job, "summary": {"analysed": not gone, "label": label, "confidence": 0.7, "findings": [finding], "facts": {}}})
    )
    for place, role in enumerate(("SEG", "SC", "SR")):
        state = "REFUSED" if number % 1000 == 5 else "CONFIRMED"
        rows.append((OutboxRow, {
            "study": study, "job": job, "role": role, "sop_class_uid": "1.2", "sop_instance_uid": f"{study}.9.{place}", "path": "x", "destination": "pacs",
            "state": state, "attempts": 1, "asked": 0, "next_at": at, "reason": "0xC000" if state == "REFUSED" else "", "queued_at": at,
            "updated_at": at + timedelta(seconds=60),
        }))  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
