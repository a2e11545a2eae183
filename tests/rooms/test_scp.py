"""The DICOM door: real senders, wrong callers, broken bytes, full disks, killed processes. A success is never taken back."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    AllTransferSyntaxes,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
)
from pynetdicom import AE
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import SecondaryCaptureImageStorage, Verification

from node import scp
from node import upper_layer as ul
from node.domain import StudyRef
from node.identified.clean_uids import CleanUids
from node.identified.head import LONGEST, HeadUnreadable, read_head
from node.identified.intake import Intake
from node.identified.keys import Keyring
from node.identified.named import ReceivedInstance
from node.identified.objects import RETIRED_IMAGES
from node.identified.vault import Vault
from tests.conftest import need
from tests.rooms.receiver import MASTER_KEY, engine

ROOT = Path(__file__).parents[2]
CT, MR = str(CTImageStorage), str(MRImageStorage)
EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
ECHO = str(Verification)


# --- things of a department ------------------------------------------------------------------------------------------
class Node:
    """The receiving half: a listening socket, receivers on it, and the intake that finds what they took."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.listener = scp.bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.secure: socket.socket | None = None
        self.processes: list[subprocess.Popen[bytes]] = []
        self.alerts: list[tuple[str, str, str, str]] = []
        self.free = 1 << 40
        self.door: scp.Door | None = None
        self.thread: threading.Thread | None = None
        self.vault_folder = home / "vault"
        self.gateway: Intake | None = None
        self.found: dict[str, ReceivedInstance] = {}

    # a receiver process, as the supervisor starts one
    def starts(self, count: int = 1, **config: object) -> None:
        for number in range(count):
            told = {"data": str(self.home), "vault": str(self.vault_folder), "name": f"scp-{number}", **config}
            with (self.home / "log").open("ab") as out:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.rooms.receiver", str(self.listener.fileno()), json.dumps(told)],
                        pass_fds=[self.listener.fileno()], cwd=ROOT, stderr=out,
                    )
                )  # fmt: skip

    def stops(self, how: int = signal.SIGTERM) -> list[int]:
        for process in self.processes:
            process.send_signal(how)
        codes = [process.wait(30) for process in self.processes]
        self.processes.clear()
        return codes

    # the same in a thread of the test
    def opens(self, **door: object) -> None:
        self.keyring = Keyring(engine(self.home), MASTER_KEY)
        self.writer = Vault(self.vault_folder, self.keyring, 8 << 20).writer("scp-t")
        told: dict[str, object] = {
            "ae_title": "RADNODE", "callers": (scp.CallerRule.of("SCANNER"),), "writer": self.writer,
            "clean_uids": CleanUids(self.keyring.site_key("uids")), "free_bytes": lambda: self.free,
            "alert": lambda *facts: self.alerts.append(facts), "idle_timeout_s": 20, "drain_s": 1, **door,
        }  # fmt: skip
        self.door = scp.Door(**told)
        self.thread = threading.Thread(target=scp.serve, args=(self.listener, self.door), kwargs={"secure": self.secure})
        self.thread.start()

    def closes(self) -> None:
        if self.door and self.thread:
            self.door.stop.set()
            self.thread.join(30)
            assert not self.thread.is_alive()
            self.writer.close()
        if self.processes:
            self.stops(signal.SIGKILL)
        self.listener.close()

    def intake(self) -> Intake:
        keyring = Keyring(engine(self.home), MASTER_KEY, lease_s=0)
        vault = Vault(self.vault_folder, keyring, 8 << 20)
        self.uids = CleanUids(keyring.site_key("uids"))
        return Intake(keyring._engine, vault, keyring, self.uids, settle_after_s=0, settle_complete_after_s=0)

    def received(self) -> dict[str, ReceivedInstance]:
        """By SOP Instance UID: what the gateway finds."""
        self.gateway = self.gateway or self.intake()
        self.gateway.index_new()
        self.found |= {i.sop_instance_uid: i for ref in self.gateway.settled() for i in self.gateway.open(ref).instances()}
        return dict(self.found)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.closes()


def a_data_set(number: int = 1, syntax: str = EXPLICIT, size: int = 64, study: str = "1.2.3", **more: object) -> bytes:
    """A CT slice as it goes over the wire."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{study}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName, ds.PatientID = study, f"{study}.0", "DOE^JANE", "4711"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.Rows = ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel, ds.PixelRepresentation = 16, 16, 15, 1, 0
    ds.PixelData = os.urandom(2 * size * size)
    ds["PixelData"].VR = "OW"
    return encode(ds, syntax == IMPLICIT, syntax != ExplicitVRBigEndian, syntax == DeflatedExplicitVRLittleEndian)


def command(**elements: object) -> bytes:
    """A command set in implicit VR little endian, with its group length (PS3.7 6.3.1)."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    body = encode(ds, True, True)
    ds.CommandGroupLength = len(body)
    return encode(ds, True, True)


