"""Settings: who wins, and what a mistake says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import config
from node.errors import SettingsInvalid


def test_the_environment_beats_the_secret_file_which_beats_the_yaml(tmp_path: Path, monkeypatch):
    file = tmp_path / "radnode.yaml"
    file.write_text("scp: {port: 1001, ae_title: YAML}\nweb: {hook_secret: from-yaml}\nintake: {settle_after_s: 7}\n")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "radnode_web__hook_secret").write_text("from-file")
    (secrets / "radnode_scp__port").write_text("1002")
    monkeypatch.setenv("RADNODE_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("RADNODE_SCP__PORT", "1003")

    settings = config.load(file)

    assert settings.scp.port == 1003
    assert settings.scp.ae_title == "YAML"
    assert settings.intake.settle_after_s == 7
    assert settings.web.hook_secret.get_secret_value() == "from-file"


def test_an_argument_beats_everything(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("RADNODE_DATA_DIR", "/nowhere")

    assert config.load(data_dir=tmp_path).data_dir == tmp_path


@pytest.mark.parametrize(
    ("yaml", "named", "known"),
    [
        ("scp: {ae_titel: X}", "scp.ae_titel", "ae_title"),
        ("orthancs: {main: {url: http://x, pasword: S3CRET}}", "orthancs.main.pasword", "password"),
        ("scp: {callers: [{ae: CT01}]}", "scp.callers.0.ae", "addresses"),
        ("dat_dir: /x", "dat_dir", "data_dir"),
    ],
)
def test_a_mistyped_key_stops_the_start_and_names_the_known_ones(tmp_path: Path, yaml: str, named: str, known: str):
    file = tmp_path / "radnode.yaml"
    file.write_text(yaml)

    with pytest.raises(SettingsInvalid) as why:
        config.load(file)

    assert named in str(why.value)
    assert known in str(why.value)
    assert "S3CRET" not in str(why.value)


@pytest.mark.parametrize("address", ["", "radnode.hospital.example", "ftp://radnode"])
def test_links_in_reports_need_an_address_to_lead_to(tmp_path: Path, address: str):
    file = tmp_path / "radnode.yaml"
    file.write_text(f"web: {{reading_links: report, address: '{address}'}}")

    with pytest.raises(SettingsInvalid, match=r"set web\.address"):
        config.load(file)

    file.write_text("web: {reading_links: report, address: 'https://radnode.hospital.example'}")
    assert config.load(file).web.reading_links == "report"
    assert config.Settings().web.reading_links == "off"


@pytest.mark.parametrize("variable", ["RADNODE_SCP__PROT", "RADNODE_DATADIR"])
def test_a_mistyped_environment_variable_stops_the_start(monkeypatch, variable: str):
    monkeypatch.setenv(variable, "1")

    with pytest.raises(SettingsInvalid, match="not a setting; known"):
        config.load()


def test_a_wrong_value_is_named_but_not_repeated(monkeypatch):
    monkeypatch.setenv("RADNODE_SCP__PORT", "SECRETVALUE")

    with pytest.raises(SettingsInvalid) as why:
        config.load()

    assert "scp.port" in str(why.value)
    assert "SECRETVALUE" not in str(why.value)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RADNODE_SCP__CALLERS", "SECRETVALUE", "scp: a list or a table .* JSON"),
        ("RADNODE_DESTINATIONS", "{SECRETVALUE", "destinations: a list or a table .* JSON"),
        ("RADNODE_DATABASE__URL", "mysql://SECRETVALUE@host/name", "database.url: .*postgresql"),
        ("RADNODE_DATABASE__IDENTIFIED_URL", "SECRETVALUE", "database.identified_url: .*postgresql"),
        ("RADNODE_DATABASE__URL", "postgresql+psycopg2://radnode:SECRETVALUE@host/name", "database.url: .*postgresql"),
        ("RADNODE_DATABASE__URL", "postgresql://radnode:a@SECRETVALUE@host/name", "database.url: .* password is written as %40"),
        ("RADNODE_DATABASE__URL", "postgresql://radnode:SECRETVALUE@host:port/name", "database.url: .*a port, which is a number"),
        (
            "RADNODE_SCP__CALLERS",
            '[{"ae_title": "CT01", "addresses": ["10.20.1.5", "SECRETVALUE"]}]',
            "addresses: .*number 2 is no network",
        ),
        ("RADNODE_LOG_LEVEL", "SECRETVALUE", "log_level: .*INFO"),
        ("RADNODE_RETENTION__KEEP_DAYS", "-1", "retention.keep_days"),  # not "for ever": all would be purged at once
        ("RADNODE_WORKERS__JOB_TIMEOUT_S", "0", "workers.job_timeout_s"),
        ("RADNODE_ORTHANCS", '{"main": {"url": "http://x", "catch_up_every_s": 0}}', "orthancs.main.catch_up_every_s"),
        ("RADNODE_SCP__PORT", "65536", "scp.port"),
        ("RADNODE_WEB__PORT", "-1", "web.port"),
    ],
)
def test_a_value_that_can_not_be_used_stops_the_start(monkeypatch, variable: str, value: str, says: str):
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsInvalid, match=says) as why:
        config.load()

    assert "SECRETVALUE" not in str(why.value)


def test_a_mistyped_secret_file_stops_the_start(tmp_path: Path, monkeypatch):
    """Passed over, it would leave the vault with a key of its own making."""
    monkeypatch.setenv("RADNODE_SECRETS_DIR", str(tmp_path))
    (tmp_path / "radnode_vualt__master_key").write_text("SECRETVALUE")

    with pytest.raises(SettingsInvalid, match=r"radnode_vualt__master_key is not of a setting; known: .*radnode_vault") as why:
        config.load()

    assert "SECRETVALUE" not in str(why.value)


def test_a_folder_of_secrets_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RADNODE_SECRETS_DIR", str(tmp_path / "absent"))

    with pytest.raises(SettingsInvalid, match="RADNODE_SECRETS_DIR: there is no folder"):
        config.load()


@pytest.mark.parametrize("kind", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_database_is_reached_by_the_driver_that_is_there(monkeypatch, kind: str):
    monkeypatch.setenv("RADNODE_DATABASE__URL", f"{kind}://radnode:p%40ss@database/ledger")

    assert config.load().database.url == "postgresql+psycopg://radnode:p%40ss@database/ledger"


def test_a_secret_does_not_print_itself(monkeypatch):
    monkeypatch.setenv("RADNODE_WEB__HOOK_SECRET", "hush-hush")

    assert "hush-hush" not in repr(config.load())


def test_a_file_that_is_not_yaml_names_its_line(tmp_path: Path):
    file = tmp_path / "radnode.yaml"
    file.write_text("scp:\n  port: [1\nweb: }")

    with pytest.raises(SettingsInvalid, match="line 3"):
        config.load(file)


def test_every_setting_is_named_where_a_person_would_look():
    home = Path(config.__file__).parent
    texts = [*(home / "docs").rglob("*.md"), home / "radnode.example.yaml"]
    words = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", " ".join(path.read_text() for path in texts).lower()))

    assert {key for key in keys_of(config.Settings) if key.rpartition(".")[2] not in words} == set()


def keys_of(kind: Any, at: str = "") -> Iterator[str]:
    """Every key of the settings, with the rooms that it stands in."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield f"{at}{name}"
            yield from keys_of(field.annotation, f"{at}{name}.")
    for inner in get_args(kind):
        yield from keys_of(inner, at)


def test_the_example_settings_are_valid():
    example = Path(config.__file__).parent / "radnode.example.yaml"

    settings = config.load(example)

    assert [caller.ae_title for caller in settings.scp.callers] == ["CT01", "ORTHANC"]


def test_nobody_may_send_by_default():
    assert config.load().scp.callers == ()
    assert config.load().scp.host == "127.0.0.1"
    assert config.load().web.host == "127.0.0.1"
