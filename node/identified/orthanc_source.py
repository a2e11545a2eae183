"""Studies that come from an Orthanc: told by its hook or found in its change feed, fetched as they are (pyorthanc)."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Protocol

import httpx
from pyorthanc import Orthanc as Client
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from node import log
from node.audit import Action, AuditEvent, Event, Outcome, Record
from node.domain import Channel, Origin
from node.errors import NodeError, SourceFailed, StudyRefused
from node.identified.tables import ChangeRow, FetchRow

_log = log.get(__name__)

ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")  # SHA-1 of the DICOM identifiers, in five groups
_PAGE = 500  #: changes asked for at once
_SEEN = "seen in the change feed, not yet said to be stable"
_CHUNK = 1 << 20
_GIVES_UP_AFTER = 3  #: instances in a row that Orthanc has and does not give
_AS_IT_IS = {"Accept-Encoding": "identity"}  # Orthanc 1.10 would compress each file, slower than loopback and most networks


class Accepted(Protocol):
    """An instance that is durable."""

    @property
    def study(self) -> str: ...  # clean Study Instance UID


class OrthancSource:
    """One Orthanc of the settings.

    What is told is written down (`fetches`) before the caller is answered, and fetched by `fetch_due`; each instance that
    was taken is durable, so a fetch that breaks in the middle goes on where it stopped. Instances that the node holds,
    and its own results, are never fetched: an Orthanc study that only gained our results yields nothing.

    Parameters
    ----------
    accept
        Takes one whole DICOM file (PS3.10), open at its start; returns when it is durable.
    known, ours
        Of these original SOP Instance UIDs: those held already; those that are results of this node, of purged studies too.
    expect
        Told the original Study Instance UID and how many instances Orthanc holds, our results not counted.
    spool
        Opens an empty file for one instance on its way in.
    ca_file
        PEM of the authority that signed Orthanc's certificate; empty: the machine's authorities.
    unsaid_after_s
        A study that the feed shows as new is looked at after this time although nobody said it is stable: an Orthanc that
        was stopped while it arrived never says so.
    """

    def __init__(
        self,
        name: str,
        url: str,
        user: str,
        password: str,
        *,
        accept: Callable[[BinaryIO, Origin], Accepted],
        known: Callable[[Sequence[str]], set[str]],
        ours: Callable[[Sequence[str]], set[str]],
        expect: Callable[[str, int], None],
        record: Record,
        engine: Engine,
        spool: Callable[[], BinaryIO],
        ca_file: str = "",
        timeout_s: float = 60,
        first_retry_s: float = 2,
        longest_retry_s: float = 300,
        unsaid_after_s: float = 900,
        tries: int = 3,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._url = url.rstrip("/")
        verify: Any = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._client = Client(self._url, user or None, password or None, return_raw_response=True, timeout=timeout_s, verify=verify)
        self._accept, self._known, self._ours, self._expect = accept, known, ours, expect
        self._record, self._engine, self._spool, self._clock = record, engine, spool, clock
        self._reading = engine.execution_options(reading=True)
        self._first_retry_s, self._longest_retry_s = first_retry_s, longest_retry_s
        self._unsaid_after = timedelta(seconds=unsaid_after_s)
        self._again = Retrying(
            stop=stop_after_attempt(tries),
            wait=wait_exponential_jitter(initial=0.2, max=2, jitter=0.2),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        self._fetching, self._reading_changes = threading.Lock(), threading.Lock()

    # --- what is told -------------------------------------------------------------------------------------------------------
    def study_is_stable(self, orthanc_id: str) -> None:
        """Orthanc says so. Returns when it is written down. Raises ValueError for what is not an id of Orthanc."""
        if not ORTHANC_ID.fullmatch(orthanc_id):
            raise ValueError("not an Orthanc id")
        with Session(self._engine) as session, session.begin():
            self._ask_for(session, orthanc_id)

    def catch_up(self, *, from_start: bool = False) -> int:
        """Read the change feed on from where it was left; returns how many studies became stable meanwhile.

        The very first time it only notes where the feed ends, so that an archive of years is not analysed because a node
        was connected to it; `from_start` reads all of it. The place is kept in the same transaction as the studies.

        Raises
        ------
        SourceFailed
            When Orthanc does not answer. What was read so far is kept.
        """
        with self._reading_changes:
            try:
                return self._read_changes(from_start)
            except httpx.HTTPError as why:
                raise SourceFailed(_words(why), orthanc=self.name) from None

    # --- what is fetched ------------------------------------------------------------------------------------------------------
    def fetch_due(self) -> int:
        """Fetch the studies whose time has come; returns how many instances were taken. Failures wait and are tried again."""
        if not self._fetching.acquire(blocking=False):
            return 0
        try:
            return sum(self._fetch_row(row) for row in self._due())
        finally:
            self._fetching.release()

    def fetch_study(self, orthanc_id: str) -> int:
        """Take every instance of the study that is new; returns how many those were.

        Raises
        ------
        SourceFailed
            When Orthanc does not answer, or stops in the middle. What was taken is kept.
        DiskFull
            When there is no room for more now.
        """
        try:
            return self._fetch(orthanc_id)
        except httpx.HTTPError as why:
            raise SourceFailed(_words(why), orthanc=self.name) from None

    def waiting(self) -> int:
        """How many studies wait to be fetched."""
        with Session(self._reading) as session:
            return len(session.scalars(select(FetchRow.study).where(FetchRow.orthanc == self.name)).all())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- the change feed --------------------------------------------------------------------------------------------------
    def _read_changes(self, from_start: bool) -> int:
        with Session(self._reading) as session:
            row = session.get(ChangeRow, self.name)
            last = row.last if row else None
        end = int(self._json("/changes?last")["Last"])
        if last is None and not from_start:
            self._keep_place(end, [])
            return 0
        if last is None:
            last = 0
        elif last > end:  # the feed is younger than our place in it: Orthanc's database was made anew
            _log.warning("the change feed starts anew", extra={"orthanc": self.name})
            last = 0
        found: set[str] = set()
        done = False
        while not done:
            page = self._json(f"/changes?since={last}&limit={_PAGE}")
            changes = [(change["ChangeType"], change["ID"]) for change in page["Changes"]]
            last, done = max(last, int(page["Last"])), bool(page["Done"]) or not changes
            stable = [study for what, study in changes if what == "StableStudy"]
            self._keep_place(last, stable, [study for what, study in changes if what == "NewStudy" and study not in stable])
            found.update(stable)
        return len(found)

    def _keep_place(self, last: int, stable: Sequence[str], new: Sequence[str] = ()) -> None:
        with Session(self._engine) as session, session.begin():
            for study in dict.fromkeys(stable):
                self._ask_for(session, study)
            for study in dict.fromkeys(new):
                if session.get(FetchRow, (self.name, study)) is None:
                    session.add(self._row(study, self._clock() + self._unsaid_after, _SEEN))
            session.merge(ChangeRow(orthanc=self.name, last=last))

    def _ask_for(self, session: Session, study: str) -> None:
        row = session.get(FetchRow, (self.name, study))
        if row is None:
            session.add(self._row(study, self._clock()))
            return
        row.asked += 1
        if row.reason == _SEEN:
            row.next_at, row.reason = self._clock(), ""

    def _row(self, study: str, next_at: datetime, reason: str = "") -> FetchRow:
        return FetchRow(orthanc=self.name, study=study, asked=1, attempts=0, next_at=next_at, reason=reason)

    # --- one study ----------------------------------------------------------------------------------------------------------
    def _due(self) -> list[FetchRow]:
        query = select(FetchRow).where(FetchRow.orthanc == self.name, FetchRow.next_at <= self._clock()).order_by(FetchRow.next_at)
        with Session(self._reading) as session:
            rows = list(session.scalars(query))
            session.expunge_all()
        return rows

    def _fetch_row(self, row: FetchRow) -> int:
        study, asked = row.study, row.asked
        here = (FetchRow.orthanc == self.name, FetchRow.study == study)
        try:
            if row.reason == _SEEN and self._still_arrives(study):
                with Session(self._engine) as session, session.begin():
                    session.execute(
                        update(FetchRow).where(*here, FetchRow.asked == asked).values(next_at=self._clock() + self._unsaid_after)
                    )
                return 0
            taken = self.fetch_study(study)
        except NodeError as why:
            return self._later(row, why.detail or why.message)
        except Exception as why:  # one odd study must not keep the others waiting
            return self._later(row, log.where_it_failed(why))
        with Session(self._engine) as session, session.begin():
            session.execute(delete(FetchRow).where(*here, FetchRow.asked == asked))
            # told again while it was fetched: look once more
            session.execute(update(FetchRow).where(*here).values(attempts=0, reason="", next_at=self._clock()))
        return taken

    def _later(self, row: FetchRow, reason: str) -> int:
        wait = timedelta(seconds=min(self._first_retry_s * 2.0 ** min(row.attempts, 30), self._longest_retry_s))
        here = (FetchRow.orthanc == self.name, FetchRow.study == row.study)
        with Session(self._engine) as session, session.begin():
            session.execute(update(FetchRow).where(*here).values(attempts=row.attempts + 1, next_at=self._clock() + wait, reason=reason))
        _log.warning("study not fetched now", extra={"orthanc": self.name, "study": row.study, "why": reason})
        return 0

    def _still_arrives(self, study: str) -> bool:
        try:
            answer = self._get(f"/studies/{study}", missing_is_fine=True)
        except httpx.HTTPError as why:
            raise SourceFailed(_words(why), orthanc=self.name) from None
        return answer is not None and not answer.json().get("IsStable", True)

    def _fetch(self, study: str) -> int:
        answer = self._get(f"/studies/{study}", missing_is_fine=True)
        if answer is None:  # deleted there since
            return 0
        original = str(answer.json()["MainDicomTags"]["StudyInstanceUID"])
        # Orthanc 1.12 documents `expand` as needed for the tags, 1.10 gives them always
        ids: Mapping[str, str] = {
            i["MainDicomTags"]["SOPInstanceUID"]: i["ID"] for i in self._json(f"/studies/{study}/instances?expand=true")
        }
        known = self._known(list(ids))
        ours = self._ours([uid for uid in ids if uid not in known])
        new = sorted(set(ids) - known - ours)
        taken = refused = failures = 0
        clean = ""
        origin: Origin | None = None
        trouble: httpx.HTTPStatusError | None = None
        try:
            for uid in new:
                origin = origin or self._origin(ids[uid])
                try:
                    accepted = self._take(ids[uid], origin)
                    failures = 0
                except httpx.HTTPStatusError as why:  # its file may be damaged there; those of the others need not be
                    trouble, failures = why, failures + 1
                    if failures == _GIVES_UP_AFTER:
                        break
                    continue
                except StudyRefused as why:
                    refused += 1
                    _log.warning("instance refused", extra={"orthanc": self.name, "study": study, "why": type(why).__name__})
                    continue
                if accepted is None:  # deleted there since
                    continue
                taken, clean = taken + 1, accepted.study
                if taken == 1:  # the study is known from its first instance on
                    self._expect(original, len(ids) - len(ours))
        finally:
            if taken or refused:
                self._tell(clean, taken, refused, len(new))
        if trouble:
            raise trouble
        return taken

    def _origin(self, instance: str) -> Origin:
        """How the study came to Orthanc: who sent it there, when that was by C-STORE."""
        sender = self._get(f"/instances/{instance}/metadata/RemoteAET", missing_is_fine=True)
        called = self._get(f"/instances/{instance}/metadata/CalledAET", missing_is_fine=True)
        return Origin(
            channel=Channel.ORTHANC,
            received_at=self._clock(),
            calling_ae=sender.text[:16] if sender else "",
            called_ae=called.text[:16] if called else "",
            peer=self.name,
        )

    def _take(self, instance: str, origin: Origin) -> Accepted | None:
        """Fetch one file as it is and hand it in; None when Orthanc has it no more."""
        for attempt in self._again:
            with attempt, self._spool() as file:
                if not self._download(f"/instances/{instance}/file", file):
                    return None
                file.seek(0)
                return self._accept(file, origin)
        return None

    def _download(self, route: str, file: BinaryIO) -> bool:
        with self._client.stream("GET", self._url + route, headers=_AS_IT_IS) as answer:
            if answer.status_code == httpx.codes.NOT_FOUND:
                return False
            answer.raise_for_status()
            for chunk in answer.iter_bytes(_CHUNK):
                file.write(chunk)
        return True

    # --- HTTP -----------------------------------------------------------------------------------------------------------------
    def _get(self, route: str, *, missing_is_fine: bool = False) -> httpx.Response | None:
        def once() -> httpx.Response | None:
            answer: httpx.Response = self._client.get(self._url + route, headers=_AS_IT_IS)
            if missing_is_fine and answer.status_code == httpx.codes.NOT_FOUND:
                return None
            return answer.raise_for_status()

        return self._again(once)

    def _json(self, route: str) -> Any:
        answer = self._get(route)
        try:
            return answer.json() if answer else None
        except ValueError:
            raise SourceFailed("the answer is not JSON", orthanc=self.name) from None

    def _tell(self, study: str, taken: int, refused: int, new: int) -> None:
        left = new - taken - refused
        outcome = Outcome.SUCCESS if not refused and not left else Outcome.MINOR_FAILURE
        facts = {"instances": str(taken), "refused": str(refused), "left": str(left), "direction": "in"}
        what = "fetched from Orthanc"
        event = Event.INSTANCES_TRANSFERRED
        self._record(AuditEvent(event=event, action=Action.CREATE, outcome=outcome, peer=self.name, study=study, what=what, facts=facts))


def _may_pass(why: BaseException) -> bool:
    if isinstance(why, httpx.HTTPStatusError):
        return why.response.status_code >= 500 or why.response.status_code in {408, 429}
    return isinstance(why, httpx.TransportError)


def _words(why: httpx.HTTPError) -> str:
    """A few words without what the answer said."""
    if isinstance(why, httpx.HTTPStatusError):
        return f"HTTP {why.response.status_code}"
    return f"no answer ({type(why).__name__})"
