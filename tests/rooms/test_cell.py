"""What the code of a bundle can't do: each thing is tried from inside, by code that a bundle brought."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRIES = """
import ctypes, fcntl, json, os, platform, resource, signal, socket, struct, subprocess, sys, threading
from pathlib import Path
from node.guests._process import cell
if sys.argv[4] == "no landlock":
    cell._fence = lambda *_: False
if sys.argv[4] == "an old one":
    cell.RIGHTS = {1: cell.RIGHTS[1]}
how = cell.lock(Path(sys.argv[1]), Path(sys.argv[2]), memory_mb=1024, gpu=sys.argv[6] == "gpu")
outside, port, parent = Path(sys.argv[3]), int(sys.argv[5]), os.getppid()

def tried(act):
    try:
        act()
    except (OSError, MemoryError) as why:
        return type(why).__name__
    return "done"

def forked():
    if os.fork() == 0:
        os._exit(0)

def thread():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()

def as_cuda_does(then):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.setblocking(False)
        one.bind(chr(0) + f"cuda-uvmfd-{os.getpid()}")
        one.listen()
        then(one)

def call(numbers, *arguments):
    number = numbers[platform.machine() == "aarch64"]
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def queued():
    call((297, 240), parent, parent, signal.SIGURG, struct.pack("iiii", signal.SIGURG, 0, -1, 0) + bytes(112))

def sent_when_readable():
    ours, end = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETOWN, parent)
    fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(end, b"x")

def kept_memory():
    call((29, 194), 0, ctypes.c_size_t(1 << 16), 0o1600)

def emptied_by_reading():
    os.close(os.open(Path(sys.argv[1]) / "weights", os.O_RDONLY | os.O_TRUNC))

def outlive():
    if ctypes.CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "refused")

print(json.dumps({"how": how} | {name: tried(act) for name, act in {
    "read its own": lambda: (Path(sys.argv[1]) / "weights").read_text(),
    "write its scratch": lambda: (Path(sys.argv[2]) / "note").write_text("x"),
    "start a thread": thread,
    "read a secret": lambda: outside.read_text(),
    "list the folder": lambda: os.listdir(outside.parent),
    "read the users": lambda: Path("/etc/passwd").read_text(),
    "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
    "change its own": lambda: (Path(sys.argv[1]) / "weights").write_text("x"),
    "write outside": lambda: (outside.parent / "new").write_text("x"),
    "truncate": lambda: os.truncate(outside, 0),
    "remove": lambda: outside.unlink(),
    "rename": lambda: outside.rename(outside.with_name("other")),
    "change a mode": lambda: outside.chmod(0o777),
    "connect": lambda: socket.create_connection(("127.0.0.1", port), timeout=5),
    "open a local socket": lambda: socket.socket(socket.AF_UNIX),
    "open a local socket for messages": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "open a socket of the network": lambda: socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET),
    "bind CUDA's socket": lambda: as_cuda_does(lambda one: None),
    "answer at CUDA's socket": lambda: as_cuda_does(lambda one: one.accept()),
    "call another's": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(chr(0) + sys.argv[7]),
    "write to another's from one end of a pair": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", sys.argv[8]),
    "read which drivers there are": lambda: Path("/proc/devices").read_text(),
    "start a program": lambda: subprocess.run(["/bin/true"]),
    "fork": forked,
    "kill the parent": lambda: os.kill(parent, signal.SIGKILL),
    "queue a signal for the parent": queued,
    "let a pipe signal the parent": sent_when_readable,
    "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CORE, (0, 0)),
    "limit itself": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "choose the parent's core": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(0)),
    "choose a core": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "slow the parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, 0),
    "outlive the parent": outlive,
    "truncate its own": lambda: os.truncate(Path(sys.argv[1]) / "weights", 3),
    "empty its own by reading it": emptied_by_reading,
    "date a file": lambda: os.utime(outside, (1, 1)),
    "mark a file": lambda: os.setxattr(outside, "user.radnode", b"x"),
    "watch the folder": lambda: call((294, 26), 0),
    "keep memory that outlives it": kept_memory,
    "take memory": lambda: bytearray(2 << 30),
}.items()}))
"""
MAY = {"read its own", "write its scratch", "start a thread", "read which drivers there are", "limit itself", "choose a core"}
#: without Landlock: the filter can't tell paths apart, so nothing is written and everything that the worker may read is read
WIDER = {"read a secret", "list the folder", "read the users"}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("kernel", ["as it is", "an old one", "no landlock"])
def test_code_of_a_bundle_reaches_nothing_and_changes_nothing(tmp_path: Path, kernel: str, device: str) -> None:
    """With a GPU it may have the socket that CUDA does not begin without, and do nothing with it. Landlock does not see all of this itself."""
    bundle, scratch, outside = tmp_path / "bundle", tmp_path / "scratch", tmp_path / "wing" / "secret"
    for folder in (bundle, scratch, outside.parent):
        folder.mkdir()
    (bundle / "weights").write_text("numbers")
    outside.write_text("CANARY")
    then = outside.stat().st_mtime_ns

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as local,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        local.bind(f"\0radnode-test-{os.getpid()}")
        local.listen()
        ear.bind(str(tmp_path / "ear"))
        words = [str(bundle), str(scratch), str(outside), kernel, str(server.getsockname()[1]), device]
        words += [f"radnode-test-{os.getpid()}", str(tmp_path / "ear")]
        command = [sys.executable, "-P", "-c", TRIES, *words]
        environment = {"PYTHONPATH": str(ROOT), "SECRET": "CANARY", "PATH": os.environ["PATH"]}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr

    said = json.loads(done.stdout)
    how = said.pop("how")
    if kernel != "no landlock" and how == "filter":
        pytest.skip("this kernel has no Landlock")
    assert how == ("filter" if kernel == "no landlock" else "landlock"), done.stderr
    may = MAY if how == "landlock" else (MAY | WIDER) - {"write its scratch"}
    if how == "landlock" and device == "gpu":
        may = may | {"bind CUDA's socket"}
        assert {said["answer at CUDA's socket"], said["call another's"]} == {"PermissionError"}
    if how == "filter":
        said.pop("read the parent's environment")  # of a parent without more privileges it may be read
    assert {name for name, outcome in said.items() if outcome == "done"} == may
    assert outside.read_text() == "CANARY"
    assert outside.stat().st_mtime_ns == then
    assert os.listxattr(outside) == []
    assert (bundle / "weights").read_text() == "numbers"
    assert sorted(path.name for path in outside.parent.iterdir()) == ["secret"]
