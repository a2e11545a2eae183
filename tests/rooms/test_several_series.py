"""A model that reads several series: which of a study they are, what is said when one is missing, and how they are laid over each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.companions import Wanted, channels_of, inputs_of, wanted_of
from node.domain import Series, Study
from node.errors import BundleRefused, GeometryRefused, OutsideIntendedUse
from node.guests.description import description
from node.guests.sequences import names_of, several
from node.imaging.beside import beside
from node.imaging.build import build_volume
from node.imaging.volume import Volume
from node.router import Needs, RuleSet, decide, explain, parse_rules, routes_for
from node.rules.kept import given_back, kept
from node.testing import clean_study
from node.testing.mr_weightings import mr_weightings, weighted_tumor

FOUR = wanted_of(several(None, ["T1c", "T1", "T2", "FLAIR"], 4))
NEEDS = {"tumour": Needs(takes="volume", modalities=("MR",), series=FOUR)}


def rules() -> RuleSet:
    text = "rules: [{name: heads, when: {modality: MR}, run: tumour, send_to: pacs}]"
    return parse_rules(text, pipelines=("tumour",), destinations=("pacs",))


def named(study: Study, name: str) -> Series:
    return next(series for series in study if series.header.SeriesDescription == name)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return clean_study(mr_weightings(), tmp_path_factory.mktemp("heads"))


def some(datasets: list[Dataset], folder: Path) -> Study:
    return clean_study(datasets, folder)


# --- which series -------------------------------------------------------------------------------------------------------------
def test_one_route_goes_to_the_series_that_is_the_first_channel_and_says_which_the_others_are(heads: Study) -> None:
    [route] = routes_for(heads, rules(), NEEDS)

    assert route.series == named(heads, "T1 tra KM").series_instance_uid
    assert f"FLAIR is the series {named(heads, 'FLAIR sag').series_instance_uid}" in route.reasons
    assert f"T2 is the series {named(heads, 'T2 tra').series_instance_uid}" in route.reasons


def test_a_missing_series_is_named_with_what_the_nearest_lacks(tmp_path: Path) -> None:
    study = some(mr_weightings(without=("FLAIR sag",)), tmp_path)

    assert routes_for(study, rules(), NEEDS) == []
    assert "✗ no series is FLAIR; the nearest: weighting T1 is none of FLAIR" in explain(study, rules(), NEEDS)


def test_a_series_that_is_not_the_first_channel_says_only_that(heads: Study) -> None:
    """It is one of the others itself, and was said to be missing."""
    coarse = named(heads, "T2 tra")

    [decision] = [one for one in decide(heads, rules(), NEEDS) if one.series is coarse]

    said = [reason.words for reason in decision.reasons if not reason.met]
    assert len(said) == 1
    assert said[0].startswith("it is not T1c: weighting T2 is none of T1")


def test_one_series_is_not_two_channels(heads: Study) -> None:
    twice = wanted_of(
        [
            {"name": "T2", "when": {"weighting": "T2"}},
            {"name": "a", "when": {"weighting": "FLAIR"}},
            {"name": "b", "when": {"orientation": "sagittal"}},
        ]
    )

    _, reasons = channels_of(heads, named(heads, "T2 tra"), twice)

    assert [reason.met for reason in reasons] == [True, True, False]
    assert reasons[-1].words == "no series is b; the nearest: it is a already"


def test_what_is_missing_stands_before_what_was_found(tmp_path: Path) -> None:
    """`radnode process` says the first reason of a series that was passed over."""
    study = some(mr_weightings(without=("FLAIR sag",)), tmp_path)
    first = named(study, "T1 tra KM")

    [decision] = [one for one in decide(study, rules(), NEEDS) if one.series is first]

    assert decision.reasons[0].words.startswith("no series is FLAIR")


def test_a_series_in_another_frame_of_reference_is_none(tmp_path: Path) -> None:
    datasets = mr_weightings()
    for ds in datasets:
        if ds.SeriesDescription == "T2 tra":
            ds.FrameOfReferenceUID = "2.25.7"
    study = some(datasets, tmp_path)

    assert routes_for(study, rules(), NEEDS) == []
    assert "no series is T2; the nearest: it lies in another frame of reference" in explain(study, rules(), NEEDS)


def test_of_several_that_fit_the_largest_is_read(tmp_path: Path) -> None:
    datasets = mr_weightings()
    few = [ds for ds in mr_weightings(patient=1) if ds.SeriesDescription == "FLAIR sag"][:10]
    for number, ds in enumerate(few):
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "2.25.1", f"2.25.1.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    study = some([*datasets, *few], tmp_path)

    chosen, _ = channels_of(study, named(study, "T1 tra KM"), FOUR)

    assert [len(series.instances) for series in chosen] == [36, 36, 18, 96]


def test_an_original_is_read_before_a_larger_series_that_was_made_of_it(tmp_path: Path) -> None:
    datasets = [ds for ds in mr_weightings() if ds.SeriesDescription != "FLAIR sag" or ds.InstanceNumber < 90]
    more = [ds for ds in mr_weightings() if ds.SeriesDescription == "FLAIR sag"]
    for number, ds in enumerate(more):
        ds.SeriesDescription, ds.ImageType = "FLAIR again", ["DERIVED", "SECONDARY", "OTHER"]
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "2.25.1", f"2.25.1.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    study = some([*datasets, *more], tmp_path)

    chosen, _ = channels_of(study, named(study, "T1 tra KM"), FOUR)

    assert chosen[3].header.SeriesDescription == "FLAIR sag"


def test_a_job_reads_the_images_of_all_of_them(heads: Study) -> None:
    first = named(heads, "T1 tra KM")

    assert len(inputs_of(heads, first, FOUR)) == sum(len(series.instances) for series in heads)
    assert len(inputs_of(heads, first, ())) == len(first.instances)


def test_replay_decides_the_same_from_what_was_kept(tmp_path: Path, heads: Study) -> None:
    elsewhere = mr_weightings(FrameOfReferenceUID="2.25.8")
    for ds in elsewhere:
        if ds.SeriesDescription == "T2 tra":
            ds.FrameOfReferenceUID = "2.25.9"
    for study in (heads, some(elsewhere, tmp_path)):
        again = given_back(kept(study))

        def met(one: Study) -> list[bool]:
            return [decision.met for decision in decide(one, rules(), NEEDS)]

        assert met(again) == met(study)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "a list of 2 to 16"),
        ([{"name": "a", "when": {"weighting": "T1"}}], "a list of 2 to 16"),
        ([{"name": "a", "when": {"weighting": "T1"}}] * 2, "a name of its own"),
        ([{"name": "a"}, {"name": "b"}], "each has a name and conditions"),
        ([{"name": "a", "any_of": []}, {"name": "b", "when": {"weighting": "T2"}}], "nothing is asked of a"),
        ([{"name": "a", "when": {"colour": "red"}}, {"name": "b", "when": {"weighting": "T2"}}], "unknown condition 'colour'"),
        ([{"name": "a", "when": {"weighting": "T7"}}, {"name": "b", "when": {"weighting": "T2"}}], "'T7' is not one of T1, T2"),
        ([{"name": "", "when": {"weighting": "T1"}}, {"name": "b", "when": {"weighting": "T2"}}], "a name has 1 to 32 letters"),
    ],
)
def test_what_a_mapping_file_says_of_them_is_checked(told: Any, said: str) -> None:
    with pytest.raises(BundleRefused, match=said):
        several(told, [], 1)


def test_the_names_of_channels_are_enough_where_all_are_known() -> None:
    assert [one["name"] for one in several(None, ["T1ce", "T2w", "t2-FLAIR"], 3)] == ["T1ce", "T2w", "t2-FLAIR"]
    assert several(None, ["T2", "ADC", "clicks"], 3) == []
    assert several(None, ["red", "green", "blue"], 3) == []
    assert several(None, ["T1", "T1"], 2) == []
    assert several(None, ["T1", "T1w"], 2) == []
    assert several(None, ["T2"], 1) == []


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({"1": "T1", "0": "T1c", "2": "FLAIR"}, ["T1c", "T1", "FLAIR"]),
        ({str(n): f"c{n}" for n in range(11, -1, -1)}, [f"c{n}" for n in range(12)]),
        (["T1c ", "T1"], ["T1c", "T1"]),
        ({"image": "T2"}, ["T2"]),
        ("T1c", []),
        (4, []),
        (None, []),
    ],
)
def test_channels_stand_in_the_order_of_their_numbers_however_they_are_written_down(told: Any, names: list[str]) -> None:
    assert names_of(told) == names


def test_a_rule_meets_the_modality_of_the_first_channel() -> None:
    """PET with CT: its metadata says PET, its results lie on the CT."""
    given = {"modality": "PET", "num_channels": 2, "spatial_shape": [96, 96, 96], "channel_def": {"0": "CT", "1": "PET"}}
    pred = {"format": "segmentation", "channel_def": {"0": "background", "1": "lesion"}}
    metadata = {"network_data_format": {"inputs": {"image": given}, "outputs": {"pred": pred}}}

    found = description(metadata, {}, name="pairs", modality=())

    assert found["intended_use"]["modality"] == ["CT"]
    assert [one["name"] for one in found["series"]] == ["CT", "PET"]


# --- laid over each other -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def volumes(heads: Study) -> dict[str, Volume]:
    return {str(series.header.SeriesDescription): build_volume(series) for series in heads}


def test_a_sagittal_series_lies_over_the_axial_one_voxel_by_voxel(volumes: dict[str, Volume]) -> None:
    first = volumes["T1 tra KM"]

    laid, notes = beside(first, "FLAIR", volumes["FLAIR sag"])

    assert notes == ()
    assert laid.pixels.shape == first.pixels.shape
    assert np.array_equal(laid.pixels > 1000, weighted_tumor().tumor)


def test_a_coarser_series_is_linear_between_its_voxels(volumes: dict[str, Volume]) -> None:
    first, coarse = volumes["T1 tra KM"], volumes["T2 tra"]

    laid, _ = beside(first, "T2", coarse)

    assert np.allclose(laid.pixels[::2, ::2, ::2], coarse.pixels, atol=0.01)
    assert np.allclose(laid.pixels[1:-2:2, ::2, ::2], (coarse.pixels[:-1] + coarse.pixels[1:]) / 2, atol=0.01)


def test_a_series_that_shows_a_part_is_dark_beyond_it_and_one_that_shows_little_is_refused(volumes: dict[str, Volume]) -> None:
    first, flair = volumes["T1 tra KM"], volumes["FLAIR sag"]

    laid, notes = beside(first, "FLAIR", replace(flair, pixels=flair.pixels[:70]))

    assert notes == ("FLAIR shows 73 % of what the first series shows; the rest was dark to the model.",)
    assert np.all(laid.pixels[:, :, :26] == laid.pixels.min())
    with pytest.raises(OutsideIntendedUse, match="FLAIR shows only 21 % of what the first series shows"):
        beside(first, "FLAIR", replace(flair, pixels=flair.pixels[:20]))


def test_what_can_not_be_laid_over_it_is_refused_with_the_reason(volumes: dict[str, Volume]) -> None:
    first, flair = volumes["T1 tra KM"], volumes["FLAIR sag"]
    broken = flair.pixels.copy()
    broken[3, 4, 5] = np.nan
    for other, kind, said in (
        (replace(flair, affine=None), GeometryRefused, "do not say where they lie"),
        (replace(flair, pixels=np.zeros((3, 8, 8, 3), np.uint8)), OutsideIntendedUse, "in colour"),
        (replace(flair, pixels=broken), OutsideIntendedUse, "some pixels of FLAIR are no numbers"),
        (replace(flair, pixels=np.full_like(flair.pixels, 7)), OutsideIntendedUse, "every pixel has the same value"),
    ):
        with pytest.raises(kind, match=said):
            beside(first, "FLAIR", other)


def test_a_part_says_what_is_asked_of_it() -> None:
    assert isinstance(FOUR[0], Wanted)
    assert [one.name for one in FOUR] == ["T1c", "T1", "T2", "FLAIR"]
