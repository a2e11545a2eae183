"""DICOM over TLS (PS3.15 B.12): DCMTK on the other side, and everybody who may not come in."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import psutil
import pytest
import yaml
from pydicom import dcmread
from pynetdicom.dsutils import encode

from config import Settings, SourceSettings
from node import scp
from node.assembly import House, now
from node.destinations.dimse import Dimse, DimseSettings
from node.errors import DeliveryFailed, SettingsInvalid
from node.identified.counting import expected_instances
from node.notices import Kind
from node.testing.pacs import Pacs
from node.testing.studies import a_study, write_study
from node.tls import Tls, server_context
from tests.conftest import need
from tests.orthanc_server import OrthancServer
from tests.ports import free_port
from tests.rooms.test_destinations import Authority, a_picture
from tests.rooms.test_scp import ROOT, Node, Sender, a_data_set

Files = tuple[str, str]


class SecureNode(Node):
    """A node with a port in the clear and one that speaks TLS."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.authority = Authority(home / "authority")
        self.secure = scp.bind("127.0.0.1", 0)
        self.tls_port: int = self.secure.getsockname()[1]

    def opens_with(self, files: Files, *, mutual: bool = False, **door: object) -> None:
        cert, key = map(Path, files)
        self.opens(tls=server_context(cert, key, self.authority.file if mutual else None), **door)

    def closes(self) -> None:
        super().closes()
        assert self.secure
        self.secure.close()

    @property
    def reasons(self) -> list[str]:
        return [why for _, _, _, why in self.alerts]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SecureNode]:
    made = SecureNode(tmp_path)
    yield made
    made.closes()


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    write_study(a_study("CT", slices=3, rows=64), tmp_path / "slices")
    return tmp_path / "slices"


