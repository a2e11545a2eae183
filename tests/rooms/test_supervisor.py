"""The supervisor over real processes: it starts them, starts again what ends, and ends them all, even one that does not want to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

READY = "from node.supervisor import say_ready, say_where_when_asked; say_where_when_asked(); say_ready()"
GOOD = f"import signal; {READY}; signal.pause()"
DEAF = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}\ndef deaf():\n    while True: time.sleep(1)\ndeaf()"
SUPERVISE = """
import sys
from node import log
from node.supervisor import Part, Supervisor
log.set_up("INFO")
parts = [Part(name=f"part {number}", command=[sys.executable, "-c", code]) for number, code in enumerate(sys.argv[1:], 1)]
sys.exit(Supervisor(parts, drain_s=1).run(on_ready=lambda: print("ready", flush=True)))
"""


@contextmanager
def supervised(said: Path, *parts: str) -> Iterator[subprocess.Popen[str]]:
    """A supervisor of these parts that has said that all are ready; what they and it say goes to `said`."""
    command = [sys.executable, "-c", SUPERVISE, *parts]
    with said.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(20)


def test_parts_that_hear_sigterm_end_without_a_word(tmp_path: Path) -> None:
    with supervised(tmp_path / "said", GOOD, GOOD) as process:
        assert ended(process) == 0

    assert (tmp_path / "said").read_text() == ""


def test_a_part_that_does_not_end_says_where_it_stands_and_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path / "said", GOOD, DEAF) as process:
        assert ended(process) == 0

    said = (tmp_path / "said").read_text()
    assert "a part did not end in time and is killed" in said
    assert "part 2" in said
    assert "part 1" not in said
    assert "in deaf" in said


def test_a_part_that_ends_is_started_again(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    once = f"import signal; open({str(lives)!r}, 'a').write('x'); {READY}\nif len(open({str(lives)!r}).read()) > 2: signal.pause()"
    with supervised(tmp_path / "said", once) as process:
        until = time.monotonic() + 20
        while len(lives.read_text()) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert ended(process) == 0

    assert lives.read_text() == "xxx"
    assert (tmp_path / "said").read_text().count("a part ended and is started again") == 2
