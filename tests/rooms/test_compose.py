"""The compose file: valid, and the worker's half holds neither keys nor names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, need


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    done = subprocess.run(
        [need("docker-compose", "docker-compose"), "-f", str(ROOT / "docker-compose.yml"), "config"],
        env={**os.environ, "HOOK_SECRET": "one", "ORTHANC_PASSWORD": "two"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def places(service: dict) -> set[str]:
    return {mount.split(":")[1] if isinstance(mount, str) else mount["target"] for mount in service["volumes"]}


def test_the_worker_sees_the_clean_volume_only(services: dict[str, dict]):
    assert {place for place in places(services["worker"]) if "radnode" in Path(place).parts} == {
        "/var/lib/radnode/clean",
        "/etc/radnode/worker.yaml",
    }
    assert [secret["source"] for secret in services["worker"]["secrets"]] == ["database_url"]
    assert set(services["worker"]["networks"]) == {"clean"}


def test_the_gateway_has_the_vault_and_the_key(services: dict[str, dict]):
    assert "/var/lib/radnode/identified" in places(services["gateway"])
    assert "master_key" in [secret["source"] for secret in services["gateway"]["secrets"]]


def test_without_its_secrets_the_stack_does_not_start():
    bare = {name: value for name, value in os.environ.items() if name not in ("HOOK_SECRET", "ORTHANC_PASSWORD")}
    done = subprocess.run(
        [need("docker-compose", "docker-compose"), "-f", str(ROOT / "docker-compose.yml"), "config"],
        env=bare,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "HOOK_SECRET" in done.stderr or "ORTHANC_PASSWORD" in done.stderr
