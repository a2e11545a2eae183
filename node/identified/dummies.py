"""Dummy values (D of PS3.15 Table E.1-1a): they say nothing, fit the VR, and keep the object valid; for sequences one such item."""

from __future__ import annotations

from node.identified.elements import encode, encode_item

VALUES = {
    b"AE": b"ANONYMIZED",
    b"AS": b"000Y",
    b"CS": b"UNKNOWN",
    b"DA": b"19000101",
    b"DT": b"19000101000000",
    b"TM": b"000000",
    b"DS": b"0",
    b"IS": b"0",
    b"PN": b"ANONYMIZED",
    b"UR": b"urn:anonymized",
    b"UI": b"2.25.0",
    b"OB": b"\0\0",
    b"OW": b"\0\0",
    b"US": b"\0\0",
    b"SS": b"\0\0",
    b"UL": b"\0\0\0\0",
    b"SL": b"\0\0\0\0",
    b"FL": b"\0\0\0\0",
    b"FD": b"\0\0\0\0\0\0\0\0",
}
_TEXT = b"ANONYMIZED"


def value(vr: bytes) -> bytes:
    """The dummy of a VR that is no sequence."""
    return VALUES.get(vr, _TEXT)


def sequence(tag: int, *, explicit: bool) -> bytes:
    """The items of a dummy sequence: one that says nothing, with the attributes that its IOD requires."""

    def e(element: int, vr: bytes, content: bytes) -> bytes:
        return encode(element, vr, content, explicit=explicit)

    def code(value: bytes, scheme: bytes, meaning: bytes) -> bytes:
        return encode_item(e(0x00080100, b"SH", value) + e(0x00080102, b"SH", scheme) + e(0x00080104, b"LO", meaning))

    match tag:
        case 0x0040A730:  # Content Sequence: a comment (PS3.3 C.17.3)
            body = e(0x0040A010, b"CS", b"CONTAINS") + e(0x0040A040, b"CS", b"TEXT")
            body += e(0x0040A043, b"SQ", code(b"121106", b"DCM", b"Comment")) + e(0x0040A160, b"UT", _TEXT)
        case 0x0040A073:  # Verifying Observer Sequence (PS3.3 C.17.2)
            body = e(0x0040A027, b"LO", _TEXT) + e(0x0040A030, b"DT", VALUES[b"DT"]) + e(0x0040A075, b"PN", _TEXT)
            body += e(0x0040A088, b"SQ", b"")
        case 0x00700001:  # Graphic Annotation Sequence: a point in the corner of the display (PS3.3 C.10.5)
            point = e(0x00700005, b"CS", b"DISPLAY") + e(0x00700020, b"US", b"\2\0") + e(0x00700021, b"US", b"\1\0")
            point += e(0x00700022, b"FL", bytes(8)) + e(0x00700023, b"CS", b"POINT")
            body = e(0x00700002, b"CS", b"ANONYMIZED") + e(0x00700009, b"SQ", encode_item(point))
        case 0x00340001:  # Flow Identifier Sequence
            body = e(0x00340002, b"OB", b"\0\0")
        case _:  # Person Identification Code Sequence, and whatever else is a sequence of codes
            return code(b"UNKNOWN", b"99LOCAL", b"UNKNOWN")
    return encode_item(body)
