"""A PACS as a destination: C-STORE SCU (PS3.4 Annex B), and C-FIND to confirm where it is configured (PS3.4 Annex C)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydantic import BaseModel, ConfigDict, Field
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification  # type: ignore[attr-defined,unused-ignore]

from node.association import keep_answers
from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused
from node.tls import Tls, heard_context

_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_REJECTED_FOR_NOW = 0x02  # A-ASSOCIATE-RJ Result, PS3.8 Table 9-21: 1 permanent, 2 transient
#: optional attributes not supported, attribute list error, attribute value out of range: the object was taken, PS3.7 Annex C.4
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
#: what a peer is asked for
PROBED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless)
_MOST_CONTEXTS = 128  # odd numbers of one byte, PS3.8 section 9.3.2.2


class DimseSettings(BaseModel):
    """The PACS's Application Entity and ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str
    port: int = 104
    ae_title: str = Field(max_length=16)  # VR AE, PS3.5 Table 6.2-1
    calling_ae_title: str = Field("RADNODE", max_length=16)
    timeout_s: float = Field(30, gt=0)  #: for a connection, an association and each answer
    keep_open_s: float = Field(5, ge=0)  #: how long an idle association is kept for the next object
    confirm: bool = False  #: ask by C-FIND whether the PACS lists the object
    tls: Tls | None = None


