"""What happens to each attribute: PS3.15 Table E.1-1 as data, the options we claim (CID 7050), and one rule for every VR it does not list."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.datadict import tag_for_keyword

from node.codes import Code
from node.identified import content_trees
from node.identified.elements import dictionary_vr
from node.identified.words import vocabulary

HERE = Path(__file__).parent
TABLE = HERE / "ps315_e1_1_2026c.json"
TYPES = HERE / "ps33_types_2024e.json"

BASIC_PROFILE = Code("113100", "DCM", "Basic Application Confidentiality Profile")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of the profile that are switched on. Their names are the columns of Table E.1-1."""

    clean_pixel_data: bool = True
    clean_recognizable_visual_features: bool = False  #: claimed only for an object whose features were removed
    clean_graphics: bool = False
    clean_structured_content: bool = False
    clean_descriptors: bool = True
    retain_full_dates: bool = False
    retain_modified_dates: bool = True
    retain_patient_characteristics: bool = True
    retain_device_identity: bool = False
    retain_uids: bool = False  #: for folders only: the hall knows a study by its clean UID
    retain_safe_private: bool = True
    retain_institution_identity: bool = False
    cap_ages: bool = True  #: no option of PS3.15: ages over 89 years become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2))

    def __post_init__(self) -> None:
        if self.retain_full_dates and self.retain_modified_dates:
            raise ValueError("dates are either kept in full or modified")

    @property
    def names(self) -> tuple[str, ...]:
        """Those of PS3.15 that are on."""
        return tuple(field.name for field in fields(self) if field.name in OPTION_CODES and getattr(self, field.name))


