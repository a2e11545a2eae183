"""The outbox: nothing lost, nothing double, every state true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydicom import dcmread, dcmwrite
from sqlalchemy import Engine, create_engine

from node.audit import AuditEvent, Event, Outcome
from node.destinations.dimse import Dimse, DimseSettings
from node.destinations.folder import Folder, FolderSettings
from node.destinations.interface import Destination
from node.destinations.orthanc import Orthanc, OrthancSettings
from node.domain import DEFAULT_KINDS, CleanUid, Role, WrittenObject
from node.errors import DeliveryFailed, DeliveryRefused, KeyMissing
from node.identified.delivery import Outbox, State
from node.identified.tables import Base
from node.testing.pacs import Pacs
from tests.contracts.test_every_destination import a_picture

STUDY = CleanUid("2.25.7")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Postbox(Destination):
    """A destination that does what a test says: `answers` are raised or returned, one an object; then it takes everything."""

    Settings = BaseModel

    def __init__(self, name: str = "postbox") -> None:
        super().__init__(name, None)
        self.answers: list[Exception | str] = []
        self.holds: list[bool | None] = []
        self.got: list[bytes] = []
        self.tried = 0
        self.door = threading.Event()
        self.door.set()

    def send(self, part10: bytes) -> str:
        self.tried += 1
        self.door.wait(30)
        answer = self.answers.pop(0) if self.answers else "taken"
        if isinstance(answer, Exception):
            raise answer
        self.got.append(part10)
        return answer

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        return self.holds.pop(0) if self.holds else None


def named(part10: bytes, study: CleanUid) -> bytes:
    """Stands for the re-identifier: bytes to bytes, with a name."""
    ds = dcmread(BytesIO(part10))
    ds.PatientName = "GRAY^ALICE"
    out = BytesIO()
    dcmwrite(out, ds)
    return out.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'identified.sqlite'}", connect_args={"timeout": 30})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def trail() -> list[AuditEvent]:
    return []


Open = Callable[..., Outbox]


@pytest.fixture
def opens(engine: Engine, tmp_path: Path, clock: Clock, trail: list[AuditEvent]) -> Iterator[Open]:
    """Opens an outbox on the same database, as often as a test restarts the node."""
    opened: list[Outbox] = []

    def opens(*destinations: Destination, reidentify: Callable[[bytes, CleanUid], bytes] = named, **settings: object) -> Outbox:
        outbox = Outbox(
            engine,
            {destination.name: destination for destination in destinations},
            reidentify,
            tmp_path / "clean",
            trail.append,
            clock=clock,
            jitter=lambda: 1.0,
            **settings,  # type: ignore[arg-type]
        )
        opened.append(outbox)
        return outbox

    yield opens
    for outbox in opened:
        outbox.close()


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., WrittenObject]:
    """Writes a nameless object to the clean volume."""

    def written(role: Role = Role.SC, *, job: str = "job-1", study: CleanUid = STUDY) -> WrittenObject:
        part10 = a_picture(PatientName="", PatientID="P1")
        ds = dcmread(BytesIO(part10))
        path = tmp_path / "clean" / "results" / f"{ds.SOPInstanceUID}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part10)
        return WrittenObject(job=job, study=study, role=role, sop_class_uid=ds.SOPClassUID, sop_instance_uid=ds.SOPInstanceUID, path=path)

    return written


def states(outbox: Outbox) -> list[State]:
    return [entry.state for entry in reversed(outbox.entries())]


# --- the ordinary way ---------------------------------------------------------------------------------------------------------
def test_an_object_gets_its_name_in_memory_and_arrives(opens, written, tmp_path, trail):
    with Pacs(tmp_path / "pacs") as pacs:
        outbox = opens(Dimse("pacs", DimseSettings(host="127.0.0.1", port=pacs.port, ae_title="PACS", keep_open_s=0.1)))
        obj = written()
        outbox.put(obj, ["pacs"])

        assert outbox.send_due() == 1

        [arrived] = pacs.received()
    assert arrived.PatientName == "GRAY^ALICE"
    assert states(outbox) == [State.SENT]
    assert outbox.entries()[0].reason == "C-STORE 0x0000"
    assert b"GRAY" not in obj.path.read_bytes()
    assert b"GRAY" not in b"".join(path.read_bytes() for path in tmp_path.glob("identified.sqlite*"))
    assert [(e.event, e.outcome, e.peer, e.study) for e in trail] == [
        (Event.BEGIN_TRANSFERRING, Outcome.SUCCESS, "pacs", STUDY),
        (Event.INSTANCES_TRANSFERRED, Outcome.SUCCESS, "pacs", STUDY),
    ]


def test_a_real_orthanc_is_asked_and_the_object_is_confirmed(opens, written, orthanc):
    outbox = opens(Orthanc("orthanc", OrthancSettings(url=orthanc.url)))
    outbox.put(written(), ["orthanc"])

    outbox.send_due()

    assert states(outbox) == [State.CONFIRMED]
    assert len(orthanc.get("/instances")) == 1


def test_the_same_object_put_twice_is_sent_once_to_each_destination(opens, written):
    one, two = Postbox("one"), Postbox("two")
    outbox = opens(one, two)
    obj = written()

    outbox.put(obj, ["one", "two", "one"])
    outbox.put(obj, ["one", "two"])
    assert outbox.send_due() == 2
    outbox.put(obj, ["one", "two"])
    assert outbox.send_due() == 0

    assert (one.tried, two.tried) == (1, 1)


def test_the_report_goes_last_in_its_job(opens, written):
    box = Postbox()
    outbox = opens(box)
    for job in ("a", "b"):
        for role in (Role.SR, Role.SC, Role.SEG):
            outbox.put(written(role, job=job), ["postbox"])

    outbox.send_due()

    of = {entry.sop_instance_uid: (entry.job, entry.role) for entry in outbox.entries()}
    assert [of[str(dcmread(BytesIO(part10)).SOPInstanceUID)] for part10 in box.got] == [
        ("a", "SEG"), ("a", "SC"), ("a", "SR"), ("b", "SEG"), ("b", "SC"), ("b", "SR"),
    ]  # fmt: skip


def test_an_archive_that_indexes_late_is_asked_again(opens, written, clock):
    box = Postbox()
    box.holds = [False, False, True]
    outbox = opens(box)
    outbox.put(written(), ["postbox"])

    outbox.send_due()
    assert states(outbox) == [State.SENT]
    for _ in range(2):
        clock.passes(600)
        outbox.send_due()

    assert states(outbox) == [State.CONFIRMED]
    assert box.tried == 1


def test_an_archive_that_never_lists_it_leaves_it_sent_and_says_so(opens, written, clock):
    box = Postbox()
    box.holds = [False] * 50
    outbox = opens(box)
    outbox.put(written(), ["postbox"])

    for _ in range(20):
        outbox.send_due()
        clock.passes(1000)

    [entry] = outbox.entries()
    assert entry.state is State.SENT
    assert "does not list it" in entry.reason
    assert box.tried == 1


# --- when it fails ------------------------------------------------------------------------------------------------------------
def test_a_pacs_that_is_down_gets_everything_when_it_is_up_even_after_a_restart(opens, written, tmp_path, clock, trail):
    pacs = Pacs(tmp_path / "pacs").start()
    settings = DimseSettings(host="127.0.0.1", port=pacs.port, ae_title="PACS", timeout_s=2, keep_open_s=0.1)
    pacs.stop()
    before = opens(Dimse("pacs", settings))
    for role in DEFAULT_KINDS:
        before.put(written(role), ["pacs"])

    assert before.send_due() == 0
    assert states(before) == [State.QUEUED] * 3
    before.close()

    clock.passes(60)
    after = opens(Dimse("pacs", settings))
    with pacs:
        assert after.send_due() == 3
        assert len(pacs.received()) == 3
        assert len(pacs.stored) == 3
    assert states(after) == [State.SENT] * 3
    assert [event.outcome for event in trail if event.event is Event.INSTANCES_TRANSFERRED] == [Outcome.MINOR_FAILURE, Outcome.SUCCESS]


def test_a_refusal_is_final_has_its_reason_and_is_a_major_failure_in_the_trail(opens, written, tmp_path, clock, trail):
    with Pacs(tmp_path / "pacs") as pacs:
        pacs.refuses_everything = 0xC123
        outbox = opens(Dimse("pacs", DimseSettings(host="127.0.0.1", port=pacs.port, ae_title="PACS", keep_open_s=0.1)))
        outbox.put(written(), ["pacs"])
        outbox.send_due()
        clock.passes(1e6)
        outbox.send_due()

        [entry] = outbox.entries()
        assert entry.state is State.REFUSED
        assert entry.attempts == 1
        assert "0xC123" in entry.reason
        assert trail[-1].outcome is Outcome.MAJOR_FAILURE
        assert "0xC123" in trail[-1].what

        pacs.refuses_everything = None
        outbox.retry(entry.id)
        assert outbox.send_due() == 1
    assert states(outbox) == [State.SENT]


def test_retries_wait_longer_each_time_up_to_the_longest(opens, written, clock):
    box = Postbox()
    box.answers = [DeliveryFailed("busy")] * 8
    outbox = opens(box, first_retry_s=2, longest_retry_s=30)
    outbox.put(written(), ["postbox"])
    waits = []
    for _ in range(8):
        outbox.send_due()
        [entry] = outbox.entries()
        waits.append((entry.next_at - clock()).total_seconds())
        clock.passes(waits[-1] - 1)
        assert outbox.send_due() == 0
        assert outbox.entries()[0].attempts == entry.attempts
        clock.passes(1)

    assert waits == [2, 4, 8, 16, 30, 30, 30, 30]
    assert outbox.send_due() == 1


def test_after_days_it_gives_up_and_says_the_last_reason(opens, written, clock):
    box = Postbox()
    box.answers = [DeliveryFailed("no answer")] * 100
    outbox = opens(box, give_up_after=timedelta(hours=3))
    outbox.put(written(), ["postbox"])
    while clock() < datetime(2026, 3, 1, 12, tzinfo=UTC):
        outbox.send_due()
        clock.passes(900)

    [entry] = outbox.entries()
    assert entry.state is State.REFUSED
    assert entry.reason == "given up after 3 hours: no answer"


def test_one_object_that_always_fails_does_not_hold_up_the_others(opens, written, clock):
    box = Postbox()
    box.answers = [DeliveryFailed("0xA700")]
    outbox = opens(box)
    for _ in range(4):
        outbox.put(written(), ["postbox"])

    assert outbox.send_due() == 3
    assert states(outbox) == [State.QUEUED, State.SENT, State.SENT, State.SENT]


def test_a_destination_that_fails_in_a_row_is_left_alone_for_a_while(opens, written, clock):
    box = Postbox()
    box.answers = [DeliveryFailed("no answer")] * 100
    outbox = opens(box)
    for _ in range(10):
        outbox.put(written(), ["postbox"])

    outbox.send_due()
    outbox.send_due()

    assert box.tried == 3
    [status] = outbox.status()
    assert status.counts[State.QUEUED] == 10
    assert status.reason == "no answer"
    assert status.rests_until == clock() + timedelta(seconds=2)


def test_a_slow_destination_does_not_hold_up_another(opens, written):
    slow, quick = Postbox("slow"), Postbox("quick")
    slow.door.clear()
    outbox = opens(slow, quick)
    outbox.put(written(), ["slow", "quick"])
    began = time.monotonic()

    assert outbox.send_due(wait_s=0.5) == 1
    outbox.put(written(), ["slow", "quick"])
    assert outbox.send_due(wait_s=0.5) == 1

    assert time.monotonic() - began < 5
    assert (slow.tried, len(quick.got)) == (1, 2)
    slow.door.set()


def test_a_destination_that_left_the_settings_keeps_its_objects_and_says_why(opens, written):
    opens(Postbox("old")).put(written(), ["old"])

    outbox = opens(Postbox("new"))
    assert outbox.send_due() == 0

    [old, _] = sorted(outbox.status(), key=lambda status: status.configured)
    assert (old.name, old.configured, old.counts[State.QUEUED]) == ("old", False, 1)
    assert old.reason == "the settings name no such destination"
    assert opens(Postbox("old")).send_due() == 1


def test_a_shredded_study_is_refused_because_its_key_is_gone(opens, written):
    def shredded(part10: bytes, study: CleanUid) -> bytes:
        raise KeyMissing

    box = Postbox()
    outbox = opens(box, reidentify=shredded)
    outbox.put(written(), ["postbox"])
    outbox.send_due()

    [entry] = outbox.entries()
    assert entry.state is State.REFUSED
    assert "key is gone" in entry.reason
    assert box.tried == 0


def test_an_error_of_a_library_is_tried_again_and_its_text_goes_nowhere(opens, written, caplog):
    box = Postbox()
    box.answers = [ValueError("PatientName GRAY^ALICE is odd")]
    outbox = opens(box)
    outbox.put(written(), ["postbox"])
    outbox.send_due()

    [entry] = outbox.entries()
    assert entry.state is State.QUEUED
    assert entry.reason.startswith("ValueError at ")
    assert "GRAY" not in entry.reason


def test_a_crash_between_sent_and_noted_ends_with_one_object(opens, written, tmp_path):
    class Crash(BaseException):
        pass

    folder = Folder("folder", FolderSettings(path=tmp_path / "out"))
    outbox = opens(folder)
    outbox.put(written(), ["folder"])
    outbox._note = lambda rows: (_ for _ in ()).throw(Crash())  # type: ignore[method-assign]
    with pytest.raises(Crash):
        outbox.send_due()

    again = opens(folder)
    assert again.send_due() == 1
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 1
    assert states(again) == [State.CONFIRMED]


def test_the_counts_add_up_to_what_was_put(opens, written):
    box = Postbox()
    box.answers = ["taken", DeliveryRefused("no"), DeliveryFailed("later")]
    outbox = opens(box)
    for _ in range(5):
        outbox.put(written(), ["postbox"])
    outbox.send_due()

    [status] = outbox.status()
    assert status.counts == {State.QUEUED: 1, State.SENT: 3, State.CONFIRMED: 0, State.REFUSED: 1}


def test_an_object_outside_the_clean_volume_is_not_queued(opens, written, tmp_path):
    obj = written()
    outside = tmp_path / "elsewhere.dcm"
    outside.write_bytes(obj.path.read_bytes())

    with pytest.raises(ValueError):
        opens(Postbox()).put(
            WrittenObject(
                job="j", study=STUDY, role=Role.SC, sop_class_uid=obj.sop_class_uid, sop_instance_uid=obj.sop_instance_uid, path=outside
            ),
            ["postbox"],
        )


# --- a destination that takes so many a minute ------------------------------------------------------------------------------
def test_a_destination_with_a_rate_is_sent_so_many_a_minute_and_others_as_many_as_there_are(
    opens: Open, written: Callable[..., WrittenObject], clock: Clock
) -> None:
    slow, quick = Postbox("slow"), Postbox("quick")
    outbox = opens(slow, quick, rate_per_minute={"slow": 2})
    for number in range(5):
        outbox.put(written(job=f"job-{number}"), ["slow", "quick"])

    counted = []
    for _ in range(4):
        outbox.send_due()
        outbox.send_due()
        counted.append((slow.tried, quick.tried))
        clock.passes(61)

    assert counted == [(2, 5), (4, 5), (5, 5), (5, 5)]
    assert {entry.state for entry in outbox.entries()} == {State.SENT}
