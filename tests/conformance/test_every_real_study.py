"""Every kind of result on every real study there is: valid when it leaves, whatever the scanner wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain import Role, StudyRef
from node.errors import NodeError
from node.identified.folders import data_set_of
from node.identified.named import IdentifiedStudy, ReceivedInstance
from node.identified.reidentifier import Reidentifier
from node.imaging.build import build_volume, images_of
from node.writers import written
from tests.conformance import cases
from tests.conformance.iod_tables import iod_errors
from tests.conformance.test_encodings import a_result, everything
from tests.rooms.test_deidentifier import ORIGIN, Wing

#: all series, or the first of each folder and every one of the odd ones
EVERY_FILE = bool(os.environ.get("RADNODE_TEST_EVERY_FILE"))
WHOLE = {"odd", "enhanced", "us"}
MOST = 12  #: images of a series: enough for a volume
#: what no result is made on, and why the node says so
REFUSED = {
    "odd/emri_small_jpeg_2k_lossless_too_short.dcm": "InstanceUnreadable",
    "odd/fodicom_GH1728.dcm": "BurnedInAnnotation",
    "odd/fodicom_GH178.dcm": "BurnedInAnnotation",
    "odd/fodicom_GH355.dcm": "SopClassRefused",
    "seg_sr/parametric_map_float.dcm": "SopClassRefused",
}


def series_of(shared: Path) -> dict[str, list[Path]]:
    """Files of each series with images, by the first one's place; without those that no study could hold."""
    root = shared / "data" / "dicom"
    found: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(root.rglob("*.dcm")):
        ds = dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" in ds and "StudyInstanceUID" in ds and ds.Modality != "SEG" and "RealWorldValueMappingSequence" not in ds:
            found.setdefault((path.parent, str(ds.SeriesInstanceUID)), []).append(path)
    series: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for (folder, _), paths in found.items():
        if EVERY_FILE or folder.name in WHOLE or folder not in seen:
            series[str(paths[0].relative_to(root))] = paths[:MOST]
        seen.add(folder)
    return series


def received(paths: list[Path]) -> Iterator[ReceivedInstance]:
    """The bytes as they came, in the transfer syntax they came in."""
    for path in paths:
        data = path.read_bytes()
        start, syntax, _ = data_set_of(data)
        ds = dcmread(path, stop_before_pixels=True, force=True)
        yield ReceivedInstance(
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            transfer_syntax_uid=syntax,
            origin=ORIGIN,
            data=data[start:],
        )


def results(paths: list[Path], folder: Path) -> dict[Role, tuple[Dataset, Dataset]]:
    """Every kind of result on one series: without a name as it was made, and named again as it leaves."""
    wing = Wing(folder)
    uid = wing.clean_uids.of(str(dcmread(paths[0], stop_before_pixels=True, force=True).StudyInstanceUID))
    wing.know(uid)
    ref = StudyRef(study=uid, revision=1)
    study = wing.deidentifier.deidentify(IdentifiedStudy(ref=ref, instances=lambda: received(paths), count=len(paths)))
    study = replace(study, series=study.series[:1])
    try:
        volume = build_volume(study.series[0])
    except NodeError:
        volume = next(images_of(study.series[0]))
    deep = len(volume.pixels) > 1
    mask = cases.ball(volume.pixels.shape[:3], (0.5 if deep else 0, 0.1, 0.3), (0.9, 0.2, 0.15))
    made = written(study, study.series[0], volume, a_result(volume, mask), everything(study))
    again = Reidentifier(wing.identities)
    return {role: (ds, dcmread(BytesIO(again.name_again(cases.bytes_of(ds), uid)))) for role, ds in made.items()}


@pytest.mark.slow
def test_no_result_on_any_real_study_has_an_error(shared: Path, tmp_path: Path) -> None:
    """By dciodvfy as they leave, and by dicom-validator as they are made. What is wrong with the study's own identity stays, else the result would lie in another study: UIDs that are none, numbers too long."""
    errors: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    kinds: dict[str, set[Role]] = {}

    def checked(name: str, paths: list[Path], folder: Path) -> list[str]:
        headers = [dcmread(path, stop_before_pixels=True, force=True) for path in paths]
        own = {str(e.value) for ds in headers for e in ds.iterall() if e.VR == "UI" or e.keyword in ("AccessionNumber", "StudyID")}
        found = []
        for role, (nameless, ds) in results(paths, folder).items():
            kinds.setdefault(name, set()).add(role)
            found += [f"{role}: {error}" for error in iod_errors(cases.reread(nameless))]
            if role is Role.SEG_LABELMAP:
                continue  # a class that dciodvfy does not know
            (folder / role).mkdir()
            said = cases.dciodvfy_errors(ds, folder / role)
            found += [f"{role}: {error}" for error in said if own.isdisjoint(re.findall("<([^<>]+)>", error))]
        return found

    def one(number: int, name: str, paths: list[Path]) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            if found := checked(name, paths, folder):
                errors[name] = found
        except NodeError as why:
            refused[name] = type(why).__name__

    series = series_of(shared)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one, number, name, paths) for number, (name, paths) in enumerate(series.items())]:
            done.result()

    assert errors == {}
    assert refused.items() >= REFUSED.items()
    assert EVERY_FILE or refused == REFUSED
    assert len(kinds) == len(series) - len(refused)
    for name, made in kinds.items():
        assert set(Role) - made <= {Role.PM, Role.RTSTRUCT}, name
