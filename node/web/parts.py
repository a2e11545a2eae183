"""What the web room is handed by assembly: callables, and for the API read models without a name, so that it reaches no other room by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Protocol

from prometheus_client import CollectorRegistry

from node.audit import Record
from node.domain import Origin
from node.ledger.reception import Reception
from node.ledger.tokens import Bearer
from node.web.agreement import Agreement
from node.web.api.parts import ApiParts
from node.web.audit import AuditParts
from node.web.desks import Compare, RulesDesk, SendingDesk
from node.web.predict import PredictParts
from node.web.provider import Provider
from node.web.reading import ReadingParts
from node.web.reveal import RevealParts

if TYPE_CHECKING:
    from node.viewing.light_box import LightBox  # large libraries, and not every node shows pictures


class Accepted(Protocol):
    """An instance that is durable. The UIDs are the original ones: the answer to the sender names them."""

    @property
    def sop_class_uid(self) -> str: ...

    @property
    def sop_instance_uid(self) -> str: ...

    @property
    def study(self) -> str: ...  # clean Study Instance UID, for the audit trail


class Head(Protocol):
    """Where an instance belongs, as its file says; empty where it does not."""

    @property
    def sop_class_uid(self) -> str: ...

    @property
    def sop_instance_uid(self) -> str: ...

    @property
    def study_instance_uid(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebParts:
    """Handed in once, at the start. What a page shows is a field here that is None where there is nothing to show."""

    accept_instance: Callable[[BinaryIO, Origin], Accepted]
    """Takes one DICOM file (PS3.10), open at its start; returns when it is durable. Raises StudyRefused or DiskFull."""

    head: Callable[[BinaryIO], Head]  #: whose a DICOM file (PS3.10) is, read in little memory; raises StudyRefused
    spool: Callable[[], BinaryIO]  #: an empty file for one instance on its way in
    hook: Callable[[str, str], None]  #: (name of an Orthanc, its id of a study); returns when it is written down
    bearer: Callable[[str], Bearer | None]  #: whose token it is, with role and scopes; None for one that opens nothing
    record: Record  #: the audit trail
    reception: Reception | None = None  #: people who sign in; None: no pages, tokens only
    hook_secret: str = field(default="", repr=False)  #: shared with Orthanc's script; empty: the hook is closed
    peers: Collection[str] = ()  #: names of the Orthancs in the settings
    room_left: Callable[[], bool] = lambda: True  #: the disk is above its watermark
    ready: Callable[[], Mapping[str, bool]] = dict  #: what must work before studies may be sent: name → it does
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    max_upload_bytes: int = 4096 << 20
    openid: Provider | None = None  #: who vouches for people; None: passwords only
    address: str = ""  #: of this node as people see it; empty: as each request says
    audit: AuditParts | None = None  #: the trail to be looked at; None: not over HTTP
    agreement: Agreement | None = None  #: how readers answered; None: nobody counts
    reveal: RevealParts | None = None  #: who somebody is; None: nobody is told
    api: ApiParts | None = None  #: the JSON API and DICOMweb on results; None: neither is there
    predict: PredictParts | None = None  #: what uploads are looked at with; None: they are not
    light_box: LightBox | None = None  #: pictures of results; None: none are shown
    reading: ReadingParts | None = None  #: what readers answer on pages; None: nobody is asked
    rules: RulesDesk | None = None  #: the rule book and what is asked beside it; None: no page of rules
    compare: Compare | None = None  #: two versions of a pipeline side by side; None: they are not compared
    sending: SendingDesk | None = None  #: what destinations get, and where studies come from; None: no page of them
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