class Dimse(Destination):
    """One association for a batch; it is released when nothing was sent for `keep_open_s`."""

    Settings = DimseSettings
    settings: DimseSettings

    def __init__(self, name: str, settings: DimseSettings) -> None:
        super().__init__(name, settings)
        self._lock = threading.Lock()
        self._open: Association | None = None
        self._proposed: dict[tuple[str, str], None] = {}  # (SOP class, transfer syntax) seen so far, oldest first
        self._idle: threading.Timer | None = None
        self._series: dict[str, str] = {}  # of objects sent lately: SOP Instance UID → Series Instance UID

    def send(self, part10: bytes) -> str:
        try:
            dataset = dcmread(BytesIO(part10))
            sop_class, syntax = UID(dataset.SOPClassUID), UID(dataset.file_meta.TransferSyntaxUID)
        except (InvalidDicomError, EOFError, AttributeError) as why:
            raise DeliveryRefused("not a DICOM file") from why
        with self._lock:
            kept = self._open
            try:
                answer = self._store(dataset, sop_class, syntax)
                if answer is None and kept is not None:  # the peer gave up the association that was kept: once more on a new one
                    answer = self._store(dataset, sop_class, syntax)
            finally:
                if self._open is not None:  # also one on which this object could not go
                    self._release_later()
            if answer is None:
                raise DeliveryFailed("no answer to C-STORE", destination=self.name)
        self._series = {**dict(list(self._series.items())[-99:]), str(dataset.SOPInstanceUID): str(dataset.get("SeriesInstanceUID", ""))}
        packed = dataset.file_meta.TransferSyntaxUID == syntax
        return self._truth(int(answer.Status)) + ("" if packed else f", uncompressed: {syntax.name} is not taken")

    def _store(self, dataset: Dataset, sop_class: UID, syntax: UID) -> Dataset | None:
        """The status of C-STORE; None when the association broke or the peer did not answer in time."""
        association = self._association_for(sop_class, syntax)
        _fit(dataset, association, self.name)
        try:
            answer: Dataset = association.send_c_store(dataset)
        except RuntimeError:  # pynetdicom: no longer established
            self._drop()
            return None
        except ValueError as why:
            self._drop()
            raise DeliveryFailed(f"the object could not be encoded ({type(why).__name__})", destination=self.name) from None
        if "Status" in answer:
            return answer
        self._drop()
        return None

    def probe(self, sop_classes: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """What an association negotiates (PS3.8 9.3.3.2): nothing is sent. An acceptor chooses one syntax a context, so each is proposed alone."""
        pairs = [(sop_class, syntax) for sop_class in dict.fromkeys(sop_classes) for syntax in PROBED]
        taken: dict[str, tuple[str, ...]] = {}
        for start in range(0, len(pairs), _MOST_CONTEXTS):
            ae = self._ae()
            ae.requested_contexts = [build_context(*pair) for pair in pairs[start : start + _MOST_CONTEXTS]]
            association = self._associate(ae, even_if_none=True)
            for context in association.accepted_contexts:
                name = str(context.abstract_syntax)
                taken[name] = (*taken.get(name, ()), str(context.transfer_syntax[0]))
            if association.is_established:
                association.release()
        return taken

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        if not self.settings.confirm:
            return None
        try:
            with self._associated(StudyRootQueryRetrieveInformationModelFind) as association:
                known = self._series.get(sop_instance_uid)
                for series in [known] if known else _series_of(association, study_instance_uid):
                    query = _query("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=series, SOPInstanceUID=sop_instance_uid)
                    if any(match.get("SOPInstanceUID") == sop_instance_uid for match in _matches(association, query)):
                        return True
                return False
        except (DeliveryFailed, DeliveryRefused, RuntimeError, ValueError):
            return None

    def echo(self) -> str:
        try:
            with self._associated(Verification) as association:
                answer = association.send_c_echo()
        except (RuntimeError, ValueError):  # pynetdicom: the association broke
            raise DeliveryFailed("no answer to C-ECHO", destination=self.name) from None
        if "Status" not in answer:
            raise DeliveryFailed("no answer to C-ECHO", destination=self.name)
        if answer.Status != 0x0000:
            raise DeliveryRefused(f"C-ECHO 0x{answer.Status:04X}", destination=self.name)
        return "C-ECHO 0x0000"

    # --- status -----------------------------------------------------------------------------------------------------------
    def _truth(self, status: int) -> str:
        """PS3.4 Table B.2-1: what the PACS says is what is reported."""
        words = f"C-STORE 0x{status:04X}"
        if status == 0x0000:
            return words
        if status & 0xF000 == 0xB000 or status in _WARNINGS:
            return f"{words}, stored with a warning"
        if status & 0xFF00 == 0xA700:
            raise DeliveryFailed(f"{words}, out of resources", destination=self.name)
        if status & 0xFF00 == 0xA900:
            raise DeliveryRefused(f"{words}, data set does not match SOP class", destination=self.name)
        if status & 0xF000 == 0xC000:
            raise DeliveryRefused(f"{words}, cannot understand", destination=self.name)
        if status in {0x0122, 0x0124}:  # PS3.7 Annex C: SOP class not supported, not authorized
            raise DeliveryRefused(words, destination=self.name)
        if status in {0x0110, 0x0211, 0x0213}:  # processing failure, unrecognized operation, resource limitation
            raise DeliveryFailed(words, destination=self.name)
        raise DeliveryRefused(words, destination=self.name)

    # --- associations -----------------------------------------------------------------------------------------------------
    def _association_for(self, sop_class: UID, syntax: UID) -> Association:
        """The open association if this kind of object was proposed on it, else a new one."""
        pair = (str(sop_class), str(syntax))
        if self._open is not None and self._open.is_established and pair in self._proposed:
            return self._open
        self._let_go()
        self._proposed[pair] = None
        while len({kind for kind, _ in self._proposed}) + len(self._proposed) > _MOST_CONTEXTS:
            del self._proposed[next(iter(self._proposed))]
        ae = self._ae()
        # An acceptor chooses one transfer syntax a context (PS3.8 section 9.3.3.2): the object's own gets a context for itself.
        kinds = dict.fromkeys(kind for kind, _ in self._proposed)
        ae.requested_contexts = [
            *(build_context(kind, own) for kind, own in self._proposed),
            *(build_context(kind, list(_UNCOMPRESSED)) for kind in kinds),
        ]
        self._open = self._associate(ae)
        return self._open

    @contextmanager
    def _associated(self, sop_class: str) -> Iterator[Association]:
        ae = self._ae()
        ae.add_requested_context(sop_class)
        association = self._associate(ae)
        try:
            yield association
        finally:
            association.release()

    def _ae(self) -> AE:
        ae = AE(self.settings.calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = self.settings.timeout_s
        ae.network_timeout = self.settings.timeout_s + self.settings.keep_open_s
        return ae

    def _associate(self, ae: AE, *, even_if_none: bool = False) -> Association:
        try:
            context, heard = heard_context(self.settings.tls) if self.settings.tls else (None, [])
        except OSError as why:
            raise DeliveryFailed(f"the files of `tls` can't be used ({type(why).__name__})", destination=self.name) from None
        tls = (context, self.settings.host) if context else None
        association = keep_answers(ae.associate(self.settings.host, self.settings.port, ae_title=self.settings.ae_title, tls_args=tls))
        if association.is_established:
            return association
        if association.is_rejected:
            answer = association.acceptor.primitive
            words = f"association rejected ({answer.reason_str})"
            if answer.result == _REJECTED_FOR_NOW:
                raise DeliveryFailed(words, destination=self.name)
            raise DeliveryRefused(words, destination=self.name)
        if association.rejected_contexts and not association.accepted_contexts:
            if even_if_none:
                return association
            raise DeliveryRefused("SOP class not supported: no presentation context was accepted", destination=self.name)
        raise DeliveryFailed(f"no association: {heard[-1]}" if heard else "no association", destination=self.name)

    def _release_later(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = threading.Timer(self.settings.keep_open_s, self._release_if_idle)
        self._idle.daemon = True
        self._idle.start()

    def _release_if_idle(self) -> None:
        with self._lock:
            if self._idle is None or self._idle is threading.current_thread():
                self._let_go()

    def _let_go(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._open is not None and self._open.is_established:
            self._open.release()
        self._open = None

    def _drop(self) -> None:
        if self._open is not None and self._open.is_established:
            self._open.abort()
        self._open = None


def _fit(dataset: Dataset, association: Association, name: str) -> None:
    """Bring the object into a transfer syntax that the peer accepted for its SOP class: as it is, or uncompressed."""
    accepted = {str(c.transfer_syntax[0]) for c in association.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID}
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if not accepted:
        raise DeliveryRefused("SOP class not supported: its presentation context was not accepted", destination=name)
    if syntax in accepted:
        return
    if syntax.is_compressed and syntax.is_encapsulated:
        try:
            dataset.decompress(generate_instance_uid=False)
        except Exception as why:  # codecs raise many kinds
            raise DeliveryRefused("the peer takes no compressed object and this one can't be decoded", destination=name) from why
    elif syntax.is_deflated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if not accepted & {str(one) for one in _UNCOMPRESSED}:
        raise DeliveryRefused("no transfer syntax in common", destination=name)


def _query(level: str, **keys: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _matches(association: Association, query: Dataset) -> list[Dataset]:
    """The pending answers of a C-FIND, PS3.4 Table C.4-1. Raises ValueError when it did not end in success."""
    found: list[Dataset] = []
    for status, match in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
        if "Status" not in status:
            raise ValueError("no answer")
        if status.Status in (0xFF00, 0xFF01) and match is not None:
            found.append(match)
        elif status.Status != 0x0000:
            raise ValueError("refused")
    return found


def _series_of(association: Association, study_instance_uid: str) -> list[str]:
    query = _query("SERIES", StudyInstanceUID=study_instance_uid, SeriesInstanceUID="")
    return [str(match.SeriesInstanceUID) for match in _matches(association, query)]
