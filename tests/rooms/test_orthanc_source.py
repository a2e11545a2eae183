"""Studies come from a real Orthanc: each instance once, nothing lost when it fails in the middle, our own results never."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from node.audit import AuditEvent, Event, Outcome
from node.domain import Channel, Origin
from node.errors import DiskFull, InstanceUnreadable, SourceFailed
from node.identified.orthanc_source import OrthancSource
from node.identified.spool import spool
from node.identified.tables import Base, ChangeRow, FetchRow
from tests.conftest import need
from tests.contracts.test_every_destination import a_picture
from tests.orthanc_server import ROOT, OrthancServer
from tests.ports import free_port
from tests.rooms.test_destinations import Authority


class Vault:
    """Stands for intake and vault: keeps whole files by SOP Instance UID, and counts how often each came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.came: list[str] = []
        self.origins: list[Origin] = []
        self.results: set[str] = set()
        self.expected: list[tuple[str, int]] = []
        self.refuses: Exception | None = None

    def accept(self, file: BinaryIO, origin: Origin) -> SimpleNamespace:
        content = file.read()
        header = dcmread(BytesIO(content), stop_before_pixels=True)
        uid = str(header.SOPInstanceUID)
        if self.refuses:
            raise self.refuses
        self.came.append(uid)
        self.files[uid] = content
        self.origins.append(origin)
        return SimpleNamespace(study=f"clean-{header.StudyInstanceUID}")

    def known(self, uids: list[str]) -> set[str]:
        return {uid for uid in uids if uid in self.files}

    def ours(self, uids: list[str]) -> set[str]:
        return {uid for uid in uids if uid in self.results}

    def expect(self, study: str, count: int) -> None:
        self.expected.append((study, count))


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Proxy:
    """Stands between node and Orthanc. `fault(path)` may say 500, "cut" (half an answer) or None."""

    def __init__(self, behind: str) -> None:
        self.fault: Callable[[str], Any] = lambda path: None
        self.asked: list[str] = []
        proxy = self
        http = httpx.Client(timeout=60)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                what = proxy.fault(self.path)
                if isinstance(what, int):
                    self.send_error(what)
                    return
                answer = http.get(behind + self.path)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("content-type", ""))
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                if what == "cut":
                    self.wfile.write(answer.content[: len(answer.content) // 2])
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(answer.content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def speaks_tls(self, cert: str, key: str) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trail() -> list[AuditEvent]:
    return []


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'identified.sqlite'}", connect_args={"timeout": 30})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def source_at(
    vault: Vault, clock: Clock, engine: Engine, trail: list[AuditEvent], tmp_path: Path
) -> Iterator[Callable[..., OrthancSource]]:
    opened: list[OrthancSource] = []

    def source_at(url: str, **changes: Any) -> OrthancSource:
        opened.append(
            OrthancSource(
                "orthanc",
                url,
                "",
                "",
                **{
                    "accept": vault.accept,
                    "known": vault.known,
                    "ours": vault.ours,
                    "expect": vault.expect,
                    "record": trail.append,
                    "engine": engine,
                    "spool": lambda: spool(tmp_path / "tmp"),
                    "clock": clock,
                    "timeout_s": 10,
                    **changes,
                },
            )
        )
        return opened[-1]

    yield source_at
    for source in opened:
        source.close()


@pytest.fixture
def source(source_at: Callable[..., OrthancSource], orthanc: OrthancServer) -> OrthancSource:
    """A source that has met its Orthanc: the feed before this test is behind it."""
    source = source_at(orthanc.url)
    source.catch_up()
    return source


@pytest.fixture
def proxy(orthanc: OrthancServer) -> Iterator[Proxy]:
    proxy = Proxy(orthanc.url)
    yield proxy
    proxy.stop()


def a_study_in(orthanc: OrthancServer, instances: int = 3, **changes: object) -> tuple[str, list[str]]:
    """Uploads a study; returns Orthanc's id and the SOP Instance UIDs."""
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), **changes}
    uids, answer = [], {}
    for number in range(1, instances + 1):
        part10 = a_picture(InstanceNumber=number, **common)
        uids.append(str(dcmread(BytesIO(part10)).SOPInstanceUID))
        answer = orthanc.upload(part10)
    return answer["ParentStudy"], uids


