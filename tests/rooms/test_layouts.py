"""A layout that was met before is recognised, and only where every header is the same."""

from __future__ import annotations

import struct

import pytest

from node.identified import layouts
from node.identified.elements import Malformed, encode, encode_item, scan
from node.identified.layouts import layout_of


def data_set(name: bytes = b"DOE^JANE", number: bytes = b"12", *, explicit: bool = True, extra: bytes = b"") -> bytes:
    return (
        encode(0x00100010, b"PN", name, explicit=explicit)
        + encode(0x00200013, b"IS", number, explicit=explicit)
        + encode(0x00280010, b"US", b"\x01\0", explicit=explicit)
        + extra
        + encode(0x7FE00010, b"OW", bytes(64), explicit=explicit)
    )


@pytest.fixture(autouse=True)
def _nothing_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_known", {})


@pytest.mark.parametrize("explicit", [True, False])
def test_the_same_places_are_the_same_layout_whatever_stands_in_them(explicit: bool) -> None:
    first = layout_of(data_set(explicit=explicit), 0, explicit=explicit)
    again = layout_of(data_set(b"ROE^JOHN", b"13", explicit=explicit), 0, explicit=explicit)
    assert again is first
    assert again.elements == scan(data_set(explicit=explicit), 0, len(data_set(explicit=explicit)), explicit=explicit)[0]
    assert again.top == {element.tag: element for element in again.elements}
    assert not again.overlays


def test_other_lengths_that_add_up_to_the_same_are_another_layout() -> None:
    one, other = data_set(b"DOE^JANE", b"12"), data_set(b"DOE^JA", b"1234")
    assert len(one) == len(other)
    layout_of(one, 0, explicit=True)
    assert (
        layout_of(other, 0, explicit=True).elements
        == scan(other, 0, len(other), explicit=True)[0]
        != scan(one, 0, len(one), explicit=True)[0]
    )


def test_more_layouts_of_one_length_than_are_kept_are_told_apart_too() -> None:
    many = [data_set(b"N" * (2 + 2 * n), b"1" * (22 - 2 * n)) for n in range(10)]
    for _ in range(2):
        for data in many:
            assert layout_of(data, 0, explicit=True).elements == scan(data, 0, len(data), explicit=True)[0]
    assert len(layouts._known[0, len(many[0]), True]) == layouts.SAME_LENGTH


def test_a_header_that_was_damaged_is_found_however_often_its_like_was_met() -> None:
    data = data_set()
    layout_of(data, 0, explicit=True)
    at = data.index(b"\x20\0\x13\0") + 6
    for length in (3, 4000):
        with pytest.raises(Malformed):
            layout_of(data[:at] + struct.pack("<H", length) + data[at + 2 :], 0, explicit=True)
    with pytest.raises(Malformed):
        layout_of(data[:-2], 0, explicit=True)


def test_what_has_no_length_of_its_own_is_scanned_each_time() -> None:
    def with_sequence(item: bytes) -> bytes:
        undefined = (
            struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + encode_item(item) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        )
        return undefined + data_set()

    one = with_sequence(encode(0x00081150, b"UI", b"1.2.3.4", explicit=True))
    other = with_sequence(
        b"\xfe\xff\xdd\xe0" + bytes(4) + encode(0x00081150, b"UI", b"", explicit=True)
    )  # a delimiter where the item begins
    assert len(one) == len(other)
    layout_of(one, 0, explicit=True)
    assert layouts._known == {}
    assert layout_of(other, 0, explicit=True).elements == scan(other, 0, len(other), explicit=True)[0]


def test_overlays_are_told() -> None:
    data = data_set() + encode(0x60003000, b"OW", bytes(8), explicit=True)
    assert layout_of(data, 0, explicit=True).overlays


def test_the_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "LENGTHS", 3)
    for n in range(10):
        layout_of(data_set(b"N" * 2 * n), 0, explicit=True)
    assert len(layouts._known) <= 3