def c_store(sop_instance: str = "1.2.3.1", sop_class: str = CT, message: int = 1, data_set: int = 1) -> bytes:
    return command(
        AffectedSOPClassUID=sop_class, CommandField=1, MessageID=message, Priority=2, CommandDataSetType=data_set,
        AffectedSOPInstanceUID=sop_instance,
    )  # fmt: skip


def pdv(context: int, flags: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, flags) + data


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


class Sender:
    """A sender that can be made to do anything."""

    def __init__(self, port: int, contexts: dict[int, tuple[str, list[str]]] | None = None, *, calling: str = "SCANNER",
                 called: str = "RADNODE", max_pdu: int = 16384, version: int = 1, application: str = "1.2.840.10008.3.1.1.1") -> None:  # fmt: skip
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contexts = contexts or {1: (CT, [EXPLICIT])}
        body = struct.pack(">HH16s16s32x", version, 0, called.encode().ljust(16), calling.encode().ljust(16)) + item(
            0x10, application.encode()
        )
        for number, (abstract, syntaxes) in contexts.items():
            names = item(0x30, abstract.encode()) + b"".join(item(0x40, s.encode()) for s in syntaxes)
            body += item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + names)
        user = (
            item(0x51, struct.pack(">L", max_pdu))
            + item(0x52, b"1.2.3")
            + item(0x53, struct.pack(">HH", 5, 5))
            + item(0x58, b"\1\0\0\4user\0\0")
        )
        self.socket.sendall(pdu(1, body + item(0x50, user)))

    def reads(self) -> tuple[int, bytes]:
        """One PDU: its type and body; (0, b"") when the node closed."""
        head = self._exactly(6)
        if not head:
            return 0, b""
        return head[0], self._exactly(struct.unpack(">L", head[2:])[0])

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = self.socket.recv(count - len(got))
            if not more:
                return b""
            got += more
        return got

    def accepted(self) -> dict[int, tuple[int, str]]:
        """Context id → result, transfer syntax, of the A-ASSOCIATE-AC."""
        kind, body = self.reads()
        assert kind == 2, (kind, body)
        found, at = {}, 68
        while at < len(body):
            kind, length = body[at], struct.unpack_from(">H", body, at + 2)[0]
            if kind == 0x21:
                found[body[at + 4]] = (body[at + 6], body[at + 12 : at + 4 + length].decode())
            at += 4 + length
        return found

    def answers(self) -> Dataset:
        """The response command, over as many PDUs as it takes."""
        data, last = b"", False
        while not last:
            kind, body = self.reads()
            assert kind == 4, (kind, body)
            length, _, flags = struct.unpack_from(">LBB", body)
            assert length == len(body) - 4
            data, last = data + body[6:], bool(flags & 2)
        return decode(io.BytesIO(data), True, True)

    def sends(self, *pdus: bytes) -> None:
        self.socket.sendall(b"".join(pdus))

    def stores(self, data: bytes, message: bytes | None = None, context: int = 1, room: int = 16000) -> Dataset:
        self.sends(pdu(4, pdv(context, 3, message or c_store())))
        for at in range(0, max(len(data), 1), room):
            self.sends(pdu(4, pdv(context, 2 if at + room >= len(data) else 0, data[at : at + room])))
        return self.answers()

    def releases(self) -> None:
        self.sends(pdu(5, bytes(4)))
        assert self.reads() == (6, bytes(4))

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *why: object) -> None:
        self.socket.close()


@contextmanager
def associated(port: int, *args: object, **more: object) -> Iterator[Sender]:
    with Sender(port, *args, **more) as sender:
        assert all(result == 0 for result, _ in sender.accepted().values())
        yield sender


def wait_until(what: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


# --- real senders ----------------------------------------------------------------------------------------------------
def test_echoscu_is_answered(node):
    node.starts()

    done = subprocess.run([need("echoscu", "dcmtk"), "-aec", "RADNODE", "-aet", "SCANNER", "127.0.0.1", str(node.port)])

    assert done.returncode == 0


def test_two_processes_share_a_port_and_lose_nothing_of_four_storescu(node, tmp_path):
    files = written(tmp_path / "send", studies=4, each=20)
    node.starts(2)

    senders = [storescu(node.port, folder) for folder in files]
    assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]

    got = node.received()
    assert len(got) == 80
    for path in (tmp_path / "send").rglob("*.dcm"):
        ds = dcmread(path)
        assert got[ds.SOPInstanceUID].data == encode(ds, False, True)


