"""A folder as a destination: one file an object, there whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from io import BytesIO
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 section 9.1, without path characters


class FolderSettings(BaseModel):
    """Where the files go."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: Path


class Folder(Destination):
    """Writes `<SeriesInstanceUID>/<SOPInstanceUID>.dcm`; an object without a series goes below its Modality."""

    Settings = FolderSettings
    settings: FolderSettings

    def send(self, part10: bytes) -> str:
        try:
            header = dcmread(BytesIO(part10), stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID", "Modality"])
        except (InvalidDicomError, EOFError) as why:
            raise DeliveryRefused("not a DICOM file") from why
        name = _safe(str(header.get("SOPInstanceUID", "")), "SOP Instance UID")
        series = str(header.get("SeriesInstanceUID", ""))
        modality = str(header.get("Modality", ""))
        below = _safe(series, "Series Instance UID") if series else re.sub(r"[^A-Z0-9]", "", modality) or "OTHER"
        try:
            _write(self.settings.path / below / f"{name}.dcm", part10)
        except OSError as why:
            raise DeliveryFailed(f"the folder can't be written: {os.strerror(why.errno or 0)}", destination=self.name) from why
        return "written"

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        name = _safe(sop_instance_uid, "SOP Instance UID")
        return any(self.settings.path.glob(f"*/{name}.dcm"))

    def echo(self) -> str:
        try:
            self.settings.path.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise DeliveryFailed(f"the folder can't be made: {os.strerror(why.errno or 0)}", destination=self.name) from why
        if not os.access(self.settings.path, os.W_OK | os.X_OK):
            raise DeliveryFailed("the folder can't be written", destination=self.name)
        return "the folder can be written"


def _safe(uid: str, what: str) -> str:
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise DeliveryRefused(f"{what} is not a UID, so no file is named after it")
    return uid


def _write(path: Path, content: bytes) -> None:
    """On the disk before the name is: write, flush, rename, flush the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
