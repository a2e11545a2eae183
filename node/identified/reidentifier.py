"""The way home: an object made in the hall gets its patient, its study and its original UIDs back. PS3.15 E.1.2, Re-identifier."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from pydicom import dcmread, dcmwrite
from pydicom.config import IGNORE, RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from node.codes import IMAGING
from node.domain import CleanUid
from node.errors import NodeError
from node.identified.cleaning import shifted
from node.identified.deidentifier import STUDY_TAGS
from node.identified.identities import Identities
from node.identified.named import Identity

UTF_8 = "ISO_IR 192"
METHODS = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
#: what the de-identifier wrote about itself: on the way home it is no longer true (PS3.15 E.1.2)
MARKS = (
    "PatientIdentityRemoved",
    *METHODS,
    "LongitudinalTemporalInformationModified",
)
#: dates that a result takes over from its sources; all others are its own and true already
TAKEN_OVER = (
    "AcquisitionDate",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
    "StartAcquisitionDateTime",
    "EndAcquisitionDateTime",
    "RadiopharmaceuticalStartDateTime",
    "RadiopharmaceuticalStopDateTime",
)
#: of the SOP Instance Reference Macro, PS3.3 Table 10-11: both Type 1
REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
#: Type 1 and 2 of the Patient and General Study modules, PS3.3 C.7.1.1, C.7.2.1
WHO = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
WHEN = ("PatientBirthDate", "StudyDate", "StudyTime")  #: of these, what is no date or time says nothing, and a new object leaves it empty
AS_IT_CAME = frozenset(WHO) - frozenset(WHEN)
PROCEDURE_REPORTED = "121058"  #: DCM; TID 1500, row 4
LOCAL = "99LOCAL"  #: the scheme in which a house's own codes stand in the hall
CODE = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion")
MEANING = 64  # characters, VR LO
_CHARSET = Tag("SpecificCharacterSet")


class CleanUidLeft(NodeError):
    """An object still names something by its clean UID, so it does not go out."""


class Reidentifier:
    """Gives names back, to copies read from bytes only: objects of the hall share elements with each other."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def name_again(self, part10: bytes, study: CleanUid) -> bytes:
        """The object as the patient's own archive should hold it.

        Patient and study modules come back as they came, UIDs of the sources too; the object's own UIDs, dates and content stay.
        Text is UTF-8 (ISO_IR 192), which holds the names of any character set.

        Raises
        ------
        KeyMissing
            When the study's identity is gone.
        CleanUidLeft
            When the object still holds a clean UID of this study.
        """
        identity = self._identities.get(study)
        data_set = dcmread(BytesIO(part10))
        data_set.decode()  # every text, while the data set still says how
        _uids_back(data_set, identity.original_uid)
        _dates_back(data_set, identity.date_shift_days)
        _modules_back(data_set, identity)
        _procedure_back(data_set, identity.attributes)
        for keyword in MARKS:
            if keyword in data_set and keyword not in identity.attributes:
                del data_set[keyword]
        data_set.SpecificCharacterSet = UTF_8
        left = [
            element.keyword
            for element in data_set.iterall()
            if element.VR == "UI" and any(u in identity.original_uid for u in _values(element))
        ]
        if left:
            raise CleanUidLeft(attributes=sorted(set(left)))
        out = BytesIO()
        dcmwrite(out, data_set, enforce_file_format=True)
        return out.getvalue()


def _uids_back(data_set: Dataset, original_uid: Mapping[CleanUid, str]) -> None:
    for part in (data_set, data_set.file_meta):
        for element in part.iterall():
            if element.VR == "UI" and element.value:
                back = [original_uid.get(CleanUid(uid), uid) for uid in _values(element)]
                if back != _values(element):
                    element.value = back[0] if len(back) == 1 else back


def _dates_back(data_set: Dataset, shift_days: int) -> None:
    if not shift_days:
        return
    for element in data_set.iterall():
        if element.keyword in TAKEN_OVER and element.value and element.VM == 1:
            moved = shifted(str(element.value).encode("ascii", "replace"), shift_days).decode()
            if moved:
                element.value = moved


def _modules_back(data_set: Dataset, identity: Identity) -> None:
    """The Patient and Study modules of the source, and nothing of ours in their place."""
    attributes = identity.attributes
    attributes.decode()
    for tag in tuple(data_set.keys()):
        if tag.group in (0x0010, 0x0012) or (int(tag) in STUDY_TAGS and tag != _CHARSET):
            del data_set[tag]
    for element in attributes:
        if element.keyword == "ReferencedStudySequence":
            element.value = [item for item in element.value if all(item.get(keyword) for keyword in REFERENCE)]
        one = _as_today(element) if element.keyword in WHEN else element
        if one.tag != _CHARSET and (one.keyword in AS_IT_CAME or _valid(one)):
            data_set[one.tag] = one
    for keyword in WHO:
        if keyword not in data_set:
            setattr(data_set, keyword, "")  # scanners leave out what must be there, if empty
    if data_set.get("PatientIdentityRemoved") == "YES" and not any(keyword in data_set for keyword in METHODS):
        del data_set.PatientIdentityRemoved  # YES must say how (Type 1C), and the source does not


def _procedure_back(data_set: Dataset, attributes: Dataset) -> None:
    """Procedure Reported as the study names it: a report could take a house's own code only as the hall had it, without value and scheme."""
    for item in data_set.get("ContentSequence") or ():
        names, codes = (item.get(keyword) or [Dataset()] for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"))
        if names[0].get("CodeValue") == PROCEDURE_REPORTED and codes[0].get("CodingSchemeDesignator") == LOCAL:
            item.ConceptCodeSequence = [_procedure(attributes)]


def _procedure(attributes: Dataset) -> Dataset:
    """The first whole code of the study's own; without one, imaging of some kind."""
    for item in attributes.get("ProcedureCodeSequence") or ():
        if _is_code(item):
            code = Dataset()
            for keyword in CODE:
                if item.get(keyword):
                    setattr(code, keyword, item.get(keyword))
            code.CodeMeaning = str(item.CodeMeaning)[:MEANING]  # a house's own may be longer than a new object may say
            if all(_valid(one) for one in code):
                return code
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = IMAGING.value, IMAGING.scheme_designator, IMAGING.meaning
    return code


def _as_today(element: Any) -> DataElement:
    """A date or time without the dots and colons of ACR-NEMA (PS3.5 6.2, DA and TM)."""
    mark = "." if element.VR == "DA" else ":"
    return DataElement(element.tag, element.VR, str(element.value or "").replace(mark, ""), validation_mode=IGNORE)


def _valid(element: Any) -> bool:
    """Whether a value may stand in a new object. Scanners write ages like `0Y`, references without a class and half codes; an object of ours may not.

    Who the patient is and which study it was (`AS_IT_CAME`) come home whatever they look like.
    """
    if element.VR == "SQ":
        whole = not element.keyword.endswith("CodeSequence") or all(_is_code(item) for item in element.value)
        return bool(element.value) and whole and all(_valid(one) for item in element.value for one in item)
    try:
        for value in _values(element):
            validate_value(element.VR, value, RAISE)
    except ValueError:
        return False
    return True


def _is_code(item: Dataset) -> bool:
    """Code Sequence Macro, PS3.3 Table 8.8-1."""
    if not item.get("CodeMeaning"):
        return False
    return bool(item.get("URNCodeValue") or ((item.get("CodeValue") or item.get("LongCodeValue")) and item.get("CodingSchemeDesignator")))


def _values(element: Any) -> list[str]:
    value = element.value
    if not value:
        return []
    return [str(value)] if element.VM == 1 else [str(one) for one in value]
