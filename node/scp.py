"""The DICOM door: Verification and Storage SCP (PS3.4 A, B). A success status means sealed, flushed, and found again after a crash.

One blocking thread an association; fragments go from the receive buffer into the sealed record. Several processes may share
the listening sockets: each calls `serve` with a writer of its own. One socket may speak TLS (PS3.15 B.12), the other never does.
"""

from __future__ import annotations

import ipaddress
import select
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from node import log
from node import upper_layer as ul
from node.domain import Channel, CleanUid, Origin
from node.errors import DiskFull
from node.identified.clean_uids import CleanUids
from node.identified.head import Head, HeadUnreadable, is_uid, read_head
from node.identified.objects import RETIRED_IMAGES
from node.identified.vault import Meta, Stored
from node.tls import words

IMPLEMENTATION_CLASS_UID: Final = "2.25.317435850861110966420474364964815608580"
IMPLEMENTATION_VERSION: Final = "RADNODE"
VERIFICATION: Final = str(Verification)
STORAGE_SOP_CLASSES: Final = RETIRED_IMAGES | {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
TRANSFER_SYNTAXES: Final = frozenset(ALL_TRANSFER_SYNTAXES)

# C-STORE and C-ECHO: PS3.7 9.3.1, 9.3.5; command fields E.1; status PS3.7 C, PS3.4 B.2.3
C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ, RESPONSE = 0x0001, 0x0030, 0x0FFF, 0x8000
NO_DATA_SET = 0x0101
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

REQUEST_TIMEOUT_S: Final = 15  #: from the connection to the A-ASSOCIATE-RQ; before it, for the TLS handshake as a whole

_FIRST_LOOK, _LOOK_AGAIN = 64 << 10, 4  #: the head is walked at 64 kB, then at four times as much
_log = log.get(__name__)


class Record(Protocol):
    """An instance being sealed (`identified/vault.py`)."""

    def write(self, data: memoryview | bytes | bytearray) -> None: ...
    def commit(self) -> Stored: ...
    def abandon(self) -> None: ...


class Writer(Protocol):
    """Where records begin."""

    def begin(self, meta: Meta) -> Record: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerRule:
    """Who may send: a calling AE title, from these networks; none named: from any."""

    ae_title: str
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, ae_title: str, addresses: Sequence[str] = ()) -> CallerRule:
        return cls(ae_title=ae_title, networks=tuple(ipaddress.ip_network(address, strict=False) for address in addresses))

    def admits(self, calling_ae: str, address: str) -> bool:
        if calling_ae != self.ae_title:
            return False
        ip = ipaddress.ip_address(address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return not self.networks or any(ip in network for network in self.networks)


Alert = Callable[[str, str, str, str], None]  #: calling AE, called AE, address, why


@dataclass(frozen=True, kw_only=True)
class Door:
    """Everything one receiver process needs, handed in."""

    ae_title: str
    callers: tuple[CallerRule, ...]  #: nobody else may send
    writer: Writer
    clean_uids: CleanUids
    free_bytes: Callable[[], int]  #: above the watermark; 0 or less: nothing is taken
    tls: ssl.SSLContext | None = None  #: of the socket that speaks TLS
    alert: Alert = lambda calling_ae, called_ae, address, why: None
    received: Callable[[CleanUid, str, int], None] = lambda study, calling_ae, size: None  #: after each success
    max_associations: int = 64
    max_pdu_bytes: int = 128 << 10
    idle_timeout_s: float = 60
    drain_s: float = 10  #: how long associations may go on after SIGTERM
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    stop: threading.Event = field(default_factory=threading.Event)  #: ends `serve`, as SIGTERM does


def bind(host: str, port: int) -> socket.socket:
    """The listening socket, to be shared by the receiver processes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(256)
    listener.setblocking(False)
    return listener


def serve(listener: socket.socket | None, door: Door, *, secure: socket.socket | None = None) -> None:
    """Take associations until SIGTERM (in a main thread) or `door.stop`; then let those that are open come to an end.

    `secure` listens for DICOM over TLS and needs `door.tls`; `listener` for DICOM in the clear.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: door.stop.set())
    room = _Room(door)
    poll = select.poll()
    listening = {one.fileno(): one for one in (listener, secure) if one}
    for one in listening.values():
        one.setblocking(False)
        poll.register(one, select.POLLIN)
    while not door.stop.is_set():
        for number, _ in poll.poll(200):
            time.sleep(0.05 if room.full(1) else min(len(room), 20) / 1000)  # a process with less to do comes first
            try:
                connection, address = listening[number].accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError:
                _log.exception("a connection could not be taken")
                time.sleep(0.1)
                continue
            room.admit(connection, str(address[0]), door.tls if listening[number] is secure else None)
    room.drain()


