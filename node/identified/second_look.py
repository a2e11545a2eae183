"""The pixels of what leaves are read once more, after masking and defacing: those of every image that the text detector is answerable for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr

from node.errors import PixelsNotSeen, StudyRefused
from node.identified.account import Look
from node.identified.leak_scan import PixelText

#: not looked at again: nobody had to look, or a glance at the values found that nothing is written there
AGAIN = frozenset({Look.CLEAR, Look.MASKED, Look.BY_HAND})


class Reads(Protocol):
    """Whoever can read what stands in an image."""

    def read(self, ds: Dataset, transfer_syntax_uid: str) -> list[tuple[int, str]]: ...


@dataclass(frozen=True)
class SecondLook:
    """A `ReadText` for one study. Can be sent to another process."""

    reader: Reads
    looks: Mapping[str, Look] = field(default_factory=dict, repr=False)  #: by clean SOP Instance UID

    def of(self, looks: Mapping[str, Look]) -> SecondLook:
        """The same, for a study whose images were looked at in these ways."""
        return SecondLook(self.reader, dict(looks))

    def by(self, reader: Reads) -> SecondLook:
        """The same, with another reader."""
        return SecondLook(reader, self.looks)

    def __call__(self, path: Path) -> list[PixelText] | None:
        """What stands in the frames of a clean file; None for an image that nobody has to look at again.

        Raises
        ------
        TextDetectorFailed, PixelsNotSeen
            Nobody could look, and no person has said that it may go on all the same.
        """
        look = self.looks.get(path.stem.partition("-")[0])  # a second file of an instance has a number behind its name
        if look not in AGAIN:
            return None
        try:
            ds, syntax = _image(path)
            return [PixelText(frame, text) for frame, text in self.reader.read(ds, syntax)]
        except StudyRefused:
            if look is Look.BY_HAND:
                return None
            raise


def _image(path: Path) -> tuple[Dataset, str]:
    try:
        whole = dcmread(path)
        ds = whole.group_dataset(0x0028)
        ds.update(whole.group_dataset(0x7FE0))
        ds.SOPInstanceUID = whole.SOPInstanceUID
        correct_ambiguous_vr(ds, True)
        return ds, str(whole.file_meta.TransferSyntaxUID)
    except Exception as why:  # whatever a library says of a broken file; its text may quote it
        raise PixelsNotSeen(f"({type(why).__name__})", instance=path.stem) from None