@pytest.mark.parametrize(
    ("folder", "option"),
    [
        ("wg04_CT1/CT1_JPLL.dcm", "-xs"),
        ("wg04_CT1/CT1_J2KR.dcm", "-xv"),
        ("wg04_CT1/CT1_JLSL.dcm", "-xt"),
        ("wg04_CT1/CT1_RLE.dcm", "-xr"),
        ("other/US1_UNCR.dcm", "-xb"),
    ],
)
def test_storescu_sends_compressed_images_and_they_stay_as_they_are(node, shared, folder, option):
    path = shared / "data" / "dicom" / "transfer_syntaxes" / folder
    node.opens()

    done = subprocess.run(
        [need("storescu", "dcmtk"), "-R", option, "-aec", "RADNODE", "-aet", "SCANNER", "127.0.0.1", str(node.port), str(path)]
    )

    assert done.returncode == 0
    [instance] = node.received().values()
    ds = dcmread(path)
    assert instance.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    again = decode(io.BytesIO(instance.data), False, ds.file_meta.TransferSyntaxUID != ExplicitVRBigEndian,
                   ds.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian)  # fmt: skip
    assert again.PixelData == ds.PixelData


def test_pynetdicom_sends_every_real_transfer_syntax(node, shared):
    files = sorted((shared / "data" / "dicom" / "transfer_syntaxes").rglob("*.dcm"))
    datasets = [ds for ds in map(dcmread, files) if ds.get("StudyInstanceUID")]
    node.opens()
    ae = AE("SCANNER")
    for syntax, sop_class in sorted({(ds.file_meta.TransferSyntaxUID, ds.SOPClassUID) for ds in datasets}):
        ae.add_requested_context(sop_class, syntax)

    association = ae.associate("127.0.0.1", node.port, ae_title="RADNODE")
    statuses = [association.send_c_store(ds).Status for ds in datasets]
    association.release()

    assert set(statuses) == {0}
    assert len(datasets) >= 30
    assert set(node.received()) == {ds.SOPInstanceUID for ds in datasets}


def test_pynetdicom_echoes_and_stores_with_the_origin_kept(node):
    node.opens()
    ae = AE("SCANNER")
    ae.add_requested_context(Verification)
    ae.add_requested_context(CT, EXPLICIT)
    ds = decode(io.BytesIO(a_data_set()), False, True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT

    association = ae.associate("127.0.0.1", node.port, ae_title="RADNODE")
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(ds).Status == 0
    association.release()

    [instance] = node.received().values()
    assert (instance.origin.calling_ae, instance.origin.called_ae, instance.origin.peer) == ("SCANNER", "RADNODE", "127.0.0.1")
    assert instance.origin.channel == "dimse"


def written(folder: Path, studies: int, each: int, size: int = 256) -> list[Path]:
    """DICOM files in a folder a study."""
    folders = []
    for study in range(studies):
        part = folder / str(study)
        part.mkdir(parents=True)
        folders.append(part)
        for number in range(each):
            ds = decode(io.BytesIO(a_data_set(number, size=size, study=f"1.2.3.{study}")), False, True)
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = EXPLICIT
            ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
            ds.save_as(part / f"{number:04d}.dcm", enforce_file_format=True)
    return folders


def storescu(port: int, folder: Path, *more: str, **pipes: object) -> subprocess.Popen[str]:
    command_line = [need("storescu", "dcmtk"), *more, "-aec", "RADNODE", "-aet", "SCANNER", "+sd", "127.0.0.1", str(port), str(folder)]
    return subprocess.Popen(command_line, text=True, **pipes)


# --- ends ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("after", [1, 9, 30])
def test_what_storescu_was_told_is_safe_survives_kill_9(node, tmp_path, after):
    [folder] = written(tmp_path / "send", studies=1, each=60, size=400)
    node.starts()
    intake = node.intake()

    sender = storescu(node.port, folder, "-v", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
    sent, safe = [], []
    for line in sender.stdout:
        if found := re.search(r"Sending file: (.*\.dcm)", line):
            sent.append(found[1])
        if "Received Store Response (Success)" in line:
            safe.append(sent[len(safe)])
            if len(safe) == after // 2:
                intake.index_new()  # as the gateway does, beside
            if len(safe) == after:
                node.stops(signal.SIGKILL)
    sender.wait()
    assert len(safe) >= after

    got = node.received()

    for path in safe:
        ds = dcmread(path)
        assert got[ds.SOPInstanceUID].data == encode(ds, False, True)
    assert len(got) <= len(safe) + 1


def test_after_kill_9_the_sender_sends_again_and_nothing_is_double(node, tmp_path):
    [folder] = written(tmp_path / "send", studies=1, each=40, size=400)
    node.starts()
    sender = storescu(node.port, folder, "-v", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
    answers = (line for line in sender.stdout if "Received Store Response (Success)" in line)
    list(itertools.islice(answers, 5))
    node.stops(signal.SIGKILL)
    sender.stdout.read()
    sender.wait()
    intake = node.intake()
    before = intake.index_new()

    node.starts()
    assert storescu(node.port, folder).wait(60) == 0
    after = intake.index_new()

    assert before >= 5
    assert before + after == 40
    [ref] = intake.settled()
    assert ref == StudyRef(study=node.uids.of("1.2.3.0"), revision=1)


def test_sigterm_lets_a_sender_finish(node, tmp_path):
    [folder] = written(tmp_path / "send", studies=1, each=60, size=400)
    node.starts()
    sender = storescu(node.port, folder, "-v", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
    next(line for line in sender.stdout if "Received Store Response (Success)" in line)

    codes = node.stops()
    rest = sender.stdout.read()

    assert codes == [0]
    assert sender.wait() == 0
    assert rest.count("Received Store Response (Success)") == 59
    assert len(node.received()) == 60


def test_sigterm_ends_an_idle_association(node):
    node.opens()
    with associated(node.port) as sender:
        node.door.stop.set()
        kind, body = sender.reads()

    assert (kind, body) == (7, b"\0\0\2\0")
    node.thread.join(10)
    assert not node.thread.is_alive()


def test_a_silent_peer_is_let_go(node):
    node.opens(idle_timeout_s=0.3)
    with associated(node.port) as sender:
        assert sender.reads() == (0, b"")
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=10)) as mute:
        assert mute.recv(1) == b""


# --- who may come in -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("peer", "expected", "alerted"),
    [
        ({"called": "OTHER"}, (1, 1, 7), True),
        ({"calling": "STRANGER"}, (1, 1, 3), True),
        ({"calling": "scanner"}, (1, 1, 3), True),
        ({"version": 2}, (1, 2, 2), False),
        ({"application": "1.2.3"}, (1, 1, 2), False),
    ],
)
def test_a_wrong_request_is_rejected_with_its_reason(node, peer, expected, alerted):
    node.opens()

    with Sender(node.port, **peer) as sender:
        kind, body = sender.reads()

    assert kind == 3
    assert tuple(body[1:]) == expected
    assert bool(node.alerts) == alerted
    if alerted:
        assert node.alerts[0][:3] == (peer.get("calling", "SCANNER"), peer.get("called", "RADNODE"), "127.0.0.1")


@pytest.mark.parametrize(
    ("callers", "admitted"),
    [
        ((), False),
        ((("SCANNER", ()),), True),
        ((("SCANNER", ("127.0.0.0/8",)),), True),
        ((("SCANNER", ("127.0.0.1",)),), True),
        ((("SCANNER", ("10.0.0.0/8", "::1")),), False),
        ((("OTHER", ("127.0.0.0/8",)), ("SCANNER", ("10.0.0.0/8",))), False),
        ((("SCANNER", ("10.0.0.0/8",)), ("SCANNER", ("127.0.0.0/8",))), True),
    ],
)
def test_a_caller_needs_its_title_and_its_network(node, callers, admitted):
    node.opens(callers=tuple(scp.CallerRule.of(*caller) for caller in callers))

    with Sender(node.port) as sender:
        kind, body = sender.reads()

    assert (kind == 2) == admitted
    assert admitted or tuple(body[1:]) == (1, 1, 3)


def test_pynetdicom_understands_the_rejection(node):
    node.opens()
    ae = AE("STRANGER")
    ae.add_requested_context(Verification)

    association = ae.associate("127.0.0.1", node.port, ae_title="RADNODE")

    assert association.is_rejected
    primitive = association.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, 3)


