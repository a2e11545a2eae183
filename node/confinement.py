"""What a process that computes may not do: reach a network, read the folders of the wing, outlive its parent, be spared by the OOM killer."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
AF_UNIX = 1
NICENESS = 5

#: machine → (AUDIT_ARCH of linux/audit.h, number of socket(2), number of io_uring_setup(2))
SYSTEM_CALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread that started it ends."""
    _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(0)


def step_back() -> None:
    """Let receivers go first, and be the first to go when memory is short."""
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")


def without_network(hidden: Sequence[Path] = ()) -> str:
    """No network from here on, and `hidden` folders are empty.

    Returns how: "namespace" (an empty network name space), "filter" (the kernel refuses sockets that are not local; folders stay),
    or "" when this machine allows neither. Must run before any thread begins.
    """
    if _own_namespaces():
        with suppress(OSError):
            _hide(hidden)
        return "namespace"
    return "filter" if refuse_sockets() else ""


def _own_namespaces() -> bool:
    libc = _libc()
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) != 0:
        return False
    with suppress(OSError):  # without a map the process keeps its rights on files, but has no name
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _hide(folders: Sequence[Path]) -> None:
    """Lay an empty, read-only file system over each folder, for this process only."""
    libc = _libc()
    if folders and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    for folder in folders:
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        if folder.is_dir() and libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, b"size=4k,mode=700") != 0:
            raise OSError(ctypes.get_errno(), "mount")


def refuse_sockets() -> bool:
    """A seccomp filter: socket(2) only for AF_UNIX. Needs no privilege, and holds for every child too."""
    if platform.machine() not in SYSTEM_CALLS:
        return False
    arch, socket, io_uring = SYSTEM_CALLS[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JEQ|K, JGE|K, RET|K
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EACCES  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
    # offsets into struct seccomp_data: nr 0, arch 4, args[0] 16; jumps count the instructions that are skipped
    program = (
        (load, 0, 0, 4),
        (equal, 0, 7, arch),  # another architecture's numbers: refused
        (load, 0, 0, 0),
        (at_least, 5, 0, 0x40000000),  # the x32 ABI: refused
        (equal, 4, 0, io_uring),
        (equal, 0, 2, socket),
        (load, 0, 0, 16),
        (equal, 0, 1, AF_UNIX),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    )
    return install_filter(program)


def install_filter(program: Sequence[tuple[int, int, int, int]]) -> bool:
    """Give this thread and its children a seccomp program: (code, jump if true, jump if false, k) for each instruction."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    filter = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    head = Program(len(program), ctypes.cast(filter, ctypes.c_void_p))
    libc = _libc()
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(head), 0, 0) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
