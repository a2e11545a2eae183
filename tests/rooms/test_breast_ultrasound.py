"""Breast ultrasound: on phantoms of known size, on real pictures with known labels, and on what must be refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset

from node import codes
from node.bundle import Bundle
from node.domain import CleanUid, Instance, Series
from node.errors import OutsideIntendedUse
from node.imaging.build import images_of
from node.imaging.letterbox import Box
from node.imaging.scan_region import scan_region
from node.imaging.volume import Frame, Volume
from node.pipelines.breast_ultrasound import LABELS, BreastUltrasound, grey_of, size_of
from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.studies import us_instance, write_study

MODELS = Path(__file__).parents[2] / "models"


def picture(pixels: np.ndarray, header: Dataset | None = None, spacing_mm: tuple[float, float, float] | None = None) -> Volume:
    """One picture as the node hands it to a pipeline."""
    header = header or Dataset()
    header.SOPInstanceUID = "2.25.1"
    instance = Instance(header=header, path=Path("nowhere"))
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="US", instances=(instance,))
    return Volume(series=series, pixels=pixels[None], unit="1", frames=(Frame(instance=instance),), affine=None, spacing_mm=spacing_mm)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@pytest.fixture(scope="module")
def pipeline() -> BreastUltrasound:
    return BreastUltrasound(Bundle.open(MODELS / "breast_ultrasound" / "1.1.0"))


@pytest.fixture(scope="module")
def model(pipeline: BreastUltrasound) -> Callable[[torch.Tensor], Any]:
    return pipeline.load("cpu")


def dark_is_lesion(canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for the network where only geometry is tried: mid grey is lesion, and the class is benign."""
    inside = torch.where((canvas > 0.3) & (canvas < 0.6), 9.0, -9.0)
    return torch.cat([inside, inside - 18], dim=1), torch.tensor([[0.0, 4.0, 1.0]]).repeat(len(canvas), 1)


def a_disc(rows: int, columns: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    """Bright tissue with one grey disc."""
    pixels = np.full((rows, columns), 220, np.uint8)
    cv2.circle(pixels, centre[::-1], radius, 115, -1)
    return pixels


# --- the answer is known ------------------------------------------------------------------------------------------------------
def test_all_three_labels_are_named_and_add_up(pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any]) -> None:
    result = pipeline.run(picture(breast_ultrasound("malignant").pixels.astype(np.float32)), model)

    assert tuple(f.name for f in result.findings) == LABELS == pipeline.bundle.labels
    assert sum(f.probability or 0 for f in result.findings) == pytest.approx(1.0, abs=1e-5)
    assert result.label in LABELS
    assert result.confidence == pytest.approx(max(f.probability or 0 for f in result.findings))


@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_the_drawn_lesion_is_outlined(pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any], tmp_path: Path, kind: str) -> None:
    """As a DICOM object, calibrated by the machine: outline and size come near the drawn ones."""
    drawn = breast_ultrasound(kind)
    [file] = write_study([us_instance(drawn)], tmp_path)
    instance = Instance(header=pydicom.dcmread(file, stop_before_pixels=True), path=file)
    [volume] = images_of(Series(series_instance_uid=CleanUid("2.25.3"), modality="US", instances=(instance,)))

    result = pipeline.run(volume, model)

    [segment] = result.segments
    assert dice(segment.mask[0], drawn.lesion) > 0.6
    assert result.label != "normal"
    [shown] = [f for f in result.findings if f.segment == 1]
    sizes = {m.name: m for m in shown.measurements}
    assert sizes[codes.LONG_AXIS].value == pytest.approx(max(drawn.extent_mm), rel=0.4)
    assert sizes[codes.AREA].value == pytest.approx(drawn.area_mm2, rel=0.5)


