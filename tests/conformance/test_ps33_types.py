"""The types that decide where Table E.1-1 leaves a choice are those of PS3.3, as highdicom carries it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from importlib.resources import files
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.identified.profile import TYPES, rows

STANDARD = files("highdicom").joinpath("_standard")
#: VRs that hold text
TEXT = {"LO", "SH", "ST", "LT", "UC", "UT", "UR"}


def standard(name: str) -> Any:
    return json.loads(STANDARD.joinpath(name).read_text())


def types_of(sop_classes: Collection[str]) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """Top level by attribute and SOP class, nested by the sequence around, and texts that are required and not in the table."""
    iods, modules, attributes = (standard(f"{name}.json") for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map"))
    listed = {row.tag for row in rows()}
    open_choice = {row.tag for row in rows() if "/" in row.basic or row.basic == "X"}
    top: dict[str, dict[str, str]] = defaultdict(dict)
    nested: dict[str, dict[str, str]] = defaultdict(dict)
    text: set[str] = set()
    for sop_class in sop_classes:
        for module in modules[iods[sop_class]]:
            for attribute in attributes.get(module["key"], []):
                number = tag_for_keyword(attribute["keyword"])
                if number is None:
                    continue
                tag, type_ = f"{number:08X}", attribute["type"]
                if tag in open_choice and type_[0] != "3":
                    parent = attribute["path"][-1] if attribute["path"] else ""
                    place, key = (nested[f"{tag_for_keyword(parent):08X}"], tag) if parent else (top[tag], sop_class)
                    place[key] = min(place.get(key, "3"), type_)
                if type_[0] == "1" and tag not in listed and dictionary_VR(number) in TEXT:
                    text.add(tag)
    return top, nested, text


def by_first(content: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {tag: {key: type_[0] for key, type_ in inner.items()} for tag, inner in content.items()}


@pytest.mark.parametrize("kind", ["image", "other"])
def test_the_types_are_those_of_the_standard(kind: str) -> None:
    content = json.loads(TYPES.read_text())
    sop_classes = content[f"{kind}_sop_classes"]

    top, nested, text = types_of(sop_classes)

    kept = {
        tag: {sop: type_[0] for type_, sops in by_type.items() for sop in sops if sop in sop_classes}
        for tag, by_type in content["top_level"].items()
    }
    assert {tag: found for tag, found in kept.items() if found} == by_first(top)
    assert by_first(content["nested" if kind == "image" else "nested_other"]) == by_first(nested)
    assert text <= set(content["text_type_1"])
    assert set(standard("sop_class_iod_map.json")) == set(content["image_sop_classes"]) | set(content["other_sop_classes"])
