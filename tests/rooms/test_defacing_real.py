"""Faces and real MR: whole heads lose theirs, brains stay, and what can't be told is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from safetensors.torch import load_file
from scipy import ndimage

from node.domain import Study, StudyRef
from node.errors import RecognizableFeatures
from node.identified.deidentifier import FEATURES
from node.identified.named import IdentifiedStudy, ReceivedInstance
from node.imaging.build import build_volume
from tests.rooms.test_defacing import Room, anterior_skin, received, series_of, square_painted


def sent(room: Room, paths: list[Path]) -> Study:
    """The files through the door and the profile."""
    uid = room.clean_uids.of(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    room.know(uid)

    def instances() -> Iterator[ReceivedInstance]:
        yield from (received(path) for path in paths)

    return room.deidentifier.deidentify(IdentifiedStudy(ref=StudyRef(study=uid, revision=1), instances=instances, count=len(paths)))


def said(study: Study) -> dict[str, str]:
    """What the study's folder says of its only series."""
    [one] = json.loads((study.folder / FEATURES).read_text())
    return dict(one)


def brain_of(t1: NDArray[np.float32], weights: Path) -> NDArray[np.bool_]:
    """White and grey matter by brainchop's tissue model, at 2 mm: another network than the node's, other weights, other training.

    (slices from below, rows from the front, columns from the right) of 1 mm → the same shape.
    """
    tensors = load_file(weights / "model.safetensors")
    layers: list[torch.nn.Module] = []
    for number, entry in enumerate(json.loads((weights / "model.json").read_text())["layers"]):
        weight, bias = tensors[f"model.{2 * number}.weight"], tensors[f"model.{2 * number}.bias"]
        layer = torch.nn.Conv3d(
            weight.shape[1], weight.shape[0], entry["kernel_size"], padding=entry["padding"], dilation=entry["dilation"]
        )
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, torch.nn.ReLU()]
    low, high = np.percentile(t1, [2, 98])
    scaled = torch.from_numpy(np.clip((t1 - low) / (high - low), 0, 1).astype(np.float32).transpose(2, 0, 1)[:, ::-1, ::-1].copy())
    with torch.inference_mode():
        tissue = torch.nn.Sequential(*layers[:-1])(torch.nn.functional.avg_pool3d(scaled[None, None], 2)).argmax(1)[0].numpy()
    labels, _ = ndimage.label(tissue > 0)
    brain = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    return np.asarray(brain[:, ::-1, ::-1].transpose(1, 2, 0).repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_a_whole_t1_head_loses_its_face_and_no_brain(tmp_path: Path, shared: Path):
    """256 slices, JPEG-LS. Brain by a second model: all its voxels are unchanged. Brow, eyes and nose are gone, the rest of the skin stays."""
    files = sorted((shared / "data/dicom/mr_brain_t1_brainchop").glob("*.dcm"))
    before = np.asarray(build_volume(series_of(files)).pixels)
    brain = brain_of(before, shared / "data/weights/brainchop_meshnet/model5_gw_ae")
    assert 0.9e6 < brain.sum() < 1.6e6

    study = sent(Room(tmp_path), files)

    [series] = study.series
    after = np.asarray(build_volume(series).pixels)
    assert np.array_equal(after[brain], before[brain])
    assert said(study)["done"] == "defaced"
    assert {str(instance.header.file_meta.TransferSyntaxUID) for instance in series.instances} == {"1.2.840.10008.1.2.4.80"}
    z, y, x = np.indices(before.shape, sparse=True)
    body = ndimage.binary_opening(before > 20)
    skin = anterior_skin(body)
    face = skin & (z < BROW) & (y < 110) & (np.abs(x - 127) < 50)
    assert face.sum() > 3000
    assert (after[face] == 0).mean() > 0.95
    rest = (skin & (z > BROW + 30)) | (body & (y > 140) & (np.abs(x - 127) < 60))  # beside it lie the ears
    assert np.array_equal(after[rest], before[rest])


BROW = 108  #: slice of the brow in that series, read off the picture: the root of the nose lies at 100, the lowest skin at 44


def test_a_tumour_after_contrast_in_thick_slices(tmp_path: Path, shared: Path):
    """20 slices of nominal 6.5 mm: what changes lies in the front of the head, or where the ears are."""
    files = sorted((shared / "data/dicom/mr_brain_tumor_btp/PGBM_01_pre_T1post").glob("*.dcm"))
    study = sent(Room(tmp_path), files)

    assert said(study)["done"] == "defaced"
    before, after = (build_volume(one) for one in (series_of(files), study.series[0]))
    assert np.allclose(before.affine, after.affine)
    changed = np.asarray(after.pixels) != np.asarray(before.pixels)
    assert changed.any()
    rows, columns = changed.shape[1:]
    assert not changed[:, rows // 2 :, columns // 4 : -columns // 4].any()


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("transfer_syntaxes/wg04_MR4/MR4_JPLL.dcm", "1.2.840.10008.1.2.1"),  # JPEG lossless: no encoder for it is here
        ("transfer_syntaxes/wg04_MR4/MR4_JLSN.dcm", "1.2.840.10008.1.2.4.80"),  # near lossless before
        ("enhanced/emri_small_RLE.dcm", "1.2.840.10008.1.2.5"),
        ("enhanced/emri_small_jpeg_2k_lossless.dcm", "1.2.840.10008.1.2.4.90"),
    ],
)
def test_only_the_painted_pixels_change(tmp_path: Path, shared: Path, name: str, becomes: str):
    """Multi-frame too: frames that nobody painted keep their bytes."""
    square_painted(shared / "data/dicom" / name, tmp_path, becomes)


@pytest.mark.parametrize(
    ("where", "outcome"),
    [
        ("mr_multivendor/siemens_anatomical_001", "too few or too far apart"),
        ("mr_multivendor/hitachi_anatomical_001_implicit", "too few or too far apart"),
        ("mr_multivendor/siemens_fmri_001", "mosaics"),
        ("enhanced/emri_small.dcm", "Image Position"),
        ("enhanced/emri_small_jpeg_ls_lossless.dcm", "Image Position"),
        ("enhanced/philips_enhanced_mr_8f.dcm", "brain"),
        ("enhanced/siemens_xa10_bold", ""),
        ("enhanced/eCT_Supplemental.dcm", ""),
    ],
)
def test_what_is_no_whole_head_has_an_answer(tmp_path: Path, shared: Path, where: str, outcome: str):
    """Refused with its reason, or, as a thin transverse slab, let through untouched."""
    place = shared / "data/dicom" / where
    room = Room(tmp_path)
    files = sorted(place.rglob("*.dcm")) if place.is_dir() else [place]
    if outcome:
        with pytest.raises(RecognizableFeatures, match=outcome):
            sent(room, files)
        assert not list(room.volume.rglob("*.dcm"))
    else:
        assert said(sent(room, files))["done"] == "untouched"
