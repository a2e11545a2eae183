"""Receivers side by side: parallel DCMTK senders of CT instances to this node, DCMTK's storescp, Orthanc, plain pynetdicom.

Each round starts every receiver afresh on an empty folder, sends, and counts what it holds; the table gives medians over the
rounds. The node's time ends when every sender has its last answer, as for the others; its instances are on the disk by then
and indexed beside (the gateway's part of the work is included). Only ratios within one run mean anything.

  python -m bench.receive [--senders 4] [--each 500] [--rounds 1] [--only storescp node orthanc pynetdicom] [--nodelay]

DCMTK leaves Nagle's algorithm on: as shipped, its sender waits for delayed acknowledgements of a receiver that does not hurry
them. `--nodelay` sets TCP_NODELAY=1 for DCMTK on both sides, which is kinder to storescp.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
ORTHANC = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin") or "Orthanc"


def make_instances(folder: Path, senders: int, each: int) -> list[Path]:
    """One folder a sender, each a study of its own: 512 x 512 x 16 bit of noise."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 4096, (512, 512), np.uint16)
    folders = []
    for sender in range(senders):
        part = folder / f"sender{sender}"
        part.mkdir(parents=True)
        study, series = generate_uid(), generate_uid()
        for number in range(each):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
            ds.PatientID, ds.PatientName, ds.Modality = f"BENCH{sender}", "Bench^Mark", "CT"
            ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "120000", "1", str(sender)
            ds.InstanceNumber = number + 1
            ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
            ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.7, 0.7], 1, 1, -1024
            ds.Rows = ds.Columns = 512
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.PixelData = np.roll(noise, number, 1).tobytes()
            ds.save_as(part / f"{number:04d}.dcm", enforce_file_format=True)
        folders.append(part)
    return folders


