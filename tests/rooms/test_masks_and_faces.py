"""Masking and defacing in one study: a name burned into a head goes, and so does the face; the brain that shows stays."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from node.identified.account import Look
from node.identified.defacing import Faces
from node.identified.deidentifier import Deidentifier
from node.identified.folders import Folders
from node.identified.looking import Looker
from node.identified.looking_apart import LookingApart
from node.identified.profile import Profile
from node.identified.proof import PROOF, Prover, SigningKey
from node.identified.second_look import SecondLook
from node.testing.phantom_ct_head import ct_head
from node.testing.studies import ct_instances, write_study
from tests.rooms.lettering import Text, all_ink
from tests.rooms.test_defacing import BUNDLE, face_region, identified, series_of
from tests.rooms.test_deidentifier import Wing

NAME = Text("HADDAD LEILA", 3, 4, 12)
INK = 1700  #: stored value: as bright as bone, at one value of its own


def head_with_a_name(syntax: str = "") -> list[Dataset]:
    """Axial slices of a head of Leila; in the corner of each third one her name."""
    datasets = ct_instances(ct_head(slice_mm=6.0), name=f"named head {syntax}")
    for k, ds in enumerate(datasets):
        ds.PatientName, ds.BodyPartExamined = "Haddad^Leila", "HEAD"
        if k % 3 == 0:
            pixels = ds.pixel_array.copy()
            pixels[all_ink(pixels.shape, NAME)] = INK
            ds.PixelData = pixels.tobytes()
        if syntax:
            ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
            ds.compress(syntax, generate_instance_uid=False)
    return datasets


def prover(looker: Looker | LookingApart) -> Prover:
    return Prover(partial(SigningKey, b"s" * 32), edition="2026c", options=(), read_text=SecondLook(looker))


def check(paths: list[Path], named: int) -> None:
    """No name, no face, the brain as it was."""
    from node.imaging.build import build_volume

    head = ct_head(slice_mm=6.0)
    after = np.asarray(build_volume(series_of(paths)).pixels)
    ink = all_ink(head.hu.shape[1:], NAME)
    masked = [hu for hu in after if (hu[ink] == hu[ink][0]).all()]
    assert len(masked) >= named
    assert not (np.abs(after[:, ink] - (INK - 1024)) < 50).any()
    brain: NDArray[np.bool_] = head.brain.copy()
    brain[:, : NAME.top + 2 * NAME.height, : NAME.left + 9 * NAME.height] = False  # under the mask
    assert brain.sum() > 0.9 * head.brain.sum()
    assert np.array_equal(after[brain], head.hu[brain])
    assert (after[face_region(head, 0.0)] <= -990).mean() > 0.93


@pytest.mark.parametrize("syntax", ["", RLELossless, JPEG2000Lossless], ids=["native", "RLE", "JPEG 2000"])
def test_a_head_with_a_burned_in_name_loses_both(tmp_path: Path, syntax: str) -> None:
    wing, looker = Wing(tmp_path), Looker()
    datasets = head_with_a_name(syntax)
    paths = write_study(datasets, tmp_path / "in")
    wing.know(wing.clean_uids.of(datasets[0].StudyInstanceUID))
    wing.deidentifier = Deidentifier(
        Profile(), wing.clean_uids, wing.identities, wing.volume, faces=Faces("deface", BUNDLE), looker=looker, prover=prover(looker)
    )

    study = wing.deidentifier.deidentify(identified(wing, datasets, paths))

    report = json.loads((study.folder / PROOF).read_text())
    named = len(range(0, len(datasets), 3))
    assert report["done"]["images"][str(Look.MASKED)] == named
    assert report["done"]["defaced"] > 5
    assert len(report["leak_scan"]["pixels"]["looked_at"]) >= named
    check(sorted(study.folder.rglob("*.dcm")), named)
    for path in study.folder.rglob("*.dcm"):
        ds = dcmread(path)
        codes = [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]
        assert {"113101", "113102"} <= set(codes)
        assert len(codes) == len(set(codes))


def test_a_folder_of_such_heads_comes_home_byte_for_byte(tmp_path: Path) -> None:
    wing, looker = Wing(tmp_path), LookingApart(Looker(), threads=1)
    write_study(head_with_a_name(), tmp_path / "in" / "native")
    folders = Folders(
        wing.engine, wing.identities, wing.keyring, tmp_path / "sealed",
        profile=Profile(), clean_uids=wing.clean_uids, faces=Faces("deface", BUNDLE), looker=looker, prover=prover(looker),
    )  # fmt: skip

    report = folders.deidentify(tmp_path / "in", tmp_path / "clean")
    back = folders.reidentify(tmp_path / "clean", tmp_path / "home")

    assert report["refused"] == 0
    named = len(range(0, report["files"], 3))
    assert report["masked"] == named
    both = [outcome for outcome in report["outcomes"] if "boxes" in outcome and outcome.get("face") == "removed"]
    assert len(both) == named
    check(sorted((tmp_path / "clean").rglob("*.dcm")), named)
    assert back["restored"] == report["files"]
    for path in (tmp_path / "in").rglob("*.dcm"):
        assert (tmp_path / "home" / path.relative_to(tmp_path / "in")).read_bytes() == path.read_bytes()
