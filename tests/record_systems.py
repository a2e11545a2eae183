"""Two record systems on loopback, to send to: a FHIR R4 service that validates what it is given, and an HL7 v2 listener (MLLP)."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hl7
from fhir.resources.R4B.bundle import Bundle
from pydicom import Dataset, dcmread

from node.domain import Result
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.ports import free_port


# --- a report as it leaves the node --------------------------------------------------------------------------------------------
def a_report(result: Result | str = "infection", *, linked: bool = False, **changes: object) -> bytes:
    """A structured report with a name in it, as PS3.10 bytes. `result`: "infection", "nothing", "not analysed", or one's own."""
    report = _written(result) if isinstance(result, Result) else dcmread(BytesIO(_known(result, linked)))
    report.PatientName, report.PatientID, report.PatientBirthDate = "GRAY^ALICE^M^DR^PHD", "4711", "19600229"
    for keyword, value in changes.items():
        setattr(report, keyword, value)
    if "SOPInstanceUID" in changes:
        report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    return cases.bytes_of(report)


def results() -> dict[str, Result]:
    """What `a_report` knows by name, on the volume of `cases.ct_files`."""
    found = cases.infection(cases.opacity((8, 64, 64)))
    [one] = found.findings
    absent = replace(one, probability=0.02, present=False, segment=None, measurements=())
    nothing = replace(found, label="no infection", confidence=0.98, findings=(absent,), segments=(), heatmap=None)
    return {"infection": found, "nothing": nothing, "not analysed": Result(analysed=False, reason="The slices are 12 mm thick.")}


@cache
def _known(name: str, linked: bool) -> bytes:
    return cases.bytes_of(_written(results()[name], linked=linked))


def _written(result: Result, *, linked: bool = False) -> Dataset:
    with TemporaryDirectory() as folder:
        study = cases.study_of(cases.ct_files(Path(folder)))
        volume = cases.stack(study)
        maker = cases.linked(cases.provenance(study)) if linked else cases.provenance(study)
        seg = write_seg(study, volume, result, maker) if result.segments else None
        return write_sr(study, volume if result.analysed else None, result, maker, seg=seg, sc=None, series=study.series[0])


# --- FHIR ----------------------------------------------------------------------------------------------------------------------
CAPABILITIES = {"resourceType": "CapabilityStatement", "status": "active", "kind": "instance", "fhirVersion": "4.0.1"}


class FhirServer:
    """Takes transactions of PUTs: all of it valid R4 with every reference known, or none of it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.kept: dict[str, dict[str, Any]] = {}  #: "Observation/<id>" → the resource
        self.versions: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, bytes]] = []  #: what to say next, in place of doing it
        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), self._handler())
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}/fhir"

    def __enter__(self) -> FhirServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Every resource of a kind."""
        return [one for one in self.kept.values() if one["resourceType"] == kind]

    def report_of(self, uid: str) -> dict[str, Any] | None:
        """The DiagnosticReport of a DICOM report."""
        return next(
            (one for one in self.of("DiagnosticReport") if {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"} in one["identifier"]),
            None,
        )

    def transaction(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            Bundle.model_validate_json(body)
        except ValueError as why:
            return 400, outcome("invalid", str(why))
        entries = json.loads(body)["entry"]
        names = {entry["request"]["url"] for entry in entries}
        for entry in entries:
            if entry["request"]["method"] != "PUT" or not entry["fullUrl"].endswith(entry["request"]["url"]):
                return 400, outcome("not-supported")
            for reference in references(entry["resource"]):
                if reference not in names | set(self.kept):
                    return 422, outcome("not-found", reference)
        for entry in entries:
            name = entry["request"]["url"]
            self.kept[name] = entry["resource"]
            self.versions[name] = self.versions.get(name, 0) + 1
        said = [{"response": {"status": "201 Created" if self.versions[name] == 1 else "200 OK"}} for name in names]
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": said}

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.headers.append(dict(self.headers))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if server.answers:
                    status, said = server.answers.pop(0)
                else:
                    status, told = server.transaction(body)
                    said = json.dumps(told).encode()
                self._say(status, said)

            def do_GET(self) -> None:
                name = self.path.removeprefix("/fhir/")
                found = CAPABILITIES if name == "metadata" else server.kept.get(name)
                self._say(200 if found else 404, json.dumps(found or outcome("not-found")).encode())

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def outcome(code: str, words: str = "") -> dict[str, Any]:
    """An OperationOutcome."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code, "diagnostics": words}]}


def references(resource: Any) -> Iterator[str]:
    """Every literal reference below a resource."""
    if isinstance(resource, dict):
        if isinstance(resource.get("reference"), str):
            yield resource["reference"]
        for value in resource.values():
            yield from references(value)
    elif isinstance(resource, list):
        for value in resource:
            yield from references(value)


# --- HL7 v2 --------------------------------------------------------------------------------------------------------------------
class Listener:
    """An MLLP listener that reads messages with python-hl7 and acknowledges them."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.raw: list[bytes] = []
        self.kept: dict[str, hl7.Message] = {}  #: by control id, as a receiver tells a repetition
        self.answers: list[bytes | None] = []  #: what to say next, "{id}" filled in; None: nothing
        listener = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                got = b""
                while not got.endswith(b"\x1c\r"):
                    more = self.request.recv(4096)
                    if not more:
                        return
                    got += more
                said = listener.take(got.removeprefix(b"\x0b").removesuffix(b"\x1c\r"))
                if said is None:
                    self.request.recv(1)  # until the sender gives up
                    return
                for at in range(0, len(said), 7):  # in pieces, as a network may bring them
                    self.request.sendall(said[at : at + 7])

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

            def get_request(self) -> Any:
                line, address = super().get_request()
                return (tls.wrap_socket(line, server_side=True) if tls else line), address

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", free_port()), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Listener:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, message: bytes) -> bytes | None:
        """Keep one message; the acknowledgement in its frame."""
        self.raw.append(message)
        read = hl7.parse(message.decode("utf-8"))
        control_id = str(read.segment("MSH")[10])
        if self.answers:
            said = self.answers.pop(0)
            return said.replace(b"{id}", control_id.encode()) if said is not None else None
        self.kept[control_id] = read
        return b"\x0b" + str(read.create_ack("AA")).encode() + b"\x1c\r"

    def message_of(self, uid: str) -> hl7.Message | None:
        """The message about a DICOM report."""
        return next((m for m in self.kept.values() if any(str(obx[5]) == uid for obx in m.segments("OBX"))), None)