class _Room:
    """The associations of this process."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._lock = threading.Lock()
        self._present: dict[_Association, threading.Thread] = {}
        self.closing = False

    def __len__(self) -> int:
        return len(self._present)

    def admit(self, connection: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        if len(self) >= 2 * self._door.max_associations + 16:  # those above the limit are told so; a flood is not
            connection.close()
            return
        association = _Association(connection, address, self._door, self, tls)
        thread = threading.Thread(target=self._run, args=(association,), name=f"association-{address}", daemon=True)
        with self._lock:
            self._present[association] = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._leave(association)
            connection.close()

    def full(self, more: int = 0) -> bool:
        """With `more` there would be more established than allowed."""
        with self._lock:
            return sum(one.established for one in self._present) + more > self._door.max_associations

    def _run(self, association: _Association) -> None:
        try:
            association.run()
        finally:
            self._leave(association)

    def _leave(self, association: _Association) -> None:
        with self._lock:
            self._present.pop(association, None)

    def drain(self) -> None:
        """Wait; then stop those that are between two messages; at last all."""
        deadline = time.monotonic() + self._door.drain_s
        for idle_only in (None, True, False):
            if idle_only is not None:
                self.closing = True
                for association in list(self._present):
                    association.hurry(idle_only=idle_only)
                deadline = time.monotonic() + (5 if idle_only else 1)
            while self._present and time.monotonic() < deadline:
                time.sleep(0.02)


class _Refusal(Exception):
    """A C-STORE that is not taken: its status, and a word for Error Comment (0000,0902) without a value of the data set."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status, self.comment = status, comment[:64]  # VR LO, PS3.5 Table 6.2-1


