"""Holds any tool's output against the answer key of `midi_set`: by the values that are there, not by what the tool says it did."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.testing.midi_answers import Do
from node.testing.midi_pixels import look
from node.testing.midi_set import ANSWERS

FEW = 0.02  #: share of a picture that may change away from any text
ENCODINGS = ("ascii", "utf-8", "latin-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-8", "gb18030", "euc-kr", "iso2022_jp")
NAMES = frozenset({"name", "number", "date", "place"})


@dataclass(slots=True)
class Grade:
    """How well it was done."""

    right: Counter[str] = field(default_factory=Counter)  #: by action
    of: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    withheld: list[int] = field(default_factory=list)  #: instances without a clean copy: none of their actions is right
    leaks: list[dict[str, Any]] = field(default_factory=list)  #: identifiers found anywhere in a header
    missed: list[dict[str, Any]] = field(default_factory=list)  #: identifying texts in the pixels that can be read
    texts: Counter[str] = field(default_factory=Counter)  #: identifying texts by height, and markers, that were looked at
    outside: list[float] = field(default_factory=list)  #: share of each picture that changed away from any text
    markers_kept: int = 0

    @property
    def share(self) -> float:
        """Right actions of all."""
        return sum(self.right.values()) / max(1, sum(self.of.values()))

    def share_of(self, *kinds: Do) -> float:
        """Right actions of some kinds."""
        return sum(self.right[kind] for kind in kinds) / max(1, sum(self.of[kind] for kind in kinds))

    def missed_from(self, height_px: int) -> int:
        """Identifying texts of this height or more that can be read."""
        return sum(miss["height_px"] >= height_px for miss in self.missed)


def grade(originals: Path, clean: Path, key: Path) -> Grade:
    """Grade the DICOM files below `clean`; a copy is known by its Instance Number, which is unique in the set."""
    answers = json.loads((key / ANSWERS).read_text())
    copies = {int(ds.InstanceNumber): (path, ds) for path, ds in _data_sets(clean)}
    seen = _Seen(answers, {number: ds for number, (_, ds) in copies.items()})
    result = Grade()
    for text_number, instance in answers["instances"].items():
        number = int(text_number)
        if number not in copies:
            result.withheld.append(number)
            result.of.update(action["do"] for action in instance["actions"])
            continue
        path, ds = copies[number]
        for where in _leaks(path, answers["patients"][instance["patient"]]):
            result.leaks.append({"number": number, "identifier": where})
        seen_pixels = look(originals / instance["file"], path, instance["texts"], key / f"{number:05d}.png")
        result.outside.append(seen_pixels.outside)
        for text, legible in zip(instance["texts"], seen_pixels.legible, strict=True):
            result.texts[f"{text['height_px']:02d} px" if text["identifying"] else "other"] += 1
            if text["identifying"] and legible:
                result.missed.append({"number": number, "kind_of_image": instance["kind"], **text})
            result.markers_kept += not text["identifying"] and legible
        for action in instance["actions"]:
            do = Do(action["do"])
            if do is Do.PIXELS_HIDDEN:
                good = not seen_pixels.legible[int(action["at"]) - 1]
            elif do is Do.PIXELS_RETAINED:
                good = seen_pixels.same_shape and seen_pixels.outside <= FEW
            else:
                good = seen.good(action, do, ds, instance["patient"])
            result.of[do] += 1
            result.right[do] += good
            if not good:
                result.wrong.append({"number": number, **action, "found": _shown(_found(ds, action["at"]))})
    return result


class _Seen:
    """What all copies say together: one new UID for one old one, one shift and one Patient ID for one patient."""

    def __init__(self, answers: dict[str, Any], copies: dict[int, Dataset]) -> None:
        self.uids: dict[str, set[str]] = defaultdict(set)
        self.ids: dict[str, set[str]] = defaultdict(set)
        shifts: dict[str, Counter[int]] = defaultdict(Counter)
        for number, instance in answers["instances"].items():
            ds = copies.get(int(number))
            if ds is None:
                continue
            self.ids[instance["patient"]].add(str(ds.get("PatientID", "")))
            for action in instance["actions"]:
                value = _text(_found(ds, action["at"]))
                if action["do"] == Do.UID_CHANGED and value:
                    self.uids[action["words"][0]].add(value)
                elif action["do"] == Do.DATE_SHIFTED and (days := _days(action["words"][0], value)) is not None:
                    shifts[instance["patient"]][days] += 1
        self.shift = {patient: counts.most_common(1)[0][0] for patient, counts in shifts.items()}

    def good(self, action: dict[str, Any], do: Do, ds: Dataset, patient: str) -> bool:
        """One action on an attribute was the right one."""
        value = _text(_found(ds, action["at"]))
        words = action["words"]
        match do:
            case Do.TAG_RETAINED:
                return _same(value.split("\\"), words)
            case Do.TEXT_RETAINED:
                return all(word.casefold() in value.casefold() for word in words)
            case Do.TEXT_REMOVED:
                return not any(word.casefold() in value.casefold() for word in words)
            case Do.UID_CHANGED:
                if not value:
                    return bool(action["may_go"])
                return value != words[0] and self.uids[words[0]] == {value}
            case Do.DATE_SHIFTED:
                if not value or value < "1902":  # gone, or a dummy
                    return True
                days = _days(words[0], value)
                return bool(days) and days == self.shift.get(patient) and value[8:14] == words[0][8:]
            case Do.PATIENT_CONSISTENT:
                mine = self.ids[patient]
                return bool(value) and len(mine) == 1 and not any(mine & ids for other, ids in self.ids.items() if other != patient)
        raise AssertionError(f"no action of an attribute: {do}")


def _data_sets(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".json":
            ds = dcmread(path, stop_before_pixels=True, force=True)
            if str(ds.get("InstanceNumber") or "").isdigit():
                yield path, ds


def _found(ds: Dataset, at: str) -> DataElement | None:
    """The element at a path of the key."""
    here = ds
    *steps, last = at.split("/")
    for keyword, number in zip(steps[::2], steps[1::2], strict=True):
        items = here.get(keyword)
        if not items or len(items) <= int(number):
            return None
        here = items[int(number)]
    if ":" in last:
        group, creator, element = last.split(":")
        try:
            return here.private_block(int(group, 16), creator)[int(element, 16)]
        except KeyError:
            return None
    return here.data_element(last) if last in here else None


def _text(element: DataElement | None) -> str:
    """A value as text, several joined by a backslash."""
    if element is None or element.value is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0 ")
    return "\\".join(str(one) for one in value) if isinstance(value, MultiValue | list) else str(value).strip()


def _shown(element: DataElement | None) -> str:
    return _text(element)[:80]


def _same(values: list[str], words: list[str]) -> bool:
    if [value.strip() for value in values] == [word.strip() for word in words]:
        return True
    try:
        return [float(value) for value in values] == [float(word) for word in words]
    except ValueError:
        return False


def _days(before: str, after: str) -> int | None:
    try:
        return (date.fromisoformat(after[:8]) - date.fromisoformat(before[:8])).days
    except ValueError:
        return None


def _leaks(path: Path, identifiers: list[str]) -> Iterator[str]:
    """Identifiers of the patient in the bytes before the pixels, in whatever encoding."""
    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True, force=True)
        end = file.tell()
        file.seek(0)
        header = file.read(end).lower()
    for identifier in identifiers:
        for encoding in ENCODINGS:
            try:
                if identifier.lower().encode(encoding) in header or identifier.encode(encoding).lower() in header:
                    yield identifier
                    break
            except UnicodeEncodeError:
                continue
