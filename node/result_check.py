"""Can every object say what a result says? Asked once, before anything is written: what no encoding can hold is refused with the reason."""

from __future__ import annotations

import math

import numpy as np

from node.codes import Code
from node.domain import Finding, Result
from node.errors import ResultInvalid
from node.imaging.volume import Volume

LABEL, MEANING, CODE_VALUE, SCHEME = 64, 64, 16, 16  # characters: VR LO and SH, PS3.5 Table 6.2-1
MOST_TEXT = 10240  # VR LT


def check(volume: Volume | None, result: Result) -> None:
    """Texts of a legal length without control characters, numbers that are numbers, regions on frames that exist.

    Letters of any script are legal: every object is written in UTF-8 (ISO_IR 192).

    Raises
    ------
    ResultInvalid
        Saying which finding or segment, and why.
    """
    _text(result.label, "The headline", MOST_TEXT)
    for note in (result.reason, *result.notes):
        _text(note, "A remark", MOST_TEXT)
    for segment in result.segments:
        _text(segment.label, f"The label of segment {segment.number}", LABEL)
        if not segment.label.strip():
            raise ResultInvalid("A segment has no label.", segment=segment.number)
        for code in (segment.category, segment.type):
            _code(code)
        if len(segment.color) != 3 or not all(0 <= part <= 255 for part in segment.color):
            raise ResultInvalid("A colour is not three numbers from 0 to 255.", segment=segment.number)
    numbers = {segment.number for segment in result.segments}
    for at, finding in enumerate(result.findings, 1):
        _finding(at, finding, volume)
        if finding.segment is not None and finding.segment not in numbers:
            raise ResultInvalid("A finding names a segment that the result does not have.", finding=at, segment=finding.segment)
    if result.heatmap is not None:
        _text(result.heatmap.title, "The title of the heat map", LABEL)
        if not np.isfinite(result.heatmap.values).all():
            raise ResultInvalid("The heat map has values that are no numbers.")
    if volume is not None:
        for values in (*(s.mask for s in result.segments), *((result.heatmap.values,) if result.heatmap else ())):
            if values.shape != volume.pixels.shape[:3]:
                raise ResultInvalid("A mask or heat map is not on the grid of its images.", shape=values.shape)


def _finding(at: int, finding: Finding, volume: Volume | None) -> None:
    _text(finding.name, f"The name of finding {at}", LABEL)
    if not finding.name.strip():
        raise ResultInvalid("A finding has no name.", finding=at)
    for code in (
        finding.code,
        finding.site,
        finding.laterality,
        *(m.name for m in finding.measurements),
        *(m.unit for m in finding.measurements),
    ):
        if code is not None:
            _code(code)
    if finding.probability is not None and not 0 <= finding.probability <= 1:
        raise ResultInvalid("A probability is not between 0 and 1.", finding=at)
    if not all(math.isfinite(m.value) for m in finding.measurements):
        raise ResultInvalid("A measurement is not a number.", finding=at)
    if finding.region is not None and volume is not None and not 0 <= finding.region.frame < len(volume.frames):
        raise ResultInvalid("A finding's region is on a frame that the volume does not have.", finding=at, frame=finding.region.frame)


def _code(code: Code) -> None:
    _text(code.value, "A code value", CODE_VALUE)
    _text(code.scheme_designator, "A coding scheme", SCHEME)
    _text(code.meaning, "A code meaning", MEANING)
    if not (code.value and code.scheme_designator and code.meaning):
        raise ResultInvalid("A code lacks its value, its scheme or its meaning.")


def _text(text: str, what: str, most: int) -> None:
    if len(text) > most:
        raise ResultInvalid(f"{what} is longer than {most} characters.", characters=len(text))
    breaks = "\n\r\t" if most == MOST_TEXT else ""
    if any(ord(letter) < 32 and letter not in breaks for letter in text) or (most == LABEL and "\\" in text):
        raise ResultInvalid(f"{what} holds a character that DICOM text can't: a control character, or a backslash.")