class _Association:
    """From A-ASSOCIATE-RQ, or the TLS handshake before it, to the end of the connection, in a thread of its own."""

    def __init__(self, connection: socket.socket, address: str, door: Door, room: _Room, tls: ssl.SSLContext | None) -> None:
        self._socket, self._address, self._door, self._room, self._tls = connection, address, door, room, tls
        self.established = False
        self._busy = False
        self._contexts: dict[int, tuple[str, str]] = {}  # id → abstract syntax, transfer syntax

    def run(self) -> None:
        try:
            with self._connection():
                self._set_up_socket()
                self._limit_silence(min(self._door.idle_timeout_s, REQUEST_TIMEOUT_S))  # the ARTIM timer, PS3.8 9.1.5
                self._wire = ul.Wire(self._socket)
                if isinstance(self._socket, ssl.SSLSocket) and not self._shaken_hands(self._socket):
                    return
                try:
                    self._proposal = self._wire.proposal()
                    if self._negotiated():
                        self._converse()
                except ul.ProtocolError as why:
                    _log.warning("association aborted: the peer breaks the protocol", extra={"peer": self._address, "reason": why.reason})
                    self._wire.send(ul.abort(why.reason))
                    self._wire.linger(1)
        except ul.PeerGone:
            if self.established and not self._room.closing:
                _log.info("association ended without release", extra={"peer": self._address})
        except Exception:
            _log.exception("an association failed", extra={"peer": self._address})

    def hurry(self, *, idle_only: bool) -> None:
        """The node stops: say so to a peer that is not in the middle of a message, or to any."""
        if idle_only and self._busy:
            return
        with suppress(OSError):
            if idle_only and self._tls is None:  # a TLS connection is not written to while another thread reads it
                self._socket.send(ul.abort(ul.UNSPECIFIED))
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _set_up_socket(self) -> None:
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _limit_silence(self, seconds: float) -> None:
        """In the kernel: Python's own time-out would poll before each read. Under TLS it is Python's, which would read on after the kernel's."""
        if self._tls is not None:
            self._socket.settimeout(seconds)
            return
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    # --- TLS ----------------------------------------------------------------------------------------------------------
    def _connection(self) -> socket.socket:
        if self._tls is not None:
            try:
                self._socket = self._tls.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            except OSError as why:
                raise ul.PeerGone from why
        return self._socket

    def _shaken_hands(self, connection: ssl.SSLSocket) -> bool:
        """The TLS handshake; False: it failed. A peer that speaks no TLS, an old one, or shows the wrong certificate is a security alert."""
        try:
            connection.do_handshake()  # the time-out is for all of it
            return True
        except TimeoutError:
            _log.warning("no TLS handshake in time", extra={"peer": self._address})
        except OSError as failed:
            if not isinstance(failed, ssl.SSLError) or isinstance(failed, ssl.SSLEOFError):  # a look at the port, and no word
                raise ul.PeerGone from failed
            why = f"no TLS: {words(failed)}"
            _log.warning("connection refused", extra={"peer": self._address, "because": why})
            self._alert("", "", why)
            self._wire.linger(1)
        return False

    def _alert(self, calling_ae: str, called_ae: str, why: str) -> None:
        try:
            self._door.alert(calling_ae, called_ae, self._address, why)
        except Exception:
            _log.exception("a security alert could not be recorded", extra={"peer": self._address})

    # --- negotiation --------------------------------------------------------------------------------------------------
    def _negotiated(self) -> bool:
        """Answers the A-ASSOCIATE-RQ; False: rejected."""
        proposal = self._proposal
        rejection, why = self._rejection()
        if rejection:
            _log.warning("association rejected", extra={"peer": self._address, "because": why})
            if rejection in (ul.CALLED_AE_NOT_RECOGNIZED, ul.CALLING_AE_NOT_RECOGNIZED):
                self._alert(proposal.calling_ae, proposal.called_ae, why)
            self._wire.send(ul.associate_rj(*rejection))
            self._wire.linger(1)
            return False
        self._limit_silence(self._door.idle_timeout_s)
        results = [choose(context) for context in proposal.contexts]
        for context, (number, result, transfer_syntax) in zip(proposal.contexts, results, strict=True):
            if result == ul.ACCEPTANCE:
                self._contexts[number] = (context.abstract_syntax, transfer_syntax)
        self._wire.send(
            ul.associate_ac(
                proposal,
                results,
                max_pdu=self._door.max_pdu_bytes,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION,
            )
        )
        return True

    def _rejection(self) -> tuple[tuple[int, int, int] | None, str]:
        proposal, door = self._proposal, self._door
        if not proposal.protocol_version & 1:
            return ul.PROTOCOL_VERSION, "protocol version not supported"
        if proposal.application_context != ul.APPLICATION_CONTEXT:
            return ul.NO_APPLICATION_CONTEXT, "application context name not supported"
        if proposal.called_ae != door.ae_title:
            return ul.CALLED_AE_NOT_RECOGNIZED, "called AE title not recognized"
        if not any(rule.admits(proposal.calling_ae, self._address) for rule in door.callers):
            return ul.CALLING_AE_NOT_RECOGNIZED, "calling AE title not recognized, or not from this address"
        self.established = True
        if self._room.full() or door.stop.is_set():
            self.established = False
            return ul.LOCAL_LIMIT_EXCEEDED, "too many associations"
        if door.free_bytes() <= 0:
            self.established = False
            return ul.LOCAL_LIMIT_EXCEEDED, "the disk is below its watermark"
        return None, ""

    # --- messages -----------------------------------------------------------------------------------------------------
    def _converse(self) -> None:
        pieces = self._wire.pieces()
        command = bytearray()
        for piece in pieces:
            self._busy = True
            if not piece.command or piece.context not in self._contexts:
                raise ul.ProtocolError(ul.UNEXPECTED_PARAMETER)
            command += piece.data
            if len(command) > ul.LONGEST_COMMAND:
                raise ul.ProtocolError(ul.INVALID_PARAMETER)
            if piece.last:
                self._obey(piece.context, _Command.parsed(bytes(command)), pieces)
                command.clear()
                if self._room.closing:
                    self._wire.send(ul.abort(ul.UNSPECIFIED))
                    self._wire.linger(1)
                    return
            self._busy = bool(command)
        self._wire.send(ul.release_rp())
        self._wire.linger(1)

    def _obey(self, context: int, command: _Command, pieces: Iterator[ul.Piece]) -> None:
        if command.field & RESPONSE:
            raise ul.ProtocolError(ul.UNEXPECTED_PARAMETER)
        has_data_set = command.data_set_type != NO_DATA_SET
        status, comment = SUCCESS, ""
        if command.field == C_STORE_RQ:
            status, comment = self._store(context, command, _data(pieces, context) if has_data_set else iter(()))
        elif has_data_set:
            for _ in _data(pieces, context):
                pass
        if command.field == C_CANCEL_RQ:
            return  # answered by nothing, PS3.7 9.3.2.3
        if command.field not in (C_STORE_RQ, C_ECHO_RQ):
            status = UNRECOGNIZED_OPERATION
        self._wire.send(ul.p_data(context, command.response(status, comment), self._proposal.max_pdu))

    def _store(self, context: int, command: _Command, data: Iterator[memoryview]) -> tuple[int, str]:
        """One C-STORE: its status and error comment. All its data is read, whatever the answer."""
        try:
            self._take(context, command, data)
            return SUCCESS, ""
        except _Refusal as refusal:
            status, comment = refusal.status, refusal.comment
        except DiskFull:
            status, comment = OUT_OF_RESOURCES, "the disk is full; send again later"
        except (ul.PeerGone, ul.ProtocolError):
            raise
        except Exception:
            _log.exception("an instance could not be stored", extra={"peer": self._address})
            status, comment = PROCESSING_FAILURE, "the node failed; send again later"
        for _ in data:
            pass
        _log.warning("an instance was not taken", extra={"peer": self._address, "status": f"0x{status:04X}", "because": comment})
        return status, comment

    def _take(self, context: int, command: _Command, data: Iterator[memoryview]) -> None:
        abstract_syntax, transfer_syntax = self._contexts[context]
        if command.sop_class_uid != abstract_syntax or abstract_syntax == VERIFICATION:
            raise _Refusal(SOP_CLASS_NOT_SUPPORTED, "SOP Class is not that of the presentation context")
        if not is_uid(command.sop_instance_uid):
            raise _Refusal(INVALID_SOP_INSTANCE, "Affected SOP Instance UID is not a UID")
        if self._door.free_bytes() <= 0:
            raise _Refusal(OUT_OF_RESOURCES, "the disk is below its watermark; send again later")
        head, first = _head(data, transfer_syntax)
        _must_match(command, head)
        study = self._door.clean_uids.of(head.study_instance_uid)
        record = self._door.writer.begin(self._meta(head, study, transfer_syntax))
        try:
            record.write(first)
            for part in data:
                record.write(part)
            stored = record.commit()
        finally:
            record.abandon()
        self._door.received(study, self._proposal.calling_ae, stored.size)

    def _meta(self, head: Head, study: CleanUid, transfer_syntax: str) -> Meta:
        return Meta(
            study=study,
            sop_class_uid=head.sop_class_uid,
            sop_instance_uid=head.sop_instance_uid,
            study_instance_uid=head.study_instance_uid,
            transfer_syntax_uid=transfer_syntax,
            origin=Origin(
                channel=Channel.DIMSE,
                received_at=self._door.clock(),
                calling_ae=self._proposal.calling_ae,
                called_ae=self._proposal.called_ae,
                peer=self._address,
            ),
        )


