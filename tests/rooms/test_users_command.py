"""`radnode users`: who may sign in, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from config import load
from node.assembly import House
from tests.rooms.front_door import radnode


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "radnode.yaml"
    file.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "web": {"sign_in": {"max_failures": 2}}}))
    return file


def test_somebody_is_let_in_reset_and_sent_away_and_each_step_is_in_the_trail(config):
    given = json.loads(radnode("users", "add", "anna", "--role", "auditor", "--json", config=config).stdout)["one_time_password"]
    house = House(load(config))
    assert house.reception.sign_in("anna", given)

    assert house.reception.sign_in("anna", "wrong") is None
    assert house.reception.sign_in("anna", "wrong") is None
    assert "locked, one-time password" in radnode("users", "list", config=config).stdout
    said = radnode("users", "reset", "anna", config=config).stdout
    assert given not in said
    assert house.reception.sign_in("anna", said.split("  ")[1])
    assert "anna is radiologist, auditor now" in radnode("users", "role", "anna", "auditor", "radiologist", config=config).stdout
    assert radnode("users", "disable", "anna", config=config).returncode == 0
    [anna] = json.loads(radnode("users", "list", "--json", config=config).stdout)

    assert (anna["name"], anna["roles"], anna["disabled"]) == ("anna", ["radiologist", "auditor"], True)
    trail = house.trail.find()
    assert [r["what"] for r in reversed(trail) if r["who"].startswith("os:")] == [
        f"user anna {what}" for what in ("added", "reset", "has other roles", "disabled")
    ]
    house.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "a b", "--role", "admin"], "1 to 100 letters"),
        (["disable", "nobody"], "nobody of that name"),
        (["role", "nobody", "admin"], "nobody of that name"),
        (["reset", "nobody"], "nobody of that name"),
    ],
)
def test_what_can_not_be_done_is_said_with_exit_status_1(config, words, says):
    done = radnode("users", *words, config=config)

    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize("words", [["add", "anna", "--role", "chief"], ["role", "anna", "chief"], ["add", "anna"]])
def test_a_role_that_there_is_not_is_wrong_usage(config, words):
    done = radnode("users", *words, config=config)

    assert done.returncode == 2
    assert "--role" in done.stderr if words == ["add", "anna"] else "integrator" in done.stderr
