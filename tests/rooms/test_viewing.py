"""Results as pictures: the right slice, the right way round, in the right window, and a segment exactly where it is."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.domain import Result, Role, WrittenObject
from node.errors import PixelsUnreadable
from node.imaging.study import instance_path
from node.sc_writer import write_sc
from node.seg_syntax import packed
from node.seg_writer import write_seg
from node.testing.clean import clean_study
from node.testing.studies import a_study
from node.viewing.film import edges_of, open_film
from node.viewing.light_box import Exposed, LightBox
from node.viewing.overlays import INSIDE, color_of
from tests.conformance import cases


def read(png: bytes) -> np.ndarray:
    """Grey, RGB or RGBA."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]


class Case:
    """A clean study of one series, its volume, and a job with a result."""

    def __init__(self, folder, datasets, volume_of=cases.stack) -> None:
        self.folder = folder
        self.study = clean_study(datasets, folder / "study")
        self.volume = volume_of(self.study)
        self.provenance = cases.provenance(self.study)
        self.job = self.provenance.job
        self.objects: list[WrittenObject] = []

    def found(self, result: Result):
        self.objects = [
            self._kept(Role.SEG, write_seg(self.study, self.volume, result, self.provenance)),
            self._kept(Role.SC, write_sc(self.study, self.volume, result, self.provenance)),
        ]
        return self

    def _kept(self, role, ds) -> WrittenObject:
        path = self.folder / f"{role}.dcm"
        ds.save_as(path, enforce_file_format=True)
        uid = str(ds.SOPInstanceUID)
        return WrittenObject(
            job=self.job.id, study=self.job.study.study, role=role, sop_class_uid=str(ds.SOPClassUID), sop_instance_uid=uid, path=path
        )

    def film(self, sites=()):
        return open_film(self.job, self.objects, sites)

    def box(self, **options) -> LightBox:
        return LightBox(lambda id: Exposed(job=self.job, objects=self.objects) if id == self.job.id else None, **options)


def ct(folder, **options) -> list:
    return [dcmread(path) for path in cases.ct_files(folder / "files", **options)]


@pytest.fixture
def chest(tmp_path) -> Case:
    case = Case(tmp_path, ct(tmp_path))
    return case.found(cases.infection(cases.opacity(case.volume.pixels.shape)))


# --- slices -------------------------------------------------------------------------------------------------------------------
def test_slices_stand_in_the_order_of_the_volume_and_show_its_values(chest):
    film = chest.film()

    assert [str(f.instance.sop_instance_uid) for f in film.frames] == [str(f.instance.sop_instance_uid) for f in chest.volume.frames]
    for at in (0, 3, 7):
        expected = ((chest.volume.pixels[at] + 1350) / 1500).clip(0, 1) * 255  # lung: -600 / 1500
        np.testing.assert_array_equal(read(film.slice_png(at)), expected.round().astype(np.uint8))


def test_a_window_is_one_of_those_offered(chest):
    film = chest.film()

    assert list(film.windows) == ["lung", "own", "soft", "bone", "brain"]
    assert film.described()["windows"]["lung"] == "Lung (-600 / 1500)"
    soft = read(film.slice_png(3, "soft"))
    np.testing.assert_array_equal(soft, (((chest.volume.pixels[3] + 160) / 400).clip(0, 1) * 255).round())
    with pytest.raises(KeyError):
        film.slice_png(3, "../../etc")
    assert chest.box().slice("job-1", 3, "no such window") is None


def test_an_abdomen_begins_as_acquired_and_lungs_in_a_lung_window(tmp_path):
    datasets = ct(tmp_path)
    for ds in datasets:
        ds.BodyPartExamined = "ABDOMEN"
    case = Case(tmp_path, datasets)

    assert next(iter(case.film().windows)) == "own"
    assert next(iter(case.film(sites=["Lung"]).windows)) == "lung"


def test_an_inverted_film_is_turned_and_has_no_window_of_its_own(tmp_path):
    [film] = a_study("DX", patient=2)
    film.PhotometricInterpretation = "MONOCHROME1"
    case = Case(tmp_path, [film], cases.still)

    opened = case.film()

    assert list(opened.windows) == ["full"]
    assert np.corrcoef(read(opened.slice_png(0)).ravel().astype(float), case.volume.pixels[0].ravel())[0, 1] > 0.98


def test_an_ultrasound_clip_keeps_its_colours_frame_by_frame(tmp_path):
    case = Case(tmp_path, [dcmread(cases.cine_file(tmp_path / "clip.dcm"))], cases.cine)

    film = case.film()

    assert (len(film.frames), film.windows) == (5, {})
    for at in (0, 4):
        np.testing.assert_array_equal(read(film.slice_png(at)), case.volume.pixels[at])


def test_the_edges_say_which_side_of_the_patient_they_are(chest, tmp_path):
    header = chest.volume.frames[0].instance.header
    assert chest.film().edges == ("R", "L", "A", "P")

    header.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # sagittal
    assert edges_of(header, 1) == ("A", "P", "H", "F")
    del header.ImageOrientationPatient
    header.PatientOrientation = ["L", "F"]
    assert edges_of(header, 1) == ("R", "L", "H", "F")
    header.PatientOrientation = ""
    assert edges_of(header, 1) == ("", "", "", "")