#: CID 7050 De-identification Method
OPTION_CODES = {
    "clean_pixel_data": Code("113101", "DCM", "Clean Pixel Data Option"),
    "clean_recognizable_visual_features": Code("113102", "DCM", "Clean Recognizable Visual Features Option"),
    "clean_graphics": Code("113103", "DCM", "Clean Graphics Option"),
    "clean_structured_content": Code("113104", "DCM", "Clean Structured Content Option"),
    "clean_descriptors": Code("113105", "DCM", "Clean Descriptors Option"),
    "retain_full_dates": Code("113106", "DCM", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain_modified_dates": Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain_patient_characteristics": Code("113108", "DCM", "Retain Patient Characteristics Option"),
    "retain_device_identity": Code("113109", "DCM", "Retain Device Identity Option"),
    "retain_uids": Code("113110", "DCM", "Retain UIDs Option"),
    "retain_safe_private": Code("113111", "DCM", "Retain Safe Private Option"),
    "retain_institution_identity": Code("113112", "DCM", "Retain Institution Identity Option"),
}


#: what each option does here, for the page
OPTION_DOES = {
    "clean_pixel_data": "text in the pixels is looked for; claimed for an object whose pixels are known to show none",
    "clean_recognizable_visual_features": "with `deface` faces are taken out of head volumes, and the code is claimed for those objects; "
    "with `refuse` such studies are refused; with `keep` heads keep their faces",
    "clean_graphics": "overlays that mark a region of interest stay, graphic annotations stay with their texts cleaned by vocabulary; "
    "in overlays of graphics, which may be writing, text is looked for and blanked; curves go. Off: all of them go",
    "clean_structured_content": "reports and other content trees go out, item by item after Table E.3.4-1. Off: they are left out",
    "clean_descriptors": "descriptions keep the words of a vocabulary. Off: they go as the table says",
    "retain_full_dates": "dates and times stay",
    "retain_modified_dates": "dates move by one number of days for each patient, times stay",
    "retain_patient_characteristics": "sex, age, size, weight and the like stay",
    "retain_device_identity": "serial numbers, station names and the like stay; AE titles go",
    "retain_uids": "UIDs stay; for `radnode deidentify` only, the node itself refuses to start with it",
    "retain_safe_private": "the private attributes of the list below stay",
    "retain_institution_identity": "names and addresses of institutions stay",
}
#: the key of an option in the settings, where it is not its name
SETTINGS = {
    "clean_recognizable_visual_features": "recognizable_features",
    "retain_full_dates": "full_dates",
    "retain_modified_dates": "modified_dates",
}
#: where an item of a content tree may stand: children of a report, of an acquisition context, of a specimen preparation step
CONTENT_ITEMS = frozenset({0x0040A730, 0x00400555, 0x00400612})


class Act(IntEnum):
    """What is done with one element."""

    KEEP = 0
    REMOVE = 1  #: X
    EMPTY = 2  #: Z: zero length; a dummy is allowed, we don't need one
    DUMMY = 3  #: D: a value that says nothing and keeps the object valid
    UID = 4  #: U: the clean UID
    DATE = 5  #: a DA or DT that stays: moved by the patient's shift, which is 0 with full dates
    TIME = 6  #: a TM that must look like one
    WORDS = 7  #: C of a text: words of the vocabulary stay
    WALK = 8  #: a sequence: its items are treated one by one
    TECHNICAL = 9  #: a text on the list of technical attributes: kept when it is plain ASCII, else as WORDS
    NUMBER = 10  #: DS, IS: kept when it is one
    CODE = 11  #: CS: kept when it is one, else as WORDS
    AGE = 12  #: AS: kept when it is one, ages over 89 become 090Y
    CODED = 13  #: Code Value, Scheme or Meaning: decided with the item it stands in
    ZONE = 15  #: Timezone Offset From UTC: kept when it is one
    KEEP_UID = 14  #: kept when it is a UID, else a clean one


class Rule(NamedTuple):
    """An act, and what is done where it leaves nothing."""

    act: Act
    otherwise: Act


class Row(NamedTuple):
    """One row of Table E.1-1."""

    tag: str
    name: str
    vr: str
    basic: str
    options: dict[str, str]


# --- attributes that Table E.1-1 does not list ----------------------------------------------------------------------------
#: texts that describe equipment types and techniques, not persons, places or single devices
TECHNICAL_KEYWORDS = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "ConvolutionKernel",
    "SequenceName",
    "PulseSequenceName",
    "FilterType",
    "ImagedNucleus",
    "RescaleType",
    "StackID",
    "CodingSchemeVersion",
    "TransducerType",
)
#: coded strings that a person types or that a local protocol fills: read by the vocabulary
TYPED_CODES = ("BodyPartExamined", "ContentLabel")
#: coded strings whose values are made up on the spot: kept unless they name somebody
LABELS = ("GraphicLayer",)
#: UIDs that name a kind of thing, never a thing
CLASS_UID_KEYWORDS = (
    "SOPClassUID",
    "ReferencedSOPClassUID",
    "RequestedSOPClassUID",
    "AffectedSOPClassUID",
    "OriginalSpecializedSOPClassUID",
    "RelatedGeneralSOPClassUID",
    "ReferencedRelatedGeneralSOPClassUIDInFile",
    "ReferencedSOPClassUIDInFile",
    "TransferSyntaxUID",
    "ReferencedTransferSyntaxUIDInFile",
    "AvailableTransferSyntaxUID",
    "EncryptedContentTransferSyntaxUID",
    "MACCalculationTransferSyntaxUID",
    "CodingSchemeUID",
    "ContextUID",
    "MappingResourceUID",
    "SOPClassesInStudy",
    "SOPClassesSupported",
)
CODED_KEYWORDS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning")
#: closed lists of values, PS3.3 C.7.1.1, C.7.2.2, C.7.2.3
ENUMERATED = {
    "PatientSex": frozenset({b"M", b"F", b"O"}),
    "PatientSexNeutered": frozenset({b"ALTERED", b"UNALTERED"}),
    "SmokingStatus": frozenset({b"YES", b"NO", b"UNKNOWN"}),
    "BurnedInAnnotation": frozenset({b"YES", b"NO"}),
    "RecognizableVisualFeatures": frozenset({b"YES", b"NO"}),
}
#: never kept: what they say is true of the bytes that came, not of the clean ones
OBSOLETE_KEYWORDS = (
    "SpecificCharacterSet",
    "LengthToEnd",
    "EncryptedAttributesSequence",
    "DataSetTrailingPadding",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
)

