"""The cell: after `lock` this process starts no program, writes nowhere but its scratch folder, and reads only what it needs to compute.

Landlock (Linux 5.13) keeps it to folders; a seccomp filter takes the calls that have no place in a computation, and those that Landlock
does not see: times and attributes of files, signals and limits of other processes, memory that outlives whoever made it. Where a kernel has
no Landlock the filter refuses every write, so that there is no scratch either, and reading is as wide as the worker's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import node
from node.confinement import install_filter

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  #: the same numbers on every architecture
CAPABILITY_VERSION_3 = 0x20080522
RULE_PATH_BENEATH, CREATE_RULESET_VERSION = 1, 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
#: file-system rights of each Landlock version; execute (bit 0) and all changes are refused outside the scratch folder
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
EVERYWHERE = (
    *("/usr", "/lib", "/lib64", "/sys", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom"),
    *(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "stat", "version", "filesystems", "driver", "sys")),  # of no other process
    *("/proc/devices", "/proc/modules"),  # where CUDA looks for its driver
)
DEVICES = ("nvidia*", "dxg", "dri", "kfd", "null")  #: below /dev: opened for writing by their drivers

#: Linux system calls by name → number (x86_64, aarch64); None: the architecture does not have it
BY_MACHINE = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
NEVER = {  # programs, other processes, privileges, modes and owners of files
    **{"execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117)},
    **{"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129), "tkill": (200, 130)},
    **{
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
        "pidfd_send_signal": (424, 424),
        "pidfd_getfd": (438, 438),
        "unshare": (272, 97),
        "setns": (308, 268),
    },
    **{"mount": (165, 40), "umount2": (166, 39), "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241)},
    **{"keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425)},
    **{"connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "socketpair": (53, 199)},
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54)},
    **{"utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "file_setattr": (469, 469)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466)},
    **{"truncate": (76, 45), "openat2": (437, 437)},  # Landlock sees no truncation before Linux 6.2
    # these tell names of files in folders that can't be listed
    **{"inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262)},
    **{"shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "mq_unlink": (241, 181)},
    **{"setpriority": (141, 140), "ioprio_set": (251, 30)},
}
CHANGES = {  # without Landlock: whatever changes a file system
    **{"creat": (85, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38)},
    **{"renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37)},
    **{"symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33)},
}
OPEN, OPENAT = (2, None), (257, 56)
CLONE, CLONE3, TGKILL = (56, 220), (435, 435), (234, 131)
OF_A_PROCESS = {  #: of itself only: the first argument is 0
    **{"prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274)},
    **{"sched_setparam": (142, 118), "sched_setscheduler": (144, 119)},
}
PRCTL, PR_SET_PDEATHSIG = (157, 167), 1
FCNTL, F_SETOWN, F_SETOWN_EX = (72, 25), 8, 15  #: who is sent a signal when something can be read
CLONE_THREAD = 0x10000
SOCKET, AF_UNIX, SEQPACKET = (41, 198), 1, 4  #: the bit that tells SOCK_SEQPACKET (5) from the two other kinds of local sockets
OPEN_TO_CHANGE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Instruction = tuple[int, int, int, int]
LOAD, EQUAL, AT_LEAST, ANY_BIT, GIVE = 0x20, 0x15, 0x35, 0x45, 0x06  #: BPF: LD|W|ABS, JMP|JEQ, JMP|JGE, JMP|JSET, RET
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EACCES, 0x00050000 | errno.ENOSYS


def lock(bundle: Path, scratch: Path, *, memory_mb: int | None, gpu: bool = False) -> str:
    """Shut the cell for good. Must run before any thread begins.

    Parameters
    ----------
    bundle
        The folder that may be read beside the interpreter and its libraries.
    scratch
        The one folder that may be written.
    memory_mb
        How much memory the process may ask for; None where it can't be counted (a GPU's driver reserves far more than it uses).
    gpu
        Whether CUDA is to begin in here: it binds a local socket of its own (`cuda-uvmfd-…`, where other processes could ask it for memory)
        and gives up without. Nobody is answered there, and no other socket is reached. A kernel without Landlock refuses it all the same.

    Returns
    -------
    "landlock", or "filter" on a kernel without it; "" when this machine has neither, and nothing may run.
    """
    _drop_privileges()
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 64 << 20)):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    if memory_mb is not None:
        limit_memory(memory_mb)
    fenced = _fence([bundle, *_libraries()], scratch)
    if not _filter(refuse_changes=not fenced, sockets=gpu and fenced):
        return ""
    return "landlock" if fenced else "filter"


def limit_memory(memory_mb: int) -> None:
    """What the process may ask for from here on."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))


