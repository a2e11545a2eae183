"""dicom-validator on the tables of the Standard that highdicom and pydicom carry.

By itself dicom-validator reads PS3.3, PS3.4 and PS3.6 from the network. What it works on is made here of highdicom's tables (which IOD
has which modules with which usage, which module has which attributes of which type) and pydicom's dictionary. Those tables have neither
conditions nor enumerated values: what is 1C or 2C, and a module that is not M, is allowed and not asked for. What highdicom's form of
the tables loses, and our objects have, is added below, each with its section.

Objects are held to the tables here; `test_ps33_types.py` holds the types by which de-identification decides to the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import NullValidationResultHandler, ValidationResultFormatter
from dicom_validator.validator.iod_validator import IODValidator
from dicom_validator.validator.validation_result import Status
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.datadict import DicomDictionary, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

#: by tag: name, type, items, condition
Attributes = dict[str, dict[str, Any]]

#: which functional groups an IOD must have; the others are allowed as far as the table of the module has them
GROUPS = {
    "segmentation": {  # PS3.3 Table A.51-2
        "FrameContentSequence": "M - May not be used as a Shared Functional Group",
        "SegmentIdentificationSequence": "C - Required if Segmentation Type (0062,0001) is not equal to LABELMAP",
    },
    "parametric-map": {  # PS3.3 Table A.75-2
        "PixelMeasuresSequence": "M",
        "FrameContentSequence": "M - May not be used as a Shared Functional Group",
        "PixelValueTransformationSequence": "M",
        "FrameVOILUTSequence": "M",
        "RealWorldValueMappingSequence": "M",
        "ParametricMapFrameTypeSequence": "M",
    },
}

#: which attributes a content item has by its Value Type, PS3.3 Tables C.17-5 and C.18.1-1 to C.18.9-1: highdicom lists them all at once
VALUE_TYPES = {
    "TEXT": ["TextValue"],
    "DATETIME": ["DateTime"],
    "DATE": ["Date"],
    "TIME": ["Time"],
    "PNAME": ["PersonName"],
    "UIDREF": ["UID"],
    "NUM": ["MeasuredValueSequence"],
    "CODE": ["ConceptCodeSequence"],
    "COMPOSITE, IMAGE or WAVEFORM": ["ReferencedSOPSequence"],
    "SCOORD or SCOORD3D": ["GraphicData", "GraphicType"],
    "SCOORD3D": ["ReferencedFrameOfReferenceUID"],
    "TCOORD": ["TemporalRangeType"],
    "CONTAINER": ["ContinuityOfContent"],
    "TABLE": ["TabulatedValuesSequence"],
}


def iod_errors(ds: Dataset) -> list[str]:
    """What dicom-validator finds wrong with an object, one line an error: module, place, what is wrong."""
    info = dicom_info()
    result = IODValidator(ds, info, error_handler=NullValidationResultHandler()).validate()
    say = ValidationResultFormatter(info.dictionary)
    if result.status not in (Status.Passed, Status.Failed):
        return [say.failed_validation_message(result)]
    return [
        f"{module}: {'/'.join(keyword_for_tag(tag) or str(tag) for tag in [*(place.parents or []), place.tag])}{say.error_message(error)}"
        for module, errors in result.module_errors.items()
        for place, error in errors.items()
    ]


@cache
def dicom_info() -> DicomInfo:
    """The dictionary, the IODs and the modules, as dicom-validator makes them of the Standard's own files; once a process."""
    dictionary = {
        written(tag): {"name": name, "vr": vr, "vm": vm, "prop": "RET" if retired else ""}
        for tag, (vr, vm, name, retired, _) in DicomDictionary.items()
    }
    conditions = ConditionParser(dictionary)
    modules = {key: tree(rows) for key, rows in get_module_attribute_map().items()}
    groups = {}
    for key in list(modules):
        ask_by_value_type(modules[key], conditions)
        let_content_nest(key, modules)
        groups[key] = groups_apart(key, modules)
    iods = {}
    for uid, iod in get_sop_class_iod_map().items():
        uses = {module["key"]: module["usage"] for module in get_iod_module_map()[iod] if module["key"] in modules}
        iods[uid] = {
            "title": iod,
            "modules": {key: {"ref": key, "use": use} for key, use in uses.items()},
            "group_macros": {
                keyword: used(ref, GROUPS.get(iod, {}).get(keyword, "U"), conditions)
                for key in uses
                for keyword, ref in groups[key].items()
            },
        }
    return DicomInfo(dictionary, iods, modules)


def tree(rows: Iterable[dict[str, Any]]) -> Attributes:
    """Rows with a path as sequences with items."""
    top: Attributes = {}
    for row in rows:
        if tag_for_keyword(row["keyword"]) is None:  # repeating groups of overlays and curves, which pydicom keeps apart
            continue
        level = top
        for sequence in row["path"]:
            level = level[at(sequence)].setdefault("items", {})
        level[at(row["keyword"])] = {"name": row["keyword"], "type": row["type"]}
    return top


def ask_by_value_type(level: Attributes, conditions: ConditionParser) -> None:
    """In every content item: what only one Value Type has is asked of no other."""
    for value_types, keywords in VALUE_TYPES.items() if at("ValueType") in level else ():
        for keyword in keywords:
            if (attribute := level.get(at(keyword))) is not None:
                attribute["type"] = attribute["type"][0] + "C"
                attribute["cond"] = conditions.parse(f"Required if Value Type (0040,A040) is {value_types}").result_dict()
    for attribute in level.values():
        ask_by_value_type(attribute.get("items", {}), conditions)


def let_content_nest(key: str, modules: dict[str, Attributes]) -> None:
    """A content item has content items, PS3.3 Table C.17-6: highdicom stops at the first level."""
    content = modules[key].get(at("ContentSequence"))
    if content is not None and "items" in content:
        nested = modules[f"{key}/ContentSequence"] = content["items"]
        content["items"] = {"include": [{"ref": f"{key}/ContentSequence"}]}
        nested[at("ContentSequence")] = content


def groups_apart(key: str, modules: dict[str, Attributes]) -> dict[str, str]:
    """Functional groups as modules of their own: the reference of each by the keyword of its sequence."""
    found = {}
    for where in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        around = modules[key].get(at(where), {})
        for tag, attribute in around.get("items", {}).items():
            found[attribute["name"]] = ref = f"{key}/{attribute['name']}"
            modules[ref] = {tag: attribute}
        if around:
            around["items"] = {"include": [{"ref": "FuncGroup"}]}
    return found


def used(ref: str, use: str, conditions: ConditionParser) -> dict[str, Any]:
    """A functional group and whether it must be there."""
    return {"ref": ref, "use": use} | ({"cond": conditions.parse(use).result_dict()} if len(use) > 1 else {})


def at(keyword: str) -> str:
    return written(tag_for_keyword(keyword) or 0)


def written(tag: int) -> str:
    """As PS3.6 and dicom-validator write a tag."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
