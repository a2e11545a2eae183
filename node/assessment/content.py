"""Content items of an SR, one look each (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from node.codes import Code

NO_CODE = Code("", "", "")
DEEPEST = 64  #: levels of a tree that are followed


def children(item: Dataset) -> list[Dataset]:
    """The items right below."""
    return list(item.get("ContentSequence") or ())


def within(item: Dataset, depth: int = 0) -> Iterator[Dataset]:
    """Everything below that belongs to this item: not what lies in a container of its own."""
    for child in children(item):
        if child.get("ValueType") != "CONTAINER" and depth < DEEPEST:
            yield child
            yield from within(child, depth + 1)


def containers(item: Dataset, depth: int = 0) -> Iterator[Dataset]:
    """Every container from here down, outer ones first."""
    if item.get("ValueType") == "CONTAINER":
        yield item
    for child in children(item) if depth < DEEPEST else ():
        yield from containers(child, depth + 1)


def concept(item: Dataset) -> Code:
    """Concept Name (0040,A043)."""
    return _code(item, "ConceptNameCodeSequence")


def coded(item: Dataset) -> Code:
    """The value of a CODE item (0040,A168)."""
    return _code(item, "ConceptCodeSequence")


def references(item: Dataset) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """SOP Instance UID, segment numbers and frame number (1 where none is told) of an IMAGE or COMPOSITE item."""
    for one in item.get("ReferencedSOPSequence") or ():
        frame = _numbers(one, "ReferencedFrameNumber")
        yield str(one.get("ReferencedSOPInstanceUID") or ""), _numbers(one, "ReferencedSegmentNumber"), (frame or (1,))[0]


def _code(item: Dataset, keyword: str) -> Code:
    for one in item.get(keyword) or ():
        value = one.get("CodeValue") or one.get("LongCodeValue") or one.get("URNCodeValue") or ""
        return Code(str(value), str(one.get("CodingSchemeDesignator") or ""), str(one.get("CodeMeaning") or ""))
    return NO_CODE


def _numbers(item: Dataset, keyword: str) -> tuple[int, ...]:
    value = item.get(keyword)
    if value is None or value == "":
        return ()
    return tuple(int(one) for one in value) if hasattr(value, "__iter__") and not isinstance(value, str) else (int(value),)
