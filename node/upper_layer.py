"""The DICOM Upper Layer as an acceptor (PS3.8): PDUs in and out of a socket, read in place and bounded in memory.

pynetdicom reads a PDU in 4 kB pieces, copies each fragment several times and polls; at the street door that costs most of
the time (`docs/performance.md`). Here fragments are handed on as views of one receive buffer.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)  # PS3.8 9.3.1
APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
LONGEST_ASSOCIATE: Final = 1 << 20  #: bytes; 128 contexts of 40 transfer syntaxes stay far below
LONGEST_COMMAND: Final = 1 << 16
BUFFER_BYTES: Final = 512 << 10
_READ_AT_LEAST: Final = 64 << 10  #: room that is made before reading on

# A-ABORT source and reason, PS3.8 Table 9-26
BY_PROVIDER: Final = 2
UNSPECIFIED, UNRECOGNIZED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = 0, 1, 2, 5, 6

# A-ASSOCIATE-RJ result, source, reason, PS3.8 Table 9-21
NO_APPLICATION_CONTEXT: Final = (1, 1, 2)
CALLING_AE_NOT_RECOGNIZED: Final = (1, 1, 3)
CALLED_AE_NOT_RECOGNIZED: Final = (1, 1, 7)
PROTOCOL_VERSION: Final = (1, 2, 2)
LOCAL_LIMIT_EXCEEDED: Final = (2, 3, 2)

# Presentation context result, PS3.8 Table 9-18
ACCEPTANCE, ABSTRACT_SYNTAX_REFUSED, TRANSFER_SYNTAXES_REFUSED = 0, 3, 4


class ProtocolError(Exception):
    """The peer does not keep to PS3.8; `reason` goes into the A-ABORT."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


class PeerGone(Exception):
    """The peer aborted, closed the connection, or was silent for too long."""


class Context(NamedTuple):
    """A presentation context as it was proposed."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    protocol_version: int
    called_ae: str
    calling_ae: str
    application_context: bytes
    contexts: tuple[Context, ...]
    max_pdu: int  #: the longest PDU the peer takes; 0: any
    titles: bytes = field(repr=False)  #: called and calling AE titles and the reserved bytes, sent back as they came


class Piece(NamedTuple):
    """Part of a presentation data value. `last` is true with the final bytes of the message's last fragment."""

    context: int
    command: bool
    last: bool
    data: memoryview  #: of the receive buffer: used up before the next piece is asked for


def parse_proposal(body: bytes) -> Proposal:
    """An A-ASSOCIATE-RQ without its six header bytes. `ProtocolError` when its lengths do not fit together."""
    if len(body) < 68:
        raise ProtocolError(INVALID_PARAMETER)
    application_context = b""
    contexts: dict[int, Context] = {}
    max_pdu = 0
    for kind, value in _items(body[68:]):
        if kind == 0x10:
            application_context = value.rstrip(b"\0 ")
        elif kind == 0x20:
            context = _context(value)
            if context.id in contexts:
                raise ProtocolError(INVALID_PARAMETER)
            contexts[context.id] = context
        elif kind == 0x50:
            for sub_kind, sub_value in _items(value):
                if sub_kind == 0x51 and len(sub_value) == 4:
                    (max_pdu,) = struct.unpack(">L", sub_value)
    return Proposal(
        protocol_version=struct.unpack_from(">H", body)[0],
        called_ae=_ae_title(body[4:20]),
        calling_ae=_ae_title(body[20:36]),
        application_context=application_context,
        contexts=tuple(contexts.values()),
        max_pdu=max_pdu,
        titles=body[4:68],
    )


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of items one after the other (PS3.8 9.3.2)."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ProtocolError(INVALID_PARAMETER)
        kind, length = data[at], struct.unpack_from(">H", data, at + 2)[0]
        at += 4
        if at + length > len(data):
            raise ProtocolError(INVALID_PARAMETER)
        yield kind, data[at : at + length]
        at += length


def _context(value: bytes) -> Context:
    if len(value) < 4 or value[0] % 2 == 0:  # odd, 1 to 255
        raise ProtocolError(INVALID_PARAMETER)
    abstract_syntax, transfer_syntaxes = "", []
    for kind, name in _items(value[4:]):
        uid = name.decode("ascii", "replace").strip("\0 ")
        if kind == 0x30:
            abstract_syntax = uid
        elif kind == 0x40:
            transfer_syntaxes.append(uid)
    return Context(value[0], abstract_syntax, tuple(transfer_syntaxes))


def _ae_title(field_: bytes) -> str:
    return field_.decode("ascii", "replace").strip("\0 ")


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def associate_ac(
    proposal: Proposal, results: list[tuple[int, int, str]], *, max_pdu: int, implementation_class_uid: str, implementation_version: str
) -> bytes:
    """An A-ASSOCIATE-AC (PS3.8 9.3.3). `results`: context id, result, transfer syntax."""
    body = struct.pack(">Hxx", 1) + proposal.titles + _item(0x10, APPLICATION_CONTEXT)
    for context, result, transfer_syntax in results:
        body += _item(0x21, struct.pack("BxBx", context, result) + _item(0x40, transfer_syntax.encode()))
    user = _item(0x51, struct.pack(">L", max_pdu)) + _item(0x52, implementation_class_uid.encode())
    return _pdu(ASSOCIATE_AC, body + _item(0x50, user + _item(0x55, implementation_version.encode())))


