"""The phantoms: valid DICOM, whole patients, and an answer that the pixels bear out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.testing import a_study, canary_study, write_study
from node.testing.canary import attributes, planted
from node.testing.phantom_brain_mr import brain_mr
from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.phantom_chest_ct import chest_ct
from node.testing.phantom_chest_xray import chest_xray
from tests.conformance.iod_tables import iod_errors
from tests.conftest import need


@pytest.fixture(scope="module")
def chest():
    return chest_ct(slices=24, rows=256, slice_mm=10.0)


def test_a_clean_chest_has_lungs_of_a_grown_person_and_no_ground_glass():
    clean = chest_ct(slices=24, rows=256, slice_mm=10.0, patches=0)

    assert clean.ground_glass_ml == 0.0
    assert 3500 < clean.lung_ml < 6500
    assert -880 < clean.hu[clean.lungs].mean() < -780


def test_ground_glass_lies_in_the_lungs_on_both_sides_between_air_and_tissue(chest):
    inside = chest.hu[chest.ground_glass]

    assert not (chest.ground_glass & ~chest.lungs).any()
    assert 200 < chest.ground_glass_ml < 900
    assert chest.affected_fraction == pytest.approx(chest.ground_glass_ml / chest.lung_ml)
    assert -600 < np.median(inside) < -300
    half = chest.hu.shape[2] // 2
    assert chest.ground_glass[:, :, :half].any()
    assert chest.ground_glass[:, :, half:].any()


def test_ground_glass_is_told_from_lung_by_its_density(chest):
    lung = chest.hu[chest.lungs & ~chest.ground_glass]

    assert np.median(chest.hu[chest.ground_glass]) - np.median(lung) > 250


def test_the_body_has_fat_muscle_and_bone_in_air(chest):
    middle = chest.hu[12]

    assert middle[:10, :10].mean() < -950  # outside the patient
    for low, high in ((-130, -60), (20, 80), (300, 900)):
        assert ((middle > low) & (middle < high)).mean() > 0.005


def test_the_same_seed_gives_the_same_voxels_and_another_seed_does_not():
    one = chest_ct.__wrapped__(slices=2, rows=128)
    again = chest_ct.__wrapped__(slices=2, rows=128)
    other = chest_ct.__wrapped__(slices=2, rows=128, seed=2)

    assert np.array_equal(one.hu, again.hu)
    assert not np.array_equal(one.hu, other.hu)


def test_a_malignant_lesion_is_dark_tall_and_throws_a_shadow():
    seen = breast_ultrasound("malignant")
    rows, columns = np.nonzero(seen.lesion)
    height, width = seen.extent_mm

    assert height > width
    assert seen.area_mm2 == pytest.approx(seen.lesion.sum() * (40 / 600) ** 2)
    assert seen.pixels[seen.lesion].mean() < 0.6 * seen.pixels[100:300][~seen.lesion[100:300]].mean()
    behind = seen.pixels[rows.max() + 20 : rows.max() + 90]
    middle = int(columns.mean())
    assert behind[:, middle - 30 : middle + 30].mean() < 0.7 * behind[:, :60].mean()


def test_a_benign_lesion_is_wide_smooth_and_brighter_behind():
    seen = breast_ultrasound("benign")
    rows, columns = np.nonzero(seen.lesion)
    height, width = seen.extent_mm

    assert width > 1.3 * height
    behind = seen.pixels[rows.max() + 10 : rows.max() + 60]
    middle = int(columns.mean())
    assert behind[:, middle - 40 : middle + 40].mean() > 1.1 * behind[:, :60].mean()


def test_a_normal_breast_has_no_lesion():
    assert not breast_ultrasound("normal").lesion.any()


def test_speckle_varies_as_speckle_does():
    """Compounded Rayleigh envelopes: neighbours along the skin are alike, far ones are not."""
    patch = breast_ultrasound("normal").pixels[60:90, 200:400].astype(float)
    patch -= patch.mean()
    near, far = (patch[:, :-1] * patch[:, 1:]).mean(), (patch[:, :-40] * patch[:, 40:]).mean()

    assert patch.std() > 5
    assert near > 0.5 * patch.var()
    assert far < 0.5 * near


def test_a_head_has_a_tumour_that_enhances_on_one_side_or_none():
    ill, healthy = brain_mr(tumor=True), brain_mr(tumor=False)
    rim = ill.pixels[ill.tumor]

    assert not healthy.tumor.any()
    assert 8 < ill.tumor_ml < 40
    assert np.percentile(rim, 90) > 1.6 * np.median(ill.pixels[ill.pixels > 250])
    assert np.percentile(rim, 5) < 250  # the core does not enhance
    assert not ill.tumor[:, :, : ill.tumor.shape[2] // 2].any()  # the patient's left is the picture's right


def test_a_chest_film_has_two_lungs_and_haze_at_its_place_or_none():
    ill, well = chest_xray(opacity="left upper"), chest_xray(opacity="")
    hazy, clear = (phantom.pixels[ill.opacity].astype(float) for phantom in (ill, well))

    assert not well.opacity.any()
    assert ill.shares_percent[0] == 0
    assert 15 < ill.shares_percent[1] < 65
    assert not (ill.right & ill.left).any()
    assert np.flatnonzero(ill.opacity.any(axis=1)).mean() < np.flatnonzero(ill.left.any(axis=1)).mean()
    assert hazy.mean() > clear.mean() + 200
    assert well.pixels[well.right].mean() < well.pixels[:, 360].mean()  # air is dark, the spine bright


@pytest.mark.parametrize(("modality", "options"), [("CT", {"rows": 256}), ("MR", {}), ("US", {}), ("CR", {"rows": 256}), ("DX", {})])
def test_dciodvfy_finds_no_error_in_a_synthetic_study(modality, options, tmp_path: Path):
    program = need("dciodvfy", "dicom3tools")

    for path in write_study(a_study(modality, slices=3, **options), tmp_path):
        told = subprocess.run([program, "-new", path], capture_output=True, text=True).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "CR", "DX"])
def test_dicom_validator_finds_no_error_but_the_address(modality):
    """Patient's Address (0010,1040) is planted to be found: scanners send it, though no module of an image has it (PS3.3 C.7.1.1, C.2.3)."""
    assert {error for ds in a_study(modality, slices=3, rows=64) for error in iod_errors(ds)} == {"General: PatientAddress is unexpected"}