@pytest.mark.parametrize("told", ["by its region", "by its ratio"])
@pytest.mark.parametrize("axis", [0, 1], ids=["flat pixels", "tall pixels"])
def test_a_picture_of_oblong_pixels_gives_the_answer_of_the_square_one(
    pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any], axis: int, told: str
) -> None:
    drawn = breast_ultrasound("malignant").pixels.astype(np.float32)
    mm = [0.07, 0.07]
    mm[axis] /= 2
    header = Dataset()
    if told == "by its region":
        region = a_region(0, (2 if axis else 1) * 600 - 1, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3)
        region.RegionLocationMaxY1 = (1 if axis else 2) * 480 - 1
        region.PhysicalDeltaY, region.PhysicalDeltaX = (one / 10 for one in mm)
        header.SequenceOfUltrasoundRegions = [region]
    else:
        header.PixelAspectRatio = [2, 1] if axis else [1, 2]

    plain = pipeline.run(picture(drawn, spacing_mm=(0.0, 0.07, 0.07)), model)
    oblong = pipeline.run(picture(np.repeat(drawn, 2, axis=axis), header), model)

    assert oblong.label == plain.label == "malignant"
    assert oblong.findings[2].probability == pytest.approx(plain.findings[2].probability, abs=0.02)
    stretched = np.repeat(plain.segments[0].mask[0], 2, axis=axis)
    assert dice(oblong.segments[0].mask[0], stretched) > 0.97
    assert oblong.heatmap is not None
    assert plain.heatmap is not None
    assert np.abs(oblong.heatmap.values[0] - np.repeat(plain.heatmap.values[0], 2, axis=axis)).mean() < 0.01
    if told == "by its region":
        for ours, theirs in zip(oblong.findings[2].measurements, plain.findings[2].measurements, strict=True):
            assert ours.value == pytest.approx(theirs.value, rel=0.03)


def test_a_disc_is_measured_in_millimetres(pipeline: BreastUltrasound) -> None:
    """Radius 40 pixels of 0.1 mm: 8.1 mm across, 50 mm2, at its place on the source picture."""
    result = pipeline.run(picture(a_disc(300, 400, (120, 250), 40), spacing_mm=(0.0, 0.1, 0.1)), dark_is_lesion)

    [shown] = [f for f in result.findings if f.measurements]
    assert shown.name == result.label == "benign"
    sizes = {m.name: m.value for m in shown.measurements}
    assert sizes[codes.LONG_AXIS] == pytest.approx(8.1, abs=0.4)
    assert sizes[codes.AREA] == pytest.approx(np.pi * 4.0**2, rel=0.06)
    assert result.facts["box"] == pytest.approx([210, 80, 81, 81], abs=2)
    assert shown.region is not None
    middle = (shown.region.outline.min(axis=0) + shown.region.outline.max(axis=0)) / 2
    np.testing.assert_allclose(middle, [250.5, 120.5], atol=1)


def test_without_calibration_no_millimetres_are_told(pipeline: BreastUltrasound) -> None:
    result = pipeline.run(picture(a_disc(300, 400, (120, 250), 40)), dark_is_lesion)
    assert not any(f.measurements for f in result.findings)
    assert any("not calibrated" in note for note in result.notes)


def test_the_longest_diameter_of_a_bar_with_oblong_pixels() -> None:
    mask = np.zeros((50, 50), bool)
    mask[10:40, 20:22] = True  # 30 rows of 0.5 mm, 2 columns of 0.2 mm
    long_axis, area = size_of(mask, (0.5, 0.2))
    assert long_axis.value == pytest.approx(29 * 0.5 + 0.35, abs=0.06)
    assert area.value == pytest.approx(60 * 0.1)


def test_the_machines_own_region_and_scale_are_used() -> None:
    """A screen with words and a scale beside the picture: the region of the header cuts them off."""
    header = Dataset()
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 100, 50
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 499, 349
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.008, 0.01
    header.SequenceOfUltrasoundRegions = [region]
    screen = np.full((480, 640), 0.5, np.float32)

    found = scan_region(screen, header, None)

    assert found.box == Box(50, 100, 350, 500)
    assert found.pixel_mm == pytest.approx((0.1, 0.08))


def a_region(left: int, right: int, **told: Any) -> Dataset:
    """Tissue from one column to another, 300 rows high; calibrated only as told."""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right, 299
    for keyword, value in told.items():
        setattr(region, keyword, value)
    return region


