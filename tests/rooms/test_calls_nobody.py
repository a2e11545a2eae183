"""No library that the node brings along talks to anybody whom nobody named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: libraries that report to their makers are quiet where these say that a machine only tests
QUIETENING = ("CI", "TF_BUILD", "JENKINS_URL")

#: compiles a network, reads the writing on a picture, and writes down what is asked of the network stack and of whom
WORK = """
import os, sys
from pathlib import Path

def heard(event, details):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto", "urllib.Request"):
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{event} {[str(one) for one in details]}\\n")

sys.addaudithook(heard)

import numpy as np
from node.bundle import Bundle
from node.identified.text_detector import find_text

Bundle.open(Path("models/lung_field/1.0.0")).network(engine="openvino")
find_text(np.zeros((64, 64, 3), np.uint8))
assert "openvino" in sys.modules
"""


def test_compiling_a_network_and_looking_for_text_tell_nobody(tmp_path: Path) -> None:
    heard, home = tmp_path / "heard", tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in QUIETENING} | {"HOME": str(home), "HEARD": str(heard)}

    subprocess.run([sys.executable, "-c", WORK], env=environment, cwd=ROOT, check=True, timeout=300)

    assert not heard.exists(), heard.read_text()
    assert not (home / "intel").exists()  # where OpenVINO keeps the number by which its maker knows a machine again
