"""Infection on chest CT: on phantoms with a known answer, on real chests, and on what must be refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from node import codes
from node.bundle import Bundle
from node.domain import CleanUid, Instance, Result, Series
from node.errors import OutsideIntendedUse
from node.imaging.build import build_volume, images_of
from node.imaging.lungs import Lungs, find_lungs
from node.imaging.volume import Volume
from node.pipelines.covid_ct import BATCH, CovidCt, Upright, infection_map, windowed
from node.testing.phantom_chest_ct import ChestCt, chest_ct
from node.testing.studies import ct_instances, write_study

MODELS = Path(__file__).parents[2] / "models"


def series_of(files: list[Path]) -> Series:
    headers = [(pydicom.dcmread(f, stop_before_pixels=True), f) for f in files]
    return Series(
        series_instance_uid=CleanUid(str(headers[0][0].SeriesInstanceUID)),
        modality=str(headers[0][0].Modality),
        instances=tuple(Instance(header=h, path=f) for h, f in headers),
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@pytest.fixture(scope="module")
def pipeline() -> CovidCt:
    return CovidCt(Bundle.open(MODELS / "covid_ct" / "1.0.0"))


@pytest.fixture(scope="module")
def model(pipeline: CovidCt) -> Callable[[torch.Tensor], torch.Tensor]:
    return pipeline.load("cpu")


@lru_cache(maxsize=2)
def phantom(patches: int) -> ChestCt:
    return chest_ct(slices=28, slice_mm=10.0, patches=patches)


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return build_volume(series_of(write_study(ct_instances(phantom(8)), tmp_path_factory.mktemp("ill"))))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """The same chest with fewer and coarser slices, for what does not need the network."""
    chest = chest_ct(slices=12, slice_mm=20.0, rows=256, patches=8)
    return build_volume(series_of(write_study(ct_instances(chest), tmp_path_factory.mktemp("small"))))


@pytest.fixture(scope="module")
def reading(pipeline: CovidCt, model: Callable[[torch.Tensor], torch.Tensor], ill: Volume) -> Result:
    return pipeline.run(ill, model)


def greyer_than_lung(canvas: torch.Tensor) -> torch.Tensor:
    """Stands in for the network where only geometry is tried: ground-glass grey is called infected."""
    return torch.where((canvas > 0.5) & (canvas < 0.75), 9.0, -9.0)


# --- the answer is known ------------------------------------------------------------------------------------------------------
def test_ground_glass_is_found_where_it_was_drawn(reading: Result) -> None:
    truth = phantom(8)
    [segment] = reading.segments

    assert segment.mask.shape == truth.ground_glass.shape
    assert dice(segment.mask, truth.ground_glass) > 0.65
    assert reading.label == "infection"
    assert reading.findings[0].present


def test_its_share_and_volume_are_near_the_drawn_ones(reading: Result) -> None:
    truth = phantom(8)
    whole = {m.name.meaning: m.value for m in reading.findings[0].measurements}

    assert whole["Volume"] == pytest.approx(truth.ground_glass_ml, rel=0.35)
    assert whole["Infected share of lung volume"] == pytest.approx(100 * truth.affected_fraction, rel=0.35)
    assert whole["Volume of lung, infected parts included"] == pytest.approx(truth.lung_ml, rel=0.06)


def test_left_and_right_add_up_to_the_whole(reading: Result) -> None:
    whole, left, right = reading.findings
    assert (left.laterality, right.laterality) == (codes.LEFT, codes.RIGHT)
    for number in (1, 2):  # volumes, in mL
        assert left.measurements[number].value + right.measurements[number].value == pytest.approx(
            whole.measurements[number].value, abs=0.2
        )


def test_a_healthy_chest_is_not_called_infected(pipeline: CovidCt, model: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    result = pipeline.run(build_volume(series_of(write_study(ct_instances(phantom(0)), tmp_path))), model)

    assert result.analysed
    assert result.label == "no infection"
    assert result.findings[0].probability is not None
    assert result.findings[0].probability < 0.3
    assert result.findings[0].measurements[0].value < 1.5  # percent


def test_the_key_image_and_the_heatmap_show_the_infection(reading: Result) -> None:
    [segment], heatmap, region = reading.segments, reading.heatmap, reading.findings[0].region
    assert heatmap is not None
    assert region is not None
    assert heatmap.values.shape == segment.mask.shape
    assert region.frame == heatmap.frames[0] == int(segment.mask.sum(axis=(1, 2)).argmax())
    assert float(heatmap.values[segment.mask].min()) >= reading.facts["threshold"] - 1e-6
    column, row = region.outline.mean(axis=0).astype(int)
    rows, columns = np.nonzero(segment.mask[region.frame])
    assert rows.min() <= row <= rows.max()
    assert columns.min() <= column <= columns.max()


def test_the_lungs_are_found_and_told_apart(ill: Volume) -> None:
    truth = phantom(8)
    assert ill.spacing_mm is not None
    lungs = find_lungs(np.asarray(ill.pixels, np.float32), ill.spacing_mm)

    assert lungs is not None
    assert dice(lungs.both, truth.lungs) > 0.93
    assert not (lungs.left & lungs.right).any()
    assert float(np.nonzero(lungs.left)[2].mean()) > float(np.nonzero(lungs.right)[2].mean()) + 100  # left is on the right


# --- geometry -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "turned",
    [
        Upright(False, True, True),  # prone: head first, turned by 180 degrees
        Upright(False, False, True),
        Upright(True, False, False),
        Upright(True, True, False),
    ],
)
def test_a_series_that_lies_otherwise_gives_the_same_answer(pipeline: CovidCt, small: Volume, turned: Upright) -> None:
    assert small.affine is not None
    straight = pipeline.run(small, greyer_than_lung)
    pixels = turned.back(np.asarray(small.pixels))
    step = np.eye(4)
    rows, columns = small.pixels.shape[1:]
    if turned.transposed:
        step[:2, :2] = [[0, 1], [1, 0]]
    if turned.flip_rows:
        step = np.array([[1, 0, 0, 0], [0, -1, 0, rows - 1], [0, 0, 1, 0], [0, 0, 0, 1]]) @ step
    if turned.flip_columns:
        step = np.array([[-1, 0, 0, columns - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ step
    other = pipeline.run(replace(small, pixels=pixels, affine=small.affine @ step), greyer_than_lung)

    assert Upright.of(small.affine @ step) == turned
    np.testing.assert_array_equal(turned.turn(other.segments[0].mask), straight.segments[0].mask)
    assert [f.measurements for f in other.findings] == [f.measurements for f in straight.findings]


def test_volumes_are_voxels_times_their_size(pipeline: CovidCt, small: Volume) -> None:
    result = pipeline.run(small, greyer_than_lung)
    assert small.spacing_mm is not None
    ml = float(result.segments[0].mask.sum()) * math.prod(small.spacing_mm) / 1000
    assert result.findings[0].measurements[1].value == pytest.approx(ml, abs=0.06)


# --- real chests --------------------------------------------------------------------------------------------------------------------
def test_a_real_chest_without_covid_stays_nearly_empty(
    pipeline: CovidCt, model: Callable[[torch.Tensor], torch.Tensor], shared: Path
) -> None:
    """A lung cancer: what is marked lies in the lung that holds the tumour, and is little."""
    files = sorted((shared / "data" / "dicom" / "ct_chest_lungpetctdx").rglob("*.dcm"))
    volume = build_volume(series_of(files))

    result = pipeline.run(volume, model)

    whole, left, right = (f.measurements[0].value for f in result.findings)
    assert whole < 3.0
    assert right < 1.0
    assert left > right  # the tumour is in the left upper lobe
    assert 4000 < result.findings[0].measurements[2].value < 7500  # mL of lung in a grown man


@pytest.mark.parametrize(
    "name",
    ["A002304/axial_19001231-076", "A002304/axial_19010112-135", "A048383/axial_19001231-30", "A056642/axial_19001229-053"],
)
def test_real_covid_slices_light_up(pipeline: CovidCt, model: Callable[[torch.Tensor], torch.Tensor], shared: Path, name: str) -> None:
    [volume] = images_of(series_of([shared / "data" / "dicom" / "ct_covid_ny_sbu" / f"{name}.dcm"]))

    result = pipeline.run(volume, model)

    assert result.label == "infection"
    assert result.findings[0].measurements[0].value > 8.0
    assert [m.unit for m in result.findings[0].measurements] == [codes.PERCENT]  # one slice has no volume
    assert any("slices" in note for note in result.notes)


def test_the_two_engines_agree_on_a_real_slice(pipeline: CovidCt, shared: Path) -> None:
    [volume] = images_of(series_of([shared / "data" / "dicom" / "ct_covid_ny_sbu" / "A056642" / "axial_19001229-053.dcm"]))
    masks = [pipeline.run(volume, pipeline.bundle.network(engine=engine)).segments[0].mask for engine in ("torch", "openvino")]
    assert dice(*masks) > 0.98


# --- what it must not read ----------------------------------------------------------------------------------------------------------
def test_coronal_slices_are_refused(pipeline: CovidCt, shared: Path) -> None:
    [volume] = images_of(series_of([shared / "data" / "dicom" / "ct_covid_ny_sbu" / "A002304" / "coronal_19001231-076.dcm"]))
    with pytest.raises(OutsideIntendedUse, match="axial"):
        pipeline.run(volume, greyer_than_lung)


@pytest.mark.parametrize("name", ["A027284/axial_19000925-116", "A062055/axial_19001127-136", "A062055/axial_19001228-131"])
def test_an_abdomen_is_refused(pipeline: CovidCt, shared: Path, name: str) -> None:
    [volume] = images_of(series_of([shared / "data" / "dicom" / "ct_covid_ny_sbu" / f"{name}.dcm"]))
    with pytest.raises(OutsideIntendedUse, match="no lungs"):
        pipeline.run(volume, greyer_than_lung)


def test_pixels_that_are_not_hounsfield_units_are_refused(pipeline: CovidCt, small: Volume) -> None:
    with pytest.raises(OutsideIntendedUse, match="Hounsfield"):
        pipeline.run(replace(small, unit="1"), greyer_than_lung)


@pytest.mark.parametrize("value", [-1000.0, 40.0, 3000.0])
def test_an_empty_series_is_refused(pipeline: CovidCt, small: Volume, value: float) -> None:
    with pytest.raises(OutsideIntendedUse, match="no lungs"):
        pipeline.run(replace(small, pixels=np.full_like(small.pixels, value)), greyer_than_lung)


def test_a_chest_with_pixels_that_are_no_numbers_is_not_called_clean(pipeline: CovidCt, small: Volume) -> None:
    """One in each slice: a network that looks round it answers what is no number, which lies below every threshold."""
    pixels = small.pixels.copy()
    pixels[:, 128, 128] = np.nan

    with pytest.raises(OutsideIntendedUse, match="no numbers"):
        pipeline.run(replace(small, pixels=pixels), greyer_than_lung)


# --- the bundle is a real MONAI bundle -----------------------------------------------------------------------------------------------
def test_monai_reads_the_bundle_and_gets_the_same_map(pipeline: CovidCt, ill: Volume, tmp_path: Path) -> None:
    """`network_def`, `preprocessing` and `inferer` of inference.json, by MONAI itself, on one slice cut to the lungs."""
    from monai.bundle import ConfigParser
    from safetensors.torch import load_file

    from node.imaging.letterbox import Box, Letterbox

    cut = np.asarray(ill.pixels, np.float32)[14, 100:400, 60:460]
    np.save(tmp_path / "slice.npy", cut)
    parser = ConfigParser()
    parser.read_config(pipeline.bundle.path / "configs" / "inference.json")
    parser.read_meta(pipeline.bundle.path / "configs" / "metadata.json")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(load_file(pipeline.bundle.path / "models" / "model.safetensors"))
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "slice.npy")})["image"]
    with torch.inference_mode():
        theirs = torch.sigmoid(parser.get_parsed_content("inferer")(image[None], network.eval()))[0, 0].numpy()
        canvas = torch.from_numpy(Letterbox(Box(0, 0, *cut.shape), 448).forward(windowed(cut)))[None, None]
        ours = torch.sigmoid(pipeline.bundle.network()(canvas))[0, 0].numpy()

    assert theirs.shape == ours.shape == (448, 448)
    assert dice(theirs > 0.5, ours > 0.5) > 0.9


def test_the_bundle_says_what_a_node_must_know(pipeline: CovidCt) -> None:
    bundle = pipeline.bundle
    assert (bundle.name, bundle.version, bundle.labels) == ("covid_ct", "1.0.0", ("infection",))
    assert bundle.licence["non_commercial"] is True
    assert bundle.intended_use["modality"] == ["CT"]
    assert (bundle.path / bundle.weights).stat().st_size < 50e6
    assert "Where it fails" in bundle.model_card
    value = bundle.metadata["eval_metrics"]["dice_mean"]["value"]
    assert f"{value:.3f}" in bundle.model_card  # the card tells the measured figure


def test_slices_are_read_together_and_each_answer_comes_back_to_its_own_slice() -> None:
    hu = np.random.default_rng(0).uniform(-1000, 100, (BATCH + 3, 40, 48)).astype(np.float32)
    left = np.zeros(hu.shape, bool)
    left[:, 5:35, 4:44] = True
    left[2] = False  # no lung: not shown to the network
    seen: list[int] = []

    def darkness(canvases: torch.Tensor) -> torch.Tensor:
        seen.append(len(canvases))
        return 10 * (0.5 - canvases)

    together = infection_map(hu, Lungs(left=left, right=np.zeros_like(left)), darkness)

    assert seen == [BATCH, 2]
    assert not together[2].any()
    for z in (0, 1, 3, BATCH + 2):
        only = np.zeros_like(left)
        only[z] = left[z]
        alone = infection_map(hu, Lungs(left=only, right=np.zeros_like(left)), darkness)
        np.testing.assert_allclose(together[z], alone[z], atol=1e-6)
