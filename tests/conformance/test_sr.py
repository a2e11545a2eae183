"""Structured reports: TID 1500 that other programs read, refers to what exists, and never leaves the reader without an answer."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from node import codes
from node.domain import Measurement, Region, Result
from node.errors import ResultInvalid
from node.sc_writer import write_sc
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conformance.test_seg import MULTIFRAME, STILLS, real
from tests.conftest import need


@pytest.fixture
def ct(tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)
    return study, volume, cases.opacity(volume.pixels.shape)


def all_three(study, volume, result, **options):
    maker = options.pop("maker", None) or cases.provenance(study)
    seg, sc = write_seg(study, volume, result, maker), write_sc(study, volume, result, maker)
    return seg, sc, cases.reread(write_sr(study, volume, result, maker, seg=seg, sc=sc, series=study.series[0], **options))


def groups_of(report: Dataset) -> list[hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations]:
    """As highdicom reads them."""
    return hd.sr.srread(BytesIO(cases.bytes_of(report))).content.get_planar_roi_measurement_groups()


def items(ds: Dataset):
    """Every content item."""
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from items(item)


def words(ds: Dataset) -> str:
    """Every TEXT of the report."""
    return "\n".join(item.TextValue for item in items(ds) if item.ValueType == "TEXT")


def referenced(ds: Dataset) -> set[str]:
    return {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(ds) if item.ValueType == "IMAGE"}


def evidence(ds: Dataset) -> dict[str, str]:
    """SOP Instance UID → Series Instance UID."""
    [study] = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == ds.StudyInstanceUID
    return {s.ReferencedSOPInstanceUID: g.SeriesInstanceUID for g in study.ReferencedSeriesSequence for s in g.ReferencedSOPSequence}


# --- a link ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("result", ["found", "not analysed"])
def test_a_link_to_the_reading_page_stands_in_the_summary_as_a_uri(ct, tmp_path, result):
    study, volume, mask = ct
    told = cases.infection(mask) if result == "found" else Result(analysed=False, reason="The slices are 12 mm thick.")
    maker = cases.linked(cases.provenance(study))

    report = cases.reread(write_sr(study, volume, told, maker, seg=None, sc=None, series=study.series[0]))

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    [link] = [
        item for item in items(report) if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == "110037"
    ]
    assert (link.ValueType, link.TextValue) == ("TEXT", maker.job.reading_link.url)
    assert "without a password, until 2026-" in words(report)
    if result == "found":
        assert len(groups_of(report)) == 1


# --- a finding -----------------------------------------------------------------------------------------------------------------
def test_a_finding_is_a_measurement_group_on_its_key_slice(ct, tmp_path):
    study, volume, mask = ct
    seg, _, report = all_three(study, volume, cases.infection(mask))

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    [group] = groups_of(report)
    assert group.finding_type == codes.GROUND_GLASS_OPACITY
    assert group.finding_sites[0].topographical_modifier is None
    assert group.finding_sites[0].value == codes.LUNG
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID
    assert group.tracking_identifier == seg.SegmentSequence[0].TrackingID
    numbers = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
    assert numbers == {"Probability of infection": (93.0, "%"), "Volume": (12.345, "mL")}
    key = int(mask.sum(axis=(1, 2)).argmax())
    [(image, outline)] = [(r.ContentSequence[0].ReferencedSOPSequence[0], r.value) for r in [group.roi]]
    assert image.ReferencedSOPInstanceUID == volume.frames[key].instance.sop_instance_uid
    np.testing.assert_array_equal(outline[0], outline[-1])
    rows, columns = np.nonzero(mask[key])
    np.testing.assert_allclose(outline.min(axis=0), (columns.min() + 0.5, rows.min() + 0.5))
    np.testing.assert_allclose(outline.max(axis=0), (columns.max() + 0.5, rows.max() + 0.5))


def test_a_report_says_who_made_it_and_that_nobody_verified_it(ct):
    study, volume, mask = ct
    _, _, report = all_three(study, volume, cases.infection(mask))

    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert "RESEARCH USE ONLY" in words(report)
    assert cases.DIGEST in words(report)
    [observer] = hd.sr.srread(BytesIO(cases.bytes_of(report))).content.get_observer_contexts()
    assert observer.observer_identifying_attributes.uid == "2.25.4242"
    names = {i.ConceptNameCodeSequence[0].CodeMeaning: i for i in items(report) if "ConceptNameCodeSequence" in i}
    assert names["Algorithm Name"].TextValue == "covid_ct U-Net"
    assert names["Algorithm Version"].TextValue == "1.0.0"


def test_the_summary_comes_before_the_measurements(ct):
    study, volume, mask = ct
    _, _, report = all_three(study, volume, replace(cases.infection(mask), notes=("Two slices were missing.",)))

    order = [item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence]
    assert order.index("Summary") < order.index("Image Library") < order.index("Imaging Measurements")
    assert "covid_ct: infection, 93 %" in words(report)
    assert "Two slices were missing." in words(report)


def test_every_reference_is_evidence_and_exists(ct):
    study, volume, mask = ct
    seg, sc, report = all_three(study, volume, cases.infection(mask))

    known = {i.sop_instance_uid: study.series[0].series_instance_uid for i in study.series[0].instances}
    known |= {o.SOPInstanceUID: o.SeriesInstanceUID for o in (seg, sc)}
    assert evidence(report) == known
    assert referenced(report) == set(known)


def test_the_same_work_gives_the_same_bytes(ct):
    study, volume, mask = ct
    once, again = (cases.bytes_of(all_three(study, volume, cases.infection(mask))[2]) for _ in range(2))
    assert once == again


def test_a_report_names_the_one_it_replaces(ct, tmp_path):
    study, volume, mask = ct
    _, _, first = all_three(study, volume, cases.infection(mask))
    newer = cases.provenance(study, version="1.1.0", digest="4e" * 32)

    _, _, second = all_three(study, volume, cases.infection(mask), maker=newer, predecessor=(first.SOPClassUID, first.SOPInstanceUID))

    assert [*cases.dciodvfy_errors(second, tmp_path), *iod_errors(second)] == []
    assert second.SOPInstanceUID != first.SOPInstanceUID
    [series] = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


# --- labels without a place ------------------------------------------------------------------------------------------------------
def labels(mask: np.ndarray) -> Result:
    """Three labels: found, not found, not trained."""
    result = cases.infection(mask)
    one = replace(result.findings[0], segment=None, measurements=())
    malignant = replace(one, name="malignant", code=codes.Code("86049000", "SCT", "Malignant neoplasm, primary"), probability=0.8)
    benign = replace(one, name="benign", code=codes.Code("108369006", "SCT", "Neoplasm"), probability=0.15, present=False)
    fracture = replace(one, name="fracture", code=codes.Code("125605004", "SCT", "Fracture of bone"), probability=None, present=None)
    return replace(result, label="malignant", confidence=0.8, findings=(malignant, benign, fracture), segments=())


def test_every_group_has_coordinates_even_for_a_finding_without_a_place(ct, tmp_path):
    study, volume, mask = ct
    _, _, report = all_three(study, volume, labels(mask))

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    groups = groups_of(report)
    assert [g.finding_type.meaning for g in groups] == ["Malignant neoplasm, primary", "Neoplasm"]
    assert all(len(g.roi.value) > 5 for g in groups)  # fewer are taken for a shape to be edited
    assert len({g.roi.value.tobytes() for g in groups}) == 2
    assert "no outline" in words(report)


def test_each_probability_says_of_what(ct):
    study, volume, mask = ct
    _, _, report = all_three(study, volume, labels(mask))

    malignant, benign = groups_of(report)
    [first], [second] = malignant.get_measurements(), benign.get_measurements()
    assert (first.name.value, first.name.scheme_designator, first.value) == ("111047", "DCM", 80.0)
    assert (second.name.meaning, second.value) == ("Probability of benign", 15.0)
    decided = [g.get_qualitative_evaluations()[0].value.meaning for g in (malignant, benign)]
    assert decided == ["Present", "Absent"]


def test_a_label_that_was_not_trained_is_said_in_words_and_has_no_number(ct):
    study, volume, mask = ct
    _, _, report = all_three(study, volume, labels(mask))

    assert "fracture (lung): not trained, nothing is said about it" in words(report)
    assert not any("fracture" in i.ConceptNameCodeSequence[0].CodeMeaning for i in items(report) if i.ValueType == "NUM")


def test_nothing_found_is_an_answer_with_its_probability(ct, tmp_path):
    study, volume, mask = ct
    result = cases.infection(mask)
    found = replace(result.findings[0], probability=0.02, present=False, segment=None, measurements=())
    nothing = replace(result, label="no infection", confidence=0.98, findings=(found,), segments=(), heatmap=None)

    seg, _, report = all_three(study, volume, nothing)

    assert seg is None
    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    assert "Nothing was found" in words(report)
    [group] = groups_of(report)
    assert group.get_measurements()[0].value == 2.0


def test_long_names_keep_codes_of_their_own(ct):
    study, volume, mask = ct
    result = cases.infection(mask)
    both = tuple(
        replace(result.findings[0], name=f"infection, {side} lung", segment=None, laterality=code)
        for side, code in (("left", codes.LEFT), ("right", codes.RIGHT))
    )
    _, _, report = all_three(study, volume, replace(result, findings=both))

    values = [g.get_measurements()[0].name.value for g in groups_of(report)]
    assert len(set(values)) == 2
    assert all(len(value) <= 16 for value in values)
    assert [g.finding_sites[0].laterality.meaning for g in groups_of(report)] == ["Left", "Right"]


def test_names_in_other_scripts_keep_codes_of_their_own(ct):
    """A program that reads codes takes two findings with one code for the same."""
    study, volume, mask = ct
    result = cases.infection(mask)
    names = ("肺炎", "腫瘤", "пневмония", "opacity (右)", "opacity (左)", "opacity")
    _, _, report = all_three(study, volume, replace(result, findings=tuple(replace(result.findings[0], name=name) for name in names)))

    concepts = [g.get_measurements()[0].name for g in groups_of(report)]
    assert len({concept.value for concept in concepts}) == len(names)
    assert all(len(concept.value) <= 16 for concept in concepts)
    assert [concept.meaning for concept in concepts] == [f"Probability of {name}" for name in names]


# --- not analysed ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("opened", [True, False])
def test_not_analysed_gives_the_reason_as_a_page_of_text(ct, tmp_path, opened):
    study, volume, _ = ct
    result = Result(analysed=False, reason="The slices do not form one regular volume.")
    maker = cases.provenance(study)

    report = cases.reread(write_sr(study, volume if opened else None, result, maker, seg=None, sc=None, series=study.series[0]))

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    assert report.SOPClassUID == EnhancedSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert "Not analysed: The slices do not form one regular volume." in words(report)
    assert "RESEARCH USE ONLY" in words(report)
    assert set(evidence(report)) == {i.sop_instance_uid for i in study.series[0].instances}
    page = subprocess.run([need("dsrdump", "dcmtk"), "+Pl", str(tmp_path / "SR.dcm")], capture_output=True, text=True)
    assert page.returncode == 0, page.stderr
    assert "Not analysed: The slices do not form one regular volume." in page.stdout


def test_an_analysis_without_findings_still_has_an_answer(ct, tmp_path):
    study, volume, _ = ct
    result = Result(analysed=True, label="no anomaly", confidence=0.9)

    _, _, report = all_three(study, volume, result)

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    assert "no anomaly, 90 %" in words(report)
    assert "Nothing was found" in words(report)


# --- regions ---------------------------------------------------------------------------------------------------------------------
def test_a_pipeline_s_own_outline_is_closed_and_stays_in_the_image(ct):
    study, volume, mask = ct
    result = cases.infection(mask)
    box = Region(frame=3, outline=np.array([(-5, 10), (20, 10), (20, 90)], np.float32))
    _, _, report = all_three(study, volume, replace(result, findings=(replace(result.findings[0], region=box),)))

    outline = groups_of(report)[0].roi.value
    np.testing.assert_array_equal(outline[0], outline[-1])
    assert len(outline) > 6
    assert outline.min() >= 0
    assert outline.max() <= 64


@pytest.mark.parametrize(
    "region", [Region(frame=99, outline=np.zeros((4, 2), np.float32)), Region(frame=0, outline=np.full((4, 2), np.nan))]
)
def test_a_region_that_is_nowhere_is_refused(ct, region):
    study, volume, mask = ct
    result = cases.infection(mask)
    result = replace(result, findings=(replace(result.findings[0], region=region),), segments=())
    with pytest.raises(ResultInvalid):
        write_sr(study, volume, result, cases.provenance(study), seg=None, sc=None, series=study.series[0])


# --- real images -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm", *MULTIFRAME, *STILLS])
def test_real_images_get_a_valid_report_that_dcmtk_prints(shared, tmp_path, name):
    study = cases.study_of(real(shared, name))
    volume = cases.still(study) if name in STILLS else cases.stack(study)
    mask = cases.ball(volume.pixels.shape[:3], (0.5, 0.1, 0.3), (0.9, 0.2, 0.15))
    result = cases.infection(mask, site=codes.BREAST)
    size = Measurement(name=codes.LONG_AXIS, value=17.123456789, unit=codes.MILLIMETER)
    result = replace(result, findings=(replace(result.findings[0], measurements=(size,)),))

    seg, sc, report = all_three(study, volume, result)

    assert [*cases.dciodvfy_errors(report, tmp_path), *iod_errors(report)] == []
    in_space = volume.affine is not None and "FrameOfReferenceUID" in study.series[0].header
    assert report.SOPClassUID == (Comprehensive3DSRStorage if in_space else ComprehensiveSRStorage)
    assert referenced(report) <= set(evidence(report))
    assert {seg.SOPInstanceUID, sc.SOPInstanceUID} <= referenced(report)
    [group] = groups_of(report)
    if name in MULTIFRAME:
        assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber in range(1, len(volume.frames) + 1)
    page = subprocess.run([need("dsrdump", "dcmtk"), "+Pl", str(tmp_path / "SR.dcm")], capture_output=True, text=True)
    assert page.returncode == 0, page.stderr
    assert "Probability of infection" in page.stdout
    assert dcmread(tmp_path / "SR.dcm").PatientID == str(study.series[0].header.get("PatientID", ""))
