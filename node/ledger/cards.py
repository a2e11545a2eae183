"""One card a study, for lists: how far it came, and the words by which it is found. The wing's state of a study leads; a card follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, delete, false, select, update

from node.domain import CleanUid
from node.ledger.database import insert_of, reading
from node.ledger.paging import Page, by_time, older, page
from node.ledger.tables import CardRow, CardTagRow, JobRow, SummaryRow

MODALITY, PIPELINE, LABEL = "modality", "pipeline", "label"
NOT_ANALYSED = "not analysed"  #: the label of a result without a finding
ON_ITS_WAY = ("RECEIVING", "SETTLED")
DONE = "PROCESSED"
_BATCH = 500

card, tag, job = CardRow.__table__.c, CardTagRow.__table__.c, JobRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A study as the wing has it, without a name."""

    study: CleanUid
    state: str
    revision: int
    arrived_at: datetime
    last_at: datetime
    instances: int
    channel: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Seen):
    """What a list shows of a study."""

    pseudonym: str = ""
    series: int = 0
    modalities: Sequence[str] = ()
    pipelines: Sequence[str] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is searched for; what is empty matches everything."""

    study: str = ""
    pseudonym: str = ""
    state: str = ""
    label: str = ""
    pipeline: str = ""
    modality: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def words(self) -> dict[str, str]:
        """Kinds of tags and their values, the rarest kind first."""
        asked = {LABEL: self.label, PIPELINE: self.pipeline, MODALITY: self.modality}
        return {kind: value for kind, value in asked.items() if value}


class Cards:
    """The cards in the ledger."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- following ------------------------------------------------------------------------------------------------------
    def keep(self, seen: Iterable[Seen]) -> int:
        """Bring cards up to what was seen; returns how many changed. Nothing is written where nothing did."""
        wanted = {one.study: _values(one) for one in seen}
        with reading(self._engine) as connection:
            known = {row.study: row for row in _among(connection, wanted)}
        changed = [values for study, values in wanted.items() if study not in known or _differs(known[study], values)]
        if not changed:
            return 0
        with self._engine.begin() as connection:
            for values in changed:
                kept = insert_of(connection)(CardRow).values(**values, pseudonym="", series=0)
                connection.execute(kept.on_conflict_do_update(index_elements=[card.study], set_=values))
        return len(changed)

    def on_their_way(self) -> list[CleanUid]:
        """Studies whose card says that they are not done with."""
        with reading(self._engine) as connection:
            return [CleanUid(study) for study in connection.scalars(select(card.study).where(card.state.in_(ON_ITS_WAY)))]

    def known(self, studies: Iterable[CleanUid]) -> set[CleanUid]:
        """Which of these have a card."""
        with reading(self._engine) as connection:
            return {CleanUid(row.study) for row in _among(connection, studies)}

    def described(self, study: CleanUid, *, pseudonym: str, series: int, modalities: Iterable[str]) -> None:
        """The study was de-identified: it has a pseudonym, and is found by its modalities."""
        with self._engine.begin() as connection:
            connection.execute(update(CardRow).where(card.study == study).values(pseudonym=pseudonym, series=series))
            _tag(connection, study, MODALITY, modalities)

    def routed(self, study: CleanUid, pipeline: str) -> None:
        """A pipeline was asked about the study."""
        with self._engine.begin() as connection:
            _tag(connection, study, PIPELINE, [pipeline])

    def labelled(self, study: CleanUid) -> None:
        """Find the study by what the latest result of each series and pipeline says, and by nothing that was said before."""
        with self._engine.begin() as connection:
            connection.execute(delete(CardTagRow).where(tag.study == study, tag.kind == LABEL))
            _tag(connection, study, LABEL, _labels(connection, study))

    def forget(self, *studies: CleanUid) -> None:
        """The studies were purged."""
        with self._engine.begin() as connection:
            for study in studies:
                connection.execute(delete(CardTagRow).where(tag.study == study))
                connection.execute(delete(CardRow).where(card.study == study))

    # --- questions ------------------------------------------------------------------------------------------------------
    def find(self, wanted: Wanted, *, limit: int, cursor: str = "") -> Page[Card]:
        """What fits, newest first. Raises CursorInvalid."""
        after = by_time(cursor) if cursor else None
        with reading(self._engine) as connection:
            rows = connection.execute(_query(wanted, after).limit(limit + 1)).all()
            words = _words(connection, [row.study for row in rows])
        return page([_card(row, words[row.study]) for row in rows], limit, lambda one: (one.arrived_at, one.study))

    def one(self, study: str) -> Card | None:
        """A study's card."""
        with reading(self._engine) as connection:
            row = connection.execute(select(CardRow.__table__).where(card.study == study)).first()
            return _card(row, _words(connection, [study])[study]) if row else None

    def words(self) -> dict[str, list[str]]:
        """The modalities, pipelines and labels that studies can be found by, for the choices of a form."""
        found: dict[str, list[str]] = {}
        with reading(self._engine) as connection:
            for kind in (MODALITY, PIPELINE, LABEL):
                found[kind] = list(_distinct(connection, kind))
        return found


