"""The compose file: valid, and the worker's half holds neither keys nor names."""

from __future__ import annotations

import inspect
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from node.supervisor import Supervisor
from tests.conftest import ROOT, need
from tests.ports import free_port
from tests.rooms.test_destinations import Authority


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


def test_the_node_is_given_the_time_it_takes_to_drain(services: dict[str, dict]):
    drain_s = inspect.signature(Supervisor).parameters["drain_s"].default
    for half in ("gateway", "worker"):
        assert int(services[half]["stop_grace_period"].removesuffix("s")) > drain_s


def test_what_is_secret_does_not_go_to_who_builds_the_image():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[1:-1] for words in (ROOT / "Dockerfile").read_text().splitlines() if words.startswith("COPY ")]

    assert kept == {name for names in copied for name in names}


def test_the_image_is_healthy_when_the_node_speaks_https(tmp_path: Path):
    command = (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2].partition(" CMD ")[2].partition("\nENTRYPOINT")[0]
    port, cert_file, key_file = free_port(), *Authority(tmp_path).signs("radnode.hospital.example")
    check = command.replace(":8080/", f":{port}/").replace("python -c", f"{sys.executable} -c")

    assert subprocess.run(["sh", "-c", check], capture_output=True).returncode != 0
    with HTTPServer(("127.0.0.1", port), Alive) as server:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secret.load_cert_chain(cert_file, key_file)
        server.socket = secret.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert subprocess.run(["sh", "-c", check], capture_output=True).returncode == 0
        server.shutdown()


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


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
