"""`/api/v1` of a node in typed calls. The shapes are the very ones that the routes answer with, so this needs the node installed.

with RadnodeApi("https://node.example", token) as node:
    for job in node.jobs(state="CANCELED"):
        node.retry_job(job.id)
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import httpx
import requests
from dicomweb_client import DICOMwebClient
from pydantic import TypeAdapter

from node.client import Radnode, checked
from node.ledger.cards import Card
from node.ledger.job_list import JobShown, WholeJob
from node.ledger.paging import MOST
from node.ledger.shown import Delivery, DestinationShown, Echo, Refused
from node.ledger.trail_list import Record
from node.rules.difference import Difference
from node.web.api.audit import Whole as Chain
from node.web.api.events import HEARTBEAT_S, LONGEST_S, Step
from node.web.api.models import ModelShown
from node.web.api.rules import Checked, RevisionShown, WholeRevision
from node.web.api.story import Story
from node.web.api.today import Whole as Today
from node.web.api.words import Done, Listed

Counts = dict[str, int]  #: jobs by state
T = TypeVar("T")

_WHOLE = ("destinations", "models", "rules")  #: lists of one page
_PAUSES_S = (0.5, 2.0, 5.0)  #: before something is asked once more


class RadnodeApi(Radnode):
    """A node over HTTP, with all that its API can do. Each call raises `node.client.Refused` where the node answers with a problem.

    Lists ask for the next page when it is needed. What does something is sent with an Idempotency-Key of its own, and once
    more when the connection breaks: it is done once. httpx.TransportError when the node is not there after all.
    """

    # --- looking --------------------------------------------------------------------------------------------------------
    def today(self) -> Today:
        """How the node does, in counts."""
        return self._get(Today, "today")

    def studies(
        self,
        *,
        study: str = "",
        pseudonym: str = "",
        state: str = "",
        label: str = "",
        pipeline: str = "",
        modality: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Card]:
        """Studies, newest first. Each filter that is given must fit; moments have a time zone."""
        asked = {"study": study, "pseudonym": pseudonym, "state": state, "label": label, "pipeline": pipeline, "modality": modality}
        return self._list(Card, "studies", **asked, since=_moment(since), until=_moment(until))

    def study(self, study: str) -> Story:
        """The story of a study, by its clean Study Instance UID: how it came, what was decided, found and delivered."""
        return self._get(Story, f"studies/{study}")

    def jobs(self, *, state: str = "", pipeline: str = "", study: str = "") -> Iterator[JobShown]:
        """Jobs, the latest scheduled first."""
        return self._list(JobShown, "jobs", state=state, pipeline=pipeline, study=study)

    def job(self, job: str) -> WholeJob:
        """A job with its reasons, its findings and what it wrote."""
        return self._get(WholeJob, f"jobs/{job}")

    def deliveries(self, *, state: str = "", destination: str = "", study: str = "") -> Iterator[Delivery]:
        """Objects on their way out, the latest queued first. REFUSED are the dead letters."""
        return self._list(Delivery, "deliveries", state=state, destination=destination, study=study)

    def destinations(self) -> Iterator[DestinationShown]:
        """Where results go, without secrets, and how that goes."""
        return self._list(DestinationShown, "destinations")

    def quarantine(self) -> Iterator[Refused]:
        """Studies that were refused, and why."""
        return self._list(Refused, "quarantine")

    def models(self) -> Iterator[ModelShown]:
        """Pipelines with their versions and cards."""
        return self._list(ModelShown, "models")

    def model(self, pipeline: str) -> ModelShown:
        """One pipeline."""
        return self._get(ModelShown, f"models/{pipeline}")

    def rules(self) -> Iterator[RevisionShown]:
        """Every revision of the rules, the newest first."""
        return self._list(RevisionShown, "rules")

    def rule_text(self, number: int) -> WholeRevision:
        """A revision with its text."""
        return self._get(WholeRevision, f"rules/{number}")

    def rules_difference(self, number: int, other: int) -> Difference:
        """What changes from one revision to another."""
        return self._get(Difference, f"rules/{number}/difference/{other}")

    def validate_rules(self, text: str) -> Checked:
        """What is wrong with a text. Nothing is kept."""
        return self._do(Checked, "rules/validate", text=text)

    def audit(
        self, *, study: str = "", event: str = "", who: str = "", since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Record]:
        """Records of the audit trail, newest first; `event` is a code of CID 400. For auditors and privacy officers."""
        return self._list(Record, "audit", study=study, event=event, who=who, since=_moment(since), until=_moment(until))

    def audit_chain(self) -> Chain:
        """Is the trail whole?"""
        return self._get(Chain, "audit/verify")

    def audit_export(self, **asked: str) -> Iterator[str]:
        """The trail as the lines of a file, the oldest record first: `format` (json, xml), `study`, `event`, `who`, `since`, `until`. For auditors."""
        with self._http.stream("GET", f"{self._url}/api/v1/audit/export", params=asked, headers=self._headers) as answer:
            if not answer.is_success:
                answer.read()
            yield from checked(answer).iter_lines()

    # --- doing ----------------------------------------------------------------------------------------------------------
    def retry(self, study: str) -> Done:
        """Try every job of a study again that was given up."""
        return self._do(Done, f"studies/{study}/retry")

    def reroute(self, study: str) -> Done:
        """Ask the rules about a study once more, as they are now."""
        return self._do(Done, f"studies/{study}/reroute")

    def purge(self, study: str, *, reason: str) -> Done:
        """Forget a study."""
        return self._do(Done, f"studies/{study}/purge", reason=reason)

    def retry_job(self, job: str) -> Done:
        """Try a job again that was given up."""
        return self._do(Done, f"jobs/{job}/retry")

    def replay(self, delivery: int) -> Delivery:
        """Queue an object once more."""
        return self._do(Delivery, f"deliveries/{delivery}/replay")

    def echo(self, destination: str) -> Echo:
        """Is a destination there?"""
        return self._do(Echo, f"destinations/{destination}/echo")

    def release(self, study: str, *, reason: str) -> Done:
        """Send a refused study on its way again."""
        return self._do(Done, f"quarantine/{study}/release", reason=reason)

    def promote(self, pipeline: str, version: str, *, reason: str) -> Done:
        """Results of this version go home from the next study on."""
        return self._do(Done, f"models/{pipeline}/versions/{version}/promote", reason=reason)

    def shadow(self, pipeline: str, version: str, *, reason: str) -> Done:
        """This version runs beside the active one, and its results go nowhere."""
        return self._do(Done, f"models/{pipeline}/versions/{version}/shadow", reason=reason)

    def retire(self, pipeline: str, version: str, *, reason: str) -> Done:
        """This version runs no more."""
        return self._do(Done, f"models/{pipeline}/versions/{version}/retire", reason=reason)

    def rollback(self, pipeline: str, *, reason: str) -> Done:
        """The version that was active before is active again."""
        return self._do(Done, f"models/{pipeline}/rollback", reason=reason)

    def publish_rules(self, text: str, *, reason: str, base: int | None = None) -> RevisionShown:
        """A text becomes the rules, or a proposal; refused (409) when `base` is no longer the active revision."""
        return self._do(RevisionShown, "rules", text=text, reason=reason, base=base)

    def keep_rules(self, text: str, *, reason: str, base: int | None = None) -> RevisionShown:
        """Keep a draft."""
        return self._do(RevisionShown, "rules/drafts", text=text, reason=reason, base=base)

    def watch_rules(self, text: str, *, reason: str) -> RevisionShown:
        """Ask a draft beside the rules in force. It does nothing."""
        return self._do(RevisionShown, "rules/watch", text=text, reason=reason)

    def approve_rules(self, number: int, *, reason: str) -> RevisionShown:
        """A second person's word on a proposal."""
        return self._do(RevisionShown, f"rules/{number}/approve", reason=reason)

    def roll_rules_back(self, number: int, *, reason: str, base: int | None = None) -> RevisionShown:
        """An earlier revision is in force again."""
        return self._do(RevisionShown, f"rules/{number}/rollback", reason=reason, base=base)

    # --- following ------------------------------------------------------------------------------------------------------
    def events(self, *, study: str = "", after: int | None = None, seconds: int = LONGEST_S) -> Iterator[Step | Counts]:
        """What happens, as it happens, for so many seconds: steps of studies, and counts of jobs by state when they changed.

        `after` is the `seq` of the last step that is known; without it what comes from now on. A connection that breaks is
        opened again where it broke.
        """
        end, last = time.monotonic() + seconds, after
        while (left := int(end - time.monotonic() + 0.5)) > 0:
            headers = {**self._headers, **({"Last-Event-ID": str(last)} if last is not None else {})}
            asked = {"seconds": str(min(left, LONGEST_S)), **({"study": study} if study else {})}
            patience = httpx.Timeout(_PAUSES_S[-1] + 10, read=2 * HEARTBEAT_S)
            try:
                with self._http.stream("GET", f"{self._url}/api/v1/events", params=asked, headers=headers, timeout=patience) as answer:
                    if not answer.is_success:
                        answer.read()
                    for event in _events(checked(answer).iter_lines()):
                        if isinstance(event, Step):
                            last = event.seq
                        yield event
            except httpx.TransportError:
                if end - time.monotonic() < _PAUSES_S[0]:
                    return
                time.sleep(_PAUSES_S[0])

    # --- DICOMweb -------------------------------------------------------------------------------------------------------
    def dicomweb(self, session: requests.Session | None = None) -> DICOMwebClient:
        """QIDO-RS and WADO-RS on results, and STOW-RS, by `dicomweb-client`; certificates are its session's. Studies are named as the archive knows them."""
        return DICOMwebClient(f"{self._url}/dicom-web", session=session, headers=dict(self._headers))

    # --- asking ---------------------------------------------------------------------------------------------------------
    def _get(self, shape: type[T], path: str, **asked: str) -> T:
        params = {name: value for name, value in asked.items() if value}
        answer = checked(self._http.get(f"{self._url}/api/v1/{path}", params=params, headers=self._headers))
        return _read(shape, answer.content)

    def _list(self, shape: type[T], path: str, **asked: str) -> Iterator[T]:
        cursor = ""
        many = {"limit": str(MOST)} if path not in _WHOLE else {}
        while True:
            page = self._get(Listed[shape], path, **asked, **many, cursor=cursor)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next
            if not cursor:
                return

    def _do(self, shape: type[T], path: str, **body: str | int | None) -> T:
        sent = {name: value for name, value in body.items() if value is not None}
        headers = {**self._headers, "Idempotency-Key": uuid.uuid4().hex}
        broken = False
        for pause in (*_PAUSES_S, None):
            try:
                answer = self._http.post(f"{self._url}/api/v1/{path}", json=sent or None, headers=headers)
                if pause is None or not broken or answer.status_code != 409:  # 409: the first one may be at work still
                    break
            except httpx.TransportError:
                if pause is None:
                    raise
            broken = True
            time.sleep(pause)
        return _read(shape, checked(answer).content)


def _read(shape: type[T], content: bytes | str) -> T:
    kind: Any = shape
    found: T = _reader(kind).validate_json(content)
    return found


@cache
def _reader(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _moment(at: datetime | None) -> str:
    if at is not None and at.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return at.isoformat() if at else ""


def _events(lines: Iterable[str]) -> Iterator[Step | Counts]:
    """Of a stream of Server-Sent Events, those that we know."""
    name, data = "", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if name == "step":
                yield _read(Step, data)
            elif name == "jobs":
                yield dict(json.loads(data))
            name, data = "", ""
        elif field == "event":
            name = value
        elif field == "data":
            data += value
