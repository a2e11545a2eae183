"""Who holds a job: a process on a machine. One that is known to be gone gives its jobs back before their lease runs out."""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path

import psutil


def holder() -> str:
    """A name for a runner of this process: machine, process, when it began, and one runner of several in it."""
    return f"{_machine()}:{os.getpid()}:{_began(os.getpid())}:{secrets.token_hex(4)}"


def is_gone(name: str) -> bool:
    """Whether the holder was a process of this machine that has ended. False when this machine can't tell."""
    parts = name.rsplit(":", 3)
    if len(parts) != 4:
        return False
    machine, pid, began, _ = parts
    if machine != _machine() or not pid.isdigit():
        return False
    return _began(int(pid)) != began


def _machine() -> str:
    """Host name and PID name space: two containers on one machine are two machines."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return f"{platform.node()[:40]}/{space}"


def _began(pid: int) -> str:
    """When the process began, in hundredths of a second; empty when there is none (or only its remains)."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(int(process.create_time() * 100))
    except psutil.NoSuchProcess:
        return ""
