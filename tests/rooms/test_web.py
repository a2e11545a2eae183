"""The doors over HTTP, with a real server on loopback and real clients."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
import uvicorn
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid
from sqlalchemy.exc import OperationalError

from node.audit import AuditEvent, Event, Outcome, Type
from node.destinations.stow import Stow, StowSettings
from node.domain import Channel, Origin
from node.errors import DeliveryFailed, DeliveryRefused, DiskFull, InstanceUnreadable, SopClassRefused
from node.identified.head import Head
from node.identified.intake import head_of
from node.identified.spool import spool
from node.ledger.tokens import Bearer, Role
from node.web.app import WebParts, create_app
from tests.contracts.test_every_destination import a_picture
from tests.ports import free_port

http = httpx.Client(timeout=60)  # one for all calls: making one costs more than a call
SECRET = "a secret between two"
STUDY = "754bfa35-a6ac6c78-0c3339e9-01bbf5b5-ea3ab921"
ROLES = {"t-admin": "admin", "t-integrator": "integrator", "t-radiologist": "radiologist", "t-auditor": "auditor"}
MAX = 4 << 20


@dataclass
class Taken:
    sop_class_uid: str
    sop_instance_uid: str
    study: str


def bearer_of(token: str) -> Bearer | None:
    """Tokens of these tests are called as they read."""
    return Bearer(name=token, roles=frozenset({Role(ROLES[token])})) if token in ROLES else None


def whose(file: BinaryIO) -> Head:
    return head_of(file)[2]


class House:
    """What assembly hands in, as far as the web room sees it."""

    def __init__(self, folder: Path) -> None:
        self.kept: dict[str, bytes] = {}
        self.origins: list[Origin] = []
        self.told: list[tuple[str, str]] = []
        self.trail: list[AuditEvent] = []
        self.room = True
        self.checks = {"vault": True, "ledger": True}
        self.refuses: dict[str, Exception] = {}
        self.hook_fails: Exception | None = None
        self.folder = folder
        self.spools: list[BinaryIO] = []

    def accept(self, file: BinaryIO, origin: Origin) -> Taken:
        content = file.read()
        try:
            ds = dcmread(BytesIO(content), stop_before_pixels=True)
            uid = str(ds.SOPInstanceUID)
        except Exception:
            raise InstanceUnreadable("not DICOM") from None
        if uid in self.refuses:
            raise self.refuses[uid]
        self.kept[uid] = content
        self.origins.append(origin)
        return Taken(str(ds.SOPClassUID), uid, f"clean-{ds.StudyInstanceUID}")

    def hook(self, peer: str, study: str) -> None:
        if self.hook_fails:
            raise self.hook_fails
        self.told.append((peer, study))

    def spool(self) -> BinaryIO:
        self.spools.append(spool(self.folder, in_memory=1 << 20))
        return self.spools[-1]

    def parts(self, **changes: Any) -> WebParts:
        given: dict[str, Any] = {
            "accept_instance": self.accept,
            "head": whose,
            "spool": self.spool,
            "hook": self.hook,
            "bearer": bearer_of,
            "record": self.trail.append,
            "hook_secret": SECRET,
            "peers": ("archive",),
            "room_left": lambda: self.room,
            "ready": lambda: self.checks,
            "max_upload_bytes": MAX,
        }
        return WebParts(**{**given, **changes})


class Server:
    """The app behind uvicorn, as in the node."""

    def __init__(self, parts: WebParts) -> None:
        self.port = free_port()
        config = uvicorn.Config(
            create_app(parts), host="127.0.0.1", port=self.port, access_log=False, log_config=None, server_header=False, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "tmp")


class Lobby:
    """Stands before the house of the test that runs, so that one server serves them all."""

    house: House

    def parts(self) -> WebParts:
        return WebParts(
            accept_instance=lambda file, origin: self.house.accept(file, origin),
            head=whose,
            spool=lambda: self.house.spool(),
            hook=lambda peer, study: self.house.hook(peer, study),
            bearer=bearer_of,
            record=lambda event: self.house.trail.append(event),
            hook_secret=SECRET,
            peers=("archive",),
            room_left=lambda: self.house.room,
            ready=lambda: self.house.checks,
            max_upload_bytes=MAX,
        )


@pytest.fixture(scope="module")
def lobby() -> Iterator[tuple[Lobby, Server]]:
    lobby = Lobby()
    server = Server(lobby.parts())
    yield lobby, server
    server.stop()


@pytest.fixture
def web(lobby: tuple[Lobby, Server], house: House) -> Server:
    """The server of this file, with this test's house behind it."""
    lobby[0].house = house
    return lobby[1]


