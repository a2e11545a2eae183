"""Looking in a process of its own: decoders are native code that a damaged image can bring down, and the gateway must outlive that.

The process holds the detector, so it is loaded once: when the first picture has to be read, for it takes a gigabyte that a node without
such pictures never needs. It is told an image and answers with boxes and bytes; it has no keys, and what it answers is never unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydicom.dataset import Dataset

import node
from node import errors, log
from node.errors import PixelsNotSeen, StudyRefused, TextDetectorFailed
from node.identified.boxes import Box
from node.identified.looking import ByHand, Looker, Seen
from node.identified.pixel_module import Rewritten
from node.identified.pixels import Decision, TextDetection

LONGEST_S = 900.0  #: for one image; then it hangs
HEAD = struct.Struct(">QQ")  #: bytes of JSON, bytes after it
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")  #: of the environment: no settings, no keys

_log = log.get(__name__)


class LookingApart:
    """A `Looker` whose work is done by a process that may crash. Sent to another process it has one of its own there, once."""

    def __init__(self, looker: Looker, *, threads: int = 0) -> None:
        self.looker = looker
        self._threads = threads or min(2, len(os.sched_getaffinity(0)))
        self._of: tuple[int, subprocess.Popen[bytes]] | None = None
        self._one_at_a_time = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.looker, self._threads)

    @property
    def text_detection(self) -> TextDetection:
        return self.looker.text_detection

    def with_threads(self, threads: int) -> LookingApart:
        """The same, for a process that shares the machine with others of its kind."""
        return LookingApart(self.looker, threads=threads)

    def close(self) -> None:
        """End the process."""
        with self._one_at_a_time:
            if self._of is not None and self._of[0] == os.getpid():
                _end(self._of[1])
            self._of = None

    def look(self, ds: Dataset, transfer_syntax_uid: str, decision: Decision, by_hand: ByHand, *, explicit: bool) -> Seen:
        """As `Looker.look`. A process that ends over an image makes it one that can't be seen."""
        return _understood(*self._ask(ds, "look", (transfer_syntax_uid, decision, by_hand), {"explicit": explicit}))

    def read(self, ds: Dataset, transfer_syntax_uid: str) -> list[tuple[int, str]]:
        """As `Looker.read`."""
        answer, _ = self._ask(ds, "read", (transfer_syntax_uid,), {})
        return [(int(frame), str(text)) for frame, text in answer["texts"]]

    def _ask(self, ds: Dataset, what: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """What the process answers. Raises what it refused."""
        instance = str(ds.SOPInstanceUID)
        asked = pickle.dumps((self.looker, what, ds, arguments, named))
        with self._one_at_a_time:
            process = self._process()
            watch = threading.Timer(LONGEST_S, process.kill)
            watch.start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                with suppress(BrokenPipeError):
                    process.stdin.write(HEAD.pack(len(asked), 0) + asked)
                    process.stdin.flush()
                answer, rest = _read(process.stdout)
            except EOFError:
                _end(process)
                self._of = None
                _log.warning("a process that looks at pixels ended", extra={"instance": instance, "status": process.returncode})
                raise PixelsNotSeen("(the decoder crashed or hangs)", instance=instance) from None
            finally:
                watch.cancel()
        _raise_what_is_refused(answer)
        return answer, rest

    def _process(self) -> subprocess.Popen[bytes]:
        """The process of this process: a fork has none yet."""
        if self._of is None or self._of[0] != os.getpid() or self._of[1].poll() is not None:
            self._of = (os.getpid(), _begin(self._threads))
        return self._of[1]


_here: dict[Looker, LookingApart] = {}


def _again(looker: Looker, threads: int) -> LookingApart:
    """The one of this process: whoever comes second shares the detector of the first."""
    return _here.setdefault(looker, LookingApart(looker, threads=threads))


def _begin(threads: int) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    root = str(Path(node.__file__).absolute().parents[1])
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "node.identified.looking_apart", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # native code says what it likes
            env={**kept, "PYTHONPATH": root, "OMP_NUM_THREADS": str(threads)},
            cwd="/",
        )
    except OSError as why:
        raise TextDetectorFailed(f"its process does not start ({type(why).__name__})") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            if stream is not None:
                stream.close()


# --- what is said -------------------------------------------------------------------------------------------------------------------
def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    words, rest = HEAD.unpack(_exactly(stream, HEAD.size))
    return json.loads(_exactly(stream, words)), _exactly(stream, rest)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _raise_what_is_refused(answer: dict[str, Any]) -> None:
    if "refused" in answer:
        kind = getattr(errors, str(answer["refused"]), None)
        if not (isinstance(kind, type) and issubclass(kind, StudyRefused)):
            kind = PixelsNotSeen
        raise kind(str(answer["detail"]), instance=str(answer["instance"]))


def _understood(answer: dict[str, Any], rest: bytes) -> Seen:
    boxes = tuple(Box(*(int(edge) for edge in box)) for box in answer["boxes"])
    if "transfer_syntax_uid" not in answer:
        return Seen(boxes, None, bool(answer["searched"]))
    elements = {int(tag): bytes.fromhex(value) for tag, value in answer["elements"].items()}
    rewritten = Rewritten(transfer_syntax_uid=str(answer["transfer_syntax_uid"]), chunk=rest, elements=elements)
    return Seen(boxes, rewritten, bool(answer["searched"]))


def _answer(asked: bytes, threads: int) -> tuple[dict[str, Any], bytes]:
    looker, what, ds, arguments, named = pickle.loads(asked)  # noqa: S301 - from the process that started this one
    try:
        if what == "read":
            return {"texts": looker.with_threads(threads).read(ds, *arguments)}, b""
        seen = looker.with_threads(threads).look(ds, *arguments, **named)
    except StudyRefused as why:
        return {"refused": type(why).__name__, "detail": why.detail, "instance": str(why.facts.get("instance", ""))}, b""
    except Exception as why:  # whatever it is, nobody looked; its text may quote what stands in the image
        return {"refused": PixelsNotSeen.__name__, "detail": f"({type(why).__name__})", "instance": str(ds.SOPInstanceUID)}, b""
    answer: dict[str, Any] = {"boxes": [list(box) for box in seen.boxes], "searched": seen.searched}
    if seen.rewritten is None:
        return answer, b""
    answer["transfer_syntax_uid"] = seen.rewritten.transfer_syntax_uid
    answer["elements"] = {str(tag): value.hex() for tag, value in seen.rewritten.elements.items()}
    return answer, seen.rewritten.chunk


def main() -> None:
    """Answer until nobody asks any more."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    threads = int(sys.argv[1])
    while True:
        try:
            length, _ = HEAD.unpack(_exactly(stdin, HEAD.size))
            asked = _exactly(stdin, length)
        except EOFError:
            return
        answer, rest = _answer(asked, threads)
        words = json.dumps(answer).encode()
        stdout.write(HEAD.pack(len(words), len(rest)) + words)
        stdout.write(rest)
        stdout.flush()


if __name__ == "__main__":
    main()