def test_one_association_too_many_is_rejected_for_now(node):
    node.opens(max_associations=2)
    with associated(node.port) as first, associated(node.port):
        with Sender(node.port) as third:
            kind, body = third.reads()
        assert (kind, tuple(body[1:])) == (3, (2, 3, 2))
        assert node.alerts == []
        first.releases()
        first.socket.close()

        def admitted() -> bool:
            with Sender(node.port) as again:
                return again.reads()[0] == 2

        wait_until(admitted)


# --- what may be sent ------------------------------------------------------------------------------------------------
def test_every_storage_sop_class_and_transfer_syntax_is_taken(node):
    node.opens()
    classes = sorted(scp.STORAGE_SOP_CLASSES)
    assert len(classes) >= 170
    for at in range(0, len(classes), 128):
        contexts = {2 * n + 1: (sop_class, [IMPLICIT]) for n, sop_class in enumerate(classes[at : at + 128])}
        with associated(node.port, contexts) as sender:
            sender.releases()
    with Sender(node.port, {2 * n + 1: (CT, [str(syntax)]) for n, syntax in enumerate(AllTransferSyntaxes)}) as sender:
        assert sender.accepted() == {2 * n + 1: (0, str(syntax)) for n, syntax in enumerate(AllTransferSyntaxes)}


@pytest.mark.parametrize("sop_class", sorted(RETIRED_IMAGES))
def test_images_of_a_retired_class_are_taken(node, sop_class):
    """Old archives are full of them: ultrasound above all."""
    node.opens()
    with associated(node.port, {1: (sop_class, [EXPLICIT])}) as sender:
        answer = sender.stores(a_data_set(SOPClassUID=sop_class), c_store(sop_class=sop_class))
        sender.releases()

    assert answer.Status == 0
    assert [instance.sop_class_uid for instance in node.received().values()] == [sop_class]