def associate_rj(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return _pdu(ASSOCIATE_RJ, struct.pack("xBBB", result, source, reason))


def abort(reason: int, source: int = BY_PROVIDER) -> bytes:
    """An A-ABORT (PS3.8 9.3.8)."""
    return _pdu(ABORT, struct.pack("xxBB", source, reason))


def release_rp() -> bytes:
    """An A-RELEASE-RP (PS3.8 9.3.7)."""
    return _pdu(RELEASE_RP, bytes(4))


def p_data(context: int, command: bytes, max_pdu: int) -> bytes:
    """A command as P-DATA-TF PDUs none of which is longer than the peer takes (PS3.8 9.3.5, Annex E)."""
    room = max(max_pdu - 6, 2) if max_pdu else len(command)
    pieces = [command[at : at + room] for at in range(0, len(command), room)]
    flags = [1] * (len(pieces) - 1) + [3]
    return b"".join(
        _pdu(P_DATA, struct.pack(">LBB", len(piece) + 2, context, flag) + piece) for piece, flag in zip(pieces, flags, strict=True)
    )


class Wire:
    """One connection's incoming PDUs, through one buffer."""

    def __init__(self, connection: socket.socket, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._socket = connection
        self._buffer = memoryview(bytearray(buffer_bytes))
        self._start = self._end = 0  # what is read but not used up
        self._pdu_left = 0  # bytes of the P-DATA-TF at hand not yet walked over

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as why:
            raise PeerGone from why

    def proposal(self) -> Proposal:
        """The first PDU, which must be an A-ASSOCIATE-RQ."""
        kind, length = self._pdu_header()
        if kind == ABORT:
            raise PeerGone
        if kind != ASSOCIATE_RQ:
            raise ProtocolError(UNEXPECTED_PDU if 1 <= kind <= 7 else UNRECOGNIZED_PDU)
        if length > LONGEST_ASSOCIATE:
            raise ProtocolError(INVALID_PARAMETER)
        body = bytearray()
        while len(body) < length:
            body += self._some(length - len(body))
        return parse_proposal(bytes(body))

    def pieces(self) -> Iterator[Piece]:
        """Data values as they come, over PDU borders; ends when the peer asks for release."""
        while True:
            if self._pdu_left == 0:
                kind, length = self._pdu_header()
                if kind == RELEASE_RQ:
                    return
                if kind == ABORT:
                    raise PeerGone
                if kind != P_DATA:
                    raise ProtocolError(UNEXPECTED_PDU if 1 <= kind <= 7 else UNRECOGNIZED_PDU)
                self._pdu_left = length
                if length == 0:
                    raise ProtocolError(INVALID_PARAMETER)
                continue
            self._need(6)
            length, context, flags = struct.unpack_from(">LBB", self._buffer, self._start)
            if length < 2 or length + 4 > self._pdu_left:
                raise ProtocolError(INVALID_PARAMETER)
            self._start += 6
            self._pdu_left -= length + 4
            left = length - 2
            command, last = bool(flags & 1), bool(flags & 2)
            if left == 0:
                yield Piece(context, command, last, self._buffer[:0])
            while left:
                data = self._some(left)
                left -= len(data)
                yield Piece(context, command, last and not left, data)

    @property
    def between_messages(self) -> bool:
        """Nothing of the next PDU is here yet."""
        return self._pdu_left == 0 and self._start == self._end

    def linger(self, timeout_s: float) -> None:
        """Wait for the peer to close after our last word, so that a reset does not overtake it (PS3.8 9.1.5)."""
        with suppress(OSError):
            self._socket.settimeout(timeout_s)
            if isinstance(self._socket, ssl.SSLSocket):
                with suppress(OSError, ValueError):
                    self._socket.unwrap()  # the close_notify of TLS, so that the peer knows that nothing was cut off
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(64):
                if not self._socket.recv_into(self._buffer):
                    return

    def _pdu_header(self) -> tuple[int, int]:
        self._need(6)
        kind, length = struct.unpack_from(">BxL", self._buffer, self._start)
        self._start += 6
        if kind in (RELEASE_RQ, RELEASE_RP, ABORT):
            if length != 4:
                raise ProtocolError(INVALID_PARAMETER)
            self._need(4)
            self._start += 4
        return kind, length

    def _some(self, at_most: int) -> memoryview:
        """The next bytes, at least one, as they lie in the buffer."""
        if self._start == self._end:
            self._need(1)
        data = self._buffer[self._start : min(self._end, self._start + at_most)]
        self._start += len(data)
        return data

    def _need(self, count: int) -> None:
        """At least `count` bytes are in the buffer; takes whatever has come."""
        while self._end - self._start < count:
            if self._start == self._end:
                self._start = self._end = 0
            elif len(self._buffer) - self._end < _READ_AT_LEAST:
                rest = bytes(self._buffer[self._start : self._end])
                self._buffer[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            try:
                # Senders leave Nagle on and write a PDU in several pieces: each would wait for our delayed acknowledgement
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                read = self._socket.recv_into(self._buffer[self._end :])
            except OSError as why:  # the time-out too
                raise PeerGone from why
            if not read:
                raise PeerGone
            self._end += read
