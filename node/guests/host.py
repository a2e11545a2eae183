"""The node's side of a guest: starts its process, asks it, and ends it when it takes too long, too much, or answers nonsense."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

import node
from node import log
from node.bundle import Bundle
from node.errors import BundleInvalid, GuestFailed, NotAnalysed
from node.guests.wire import Arrays, Garbled, packed, unpacked

_log = log.get(__name__)

START_S = 300.0  #: for the libraries and the weights
LOOK_EVERY_S = 0.25
MOST_SCRATCH_MB = 256
MOST_THREADS = 2048  #: libraries start a few for each core
ROOM_MB = 512  #: resident memory above the limit on what may be asked for: libraries are mapped, not asked for
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one question may cost."""

    time_s: float = 900.0
    memory_mb: int = 6144

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Limits:
        """From the sidecar's `limits`."""
        return cls(time_s=float(told.get("time_s", cls.time_s)), memory_mb=int(told.get("memory_mb", cls.memory_mb)))


class Guest:
    """A bundle's process: warm between questions, started anew after it failed.

    Its code and its answers are not trusted. It gets arrays and plain values, and gives such back.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.bundle = bundle
        self.limits = Limits.of(bundle.node.get("limits", {}))
        self.told: dict[str, Any] = {}  #: what the process said of the network when it was ready
        self._device = device
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="radnode-guest-"))
        self._ended = weakref.finalize(self, _end, [], self._scratch)

    def start(self) -> None:
        """Start the process and let it load the network.

        Raises
        ------
        BundleInvalid
            When the bundle can't be run: the reason names what is wrong in it.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "parent": os.getpid(),
            "bundle": str(self.bundle.path.absolute()),
            "scratch": str(self._scratch),
            "device": self._device,
            "memory_mb": self.limits.memory_mb,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node.guests._process", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whatever its code prints stays out of the log
            env=_environment(self._scratch),
            cwd="/",
            start_new_session=True,
        )
        self._ended = weakref.finalize(self, _end, [self._process], self._scratch)
        try:
            self.told, _ = self._exchange([], START_S)
        except GuestFailed as why:
            raise BundleInvalid(why.detail, bundle=self.bundle.name) from None
        except NotAnalysed as why:
            raise BundleInvalid(why.detail, bundle=self.bundle.name) from None
        if self.told["device"] != self._device:
            _log.warning(
                "a bundle computes on the CPU: its process can't use the GPU", extra={"bundle": self.bundle.name, "gpu": self._device}
            )

    def ask(self, facts: Mapping[str, Any], arrays: Arrays) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The answer to one question.

        Raises
        ------
        NotAnalysed
            The bundle does not take this input; says why.
        GuestFailed
            The process failed, and is gone: the next question starts another.
        """
        self.start()
        return self._exchange(packed(facts, arrays), self.limits.time_s)

    def close(self) -> None:
        """End the process and empty its scratch folder."""
        self._ended()
        self._process = None

    # --- below ----------------------------------------------------------------------------------------------------------
    def _exchange(self, message: list[bytes | memoryview], time_s: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._process is not None
        try:
            facts, arrays = _Exchange(self._process, self._scratch, message, time_s, self._most_mb).carry()
        except _Trouble as why:
            self.close()
            raise GuestFailed(str(why), bundle=self.bundle.name) from None
        except BaseException:
            self.close()  # its answer would come later, and be taken for that to the next question
            raise
        if "refused" in facts:
            raise NotAnalysed(_words(facts["refused"]))
        if "failed" in facts:
            self.close()
            raise GuestFailed(_words(facts["failed"]), bundle=self.bundle.name)
        return facts, arrays

    @property
    def _most_mb(self) -> int:
        return self.limits.memory_mb + ROOM_MB


class _Trouble(Exception):
    """Why the process has to go."""


class _Exchange:
    """One message there and one back, watched: neither side may make the other wait for ever."""

    def __init__(
        self, process: subprocess.Popen[bytes], scratch: Path, message: list[bytes | memoryview], time_s: float, most_mb: int
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._scratch, self._most_mb = process, scratch, most_mb
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._left = [memoryview(part) for part in message]
        self._time_s, self._until, self._looked = time_s, time.monotonic() + time_s, 0.0
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def carry(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        try:
            return unpacked(self._take)
        except Garbled:
            raise _Trouble("the bundle's process answered what is no answer") from None

    def _take(self, count: int) -> bytearray:
        taken = bytearray()
        while len(taken) < count:
            self._wait()
            with suppress(BlockingIOError):
                chunk = os.read(self._from, min(1 << 20, count - len(taken)))
                if not chunk:
                    raise _Trouble(self._ending())
                taken += chunk
        return taken

    def _wait(self) -> None:
        """Until there is something to read; meanwhile what is left is written, and the process is looked at."""
        while True:
            readable, writable, _ = select.select([self._from], [self._to] if self._left else [], [], LOOK_EVERY_S)
            if writable:
                self._write()
            now = time.monotonic()
            if now > self._until:
                raise _Trouble(f"the bundle's code did not end within {self._time_s:g} s")
            if now - self._looked > LOOK_EVERY_S:
                self._looked = now
                self._weigh()
            if readable:
                return

    def _write(self) -> None:
        try:
            while self._left:
                written = os.write(self._to, self._left[0][: 1 << 20])
                self._left[0] = self._left[0][written:]
                if not self._left[0]:
                    self._left.pop(0)
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise _Trouble(self._ending()) from None

    def _weigh(self) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            if process.memory_info().rss >> 20 > self._most_mb:
                raise _Trouble(f"the bundle's code used more than {self._most_mb} MB of memory")
            if process.num_threads() > MOST_THREADS:
                raise _Trouble(f"the bundle's code started more than {MOST_THREADS} threads")
        if written_bytes(self._scratch) + nameless_bytes(self._process.pid) >> 20 > MOST_SCRATCH_MB:
            raise _Trouble(f"the bundle's code wrote more than {MOST_SCRATCH_MB} MB")

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        status = self._process.returncode
        if status is not None and status < 0:
            with suppress(ValueError):
                return f"the bundle's process was stopped by {signal.Signals(-status).name}"
        return f"the bundle's process ended with exit status {status}"


def written_bytes(folder: Path) -> int:
    """Of all files below it; what goes while it is looked at weighs nothing."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += Path(root, name).stat().st_size
    return total


def nameless_bytes(pid: int) -> int:
    """Of the files that a process holds open and that have no name any more, in a folder or in memory."""
    total = 0
    with suppress(OSError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                told = handle.stat()
                total += 512 * told.st_blocks if stat.S_ISREG(told.st_mode) and told.st_nlink == 0 else 0
    return total


def _end(processes: list[subprocess.Popen[bytes]], scratch: Path) -> None:
    """Kill what runs and remove what it wrote."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
    shutil.rmtree(scratch, ignore_errors=True)


def _environment(scratch: Path) -> dict[str, str]:
    """Nothing of the node's settings and keys."""
    kept = {name: os.environ[name] for name in (*KEPT_ENVIRONMENT, *THREADS) if name in os.environ}
    ours = {
        "PYTHONPATH": str(Path(node.__file__).absolute().parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "LOGNAME": "guest",  # libraries ask who they are, and the list of users is not there
        **dict.fromkeys(("HOME", "TMPDIR", "TORCH_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"), str(scratch)),
    }
    return kept | ours


def _words(said: Any) -> str:
    """A sentence from the process: short, printable, one line."""
    return "".join(c if c.isprintable() else " " for c in str(said))[:600]
