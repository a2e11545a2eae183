"""Secondary Capture: valid, in colour, and honest about where it comes from."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

from node import codes
from node.errors import ResultInvalid
from node.sc_writer import write_sc
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conformance.test_seg import MULTIFRAME, STILLS, real
from tests.conftest import need


@pytest.fixture
def ct(tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)
    return study, volume, cases.opacity(volume.pixels.shape)


def test_a_volume_gives_one_colour_object_with_its_key_slices(ct, tmp_path):
    study, volume, mask = ct
    result = cases.infection(mask)

    ds = cases.reread(write_sc(study, volume, result, cases.provenance(study)))

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    assert ds.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage
    pictures = ds.pixel_array
    assert pictures.shape == (3, ds.Rows, ds.Columns, 3)
    assert all((np.ptp(p.astype(int), axis=2) > 60).sum() > 500 for p in pictures)  # in colour
    shown = [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence]
    assert shown == [volume.frames[at].instance.sop_instance_uid for at in result.heatmap.frames]


def test_it_says_that_it_is_derived_research_and_of_which_model(ct):
    study, volume, mask = ct

    ds = cases.reread(write_sc(study, volume, cases.infection(mask), cases.provenance(study)))

    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert (ds.ConversionType, ds.BurnedInAnnotation, ds.Modality) == ("WSD", "YES", "OT")
    assert "RESEARCH USE ONLY" in ds.ImageComments
    assert cases.DIGEST in ds.DerivationDescription
    [maker] = ds.ContributingEquipmentSequence
    assert maker.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (ds.Manufacturer, maker.ManufacturerModelName) == ("Radnode", "covid_ct U-Net")


def test_the_same_work_gives_the_same_bytes(ct):
    study, volume, mask = ct
    result = cases.infection(mask)

    once, again = (cases.bytes_of(write_sc(study, volume, result, cases.provenance(study))) for _ in range(2))

    assert once == again


def test_nothing_found_is_shown_too(ct, tmp_path):
    study, volume, mask = ct
    result = replace(cases.infection(mask, probability=0.02), segments=(), heatmap=None, label="no infection")

    ds = write_sc(study, volume, result, cases.provenance(study))

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    assert ds.SOPClassUID == SecondaryCaptureImageStorage


def test_a_heat_map_on_another_grid_is_refused(ct):
    study, volume, mask = ct
    result = cases.infection(mask)
    with pytest.raises(ResultInvalid, match="grid"):
        write_sc(
            study, volume, replace(result, heatmap=replace(result.heatmap, values=result.heatmap.values[:, ::2])), cases.provenance(study)
        )


@pytest.mark.parametrize("part", ["CHEST", "BREAST", "", "somewhere odd"])
def test_laterality_is_there_only_when_the_part_is_paired(ct, tmp_path, part):
    study, volume, mask = ct
    for frame in volume.frames:
        frame.instance.header.BodyPartExamined = part.upper()

    ds = write_sc(study, volume, cases.infection(mask), cases.provenance(study))

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    assert ("Laterality" in ds) == (part != "CHEST")


@pytest.mark.parametrize("name", [*MULTIFRAME, *STILLS])
def test_real_images_get_a_valid_picture_that_other_programs_decode(shared, tmp_path, name):
    study = cases.study_of(real(shared, name))
    volume = cases.still(study) if name in STILLS else cases.stack(study)
    mask = cases.ball(volume.pixels.shape[:3], (0.5, 0.1, 0.3), (0.9, 0.2, 0.15))

    ds = write_sc(study, volume, cases.infection(mask, site=codes.BREAST), cases.provenance(study))

    assert [*cases.dciodvfy_errors(ds, tmp_path), *iod_errors(ds)] == []
    several = int(ds.get("NumberOfFrames", 1)) > 1
    assert ds.SOPClassUID == (MultiFrameTrueColorSecondaryCaptureImageStorage if several else SecondaryCaptureImageStorage)
    dump = subprocess.run([need("dcm2json", "dcmtk"), str(tmp_path / "OT.dcm")], capture_output=True, text=True)
    assert json.loads(dump.stdout)["00280301"]["Value"] == ["YES"]
    drawn = subprocess.run([need("dcm2pnm", "dcmtk"), str(tmp_path / "OT.dcm"), str(tmp_path / "out.ppm")], capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "out.ppm").stat().st_size > ds.Rows * ds.Columns * 3
