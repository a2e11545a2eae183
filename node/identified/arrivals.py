"""How studies came, told without a name: what cards and the story of a study are filled from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, case, func, select, update

from node.domain import Channel, CleanUid
from node.errors import NotNow, NotThere
from node.identified.tables import InstanceRow, StudyRow
from node.ledger.cards import ON_ITS_WAY, Seen
from node.ledger.database import reading
from node.ledger.shown import Arrival, Revision, SourceShown

_BATCH = 500
study = StudyRow.__table__.c
instance = InstanceRow.__table__.c


class Arrivals:
    """Asks the tables that the intake keeps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def on_their_way(self) -> list[Seen]:
        """Studies that are arriving or have settled and are not done with."""
        with reading(self._engine) as db:
            return _seen(db, list(db.scalars(select(study.study).where(study.state.in_(ON_ITS_WAY)))))

    def of(self, studies: Iterable[CleanUid]) -> list[Seen]:
        """These studies, as far as they are known."""
        with reading(self._engine) as db:
            return _seen(db, list(studies))

    def all(self) -> Iterator[list[CleanUid]]:
        """Every study, some hundred at a time."""
        last = ""
        while True:
            with reading(self._engine) as db:
                some = list(db.scalars(select(study.study).where(study.study > last).order_by(study.study).limit(_BATCH)))
            if not some:
                return
            yield [CleanUid(one) for one in some]
            last = some[-1]

    def sources(self) -> list[SourceShown]:
        """Where the studies that are known here came from: each door, and each who came through it."""
        channel, caller, peer = (study.origin[part].as_string() for part in ("channel", "calling_ae", "peer"))
        name = case((channel == Channel.ORTHANC.value, peer), else_=caller)
        came = select(func.coalesce(channel, "").label("channel"), func.coalesce(name, "").label("name"), study.last_arrival).subquery()
        query = select(came.c.channel, came.c.name, func.count(), func.max(came.c.last_arrival)).group_by(came.c.channel, came.c.name)
        with reading(self._engine) as db:
            return [
                SourceShown(channel=row[0], name=row[1], studies=row[2], last=_aware(row[3]))
                for row in db.execute(query.order_by(came.c.channel, came.c.name))
            ]

    def one(self, uid: CleanUid) -> Arrival:
        """How a study came. Raises NotThere."""
        with reading(self._engine) as db:
            row = db.execute(select(StudyRow.__table__).where(study.study == uid)).first()
            if row is None:
                raise NotThere
            counted = select(func.coalesce(instance.revision, 0), func.count(), func.sum(instance.size)).where(instance.study == uid)
            revisions = db.execute(counted.group_by(instance.revision).order_by(instance.revision)).all()
        origin = row.origin or {}
        return Arrival(
            study=uid,
            state=row.state,
            channel=origin.get("channel", ""),
            calling_ae=origin.get("calling_ae", ""),
            called_ae=origin.get("called_ae", ""),
            peer=origin.get("peer", ""),
            arrived_at=_aware(row.first_arrival),
            last_at=_aware(row.last_arrival),
            expected=row.expected,
            settled_at=_aware(row.settled_at) if row.settled_at else None,
            settled_because=row.settled_reason,
            revisions=[Revision(revision=number, instances=count, bytes=int(size)) for number, count, size in revisions],
        )

    def send_again(self, uid: CleanUid) -> None:
        """A study that is done with goes its way once more, by the rules as they are now. Raises NotThere, NotNow."""
        done = (study.study == uid, study.state == "PROCESSED")
        with self._engine.begin() as db:
            if db.execute(update(StudyRow).where(*done).values(state="SETTLED")).rowcount:
                return
            state = db.scalar(select(study.state).where(study.study == uid))
        if state is None:
            raise NotThere
        raise NotNow("release it from quarantine" if state == "QUARANTINED" else f"it is on its way already ({state})")


def _seen(db: Connection, studies: list[str]) -> list[Seen]:
    found = []
    for start in range(0, len(studies), _BATCH):
        some = studies[start : start + _BATCH]
        counts: dict[str, int] = dict(
            db.execute(select(instance.study, func.count()).where(instance.study.in_(some)).group_by(instance.study)).all()
        )
        for row in db.execute(select(StudyRow.__table__).where(study.study.in_(some))):
            origin = row.origin or {}
            found.append(
                Seen(
                    study=CleanUid(row.study),
                    state=row.state,
                    revision=row.revision,
                    arrived_at=_aware(row.first_arrival),
                    last_at=_aware(row.last_arrival),
                    instances=counts.get(row.study, 0),
                    channel=origin.get("channel", ""),
                    source=origin.get("calling_ae", "") or origin.get("peer", ""),
                )
            )
    return found


def _aware(moment: datetime) -> datetime:
    """SQLite gives moments back without their zone; they went in as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
