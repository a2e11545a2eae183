"""Rules × series → routes: what is chosen, what is left, and the reason for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from node.domain import Priority, Study
from node.errors import RulesInvalid
from node.router import Choice, Needs, RuleSet, decide, explain, explained, parse_rules, read_rules, routes_for
from node.testing import a_study, clean_study
from node.testing.mr_weightings import mr_weightings

ROOT = Path(__file__).parents[2]
PIPELINES = ("covid_ct", "breast_ultrasound", "brain_mri", "covid_xray", "chest_xray", "xray_anomaly")
DESTINATIONS = ("pacs", "research")
NEEDS = {
    "covid_ct": Needs(takes="volume", modalities=("CT",), min_slices=5),
    "breast_ultrasound": Needs(takes="image", modalities=("US",)),
    "brain_mri": Needs(takes="volume", modalities=("MR",)),
    "covid_xray": Needs(takes="image", modalities=("CR", "DX")),
    "chest_xray": Needs(takes="image", modalities=("CR", "DX")),
    "xray_anomaly": Needs(takes="image", modalities=("CR", "DX")),
}
SMALL = {"rows": 32, "patches": 0}


def rules(text: str) -> RuleSet:
    return parse_rules(text, pipelines=PIPELINES, destinations=DESTINATIONS)


def rule(when: str, *, run: str = "covid_ct", more: str = "") -> RuleSet:
    return rules(f"rules:\n  - name: the rule\n    when: {when}\n    run: {run}\n    send_to: pacs\n{more}")


@pytest.fixture
def study(tmp_path: Path):
    """Series joined into one clean study."""

    def join(*series: list[Dataset], **where: str) -> Study:
        for datasets in series:
            for ds in datasets:
                ds.StudyInstanceUID = series[0][0].StudyInstanceUID
        return clean_study([ds for datasets in series for ds in datasets], tmp_path / "study", **where)

    return join


@pytest.fixture
def chest() -> list[Dataset]:
    return a_study("CT", slices=8, **SMALL)


def scout() -> list[Dataset]:
    [ds] = a_study("CT", slices=1, study=9, **SMALL)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [ds]


# --- choosing -----------------------------------------------------------------------------------------------------------
def test_the_example_rules_send_each_study_to_its_pipeline(study, chest):
    example = read_rules(ROOT / "rules.example.yaml", pipelines=PIPELINES, destinations=DESTINATIONS)
    head = a_study("MR", slices=4)
    film = a_study("DX")
    several = study(chest, a_study("US"), head, film, scout())

    routes = routes_for(several, example, NEEDS)

    assert {(route.pipeline, route.series) for route in routes} == {
        ("covid_ct", str(chest[0].SeriesInstanceUID)),
        ("breast_ultrasound", str(a_study("US")[0].SeriesInstanceUID)),
        ("brain_mri", str(head[0].SeriesInstanceUID)),
        ("covid_xray", str(film[0].SeriesInstanceUID)),
        ("chest_xray", str(film[0].SeriesInstanceUID)),
        ("xray_anomaly", str(film[0].SeriesInstanceUID)),
    }
    assert all(route.destinations == ("pacs",) for route in routes)


def test_the_example_rules_pass_over_heads_of_another_weighting(study):
    example = read_rules(ROOT / "rules.example.yaml", pipelines=PIPELINES, destinations=DESTINATIONS)

    heads = study(mr_weightings(rows=32, slices=6))

    [route] = routes_for(heads, example, NEEDS)
    assert route.series == next(one.series_instance_uid for one in heads if one.header.SeriesDescription == "T1 tra KM")


def test_a_route_says_why(study, chest):
    [route] = routes_for(study(chest), rule("{modality: CT, body_part: CHEST}"), NEEDS)

    assert route.rule == "the rule"
    assert route.reasons == ("modality CT is one of CT", "body_part CHEST is one of CHEST")


def test_every_condition_is_required(study, chest):
    assert routes_for(study(chest), rule("{modality: CT, body_part: HEAD}"), NEEDS) == []


def test_one_group_of_any_of_is_enough_and_it_must_hold_in_full(study, chest):
    one = "    any_of: [{body_part: HEAD}, {body_part: CHEST, slice_count: {min: 8}}]\n"
    none = "    any_of: [{body_part: HEAD}, {body_part: CHEST, slice_count: {min: 9}}]\n"

    assert len(routes_for(study(chest), rule("{modality: CT}", more=one), NEEDS)) == 1
    assert routes_for(study(chest), rule("{modality: CT}", more=none), NEEDS) == []


def test_none_of_keeps_a_series_out(study, chest):
    assert routes_for(study(chest), rule("{modality: CT}", more="    none_of: {body_part: CHEST}\n"), NEEDS) == []
    assert len(routes_for(study(chest), rule("{modality: CT}", more="    none_of: [{body_part: HEAD}]\n"), NEEDS)) == 1


def test_who_sent_the_study_can_decide(study, chest):
    there = study(chest, calling_ae="CT01", called_ae="RADNODE")

    assert len(routes_for(there, rule("{calling_ae: [CT01, CT02], called_ae: RADNODE}"), NEEDS)) == 1
    assert routes_for(there, rule("{calling_ae: CT02}"), NEEDS) == []


def test_two_rules_for_one_pipeline_make_one_route_to_all_destinations(study, chest):
    both = rules(
        """
