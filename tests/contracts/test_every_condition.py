"""Every condition, met without being listed: typed values only, answers without a patient, no surprise on any header."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from node.conditions.interface import Condition, OneOf, Range, Words, matches, mentions
from node.domain import Study
from node.registry import Registry
from node.testing import a_study, canary_study, clean_study

REGISTRY: Registry[Condition] = Registry("node.conditions", Condition)
NAMES = list(REGISTRY)
ASKED_FOR = [
    "modality",
    "body_part",
    "series_description",
    "study_description",
    "calling_ae",
    "called_ae",
    "slice_count",
    "slice_thickness_mm",
    "manufacturer",
    "model_name",
    "age_years",
    "sex",
    "image_type",
    "view_position",
    "laterality",
    "contrast",
    "sop_class",
    "photometric",
    "orientation",
]

#: a value that the chest CT of `a_study` meets, and one that it does not
CHEST: dict[str, tuple[Any, Any]] = {
    "age_years": ({"min": 60, "max": 70}, {"max": 17}),
    "body_part": (["HEAD", "CHEST"], "BREAST"),
    "called_ae": ("RADNODE", "OTHER"),
    "calling_ae": (["SCAN*"], "CT02"),
    "columns": ({"min": 32}, {"min": 33}),
    "contrast": (False, True),
    "image_type": ("axial", "LOCALIZER"),
    "laterality": None,
    "manufacturer": ("rad*", "GE*"),
    "modality": (["CT", "PT"], "MR"),
    "model_name": ("Phantom", "Brilliance*"),
    "orientation": ("axial", ["coronal", "sagittal", "oblique"]),
    "photometric": ("MONOCHROME2", "MONOCHROME1"),
    "rows": (32, {"max": 31}),
    "series_description": (["lunge"], "lung"),
    "sex": ("M", ["F", "O"]),
    "slice_count": ({"min": 3, "max": 3}, {"min": 4}),
    "slice_thickness_mm": ({"max": 5}, {"max": 3}),
    "sop_class": (["CTImageStorage"], "1.2.840.10008.5.1.4.1.1.4"),
    "study_description": ("*thorax*", "abdomen"),
    "view_position": None,
    "weighting": None,
}


@pytest.fixture(scope="module")
def chest(tmp_path_factory) -> Study:
    return clean_study(a_study("CT", slices=3, rows=32, patches=0), tmp_path_factory.mktemp("chest"))


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    planted = canary_study(slices=2, rows=32)
    return planted, clean_study(planted.datasets, tmp_path_factory.mktemp("canary"))


def test_no_condition_is_broken_and_none_is_missing():
    assert REGISTRY.broken == {}
    assert set(ASKED_FOR) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_takes_and_is_named_as_its_file(name):
    kind = REGISTRY[name]

    assert kind.help
    assert all(tag_for_keyword(keyword) is not None for keyword in kind.reads)  # what is kept of a header for replay
    assert (kind.__doc__ or "").strip()
    if issubclass(kind, OneOf | Words | Range):
        assert kind.name == name


@pytest.mark.parametrize("name", [name for name in NAMES if CHEST.get(name)])
def test_it_answers_yes_and_no_with_a_reason(name, chest):
    yes, no = CHEST[name]
    [series] = chest.series

    met, because = REGISTRY[name].parse(yes).ask(chest, series)
    assert met, because
    assert because.startswith(name)
    met, because = REGISTRY[name].parse(no).ask(chest, series)
    assert not met, because
    assert because.startswith(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_a_value_of_the_wrong_kind_with_a_sentence(name):
    for wrong in (
        None,
        {},
        {"min": "x"},
        {"maximum": 3},
        [],
        [[]],
        [None],
        "",
        "\x00",
        "x" * 500,
        float("nan"),
        {"min": float("inf")},
        object(),
    ):
        condition, why = parsed_or_not(name, wrong)
        assert condition is not None or name in why
        assert not isinstance(condition, Range)  # a word may be odd, a number may not


@pytest.mark.parametrize("name", NAMES)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
@settings(max_examples=60, deadline=None)
def test_no_value_makes_it_fail_otherwise(name, value):
    condition, why = parsed_or_not(name, value)

    assert isinstance(condition, Condition) or why


def parsed_or_not(name: str, value: Any) -> tuple[Condition | None, str]:
    """The condition, or the sentence with which its value is refused. Any other error is the test's to see."""
    try:
        return REGISTRY[name].parse(value), ""
    except ValueError as why:
        return None, str(why)