@pytest.fixture
def fresh_web(house: House) -> Iterator[Server]:
    """A server that has counted nothing and raised no alarm yet."""
    server = Server(house.parts())
    yield server
    server.stop()


def tell(web: Server, body: Any, secret: str | None = SECRET) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}".strip().encode()} if secret is not None else {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(f"{web.url}/orthanc/stable-study", content=content, headers={"Content-Type": "application/json", **headers})


def store(web: Server, *parts: bytes, study: str = "", token: str = "t-integrator", **headers: str) -> httpx.Response:
    body = b"".join(b"--frontier\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--frontier--\r\n"
    return http.post(
        f"{web.url}/dicom-web/studies" + (f"/{study}" if study else ""),
        content=body,
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier',
            "Accept": "application/dicom+json",
            "Authorization": f"Bearer {token}",
            **headers,
        },
    )


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert len(body["detail"]) > 10
    return body


def uid_of(part10: bytes) -> str:
    return str(dcmread(BytesIO(part10), stop_before_pixels=True).SOPInstanceUID)


# --- who may come in ------------------------------------------------------------------------------------------------------------
def test_health_is_open_and_readiness_says_what_is_missing(web, house):
    assert http.get(f"{web.url}/healthz").json() == {"alive": True}
    assert [http.head(f"{web.url}{path}").status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert http.get(f"{web.url}/readyz").status_code == 200

    house.checks["vault"] = False
    answer = http.get(f"{web.url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "checks": {"vault": False, "ledger": True}}


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dC1hZG1pbjo="}, {"Authorization": ""}])
def test_every_other_door_is_closed_without_a_good_token(web, header):
    doors = [
        "/metrics",
        "/openapi.json",
        "/dicom-web/studies",
        "/dicom-web/studies/1.2.3",
        "/",
        "/any/thing",
        "/healthz/",
        "//healthz",
        "/docs",
    ]
    for method in ("GET", "POST"):
        for path in doors:
            answer = http.request(method, web.url + path, headers=header)

            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == 'Bearer realm="radnode"'
            assert "radnode tokens create" in problem(answer)["detail"]


def test_a_wrong_token_is_an_alarm_once_a_minute_not_a_thousand_times(fresh_web, house):
    for _ in range(20):
        http.get(f"{fresh_web.url}/metrics", headers={"Authorization": "Bearer wrong"})

    [event] = house.trail
    assert (event.event, event.type, event.outcome) == (Event.SECURITY_ALERT, Type.NODE_AUTHENTICATION, Outcome.SERIOUS_FAILURE)
    assert event.peer == "127.0.0.1"


@pytest.mark.parametrize(("token", "status"), [("t-integrator", 200), ("t-admin", 200), ("t-radiologist", 403), ("t-auditor", 403)])
def test_only_integrator_and_administrator_may_store(web, house, token, status):
    answer = store(web, a_picture(), token=token)

    assert answer.status_code == status
    assert bool(house.kept) == (status == 200)
    if status == 403:
        assert "integrator" in problem(answer)["detail"]


def test_answers_carry_security_headers_and_no_server_name(web):
    for answer in (http.get(f"{web.url}/healthz"), http.get(f"{web.url}/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_metrics_count_without_naming_anybody(fresh_web):
    study = generate_uid()
    store(fresh_web, a_picture(StudyInstanceUID=study), study=study)
    tell(fresh_web, {"orthanc": "archive", "study": STUDY})
    text = http.get(f"{fresh_web.url}/metrics", headers={"Authorization": "Bearer t-auditor"}).text

    assert 'radnode_http_requests_total{method="POST",route="/dicom-web/studies/{study}",status="200"} 1.0' in text
    assert 'radnode_stow_instances_total{outcome="stored"} 1.0' in text
    assert 'radnode_orthanc_hook_calls_total{outcome="taken"} 1.0' in text
    assert study not in text
    assert STUDY not in text


# --- the hook -------------------------------------------------------------------------------------------------------------------
def test_orthanc_is_answered_once_the_study_is_written_down(web, house):
    answer = tell(web, {"orthanc": "archive", "study": STUDY})

    assert answer.status_code == 202
    assert house.told == [("archive", STUDY)]


def test_a_wrong_hook_secret_tells_nothing_and_is_an_alarm(fresh_web, house):
    for secret in ("wrong", "", None, SECRET + "x", "t-admin"):
        answer = tell(fresh_web, {"orthanc": "archive", "study": STUDY}, secret)

        assert answer.status_code == 401
        assert "web.hook_secret" in problem(answer)["detail"]
    assert house.told == []
    assert [(event.event, event.what) for event in house.trail] == [(Event.SECURITY_ALERT, "HTTP: wrong hook secret")]


def test_the_secret_comes_before_the_body(web):
    assert tell(web, b"{", "wrong").status_code == 401


def test_without_a_secret_in_the_settings_the_hook_is_closed(house):
    server = Server(house.parts(hook_secret=""))
    try:
        assert tell(server, {"orthanc": "archive", "study": STUDY}, "").status_code == 403
        assert house.told == []
    finally:
        server.stop()


def test_a_secret_with_letters_beyond_ascii_is_the_same_on_both_sides(house):
    server = Server(house.parts(hook_secret="Schlüssel für zwei"))
    try:
        assert tell(server, {"orthanc": "archive", "study": STUDY}, "Schlüssel für zwei").status_code == 202
        assert tell(server, {"orthanc": "archive", "study": STUDY}, "Schlussel fur zwei").status_code == 401
    finally:
        server.stop()


def test_an_orthanc_that_the_settings_do_not_name_is_not_known(web, house):
    answer = tell(web, {"orthanc": "elsewhere", "study": STUDY})

    assert answer.status_code == 404
    assert "orthancs" in problem(answer)["detail"]
    assert house.told == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", {}, {"orthanc": "archive"}, {"orthanc": "archive", "study": "../x"}, {"orthanc": "archive", "study": STUDY, "more": 1}],
)  # fmt: skip
def test_a_malformed_call_is_said_without_repeating_it(web, house, body):
    answer = tell(web, body)

    assert answer.status_code == 422
    assert problem(answer)["errors"]
    assert "../x" not in answer.text
    assert house.told == []


def test_a_call_of_the_hook_is_read_no_further_than_a_call_needs(web, house):
    """Whatever length it says it has, or says none."""
    by_length = tell(web, b" " * (1 << 17))

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * (1 << 16)

    by_bytes = http.post(f"{web.url}/orthanc/stable-study", content=chunks(), headers={"Authorization": f"Bearer {SECRET}"})

    for answer in (by_length, by_bytes):
        assert answer.status_code == 413
        assert "64 kB" in problem(answer)["detail"]
    assert house.told == []


def test_a_hook_that_can_not_write_it_down_does_not_say_202(web, house, caplog):
    house.hook_fails = OperationalError("INSERT GRAY^ALICE", {}, Exception("disk I/O error"))

    answer = tell(web, {"orthanc": "archive", "study": STUDY})

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "GRAY" not in problem(answer)["detail"]
    assert "GRAY" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("node"))


# --- STOW-RS ----------------------------------------------------------------------------------------------------------------------
def test_instances_are_stored_whole_and_the_answer_names_them(web, house):
    pictures = [a_picture() for _ in range(3)]

    answer = store(web, *pictures)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert list(house.kept.values()) == pictures
    said = Dataset.from_json(answer.json())
    assert [item.ReferencedSOPInstanceUID for item in said.ReferencedSOPSequence] == [uid_of(picture) for picture in pictures]
    assert "FailedSOPSequence" not in said
    assert {(origin.channel, origin.peer) for origin in house.origins} == {(Channel.STOW, "127.0.0.1")}


def test_what_came_is_in_the_trail_study_by_study(web, house):
    study = generate_uid()
    bad = a_picture()
    house.refuses[uid_of(bad)] = InstanceUnreadable()
    store(web, a_picture(StudyInstanceUID=study), a_picture(StudyInstanceUID=study), bad)

    assert [(e.event, e.outcome, e.study, e.peer) for e in house.trail] == [
        (Event.INSTANCES_TRANSFERRED, Outcome.SUCCESS, f"clean-{study}", "127.0.0.1"),
        (Event.INSTANCES_TRANSFERRED, Outcome.MINOR_FAILURE, "", "127.0.0.1"),
    ]
    assert house.trail[0].facts["instances"] == "2"
    assert house.trail[1].facts["0xC000"] == "1"


def test_a_real_dicomweb_client_is_content(web, house):
    client = DICOMwebClient(f"{web.url}/dicom-web", headers={"Authorization": "Bearer t-integrator"})

    said = client.store_instances([dcmread(BytesIO(a_picture())) for _ in range(2)])

    assert len(said.ReferencedSOPSequence) == 2
    assert len(house.kept) == 2


def test_a_large_instance_comes_in_pieces_and_lies_nowhere_in_plain(web, house):
    large = a_picture(PixelData=bytes(3 << 20), PatientName="CANARY^ODD")

    assert store(web, large).status_code == 200

    assert house.kept[uid_of(large)] == large
    assert all(file.closed for file in house.spools)
    assert list(house.folder.iterdir()) == []


def test_of_two_studies_only_the_one_that_the_path_names_is_stored(web, house):
    study = generate_uid()
    right, wrong = a_picture(StudyInstanceUID=study), a_picture()

    answer = store(web, right, wrong, study=study)

    assert answer.status_code == 202
    said = Dataset.from_json(answer.json())
    assert said.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid_of(right)
    assert said.FailedSOPSequence[0].ReferencedSOPInstanceUID == uid_of(wrong)
    assert said.FailedSOPSequence[0].FailureReason == 0xA900
    assert list(house.kept) == [uid_of(right)]


@pytest.mark.parametrize(
    ("why", "reason"),
    [(InstanceUnreadable(), 0xC000), (SopClassRefused(), 0x0122), (DiskFull(), 0xA700), (ValueError("GRAY^ALICE"), 0x0110)],
)
def test_each_refusal_has_its_failure_reason_and_the_rest_is_stored(web, house, why, reason):
    good, bad = a_picture(), a_picture()
    house.refuses[uid_of(bad)] = why

    answer = store(web, bad, good)

    assert answer.status_code == 202
    said = Dataset.from_json(answer.json())
    assert [item.FailureReason for item in said.FailedSOPSequence] == [reason]
    assert list(house.kept) == [uid_of(good)]
    assert "GRAY" not in answer.text


def test_nothing_stored_is_a_conflict(web, house):
    answer = store(web, b"not DICOM at all", b"")

    assert answer.status_code == 409
    said = Dataset.from_json(answer.json())
    assert [item.FailureReason for item in said.OtherFailuresSequence] == [0xC000, 0xC000]
    assert house.kept == {}


def test_at_the_disk_watermark_it_says_later_before_the_body_is_read(web, house):
    house.room = False
    answer = store(web, a_picture())

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "free space" in problem(answer)["detail"]
    assert house.kept == {}


def test_a_disk_that_fills_while_all_of_it_comes_is_said_too(web, house):
    picture = a_picture()
    house.refuses[uid_of(picture)] = DiskFull()

    assert store(web, picture).status_code == 503


def test_a_body_that_is_too_big_is_refused_by_its_length_and_by_its_bytes(web):
    by_length = store(web, a_picture(PixelData=bytes(MAX)))

    def chunks() -> Iterator[bytes]:
        yield b"--frontier\r\nContent-Type: application/dicom\r\n\r\n"
        for _ in range(100):
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/related; boundary=frontier", "Authorization": "Bearer t-integrator"}
    by_bytes = http.post(f"{web.url}/dicom-web/studies", content=chunks(), headers=headers)

    for answer in (by_length, by_bytes):
        assert answer.status_code == 413
        assert "max_upload_mb" in problem(answer)["detail"]


@pytest.mark.parametrize(
    "kind",
    [
        "application/dicom",
        "multipart/form-data; boundary=frontier",
        "",
        'multipart/related; type="application/dicom+json"; boundary=frontier',
    ],
)
def test_another_media_type_is_not_supported(web, kind):
    assert store(web, a_picture(), **{"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary anywhere",
        b"--frontier--\r\n",
        b"--frontier\r\nContent-Type: application/dicom\r\n\r\nhalf",
        b"--other\r\n\r\n\r\n--other--",
    ],
)
def test_a_body_that_is_not_multipart_or_is_cut_is_a_bad_request(web, house, body):
    headers = {"Content-Type": "multipart/related; boundary=frontier", "Authorization": "Bearer t-integrator"}

    answer = http.post(f"{web.url}/dicom-web/studies", content=body, headers=headers)

    assert answer.status_code == 400
    problem(answer)
    assert house.kept == {}
    assert all(file.closed for file in house.spools)


def test_a_client_that_wants_xml_is_told_what_there_is(web):
    assert store(web, a_picture(), Accept="application/dicom+xml").status_code == 406


def test_a_data_set_that_inflates_without_end_takes_little_memory(web, house):
    """Zeros deflate a thousandfold: what lies behind the three UIDs stays as it is until the process that takes images apart."""
    ds = dcmread(BytesIO(a_picture()))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds["PixelData"].VR, ds.PixelData = "OB", bytes(256 << 20)
    bomb = BytesIO()
    ds.save_as(bomb, enforce_file_format=True)
    house.accept = lambda _file, _origin: (_ for _ in ()).throw(InstanceUnreadable("its deflated bytes have no end"))
    tracemalloc.start()

    answer = store(web, bomb.getvalue())

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 409
    assert Dataset.from_json(answer.json()).FailedSOPSequence[0].ReferencedSOPInstanceUID == str(ds.SOPInstanceUID)
    assert peak < 128 << 20


def test_a_boundary_inside_the_pixels_is_no_boundary(web, house):
    tricky = a_picture(PixelData=(b"--frontier\r\n\r\n--frontie" * 10)[:64])

    assert store(web, tricky).status_code == 200
    assert house.kept[uid_of(tricky)] == tricky


def test_many_senders_at_once_lose_nothing(web, house):
    pictures = [[a_picture() for _ in range(5)] for _ in range(8)]
    answers: list[int] = []
    threads = [threading.Thread(target=lambda some=some: answers.append(store(web, *some).status_code)) for some in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 8
    assert len(house.kept) == 40


# --- the STOW destination against the STOW door ---------------------------------------------------------------------------------
def to_the_door(web: Server, token: str = "t-integrator") -> Stow:
    return Stow("archive", StowSettings.model_validate({"url": f"{web.url}/dicom-web", "token": token, "confirm": False}))


def test_the_destination_sends_its_token_and_is_stored(web, house):
    assert to_the_door(web).send(a_picture()) == "STOW-RS stored"
    assert len(house.kept) == 1


@pytest.mark.parametrize(
    ("why", "raised", "words"),
    [
        (InstanceUnreadable(), DeliveryRefused, "0xC000"),
        (SopClassRefused(), DeliveryRefused, "SOP class not supported"),
        (DiskFull(), DeliveryFailed, "503"),
        (ValueError(), DeliveryFailed, "0x0110"),
    ],
)
def test_the_destination_reports_the_failure_reason(web, house, why, raised, words):
    picture = a_picture()
    house.refuses[uid_of(picture)] = why

    with pytest.raises(raised, match=words):
        to_the_door(web).send(picture)


def test_a_wrong_token_of_the_destination_can_be_corrected_so_it_is_tried_again(web):
    with pytest.raises(DeliveryFailed, match="401"):
        to_the_door(web, "wrong").send(a_picture())
