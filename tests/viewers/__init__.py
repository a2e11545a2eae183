"""The libraries of real viewers: what they read of ours, and what they write after an edit."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import need

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"


def ohif(action: str, images: Path, file: Path, out: Path, *more: str) -> Path:
    """Run `ohif.mjs`; its libraries are fetched once, as `package-lock.json` pins them."""
    node = need("node", "nodejs")
    with (Path(tempfile.gettempdir()) / "radnode-viewer-libraries.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (MODULES / ".package-lock.json").is_file():
            fetch = [need("npm", "npm"), "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(fetch, cwd=HERE, check=True, capture_output=True, timeout=500)
    done = subprocess.run([node, HERE / "ohif.mjs", action, images, file, out, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert out.is_file(), done.stderr[-2000:]
    return out


def dcmqi(program: str, *arguments: str | Path) -> str:
    """Run one of the programs that 3D Slicer is built on, as the wheel of dcmqi installs them beside this Python."""
    done = subprocess.run([Path(sys.executable).with_name(program), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