@dataclass
class Receiver:
    """A receiver under test, started on an empty folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str, **more: object) -> None:
        with (self.folder / "log").open("ab") as out:
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, **more))  # type: ignore[call-overload]

    def start(self) -> None:
        raise NotImplementedError

    def held(self) -> int:
        raise NotImplementedError

    def ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if (
                subprocess.run(["echoscu", "-aec", "RADNODE", "-aet", "BENCH", "127.0.0.1", str(self.port)], capture_output=True).returncode
                == 0
            ):
                return
            time.sleep(0.2)
        raise SystemExit(f"{type(self).__name__} does not answer:\n{(self.folder / 'log').read_text()[-2000:]}")

    def cpu_s(self) -> float:
        total = 0.0
        for process in self.processes:
            with_children = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in with_children:
                times = one.cpu_times()
                total += times.user + times.system
                total += times.children_user + times.children_system if one.pid == process.pid else 0
        return total

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Node(Receiver):
    """This node: two receiver processes on one socket and an indexing process; encrypted, flushed before each answer."""

    def start(self) -> None:
        from node.ledger.database import open_identified, sqlite_url

        open_identified(sqlite_url(self.folder / "identified.db"))
        from node import scp

        listener = scp.bind("127.0.0.1", self.port)
        for number in range(2):
            self.run(
                sys.executable, "-m", "bench.receive", "--part", "scp", str(self.folder), str(listener.fileno()), str(number),
                pass_fds=[listener.fileno()],
            )  # fmt: skip
        listener.close()
        self.run(sys.executable, "-m", "bench.receive", "--part", "index", str(self.folder), "0", "0")

    def held(self) -> int:
        from sqlalchemy import func, select

        from node.identified.tables import InstanceRow
        from node.ledger.database import open_engine, reading, sqlite_url

        until = time.monotonic() + 5
        count = last = -1
        while time.monotonic() < until and (count < 0 or count != last):
            last = count
            time.sleep(0.5)
            with reading(open_engine(sqlite_url(self.folder / "identified.db"))) as db:
                count = db.scalar(select(func.count()).select_from(InstanceRow)) or 0
        return count


class Storescp(Receiver):
    """DCMTK storescp --fork: to the page cache only."""

    def start(self) -> None:
        (self.folder / "in").mkdir()
        self.run("storescp", "--fork", "-aet", "RADNODE", "-od", str(self.folder / "in"), "-pdu", "131072", str(self.port))

    def held(self) -> int:
        return sum(1 for _ in (self.folder / "in").iterdir())


class Orthanc(Receiver):
    """Orthanc as it comes: SyncStorageArea on."""

    def start(self) -> None:
        self.http = free_port()
        config = {
            "Name": "BENCH", "StorageDirectory": str(self.folder / "db"), "IndexDirectory": str(self.folder / "db"),
            "DicomPort": self.port, "HttpPort": self.http, "DicomAet": "RADNODE", "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowEcho": True, "Plugins": [],
        }  # fmt: skip
        (self.folder / "orthanc.json").write_text(json.dumps(config))
        self.run(ORTHANC, str(self.folder / "orthanc.json"))

    def held(self) -> int:
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self.http}/statistics") as answer:
            return int(json.load(answer)["CountInstances"])


class Pynetdicom(Receiver):
    """pynetdicom as its documentation shows it, the bytes written unparsed; page cache only."""

    def start(self) -> None:
        (self.folder / "in").mkdir()
        self.run(sys.executable, "-m", "bench.receive", "--part", "pynetdicom", str(self.folder / "in"), str(self.port), "0")

    def held(self) -> int:
        return sum(1 for _ in (self.folder / "in").iterdir())


KINDS: dict[str, type[Receiver]] = {"storescp": Storescp, "node": Node, "orthanc": Orthanc, "pynetdicom": Pynetdicom}


def part(kind: str, folder: Path, number: int, name: str) -> None:
    """What a child process of this script does."""
    if kind == "pynetdicom":
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification

        def store(event: evt.Event) -> int:
            (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
            return 0

        ae = AE("RADNODE")
        ae.supported_contexts = AllStoragePresentationContexts
        ae.add_supported_context(Verification)
        ae.start_server(("127.0.0.1", number), evt_handlers=[(evt.EVT_C_STORE, store)])
        return
    from node import scp
    from node.identified.clean_uids import CleanUids
    from node.identified.intake import Intake
    from node.identified.keys import Keyring
    from node.identified.vault import Vault
    from node.ledger.database import open_engine, sqlite_url

    engine = open_engine(sqlite_url(folder / "identified.db"))
    keyring = Keyring(engine, bytes(32))
    vault = Vault(folder / "vault", keyring)
    clean_uids = CleanUids(keyring.site_key("uids"))
    if kind == "scp":
        door = scp.Door(
            ae_title="RADNODE",
            callers=(scp.CallerRule.of("BENCH"),),
            writer=vault.writer(f"scp-{name}"),
            clean_uids=clean_uids,
            free_bytes=lambda: shutil.disk_usage(folder).free,
        )
        scp.serve(socket.socket(fileno=number), door)
        return
    intake = Intake(engine, vault, keyring, clean_uids, settle_after_s=1e9, settle_complete_after_s=1e9)
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    while going:
        intake.index_new()
        time.sleep(0.1)


def send(folders: list[Path], port: int) -> float:
    """Seconds until the last sender is done."""
    begun = time.monotonic()
    senders = [
        subprocess.Popen(["storescu", "-aec", "RADNODE", "-aet", "BENCH", "+sd", "127.0.0.1", str(port), str(folder)],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for folder in folders
    ]  # fmt: skip
    for sender in senders:
        _, errors = sender.communicate()
        if sender.returncode:
            raise SystemExit(f"storescu failed: {errors.decode()[-500:]}")
    return time.monotonic() - begun


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--senders", type=int, default=4)
    asked.add_argument("--each", type=int, default=500)
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    asked.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    asked.add_argument("--nodelay", action="store_true", help="TCP_NODELAY=1 for DCMTK, senders and receiver")
    options = asked.parse_args()
    if options.nodelay:
        os.environ["TCP_NODELAY"] = "1"
    if options.part:
        part(options.part[0], Path(options.part[1]), int(options.part[2]), options.part[3])
        return
    total = options.senders * options.each
    seconds: dict[str, list[float]] = {kind: [] for kind in options.only}
    cpu: dict[str, list[float]] = {kind: [] for kind in options.only}
    lost: dict[str, int] = dict.fromkeys(options.only, 0)
    with tempfile.TemporaryDirectory(prefix="radnode-bench-") as scratch:
        folders = make_instances(Path(scratch) / "send", options.senders, options.each)
        for _ in range(options.rounds):
            for kind in options.only:
                home = Path(scratch) / kind
                home.mkdir()
                receiver = KINDS[kind](home)
                try:
                    receiver.start()
                    receiver.ready()
                    os.sync()
                    before = receiver.cpu_s()
                    seconds[kind].append(send(folders, receiver.port))
                    lost[kind] += total - receiver.held()
                    cpu[kind].append(receiver.cpu_s() - before)
                finally:
                    receiver.stop()
                    shutil.rmtree(home)
    base = seconds.get("storescp") or next(iter(seconds.values()))
    print(
        f"{options.senders} senders of {options.each} CT, 512 x 512 x 16 bit, {options.rounds} round(s), {os.cpu_count()} cores{', TCP_NODELAY=1' if options.nodelay else ''}\n"
    )
    print("| receiver | instances/s | ratio to storescp | lost | CPU s per 1000 |\n|---|---|---|---|---|")
    for kind in options.only:
        ratio = statistics.median(b / s for b, s in zip(base, seconds[kind], strict=True))
        rate = total / statistics.median(seconds[kind])
        busy = statistics.median(cpu[kind]) / total * 1000
        print(f"| {(KINDS[kind].__doc__ or '').rstrip('.')} | {rate:.0f} | {ratio:.2f} | {lost[kind]} | {busy:.2f} |")


if __name__ == "__main__":
    main()