def test_the_scale_of_another_part_of_the_screen_measures_nothing(pipeline: BreastUltrasound) -> None:
    """The picture has no scale of its own; beside it is a second one that has, and that nobody has read."""
    scale = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.02, "PhysicalDeltaY": 0.02}
    header = Dataset()
    header.SequenceOfUltrasoundRegions = [a_region(0, 399), a_region(400, 799, **scale)]
    screen = np.concatenate([a_disc(300, 400, (120, 250), 40), a_disc(300, 400, (120, 250), 40)], axis=1)

    result = pipeline.run(picture(screen, header, spacing_mm=(0.0, 0.2, 0.2)), dark_is_lesion)

    assert not any(finding.measurements for finding in result.findings)
    assert "The picture is not calibrated: no sizes in mm." in result.notes
    assert "The header names 1 more regions with tissue on the picture: only the first was read." in result.notes


def test_a_scale_that_is_announced_and_not_told_is_none() -> None:
    header = Dataset()
    header.SequenceOfUltrasoundRegions = [a_region(0, 399, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3)]

    assert scan_region(np.full((300, 400), 0.5, np.float32), header, None).pixel_mm is None


def test_black_margins_are_cut_off_where_the_header_says_nothing() -> None:
    screen = np.zeros((480, 640), np.float32)
    screen[60:400, 100:600] = 0.4
    box = scan_region(screen, Dataset(), None).box
    assert (box.top, box.left, box.bottom, box.right) == pytest.approx((60, 100, 400, 600), abs=3)


def test_a_margin_round_the_picture_does_not_move_the_lesion(pipeline: BreastUltrasound) -> None:
    plain = a_disc(300, 400, (120, 250), 40)
    framed = np.zeros((500, 700), np.uint8)
    framed[100:400, 200:600] = plain
    masks = [pipeline.run(picture(p), dark_is_lesion).segments[0].mask[0] for p in (plain, framed)]
    assert dice(masks[0], masks[1][100:400, 200:600]) > 0.95
    assert masks[1].sum() == masks[1][100:400, 200:600].sum()


def test_colour_and_grey_give_one_grey() -> None:
    grey = np.arange(0, 250, dtype=np.uint8).reshape(1, 10, 25)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_allclose(grey_of(colour), grey_of(grey.astype(np.float32)), atol=1e-3)


# --- real pictures ------------------------------------------------------------------------------------------------------------------
def test_the_card_holds_on_real_pictures(pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any], shared: Path) -> None:
    """Every third validation picture through the whole pipeline: malignant above the rest, outlines on the lesions."""
    root = shared / "data" / "images" / "busi_breast_us"
    with (root / "index.csv").open() as index:
        rows = [row for row in csv.DictReader(index) if row["split"] == "val"][::3]
    malignant, rest, overlap = [], [], []
    for row in rows:
        grey = cv2.imread(str(root / row["file"]), cv2.IMREAD_GRAYSCALE)
        result = pipeline.run(picture(np.asarray(grey, np.float32)), model)
        (malignant if row["label"] == "malignant" else rest).append(result.findings[2].probability)
        if row["label"] != "normal":
            truth = np.asarray(cv2.imread(str(root / row["mask"]), cv2.IMREAD_GRAYSCALE)) > 127
            mask = result.segments[0].mask[0] if result.segments else np.zeros_like(truth)
            overlap.append(dice(mask, truth))
    pairs = [(m > r) + 0.5 * (m == r) for m in malignant for r in rest]

    assert len(rows) > 25
    assert np.mean(pairs) > 0.78  # area under the ROC curve
    assert np.mean(overlap) > 0.58


def test_wrapped_real_pictures_come_through_as_dicom(
    pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any], shared: Path
) -> None:
    for name in ("us_00", "us_02", "us_03"):
        file = shared / "data" / "dicom" / "wrapped" / "us_breast" / f"{name}.dcm"
        instance = Instance(header=pydicom.dcmread(file, stop_before_pixels=True), path=file)
        [volume] = images_of(Series(series_instance_uid=CleanUid("2.25.3"), modality="US", instances=(instance,)))
        result = pipeline.run(volume, model)
        assert result.analysed
        assert result.label != "normal"
        assert result.segments[0].mask.shape == volume.pixels.shape[:3]
        assert result.heatmap is not None
        assert result.heatmap.values.shape == volume.pixels.shape[:3]


