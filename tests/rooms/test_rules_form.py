"""The form and the YAML are both true: comments stay, values cross unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import RulesInvalid
from node.router import Needs, parse_rules
from node.rules.form import form_of, text_of, words

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "rules.example.yaml").read_text()
TEXT = """\
# who reads what
rules:
  # the chest first
  - name: chest CT # the old scanner too
    when:
      modality: CT # and no PET
      slice_thickness_mm: {max: 10}
    run: covid_ct
    send_to: [pacs]

  # then films
  - name: film
    when: {modality: [CR, DX]}
    run: covid_xray
"""


def test_a_form_that_was_not_changed_gives_the_same_text() -> None:
    assert text_of(form_of(TEXT), TEXT) == TEXT


def test_the_example_crosses_with_all_its_comments() -> None:
    text = text_of(form_of(EXAMPLE), EXAMPLE)

    assert form_of(text) == form_of(EXAMPLE)
    comments = [line.partition("#")[2].strip() for line in EXAMPLE.splitlines() if "#" in line]
    assert [comment for comment in comments if comment not in text] == []


def test_a_value_is_changed_where_it_stands_and_every_comment_stays() -> None:
    form = form_of(TEXT)
    form["rules"][0]["when"]["slice_thickness_mm"] = {"max": 3}
    form["rules"][0]["send_to"] = ["pacs", "ward"]

    assert text_of(form, TEXT) == TEXT.replace("{max: 10}", "{max: 3}").replace("[pacs]", "[pacs, ward]")


def test_rules_are_renamed_added_removed_and_moved() -> None:
    form = form_of(TEXT)
    chest, film = form["rules"]
    new = {"name": "breast", "when": {"modality": "US"}, "run": "breast_ultrasound", "between": "20:00-06:00"}

    text = text_of({"rules": [new, film, {**chest, "name": "thorax CT", "was": "chest CT"}]}, TEXT)

    assert [rule["name"] for rule in form_of(text)["rules"]] == ["breast", "film", "thorax CT"]
    assert "the old scanner too" in text
    assert "and no PET" in text
    assert "was" not in form_of(text)["rules"][2]
    assert [rule["name"] for rule in form_of(text_of({"rules": [film]}, TEXT))["rules"]] == ["film"]


def test_words_that_yaml_reads_otherwise_are_quoted() -> None:
    for word in ("no", "on", "1.5", "20:00", "null", "*hrct*", "2024-01-01", "a: b", "# x", "~", "ä", "0x1F", "1_000", " x"):
        form = {"rules": [{"name": word, "when": {"image_type": [word]}, "run": "covid_ct"}]}
        assert form_of(text_of(form, TEXT)) == form
        assert form_of(text_of(form)) == form


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-999, 999)
    | st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 2))
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(rules=st.lists(st.dictionaries(st.sampled_from(["name", "when", "run", "any_of", "send_to"]), JSON, max_size=4), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_form_comes_back_as_it_was_or_is_refused(rules: list[dict[str, object]]) -> None:
    try:
        text = text_of({"rules": rules}, TEXT)
        again = form_of(text)
    except RulesInvalid:
        return  # a key that is no word, or letters that YAML has no way to write
    assert again == {"rules": rules}


@pytest.mark.parametrize("form", [{}, {"rules": {}}, {"rules": [1]}, {"rules": [{"name": {1}}]}, {"rules": [{"name": float("nan")}]}])
def test_what_is_no_form_is_refused(form: dict[str, object]) -> None:
    with pytest.raises(RulesInvalid):
        text_of(form, TEXT)


@pytest.mark.parametrize("text", ["- a", "rules: {a: b}", "a: &a [x]\nb: *a", "rules: [1]", "", "rules: " + "[" * 60])
def test_what_is_no_list_of_rules_is_no_form(text: str) -> None:
    with pytest.raises(RulesInvalid):
        form_of(text)
    form = {"rules": [{"name": "a", "when": {"modality": "CT"}, "run": "covid_ct"}]}
    assert form_of(text_of(form, text)) == form  # the form counts


def test_what_a_form_offers_makes_valid_rules() -> None:
    offered = words({"covid_ct": Needs(takes="volume", modalities=("CT",), findings=("infection",))}, ["ward", "pacs"])

    assert offered["destinations"] == ["pacs", "ward"]
    assert offered["conditions"]["modality"]["help"].startswith("CT, MR")
    rule = {
        "name": "all of it",
        "when": {"modality": offered["pipelines"]["covid_ct"]["modalities"]},
        "run": list(offered["pipelines"]),
        "series": offered["series"][-1],
        "priority": offered["priority"][0],
        "send_if": {"finding": offered["pipelines"]["covid_ct"]["findings"][0], "present": True, "send_to": offered["destinations"]},
    }
    [read] = parse_rules(text_of({"rules": [rule]}), pipelines=offered["pipelines"], destinations=offered["destinations"]).rules
    assert (read.name, read.send_if[0].destinations) == ("all of it", ("pacs", "ward"))
