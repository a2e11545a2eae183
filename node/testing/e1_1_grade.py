"""What a de-identifier made of the set of `node.testing.e1_1_set`: read with pydicom, judged by the published table.

Shares no code with the node's own profile, and can grade any tool: an output file is matched to its original by what survives every
tool, the first pixels or the Instance Number.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID_dictionary

from node.testing.e1_1_set import CHARACTER_SETS, UID_ROOT, Instance, Manifest, Row, published_rows

#: CID 7050 De-identification Method, by the option's name in the table
CODES = {
    "clean_pixel_data": "113101",
    "clean_recognizable_visual_features": "113102",
    "clean_graphics": "113103",
    "clean_structured_content": "113104",
    "clean_descriptors": "113105",
    "retain_full_dates": "113106",
    "retain_modified_dates": "113107",
    "retain_patient_characteristics": "113108",
    "retain_device_identity": "113109",
    "retain_uids": "113110",
    "retain_safe_private": "113111",
    "retain_institution_identity": "113112",
}
#: claimed for an object only where its pixels are known to be clean: their absence is no fault
PER_OBJECT = {"113101", "113102"}
FLAGS = (
    "PatientIdentityRemoved is YES",
    "DeidentificationMethod or its codes are there",
    "the codes name the Basic Profile",
    "the codes name the options, no others",
    "LongitudinalTemporalInformationModified is right",
    "the preamble is not the original's",
    "ImplementationClassUID is not the original's",
    "SourceApplicationEntityTitle is gone",
    "private information of the file meta is gone",
    "MediaStorageSOPInstanceUID is the SOPInstanceUID",
)
#: content trees are cleaned item by item (PS3.15 E.3.4): items go, so places can't be compared, only words looked for
_TREES = {0x0040A730, 0x00400555, 0x00400610}
_WORD = re.compile(rb"(?i)zq[ghjklmnprsabcdef]{10}|zqfamily\d|zqgiven\d|zqid000\d|zqacc\d\d|zqstu\d\d|zqserial4711")
_UID = re.compile(rb"1\.2\.826\.0\.1\.3680043\.10\.9991[0-9.]*")


@dataclass(slots=True)
class Report:
    """Counts over the whole set. A row is ok where the required action was done at every place it was planted."""

    rows: int = 0
    top_level_ok: int = 0
    any_depth_ok: int = 0
    safe: int = 0  #: the value is gone or changed everywhere, yet not as the table asks
    fail: int = 0  #: the value is still there at some place
    leaks: int = 0  #: planted words, letters and UIDs found in the bytes that left, and not allowed by an option
    uid_faults: int = 0  #: kept, not valid, or not the same everywhere
    date_faults: int = 0  #: dates of one patient that moved by another number of days than the others
    flags_ok: int = 0
    flags: int = 0
    outputs: int = 0
    inputs: int = 0
    missing: list[str] = field(default_factory=list)  #: files that should have come out and did not
    withheld: int = 0  #: files that were rightly not handed out
    one_pseudonym_a_patient: bool = False
    failed: dict[str, str] = field(default_factory=dict)  #: row: first place and what was found, for whoever mends it
    not_as_asked: dict[str, str] = field(default_factory=dict)
    leaked: list[str] = field(default_factory=list)  #: "file: place of the planted word", the first hundred
    wrong_flags: dict[str, int] = field(default_factory=dict)

    @property
    def perfect(self) -> bool:
        """Every required action, nothing leaked, every file there."""
        return (
            self.rows == self.top_level_ok == self.any_depth_ok
            and not (self.leaks or self.uid_faults or self.date_faults or self.missing)
            and self.flags == self.flags_ok
            and self.one_pseudonym_a_patient
        )


def grade(original_folder: Path, output_folder: Path, manifest: Manifest, options: Collection[str] = ()) -> Report:
    """Compare what came out with what went in.

    Parameters
    ----------
    original_folder, output_folder
        What `write_set` wrote, and what the tool made of it: any names, any tree.
    options
        The options of the profile that the tool claims, by their names in the table; none: the Basic Profile alone.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's word on odd values, of which the set is full
        return _graded(original_folder, output_folder, manifest, options)