def choose(context: ul.Context) -> tuple[int, int, str]:
    """Context id, result and transfer syntax: the first one that is known, as the sender prefers it (PS3.8 9.3.3.2)."""
    proposed = context.transfer_syntaxes
    if context.abstract_syntax != VERIFICATION and context.abstract_syntax not in STORAGE_SOP_CLASSES:
        return context.id, ul.ABSTRACT_SYNTAX_REFUSED, proposed[0] if proposed else ""
    for transfer_syntax in proposed:
        if transfer_syntax in TRANSFER_SYNTAXES:
            return context.id, ul.ACCEPTANCE, transfer_syntax
    return context.id, ul.TRANSFER_SYNTAXES_REFUSED, proposed[0] if proposed else ""


def _data(pieces: Iterator[ul.Piece], context: int) -> Iterator[memoryview]:
    """The data set of a message, up to its last fragment."""
    for piece in pieces:
        if piece.command or piece.context != context:
            raise ul.ProtocolError(ul.UNEXPECTED_PARAMETER)
        yield piece.data
        if piece.last:
            return
    raise ul.ProtocolError(ul.UNEXPECTED_PDU)  # a release in the middle of a message


def _head(data: Iterator[memoryview], transfer_syntax: str) -> tuple[Head, memoryview | bytearray]:
    """The head, and the bytes read to find it."""
    held = bytearray()
    look_at = 0
    try:
        for part in data:
            if not held:
                head = read_head(part, transfer_syntax, complete=False)  # nearly always all of it is in the first piece
                if head:
                    return head, part
                look_at = _FIRST_LOOK
            held += part
            if len(held) >= look_at:
                head = read_head(held, transfer_syntax, complete=False)
                if head:
                    return head, held
                look_at = len(held) * _LOOK_AGAIN
        head = read_head(held, transfer_syntax, complete=True)
    except HeadUnreadable as why:
        raise _Refusal(CANNOT_UNDERSTAND, str(why)) from None
    if head is None:
        raise _Refusal(CANNOT_UNDERSTAND, "the data set ends inside its head")
    return head, held


