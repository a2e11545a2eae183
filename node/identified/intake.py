"""An instance has arrived; when has its study settled? The Standard has no word for "complete", so we wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from struct import unpack_from
from typing import BinaryIO, TypeVar

from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from sqlalchemy import ColumnElement, Engine, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from node import log
from node.domain import CleanUid, Origin, StudyRef
from node.errors import InstanceUnreadable
from node.identified.blocks import Extent, Meta, origin_from_json, origin_json
from node.identified.clean_uids import CleanUids
from node.identified.head import Head, HeadUnreadable, is_uid, read_head
from node.identified.keys import Keyring
from node.identified.named import IdentifiedStudy, ReceivedInstance
from node.identified.tables import (
    ByHandRow,
    IdentityRow,
    InstanceRow,
    OutboxRow,
    QuarantineRow,
    RevealRequestRow,
    SegmentRow,
    SegmentStudyRow,
    StudyRow,
)
from node.identified.vault import Arrival, Position, Vault, VaultWriter
from node.ledger.database import reading

RECEIVING, SETTLED, PROCESSED, QUARANTINED = "RECEIVING", "SETTLED", "PROCESSED", "QUARANTINED"
_BATCH = 500
_HEAD_BYTES, _PIECE_BYTES = 64 << 10, 1 << 20

_log = log.get(__name__)
_Row = TypeVar("_Row", InstanceRow, StudyRow)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Accepted:
    """An instance that is safe now. The UIDs are the original ones: an answer to the sender names them."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    study: CleanUid
    own: bool = False  #: one of our results that came back: not kept


