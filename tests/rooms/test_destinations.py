"""How each kind of destination tells "not now" from "never", against real and faulty peers."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from node.destinations.dimse import Dimse, DimseSettings
from node.destinations.orthanc import Orthanc, OrthancSettings
from node.destinations.stow import Stow, StowSettings
from node.errors import DeliveryFailed, DeliveryRefused
from node.testing.pacs import Pacs
from node.tls import Tls
from tests.conftest import need
from tests.contracts.test_every_destination import a_picture
from tests.ports import free_port


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path / "pacs") as pacs:
        yield pacs


def to(pacs: Pacs, **changes: Any) -> Dimse:
    return Dimse(
        "pacs", DimseSettings(**{"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "timeout_s": 5, "keep_open_s": 1, **changes})
    )


# --- C-STORE ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (0x0000, "C-STORE 0x0000"),
        (0xB000, "C-STORE 0xB000, stored with a warning"),
        (0xB007, "C-STORE 0xB007, stored with a warning"),
        (0x0001, "C-STORE 0x0001, stored with a warning"),
        (0x0107, "C-STORE 0x0107, stored with a warning"),
        (0x0116, "C-STORE 0x0116, stored with a warning"),
        (0xA700, DeliveryFailed),
        (0xA702, DeliveryFailed),
        (0x0110, DeliveryFailed),
        (0x0213, DeliveryFailed),
        (0xA900, DeliveryRefused),
        (0xC000, DeliveryRefused),
        (0xC1FF, DeliveryRefused),
        (0x0122, DeliveryRefused),
        (0x0124, DeliveryRefused),
    ],
)
def test_the_status_of_the_pacs_is_what_is_reported(pacs, status, becomes):
    pacs.statuses = [status]
    if isinstance(becomes, str):
        assert to(pacs).send(a_picture()) == becomes
        assert len(pacs.received()) == 1
        return
    with pytest.raises(becomes, match=f"0x{status:04X}"):
        to(pacs).send(a_picture())
    assert pacs.received() == []


def test_a_batch_goes_over_one_association_that_is_released_when_nothing_more_comes(pacs):
    destination = to(pacs, keep_open_s=0.3)
    for _ in range(5):
        destination.send(a_picture())
    assert pacs.associations == 1

    time.sleep(1)
    assert destination._open is None
    destination.send(a_picture())
    assert pacs.associations == 2
    assert len(pacs.received()) == 6


def test_another_kind_of_object_is_proposed_on_a_new_association(pacs):
    destination = to(pacs)
    destination.send(a_picture())
    destination.send(a_picture(SOPClassUID=CTImageStorage))
    destination.send(a_picture())
    destination.send(a_picture(SOPClassUID=CTImageStorage))

    assert pacs.associations == 2
    assert len(pacs.received()) == 4


def test_a_pacs_that_restarted_between_two_objects_gets_both(pacs):
    destination = to(pacs, keep_open_s=30)
    destination.send(a_picture())
    pacs.stop()
    pacs.start()
    time.sleep(0.3)

    destination.send(a_picture())
    assert len(pacs.received()) == 2


def test_a_pacs_that_does_not_answer_in_time_is_tried_again(pacs):
    pacs.slow_s = 12
    began = time.monotonic()

    with pytest.raises(DeliveryFailed, match="no answer"):
        to(pacs, timeout_s=3).send(a_picture())  # a busy machine needs more than a second for the association alone
    assert time.monotonic() - began < 11


def test_a_wrong_ae_title_is_rejected_for_good(tmp_path):
    pacs = Pacs(tmp_path / "pacs")
    pacs.only_for_its_name = True
    with pacs, pytest.raises(DeliveryRefused, match="rejected"):
        to(pacs, ae_title="SOMEBODYELSE").send(a_picture())


def test_a_pacs_with_no_place_for_another_association_is_tried_again(tmp_path):
    busy = AE("PACS")
    busy.maximum_associations = 1
    busy.add_supported_context(Verification)
    busy.add_supported_context(SecondaryCaptureImageStorage)
    server = busy.start_server(("127.0.0.1", 0), block=False)
    other = AE("OTHER")
    other.add_requested_context(Verification)
    holding = other.associate("127.0.0.1", server.server_address[1])
    try:
        assert holding.is_established
        with pytest.raises(DeliveryFailed, match="rejected"):
            Dimse("pacs", DimseSettings(host="127.0.0.1", port=server.server_address[1], ae_title="PACS")).send(a_picture())
    finally:
        holding.release()
        server.shutdown()


def test_a_kind_of_object_that_the_pacs_does_not_know_is_refused_for_good(tmp_path):
    with Pacs(tmp_path / "pacs", sop_classes=[CTImageStorage]) as pacs:
        with pytest.raises(DeliveryRefused, match="SOP class not supported"):
            to(pacs).send(a_picture())

        destination = to(pacs)
        destination.send(a_picture(SOPClassUID=CTImageStorage))
        with pytest.raises(DeliveryRefused, match="SOP class not supported"):
            destination.send(a_picture())
        destination.send(a_picture(SOPClassUID=CTImageStorage))


def test_an_association_is_released_also_after_an_object_that_it_has_no_context_for(tmp_path):
    with Pacs(tmp_path / "pacs", sop_classes=[SecondaryCaptureImageStorage]) as pacs:
        destination = to(pacs, keep_open_s=0.3, timeout_s=30)
        destination.send(a_picture())
        with pytest.raises(DeliveryRefused, match="SOP class"):
            destination.send(a_picture(SOPClassUID=CTImageStorage))

        until = time.monotonic() + 10
        while pacs._server.active_associations and time.monotonic() < until:
            time.sleep(0.1)
        assert pacs._server.active_associations == []


@pytest.mark.parametrize("name", ["CT1_UNC", "CT1_RLE", "CT1_J2KR", "CT1_JLSL", "CT1_JPLL"])
def test_a_compressed_object_goes_as_it_is_or_uncompressed_to_a_pacs_that_wants_that(shared, tmp_path, name):
    path = shared / "data" / "dicom" / "transfer_syntaxes" / "wg04_CT1" / f"{name}.dcm"
    compressed = dcmread(path)

    with Pacs(tmp_path / "any") as pacs:
        to(pacs).send(path.read_bytes())
        [got] = pacs.received()
        assert got.file_meta.TransferSyntaxUID == compressed.file_meta.TransferSyntaxUID
        assert got.PixelData == compressed.PixelData
    with Pacs(tmp_path / "plain", transfer_syntaxes=[ImplicitVRLittleEndian]) as pacs:
        to(pacs).send(path.read_bytes())
        [got] = pacs.received()
        assert got.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert got.SOPInstanceUID == compressed.SOPInstanceUID
        assert (got.pixel_array == compressed.pixel_array).all()


def test_dcmtk_receives_what_was_sent(tmp_path):
    port, out = free_port(), tmp_path / "out"
    out.mkdir()
    scp = subprocess.Popen([need("storescp", "dcmtk"), "-od", str(out), str(port)])
    try:
        destination = Dimse("dcmtk", DimseSettings(host="127.0.0.1", port=port, ae_title="STORESCP", timeout_s=5))
        sent = [a_picture() for _ in range(3)]
        for part10 in sent:
            assert until_up(lambda part10=part10: destination.send(part10)) == "C-STORE 0x0000"
        destination._let_go()
        got = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in out.iterdir()}
    finally:
        scp.terminate()
        scp.wait(10)
    assert {str(dcmread(BytesIO(part10)).SOPInstanceUID) for part10 in sent} == set(got)
    assert all(ds.PixelData == bytes(range(64)) for ds in got.values())


@pytest.mark.parametrize("fault", ["--abort-after", "--abort-during"])
def test_a_pacs_that_aborts_is_tried_again(tmp_path, fault):
    port = free_port()
    scp = subprocess.Popen([need("storescp", "dcmtk"), fault, "-od", str(tmp_path), str(port)])
    try:
        destination = Dimse("dcmtk", DimseSettings(host="127.0.0.1", port=port, ae_title="STORESCP", timeout_s=3))
        with pytest.raises(DeliveryFailed, match="C-STORE"):
            until_up(lambda: destination.send(a_picture()))
    finally:
        scp.terminate()
        scp.wait(10)


def test_a_real_orthanc_confirms_by_c_find_also_after_a_restart(orthanc):
    settings = DimseSettings(host="127.0.0.1", port=orthanc.dicom_port, ae_title=orthanc.ae_title, confirm=True)
    destination = Dimse("archive", settings)
    part10 = a_picture()
    ds = dcmread(BytesIO(part10))
    destination.send(part10)
    names = (str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.StudyInstanceUID))

    assert destination.confirm(*names) is True
    assert Dimse("archive", settings).confirm(*names) is True
    assert Dimse("archive", settings).confirm(names[0], generate_uid(), names[2]) is False
    assert Dimse("archive", settings.model_copy(update={"calling_ae_title": "STRANGER"})).confirm(*names) is None


def test_over_tls_both_sides_show_who_they_are(tmp_path):
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.signs("pacs"))
    server.load_verify_locations(authority.file)
    server.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.signs("radnode")

    with Pacs(tmp_path / "pacs", tls=server) as pacs:
        to(pacs, tls=Tls(ca_file=str(authority.file), cert_file=cert, key_file=key)).send(a_picture())
        assert len(pacs.received()) == 1

        stranger = Authority(tmp_path / "stranger")
        for wrong in (Tls(ca_file=str(stranger.file), cert_file=cert, key_file=key), Tls(ca_file=str(authority.file)), None):
            with pytest.raises(DeliveryFailed):
                to(pacs, tls=wrong, timeout_s=2).send(a_picture())
        assert len(pacs.received()) == 1


# --- HTTP peers that answer what a test says ----------------------------------------------------------------------------------------
class Peer:
    """Answers every request with one scripted answer."""

    def __init__(self) -> None:
        self.status, self.kind, self.body, self.wait_s = 200, "application/json", b"", 0.0
        self.headers: list[dict[str, str]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                peer.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        self.rfile.read(size + 2)
                    self.rfile.readline()
                else:
                    self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(peer.wait_s)
                with contextlib.suppress(BrokenPipeError):  # the client had no patience
                    self.send_response(peer.status)
                    self.send_header("Content-Type", peer.kind)
                    self.send_header("Content-Length", str(len(peer.body)))
                    self.end_headers()
                    self.wfile.write(peer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answers(self, status: int, body: Any = b"", kind: str = "application/dicom+json") -> None:
        self.status, self.kind = status, kind
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.stop()


def failed(reason: int) -> dict[str, Any]:
    """FailedSOPSequence with one item, DICOM JSON model."""
    item = {
        "00081150": {"vr": "UI", "Value": ["1.2"]},
        "00081155": {"vr": "UI", "Value": ["1.3"]},
        "00081197": {"vr": "US", "Value": [reason]},
    }
    return {"00081198": {"vr": "SQ", "Value": [item]}}


STORED = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.3"]}}]}}
WARNED = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.3"]}, "00081196": {"vr": "US", "Value": [0xB000]}}]}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "becomes", "words"),
    [
        (200, STORED, "application/dicom+json", None, "STOW-RS stored"),
        (200, STORED, "application/dicom+json; charset=utf-8", None, "STOW-RS stored"),
        (200, WARNED, "application/dicom+json", None, "0xB000"),
        (200, b"", "application/dicom+json", None, "STOW-RS stored"),
        (202, failed(0xA900), "application/dicom+json; charset=utf-8", DeliveryRefused, "0xA900"),
        (200, failed(0x0110), "application/dicom+json", DeliveryFailed, "0x0110, processing failure"),
        (409, failed(0xC122), "application/dicom+json", DeliveryRefused, "transfer syntax not supported"),
        (409, failed(0xA700), "application/dicom+json", DeliveryFailed, "0xA700"),
        (409, b"", "text/html", DeliveryRefused, "409"),
        (400, b"<html>", "text/html", DeliveryRefused, "400"),
        (413, b"", "text/html", DeliveryRefused, "413"),
        (401, b"", "text/html", DeliveryFailed, "401"),
        (429, b"", "text/html", DeliveryFailed, "429"),
        (500, b"<html>", "text/html", DeliveryFailed, "500"),
        (503, b"", "text/html", DeliveryFailed, "503"),
        (200, b"not json", "application/dicom+json", DeliveryFailed, "JSON"),
    ],
)
def test_what_an_archive_answers_to_stow_becomes_sent_later_or_never(peer, status, body, kind, becomes, words):
    peer.answers(status, body, kind)
    destination = Stow("archive", StowSettings.model_validate({"url": peer.url, "token": "secret", "timeout_s": 5}))
    if becomes is None:
        assert words in destination.send(a_picture())
    else:
        with pytest.raises(becomes, match=words) as why:
            destination.send(a_picture())
        assert "secret" not in str(why.value)
    assert peer.headers[0]["authorization"] == "Bearer secret"
    assert len(peer.headers) == 1


@pytest.mark.parametrize(
    ("status", "body", "becomes"),
    [
        (200, {"Status": "Success"}, None),
        (200, {"Status": "AlreadyStored"}, None),
        (200, {"Status": "FilteredOut"}, DeliveryRefused),
        (200, {"Status": "Failure"}, DeliveryFailed),
        (200, b"<html>a proxy's page", DeliveryFailed),
        (400, {"Message": "Bad file format"}, DeliveryRefused),
        (404, b"", DeliveryRefused),
        (401, b"", DeliveryFailed),
        (403, b"", DeliveryFailed),
        (500, b"", DeliveryFailed),
        (507, b"", DeliveryFailed),
    ],
)
def test_what_orthanc_answers_becomes_sent_later_or_never(peer, status, body, becomes):
    peer.answers(status, body, "application/json")
    destination = Orthanc("archive", OrthancSettings.model_validate({"url": peer.url, "username": "radnode", "password": "secret"}))
    if becomes is None:
        assert destination.send(a_picture()).startswith("Orthanc: ")
    else:
        with pytest.raises(becomes) as why:
            destination.send(a_picture())
        assert "secret" not in str(why.value)
    assert peer.headers[0]["authorization"].startswith("Basic ")


@pytest.mark.parametrize(("kind", "answer"), [(Stow, STORED), (Orthanc, {"Status": "Success"})])
def test_a_name_and_password_in_any_letters_are_sent_as_utf_8(peer, kind, answer):
    peer.answers(200, answer)
    kind("archive", kind.Settings.model_validate({"url": peer.url, "username": "jörg", "password": "Łódź"})).send(a_picture())
    assert b64decode(peer.headers[0]["authorization"].removeprefix("Basic ")).decode() == "jörg:Łódź"


@pytest.mark.parametrize("kind", [Stow, Orthanc])
def test_an_archive_that_hangs_is_tried_again(peer, kind):
    peer.wait_s = 3
    with pytest.raises(DeliveryFailed, match="no answer"):
        kind("archive", kind.Settings.model_validate({"url": peer.url, "timeout_s": 0.5})).send(a_picture())


# --- helpers ------------------------------------------------------------------------------------------------------------------------
def until_up(send: Callable[[], str]) -> str:
    """A program that was just started needs a moment before it listens."""
    for _ in range(50):
        try:
            return send()
        except DeliveryFailed as why:
            if why.detail != "no association":
                raise
            time.sleep(0.1)
    raise TimeoutError("nobody listens")


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.file = folder / "authority.pem"
        certificate = self._certificate(self._name, self._key.public_key(), True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def signs(self, name: str, *, days: float = 1, rsa_key: bool = False) -> tuple[str, str]:
        """Certificate and key of `name`, good for so many days from now; below 0 it has ended."""
        key = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(subject, key.public_key(), False, days)
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return str(cert_file), str(key_file)

    def _certificate(self, subject: x509.Name, key: Any, authority: bool, days: float = 1) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number(), now - timedelta(1), now + timedelta(days))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        return builder.sign(self._key, hashes.SHA256())