def test_a_study_is_one_study_of_one_whole_patient():
    datasets = a_study("CT", slices=5, patient=2, rows=64)

    assert len({ds.StudyInstanceUID for ds in datasets}) == len({ds.SeriesInstanceUID for ds in datasets}) == 1
    assert len({ds.SOPInstanceUID for ds in datasets}) == 5
    assert str(datasets[0].PatientName) == "Åström^Anne-Sofie"
    for keyword in ("PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "InstitutionName", "StudyID"):
        assert datasets[0].get(keyword)


def test_a_name_with_umlauts_survives_the_file(tmp_path: Path):
    [path] = write_study(a_study("US", patient=1), tmp_path)

    assert str(dcmread(path).PatientName) == "Müller-Lüdenscheidt^Jörg^Käthe"


def test_instances_come_from_head_to_foot_and_hold_the_phantom():
    phantom = chest_ct(slices=4, rows=64, patches=2)
    datasets = a_study("CT", slices=4, rows=64, patches=2)

    heights = [float(ds.ImagePositionPatient[2]) for ds in datasets]
    assert heights == sorted(heights, reverse=True)
    assert np.array_equal(datasets[0].pixel_array.astype(int) - 1024, phantom.hu[-1])


def test_keywords_are_set_on_every_instance():
    datasets = a_study("CT", slices=2, rows=64, SeriesDescription="Topogramm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    assert {ds.SeriesDescription for ds in datasets} == {"Topogramm"}
    assert datasets[1].ImageType[2] == "LOCALIZER"


def test_an_unknown_modality_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="CT, MR, US, CR, DX"):
        a_study("XX")


def test_every_planted_word_is_in_the_canary_and_no_two_are_alike(tmp_path: Path):
    canary = canary_study(slices=2, rows=64)
    [first, second] = (path.read_bytes() for path in write_study(canary.datasets, tmp_path))

    assert len(set(canary.words.values())) == len(canary.words) > 1000
    missing = [where for where, value in planted(canary) if value not in first + second and value.lower() not in first + second]
    assert missing == []
    assert len(attributes()) > 550


def test_the_canary_is_still_a_chest_ct_of_one_patient(tmp_path: Path):
    canary = canary_study(slices=3, rows=64)
    read = [dcmread(path) for path in write_study(canary.datasets, tmp_path)]

    assert {str(ds.PatientName) for ds in read} == {str(canary.datasets[0].PatientName)}
    assert {ds.StudyInstanceUID for ds in read} == {canary.uids["StudyInstanceUID"]}
    assert read[0].pixel_array.shape == (64, 64)
    assert read[0].Modality == "CT"
    assert "Lunge" in read[0].SeriesDescription


def test_canary_words_stand_in_nested_private_unknown_and_outer_places():
    words = canary_study(slices=1, rows=64).words

    for place in (
        "RequestAttributesSequence/item/PatientName",
        "RequestAttributesSequence/item/private",
        "private 0009 UN item",
        "private 0019 SQ/PatientName",
        "unknown even tag",
        "OverlayComments",
        "preamble",
        "SourceApplicationEntityTitle",
        "DataSetTrailingPadding",
    ):
        assert place in words
