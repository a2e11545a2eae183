"""dicom-validator with tables made of highdicom's and pydicom's finds what is wrong; that our objects pass is asked beside dciodvfy."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom.dataset import Dataset

from node.domain import Role
from node.provenance import PATIENT, STUDY
from node.writers import written
from tests.conformance import cases
from tests.conformance.iod_tables import dicom_info, iod_errors
from tests.conformance.test_encodings import a_result, everything


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Dataset]:
    """One result in every encoding, as a receiver has it."""
    study = cases.study_of(cases.ct_files(tmp_path_factory.mktemp("ct")))
    volume = cases.stack(study)
    objects = written(study, study.series[0], volume, a_result(volume, cases.opacity(volume.pixels.shape)), everything(study))
    return {role: cases.reread(ds) for role, ds in objects.items()}


def without(*keywords: str) -> Callable[[Dataset], None]:
    """Break an object: these are gone."""

    def broken(ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return broken


def with_value(keyword: str, value: object) -> Callable[[Dataset], None]:
    """Break an object: this has another value."""
    return lambda ds: setattr(ds, keyword, value)


def within(*path: str, then: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    """Break the first item of a sequence in sequences."""

    def broken(ds: Dataset) -> None:
        for keyword in path:
            ds = ds[keyword].value[0]
        then(ds)

    return broken


def in_all_frames(keyword: str) -> Callable[[Dataset], None]:
    """Break a multi-frame object: no functional group of this kind, neither shared nor of any frame."""

    def broken(ds: Dataset) -> None:
        for item in [*ds.SharedFunctionalGroupsSequence, *ds.PerFrameFunctionalGroupsSequence]:
            if keyword in item:
                delattr(item, keyword)

    return broken


def numbers(ds: Dataset) -> Dataset:
    """The first content item that holds a number."""
    return next(item for item in walk(ds) if item.get("ValueType") == "NUM")


def walk(ds: Dataset):
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from walk(item)


SHARED, FRAMES = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


@pytest.mark.parametrize(
    ("role", "broken", "said"),
    [
        (Role.SC, without("ConversionType"), "sc-equipment: ConversionType is missing"),
        (Role.SC, with_value("SOPInstanceUID", ""), "sop-common: SOPInstanceUID is empty"),
        (Role.SC, without("PatientName"), "patient: PatientName is missing"),
        (Role.SC, with_value("StudyDate", "yesterday"), "general-study: StudyDate has invalid value 'yesterday' for VR DA"),
        (Role.SC, with_value("EchoTime", 3), "General: EchoTime is unexpected"),
        (
            Role.PDF,
            without("EncapsulatedDocument", "MIMETypeOfEncapsulatedDocument"),
            "encapsulated-document: EncapsulatedDocument is missing",
        ),
        (Role.PR, with_value("ContentDate", "20260301"), "General: ContentDate is unexpected"),
        (Role.PR, within("GraphicAnnotationSequence", then=without("GraphicLayer")), "GraphicAnnotationSequence/GraphicLayer is missing"),
        (Role.RTSTRUCT, with_value("StructureSetLabel", None), "structure-set: StructureSetLabel is empty"),
        (Role.RTSTRUCT, within("StructureSetROISequence", then=without("ROINumber")), "StructureSetROISequence/ROINumber is missing"),
        (Role.SEG, in_all_frames("SegmentIdentificationSequence"), "SegmentIdentificationSequence is missing"),
        (Role.SEG, in_all_frames("FrameContentSequence"), "FrameContentSequence is missing"),
        (Role.SEG_LABELMAP, without("SegmentationType"), "segmentation-image: SegmentationType is missing"),
        (Role.SEG_LABELMAP, with_value("SegmentSequence", []), "segmentation-image: SegmentSequence is empty"),
        (Role.SEG_LABELMAP, within("SegmentSequence", then=without("SegmentLabel")), "SegmentSequence/SegmentLabel is missing"),
        (
            Role.SEG_LABELMAP,
            within(FRAMES, "FrameContentSequence", then=with_value("EchoTime", 3)),
            "FrameContentSequence/EchoTime is unexpected",
        ),
        (Role.PM, in_all_frames("RealWorldValueMappingSequence"), "RealWorldValueMappingSequence is missing"),
        (Role.PM, within(SHARED, "PixelValueTransformationSequence", then=without("RescaleSlope")), "RescaleSlope is missing"),
        (Role.KO, without("CurrentRequestedProcedureEvidenceSequence"), "CurrentRequestedProcedureEvidenceSequence is missing"),
        (Role.TEXT, without("VerificationFlag"), "sr-document-general: VerificationFlag is missing"),
        (Role.SR, within("ContentSequence", then=without("RelationshipType")), "ContentSequence/RelationshipType is missing"),
        (Role.SR, lambda ds: delattr(numbers(ds), "MeasuredValueSequence"), "/ContentSequence/MeasuredValueSequence is missing"),
    ],
)
def test_a_broken_object_is_found(made, role, broken, said):
    ds = deepcopy(made[role])
    assert iod_errors(ds) == []

    broken(ds)

    errors = iod_errors(ds)
    assert any(said in error for error in errors), errors


def test_an_unknown_class_is_an_error(made):
    ds = deepcopy(made[Role.SC])
    ds.SOPClassUID = "1.2.3"

    assert iod_errors(ds) == ["Unknown or retired SOP Class UID: 1.2.3"]


def test_no_module_of_our_classes_is_without_a_table(made):
    for role, ds in made.items():
        iod = dicom_info().iods[ds.SOPClassUID]
        assert set(iod["modules"]) == {module["key"] for module in get_iod_module_map()[iod["title"]]}, role


def test_what_results_take_from_their_images_is_in_the_modules_of_today():
    patient, study, patient_study = (
        {row["keyword"] for row in get_module_attribute_map()[key] if not row["path"]}
        for key in ("patient", "general-study", "patient-study")
    )

    assert set(PATIENT) <= patient
    assert set(STUDY) <= study | patient_study