def _graded(original_folder: Path, output_folder: Path, manifest: Manifest, options: Collection[str]) -> Report:
    report = Report(inputs=len(manifest.instances))
    outputs, strays = _matched(output_folder, manifest)
    report.outputs = sum(map(len, outputs.values())) + len(strays)
    judge = _Judge(manifest, frozenset(options))
    for instance in manifest.instances:
        found = outputs.get(instance.number, [])
        if not found:
            if instance.may_be_withheld or (instance.needs and instance.needs not in options):
                report.withheld += 1
            else:
                report.missing.append(instance.file)
        original = dcmread(original_folder / instance.file)
        for path in found:
            judge.file(instance, original, path)
    for path in strays:
        judge.words(None, path.read_bytes(), path.name)
    judge.into(report)
    return report


def _matched(folder: Path, manifest: Manifest) -> tuple[dict[int, list[Path]], list[Path]]:
    known = {instance.number for instance in manifest.instances}
    found: dict[int, list[Path]] = defaultdict(list)
    strays: list[Path] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            ds = dcmread(path, force=True)
            number = _marker(ds)
        except Exception:  # not DICOM, or so broken that nobody reads it
            number = None
        if number in known and number is not None:
            found[number].append(path)
        else:
            strays.append(path)
    return found, strays