def example_of(name: str) -> Condition:
    found = CHEST.get(name)
    return REGISTRY[name].parse(found[0] if found else {"laterality": "L", "view_position": "PA", "weighting": "T1"}[name])


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_no_or_says_so_when_the_header_is_empty(name, chest, tmp_path: Path):
    [bare] = a_study("CT", slices=1, rows=32, patches=0)
    kept = {k: bare[k] for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")}
    empty = Dataset()
    for element in kept.values():
        empty.add(element)
    empty.file_meta = bare.file_meta
    study = clean_study([empty], tmp_path / "bare")

    met, because = example_of(name).ask(study, study.series[0])

    assert isinstance(met, bool)
    assert because


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_its_answer_repeats_no_word_that_could_name_someone(name, canary):
    planted, study = canary

    _, because = example_of(name).ask(study, study.series[0])

    assert not [word for word in planted.words.values() if word.lower() in because.lower()]


@pytest.mark.parametrize(
    ("pattern", "text", "met"),
    [
        ("chest", "CHEST", True),
        ("GE*", "GE MEDICAL SYSTEMS", True),
        ("*", "", True),
        ("?", "", False),
        ("a?c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-b-b-d", False),
        ("[a-z]", "b", False),
        (".*", "x", False),
        ("**x**", "axb", True),
    ],
)
def test_patterns_know_star_and_question_mark_and_nothing_else(pattern, text, met):
    assert matches(pattern, text) is met


def test_no_pattern_takes_long():
    began = time.perf_counter()

    assert not matches("*a" * 32, "a" * 10_000 + "b")

    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    ("text", "word", "met"),
    [
        ("Thorax 1.0 Lunge", "lunge", True),
        ("Thorax 1.0 Lungenfenster", "lunge", False),
        ("Thorax 1.0 Lungenfenster", "*lunge*", True),
        ("CHEST_LUNG/5mm", "lung 5mm", True),
        ("CHEST_LUNG/5mm", "lung  chest", False),
        ("ABD C+", "C+", True),
        ("", "*", False),
        ("abc", "!!", False),
    ],
)
def test_words_in_a_description_are_whole_words(text, word, met):
    assert mentions(text, word) is met


@pytest.mark.filterwarnings("ignore")
def test_ages_are_read_as_real_scanners_write_them(tmp_path: Path):
    child = REGISTRY["age_years"].parse({"max": 2})
    for age, met in (
        ("018M", True),
        ("042W", True),
        ("300D", True),
        ("081Y", False),
        ("42", False),
        ("0Y", True),
        ("", False),
        ("abcY", False),
    ):
        [ds] = a_study("CT", slices=1, rows=32, patches=0)
        ds.PatientAge = age
        study = clean_study([ds], tmp_path / (age or "none"))
        assert child.ask(study, study.series[0])[0] is met, age


def test_contrast_is_told_by_agent_dose_or_route(tmp_path: Path):
    given_ = REGISTRY["contrast"].parse(True)
    for number, (keyword, value, met) in enumerate(
        [
            ("ContrastBolusAgent", "Iomeprol", True),
            ("ContrastBolusAgent", "", False),
            ("ContrastBolusVolume", "80", True),
            ("ContrastBolusVolume", "0", False),
        ]
    ):
        [ds] = a_study("CT", slices=1, rows=32, patches=0, **{keyword: value})
        study = clean_study([ds], tmp_path / str(number))
        assert given_.ask(study, study.series[0])[0] is met


@pytest.mark.parametrize(
    ("cosines", "name"),
    [
        ([1, 0, 0, 0, 1, 0], "axial"),
        ([1, 0, 0, 0, 0, -1], "coronal"),
        ([0, 1, 0, 0, 0, -1], "sagittal"),
        ([0.7071, 0.7071, 0, 0, 0, -1], "oblique"),
    ],
)
def test_orientation_follows_the_normal(cosines, name, tmp_path: Path):
    [ds] = a_study("CT", slices=1, rows=32, patches=0)
    ds.ImageOrientationPatient = cosines
    study = clean_study([ds], tmp_path)

    assert REGISTRY["orientation"].parse(name).ask(study, study.series[0])[0]
