"""Which objects may leave: images always, other objects in folders; what no table can make clean stays behind, with the reason."""

from __future__ import annotations

from pydicom import uid as pydicom_uid

from node.identified.profile import Options, image_sop_classes, other_sop_classes

_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: image SOP classes that left the Standard and still come
RETIRED_IMAGES = frozenset(_STORAGE + n for n in ("3", "5", "6", "12.3"))
#: documents in a format of their own: an attribute table does not reach into them (PS3.3 A.45, A.85, A.104)
ENCAPSULATED = _STORAGE + "104."
RAW_DATA = _STORAGE + "66"
#: reports: objects that are a content tree, PS3.3 C.17.3
TREES, MORE_TREES = _STORAGE + "88.", frozenset({_STORAGE + "78.6", _STORAGE + "79.1"})
VOICES = frozenset({_STORAGE + "9.4.1", _STORAGE + "9.4.2"})
SURFACES = frozenset({_STORAGE + "68.1", _STORAGE + "68.2"})


def why_left_out(sop_class: str, options: Options, *, images_only: bool, of_a_study: bool) -> str:
    """Why an object stays behind; empty when it may leave.

    Parameters
    ----------
    images_only
        For the hall, where nothing but images is of use.
    of_a_study
        The object has a Study Instance UID.
    """
    if sop_class in image_sop_classes() or sop_class in RETIRED_IMAGES:
        return ""
    if sop_class not in pydicom_uid.UID_dictionary:
        return "an unknown SOP class"
    if images_only:
        return "not an image"
    if sop_class.startswith(ENCAPSULATED):
        return "an encapsulated document: its inside can't be cleaned"
    if sop_class == RAW_DATA:
        return "raw data in a maker's own format"
    if sop_class in VOICES:
        return "a recording of a voice"
    if sop_class in SURFACES:
        return "a scan of the body's surface"
    if sop_class not in other_sop_classes():
        return "a SOP class without an IOD in PS3.3"
    if not of_a_study:
        return "an object of no patient's study"
    if (sop_class.startswith(TREES) or sop_class in MORE_TREES) and not options.clean_structured_content:
        return "a report: it leaves with deidentification.clean_structured_content only"
    return ""