def _marker(ds: Dataset) -> int | None:
    if "PixelData" in ds and int(ds.BitsAllocated) in (8, 16):
        bits, order = int(ds.BitsAllocated), "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        first = np.frombuffer(ds.PixelData[:8], dtype=f"{order}u{bits // 8}")[:4]
        if len(set(first.tolist())) == 1:
            return int(first[0])
    return int(ds.InstanceNumber) if ds.get("InstanceNumber") not in (None, "") else None


class _Judge:
    """Collects over all files."""

    def __init__(self, manifest: Manifest, options: frozenset[str]) -> None:
        self._manifest, self._options = manifest, options
        self._top: dict[str, bool] = {}
        self._any: dict[str, bool] = {}
        self._fail: dict[str, str] = {}
        self._unasked: dict[str, str] = {}
        self._leaks: set[tuple[str, str]] = set()
        self._uids: dict[str, set[str]] = defaultdict(set)
        self._bad_uids: set[str] = set()
        self._shifts: dict[int, dict[str, int]] = defaultdict(dict)
        self._flags: dict[str, int] = dict.fromkeys(FLAGS, 0)
        self._wrong: dict[str, int] = {}
        self._pseudonyms: dict[int, set[str]] = defaultdict(set)
        self._keeps_uids = "retain_uids" in options
        self._allowed = {row.tag for row in published_rows() if "K" in {row.options[o] for o in row.options if o in options}}

    # --- one file ----------------------------------------------------------------------------------------------------------
    def file(self, instance: Instance, original: Dataset, path: Path) -> None:
        data = path.read_bytes()
        clean = dcmread(path, force=True)
        types = _types(str(original.SOPClassUID))
        self._item(instance, original, clean, (), types)
        meta, uid = _rows()["00020003"], "MediaStorageSOPInstanceUID"
        self._place(instance, meta, original.file_meta[uid], clean.file_meta.get(Tag(uid)), (), types)
        if instance.character_set != "ascii" and not self._options & {"retain_device_identity", "retain_institution_identity"}:
            self._letters(instance, clean, data)
        inflated = data if str(clean.file_meta.get("TransferSyntaxUID", "")) != "1.2.840.10008.1.2.1.99" else _plain(clean)
        self.words(instance, data + inflated, instance.file)
        self._flag(original, clean)
        self._pseudonyms[instance.person].add(f"{clean.get('PatientID', '')}")

    def words(self, instance: Instance | None, data: bytes, name: str) -> None:
        """Planted words anywhere in the bytes, in any case, in any encoding that has ASCII in it (UTF-16 and UTF-32 too)."""
        for text in (data, data.replace(b"\0", b"")):
            for match in _WORD.finditer(text):
                where = self._manifest.words.get(match.group().decode().upper()) or self._manifest.words.get(_cased(match.group()))
                if where and where not in self._allowed:
                    self._leaks.add((name, f"{where} {match.group().decode().upper()}"))
            if "retain_uids" not in self._options:
                self._leaks |= {(name, f"UID {match.group().decode()}") for match in _UID.finditer(text)}

    def _letters(self, instance: Instance, clean: Dataset, data: bytes) -> None:
        charset, letters = CHARACTER_SETS[instance.character_set]
        if letters.isascii():
            return
        for form in {letters.encode("utf-8"), letters.encode("utf-16-le"), _encoded(letters, charset)}:
            if len(form) >= 4 and form in data:
                self._leaks.add((instance.file, f"letters of {instance.character_set}"))

    def _flag(self, original: Dataset, clean: Dataset) -> None:
        codes = {str(item.get("CodeValue", "")) for item in clean.get("DeidentificationMethodCodeSequence", [])}
        claimed = {CODES[option] for option in self._options} | {"113100"}
        meta, before = clean.file_meta, original.file_meta
        longitudinal = (
            "MODIFIED" if "retain_modified_dates" in self._options else "UNMODIFIED" if "retain_full_dates" in self._options else "REMOVED"
        )
        answers = (
            clean.get("PatientIdentityRemoved") == "YES",
            bool(clean.get("DeidentificationMethod") or codes),
            "113100" in codes,
            codes <= claimed and claimed - codes <= PER_OBJECT,
            clean.get("LongitudinalTemporalInformationModified") == longitudinal,
            clean.preamble != original.preamble,
            meta.get("ImplementationClassUID") != before.get("ImplementationClassUID"),
            not meta.get("SourceApplicationEntityTitle"),
            not meta.get("PrivateInformation") and not meta.get("PrivateInformationCreatorUID"),
            meta.get("MediaStorageSOPInstanceUID") == clean.get("SOPInstanceUID"),
        )
        for flag, right in zip(FLAGS, answers, strict=True):
            self._flags[flag] += right
            if not right:
                self._wrong[flag] = self._wrong.get(flag, 0) + 1

    # --- places --------------------------------------------------------------------------------------------------------------
    def _item(self, instance: Instance, original: Dataset, clean: Dataset | None, path: tuple[str, ...], types: Mapping[Any, str]) -> None:
        for element in original:
            row = _row_of(int(element.tag))
            after = None if clean is None else clean.get(element.tag)
            if row is not None:
                self._place(instance, row, element, after, path, types)
                asked = self._required(row)
                if element.VR != "SQ" or not asked & {"K", "C", "U*"} or int(element.tag) in _TREES:
                    continue
            elif int(element.tag) in {0x00120064}:
                continue
            if element.VR == "SQ":
                kept = list(after.value) if after is not None and after.VR == "SQ" and after.value else []
                for index, inner in enumerate(element.value):
                    below = kept[index] if index < len(kept) else None
                    if below is not None or row is None:
                        self._item(instance, inner, below, (*path, element.keyword or str(element.tag)), types)

    def _required(self, row: Row) -> set[str]:
        on = {row.options[option] for option in row.options if option in self._options}
        return on or set(row.basic.split("/"))

    def _place(
        self, instance: Instance, row: Row, before: DataElement, after: Any, path: tuple[str, ...], types: Mapping[Any, str]
    ) -> None:
        asked = self._required(row)
        verdict, found = self._verdict(instance, row, asked, before, after, types.get((path, before.keyword), "3"))
        ok = verdict == "ok"
        if not path:
            self._top[row.tag] = self._top.get(row.tag, True) and ok
        self._any[row.tag] = self._any.get(row.tag, True) and ok
        place = f"{instance.kind} {instance.file} {'/'.join(path) or 'top'}: {'/'.join(sorted(asked))} but {found}"
        if verdict == "fail":
            self._fail.setdefault(row.tag, place)
        elif verdict == "safe":
            self._unasked.setdefault(row.tag, place)

    def _verdict(self, instance: Instance, row: Row, asked: set[str], before: DataElement, after: Any, type_: str) -> tuple[str, str]:
        if before.VR == "UI" and after is not None and _values(after):
            self._mapped(_values(before), _values(after))
        if asked & {"K", "C"}:
            return self._kept_or_cleaned(instance, row, asked, before, after)
        if after is None:
            return ("ok" if "X" in asked else "safe"), "absent"
        empty = after.value is None or after.value == "" or after.value == b"" or (after.VR == "SQ" and not after.value)
        if empty:
            return ("ok" if "Z" in asked or ("X" in asked and type_ in {"1", "2"}) else "safe"), "empty"
        if after.VR == "SQ" and before.VR == "SQ":
            return self._sequence(asked, before, after, type_)
        if _same(before, after):
            return "fail", "kept"
        if before.VR == "UI" and "U" in asked:
            return "ok", "another UID"
        return ("ok" if asked & {"D", "Z"} or ("X" in asked and type_ in {"1", "2"}) else "safe"), "another value"

    def _sequence(self, asked: set[str], before: DataElement, after: Any, type_: str) -> tuple[str, str]:
        words = {w for item in before.value for w in _texts(item)} & {w for item in after.value for w in _texts(item)}
        rows = self._manifest.words
        words = {
            w for w in words if rows.get(w.upper(), "K") not in {"K", *self._allowed} or (w.startswith(UID_ROOT) and not self._keeps_uids)
        }
        if words:
            return "fail", "items kept"
        return ("ok" if asked & {"D", "Z", "U*"} or ("X" in asked and type_ in {"1", "2"}) else "safe"), "cleaned items"

    def _kept_or_cleaned(self, instance: Instance, row: Row, asked: set[str], before: DataElement, after: Any) -> tuple[str, str]:
        """An option's K allows the value, its C a cleaned one; with either the Basic Profile's own action is safe too."""
        if before.VR in {"DA", "DT"}:
            if after is None or not after.value:
                return ("ok" if set(row.basic.split("/")) & {"X", "Z"} else "safe"), "gone"
            if "K" in asked or _same(before, after):
                return ("ok" if "K" in asked and _same(before, after) else "fail" if _same(before, after) else "ok"), "kept"
            days = _days(str(after.value)) - _days(str(before.value))
            self._shifts[instance.person][f"{row.tag} {instance.number}"] = days
            return "ok", "moved"
        if after is None or after.value in (None, "", b"") or "K" in asked or before.VR in {"TM", "SQ"}:
            return "ok", "kept, cleaned or gone"
        return ("fail" if any(word.upper() in str(after.value).upper() for word in self._words_of(before)) else "ok"), "cleaned"

    def _words_of(self, element: DataElement) -> set[str]:
        text = element.value.decode("latin-1") if isinstance(element.value, bytes) else str(element.value)
        return {word for word in re.findall(r"\w+", text) if word.upper() in self._manifest.words}

    def _mapped(self, before: list[str], after: list[str]) -> None:
        for old, new in zip(before, after, strict=False):
            if old in UID_dictionary or not old.startswith(("1.", "2.")):
                continue
            self._uids[old].add(new)
            if len(new) > 64 or not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*", new):
                self._bad_uids.add(new)

    # --- the end ------------------------------------------------------------------------------------------------------------
    def into(self, report: Report) -> None:
        report.rows = len(self._any)
        report.top_level_ok = sum(self._top.values())
        report.any_depth_ok = sum(self._any.values())
        report.failed = dict(sorted(self._fail.items()))
        report.not_as_asked = {tag: place for tag, place in sorted(self._unasked.items()) if tag not in self._fail}
        report.fail, report.safe = len(report.failed), len(report.not_as_asked)
        report.leaks = len(self._leaks)
        report.leaked = [f"{name}: {where}" for name, where in sorted(self._leaks)[:100]]
        keeps = "retain_uids" in self._options
        kept = 0 if keeps else sum(old in new for old, new in self._uids.items())
        torn = sum(len(new) > 1 for new in self._uids.values())
        merged = sum(len(new) for new in self._uids.values()) - len(set().union(*self._uids.values())) if self._uids else 0
        report.uid_faults = kept + torn + max(0, merged - sum(len(new) - 1 for new in self._uids.values())) + len(self._bad_uids)
        for shifts in self._shifts.values():
            usual = max(set(shifts.values()), key=list(shifts.values()).count)
            report.date_faults += sum(days != usual for days in shifts.values())
        report.flags_ok, report.wrong_flags = sum(self._flags.values()), self._wrong
        report.flags = report.flags_ok + sum(self._wrong.values())
        names = [next(iter(found)) for found in self._pseudonyms.values() if len(found) == 1]
        report.one_pseudonym_a_patient = len(names) == len(self._pseudonyms) == len(set(names)) and "" not in names


# --- reading --------------------------------------------------------------------------------------------------------------------
@cache
def _rows() -> dict[str, Row]:
    return {row.tag: row for row in published_rows()}


@cache
def _row_of(tag: int) -> Row | None:
    text = f"{tag:08X}"
    if tag & 0x10000:
        return None if tag & 0xFFFF < 0x1000 and 0x10 <= tag & 0xFFFF <= 0xFF else _rows()["PRIVATE"]
    if text.startswith("50"):
        return _rows()["50XXXXXX"]
    if text.startswith("60"):
        return _rows().get(f"60XX{text[4:]}")
    return _rows().get(text)


def _values(element: Any) -> list[str]:
    if isinstance(element.value, str):
        return [element.value] if element.value else []
    return [str(one) for one in element.value or []]


def _same(before: DataElement, after: Any) -> bool:
    if isinstance(before.value, bytes) or isinstance(after.value, bytes):
        one, other = (v.value if isinstance(v.value, bytes) else str(v.value).encode() for v in (before, after))
        return bool(one.strip(b" \0") == other.strip(b" \0"))
    return bool(before.value == after.value) or str(before.value) == str(after.value)


def _texts(ds: Dataset) -> Iterator[str]:
    for element in ds.iterall():
        if element.VR != "SQ":
            text = element.value.decode("latin-1") if isinstance(element.value, bytes) else str(element.value)
            yield from re.findall(r"[\w.]+", text)


def _days(text: str) -> int:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()


def _cased(word: bytes) -> str:
    return word.decode().capitalize()


def _encoded(letters: str, charset: str | list[str]) -> bytes:
    """The letters alone, as a file of this character set has them; of ISO 2022 only what lies between the escapes."""
    from pydicom.charset import convert_encodings, encode_string

    encoded = bytes(encode_string(letters, convert_encodings(charset)))
    return max(re.split(rb"\x1b\$?\)?\(?.", encoded), key=len)


def _plain(ds: Dataset) -> bytes:
    """The element values of a deflated data set, so that words in it can be found."""
    return b"\n".join(text.encode() for text in _texts(ds))


@cache
def _types(sop_class: str) -> Mapping[tuple[tuple[str, ...], str], str]:
    """Type of each attribute in the IOD, by path and keyword: PS3.3 as highdicom carries it. Conditional counts as given."""
    found: dict[tuple[tuple[str, ...], str], str] = {}
    iod = _standard("sop_class_iod_map").get(sop_class)
    for module in _standard("iod_module_map")[iod] if iod else []:
        for attribute in _standard("module_attribute_map").get(module["key"], []):
            key = (tuple(attribute["path"]), attribute["keyword"])
            found[key] = min(found.get(key, "3"), attribute["type"][0])
    return found


@cache
def _standard(name: str) -> Any:
    return json.loads(files("highdicom").joinpath("_standard", f"{name}.json").read_text())


__all__ = ["CODES", "FLAGS", "Report", "grade"]