def test_the_transfer_syntax_that_the_sender_prefers_is_chosen(node):
    node.opens()
    contexts = {
        1: (CT, ["1.2.3.4", str(JPEGBaseline8Bit), EXPLICIT]),
        3: (CT, [IMPLICIT, EXPLICIT]),
        5: (CT, ["1.2.3.4"]),
        7: ("1.3.12.2.1107.5.9.1", [IMPLICIT]),  # a private one
        9: ("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT]),  # Study Root FIND
        11: (ECHO, [IMPLICIT]),
    }

    with Sender(node.port, contexts) as sender:
        found = sender.accepted()

    assert {number: result for number, (result, _) in found.items()} == {1: 0, 3: 0, 5: 4, 7: 3, 9: 3, 11: 0}
    assert found[1][1] == JPEGBaseline8Bit
    assert found[3][1] == IMPLICIT


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian)])
def test_the_bytes_are_kept_as_they_came(node, syntax):
    node.opens()
    data = a_data_set(syntax=syntax, size=300)
    with associated(node.port, {1: (CT, [syntax])}) as sender:
        answer = sender.stores(data)
        sender.releases()

    assert answer.Status == 0
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID, answer.MessageIDBeingRespondedTo) == (CT, "1.2.3.1", 1)
    assert answer.CommandField == 0x8001
    assert answer.CommandDataSetType == 0x0101
    [instance] = node.received().values()
    assert (instance.data, instance.transfer_syntax_uid) == (data, syntax)


def test_many_instances_over_two_contexts_of_one_association(node):
    node.opens()
    sent = {f"1.2.3.{n}": a_data_set(n, syntax=EXPLICIT if n % 2 else IMPLICIT) for n in range(12)}
    with associated(node.port, {1: (CT, [EXPLICIT]), 3: (CT, [IMPLICIT])}) as sender:
        for n, (uid, data) in enumerate(sent.items()):
            assert sender.stores(data, c_store(uid, message=n + 1), context=1 if n % 2 else 3).Status == 0
        sender.releases()

    assert {uid: i.data for uid, i in node.received().items()} == sent


def test_a_small_pdu_of_the_peer_is_respected(node):
    node.opens()
    with associated(node.port, max_pdu=32) as sender:
        sender.sends(pdu(4, pdv(1, 3, c_store())), pdu(4, pdv(1, 2, a_data_set())))
        sizes, last = [], False
        while not last:
            kind, body = sender.reads()
            assert kind == 4
            sizes.append(len(body))
            last = bool(body[5] & 2)

    assert len(sizes) > 3
    assert max(sizes) <= 32


NUMBERS = itertools.count(1000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_message_may_be_cut_anywhere(node, data):
    """Several values in a PDU, commands and data over several PDUs, writes that end in the middle of a header (PS3.8 E)."""
    if node.thread is None:
        node.opens()
    blob = a_data_set(next(NUMBERS), size=40)
    uid = decode(io.BytesIO(blob), False, True).SOPInstanceUID
    values = []
    for flags, message in ((1, c_store(uid)), (0, blob)):
        cuts = sorted({0, len(message), *data.draw(st.lists(st.integers(0, len(message)), max_size=6))})
        parts = [message[a:b] for a, b in itertools.pairwise(cuts)]
        if data.draw(st.booleans()):
            parts.insert(0, b"")
        values += [pdv(1, flags | (2 if n == len(parts) - 1 else 0), part) for n, part in enumerate(parts)]
    stream, at = b"", 0
    while at < len(values):
        count = data.draw(st.integers(1, 4))
        stream += pdu(4, b"".join(values[at : at + count]))
        at += count
    writes = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=5))})

    with associated(node.port) as sender:
        for a, b in itertools.pairwise(writes):
            sender.sends(stream[a:b])
            time.sleep(0.001)
        assert sender.answers().Status == 0
        sender.releases()

    assert node.received()[uid].data == blob


# --- what is not taken -----------------------------------------------------------------------------------------------
def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