# --- searching ----------------------------------------------------------------------------------------------------------
def _query(wanted: Wanted, after: tuple[datetime, str] | None) -> Select[Any]:
    """Walks one index from the newest on: that of the rarest word, or of a state that few studies are in."""
    words = wanted.words
    by_word = next(iter(words), "") if wanted.state in ("", DONE) else ""
    at, study = (tag.at, tag.study) if by_word else (card.arrived_at, card.study)
    query = select(CardRow.__table__)
    if by_word:
        query = query.select_from(CardTagRow.__table__.join(CardRow.__table__, card.study == tag.study))
        query = query.where(tag.kind == by_word, tag.value == words.pop(by_word))
    for kind, value in words.items():
        other = CardTagRow.__table__.alias(f"by_{kind}").c
        query = query.where(select(other.study).where(other.kind == kind, other.value == value, other.study == study).exists())
    if after:
        query = query.where(older(at, study, after))
    return query.where(*_plain(wanted, at)).order_by(at.desc(), study.desc())


def _plain(wanted: Wanted, at: Any) -> list[ColumnElement[bool]]:
    asked = ((card.study, wanted.study), (card.pseudonym, wanted.pseudonym), (card.state, wanted.state))
    where = [column == value for column, value in asked if value]
    if wanted.since:
        where.append(at >= wanted.since)
    if wanted.until:
        where.append(at < wanted.until)
    return where


def _distinct(connection: Connection, kind: str) -> Iterable[str]:
    """The values of a kind, each by one step in the index: `SELECT DISTINCT` would walk every tag."""
    value = ""
    while (
        found := connection.scalar(select(tag.value).where(tag.kind == kind, tag.value > value).order_by(tag.value).limit(1))
    ) is not None:
        yield found
        value = found


def _words(connection: Connection, studies: Sequence[str]) -> Mapping[str, Mapping[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    rows = connection.execute(select(tag.study, tag.kind, tag.value).where(tag.study.in_(studies)).order_by(tag.value)).all()
    for row in rows:
        found[row.study][row.kind].append(row.value)
    return found


def _card(row: Row[Any], words: Mapping[str, list[str]]) -> Card:
    return Card(
        **{**row._mapping, "study": CleanUid(row.study)},
        modalities=words.get(MODALITY, ()),
        pipelines=words.get(PIPELINE, ()),
        labels=words.get(LABEL, ()),
    )


# --- keeping ------------------------------------------------------------------------------------------------------------
def _values(one: Seen) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Seen.__slots__}


def _differs(row: Row[Any], values: Mapping[str, Any]) -> bool:
    return any(row._mapping[name] != value for name, value in values.items())


def _among(connection: Connection, studies: Iterable[str]) -> list[Row[Any]]:
    wanted = list(studies)
    return [
        row
        for start in range(0, len(wanted), _BATCH)
        for row in connection.execute(select(CardRow.__table__).where(card.study.in_(wanted[start : start + _BATCH])))
    ]


def _tag(connection: Connection, study: CleanUid, kind: str, values: Iterable[str]) -> None:
    at = connection.scalar(select(card.arrived_at).where(card.study == study))
    if at is None:
        return
    for value in dict.fromkeys(values):
        row = insert_of(connection)(CardTagRow).values(kind=kind, value=value[:100], study=study, at=at)
        connection.execute(row.on_conflict_do_nothing(index_elements=[tag.kind, tag.value, tag.study]))


def _labels(connection: Connection, study: CleanUid) -> list[str]:
    rows = connection.execute(
        select(job.series, job.pipeline, SummaryRow.summary)
        .join(SummaryRow, SummaryRow.job == job.id)
        .where(job.study == study, job.shadow == false())
        .order_by(job.scheduled_at)
    ).all()
    latest = {(row.series, row.pipeline): row.summary for row in rows}
    return [label for summary in latest.values() for label in labels_of(summary)]


def labels_of(summary: Mapping[str, Any]) -> list[str]:
    """The headline of a result and every finding that is present."""
    if not summary.get("analysed"):
        return [NOT_ANALYSED]
    headline = summary.get("label")
    return [str(headline)] * bool(headline) + [str(one["name"]) for one in summary.get("findings") or () if one.get("present")]