def _must_match(command: _Command, head: Head) -> None:
    """The data set is what the command says (PS3.4 B.2.3: data set does not match SOP Class)."""
    for name, uid, announced in (
        ("SOP Class UID", head.sop_class_uid, command.sop_class_uid),
        ("SOP Instance UID", head.sop_instance_uid, command.sop_instance_uid),
    ):
        if uid != announced:
            raise _Refusal(DATA_SET_MISMATCH, f"{name} {'is not that of the command' if uid else 'is missing'}")
    if not is_uid(head.study_instance_uid):
        raise _Refusal(DATA_SET_MISMATCH, f"Study Instance UID is {'not a UID' if head.study_instance_uid else 'missing'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    """A command set (PS3.7 6.3.1, Annex E): implicit VR little endian."""

    field: int
    message_id: int
    data_set_type: int
    sop_class_uid: str
    sop_instance_uid: str

    @classmethod
    def parsed(cls, data: bytes) -> _Command:
        elements: dict[int, bytes] = {}
        at = 0
        while at < len(data):
            if at + 8 > len(data):
                raise ul.ProtocolError(ul.INVALID_PARAMETER)
            group, element, length = struct.unpack_from("<HHL", data, at)
            at += 8
            if group != 0 or at + length > len(data):
                raise ul.ProtocolError(ul.INVALID_PARAMETER)
            elements[element] = data[at : at + length]
            at += length

        def number(element: int) -> int:
            value = elements.get(element, b"")
            if len(value) != 2:
                raise ul.ProtocolError(ul.INVALID_PARAMETER)
            return int.from_bytes(value, "little")

        def uid(*names: int) -> str:
            value = next((elements[name] for name in names if name in elements), b"")
            return value.decode("ascii", "replace").strip("\0 ")

        field_ = number(0x0100)
        return cls(
            field=field_,
            message_id=number(0x0120 if field_ in (C_CANCEL_RQ,) or field_ & RESPONSE else 0x0110),
            data_set_type=number(0x0800),
            sop_class_uid=uid(0x0002, 0x0003),
            sop_instance_uid=uid(0x1000, 0x1001),
        )

    def response(self, status: int, comment: str = "") -> bytes:
        """The response's command set, with no data set."""
        parts = [_element(0x0002, _padded(self.sop_class_uid))] if self.sop_class_uid else []
        parts += [
            _element(0x0100, struct.pack("<H", self.field | RESPONSE)),
            _element(0x0120, struct.pack("<H", self.message_id)),
            _element(0x0800, struct.pack("<H", NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", status)),
        ]
        if comment:
            parts.append(_element(0x0902, _padded(comment, " ")))
        if self.sop_instance_uid and self.field != C_ECHO_RQ:
            parts.append(_element(0x1000, _padded(self.sop_instance_uid)))
        body = b"".join(parts)
        return _element(0x0000, struct.pack("<L", len(body))) + body


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def _padded(text: str, pad: str = "\0") -> bytes:
    return (text + pad * (len(text) % 2)).encode("ascii", "replace")