GOOD = a_data_set()
REFUSED = {
    "another class than the context's": (c_store(sop_class=MR), GOOD, 0x0122),
    "another class in the data set": (c_store(), replaced(GOOD, CT.encode(), MR.encode()), 0xA900),
    "another instance in the data set": (c_store("1.2.3.9"), GOOD, 0xA900),
    "no class in the data set": (c_store(), a_data_set(SOPClassUID=""), 0xA900),
    "no study": (c_store(), a_data_set(StudyInstanceUID=""), 0xA900),
    "a study that is no UID": (
        c_store(),
        replaced(GOOD, b"\x20\x00\x0d\x00UI\x06\x001.2.3\0", b"\x20\x00\x0d\x00UI\x06\x00../../"),
        0xA900,
    ),
    "a UID with path characters": (c_store("../../etc/passwd"), GOOD, 0x0117),
    "a UID that is too long": (c_store("1." + "2" * 63), GOOD, 0x0117),
    "no UID at all": (c_store(""), GOOD, 0x0117),
    "no data set": (c_store(), b"", 0xC000),
    "half a head": (c_store(), GOOD[:30], 0xC000),
    "random bytes": (c_store(), b"\xde\xad\xbe\xef" * 5000, 0xC000),
    "text": (c_store(), b"PatientName: DOE^JANE\n" * 500, 0xC000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_answered_with_its_status_and_the_next_is_taken(node, case):
    message, data, status = REFUSED[case]
    node.opens()
    with associated(node.port) as sender:
        refused = sender.stores(data, message)
        taken = sender.stores(a_data_set(7), c_store("1.2.3.7", message=2))
        sender.releases()

    assert f"0x{refused.Status:04X}" == f"0x{status:04X}"
    assert 0 < len(refused.ErrorComment) <= 64
    assert "DOE" not in refused.ErrorComment
    assert "1.2.3" not in refused.ErrorComment
    assert taken.Status == 0
    assert set(node.received()) == {"1.2.3.7"}


def test_a_data_set_that_is_not_sent_is_not_waited_for(node):
    node.opens()
    with associated(node.port) as sender:
        sender.sends(pdu(4, pdv(1, 3, c_store(data_set=0x0101))))
        assert sender.answers().Status == 0xC000


def test_other_operations_are_unrecognized(node):
    node.opens()
    with associated(node.port, {1: (CT, [EXPLICIT]), 3: (ECHO, [IMPLICIT])}) as sender:
        for field, with_data in ((0x20, True), (0x21, True), (0x0140, False), (0x0130, True)):
            sender.sends(pdu(4, pdv(1, 3, command(
                AffectedSOPClassUID=CT, CommandField=field, MessageID=7, CommandDataSetType=1 if with_data else 0x0101))))  # fmt: skip
            if with_data:
                sender.sends(pdu(4, pdv(1, 2, b"\0" * 100)))
            answer = sender.answers()
            assert (answer.Status, answer.CommandField, answer.MessageIDBeingRespondedTo) == (0x0211, field | 0x8000, 7)
        sender.sends(pdu(4, pdv(1, 3, command(CommandField=0x0FFF, MessageIDBeingRespondedTo=7, CommandDataSetType=0x0101))))
        sender.sends(pdu(4, pdv(3, 3, command(AffectedSOPClassUID=ECHO, CommandField=0x30, MessageID=8, CommandDataSetType=0x0101))))
        echo = sender.answers()
        assert (echo.Status, echo.CommandField, echo.MessageIDBeingRespondedTo) == (0, 0x8030, 8)
        sender.releases()


def test_an_instance_on_the_verification_context_is_refused(node):
    node.opens()
    with associated(node.port, {1: (ECHO, [IMPLICIT])}) as sender:
        assert sender.stores(a_data_set(syntax=IMPLICIT), c_store(sop_class=ECHO)).Status == 0x0122


def test_a_stream_that_breaks_off_leaves_nothing(node):
    node.opens()
    data = a_data_set(size=1200)
    with associated(node.port) as sender:
        sender.sends(pdu(4, pdv(1, 3, c_store())), pdu(4, pdv(1, 0, data[: len(data) // 2])))
        time.sleep(0.2)
    with associated(node.port) as sender:
        sender.sends(pdu(4, pdv(1, 3, c_store())), pdu(4, pdv(1, 0, data[:2000])), pdu(7, bytes(4)))

    time.sleep(0.2)
    assert node.received() == {}
    with associated(node.port) as sender:
        assert sender.stores(data).Status == 0
    assert len(node.received()) == 1


BROKEN = {
    "a type that does not exist": (pdu(9, b"\0" * 10), (7, b"\0\0\2\1")),
    "a second request": (pdu(1, b"\0" * 68), (7, b"\0\0\2\2")),
    "a context that was not accepted": (pdu(4, pdv(99, 3, c_store())), (7, b"\0\0\2\5")),
    "data before a command": (pdu(4, pdv(1, 2, b"\0" * 10)), (7, b"\0\0\2\5")),
    "a value longer than its PDU": (pdu(4, struct.pack(">LBB", 5000, 1, 3) + b"\0" * 20), (7, b"\0\0\2\6")),
    "a value too short for its header": (pdu(4, struct.pack(">LBB", 1, 1, 3) + b"\0" * 20), (7, b"\0\0\2\6")),
    "an empty PDU": (pdu(4, b""), (7, b"\0\0\2\6")),
    "a command that is no command": (pdu(4, pdv(1, 3, b"\xff" * 64)), (7, b"\0\0\2\6")),
    "a command without an end": (pdu(4, pdv(1, 1, b"\0" * 100_000)), (7, b"\0\0\2\6")),
    "a release of the wrong length": (pdu(5, b"\0" * 40), (7, b"\0\0\2\6")),
    "a command inside a data set": (
        pdu(4, pdv(1, 3, c_store())) + pdu(4, pdv(1, 0, GOOD[:900])) + pdu(4, pdv(1, 3, c_store())),
        (7, b"\0\0\2\5"),
    ),
    "a release inside a data set": (pdu(4, pdv(1, 3, c_store())) + pdu(5, bytes(4)), (7, b"\0\0\2\2")),
    "a response": (
        pdu(4, pdv(1, 3, command(CommandField=0x8001, MessageIDBeingRespondedTo=1, CommandDataSetType=0x0101, Status=0))),
        (7, b"\0\0\2\5"),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_peer_that_breaks_the_protocol_is_aborted(node, case):
    broken, answer = BROKEN[case]
    node.opens()
    with associated(node.port) as sender:
        sender.sends(broken)
        assert sender.reads() == answer
        assert sender.reads() == (0, b"")

    with associated(node.port) as sender:
        assert sender.stores(GOOD).Status == 0


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00" + os.urandom(300), b"\0" * 4096, b"\1\0\xff\xff\xff\xff" + b"A" * 100,
     pdu(1, b"\0" * 20), pdu(1, struct.pack(">HH16s16s32x", 1, 0, b"RADNODE", b"SCANNER") + b"\x20\0\xff\xff\1")],
)  # fmt: skip
def test_garbage_on_the_port_is_aborted_and_the_node_goes_on(node, garbage):
    node.opens()
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=30)) as stranger:
        stranger.sendall(garbage)
        answer = stranger.recv(100)

    assert answer[:6] == b"\7\0\0\0\0\4"
    with associated(node.port) as sender:
        assert sender.stores(GOOD).Status == 0


# --- no room ---------------------------------------------------------------------------------------------------------
def test_below_the_watermark_an_association_is_rejected_for_now_and_an_instance_refused(node):
    node.opens()
    with associated(node.port) as sender:
        assert sender.stores(GOOD).Status == 0
        node.free = 0
        assert sender.stores(a_data_set(2), c_store("1.2.3.2")).Status == 0xA700
        with Sender(node.port) as other:
            kind, body = other.reads()
        assert (kind, tuple(body[1:])) == (3, (2, 3, 2))
        node.free = 1 << 30
        assert sender.stores(a_data_set(3), c_store("1.2.3.3")).Status == 0
        sender.releases()

    assert set(node.received()) == {"1.2.3.1", "1.2.3.3"}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root; the next test stands in")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_refuses_and_loses_nothing_and_goes_on_when_there_is_room(node, tmp_path):
    with small_disk(tmp_path / "disk", "40m"):
        node.vault_folder = tmp_path / "disk" / "vault"
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(16 << 20))
        node.opens()
        statuses: dict[str, int] = {}
        with associated(node.port) as sender:
            for n in range(40):
                uid = f"1.2.3.{n}"
                statuses[uid] = sender.stores(a_data_set(n, size=600), c_store(uid)).Status
            full_at = [uid for uid, status in statuses.items() if status]
            ballast.unlink()
            for n in range(40, 45):
                uid = f"1.2.3.{n}"
                statuses[uid] = sender.stores(a_data_set(n, size=600), c_store(uid)).Status
            sender.releases()
        got = node.received()
        node.closes()
        node.listener = socket.socket()

    assert full_at
    assert {statuses[uid] for uid in full_at} == {0xA700}
    assert all(statuses[f"1.2.3.{n}"] == 0 for n in range(40, 45))
    assert set(got) == {uid for uid, status in statuses.items() if status == 0}


def test_a_write_that_fails_for_lack_of_space_refuses_and_the_next_is_taken(node, monkeypatch):
    node.opens()
    with associated(node.port) as sender:
        assert sender.stores(GOOD).Status == 0
        real = os.pwritev

        def full(fd: int, parts: list[memoryview], offset: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwritev", full)
        assert sender.stores(a_data_set(2, size=900), c_store("1.2.3.2")).Status == 0xA700
        monkeypatch.setattr(os, "pwritev", real)
        assert sender.stores(a_data_set(3), c_store("1.2.3.3")).Status == 0
        sender.releases()

    assert set(node.received()) == {"1.2.3.1", "1.2.3.3"}


def test_our_own_fault_is_a_processing_failure_and_says_so(node, monkeypatch):
    node.opens()
    with associated(node.port) as sender:
        monkeypatch.setattr(node.writer, "begin", lambda meta: 1 / 0)
        answer = sender.stores(GOOD)
        monkeypatch.undo()
        assert (answer.Status, answer.ErrorComment) == (0x0110, "the node failed; send again later")
        assert sender.stores(GOOD).Status == 0


# --- memory ----------------------------------------------------------------------------------------------------------
def test_a_multi_frame_object_of_two_gigabytes_is_received_in_bounded_memory(node, tmp_path):
    if shutil.disk_usage(tmp_path).free < 5 << 30:
        pytest.fail("this test needs 5 GB of free disk")
    frames, frame = 2048, bytes(1 << 20)
    node.starts(segment_bytes=64 << 20)
    sop = str(SecondaryCaptureImageStorage)
    head = a_data_set(SOPClassUID=sop, NumberOfFrames=frames)
    head = head[: head.index(b"\xe0\x7f\x10\x00OW")] + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", frames << 20)
    with associated(node.port, {1: (sop, [EXPLICIT])}) as sender:
        sender.socket.settimeout(300)
        process = psutil.Process(node.processes[0].pid)
        assert sender.stores(a_data_set(9, SOPClassUID=sop), c_store("1.2.3.9", sop)).Status == 0
        before = most = process.memory_info().rss
        sender.sends(pdu(4, pdv(1, 3, c_store(sop_class=sop))), pdu(4, pdv(1, 0, head)))
        chunk = pdu(4, pdv(1, 0, frame[: 128 << 10]))
        for _ in range(frames):
            sender.sends(chunk * 8)
            most = max(most, process.memory_info().rss)
        sender.sends(pdu(4, pdv(1, 2, b"")))
        assert sender.answers().Status == 0
        sender.releases()

    intake = node.intake()
    assert intake.index_new() == 2
    assert most - before < 300 << 20
    with intake._engine.connect() as db:
        extents, study = db.exec_driver_sql("select extents, study from instances order by size desc limit 1").one()
    size = sum(map(len, intake._vault.read(json.loads(extents), study)))
    assert size == len(head) + (frames << 20)
    shutil.rmtree(node.vault_folder)


# --- parsers ---------------------------------------------------------------------------------------------------------
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_request_breaks_the_parser(body):
    try:
        proposal = ul.parse_proposal(struct.pack(">HH16s16s32x", 1, 0, b"RADNODE", b"SCANNER") + body)
    except ul.ProtocolError:
        return
    assert proposal.calling_ae.strip("\0") == "SCANNER"
    for context in proposal.contexts:
        assert context.id % 2 == 1
        assert scp.choose(context)[1] in (0, 3, 4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.builds(pdu, st.integers(0, 9), st.binary(max_size=40))), max_size=8))
def test_no_stream_breaks_the_wire(parts):
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        here.sendall(b"".join(parts))
        here.shutdown(socket.SHUT_WR)
        wire = ul.Wire(UnixQuick(there), 1024 + (64 << 10))
        total = 0
        try:
            for piece in wire.pieces():
                total += len(piece.data)
        except (ul.ProtocolError, ul.PeerGone):
            pass
        assert total <= sum(map(len, parts))


class UnixQuick:
    """A socket pair has no TCP options."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def setsockopt(self, *ignored: object) -> None:
        return None

    def recv_into(self, view: memoryview) -> int:
        return self._real.recv_into(view) if select.select([self._real], [], [], 5)[0] else 0


SYNTAXES = [EXPLICIT, IMPLICIT, str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(SYNTAXES), st.booleans())
def test_no_bytes_break_the_walk_over_a_head(data, syntax, complete):
    try:
        head = read_head(data, syntax, complete=complete)
    except HeadUnreadable:
        return
    assert head is not None or not complete


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_head_is_found_behind_nested_sequences_and_as_soon_as_it_is_there(syntax, undefined):
    inner, outer = Dataset(), Dataset()
    inner.StudyInstanceUID = "9.9.9"
    outer.ReferencedInstanceSequence = [inner, Dataset()]
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.PatientComments = CT, "1.2.3.1", "1.2.3", "x" * 500
    ds.ReferencedStudySequence = [outer, outer]
    ds.ReferencedStudySequence[0].is_undefined_length_sequence_item = undefined
    ds["ReferencedStudySequence"].is_undefined_length = undefined
    outer["ReferencedInstanceSequence"].is_undefined_length = undefined
    plain = syntax if syntax != DeflatedExplicitVRLittleEndian else EXPLICIT
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = plain == IMPLICIT, plain != ExplicitVRBigEndian
    write_dataset(out, ds)
    data = out.getvalue()
    if syntax != plain:
        data = encode(ds, False, True, True)

    whole = read_head(data, syntax, complete=True)

    assert (whole.sop_class_uid, whole.sop_instance_uid, whole.study_instance_uid) == (CT, "1.2.3.1", "1.2.3")
    for end in range(len(data)):
        early = read_head(data[:end], syntax, complete=False)
        assert early is None or early == whole


def test_a_head_without_end_is_given_up():
    endless = b"\x08\x00\x16\x00UI\x04\x001.2\0" + b"\x09\x00\x01\x10OB\0\0\xf0\xff\xff\x7f"

    with pytest.raises(HeadUnreadable, match="32 MB"):
        read_head(endless + bytes(LONGEST), EXPLICIT, complete=False)