def test_the_two_engines_agree(pipeline: BreastUltrasound, model: Callable[[torch.Tensor], Any]) -> None:
    drawn = picture(breast_ultrasound("malignant").pixels.astype(np.float32))
    fast, exact = pipeline.run(drawn, model), pipeline.run(drawn, pipeline.bundle.network())
    for a, b in zip(fast.findings, exact.findings, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=0.03)
    assert dice(fast.segments[0].mask, exact.segments[0].mask) > 0.95


# --- what it must not read ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_grey_is_refused(pipeline: BreastUltrasound, value: int) -> None:
    with pytest.raises(OutsideIntendedUse, match="nothing"):
        pipeline.run(picture(np.full((200, 300), value, np.uint8)), dark_is_lesion)


def test_a_picture_with_a_pixel_that_is_no_number_is_refused(pipeline: BreastUltrasound) -> None:
    pixels = a_disc(300, 400, (120, 250), 40).astype(np.float32)
    pixels[5, 5] = np.nan

    with pytest.raises(OutsideIntendedUse, match="no numbers"):
        pipeline.run(picture(pixels), dark_is_lesion)


def test_colour_in_the_tissue_is_refused(pipeline: BreastUltrasound) -> None:
    colour = np.repeat(a_disc(300, 400, (120, 250), 40)[..., None], 3, axis=-1)
    assert pipeline.run(picture(colour), dark_is_lesion).analysed
    colour[100:180, 150:230] = (200, 30, 20)
    with pytest.raises(OutsideIntendedUse, match="Doppler"):
        pipeline.run(picture(colour), dark_is_lesion)


@pytest.mark.parametrize("name", ["aloka_16bit_palette", "philips_ob_rle"])
def test_a_picture_from_deep_in_the_body_is_refused(pipeline: BreastUltrasound, shared: Path, name: str) -> None:
    file = shared / "data" / "dicom" / "us" / f"{name}.dcm"
    instance = Instance(header=pydicom.dcmread(file, stop_before_pixels=True), path=file)
    volume = next(images_of(Series(series_instance_uid=CleanUid("2.25.3"), modality="US", instances=(instance,))))
    with pytest.raises(OutsideIntendedUse, match="deeper than 110 mm"):
        pipeline.run(volume, dark_is_lesion)


def test_ct_values_are_refused(pipeline: BreastUltrasound) -> None:
    with pytest.raises(OutsideIntendedUse, match="CT"):
        pipeline.run(replace(picture(a_disc(64, 64, (30, 30), 10)), unit="HU"), dark_is_lesion)


def test_monai_reads_the_bundle_and_gets_the_same_answer(pipeline: BreastUltrasound, tmp_path: Path) -> None:
    """`network_def`, `preprocessing` and `inferer` of inference.json, by MONAI itself, on a picture file."""
    from monai.bundle import ConfigParser
    from safetensors.torch import load_file

    from node.pipelines.breast_ultrasound import read

    grey = breast_ultrasound("malignant").pixels
    cv2.imwrite(str(tmp_path / "picture.png"), grey)
    parser = ConfigParser()
    parser.read_config(pipeline.bundle.path / "configs" / "inference.json")
    parser.read_meta(pipeline.bundle.path / "configs" / "metadata.json")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(load_file(pipeline.bundle.path / "models" / "model.safetensors"))
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "picture.png")})["image"]
    with torch.inference_mode():
        maps, classes = parser.get_parsed_content("inferer")(image[None], network.eval())
    ours = read(grey.astype(np.float32) / 255, Box(0, 0, *grey.shape), pipeline.bundle.network())

    assert image.shape == (1, 192, 192)
    assert maps.shape == (1, 2, 192, 192)
    assert int(classes.argmax()) == int(ours.logits.argmax()) == 2
    np.testing.assert_allclose(torch.softmax(classes, 1)[0].numpy(), torch.softmax(torch.from_numpy(ours.logits), 0).numpy(), atol=0.1)


def test_the_bundle_says_what_a_node_must_know(pipeline: BreastUltrasound) -> None:
    bundle = pipeline.bundle
    assert (bundle.name, bundle.version) == ("breast_ultrasound", "1.1.0")
    assert bundle.intended_use["modality"] == ["US"]
    assert (bundle.path / bundle.weights).stat().st_size < 50e6
    value = bundle.metadata["eval_metrics"]["auc_malignant"]["value"]
    assert f"{value:.3f}" in bundle.model_card
