"""The node's own HTTPS: what it says travels sealed, old TLS is refused, and files that don't fit stop the start."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config import Settings
from node.assembly import House
from node.commands.web_parts import web_server
from node.errors import SettingsInvalid
from node.ledger.tokens import Role
from node.web.app import create_app
from tests.ports import free_port
from tests.rooms.api_site import doors
from tests.rooms.test_destinations import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def settings(tmp_path: Path, cert: str, key: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", web={"port": free_port(), "tls_cert_file": cert, "tls_key_file": key}, intake={"min_free_mb": 0}
    )


@pytest.fixture
def address(tmp_path: Path, authority: Authority) -> Iterator[str]:
    home = House(settings(tmp_path, *authority.signs("node")))
    home.check()
    given = home.reception.add("dr.reader", Role.RADIOLOGIST, who="os:test")
    server = web_server(home, create_app(doors(home)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"https://127.0.0.1:{home.settings.web.port} {given}"
    server.should_exit = True
    thread.join(10)
    home.close()


def test_people_sign_in_over_https_with_a_cookie_for_https_only(address: str, authority: Authority):
    url, given = address.split()
    with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=authority.file)) as web:
        assert web.get("/healthz").status_code == 200
        said = web.post("/login", data={"name": "dr.reader", "password": given}, headers={"Origin": url})

    cookie = said.headers["set-cookie"]
    assert cookie.startswith("__Host-radnode=")
    assert "Secure" in cookie


def test_tls_1_1_is_refused(address: str, authority: Authority):
    old = ssl.create_default_context(cafile=authority.file)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address.split()[0]}/healthz", verify=old)


def test_a_key_of_another_certificate_stops_the_start(tmp_path: Path, authority: Authority):
    (cert, _), (_, key) = authority.signs("node"), authority.signs("other")
    with pytest.raises(SettingsInvalid, match="tls_cert_file"):
        House(settings(tmp_path, cert, key)).check()


def test_a_certificate_without_a_key_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="belong together"):
        Settings(data_dir=tmp_path, web={"tls_cert_file": "node.pem"})