def _drop_privileges() -> None:
    """A node that runs as root gives none of its capabilities to a guest."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)())


def _libraries() -> Iterator[Path]:
    """Where Python and its packages lie, and the code of this node."""
    yield from map(Path, (*EVERYWHERE, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix))
    yield from (Path(path) for path in sysconfig.get_paths().values())
    yield from (Path(path).resolve() for path in sysconfig.get_paths().values())
    yield Path(node.__file__).parent


# --- Landlock -------------------------------------------------------------------------------------------------------------
def _fence(readable: Iterable[Path], scratch: Path) -> bool:
    """Restrict this process to reading `readable` and writing `scratch`; False where the kernel has no Landlock."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = RIGHTS[min(version, max(RIGHTS))]
    handled = ctypes.c_uint64(rights)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(libc, ruleset, path, READ_FILE | READ_DIR)
        _allow(libc, ruleset, scratch, rights & ~1)
        for pattern in DEVICES:
            for device in Path("/dev").glob(pattern):
                _allow(libc, ruleset, device, READ_FILE | READ_DIR | 1 << 1)
        if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
            return False
        return bool(libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    class Beneath(ctypes.Structure):
        _pack_ = 1
        _layout_ = "ms"
        _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]

    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= READ_FILE | 1 << 1  # a file takes no rights of folders
        rule = Beneath(rights, handle)
        libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(handle)


# --- seccomp --------------------------------------------------------------------------------------------------------------
def _filter(*, refuse_changes: bool, sockets: bool) -> bool:
    """Take the calls away; False on a machine whose numbers are not known here, or that has no filters."""
    if platform.machine() not in BY_MACHINE:
        return False
    arch, column = BY_MACHINE[platform.machine()]
    program: list[Instruction] = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, arch),
        (GIVE, 0, 0, REFUSE),
        (LOAD, 0, 0, 0),
        (AT_LEAST, 0, 1, 0x40000000),  # the x32 ABI
        (GIVE, 0, 0, REFUSE),
    ]
    for numbers in (NEVER | CHANGES if refuse_changes else NEVER).values():
        number = numbers[column]
        if number is not None:
            program += [(EQUAL, 0, 1, number), (GIVE, 0, 0, REFUSE)]
    if sockets:  # local ones that only speak with whom they accept, and none is accepted
        program += _unless(SOCKET[column], argument=0, test=(EQUAL, 1, 0, AF_UNIX))
        program += _unless(SOCKET[column], argument=1, test=(ANY_BIT, 1, 0, SEQPACKET))
    else:
        program += [(EQUAL, 0, 1, SOCKET[column]), (GIVE, 0, 0, REFUSE)]
    program += [(EQUAL, 0, 1, CLONE3[column]), (GIVE, 0, 0, UNKNOWN)]  # its flags lie in memory: libraries fall back to clone
    program += _unless(CLONE[column], argument=0, test=(ANY_BIT, 1, 0, CLONE_THREAD))  # threads, no processes
    program += _unless(TGKILL[column], argument=0, test=(EQUAL, 1, 0, os.getpid()))  # abort(3) of itself
    for numbers in OF_A_PROCESS.values():
        program += _unless(numbers[column], argument=0, test=(EQUAL, 1, 0, 0))
    program += _unless(PRCTL[column], argument=0, test=(EQUAL, 0, 1, PR_SET_PDEATHSIG))  # it ends with its worker
    for command in (F_SETOWN, F_SETOWN_EX):
        program += _unless(FCNTL[column], argument=1, test=(EQUAL, 0, 1, command))
    changing = (ANY_BIT, 0, 1, OPEN_TO_CHANGE)
    for number, argument in ((OPENAT[column], 2), (OPEN[column], 1)):
        program += _unless(number, argument=argument, test=changing) if refuse_changes else _reading(number, argument)
    program.append((GIVE, 0, 0, ALLOW))
    return install_filter(program)


def _reading(number: int | None, argument: int) -> list[Instruction]:
    """Refuse to open a file for reading that is emptied by it (O_RDONLY with O_TRUNC): what is written may be emptied where Landlock lets it."""
    if number is None:
        return []
    writes, empties = (ANY_BIT, 2, 0, os.O_WRONLY | os.O_RDWR), (ANY_BIT, 0, 1, os.O_TRUNC)
    return [(EQUAL, 0, 5, number), (LOAD, 0, 0, 16 + 8 * argument), writes, empties, (GIVE, 0, 0, REFUSE), (LOAD, 0, 0, 0)]


def _unless(number: int | None, *, argument: int, test: Instruction) -> list[Instruction]:
    """Refuse call `number` unless the test of its argument jumps over the refusal."""
    if number is None:
        return []
    offset = 16 + 8 * argument  # args[] in struct seccomp_data, the low half first
    return [(EQUAL, 0, 4, number), (LOAD, 0, 0, offset), test, (GIVE, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