#: (group, private creator, element): VR. PS3.15 Table E.3.10-1 (2020), those that hold numbers and codes only
SAFE_PRIVATE: dict[tuple[int, str, int], bytes] = {
    (0x0019, "SIEMENS MR HEADER", 0x0C): b"IS",  # B Value
    (0x0019, "SIEMENS MR HEADER", 0x0D): b"CS",  # Diffusion Directionality
    (0x0019, "SIEMENS MR HEADER", 0x0E): b"FD",  # Diffusion Gradient Direction
    (0x0019, "SIEMENS MR HEADER", 0x27): b"FD",  # B Matrix
    (0x0025, "GEMS_SERS_01", 0x07): b"SL",  # Images in Series
    (0x0043, "GEMS_PARM_01", 0x39): b"IS",  # 1st value is B Value
    (0x0043, "GEMS_PARM_01", 0x6F): b"DS",  # Scanner Table Entry + Gradient Coil Selected
    (0x2001, "Philips Imaging DD 001", 0x03): b"FL",  # Diffusion B-Factor
    (0x2001, "Philips Imaging DD 001", 0x04): b"CS",  # Diffusion Direction
    (0x2005, "Philips MR Imaging DD 001", 0x0D): b"FL",  # Scale Intercept
    (0x2005, "Philips MR Imaging DD 001", 0x0E): b"FL",  # Scale Slope
    (0x7053, "Philips PET Private Group", 0x00): b"DS",  # SUV Factor
    (0x7053, "Philips PET Private Group", 0x09): b"DS",  # Activity Concentration Factor
}

#: elements of an overlay plane (60xx) that stay with Clean Graphics, and their VRs (PS3.3 C.9.2, retired ones left out)
OVERLAY_ELEMENTS = {0x0010: b"US", 0x0011: b"US", 0x0015: b"IS", 0x0040: b"CS", 0x0045: b"LO", 0x0050: b"SS", 0x0051: b"US"}
OVERLAY_ELEMENTS |= {0x0022: b"LO", 0x1500: b"LO", 0x4000: b"LT", 0x0100: b"US", 0x0102: b"US", 0x1301: b"IS", 0x1302: b"DS", 0x1303: b"DS"}
OVERLAY_ELEMENTS |= {0x3000: b"OW"}

_BINARY = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SV", b"UV", b"US", b"SS", b"UL", b"SL", b"FL", b"FD", b"AT"})
_TEXT = frozenset({b"LO", b"LT", b"SH", b"ST", b"UC", b"UT"})
_NAMES = frozenset({b"PN", b"AE", b"UR"})  #: of persons, machines and places