def until_stable(orthanc: OrthancServer, *studies: str) -> None:
    """Waits until Orthanc's feed says so of each study."""
    for _ in range(100):
        feed = orthanc.get("/changes?limit=10000")["Changes"]
        if set(studies) <= {change["ID"] for change in feed if change["ChangeType"] == "StableStudy"}:
            return
        time.sleep(0.2)
    raise TimeoutError("not stable")


# --- told by the hook ---------------------------------------------------------------------------------------------------------
def test_a_study_that_orthanc_tells_of_is_fetched_as_it_is(source, orthanc, vault, trail):
    study, uids = a_study_in(orthanc)

    source.study_is_stable(study)
    assert source.fetch_due() == 3

    assert sorted(vault.came) == sorted(uids)
    [first, *_] = orthanc.get(f"/studies/{study}/instances")
    assert vault.files[first["MainDicomTags"]["SOPInstanceUID"]] == orthanc.http.get(f"{orthanc.url}/instances/{first['ID']}/file").content
    assert {(o.channel, o.peer) for o in vault.origins} == {(Channel.ORTHANC, "orthanc")}
    assert vault.expected == [(orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"], 3)]
    assert source.waiting() == 0
    [event] = trail
    assert (event.event, event.outcome, event.peer, event.facts["instances"]) == (
        Event.INSTANCES_TRANSFERRED,
        Outcome.SUCCESS,
        "orthanc",
        "3",
    )
    assert event.study == f"clean-{vault.expected[0][0]}"


def test_told_twice_it_is_fetched_once(source, orthanc, vault):
    study, uids = a_study_in(orthanc)
    for _ in range(3):
        source.study_is_stable(study)
    source.fetch_due()
    source.study_is_stable(study)
    source.fetch_due()

    assert sorted(vault.came) == sorted(uids)


def test_what_was_told_survives_a_restart(source_at, orthanc, vault):
    study, _ = a_study_in(orthanc)
    source_at(orthanc.url).study_is_stable(study)

    assert source_at(orthanc.url).fetch_due() == 3


def test_told_again_while_fetching_it_looks_once_more(source_at, orthanc, vault):
    study, _ = a_study_in(orthanc)
    late: list[str] = []

    def accept(file: BinaryIO, origin: Origin) -> SimpleNamespace:
        accepted = vault.accept(file, origin)
        if not late:
            original = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
            late.extend(a_study_in(orthanc, 1, StudyInstanceUID=original)[1])
            source.study_is_stable(study)
        return accepted

    source = source_at(orthanc.url, accept=accept)
    source.study_is_stable(study)

    source.fetch_due()
    assert source.waiting() == 1
    source.fetch_due()

    assert late[0] in vault.came
    assert len(vault.came) == 4
    assert source.waiting() == 0


def test_the_name_of_who_sent_it_to_orthanc_is_kept_for_the_rules(source, orthanc, vault, tmp_path):
    from pynetdicom import AE

    ds = dcmread(BytesIO(a_picture()))
    ae = AE("CT01")
    ae.add_requested_context(ds.SOPClassUID)
    association = ae.associate("127.0.0.1", orthanc.dicom_port, ae_title="ORTHANC")
    assert association.send_c_store(ds).Status == 0x0000
    association.release()
    [study] = orthanc.get("/studies")

    source.fetch_study(study)

    [origin] = vault.origins
    assert origin.calling_ae == "CT01"
    assert origin.called_ae == "ORTHANC"


@pytest.mark.parametrize(
    "odd", ["", "../../instances", "x" * 44, "754bfa35-a6ac6c78-0c3339e9-01bbf5b5", "754BFA35-a6ac6c78-0c3339e9-01bbf5b5-ea3ab921"]
)
def test_what_is_not_an_orthanc_id_is_not_written_down(source, odd):
    with pytest.raises(ValueError):
        source.study_is_stable(odd)
    assert source.waiting() == 0


def test_a_study_deleted_in_orthanc_meanwhile_is_dropped(source, orthanc):
    study, _ = a_study_in(orthanc)
    source.study_is_stable(study)
    orthanc.empty()

    assert source.fetch_due() == 0
    assert source.waiting() == 0


# --- our own results ----------------------------------------------------------------------------------------------------------
def test_our_results_in_the_study_are_neither_fetched_nor_counted(source, orthanc, vault):
    study, uids = a_study_in(orthanc)
    original = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    _, ours = a_study_in(orthanc, 2, StudyInstanceUID=original)
    vault.results = set(ours)

    assert source.fetch_study(study) == 3
    assert vault.expected == [(original, 3)]

    vault.expected.clear()
    assert source.fetch_study(study) == 0
    assert vault.expected == []
    assert sorted(vault.came) == sorted(uids)


def test_an_image_that_came_late_is_fetched_alone(source, orthanc, vault):
    study, _ = a_study_in(orthanc)
    source.fetch_study(study)
    original = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    a_study_in(orthanc, 1, StudyInstanceUID=original)

    assert source.fetch_study(study) == 1
    assert vault.expected[-1] == (original, 4)


# --- the change feed ------------------------------------------------------------------------------------------------------------
def test_fifty_studies_that_became_stable_while_the_node_was_down_are_fetched_once_each(source, source_at, orthanc, vault):
    sent = [a_study_in(orthanc, 2) for _ in range(50)]
    until_stable(orthanc, *(study for study, _ in sent))

    restarted = source_at(orthanc.url)
    assert restarted.catch_up() == 50
    for study, _ in sent[:10]:
        restarted.study_is_stable(study)  # the hook tells of some of them too
    assert restarted.fetch_due() == 100
    assert restarted.catch_up() == 0
    assert restarted.fetch_due() == 0

    assert sorted(vault.came) == sorted(uid for _, uids in sent for uid in uids)


def test_the_feed_is_read_in_pages(source, orthanc, monkeypatch):
    monkeypatch.setattr("node.identified.orthanc_source._PAGE", 3)
    studies = [a_study_in(orthanc, 2)[0] for _ in range(4)]
    until_stable(orthanc, *studies)

    assert source.catch_up() == 4
    assert source.waiting() == 4


def test_an_archive_of_years_is_not_analysed_at_the_first_meeting(source_at, orthanc, vault):
    study, _ = a_study_in(orthanc)
    until_stable(orthanc, study)
    source = source_at(orthanc.url)

    assert source.catch_up() == 0
    assert source.waiting() == 0


def test_it_is_when_asked_for(source_at, orthanc):
    study, _ = a_study_in(orthanc)
    until_stable(orthanc, study)

    assert source_at(orthanc.url).catch_up(from_start=True) >= 1


def test_a_feed_that_starts_anew_is_read_from_its_start(source, engine, orthanc):
    study, _ = a_study_in(orthanc)
    until_stable(orthanc, study)
    with Session(engine) as session, session.begin():
        session.merge(ChangeRow(orthanc="orthanc", last=10**9))

    assert source.catch_up() >= 1
    assert study in set(Session(engine).scalars(select(FetchRow.study)))


def test_a_study_of_which_orthanc_never_says_that_it_is_stable_is_looked_at_after_a_while(source_at, tmp_path, vault, clock):
    """Orthanc forgets what was arriving when it is stopped."""
    server = OrthancServer(need("Orthanc", "orthanc"), tmp_path / "orthanc", StableAge=600)
    server.start()
    try:
        source = source_at(server.url, unsaid_after_s=900)
        source.catch_up()
        a_study_in(server, 2)
        assert source.catch_up() == 0
        clock.now += timedelta(seconds=901)
        assert source.fetch_due() == 0  # it may still arrive
        server.stop()
        server.start()

        assert source.catch_up() == 0
        assert source.fetch_due() == 0
        clock.now += timedelta(seconds=901)
        assert source.fetch_due() == 2
        assert source.waiting() == 0
    finally:
        server.stop()


def test_an_orthanc_with_a_certificate_of_the_house_is_asked_with_its_authority(source_at, orthanc, proxy, tmp_path):
    study, _ = a_study_in(orthanc)
    proxy.speaks_tls(*Authority(tmp_path).signs("orthanc"))

    with pytest.raises(SourceFailed):
        source_at(proxy.url, tries=1).fetch_study(study)
    assert source_at(proxy.url, tries=1, ca_file=str(tmp_path / "authority.pem")).fetch_study(study) == 3


# --- when it fails --------------------------------------------------------------------------------------------------------------
def test_an_orthanc_that_answers_500_for_a_moment_is_asked_again_at_once(source_at, orthanc, proxy, vault):
    study, _ = a_study_in(orthanc)
    left = [500, 500]
    proxy.fault = lambda path: left.pop() if left and path.endswith("/file") else None

    assert source_at(proxy.url).fetch_study(study) == 3
    assert len(vault.came) == 3


def test_an_orthanc_that_answers_500_for_longer_is_asked_later_and_nothing_is_fetched_twice(source_at, orthanc, proxy, vault, clock, trail):
    study, uids = a_study_in(orthanc, 5)
    source = source_at(proxy.url)
    served: list[str] = []

    def fault(path: str) -> int | None:
        if path.endswith("/file"):
            if len(set(served)) >= 2 and path not in served:
                return 500
            served.append(path)
        return None

    proxy.fault = fault
    source.study_is_stable(study)
    assert source.fetch_due() == 0
    assert len(vault.came) == 2
    assert source.waiting() == 1
    assert trail[-1].outcome is Outcome.MINOR_FAILURE
    assert trail[-1].facts["left"] == "3"
    with Session(source._engine) as session:
        assert session.scalars(select(FetchRow.reason)).one() == "HTTP 500"

    proxy.fault = lambda path: None
    assert source.fetch_due() == 0  # not yet due
    clock.now += timedelta(seconds=3)
    assert source.fetch_due() == 3
    assert sorted(vault.came) == sorted(uids)


def test_one_instance_that_orthanc_can_not_give_does_not_keep_the_others_back(source_at, orthanc, proxy, vault, clock, trail):
    study, uids = a_study_in(orthanc, 5)
    source = source_at(proxy.url)
    broken = orthanc.get(f"/studies/{study}/instances")
    broken = next(one["ID"] for one in broken if one["MainDicomTags"]["SOPInstanceUID"] == sorted(uids)[1])
    proxy.fault = lambda path: 500 if path == f"/instances/{broken}/file" else None

    source.study_is_stable(study)
    source.fetch_due()
    assert sorted(vault.came) == sorted(set(uids) - {sorted(uids)[1]})
    assert source.waiting() == 1
    assert (trail[-1].outcome, trail[-1].facts["left"]) == (Outcome.MINOR_FAILURE, "1")

    proxy.fault = lambda path: None
    clock.now += timedelta(seconds=3)
    assert source.fetch_due() == 1
    assert source.waiting() == 0


def test_an_orthanc_that_stops_in_the_middle_of_an_instance_gives_no_half_instance(source_at, orthanc, proxy, vault, clock):
    study, uids = a_study_in(orthanc)
    proxy.fault = lambda path: "cut" if path.endswith("/file") else None
    source = source_at(proxy.url)

    source.study_is_stable(study)
    source.fetch_due()
    assert vault.came == []

    proxy.fault = lambda path: None
    clock.now += timedelta(seconds=3)
    assert source.fetch_due() == 3
    assert sorted(vault.came) == sorted(uids)


def test_an_orthanc_that_is_gone_says_so_and_keeps_the_study_waiting(source_at, clock):
    source = source_at(f"http://127.0.0.1:{free_port()}", tries=1)
    with pytest.raises(SourceFailed) as failed:
        source.catch_up()
    assert "no answer" in str(failed.value)

    source.study_is_stable("754bfa35-a6ac6c78-0c3339e9-01bbf5b5-ea3ab921")
    assert source.fetch_due() == 0
    assert source.waiting() == 1


def test_a_place_in_the_feed_is_not_moved_when_the_feed_breaks(source_at, orthanc, proxy, engine):
    source = source_at(proxy.url, tries=1)
    source.catch_up()
    with Session(engine) as session:
        before = session.get_one(ChangeRow, "orthanc").last
    study, _ = a_study_in(orthanc)
    until_stable(orthanc, study)
    proxy.fault = lambda path: 500 if "since" in path else None

    with pytest.raises(SourceFailed):
        source.catch_up()

    with Session(engine) as session:
        assert session.get_one(ChangeRow, "orthanc").last == before
    proxy.fault = lambda path: None
    assert source.catch_up() == 1


def test_a_full_disk_stops_the_fetch_and_it_goes_on_when_there_is_room(source, orthanc, vault, clock):
    study, _ = a_study_in(orthanc)
    vault.refuses = DiskFull()
    source.study_is_stable(study)
    assert source.fetch_due() == 0
    assert source.waiting() == 1

    vault.refuses = None
    clock.now += timedelta(seconds=3)
    assert source.fetch_due() == 3


def test_an_instance_that_intake_refuses_does_not_stop_the_rest(source_at, orthanc, vault, trail):
    study, uids = a_study_in(orthanc)

    def accept(file: BinaryIO, origin: Origin) -> SimpleNamespace:
        if dcmread(file, stop_before_pixels=True).SOPInstanceUID == min(uids):
            raise InstanceUnreadable
        file.seek(0)
        return vault.accept(file, origin)

    source = source_at(orthanc.url, accept=accept)
    source.study_is_stable(study)

    assert source.fetch_due() == 2
    assert source.waiting() == 0
    assert (trail[-1].outcome, trail[-1].facts["refused"]) == (Outcome.MINOR_FAILURE, "1")


def test_a_study_that_breaks_our_own_code_does_not_keep_the_others_waiting(source_at, orthanc, vault):
    odd, uids = a_study_in(orthanc)
    good, _ = a_study_in(orthanc)

    def known(some: list[str]) -> set[str]:
        if set(some) & set(uids):
            raise RuntimeError("GRAY^ALICE")
        return vault.known(some)

    source = source_at(orthanc.url, known=known)
    source.study_is_stable(odd)
    source.study_is_stable(good)

    assert source.fetch_due() == 3
    with Session(source._engine) as session:
        [(study, reason)] = session.execute(select(FetchRow.study, FetchRow.reason)).all()
    assert study == odd
    assert reason.startswith("RuntimeError at ")
    assert "GRAY" not in reason


# --- the script in a real Orthanc -------------------------------------------------------------------------------------------
THEIRS = """
function OnStableStudy(studyId, tags, metadata, origin)
  print('the house heard of ' .. studyId)
  error('and stumbled')
end
"""


def test_the_script_tells_the_node_with_the_secret_and_orthancs_own_id_only(tmp_path):
    """Also where the house has a script for stable studies already: all scripts of an Orthanc share their functions."""
    theirs = tmp_path / "theirs.lua"
    theirs.write_text(THEIRS)
    scripts = [str(theirs), str(ROOT / "orthanc" / "stable-study.lua")]
    told: list[tuple[str, str | None, bytes]] = []

    class Node(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, self.headers["Authorization"], body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    node = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    threading.Thread(target=node.serve_forever, daemon=True).start()
    server = OrthancServer(need("Orthanc", "orthanc"), tmp_path / "orthanc", node_port=node.server_port, LuaScripts=scripts)
    server.start()
    try:
        study, _ = a_study_in(server)
        until_stable(server, study)
        for _ in range(50):
            if told:
                break
            time.sleep(0.1)
    finally:
        server.stop()
        node.shutdown()

    assert f"the house heard of {study}" in server.log
    assert told == [
        ("/orthanc/stable-study", f"Bearer {server.secret}", b'{"orthanc":"orthanc","study":"' + study.encode() + b'"}'),
    ]


def test_with_the_node_down_the_script_logs_a_line_and_orthanc_goes_on(orthanc):
    study, _ = a_study_in(orthanc)
    until_stable(orthanc, study)
    time.sleep(0.5)

    assert f"was not told of study {study}" in orthanc.log
    began = time.monotonic()
    a_study_in(orthanc, 1)
    assert time.monotonic() - began < 3


# --- the spool ------------------------------------------------------------------------------------------------------------------
def test_a_large_instance_on_its_way_in_can_not_be_read_on_the_disk(tmp_path):
    content = bytes(range(256)) * 5000
    with spool(tmp_path / "tmp", in_memory=1000) as file:
        for start in range(0, len(content), 777):
            file.write(content[start : start + 777])
        assert list((tmp_path / "tmp").iterdir()) == []
        on_disk = Path(f"/proc/self/fd/{file._file}").read_bytes()
        assert len(on_disk) == len(content)
        assert content[:64] not in on_disk
        file.seek(0)
        assert file.read() == content
        file.seek(12345)
        assert file.read(1000) == content[12345:13345]
        file.seek(-10, 2)
        assert file.read() == content[-10:]


def test_a_small_instance_never_touches_the_disk(tmp_path):
    with spool(tmp_path / "tmp") as file:
        file.write(b"small")
        file.seek(0)
        assert (file.read(), file._file) == (b"small", -1)
