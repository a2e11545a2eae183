"""A rule waits for others: its jobs come when theirs have ended, and where it asks for it only if they found something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.domain import JobState
from node.errors import RulesInvalid
from node.router import parse_rules
from node.testing.studies import a_study
from tests.rooms.api_site import Site, a_site

FIRST = "- {name: chest CT, when: {modality: CT}, run: works, send_to: pacs}\n"
SECOND = "- {name: a closer look, when: {modality: CT}, run: raises, send_to: pacs, after: chest CT"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path) as opened:
        yield opened


def publish(site: Site, *rules: str) -> None:
    site.home.rule_book.publish("rules:\n" + "".join(rules), who="user:admin", reason="one after the other")


def pipelines(site: Site, study: str) -> dict[str, JobState]:
    return {job.route.pipeline: job.state for job in site.home.jobs.of_study(study)}


def test_the_second_job_comes_when_the_first_has_ended_and_says_after_what(site: Site):
    publish(site, FIRST, SECOND + "}\n")
    study = site.arrives(*a_study("CT", slices=2, rows=64))

    while site.gateway.settle():
        pass
    assert pipelines(site, study) == {"works": JobState.SCHEDULED}
    site.works_off()

    assert pipelines(site, study) == {"works": JobState.COMPLETED, "raises": JobState.SCHEDULED}
    second = site.home.jobs.of_study(study)[1]
    assert second.route.rule == "a closer look"
    assert "after chest CT" in second.route.reasons
    site.gateway.hand_over()
    assert len(site.home.jobs.of_study(study)) == 2  # once


@pytest.mark.parametrize(
    ("asked", "comes"),
    [
        ("{finding: lesion, present: true}", True),
        ("{finding: lesion, probability: {max: 0.01}}", False),
        ("{finding: stone, present: true}", False),
    ],
)
def test_it_comes_only_if_that_was_found(site: Site, asked: str, comes: bool):
    publish(site, FIRST, SECOND + f", if_found: {asked}}}\n")
    study = site.arrives(*a_study("CT", slices=2, rows=64))

    site.works_off()

    assert ("raises" in pipelines(site, study)) is comes
    said = [str(record["event"]) + str(record) for record in site.home.trail.tail(20)]
    assert any("a closer look has no work" in one for one in said) is not comes


def test_it_waits_for_all_of_several_and_for_those_that_were_given_up(site: Site):
    publish(
        site,
        FIRST,
        "- {name: head MR, when: {modality: MR}, run: raises, send_to: pacs}\n",
        "- {name: both, when: {modality: MR}, run: works, send_to: pacs, after: [chest CT, head MR]}\n",
    )
    ct, mr = a_study("CT", slices=2, rows=64), a_study("MR", slices=2)
    for ds in mr:  # one study with two series
        ds.StudyInstanceUID, ds.PatientID, ds.PatientName = ct[0].StudyInstanceUID, ct[0].PatientID, ct[0].PatientName
    study = site.arrives(*ct, *mr)

    while site.gateway.settle():
        pass
    with site.runner() as runner:
        runner.run_waiting()
    works = [job for job in site.home.jobs.of_study(study) if job.route.rule == "both"]
    assert works == []
    site.gateway.hand_over()

    [both] = [job for job in site.home.jobs.of_study(study) if job.route.rule == "both"]
    assert both.state is JobState.SCHEDULED


def test_after_nothing_comes_nothing(site: Site):
    publish(
        site,
        "- {name: head MR, when: {modality: MR}, run: works, send_to: pacs}\n",
        SECOND.replace("after: chest CT", "after: head MR") + "}\n",
    )
    study = site.arrives(*a_study("CT", slices=2, rows=64))

    site.works_off()

    assert pipelines(site, study) == {}


@pytest.mark.parametrize(
    ("rules", "line", "words"),
    [
        (SECOND + "}\n" + FIRST, 2, "'chest CT' is no rule above this one; above it: none"),
        (FIRST + SECOND.replace("after: chest CT", "after: a closer look") + "}\n", 3, "above it: chest CT"),
        (FIRST + SECOND.replace(", after: chest CT", ", if_found: {finding: lesion, present: true}") + "}\n", 3, "with after"),
        (FIRST + SECOND + ", if_found: {finding: lesion}}\n", 3, "give probability"),
        (FIRST + SECOND + ", if_found: {finding: lesion, present: true, send_to: pacs}}\n", 3, "unknown key 'send_to'"),
        (FIRST + SECOND.replace("after: chest CT", "after: []") + "}\n", 3, "1 to"),
    ],
)
def test_what_can_not_be_ordered_is_refused_with_its_line(rules: str, line: int, words: str):
    with pytest.raises(RulesInvalid, match=words) as why:
        parse_rules("rules:\n" + rules, pipelines=["works", "raises"], destinations=["pacs"])

    assert why.value.line == line