def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    return frozenset(int(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None)


_TECHNICAL = _tags(TECHNICAL_KEYWORDS)
_TYPED = _tags(TYPED_CODES)
_CLASS_UIDS = _tags(CLASS_UID_KEYWORDS)
_CODED = _tags(CODED_KEYWORDS)
_OBSOLETE = _tags(OBSOLETE_KEYWORDS)
_BODY_PART = 0x00180015
LABEL_TAGS = _tags(LABELS)
ENUMERATED_TAGS = {int(tag_for_keyword(keyword) or 0): values for keyword, values in ENUMERATED.items()}


@cache
def rows() -> tuple[Row, ...]:
    """Table E.1-1 as it lies beside this file."""
    return tuple(Row(*row) for row in json.loads(TABLE.read_text())["rows"])


@cache
def _listed() -> dict[int, Row]:
    return {int(row.tag, 16): row for row in rows() if len(row.tag) == 8 and "X" not in row.tag}


class _Types:
    """Which type an attribute has in an image IOD (PS3.3), for the actions that leave the choice to us."""

    def __init__(self) -> None:
        content: dict[str, Any] = json.loads(TYPES.read_text())
        self.images = frozenset(content["image_sop_classes"])
        self.others = frozenset(content["other_sop_classes"])
        self.known = self.images | self.others
        self.top = {
            int(tag, 16): {sop: type_ for type_, sops in by_type.items() for sop in sops} for tag, by_type in content["top_level"].items()
        }
        self.nested, self.nested_other = (
            {int(p, 16): {int(t, 16): type_ for t, type_ in inner.items()} for p, inner in content[which].items()}
            for which in ("nested", "nested_other")
        )
        self.text_type_1 = frozenset(int(tag, 16) for tag in content["text_type_1"])

    def of(self, tag: int, parent: int, sop_class: str) -> str:
        """1, 2 or 3; empty when the SOP class is not in the table. A conditional type counts as its unconditional one: the element is there."""
        if sop_class not in self.known:
            return ""
        nested = self.nested if sop_class in self.images else self.nested_other
        found = nested.get(parent, {}).get(tag, "3") if parent else self.top.get(tag, {}).get(sop_class, "3")
        return str(found)[0]


@cache
def _types() -> _Types:
    return _Types()


def image_sop_classes() -> frozenset[str]:
    """SOP classes with an image IOD in PS3.3."""
    return _types().images


def other_sop_classes() -> frozenset[str]:
    """SOP classes with any other IOD in PS3.3."""
    return _types().others


class Profile:
    """The Basic Application Level Confidentiality Profile with the options that are on (PS3.15 E.2, E.3)."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._on = frozenset(self.options.names)
        self._rules: dict[tuple[str, int], dict[tuple[int, bytes], Rule]] = {}

    @property
    def dates_kept(self) -> bool:
        return self.options.retain_modified_dates or self.options.retain_full_dates

    def rules(self, sop_class: str, parent: int) -> dict[tuple[int, bytes], Rule]:
        """The rules met so far for one place: `parent` is the tag of the sequence around it, 0 at the top."""
        return self._rules.setdefault((sop_class, parent), {})

    def rule(self, tag: int, vr: bytes, parent: int = 0, sop_class: str = "") -> Rule:
        """What is done with this attribute here."""
        known = self.rules(sop_class, parent)
        found = known.get((tag, vr))
        if found is None:
            found = known[tag, vr] = self._decide(tag, vr, parent, sop_class)
        return found

    def codes(self, *, pixels_clean: bool, features_clean: bool = False) -> tuple[Code, ...]:
        """De-identification Method Code Sequence: the profile and each option that was used, no others."""
        unused = {
            name for name, used in (("clean_pixel_data", pixels_clean), ("clean_recognizable_visual_features", features_clean)) if not used
        }
        on = [name for name in OPTION_CODES if name in self._on and name not in unused]
        return (BASIC_PROFILE, *(OPTION_CODES[name] for name in on))

    @property
    def longitudinal(self) -> str:
        """Longitudinal Temporal Information Modified (0028,0303)."""
        return "MODIFIED" if self.options.retain_modified_dates else "UNMODIFIED" if self.options.retain_full_dates else "REMOVED"

    def _decide(self, tag: int, vr: bytes, parent: int, sop_class: str) -> Rule:
        group = tag >> 16
        if tag & 0xFFFF == 0 or tag in _OBSOLETE or group < 0x0008 or 0x5000 <= group <= 0x50FF:
            return Rule(Act.REMOVE, Act.REMOVE)
        if 0x6000 <= group <= 0x60FF:
            return self._overlay_rule(tag, vr, parent)
        proper = dictionary_vr(tag)
        if vr in {b"UN", b""}:
            vr = proper
        row = _listed().get(tag)
        if row is None and not proper:
            return Rule(Act.REMOVE, Act.REMOVE)  # an attribute that we don't know can't be called clean
        return (
            self._listed_rule(row, tag, vr or row.vr.encode(), parent, sop_class) if row else self._unlisted_rule(tag, vr, proper, parent)
        )

    def _overlay_rule(self, tag: int, vr: bytes, parent: int) -> Rule:
        """An element of an overlay plane. Whole planes are decided on before (`node/identified/overlays.py`)."""
        proper = OVERLAY_ELEMENTS.get(tag & 0xFFFF)
        fits = proper is not None and (vr in {proper, b""} or (proper == b"OW" and vr == b"OB"))
        if parent or not self.options.clean_graphics or not fits or proper is None:
            return Rule(Act.REMOVE, Act.REMOVE)
        return Rule(Act.WORDS if proper in _TEXT else _keep(tag, proper), Act.REMOVE)

    def _listed_rule(self, row: Row, tag: int, vr: bytes, parent: int, sop_class: str) -> Rule:
        basic = self._resolve(row.basic, vr, _types().of(tag, parent, sop_class), image=sop_class not in _types().others)
        actions = {row.options[name] for name in row.options if name in self._on}
        if not actions:
            return Rule(basic, basic)
        if vr in _BINARY and row.vr and row.vr.encode() not in _BINARY:
            return Rule(basic, basic)  # a text under the cover of a binary VR
        if "C" not in actions:
            # with modified dates a calibration of today, kept, would tell the patient's shift
            return Rule(_keep(tag, vr), basic)
        if vr in {b"DA", b"DT"}:
            return Rule(Act.DATE, basic)
        if vr == b"TM":
            return Rule(Act.TIME, basic)
        if row.tag == "00080201":  # Timezone Offset From UTC: no date to move
            return Rule(Act.ZONE, basic)
        if vr == b"SQ":
            return Rule(Act.WALK, basic)
        return Rule(Act.WORDS, basic) if vr in _TEXT or vr == b"CS" else Rule(basic, basic)

    def _resolve(self, action: str, vr: bytes, type_: str, *, image: bool) -> Act:
        """One act for an action that leaves a choice: what the IOD asks for, or the safer for validity where it is not known."""
        choices = action.split("/")
        if "U" in choices or (vr == b"UI" and choices != ["X"]):
            return Act.UID
        if type_ == "1" and choices == ["X"]:
            return Act.DUMMY  # PS3.15 E.1.1: the object stays valid
        if type_ == "2" and choices == ["X"]:
            return Act.EMPTY
        if "U*" in choices:
            # what an object is about (a mask, a map, a report) is told by its references; an image stands by itself
            return Act.REMOVE if type_ == "3" and image else Act.WALK
        order = {"1": "DZX", "2": "ZDX", "3": "XZD"}.get(type_, "ZDX" if "D" not in choices else "DZX")
        best = next(letter for letter in order if letter in choices)
        if vr == b"SQ" and best == "D" and len(choices) > 1:
            return Act.WALK  # a reference that the IOD asks for, to clean UIDs
        return {"X": Act.REMOVE, "Z": Act.EMPTY, "D": Act.DUMMY}[best]

    def _unlisted_rule(self, tag: int, vr: bytes, proper: bytes, parent: int) -> Rule:
        empty = Act.DUMMY if tag in _types().text_type_1 else Act.EMPTY
        if tag in _CODED:
            around = _listed()[parent].options if parent in _listed() else {}
            kept = any(
                around.get(option) == "K" and option in self._on for option in ("retain_device_identity", "retain_institution_identity")
            )
            return Rule(Act.KEEP if kept else Act.CODED, Act.DUMMY)
        if vr in _BINARY and proper not in _BINARY:
            return Rule(empty, empty)  # a text under the cover of a binary VR
        if vr == b"UI":
            return Rule(Act.KEEP_UID if tag in _CLASS_UIDS or self.options.retain_uids else Act.UID, Act.EMPTY)
        if vr == b"SQ" or proper == b"SQ":
            return Rule(Act.WALK, Act.EMPTY) if vr == proper else Rule(Act.REMOVE, Act.REMOVE)
        if not _NAMES.isdisjoint({vr, proper}):
            return Rule(empty, empty)
        if vr in {b"DA", b"DT"}:
            return Rule(Act.DATE if self.dates_kept else Act.EMPTY, Act.EMPTY)
        if vr == b"TM":
            return Rule(Act.TIME if self.dates_kept else Act.EMPTY, Act.EMPTY)
        if vr in _TEXT or (vr == b"CS" and proper in _TEXT):
            return Rule(Act.TECHNICAL if tag in _TECHNICAL else Act.WORDS, empty)
        if tag in _TYPED:
            return Rule(Act.WORDS, Act.EMPTY if tag == _BODY_PART else Act.DUMMY)
        return Rule(_keep(tag, vr), Act.DUMMY if tag in LABEL_TAGS else Act.EMPTY)


def _keep(tag: int, vr: bytes) -> Act:
    """Keep (K): cleaned where something else than the attribute's own kind of value could hide in it (PS3.15 E.1.1: K on a sequence cleans its items)."""
    if vr == b"SQ":
        return Act.WALK
    if vr in {b"DS", b"IS"}:
        return Act.NUMBER
    if vr == b"CS":
        return Act.CODE
    if vr == b"AS":
        return Act.AGE
    if vr == b"UI":
        return Act.KEEP_UID
    if vr in {b"DA", b"DT"}:
        return Act.DATE
    if vr == b"TM":
        return Act.TIME
    if vr in _TEXT and tag == _ETHNIC_GROUP:
        return Act.WORDS
    return Act.KEEP


_ETHNIC_GROUP = 0x00102160

_SAYS = {
    Act.KEEP: "kept",
    Act.REMOVE: "removed",
    Act.EMPTY: "emptied",
    Act.DUMMY: "dummy",
    Act.UID: "clean UID",
    Act.DATE: "moved by the patient's shift",
    Act.KEEP_UID: "kept if a UID",
    Act.ZONE: "kept if an offset",
    Act.TIME: "kept",
    Act.WORDS: "words of the vocabulary kept",
    Act.WALK: "items treated one by one",
    Act.TECHNICAL: "kept",
    Act.NUMBER: "kept if a number",
    Act.CODE: "kept if a code",
    Act.AGE: "kept, over 89 as 090Y",
    Act.CODED: "kept if standard",
}


# --- the page ---------------------------------------------------------------------------------------------------------------
def table(options: Options | None = None) -> str:
    """`docs/deidentification.md`: what the code does, said by the code."""
    profile = Profile(options)
    head = json.loads(TABLE.read_text())
    lines = [
        "# De-identification",
        "",
        "Printed by `radnode deidentification`; do not edit. A test holds this page to the code.",
        "",
        f"**Profile:** PS3.15 Annex E, Basic Application Level Confidentiality Profile ({BASIC_PROFILE.value}, DCM). "
        f"**Table:** {head['edition']}; types of attributes: PS3.3 {json.loads(TYPES.read_text())['edition']}.",
        "",
        "## Options",
        "",
        "On by default: "
        + ", ".join(OPTION_CODES[name].meaning for name in Options().names)
        + ". Each is a key below `deidentification` in the settings;",
        "its code is claimed in De-identification Method Code Sequence exactly when it was applied.",
        "",
        "| code (DCM) | option | setting | on | what it does |",
        "|---|---|---|---|---|",
        *(
            f"| {code.value} | {code.meaning} | {SETTINGS.get(name, name)} | {'yes' if name in profile.options.names else 'no'} | {OPTION_DOES[name]} |"
            for name, code in OPTION_CODES.items()
        ),
        f"| none | ages over 89 years become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)) | cap_ages | {'yes' if profile.options.cap_ages else 'no'} | Patient's Age, also where it is computed |",
        "",
        "Clean Pixel Data is claimed for an instance whose pixels were looked at for text, which is painted over, and for an ORIGINAL\\\\PRIMARY",
        "image of CT, MR, PT or NM in which no single value stands out. Text that is only a side, a view or a position (L, PA, SUPINE) may stay. An image",
        "that declares text in which none is found, that seems to be text for more than a third, or that can't be decoded is refused. So is a slide of",
        "more than six tiles (VL Whole Slide, Confocal Microscopy Tiled Pyramidal), because text in one tile is in no other: a person looks at it. With",
        "`text_detection: off` nobody looks: an image that says YES, or a digitized film that does not say NO, is refused, and one that says",
        "nothing goes on without the claim unless `unflagged_pixels` is `refuse`.",
        "",
        "An object that says it was de-identified before keeps the codes of what was cleaned then, and what may stay of its method's words. Of",
        "REMOVED, MODIFIED and UNMODIFIED the strongest of then and now is written: dates once moved are never called unmodified again.",
        "",
        "## What leaves, what stays behind",
        "",
        "- **In the node** images leave: objects with an image IOD. Everything else stays in the vault and is listed in the study's",
        "  `left_out.json`; so are captures of a screen and photographs of slide labels. A study of nothing else is refused.",
        "  In `radnode deidentify` captures of a screen are masked like other images, and stay behind only with `text_detection: off`.",
        "- **`radnode deidentify`** takes every object with an IOD in PS3.3: segmentations, presentation states, structure sets, plans and doses,",
        "  waveforms, maps, registrations; reports with clean_structured_content. Left out, each with its reason in `report.json`: encapsulated",
        "  documents, raw data, recordings of voices, scans of the body's surface, unknown and private SOP classes, a DICOMDIR, reports without",
        "  that option.",
        "- One instance that can't be read, or whose pixel data is shorter than declared, refuses the study; so do two Patient IDs in one.",
        "- Pixel data is copied byte for byte, compressed too, unless text is painted over; then every other pixel keeps its value, and a",
        "  lossless transfer syntax is kept where an encoder is at hand. Bits of an overlay inside the pixels are cleared, comments and application",
        "  data (Exif) of JPEG, JPEG-LS and JPEG 2000 streams overwritten, bytes behind the last frame cut off. Deflated and Big Endian data sets",
        "  become Explicit VR Little Endian; every other one keeps its transfer syntax.",
        "- Preamble and file meta information are ours. Text is ASCII; Specific Character Set goes, unless names of devices or institutions are kept.",
        "- Patient's Name and Patient ID become the pseudonym. UIDs become a keyed hash (HMAC-SHA-256) below 2.25, the same on every day.",
        "- Dates move back by one number of days for each patient, 1 to 3650; times of day and intervals stay.",
        "- Patient's Age is computed from the birth date where it is absent; over 89 years it is 090Y.",
        "",
        "## Attributes that Table E.1-1 does not list",
        "",
        "| kind | what is done |",
        "|---|---|",
        "| not in the dictionary of PS3.6, group length, 50xx | removed |",
        "| 60xx | removed; with clean_graphics a plane of type R stays, its texts cleaned; one of type G too when somebody looks for text in it "
        "and finds none, or none any more after blanking |",
        "| UI | clean UID, unless it names a class, transfer syntax or coding scheme, or is registered in PS3.6; with retain_uids kept |",
        "| PN, AE, UR | emptied |",
        "| DA, DT | as the date option says |",
        f"| LO, LT, SH, ST, UC, UT | words of the vocabulary stay; kept as they are: {', '.join(TECHNICAL_KEYWORDS)} |",
        "| code items | value and meaning stay for public coding schemes; a local code keeps a short value, its scheme becomes 99LOCAL |",
        f"| CS | kept when it is a coded string; {', '.join(TYPED_CODES)}: by the vocabulary; closed lists are checked; {', '.join(LABELS)}: kept unless it names somebody |",
        "| DS, IS, TM, AS | kept when it is one |",
        "| SQ | each item treated by these rules, to a depth of 16; deeper is refused |",
        "| binary VRs | kept; a text attribute in a binary VR is emptied |",
        "| pixel data inside a sequence | removed |",
        "",
        "## Clean Descriptors",
        "",
        f"A description keeps the {len(vocabulary())} words of `node/identified/vocabulary.txt` (from context groups of PS3.16 and our own list),",
        "numbers of up to three digits, quantities with a unit, and short parameters such as `B70f`, `t2`, `b1000`, `L5`. Dates, times, ages over",
        "89 years, runs of five digits or more, single letters in a row (initials), the patient's own identifiers, the names of everybody",
        "in the study (Dr. Head too), and every other word go, and what ohne, vor, kein, avant denied; what is left empty is treated as without the option.",
        "",
        "## Clean Structured Content",
        "",
        f"Table E.3.4-1 (edition 2020, {content_trees.concepts()} rows) says what becomes of an item by its concept: X removes it with all below it, D keeps it with a dummy,",
        "C cleans its text by the vocabulary or moves its date, K keeps it where the option for it is on. Where some item points to another by its",
        "place in the tree no item is removed: it gets a dummy. Of concepts that the table does not list codes, numbers and coordinates stay, texts",
        "keep the words of the vocabulary, names become dummies, UIDs clean ones, dates follow the date option.",
        "",
        "## Safe private attributes (PS3.15 Table E.3.10-1, 2020; numbers and codes only)",
        "",
        "| group | private creator | element | VR |",
        "|---|---|---|---|",
        *(
            f"| {group:04X} | {creator} | xx{element:02X} | {vr.decode()} |"
            for (group, creator, element), vr in sorted(SAFE_PRIVATE.items())
        ),
        "",
        "## Table E.1-1",
        "",
        "X removed, Z emptied, D dummy, U clean UID, K kept, C cleaned. Where the table leaves a choice (X/Z, X/D, …) the type of the",
        "attribute in the object's IOD decides; shown here: where the type is not known. An X of a Type 1 attribute becomes a dummy, of Type 2",
        "an empty value, so that the object stays valid.",
        "",
        "| tag | attribute | basic | options | done |",
        "|---|---|---|---|---|",
        *(_line(profile, row) for row in rows()),
        "",
    ]
    return "\n".join(lines).replace("\\\\", "\\")


def _line(profile: Profile, row: Row) -> str:
    options = ", ".join(f"{name.replace('_', ' ')} {action}" for name, action in row.options.items())
    if row.tag == "PRIVATE":
        done = "removed, but the list above" if profile.options.retain_safe_private else "removed"
    elif "X" in row.tag:
        done = "removed with its group"
    elif row.tag in {"00100010", "00100020"}:
        done = "pseudonym"
    elif row.tag.startswith("0002"):
        done = "ours"
    else:
        tag = int(row.tag, 16)
        rule = profile.rule(tag, dictionary_vr(tag) or row.vr.encode())
        done = _SAYS[rule.act]
        if rule.act in {Act.WORDS, Act.NUMBER, Act.CODE, Act.AGE, Act.DATE} and rule.otherwise != rule.act:
            done += f", else {_SAYS[rule.otherwise]}"
    tag_text = row.tag if row.tag == "PRIVATE" else f"({row.tag[:4]},{row.tag[4:]})"
    return f"| {tag_text} | {row.name} | {row.basic} | {options} | {done} |"