def test_pixels_that_are_not_square_are_told(tmp_path):
    datasets = ct(tmp_path)
    for ds in datasets:
        ds.PixelSpacing = [3.0, 1.5]

    assert Case(tmp_path, datasets).film().aspect == 2.0


def test_pixels_of_an_unknown_size_are_told_in_the_ratio_of_the_image(tmp_path):
    still = dcmread(cases.cine_file(tmp_path / "still.dcm", frames=1))
    still.PixelAspectRatio = [4, 3]

    assert Case(tmp_path, [still], cases.still).film().aspect == pytest.approx(4 / 3)


# --- segments -----------------------------------------------------------------------------------------------------------------
def masks(shape) -> tuple[np.ndarray, np.ndarray]:
    """Two segments that touch the corners, so that a shift or a flip shows."""
    one, two = np.zeros(shape, bool), np.zeros(shape, bool)
    one[2, :3, :5] = one[2, -1, -1] = one[5, 7:20, 9:33] = True
    two[5, 12:30, -4:] = two[6, 30, 2] = True
    return one, two


@pytest.mark.parametrize(
    ("columns", "overlap", "deflated"),
    [
        (64, False, False),  # BINARY
        (64, False, True),
        (51, False, False),  # LABELMAP: bits do not end with bytes
        (51, True, False),  # FRACTIONAL
    ],
)
def test_a_segment_lies_on_its_voxels_exactly(tmp_path, columns, overlap, deflated):
    case = Case(tmp_path, ct(tmp_path, size=63 if columns % 2 else 64, columns=columns))
    one, two = masks(case.volume.pixels.shape)
    if overlap:
        two[5, 8:10, 10:12] = True
    result = replace(cases.infection(one), segments=(cases.lesion(one), cases.lesion(two, 2, "Other", (0, 114, 178))))

    path = case.found(result).objects[0].path
    if deflated:
        path.write_bytes(packed(path.read_bytes(), [DeflatedExplicitVRLittleEndian]))

    film = case.film()

    assert [(layer.number, layer.label, layer.slices) for layer in film.layers] == [(1, "Infection", (2, 5)), (2, "Other", (5, 6))]
    for number, mask in ((1, one), (2, two)):
        for at in np.flatnonzero(mask.any(axis=(1, 2))):
            painted = read(film.segment_png(number, int(at)))
            np.testing.assert_array_equal(painted[..., 3] > 0, mask[at])
    inside = read(film.segment_png(1, 5))
    assert (inside[7, 9, 3], inside[10, 12, 3]) == (255, INSIDE)
    with pytest.raises(KeyError):
        film.segment_png(2, 2)


def test_a_segment_keeps_the_colour_that_the_result_gave_it(chest):
    [layer] = chest.film().layers

    np.testing.assert_allclose(layer.color, (230, 159, 0), atol=2)
    assert color_of(dcmread(chest.objects[0].path).SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]) == (160, 160, 160)


def test_the_captures_are_shown_with_the_slices_they_are_of(chest):
    film = chest.film()
    capture = dcmread(chest.objects[1].path)

    assert film.captures == (3, 4, 2)
    assert film.keys == (2, 3, 4)
    assert film.described()["first"] == 3
    np.testing.assert_array_equal(read(film.capture_png(1)), capture.pixel_array[1])
    with pytest.raises(IndexError):
        film.capture_png(3)


# --- memory -------------------------------------------------------------------------------------------------------------------
def test_pictures_are_remembered_within_a_budget(chest, monkeypatch):
    size = len(chest.film().slice_png(0))
    box = chest.box(budget_bytes=4 * size)
    pictures = [box.slice("job-1", at) for at in range(8)]
    monkeypatch.setattr("node.viewing.film._reader_units", lambda frame: pytest.fail("decoded again"))

    assert box.slice("job-1", 7) == pictures[7]
    assert 0 < box.held_bytes <= 4 * size
    assert box.slice("job-1", 8) is None
    assert box.slice("job-1", -1) is None
    assert box.slice("another", 0) is None


def test_nothing_of_a_purged_study_is_shown_from_memory(chest):
    box = chest.box()
    assert box.slice("job-1", 0)

    shutil.rmtree(chest.job.folder)

    assert box.slice("job-1", 0) is None
    assert box.described("job-1") is None
    assert box.held_bytes == 0


def test_a_result_that_came_later_is_seen(chest):
    written, chest.objects = chest.objects, []
    box = chest.box()
    assert box.described("job-1")["segments"] == []

    chest.objects = written

    assert [one["label"] for one in box.described("job-1")["segments"]] == ["Infection"]
    assert box.segment("job-1", 1, 3)


def test_a_missing_file_is_said_and_not_drawn(chest):
    instance_path(chest.job.folder, chest.job.route.series, chest.job.inputs[0]).unlink()

    with pytest.raises(PixelsUnreadable, match="gone"):
        chest.box().slice("job-1", 0)