rules:
  - {name: first, when: {modality: CT}, run: covid_ct, send_to: pacs}
  - {name: second, when: {body_part: CHEST}, run: covid_ct, send_to: [research, pacs], priority: stat}
"""
    )

    [route] = routes_for(study(chest), both, NEEDS)

    assert route.rule == "first"
    assert route.destinations == ("pacs", "research")
    assert route.priority is Priority.STAT
    assert "second" in route.reasons[-1]


def test_the_thinnest_series_can_be_chosen(study, chest):
    thin = a_study("CT", slices=9, slice_mm=1.25, study=2, **SMALL)
    both = study(chest, thin)

    [route] = routes_for(both, rule("{modality: CT}", more="    series: thinnest\n"), NEEDS)
    left = [d for d in decide(both, rule("{modality: CT}", more="    series: thinnest\n"), NEEDS) if not d.met]

    assert route.series == str(thin[0].SeriesInstanceUID)
    assert "thinnest" in left[0].reasons[-1].words


def test_the_largest_series_can_be_chosen(study, chest):
    [route] = routes_for(
        study(chest, a_study("CT", slices=9, study=2, **SMALL)), rule("{modality: CT}", more="    series: largest\n"), NEEDS
    )

    assert route.series == str(a_study("CT", slices=9, study=2, **SMALL)[0].SeriesInstanceUID)


# --- what no rule can do by accident ------------------------------------------------------------------------------------
def test_a_localizer_never_reaches_a_volume_pipeline(study, chest):
    decisions = decide(study(chest, scout()), rule("{modality: CT}"), NEEDS)

    [left] = [d for d in decisions if not d.met]
    assert "localizer" in " ".join(reason.words for reason in left.reasons)
    assert len(routes_for(study(chest, scout()), rule("{modality: CT}"), NEEDS)) == 1


def test_a_series_of_localizers_is_taken_when_the_rule_asks_for_them(study):
    scouts = scout() + scout()
    scouts[1].SOPInstanceUID = scouts[1].file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    needs = {"covid_ct": Needs(takes="volume", modalities=("CT",))}

    assert routes_for(study(scouts), rule("{modality: CT}"), needs) == []
    assert len(routes_for(study(scouts), rule("{modality: CT, image_type: LOCALIZER}"), needs)) == 1


def test_asking_for_originals_does_not_let_localizers_in(study):
    """A localizer is ORIGINAL, PRIMARY as well."""
    assert routes_for(study(scout()), rule("{modality: CT, image_type: ORIGINAL}"), NEEDS) == []
    assert len(routes_for(study(scout()), rule("{modality: CT, slice_count: {max: 3}}"), NEEDS)) == 1


def test_a_single_slice_never_reaches_a_volume_pipeline_unless_the_rule_counts(study):
    single = study(a_study("CT", slices=1, **SMALL))

    assert routes_for(single, rule("{modality: CT}"), NEEDS) == []
    assert "fewer than the 5" in decide(single, rule("{modality: CT}"), NEEDS)[0].reasons[0].words
    assert len(routes_for(single, rule("{modality: CT, slice_count: {min: 1}}"), NEEDS)) == 1


def test_only_the_group_that_holds_opens_the_door(study):
    """A count asked beside it in another group says nothing about this series."""
    single = study(a_study("CT", slices=1, **SMALL))
    many_or_chest = "    any_of: [{slice_count: {min: 20}}, {body_part: CHEST}]\n"
    one_chest = "    any_of: [{slice_count: 1, body_part: CHEST}]\n"

    assert routes_for(single, rule("{modality: CT}", more=many_or_chest), NEEDS) == []
    assert len(routes_for(single, rule("{modality: CT}", more=one_chest), NEEDS)) == 1


def test_asking_in_none_of_does_not_open_the_door(study):
    single = study(a_study("CT", slices=1, **SMALL))

    assert routes_for(single, rule("{modality: CT}", more="    none_of: {slice_count: {min: 100}}\n"), NEEDS) == []


def test_a_pipeline_only_meets_its_modalities(study, chest):
    [decision] = decide(study(chest), rule("{body_part: CHEST}", run="breast_ultrasound"), NEEDS)

    assert not decision.met
    assert "takes US, not CT" in decision.reasons[0].words


def test_objects_without_pixels_reach_no_pipeline(study, chest):
    for ds in chest:
        del ds.Rows, ds.Columns, ds.PixelData

    [decision] = decide(study(chest), rule("{modality: CT}"), NEEDS)

    assert decision.reasons[0].words == "the series has no images"


def test_a_pipeline_that_is_not_installed_runs_nothing(study, chest):
    [decision] = decide(study(chest), rule("{modality: CT}"), {})

    assert not decision.met
    assert "not installed" in decision.reasons[0].words


# --- explaining ---------------------------------------------------------------------------------------------------------
def test_explain_names_every_rule_every_series_and_every_condition(study, chest):
    text = explain(study(chest, a_study("US")), rule("{modality: CT, slice_count: {min: 20}}"), NEEDS)

    assert "rule “the rule” (line 2) → covid_ct → pacs" in text
    assert text.count("series 2.25.") == 2
    assert "✓ modality CT is one of CT" in text
    assert "✗ slice_count 8 is not at least 20" in text
    assert "✗ modality US is none of CT" in text


def test_explained_is_the_same_for_programs(study, chest):
    [facts] = explained(decide(study(chest), rule("{modality: CT}"), NEEDS))

    assert facts["met"] is True
    assert facts["pipeline"] == "covid_ct"
    assert facts["reasons"] == [{"key": "modality", "met": True, "words": "modality CT is one of CT"}]


def test_no_answer_repeats_a_description_or_the_patients_age(study):
    told = a_study("CT", slices=6, SeriesDescription="Herr Geheimrat", StudyDescription="Thorax Geheimrat", PatientAge="068Y", **SMALL)
    asked = rule("{series_description: lung, study_description: thorax, age_years: {min: 18}, sex: M}")

    text = explain(study(told), asked, NEEDS)

    assert "Geheimrat" not in text
    assert "68" not in text.replace(str(told[0].SeriesInstanceUID), "")


# --- reading ------------------------------------------------------------------------------------------------------------
WRONG = {
    "unknown key": ("rules:\n- name: a\n  run: covid_ct\n  when: {modality: CT}\n  wehn: {}\n", 5, "unknown key 'wehn'; known: name, when"),
    "unknown condition": (
        "rules:\n- name: a\n  run: covid_ct\n  when:\n    modlity: CT\n",
        5,
        "unknown condition 'modlity'; known: age_years",
    ),
    "unknown pipeline": (
        "rules:\n- name: a\n  run: mind_reading\n  when: {modality: CT}\n",
        3,
        "known: brain_mri, breast_ultrasound, chest_xray, covid_ct, covid_xray, xray_anomaly",
    ),
    "unknown destination": (
        "rules:\n- name: a\n  run: covid_ct\n  when: {modality: CT}\n  send_to:\n  - pacs\n  - cellar\n",
        7,
        "'cellar'",
    ),
    "destination twice": ("rules:\n- name: a\n  run: covid_ct\n  when: {modality: CT}\n  send_to: [pacs, pacs]\n", 5, "twice"),
    "name twice": (
        "rules:\n- {name: a, run: covid_ct, when: {modality: CT}}\n- {name: a, run: covid_ct, when: {modality: CT}}\n",
        3,
        "taken by the rule in line 2",
    ),
    "key twice": ("rules:\n- name: a\n  name: b\n  run: covid_ct\n  when: {modality: CT}\n", 3, "'name' stands twice"),
    "no name": ("rules:\n- run: covid_ct\n  when: {modality: CT}\n", 2, "name is missing"),
    "no conditions": ("rules:\n- name: a\n  run: covid_ct\n", 2, "a rule needs conditions"),
    "empty when": ("rules:\n- name: a\n  run: covid_ct\n  when: {}\n", 4, "key: value"),
    "wrong range": ("rules:\n- name: a\n  run: covid_ct\n  when:\n    slice_count: {min: 9, max: 3}\n", 5, "min is larger than max"),
    "wrong number": ("rules:\n- name: a\n  run: covid_ct\n  when:\n    age_years: {min: old}\n", 5, "numbers"),
    "wrong word": ("rules:\n- name: a\n  run: covid_ct\n  when: {sex: W}\n", 4, "not one of M, F, O"),
    "a boolean for a word": ("rules:\n- name: a\n  run: covid_ct\n  when: {image_type: no}\n", 4, "in quotes"),
    "wrong priority": ("rules:\n- name: a\n  run: covid_ct\n  when: {modality: CT}\n  priority: soon\n", 5, "stat, routine"),
    "wrong series": ("rules:\n- name: a\n  run: covid_ct\n  when: {modality: CT}\n  series: best\n", 5, "all, thinnest, largest"),
    "an alias": ("rules:\n- &a {name: a, run: covid_ct, when: {modality: CT}}\n- *a\n", 2, "aliases"),
    "a tag": ("rules: !!python/object/apply:os.system ['touch /tmp/x']\n", 1, "tags"),
    "broken YAML": ("rules:\n- name: [a\n", 3, ""),
    "not rules": ("- a\n", 1, "rules"),
    "empty": ("", 1, "empty"),
    "deep": ("rules: " + "[" * 60, 1, "deep"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_rule_is_refused_with_its_line(what):
    text, line, words = WRONG[what]

    with pytest.raises(RulesInvalid) as refused:
        rules(text)

    assert f"line {line}:" in refused.value.detail
    assert words in refused.value.detail


def test_a_file_that_is_missing_too_large_or_no_text_is_refused(tmp_path):
    (tmp_path / "large.yaml").write_text("# " + "x" * 2**20)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00rules")

    for name in ("missing.yaml", "large.yaml", "bytes.yaml"):
        with pytest.raises(RulesInvalid, match=name):
            read_rules(tmp_path / name, pipelines=PIPELINES, destinations=DESTINATIONS)


def test_the_laughing_billions_are_stopped_at_the_first_alias():
    text = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))

    with pytest.raises(RulesInvalid, match="aliases"):
        rules(text)


def test_priority_and_choice_are_read_in_any_case():
    [read] = rule("{modality: CT}", more="    priority: STAT\n    series: Thinnest\n").rules

    assert read.priority is Priority.STAT
    assert read.series is Choice.THINNEST
    assert read.send_to == ("pacs",)
    assert read.line == 2


KEYS = st.sampled_from(["rules", "name", "when", "any_of", "none_of", "run", "send_to", "priority", "series", "modality", "slice_count"])
LEAVES = st.one_of(
    st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.none(), st.sampled_from(["CT", "covid_ct", "pacs", "*", "?" * 30])
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25)


@given(text=st.text(max_size=300))
@example(text="rules: 1:30:60")
@example(text="rules: 0x" + "f" * 5000)
@example(text="rules: " + "9" * 5000)
@example(text="? [a, b]\n: c")
@example(text="{rules: [{name: a, run: covid_ct, when: {modality: 2024-13-45}}]}")
@example(text="\x00")
@example(text="rules:\n\t- a")
@example(text="--- a\n--- b")
@settings(max_examples=200, deadline=None)
def test_no_text_does_anything_but_become_rules_or_be_refused(text):
    read, why = read_or_not(text)

    assert isinstance(read, RuleSet) or "rules" in why


def read_or_not(text: str) -> tuple[RuleSet | None, str]:
    """The rules, or why they are refused. Any other error is the test's to see."""
    try:
        return rules(text), ""
    except RulesInvalid as why:
        return None, why.detail


@given(tree=TREES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_tree_of_values_does_anything_but_become_rules_or_be_refused(tree):
    import yaml

    text = yaml.safe_dump({"rules": [tree]}, allow_unicode=True)
    read, why = read_or_not(text)

    assert (read is not None and len(read.rules) == 1) or "line" in why