class Intake:
    """The ledger of what arrived. One process indexes and settles; any process may `accept`."""

    def __init__(
        self,
        engine: Engine,
        vault: Vault,
        keyring: Keyring,
        clean_uids: CleanUids,
        *,
        settle_after_s: float,
        settle_complete_after_s: float,
        is_ours: Callable[[str], bool] = lambda sop_instance_uid: False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine, self._vault, self._keyring, self._clean_uids = engine, vault, keyring, clean_uids
        self._settle_after_s, self._settle_complete_after_s = settle_after_s, settle_complete_after_s
        self._is_ours, self._clock = is_ours, clock
        self._given: set[StudyRef] = set()
        self._done: set[str] | None = None  # segments that were read to their end
        self.counted: Counter[str] = Counter()  #: new, duplicate, conflict, own, unreadable; since this process began

    # --- arriving -----------------------------------------------------------------------------------------------------
    def accept(self, part10: bytes | Path | BinaryIO, origin: Origin, writer: VaultWriter) -> Accepted:
        """Take a DICOM file (PS3.10) into the vault, a piece at a time; durable on return. A file that is open is read from its start.

        Raises
        ------
        InstanceUnreadable
            With a reason that has no value of the file in it.
        DiskFull
            Nothing was kept.
        """
        if isinstance(part10, Path):
            with part10.open("rb") as file:
                return self._accept(file, origin, writer)
        return self._accept(BytesIO(part10) if isinstance(part10, bytes) else part10, origin, writer)

    def _accept(self, file: BinaryIO, origin: Origin, writer: VaultWriter) -> Accepted:
        transfer_syntax_uid, _, head, data = _begun(file)
        meta = self._meta(head, transfer_syntax_uid, origin)
        own = self._is_ours(meta.sop_instance_uid)
        if not own:
            record = writer.begin(meta)
            try:
                while data:
                    record.write(data)
                    data = file.read(_PIECE_BYTES)
                record.commit()
            finally:
                record.abandon()
        return Accepted(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            study_instance_uid=meta.study_instance_uid,
            study=meta.study,
            own=own,
        )

    def _meta(self, head: Head, transfer_syntax_uid: str, origin: Origin) -> Meta:
        for name, uid in (
            ("SOP Class UID", head.sop_class_uid),
            ("SOP Instance UID", head.sop_instance_uid),
            ("Study Instance UID", head.study_instance_uid),
        ):
            if not is_uid(uid):
                raise InstanceUnreadable(f"{name} is {'missing' if not uid else 'not a UID'}")
        return Meta(
            study=self._clean_uids.of(head.study_instance_uid),
            sop_class_uid=head.sop_class_uid,
            sop_instance_uid=head.sop_instance_uid,
            study_instance_uid=head.study_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            origin=origin,
        )

    def index_new(self) -> int:
        """Bring the ledger up to the vault's logs; how many instances are new. Called again and again while receivers write."""
        new = 0
        while True:
            with reading(self._engine) as ledger:
                if self._done is None:
                    self._done = set(ledger.scalars(select(SegmentRow.segment).where(SegmentRow.done)))
                unread = select(SegmentRow.__table__).where(SegmentRow.done.is_(False))
                positions = [Position(**row) for row in ledger.execute(unread).mappings()]
            before = {position.segment: _as_row(position) for position in positions}
            scan = self._vault.scan(positions, done=self._done, at_most=_BATCH)
            if scan.unreadable:
                self.counted["unreadable"] += scan.unreadable
                _log.warning(
                    "records of the vault were stepped over: torn by a crash, or of a purged study", extra={"count": scan.unreadable}
                )
            rows = [_as_row(position) for position in scan.positions]
            changed = [row for row in rows if before.get(str(row["segment"])) != row]
            if changed or scan.arrivals:
                with Session(self._engine) as db, db.begin():
                    new += self._enter(db, scan.arrivals)
                    for row in changed:
                        db.merge(SegmentRow(**row))
            ended = {position.segment for position in scan.positions if position.done}
            if ended:
                self._done |= ended
                self.reclaim()
            if len(scan.arrivals) < _BATCH:
                return new

    def _enter(self, db: Session, arrivals: Sequence[Arrival]) -> int:
        """Rows for what is new; the same again, our own, and what contradicts an earlier instance is counted only."""
        now = self._clock()
        instances = {arrival.meta.sop_instance_uid: self._clean_uids.of(arrival.meta.sop_instance_uid) for arrival in arrivals}
        known = {row.sop_instance: row for row in _among(db, InstanceRow, InstanceRow.sop_instance, instances.values())}
        studies = {row.study: row for row in _among(db, StudyRow, StudyRow.study, {arrival.meta.study for arrival in arrivals})}
        kept_in = set()
        new = 0
        for arrival in arrivals:
            meta, stored = arrival.meta, arrival.stored
            sop_instance = instances[meta.sop_instance_uid]
            earlier = known.get(sop_instance)
            if self._is_ours(meta.sop_instance_uid):
                self.counted["own"] += 1
                continue
            if earlier is not None:
                self._met_again(earlier, arrival)
                continue
            study = studies.get(meta.study)
            if study is None:
                study = studies[meta.study] = StudyRow(
                    study=meta.study, state=RECEIVING, revision=0, first_arrival=now, last_arrival=now, settled_reason="", origin={}
                )
                db.add(study)
                db.flush()
            study.origin = study.origin or origin_json(meta.origin)
            study.state, study.last_arrival = RECEIVING, now
            row = InstanceRow(
                sop_instance=sop_instance,
                study=meta.study,
                extents=stored.extents,
                size=stored.size,
                digest=stored.digest,
                arrived_at=meta.origin.received_at,
            )
            known[sop_instance] = row
            db.add(row)
            kept_in |= {(extent[0], meta.study) for extent in stored.extents}
            new += 1
        for segment, study_uid in kept_in:
            db.merge(SegmentStudyRow(segment=segment, study=study_uid))
        self.counted["new"] += new
        return new

    def _met_again(self, earlier: InstanceRow, arrival: Arrival) -> None:
        if earlier.extents == arrival.stored.extents:
            return  # the very record: indexed before, its position was not kept
        if earlier.study == arrival.meta.study and earlier.digest == arrival.stored.digest:
            self.counted["duplicate"] += 1
            return
        self.counted["conflict"] += 1
        _log.warning(
            "an instance came again with other content; the first one stays",
            extra={"study": arrival.meta.study, "instance": earlier.sop_instance},
        )

    def expect(self, study: CleanUid, count: int) -> None:
        """The source says how many instances the study has: once they are here the wait is short."""
        now = self._clock()
        with Session(self._engine) as db, db.begin():
            row = db.get(StudyRow, study)
            if row is None:
                row = StudyRow(study=study, state=RECEIVING, revision=0, first_arrival=now, last_arrival=now, settled_reason="", origin={})
                db.add(row)
            row.expected = count

    def uncounted(self) -> list[tuple[CleanUid, str]]:
        """Studies that paused and of which nobody has said how many instances they have; with the original UID, to ask."""
        paused = self._clock() - timedelta(seconds=self._settle_complete_after_s)
        with Session(self._engine) as db:
            arriving = select(StudyRow.study, func.min(InstanceRow.sop_instance)).join(InstanceRow, InstanceRow.study == StudyRow.study)
            waiting = (StudyRow.state == RECEIVING, StudyRow.expected.is_(None), StudyRow.last_arrival <= paused)
            found = db.execute(arriving.where(*waiting).group_by(StudyRow.study)).all()
            places = [(CleanUid(study), db.get_one(InstanceRow, instance).extents) for study, instance in found]
        return [(study, self._vault.read_meta(extents, study).study_instance_uid) for study, extents in places]

    # --- settling -------------------------------------------------------------------------------------------------------
    def settled(self, now: datetime | None = None) -> list[StudyRef]:
        """Studies that have settled just now, and, once a start, those that had settled but were not finished."""
        now = now or self._clock()
        with reading(self._engine) as ledger:
            begun = ledger.scalars(select(SegmentRow.studies).where(SegmentRow.done.is_(False)))
            arriving = {study for studies in begun for study in studies.values()}
            waiting = set(ledger.scalars(select(StudyRow.study).where(StudyRow.state == RECEIVING))) - arriving
        if waiting:
            with Session(self._engine) as db, db.begin():
                for row in db.scalars(select(StudyRow).where(StudyRow.state == RECEIVING)):
                    if row.study in waiting:
                        self._settle(db, row, now)
        by_age = select(StudyRow.study, StudyRow.revision).where(StudyRow.state == SETTLED).order_by(StudyRow.settled_at)
        with reading(self._engine) as ledger:
            refs = [StudyRef(study=CleanUid(study), revision=revision) for study, revision in ledger.execute(by_age)]
        fresh = [ref for ref in refs if ref not in self._given]
        self._given = set(refs)
        return fresh

    def _settle(self, db: Session, row: StudyRow, now: datetime) -> None:
        new = _count(db, row.study, InstanceRow.revision.is_(None))
        if not new:
            return
        total = _count(db, row.study)
        reason = why_settled(
            (now - _aware(row.last_arrival)).total_seconds(),
            total,
            row.expected,
            settle_after_s=self._settle_after_s,
            settle_complete_after_s=self._settle_complete_after_s,
        )
        if reason:
            row.state, row.settled_reason, row.settled_at = SETTLED, reason, now
            row.revision += 1
            db.execute(
                update(InstanceRow).where(InstanceRow.study == row.study, InstanceRow.revision.is_(None)).values(revision=row.revision)
            )
            _log.info("study settled", extra={"study": row.study, "revision": row.revision, "because": reason})

    def give_again(self, ref: StudyRef) -> None:
        """Its processing failed for now: `settled` names it once more."""
        self._given.discard(ref)

    def open(self, ref: StudyRef) -> IdentifiedStudy:
        """All instances up to the revision, to be opened one at a time."""
        with reading(self._engine) as db:
            rows = db.execute(
                select(InstanceRow.extents)
                .where(InstanceRow.study == ref.study, InstanceRow.revision <= ref.revision)
                .order_by(InstanceRow.arrived_at, InstanceRow.sop_instance)
            )
            places = [extents for (extents,) in rows]
        return self._identified(ref, places)

    def _identified(self, ref: StudyRef, places: Sequence[Sequence[Extent]]) -> IdentifiedStudy:
        def instances() -> Iterator[ReceivedInstance]:
            for extents in places:
                meta = self._vault.read_meta(extents, ref.study)
                yield ReceivedInstance(
                    sop_class_uid=meta.sop_class_uid,
                    sop_instance_uid=meta.sop_instance_uid,
                    transfer_syntax_uid=meta.transfer_syntax_uid,
                    origin=meta.origin,
                    data=self._vault.open(extents, ref.study),
                )

        return IdentifiedStudy(ref=ref, instances=instances, count=len(places))

    def newcomers(self, ref: StudyRef, since: int, wanted: Callable[[str], bool]) -> tuple[IdentifiedStudy, int]:
        """Of the instances that came after revision `since`: those of a SOP class that is wanted, and how many others there are."""
        with reading(self._engine) as db:
            new = (InstanceRow.study == ref.study, InstanceRow.revision > since, InstanceRow.revision <= ref.revision)
            rows = db.execute(select(InstanceRow.extents).where(*new).order_by(InstanceRow.arrived_at, InstanceRow.sop_instance))
            places = [extents for (extents,) in rows]
        chosen = [extents for extents in places if wanted(self._vault.read_meta(extents, ref.study).sop_class_uid)]
        return self._identified(ref, chosen), len(places) - len(chosen)

    def refs(self) -> list[StudyRef]:
        """Every study that has settled, at its latest revision, oldest first."""
        with Session(self._engine) as db:
            rows = db.execute(select(StudyRow.study, StudyRow.revision).where(StudyRow.revision > 0).order_by(StudyRow.first_arrival))
            return [StudyRef(study=CleanUid(study), revision=revision) for study, revision in rows]

    def arrival(self, ref: StudyRef) -> tuple[Origin, int, str]:
        """How a revision came: the study's first Origin, how many instances are new in it, and why it was held to be settled."""
        with Session(self._engine) as db:
            row = db.get_one(StudyRow, ref.study)
            return origin_from_json(row.origin), _count(db, ref.study, InstanceRow.revision == ref.revision), row.settled_reason

    def processed(self, ref: StudyRef) -> None:
        """Every route of the revision has its job. A study that got new images meanwhile goes on receiving."""
        self._finish(ref, PROCESSED)

    def refused(self, ref: StudyRef) -> None:
        """The revision was set aside; its reason is kept by `quarantine`."""
        self._finish(ref, QUARANTINED)
        self._given.discard(ref)  # it may be released before the next turn

    def again(self, ref: StudyRef) -> None:
        """A refused study was released: it goes its way once more, unless new images have sent it on already.

        It leaves the list of the refused in the same transaction: in one place only, nobody could release it any more.
        """
        with self._engine.begin() as db:
            db.execute(delete(QuarantineRow).where(QuarantineRow.study == ref.study))
            db.execute(
                update(StudyRow)
                .where(StudyRow.study == ref.study, StudyRow.revision == ref.revision, StudyRow.state == QUARANTINED)
                .values(state=SETTLED)
            )

    def _finish(self, ref: StudyRef, state: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                update(StudyRow)
                .where(StudyRow.study == ref.study, StudyRow.revision == ref.revision, StudyRow.state == SETTLED)
                .values(state=state)
            )

    def known(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Which of these original SOP Instance UIDs are held already."""
        clean = {self._clean_uids.of(uid): uid for uid in sop_instance_uids}
        with Session(self._engine) as db:
            return {clean[CleanUid(row.sop_instance)] for row in _among(db, InstanceRow, InstanceRow.sop_instance, clean)}

    def older_than(self, moment: datetime) -> list[CleanUid]:
        """Studies that are done with and of which nothing arrived since: what retention may forget."""
        done = StudyRow.state.in_((PROCESSED, QUARANTINED))
        with Session(self._engine) as db:
            return [CleanUid(study) for study in db.scalars(select(StudyRow.study).where(done, StudyRow.last_arrival < moment))]

    def state_counts(self) -> dict[str, int]:
        """How many studies are in which state."""
        with reading(self._engine) as db:
            found = {str(row[0]): int(row[1]) for row in db.execute(select(StudyRow.state, func.count()).group_by(StudyRow.state))}
        return {state: found.get(state, 0) for state in (RECEIVING, SETTLED, PROCESSED, QUARANTINED)}

    def last_arrivals(self, sources: Collection[str]) -> dict[str, datetime]:
        """When a study of each source last grew: an AE title, the name of an Orthanc or a channel. Those of nothing are left out."""
        found: dict[str, datetime] = {}
        with reading(self._engine) as db:
            for source in sources:
                names = or_(*(StudyRow.origin[part].as_string() == source for part in ("calling_ae", "peer", "channel")))
                last = db.scalar(select(func.max(StudyRow.last_arrival)).where(names))
                if last is not None:
                    found[source] = _aware(last)
        return found

    # --- forgetting -----------------------------------------------------------------------------------------------------
    def purge(self, *studies: CleanUid) -> None:
        """Make studies unreadable, forget them, and free the disk. Keys go first: a crash midway leaves nothing readable."""
        self._keyring.shred(*studies)
        self._given = {ref for ref in self._given if ref.study not in studies}
        with self._engine.begin() as db:
            for study in studies:
                for table in (IdentityRow, QuarantineRow, ByHandRow, InstanceRow, SegmentStudyRow, OutboxRow, RevealRequestRow, StudyRow):
                    db.execute(delete(table).where(table.study == study))
        self.reclaim()

    def reclaim(self) -> int:
        """Delete segments that no study needs; how many."""
        with reading(self._engine) as db:
            needed = select(SegmentStudyRow.segment)
            idle = list(db.scalars(select(SegmentRow.segment).where(SegmentRow.done, SegmentRow.segment.not_in(needed))))
        for segment in idle:
            self._vault.drop(segment)
        with self._engine.begin() as db:
            for segment in idle:
                db.execute(delete(SegmentRow).where(SegmentRow.segment == segment))
        return len(idle)


def why_settled(quiet_s: float, total: int, expected: int | None, *, settle_after_s: float, settle_complete_after_s: float) -> str:
    """The reason why a study has settled; empty: it has not yet."""
    if expected and total >= expected and quiet_s >= settle_complete_after_s:
        return f"complete: {total} of {expected} instances"
    if quiet_s >= settle_after_s:
        return f"quiet for {settle_after_s:g} s"
    return ""


def head_of(file: BinaryIO) -> tuple[str, int, Head]:
    """Transfer Syntax UID, the offset of the data set, and its head, of a DICOM file (PS3.10). Raises InstanceUnreadable."""
    transfer_syntax_uid, start, head, _ = _begun(file)
    return transfer_syntax_uid, start, head


def _begun(file: BinaryIO) -> tuple[str, int, Head, bytes]:
    """The same, and what was read of the data set until then."""
    file.seek(0)
    begin = file.read(_HEAD_BYTES)
    transfer_syntax_uid, start = _file_meta(memoryview(begin))
    head, data = _read_head(file, begin[start:], transfer_syntax_uid)
    return transfer_syntax_uid, start, head, data


def _read_head(file: BinaryIO, data: bytes, transfer_syntax_uid: str) -> tuple[Head, bytes]:
    """The head of a data set that begins with `data` and goes on in `file`, and all that was read to find it."""
    try:
        while True:
            more = file.read(max(_HEAD_BYTES, 3 * len(data)))
            head = read_head(data + more, transfer_syntax_uid, complete=not more)
            data += more
            if head is not None:
                return head, data
    except HeadUnreadable as why:
        raise InstanceUnreadable(str(why)) from None


def _file_meta(file: memoryview) -> tuple[str, int]:
    """Transfer Syntax UID and the offset of the data set (PS3.10 7.1: explicit VR little endian)."""
    if bytes(file[128:132]) != b"DICM":
        raise InstanceUnreadable("not a DICOM file: no DICM prefix")
    at, transfer_syntax_uid = 132, ""
    while at + 8 <= len(file):
        group, element = unpack_from("<HH", file, at)
        if group != 2:
            break
        long = bytes(file[at + 4 : at + 6]) in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        if at + 12 > len(file):
            break
        length = unpack_from("<L", file, at + 8)[0] if long else unpack_from("<H", file, at + 6)[0]
        start = at + (12 if long else 8)
        if start + length > len(file):
            raise InstanceUnreadable("the file ends inside its file meta information")
        if element == 0x0010:
            transfer_syntax_uid = bytes(file[start : start + length]).decode("ascii", "replace").strip("\0 ")
        at = start + length
    if transfer_syntax_uid not in ALL_TRANSFER_SYNTAXES:
        raise InstanceUnreadable("no transfer syntax that is known")
    return transfer_syntax_uid, at


def _as_row(position: Position) -> dict[str, object]:
    return {**vars(position)}


def _count(db: Session, study: str, *where: ColumnElement[bool]) -> int:
    return db.scalar(select(func.count()).select_from(InstanceRow).where(InstanceRow.study == study, *where)) or 0


def _among(db: Session, table: type[_Row], column: InstrumentedAttribute[str], values: Iterable[str]) -> list[_Row]:
    wanted = list(values)
    return [row for at in range(0, len(wanted), 500) for row in db.scalars(select(table).where(column.in_(wanted[at : at + 500])))]


def _aware(moment: datetime) -> datetime:
    """SQLite gives moments back without their zone; they went in as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
