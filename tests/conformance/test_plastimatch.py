"""What a radiotherapy program reads: plastimatch fills our contours, and what it fills is the mask."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from node.rtstruct_writer import write_rtstruct
from tests.conformance import cases
from tests.conformance.test_dcmqi import as_set, indices_of
from tests.conformance.test_seg import real
from tests.conftest import need


@pytest.mark.parametrize("name", ["phantom", "ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm", "mr_brain_tumor_btp/PGBM_01*"])
def test_plastimatch_fills_the_contours_to_the_mask(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    files = cases.ct_files(tmp_path / "ct", slices=20, size=96) if name == "phantom" else real(request.getfixturevalue("shared"), name)
    study = cases.study_of(files)
    (tmp_path / "images").mkdir()
    for instance in study.series[0].instances:
        shutil.copy(instance.path, tmp_path / "images")
    volume = cases.stack(study)
    shape = volume.pixels.shape[:3]
    mask = cases.ball(shape, (0, 0.1, 0.2), (0.5, 0.4, 0.3)) & ~cases.ball(shape, (0, 0.1, 0.2), (0.3, 0.15, 0.1))  # with a hole
    ds = write_rtstruct(study, volume, cases.infection(mask), cases.provenance(study))
    ds.save_as(tmp_path / "contours.dcm", enforce_file_format=True)

    command = [need("plastimatch", "plastimatch"), "convert", "--input", "contours.dcm", "--referenced-ct", "images"]
    subprocess.run([*command, "--output-prefix", "masks", "--prefix-format", "nii.gz"], cwd=tmp_path, check=True, capture_output=True)

    [image] = (tmp_path / "masks").iterdir()
    assert image.name == "Infection.nii.gz"
    drawn, meant = as_set(indices_of(image, volume)), as_set(np.argwhere(mask))
    assert 2 * len(drawn & meant) / (len(drawn) + len(meant)) > 0.97
    assert len(drawn) == pytest.approx(len(meant), rel=0.03)
