"""The main of a guest: locks itself in, loads the bundle, answers questions on standard output until standard input ends."""

from __future__ import annotations

import ctypes.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from pydoc import ErrorDuringImport
from typing import Any

from node.confinement import end_with_parent, step_back, without_network
from node.device import computes
from node.guests._process.cell import limit_memory, lock
from node.guests._process.refusal import Refusal
from node.guests.wire import packed, unpacked
from node.log import where_it_failed

BROKEN = 3
SHUT_IN = " (a bundle has no network, starts no program and writes to its scratch folder only)"


def main(settings: dict[str, Any]) -> int:
    end_with_parent(settings["parent"])
    step_back()
    questions, answers = _take_over_standard_streams()
    bundle, scratch = Path(settings["bundle"]), Path(settings["scratch"])
    without_network()
    on_gpu = settings["device"].startswith("cuda")
    how = lock(bundle, scratch, memory_mb=None if on_gpu else settings["memory_mb"], gpu=on_gpu)
    if how == "filter":  # a compiler would be asked where a library lies, with a file that can't be written
        ctypes.util._findLib_gcc = lambda _name: None  # type: ignore[attr-defined]
    if not how:
        _say(answers, {"failed": "this machine can't lock in the code of a bundle: it needs Linux with Landlock or seccomp"})
        return BROKEN
    tempfile.tempdir = str(scratch)  # told, so that nobody tries by writing where nothing may be written
    os.chdir(bundle)
    warnings.simplefilter("ignore")
    try:
        from node.guests._process.monai_bundle import Ready  # the libraries too are imported inside the cell

        device = settings["device"] if not on_gpu or computes(settings["device"]) else "cpu"
        if device != settings["device"]:
            limit_memory(settings["memory_mb"])
        ready = Ready.load(bundle, json.loads((bundle / "node.json").read_text()), device)
        _say(answers, {**ready.told, "device": device})
    except Refusal as why:
        _say(answers, {"failed": str(why)})
        return 0
    except BaseException as why:
        _say(answers, {"failed": f"its configuration or network can't be built: {_in_words(why)}"})
        return BROKEN
    while True:
        facts, arrays = unpacked(_taker(questions))
        try:
            _say(answers, *ready.answer(facts, arrays))
        except Refusal as why:
            _say(answers, {"refused": str(why)})
        except MemoryError:
            _say(answers, {"failed": f"it asked for more than {settings['memory_mb']} MB of memory"})
            return BROKEN
        except BaseException as why:
            _say(answers, {"failed": _failure(why, settings["memory_mb"])})
            return BROKEN


def _failure(why: BaseException, memory_mb: int) -> str:
    """What went wrong in the bundle's code. What a GPU has no room for is told in its own words: they name both sizes."""
    if type(why).__name__ != "OutOfMemoryError" and ("allocate memory" in str(why) or "out of memory" in str(why)):
        why = MemoryError(f"more than {memory_mb} MB of memory")
    return f"its code failed: {_in_words(why)}"


def _in_words(why: BaseException) -> str:
    """Type, place and the beginning of what it says: no name is in here that could be quoted."""
    chain = [why]
    while (cause := chain[-1].value if isinstance(chain[-1], ErrorDuringImport) else chain[-1].__cause__) is not None and len(chain) < 4:
        chain.append(cause)
    if len(chain) > 1 and "did you mean" in str(chain[-1]):  # a guess of MONAI's; before it stands which reference leads nowhere
        chain.pop()
    if isinstance(chain[-1], ModuleNotFoundError) and chain[-1].name and not Path(package := chain[-1].name.partition(".")[0]).exists():
        return f"it needs the Python package {package}, which is not installed here"
    if isinstance(chain[-1], UnpicklingError):
        return "a file that it loads holds more than tensors and numbers, and could run code (weights_only=True refuses it)"
    said = str(chain[-1]).strip().splitlines()
    if said and "TorchScript interpreter" in said[0]:  # the reason stands below its trace
        said = said[-1:]
    shut_in = isinstance(chain[-1], OSError) and not isinstance(chain[-1], FileNotFoundError)
    return f"{where_it_failed(chain[-1])}{f': {said[0][:240]}' if said else ''}{SHUT_IN if shut_in else ''}"


def _take_over_standard_streams() -> tuple[int, int]:
    """(questions, answers). What a library prints goes nowhere, and can't disturb the answers."""
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    return questions, answers


def _taker(stream: int) -> Callable[[int], bytearray]:
    def take(count: int) -> bytearray:
        taken = bytearray(count)
        view = memoryview(taken)
        done = 0
        while done < count:
            read = os.readv(stream, [view[done : done + (1 << 20)]])
            if read == 0:
                sys.exit(0)  # nobody asks any more
            done += read
        return taken

    return take


def _say(stream: int, facts: dict[str, Any], arrays: Any = None) -> None:
    with suppress(BrokenPipeError):
        for part in packed(facts, arrays):
            left = memoryview(part)
            while left:
                left = left[os.write(stream, left[: 1 << 20]) :]


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