def storescu(port: int, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [need("storescu", "dcmtk"), *options, "-aec", "RADNODE", "-aet", "SCANNER", "+sd", "127.0.0.1", str(port), str(folder)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def shows(files: Files, authority: Authority) -> tuple[str, ...]:
    """Options of DCMTK: who we are, and whom we believe."""
    cert, key = files
    return "+tls", key, cert, "+cf", str(authority.file)


def soon(what: Callable[[], object], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- studies come in ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rsa_key", [False, True], ids=["EC", "RSA"])
def test_storescu_sends_over_tls_what_it_sends_in_the_clear(node: SecureNode, slices: Path, rsa_key: bool):
    node.opens_with(node.authority.signs("node", rsa_key=rsa_key))

    done = storescu(node.tls_port, slices, "+tla", "+cf", str(node.authority.file))

    assert done.returncode == 0, done.stderr
    sent = {str(dcmread(path).SOPInstanceUID): path for path in slices.rglob("*") if path.is_file()}
    came = node.received()
    assert set(came) == set(sent)
    for uid, instance in came.items():
        assert instance.data == encode(dcmread(sent[uid]), False, True)
    assert storescu(node.port, slices).returncode == 0
    assert node.alerts == []


def test_with_an_authority_named_a_peer_must_show_its_certificate(node: SecureNode, slices: Path):
    node.opens_with(node.authority.signs("node"), mutual=True)
    known, trust = node.authority, ("+cf", str(node.authority.file))
    stranger = Authority(node.home / "stranger")

    assert storescu(node.tls_port, slices, *shows(known.signs("scanner"), known)).returncode == 0
    assert storescu(node.tls_port, slices, "+tla", *trust).returncode != 0
    cert, key = stranger.signs("scanner")
    assert storescu(node.tls_port, slices, "+tls", key, cert, *trust).returncode != 0
    cert, key = known.signs("old scanner", days=-0.5)
    assert storescu(node.tls_port, slices, "+tls", key, cert, *trust).returncode != 0

    assert len(node.received()) == 3
    assert [why.partition("no TLS: ")[2] for why in node.reasons] == [
        "the peer shows no certificate",
        "the peer's certificate is not accepted: unable to get local issuer certificate",
        "the peer's certificate is not accepted: certificate has expired",
    ]


def test_a_peer_that_does_not_believe_our_certificate_is_told_of(node: SecureNode, slices: Path):
    node.opens_with(node.authority.signs("node"))
    stranger = Authority(node.home / "stranger")

    assert storescu(node.tls_port, slices, "+tla", "+cf", str(stranger.file)).returncode != 0

    soon(lambda: node.reasons == ["no TLS: the peer does not know who signed our certificate"])


def test_neither_port_takes_what_belongs_to_the_other(node: SecureNode, slices: Path):
    node.opens_with(node.authority.signs("node"))

    began = time.monotonic()
    assert storescu(node.tls_port, slices).returncode != 0
    assert storescu(node.port, slices, "+tla", "-ic").returncode != 0

    assert time.monotonic() - began < 5
    assert node.reasons == ["no TLS: the peer does not speak TLS"]
    assert node.received() == {}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(node: SecureNode, version: ssl.TLSVersion):
    node.opens_with(node.authority.signs("node", rsa_key=True))
    old = ssl.create_default_context(cafile=node.authority.file)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = version

    with socket.create_connection(("127.0.0.1", node.tls_port)) as line, pytest.raises(ssl.SSLError):
        old.wrap_socket(line, server_hostname="127.0.0.1")

    soon(lambda: node.reasons == ["no TLS: the peer speaks no TLS 1.2 or later"])


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256"], ids=["no forward secrecy", "CBC"])
def test_suites_that_bcp_195_advises_against_are_refused(node: SecureNode, suite: str):
    node.opens_with(node.authority.signs("node", rsa_key=True))
    weak = ssl.create_default_context(cafile=node.authority.file)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(suite)

    with socket.create_connection(("127.0.0.1", node.tls_port)) as line, pytest.raises(ssl.SSLError):
        weak.wrap_socket(line, server_hostname="127.0.0.1")

    soon(lambda: node.reasons == ["no TLS: no cipher suite in common"])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_association_ends_with_the_close_of_tls(node: SecureNode, version: ssl.TLSVersion):
    node.opens_with(node.authority.signs("node"))
    sender = speaks_tls(Sender, node, version)

    assert sender.accepted()
    assert sender.stores(a_data_set()).Status == 0x0000
    sender.releases()

    assert sender.socket.recv(1) == b""  # without suppress_ragged_eofs: a connection that was only cut raises
    sender.socket.close()


def speaks_tls(kind: type[Sender], node: SecureNode, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Sender:
    """A sender whose bytes go through TLS."""
    context = ssl.create_default_context(cafile=node.authority.file)
    context.minimum_version = context.maximum_version = version

    class Secure(kind):  # type: ignore[valid-type,misc]
        def __setattr__(self, name: str, value: object) -> None:
            if name == "socket":
                assert isinstance(value, socket.socket)
                value = context.wrap_socket(value, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
            super().__setattr__(name, value)

    sender: Sender = Secure(node.tls_port)
    return sender


# --- nobody holds a place -----------------------------------------------------------------------------------------------------------
def test_silent_and_slow_peers_hold_nobody_up_and_are_let_go(node: SecureNode, slices: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scp, "REQUEST_TIMEOUT_S", 2)
    node.opens_with(node.authority.signs("node"))
    silent = [socket.create_connection(("127.0.0.1", node.tls_port)) for _ in range(20)]
    slow = socket.create_connection(("127.0.0.1", node.tls_port))
    stop = threading.Event()

    def drips() -> None:
        for byte in struct.pack(">BHH", 22, 0x0301, 500) + bytes(500):
            if stop.wait(0.3):
                return
            try:
                slow.send(bytes([byte]))
            except OSError:
                return

    dripping = threading.Thread(target=drips)
    dripping.start()
    began = time.monotonic()
    assert storescu(node.tls_port, slices, "+tla", "+cf", str(node.authority.file)).returncode == 0
    assert time.monotonic() - began < 2

    for line in [*silent, slow]:
        line.settimeout(5)
        with suppress(ConnectionResetError):
            assert line.recv(1) == b""
    assert time.monotonic() - began < 6
    stop.set()
    dripping.join()
    for line in [*silent, slow]:
        line.close()


def test_a_sender_that_falls_silent_under_tls_is_let_go(node: SecureNode):
    node.opens_with(node.authority.signs("node"), idle_timeout_s=1)
    sender = speaks_tls(Sender, node)
    assert sender.accepted()

    began = time.monotonic()
    with suppress(ssl.SSLEOFError):
        assert sender.socket.recv(1) == b""
    sender.socket.close()
    assert 0.5 < time.monotonic() - began < 5


def test_a_node_that_stops_ends_idle_associations_under_tls(node: SecureNode):
    node.opens_with(node.authority.signs("node"))
    sender = speaks_tls(Sender, node)
    assert sender.accepted()

    began = time.monotonic()
    node.closes()
    assert time.monotonic() - began < 5
    sender.socket.close()


# --- certificates -------------------------------------------------------------------------------------------------------------------
def certificate_shown(node: SecureNode) -> bytes:
    context = ssl.create_default_context(cafile=node.authority.file)
    with (
        socket.create_connection(("127.0.0.1", node.tls_port)) as line,
        context.wrap_socket(line, server_hostname="127.0.0.1") as talk,
    ):
        return talk.getpeercert(binary_form=True) or b""


def test_a_renewed_certificate_is_shown_without_a_restart(node: SecureNode, caplog: pytest.LogCaptureFixture):
    cert, key = map(Path, node.authority.signs("node"))
    node.opens_with((str(cert), str(key)))
    first = certificate_shown(node)
    new_cert, new_key = map(Path, node.authority.signs("renewed", rsa_key=True))

    os.replace(new_cert, cert)  # the key of another certificate lies beside it for a moment
    assert certificate_shown(node) == first
    assert "those before stay in use" in caplog.text
    os.replace(new_key, key)

    assert certificate_shown(node) not in (first, b"")


def a_house(tmp_path: Path, **more: object) -> House:
    return House(Settings(data_dir=tmp_path / "data", intake={"min_free_mb": 0}, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tls_cert_file": "gone.pem"}, "scp.tls_cert_file.* can't be read .No such file.* name PEM files"),
        ({"tls_key_file": "other.key"}, "the key is not that of the certificate"),
        ({"tls_ca_file": "gone.pem"}, "tls_ca_file.* can't be read"),
    ],
)
def test_files_that_do_not_fit_stop_the_start(tmp_path: Path, wrong: dict[str, str], says: str):
    authority = Authority(tmp_path / "authority")
    cert, key = authority.signs("node")
    authority.signs("other")
    named = {"tls_port": 2762, "tls_cert_file": cert, "tls_key_file": key, "tls_ca_file": str(authority.file)}
    named |= {setting: str(tmp_path / "authority" / file) for setting, file in wrong.items()}
    with pytest.raises(SettingsInvalid, match=says):
        a_house(tmp_path, scp=named).check()


def test_a_destination_whose_files_are_not_there_stops_the_start(tmp_path: Path):
    pacs = {"kind": "dimse", "host": "pacs", "ae_title": "PACS", "tls": {"ca_file": str(tmp_path / "gone.pem")}}
    with pytest.raises(SettingsInvalid, match=r"destinations.pacs.tls: a file can't be read"):
        a_house(tmp_path, destinations={"pacs": pacs}).check()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"tls_port": 2762}, "tls_port needs tls_cert_file and tls_key_file"),
        ({"tls_cert_file": "a.pem", "tls_key_file": "a.key"}, "no tls_port"),
        ({"port": 0}, "set one"),
        ({"port": 2762, "tls_port": 2762, "tls_cert_file": "a.pem", "tls_key_file": "a.key"}, "must differ"),
    ],
)
def test_half_a_setting_is_refused(tmp_path: Path, named: dict[str, object], says: str):
    with pytest.raises(ValueError, match=says):
        Settings(data_dir=tmp_path, scp=named)


def test_a_certificate_that_ends_soon_is_trouble(tmp_path: Path):
    authority = Authority(tmp_path / "authority")
    cert, key = authority.signs("node", days=5)
    lasting, lasting_key = authority.signs("lasting", days=90)
    home = a_house(
        tmp_path,
        scp={"tls_port": 2762, "tls_cert_file": cert, "tls_key_file": key},
        web={"tls_cert_file": lasting, "tls_key_file": lasting_key},
    )
    home.check()

    troubles = [one for one in home.troubles(None, now()).troubles if one.kind is Kind.CERTIFICATE]

    assert [one.key for one in troubles] == ["certificate:scp.tls_cert_file"]
    assert re.search(r"scp.tls_cert_file ends on \d{4}-", troubles[0].text)
    home.close()


# --- results go out -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """DCMTK's storescp over TLS, which wants a certificate."""
    running: list[subprocess.Popen[bytes]] = []

    def opens(authority: Authority, files: Files) -> int:
        port, out = free_port(), tmp_path / "archive"
        out.mkdir(exist_ok=True)
        cert, key = files
        line = [need("storescp", "dcmtk"), "+tls", key, cert, "+cf", str(authority.file), "-od", str(out), str(port)]
        running.append(subprocess.Popen(line, stderr=subprocess.DEVNULL))
        soon(lambda: answers(port))
        return port

    yield opens
    for one in running:
        one.terminate()
        one.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def to(port: int, tls: Tls | None, host: str = "127.0.0.1", ae_title: str = "ARCHIVE") -> Dimse:
    return Dimse("archive", DimseSettings(host=host, port=port, ae_title=ae_title, timeout_s=3, keep_open_s=0, tls=tls))


def test_results_go_to_storescp_over_tls_and_echo_and_probe_too(tmp_path: Path, archive: Callable[..., int]):
    authority = Authority(tmp_path / "authority")
    port = archive(authority, authority.signs("archive"))
    cert, key = authority.signs("radnode")
    destination = to(port, Tls(ca_file=str(authority.file), cert_file=cert, key_file=key))

    assert destination.echo() == "C-ECHO 0x0000"
    assert destination.send(a_picture()) == "C-STORE 0x0000"
    picture = str(dcmread(next((tmp_path / "archive").iterdir())).SOPClassUID)
    assert destination.probe([picture])[picture]


def test_a_destination_says_why_tls_failed(tmp_path: Path, archive: Callable[..., int]):
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    port = archive(authority, authority.signs("archive"))
    cert, key = authority.signs("radnode")
    known = Tls(ca_file=str(authority.file), cert_file=cert, key_file=key)

    for tls_, host, says in [
        (
            known.model_copy(update={"ca_file": str(stranger.file)}),
            "127.0.0.1",
            "is not accepted: self-signed certificate in certificate chain",
        ),
        (known, "localhost", "is not accepted: Hostname mismatch"),
        (Tls(ca_file=str(authority.file)), "127.0.0.1", "wants a certificate"),
        (known.model_copy(update={"ca_file": str(tmp_path / "gone.pem")}), "127.0.0.1", "the files of `tls` can't be used"),
    ]:
        with pytest.raises(DeliveryFailed, match=says):
            to(port, tls_, host).echo()
    with pytest.raises(DeliveryFailed):
        to(port, None).echo()
    assert to(port, known.model_copy(update={"check_hostname": False}), "localhost").echo() == "C-ECHO 0x0000"


def test_an_archive_whose_certificate_has_expired_gets_nothing(tmp_path: Path, archive: Callable[..., int]):
    authority = Authority(tmp_path / "authority")
    port = archive(authority, authority.signs("archive", days=-0.5))
    with pytest.raises(DeliveryFailed, match="certificate has expired"):
        to(port, Tls(ca_file=str(authority.file))).send(a_picture())


def test_an_archive_that_speaks_no_tls_is_said_to(tmp_path: Path):
    with Pacs(tmp_path / "pacs") as pacs, pytest.raises(DeliveryFailed, match="no association"):
        to(pacs.port, Tls(check_hostname=False)).echo()


# --- a real Orthanc -----------------------------------------------------------------------------------------------------------------
def test_orthanc_and_the_node_speak_tls_both_ways(node: SecureNode):
    authority, trusted = node.authority, str(node.authority.file)
    node.opens_with(authority.signs("node"), mutual=True, callers=(scp.CallerRule.of("ORTHANC"),))
    cert, key = authority.signs("orthanc")
    orthanc = OrthancServer(
        need("Orthanc", "orthanc orthanc-dicomweb"),
        node.home / "orthanc",
        DicomTlsEnabled=True,
        DicomTlsCertificate=cert,
        DicomTlsPrivateKey=key,
        DicomTlsTrustedCertificates=trusted,
        DicomModalities={"node": {"AET": "RADNODE", "Host": "127.0.0.1", "Port": node.tls_port, "UseDicomTls": True}},
    )
    ours = dict(zip(("cert_file", "key_file"), authority.signs("radnode"), strict=True), ca_file=trusted)
    peer = {"host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title, "tls": ours}
    picture = dcmread(BytesIO(a_picture()))
    try:
        orthanc.start()
        archive = Dimse("orthanc", DimseSettings(**peer, confirm=True, keep_open_s=0))
        assert archive.send(a_picture(SOPInstanceUID=picture.SOPInstanceUID, StudyInstanceUID=picture.StudyInstanceUID)) == "C-STORE 0x0000"
        assert archive.confirm(picture.SOPClassUID, picture.SOPInstanceUID, picture.StudyInstanceUID) is True

        source = SourceSettings(kind="dimse", **peer)
        assert expected_instances(source, picture.StudyInstanceUID) == 1
        assert expected_instances(source.model_copy(update={"tls": None}), picture.StudyInstanceUID) is None

        [stored] = orthanc.get("/instances")
        orthanc.http.post(f"{orthanc.url}/modalities/node/store", content=stored).raise_for_status()
        assert set(node.received()) == {picture.SOPInstanceUID}
    finally:
        orthanc.stop()


# --- the whole node -----------------------------------------------------------------------------------------------------------------
def test_a_node_that_serves_by_tls_only_has_no_other_dicom_port(tmp_path: Path, slices: Path):
    authority = Authority(tmp_path / "authority")
    cert, key = authority.signs("node")
    door = {"port": 0, "tls_port": free_port(), "tls_cert_file": cert, "tls_key_file": key, "tls_ca_file": str(authority.file)}
    settings = {
        "data_dir": str(tmp_path / "data"),
        "scp": {**door, "processes": 2, "callers": [{"ae_title": "SCANNER"}]},
        "web": {"port": free_port()},
        "intake": {"min_free_mb": 0},
    }
    (tmp_path / "radnode.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "node", "gateway", "--config", str(tmp_path / "radnode.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as gateway:
        try:
            assert gateway.stdout
            ready = gateway.stdout.readline()
            sent = storescu(door["tls_port"], slices, *shows(authority.signs("scanner"), authority))
            listening = {one.laddr.port for one in psutil.Process(gateway.pid).net_connections("tcp") if one.status == "LISTEN"}
        finally:
            gateway.terminate()

    assert sent.returncode == 0, sent.stderr
    assert f"DICOM over TLS RADNODE@127.0.0.1:{door['tls_port']}" in ready
    assert "DICOM RADNODE@" not in ready
    assert listening == {door["tls_port"]}
