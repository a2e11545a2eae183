"""Things of a department that tests use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orthanc_server import OrthancServer

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("RADNODE_SHARED", ROOT.parent / "shared"))
OPTIONAL = bool(os.environ.get("RADNODE_TEST_OPTIONAL"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images; tests that need it say so when it is not there."""
    if not (SHARED / "data" / "dicom").is_dir():
        pytest.skip(f"real images are not here: set RADNODE_SHARED (looked in {SHARED})")
    return SHARED


def need(program: str, package: str) -> str:
    """The path of a real part. A missing one fails the test, or skips it with RADNODE_TEST_OPTIONAL=1."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found:
        return found
    message = f"{program} is not installed: apt-get install {package} (or set RADNODE_TEST_OPTIONAL=1 to skip)"
    if OPTIONAL:
        pytest.skip(message)
    pytest.fail(message)


@pytest.fixture(scope="session")
def orthanc_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    """One real Orthanc for the whole run; use `orthanc`, which is empty at the start of each test."""
    server = OrthancServer(need("Orthanc", "orthanc orthanc-dicomweb"), tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def orthanc(orthanc_for_all: OrthancServer) -> OrthancServer:
    """A real Orthanc with the project's configuration, holding nothing."""
    orthanc_for_all.empty()
    return orthanc_for_all
