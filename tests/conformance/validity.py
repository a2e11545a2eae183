"""What dciodvfy and dicom-validator say of a file, so that before and after can be compared."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from tests.conformance.iod_tables import iod_errors

#: values and item numbers differ without meaning anything; the place and the fault stay
_VARIES = re.compile(r"(?:value|Value) = <.*?>|\[\d+\]|<(?!/)[^>]*>|= <[^>]*>")
_VALUE = re.compile(r"(?<=value ').*(?=' for VR)", re.DOTALL)


def errors_of(dciodvfy: str, path: Path) -> Counter[str]:
    """Errors, counted."""
    told = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return Counter(_VARIES.sub("", line) for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error"))


def new_errors(dciodvfy: str, before: Path, after: Path) -> list[str]:
    """Errors of the clean file that the original has not. Of a deflated original dciodvfy sees the start only, so it is read plain."""
    with TemporaryDirectory() as folder:
        if b"1.2.840.10008.1.2.1.99" in before.read_bytes()[:1024]:
            plain = dcmread(before, force=True)
            plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            before = Path(folder) / "plain.dcm"
            plain.save_as(before, enforce_file_format=True)
        return sorted(errors_of(dciodvfy, after) - errors_of(dciodvfy, before))


def new_iod_errors(before: Path, after: Path) -> list[str]:
    """The same by dicom-validator."""
    had, has = (Counter(_VALUE.sub("", error) for error in iod_errors(dcmread(path, force=True))) for path in (before, after))
    return sorted(has - had)
