"""A record system that speaks HL7 v2 as a destination: ORU^R01 over MLLP, with TLS where it is asked for, until it is acknowledged."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused
from node.hl7_writer import Ends, control_id, oru_r01
from node.sr_reader import read_report
from node.tls import Tls, client_context

START, END = b"\x0b", b"\x1c\r"  # MLLP, release 1
MOST_BYTES = 1 << 16  # of an acknowledgement
_TAKEN, _REFUSED = {"AA", "CA"}, {"AE", "AR", "CE", "CR"}  # table 0008
_FOR_NOW = {"206", "207"}  # table 0357: application record locked, application internal error
_ERROR = re.compile(r"[0-9]{3}")


class Hl7Settings(BaseModel):
    """Where the listener is, what the two ends are called there, and whose numbers Patient IDs are."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str
    port: int = 2575
    sending_application: str = "RADNODE"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing_id: Literal["P", "T", "D"] = "P"
    assigning_authority: str = ""  #: of Patient IDs; empty: Issuer of Patient ID (0010,0021), where the study has one
    timeout_s: float = Field(30, gt=0)  #: for the connection, and for the acknowledgement
    tls: Tls | None = None


class Hl7(Destination):
    """One connection a message. The control id derives from the report, so a receiver knows a message that comes again."""

    Settings = Hl7Settings
    settings: Hl7Settings
    keeps_objects = False

    def send(self, part10: bytes) -> str:
        report = read_report(part10)
        if report is None:
            return "HL7: no report, so nothing to tell"
        chosen = self.settings
        ends = Ends(
            sending_application=chosen.sending_application,
            sending_facility=chosen.sending_facility,
            receiving_application=chosen.receiving_application,
            receiving_facility=chosen.receiving_facility,
            processing_id=chosen.processing_id,
            assigning_authority=chosen.assigning_authority,
        )
        return self._truth(self._exchange(oru_r01(report, ends).encode()), control_id(report.uid))

    def echo(self) -> str:
        """MLLP has no question without a message: that the listener takes a connection is all that can be known."""
        with self._line():
            return "it takes connections"

    def _exchange(self, message: bytes) -> bytes:
        """What the listener answers to one message."""
        until = time.monotonic() + self.settings.timeout_s
        with self._line() as line:
            line.sendall(START + message + END)
            return _answer(line, until)

    @contextmanager
    def _line(self) -> Iterator[socket.socket]:
        chosen = self.settings
        try:
            with socket.create_connection((chosen.host, chosen.port), timeout=chosen.timeout_s) as plain, self._secured(plain) as line:
                yield line
        except TimeoutError:
            raise DeliveryFailed("no acknowledgement in time", destination=self.name) from None
        except OSError as why:
            raise DeliveryFailed(f"no answer ({type(why).__name__})", destination=self.name) from None

    def _secured(self, line: socket.socket) -> socket.socket:
        if self.settings.tls is None:
            return line
        context: ssl.SSLContext = client_context(self.settings.tls)
        return context.wrap_socket(line, server_hostname=self.settings.host)

    def _truth(self, answer: bytes, sent: str) -> str:
        """MSA-1 speaks. MSA-3 and the words of ERR may quote the message, so only coded errors (ERR-3.1) are told."""
        segments = [line.split("|") for line in answer.decode("utf-8", "replace").replace("\n", "\r").split("\r") if line]
        msa = next((fields for fields in segments if fields[0] == "MSA" and len(fields) > 2), None)
        if msa is None or msa[1] not in _TAKEN | _REFUSED:
            raise DeliveryFailed("the answer is not an acknowledgement", destination=self.name)
        if msa[2] != sent:
            raise DeliveryFailed("the acknowledgement is for another message", destination=self.name)
        if msa[1] in _TAKEN:
            return f"HL7 {msa[1]}"
        codes = [fields[3].split("^")[0] for fields in segments if fields[0] == "ERR" and len(fields) > 3]
        told = "".join(f", error {code}" for code in codes if _ERROR.fullmatch(code))
        if _FOR_NOW & set(codes):
            raise DeliveryFailed(f"HL7 {msa[1]}{told}", destination=self.name)
        raise DeliveryRefused(f"HL7 {msa[1]}{told}", destination=self.name)


def _answer(line: socket.socket, until: float) -> bytes:
    """Bytes between the frame's start and end. Raises TimeoutError, or ConnectionError when the peer hangs up first."""
    got = b""
    while END not in got:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        line.settimeout(left)
        more = line.recv(4096)
        if not more or len(got) > MOST_BYTES:
            raise ConnectionError
        got += more
    return got.partition(END)[0].lstrip(START)
