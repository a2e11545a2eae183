"""`radnode rules` as an administrator uses it: from the first look to a rollback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

import config
from node.assembly import House
from node.commands.rules import app
from node.errors import NodeError, RevisionRefused, RulesInvalid
from node.gateway import Gateway
from node.testing import a_study, write_study
from tests.conftest import ROOT

CHEST = "  - {name: chest, when: {modality: CT, slice_count: {min: 3}}, run: covid_ct, send_to: pacs}\n"
BREAST = "  - {name: breast, when: {modality: US}, run: breast_ultrasound, send_to: pacs}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings whose rules file has one rule; the node was started once."""
    (tmp_path / "rules.yaml").write_text("rules:\n" + CHEST)
    content = {
        "data_dir": str(tmp_path / "data"),
        "rules": str(tmp_path / "rules.yaml"),
        "intake": {"settle_after_s": 0.0, "min_free_mb": 1},
        "deidentification": {"leak_scan": False, "text_detection": "off"},
        "destinations": {"pacs": {"kind": "folder", "path": str(tmp_path / "pacs")}},
    }
    (tmp_path / "radnode.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "radnode.yaml"


@pytest.fixture
def node(settings: Path) -> House:
    house = House(config.load(settings))
    house.check()
    return house


def radnode_rules(settings: Path, *words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--config", str(settings)])


def said(settings: Path, *words: str | Path) -> str:
    done = radnode_rules(settings, *words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(settings: Path, *words: str | Path) -> NodeError:
    done = radnode_rules(settings, *words)
    assert isinstance(done.exception, NodeError), done.output
    return done.exception


def test_rules_are_shown_changed_published_compared_and_rolled_back(settings: Path, node: House, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text(said(settings, "show"))
    assert draft.read_text().startswith("# revision 1, ")
    draft.write_text(draft.read_text() + BREAST)

    assert said(settings, "publish", draft, "--reason", "breasts too") == "revision 2 is active\n"
    assert isinstance(refused(settings, "publish", draft, "--reason", "once more"), RevisionRefused)  # made from 1
    assert [rule.name for rule in node.rules.rules] == ["chest", "breast"]
    difference = said(settings, "diff", "1", "2")
    assert "1 → 2: 1 added" in difference
    assert "+" + BREAST.rstrip() in difference
    assert said(settings, "rollback", "1", "--reason", "too early").startswith("revision 3 is active")

    listed = json.loads(said(settings, "list", "--json"))
    assert [(one["number"], one["step"], one["reason"], one["active"]) for one in listed] == [
        (1, "file", "read from rules.yaml", False),
        (2, "publish", "breasts too", False),
        (3, "rollback", "too early", True),
    ]
    table = said(settings, "list")
    assert "active" in table
    assert "settings file" in table


def test_a_wrong_file_names_every_wrong_rule_and_leaves_nothing(settings: Path, node: House, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text("rules:\n  - {name: a, when: {modlity: CT}, run: covid_ct}\n  - {name: b, when: {modality: CT}, run: nothing}\n")

    done = radnode_rules(settings, "check", draft)
    problems = json.loads(radnode_rules(settings, "check", draft, "--json").stdout)["problems"]

    assert isinstance(done.exception, RulesInvalid)
    assert "draft.yaml, line 2: unknown condition" in done.stderr
    assert [(one["line"], one["column"]) for one in problems] == [(2, 22), (3, 42)]
    assert isinstance(refused(settings, "publish", draft, "--reason", "a try"), RulesInvalid)
    assert len(node.rule_book.history()) == 1


def test_a_draft_is_replayed_over_past_studies_and_watched_on_the_next(settings: Path, node: House, tmp_path: Path) -> None:
    gateway = Gateway(node)
    draft = tmp_path / "draft.yaml"
    draft.write_text("rules:\n" + CHEST.replace("min: 3", "min: 20") + BREAST)
    write_study(a_study("CT", slices=6, rows=32, patches=0), tmp_path / "1")
    node.take_folder(tmp_path / "1")
    gateway.settle()

    replayed = said(settings, "replay", draft, "--days", "7")
    found = json.loads(said(settings, "replay", draft, "--days", "7", "--json"))

    assert "1 studies, 1 series\nchest → covid_ct: 1 CT series fewer" in replayed
    assert "slice_count 6 is not at least 20" in replayed
    assert found["groups"][0]["fewer"] == 1
    assert len(node.rule_book.history()) == 1  # nothing was published by asking

    said(settings, "watch", draft)
    write_study(a_study("CT", slices=6, rows=32, patches=0, study=2), tmp_path / "2")
    node.take_folder(tmp_path / "2")
    gateway.settle()
    assert "draft 2, 1 studies: 1 differences" in said(settings, "watched")
    assert json.loads(said(settings, "watched", "--json"))["differences"][0]["kind"] == "fewer"
    assert said(settings, "watch", "--stop") == "revision 2 is not watched any more\n"
    assert isinstance(refused(settings, "watched"), RevisionRefused)


def test_a_refusal_is_one_sentence_and_exit_status_1(settings: Path, node: House) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "rules", "rollback", "7", "--reason", "back", "--config", str(settings)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert done.stderr.strip() == "radnode: The rules were not changed; `radnode rules list` shows how they stand. there is no revision 7"
