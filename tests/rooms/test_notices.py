"""Somebody is told when something is wrong: once, without a patient, and again when it is over."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from pydicom import dcmread
from sqlalchemy import text

import config
from node.assembly import House
from node.domain import CleanUid, Role, WrittenObject
from node.errors import NoticeNotSent, SettingsInvalid
from node.gateway import Gateway
from node.ledger.notices import Notices
from node.notices import Figures, Found, Kind, State, Told, Trouble, Watch, found, plan
from node.post import SIGNATURE, Letter, Mail, Post, Webhook, sign, subject
from node.testing.studies import a_study, write_study
from tests.ports import free_port
from tests.rooms.databases import postgres, postgres_server, sqlite
from tests.rooms.front_door import radnode
from tests.rooms.test_destinations import Authority
from tests.rooms.test_ledger import a_job

NOON = datetime(2026, 3, 4, 12, 0).astimezone()  # a Wednesday, in the zone of this machine
HOUR = timedelta(hours=1)
FULL = Trouble(key="disk", kind=Kind.DISK, title="the disk is below its watermark", text="the disk is 5 MB below its watermark")


def figures(**changes: Any) -> Figures:
    well = {"given_up": {}, "refused": {}, "waiting": {}, "quarantined": {}, "last_arrival": {}, "free_bytes": 1, "trail_intact": True}
    return Figures(**{**well, **changes})


def wrong(*troubles: Trouble, unknown: tuple[str, ...] = ()) -> Found:
    return Found(troubles=troubles, unknown=frozenset(unknown))


class Told_:
    """A channel in a test: what it is told, hour by hour."""

    def __init__(self, quiet_s: float = 4 * 3600) -> None:
        self.quiet_s, self.knows = quiet_s, dict[str, Told]()

    def at(self, hour: float, now_found: Found) -> list[tuple[str, str]]:
        notices, after = plan(self.knows, now_found, now=NOON + hour * HOUR, quiet_s=self.quiet_s)
        self.knows = {one.key: one for one in after}
        return [(notice.state.value, notice.key) for notice in notices]


# --- when somebody is told -----------------------------------------------------------------------------------------------------------
def test_a_trouble_is_told_once_then_after_the_quiet_time_and_once_when_it_is_over():
    channel = Told_()

    assert channel.at(0, wrong(FULL)) == [("new", "disk")]
    assert channel.at(1, wrong(FULL)) == []
    assert channel.at(3.9, wrong(FULL)) == []
    assert channel.at(4, wrong(FULL)) == [("still", "disk")]
    assert channel.at(5, wrong()) == [("resolved", "disk")]
    assert channel.at(6, wrong()) == []
    assert channel.at(12, wrong()) == []
    assert channel.knows == {}


def test_a_certificate_that_ends_is_told_once_a_day_from_two_weeks_before():
    def after(days: float) -> Found:
        ends = figures(certificates={"web.tls_cert_file": NOON + timedelta(days=20)})
        return found(ends, [], now=NOON + timedelta(days=days), began=NOON)

    channel = Told_()
    assert channel.at(0, after(5)) == []
    assert channel.at(0, after(7)) == [("new", "certificate:web.tls_cert_file")]
    assert channel.at(5, after(7)) == []
    assert channel.at(24, after(8)) == [("still", "certificate:web.tls_cert_file")]
    assert "ended on" in after(21).troubles[0].text


def test_what_comes_and_goes_tells_nobody_every_minute():
    channel = Told_()
    assert channel.at(0, wrong(FULL)) == [("new", "disk")]
    assert channel.at(0.1, wrong()) == [("resolved", "disk")]

    told = [channel.at(0.2 + tenth / 10, wrong(FULL) if tenth % 2 else wrong()) for tenth in range(30)]

    assert not any(told)
    assert channel.at(4.1, wrong(FULL)) == [("new", "disk")]
    assert channel.at(4.2, wrong()) == [("resolved", "disk")]


def test_one_that_came_back_unsaid_is_not_said_to_be_over():
    channel = Told_()
    channel.at(0, wrong(FULL))
    channel.at(1, wrong())
    assert channel.at(2, wrong(FULL)) == []
    assert channel.at(3, wrong()) == []


def test_what_nobody_can_say_now_stays_as_it_was():
    channel = Told_(quiet_s=60)
    silent = Trouble(key="silence:CT01", kind=Kind.SILENCE, title="CT01 is silent", text="no study from CT01 for 4 hours")
    channel.at(0, wrong(silent))

    assert channel.at(9, wrong(unknown=("silence:CT01",))) == []
    assert channel.at(20, wrong()) == [("resolved", "silence:CT01")]


def test_a_notice_says_since_when_and_how_many():
    trouble = Trouble(key="jobs:covid_ct", kind=Kind.JOBS, title="jobs of covid_ct fail", text="3 jobs", count=3)
    [first], after = plan({}, wrong(trouble), now=NOON, quiet_s=60)
    [later], _ = plan({one.key: one for one in after}, wrong(trouble), now=NOON + HOUR, quiet_s=60)

    assert (first.state, first.count, first.since) == (State.NEW, 3, NOON)
    assert (later.state, later.since) == (State.STILL, NOON)


# --- what is wrong -------------------------------------------------------------------------------------------------------------------
def test_each_trouble_says_how_many_and_where_and_a_node_that_is_well_has_none():
    began = NOON - timedelta(days=1)
    assert found(figures(), (), now=NOON, began=began) == Found(troubles=())

    told = found(
        figures(
            given_up={"covid_ct": [f"{n:032x}" for n in range(7)]},
            refused={"pacs": [12]},
            waiting={"ris": (3, NOON - HOUR)},
            quarantined={"BurnedInAnnotation": 2, "ProcessingFailed": 1},
            free_bytes=-5 << 20,
            trail_intact=False,
            broken_at=41,
        ),
        (),
        now=NOON,
        began=began,
    )

    texts = [trouble.text for trouble in told.troubles]
    assert [trouble.kind for trouble in told.troubles] == ["jobs", "deliveries", "deliveries", "quarantine", "quarantine", "disk", "audit"]
    assert texts[0].startswith("7 jobs of covid_ct given up")
    assert texts[0].endswith("and 2 more)")
    assert "1 object refused by pacs" in texts[1]
    assert texts[2] == "3 objects waiting for ris, the first since 2026-03-04 11:00"
    assert "2 studies in quarantine: BurnedInAnnotation" in texts[3]
    assert "5 MB below" in texts[5]
    assert "record 41" in texts[6]


def test_a_trail_that_was_not_verified_yet_is_neither_broken_nor_mended():
    assert found(figures(trail_intact=None), (), now=NOON, began=NOON).unknown == {"audit"}


def silent(watch: Watch, *, last: datetime | None, now: datetime = NOON, began: datetime = NOON - timedelta(days=9)) -> bool | None:
    """Whether the source is said to be silent; None: nobody can say."""
    told = found(figures(last_arrival={watch.source: last} if last else {}), [watch], now=now, began=began)
    return None if told.unknown else bool(told.troubles)


def test_a_source_is_silent_when_nothing_came_for_its_hours():
    watch = Watch(source="CT01", hours=4)
    assert silent(watch, last=NOON - 3 * HOUR) is False
    assert silent(watch, last=NOON - 4.5 * HOUR) is True


def test_a_source_that_was_never_heard_is_silent_from_when_the_node_began():
    watch = Watch(source="CT01", hours=4)
    assert silent(watch, last=None, began=NOON - HOUR) is not True
    assert silent(watch, last=None, began=NOON - 5 * HOUR) is True


def test_a_source_may_be_silent_at_night_and_on_sunday():
    watch = Watch(source="CT01", hours=3, opens=time(7), closes=time(19), weekdays=frozenset(range(6)))
    evening = NOON - 17 * HOUR
    sunday = NOON + timedelta(days=4)

    assert silent(watch, last=evening, now=NOON - 9 * HOUR) is None  # three in the morning
    assert silent(watch, last=evening, now=NOON - 3 * HOUR) is None  # two hours after it opened
    assert silent(watch, last=evening, now=NOON - 1.9 * HOUR) is True
    assert silent(watch, last=evening, now=sunday) is None


def test_a_source_may_work_over_midnight():
    watch = Watch(source="ER", hours=2, opens=time(22), closes=time(6))
    assert watch.open_since(NOON) is None
    assert watch.open_since(NOON + 15 * HOUR) == NOON + 10 * HOUR
    assert silent(watch, last=NOON + 10.5 * HOUR, now=NOON + 15 * HOUR) is True


# --- by mail ---------------------------------------------------------------------------------------------------------------------------
class Inbox:
    """What a real SMTP server took."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuses = False

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuses:
            return "550 5.7.1 no mail about GRAY^ALICE"
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def mailbox(authority: Authority) -> Iterator[tuple[Inbox, int]]:
    """An SMTP server that wants STARTTLS and a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.signs("mail"))
    inbox, port = Inbox(), free_port()

    def knows(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"radnode", b"secret"), handled=False)

    server = Controller(
        inbox, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, authenticator=knows, auth_required=True
    )
    server.start()
    yield inbox, port
    server.stop()


def mail_to(port: int, authority: Authority, **changes: Any) -> Mail:
    usual = {
        "host": "127.0.0.1",
        "port": port,
        "security": "starttls",
        "sender": "radnode@hospital.example",
        "to": ("it@hospital.example",),
    }
    return Mail(**{**usual, "username": "radnode", "password": "secret", "ca_file": str(authority.file), "timeout_s": 5, **changes})


def letter(*troubles: Trouble) -> Letter:
    notices, _ = plan({}, wrong(*troubles), now=NOON, quiet_s=60)
    return Letter(node="RADNODE on imaging-1", at=NOON, notices=notices, link="https://node.example/")


def test_a_mail_arrives_over_starttls_and_says_what_is_wrong(mailbox, authority):
    inbox, port = mailbox

    mail_to(port, authority).send(letter(FULL))

    [mail] = inbox.mails
    assert mail["Subject"] == "[RADNODE on imaging-1] New: the disk is 5 MB below its watermark"
    assert mail["To"] == "it@hospital.example"
    assert mail["Auto-Submitted"] == "auto-generated"
    body = mail.get_content()
    assert "- the disk is 5 MB below its watermark (since 2026-03-04 12:00)" in body
    assert "https://node.example/" in body


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("password", "SMTPAuthenticationError 535"),
        ("certificate", "SSLCertVerificationError"),
        ("in the clear", "SMTP"),
        ("refused", "SMTPDataError 550"),
        ("nobody", "ConnectionRefusedError"),
    ],
)
def test_a_mail_that_does_not_go_is_said_without_quoting_anything(mailbox, authority, tmp_path, fault, words):
    inbox, port = mailbox
    inbox.refuses = fault == "refused"
    changes: dict[str, Any] = {
        "password": {"password": "wrong-secret"},
        "certificate": {"ca_file": str(Authority(tmp_path / "stranger").file)},
        "in the clear": {"security": "none", "username": ""},
        "nobody": {"port": free_port()},
    }.get(fault, {})

    with pytest.raises(NoticeNotSent) as why:
        mail_to(**{"port": port, "authority": authority, **changes}).send(letter(FULL))

    assert not inbox.mails
    assert words in why.value.detail
    for private in ("GRAY", "secret", "hospital.example"):
        assert private not in str(why.value)


def test_a_password_does_not_travel_in_the_clear(tmp_path):
    smtp = {"host": "mail", "sender": "a@b", "to": ["c@d"], "security": "none", "username": "radnode", "password": "secret"}
    with pytest.raises(SettingsInvalid, match="in the clear"):
        loaded(tmp_path, smtp=smtp)


# --- by webhook ------------------------------------------------------------------------------------------------------------------------
class Hook:
    """A program that takes webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?key=hidden"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.server.shutdown()
    found.server.server_close()


SECRET = "0123456789abcdef"


def test_a_webhook_is_signed_together_with_its_time(hook):
    Webhook(name="chat", url=hook.url, secret=SECRET).send(letter(FULL))

    [(headers, body)] = hook.got
    seconds, signature = (part.partition("=")[2] for part in headers[SIGNATURE].split(","))
    assert signature == sign(SECRET, int(seconds), body)
    assert signature != sign("another secret...", int(seconds), body)
    assert signature != sign(SECRET, int(seconds) + 1, body)
    told = json.loads(body)
    assert told["notices"][0]["text"] == FULL.text
    assert (told["notices"][0]["state"], told["test"]) == ("new", False)


def test_a_channel_that_is_down_is_told_later_and_the_others_only_once(hook, tmp_path):
    hook.status = 500
    other = Hook()
    channels = [Webhook(name="chat", url=hook.url, secret=SECRET), Webhook(name="pager", url=other.url, secret=SECRET)]
    engine = sqlite(tmp_path)

    def post() -> Post:  # as after each restart
        return Post(channels=channels, memory=Notices(engine), quiet_s=3600, node="RADNODE")

    with pytest.raises(NoticeNotSent, match="chat: HTTP 500") as why:
        post().tell(wrong(FULL), NOON)
    assert "hidden" not in str(why.value)
    hook.status = 200
    assert post().tell(wrong(FULL), NOON + timedelta(minutes=1)) == 1
    assert post().tell(wrong(FULL), NOON + timedelta(minutes=2)) == 0
    assert post().tell(wrong(), NOON + timedelta(minutes=3)) == 2

    assert [len(hook.got), len(other.got)] == [3, 2]
    other.server.shutdown()
    other.server.server_close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_a_channel_was_told_is_kept_whole_on_either_database(tmp_path, kind):
    with contextlib.ExitStack() as stack:
        engine = sqlite(tmp_path) if kind == "sqlite" else postgres(stack.enter_context(postgres_server()))
        _, after = plan({}, wrong(FULL), now=NOON, quiet_s=60)
        memory = Notices(engine)

        memory.keep("smtp", after)
        memory.keep("webhook chat", after)
        memory.keep("webhook chat", [])

        assert memory.of("smtp") == {"disk": after[0]}
        assert memory.of("webhook chat") == {}
        engine.dispose()


def test_the_subject_names_what_is_new_first():
    _, after = plan({}, wrong(FULL), now=NOON, quiet_s=60)
    job = Trouble(key="jobs:x", kind=Kind.JOBS, title="jobs of x fail", text="1 job of x given up")
    later, _ = plan({one.key: one for one in after}, wrong(job), now=NOON, quiet_s=60)

    assert subject(Letter(node="N", at=NOON, notices=later[::-1])) == "[N] New: 1 job of x given up (and 1 more)"


# --- the node -------------------------------------------------------------------------------------------------------------------------
def loaded(folder: Path, **notifications: Any) -> config.Settings:
    settings = {"data_dir": str(folder / "data"), "intake": {"settle_after_s": 0, "min_free_mb": 0}, "notifications": notifications}
    settings["deidentification"] = {"text_detection": "off"}  # what declares text is refused unseen
    (folder / "radnode.yaml").write_text(
        yaml.safe_dump({**settings, "destinations": {"pacs": {"kind": "folder", "path": str(folder / "out")}}})
    )
    return config.load(folder / "radnode.yaml")


def test_a_node_in_trouble_tells_of_all_of_it_and_names_nobody(hook, tmp_path):
    settings = loaded(tmp_path, webhooks=[{"name": "chat", "url": hook.url, "secret": SECRET}], silence=[{"source": "CT01", "hours": 1}])
    home = House(settings)
    home.check()
    gateway = Gateway(home)
    gateway._began -= 2 * HOUR
    [refused] = a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES")
    refused.PatientName = "GRAY^ALICE"
    write_study([refused], tmp_path / "in")
    home.take_folder(tmp_path / "in")
    gateway.settle()
    job = a_job()
    home.jobs.submit(job)
    for _ in range(2):
        home.jobs.failed(home.jobs.claim("w", 60), "GRAY^ALICE made it crash", worker="w")
    study = home.clean_uids.of(str(refused.StudyInstanceUID))
    lost = WrittenObject(
        job="j", study=CleanUid(study), role=Role.SR, sop_class_uid="1.2.3", sop_instance_uid="2.25.9", path=home.results / "gone.dcm"
    )
    home.outbox.put(lost, ["pacs"])
    home.outbox.send_due()
    with home.ledger.begin() as connection:
        connection.execute(text("UPDATE audit SET event = replace(event, 'DX', 'CT') WHERE seq = 1"))
        connection.execute(text("UPDATE audit SET hash = 'altered' WHERE seq = 1"))
    gateway.verify_trail()

    assert gateway.tell() == 5
    assert gateway.tell() == 0

    [(_, body)] = hook.got
    told = {notice["kind"]: notice["text"] for notice in json.loads(body)["notices"]}
    assert set(told) == {"jobs", "deliveries", "quarantine", "silence", "audit"}
    assert job.id in told["jobs"]
    assert "1 object refused by pacs" in told["deliveries"]
    assert "CT01" in told["silence"]
    words = body.decode()
    for private in ("GRAY", "ALICE", str(refused.PatientID), str(refused.StudyInstanceUID), study, job.pseudonym):
        assert private not in words

    home.outbox.retry(home.outbox.entries()[0].id)
    assert gateway.tell() == 1
    assert json.loads(hook.got[-1][1])["notices"][0]["state"] == "resolved"
    home.close()


def test_a_destination_that_takes_nothing_for_long_is_trouble_until_it_does(hook, tmp_path):
    (tmp_path / "out").write_text("a file stands where the folder should be")
    home = House(loaded(tmp_path, webhooks=[{"name": "chat", "url": hook.url, "secret": SECRET}], waiting_hours=1e-6))
    home.check()
    write_study(a_study("US"), tmp_path / "in")
    home.take_folder(tmp_path / "in")
    gateway = Gateway(home)
    gateway.settle()
    gateway.verify_trail()
    [clean] = list(home.studies.rglob("*.dcm"))
    image = dcmread(clean, stop_before_pixels=True)
    held = home.results / "picture.dcm"
    held.write_bytes(clean.read_bytes())
    home.outbox.put(
        WrittenObject(
            job="j",
            study=CleanUid(image.StudyInstanceUID),
            role=Role.SC,
            sop_class_uid=image.SOPClassUID,
            sop_instance_uid=image.SOPInstanceUID,
            path=held,
        ),
        ["pacs"],
    )
    home.outbox.send_due()

    assert gateway.tell() == 1
    (tmp_path / "out").unlink()
    home.outbox.retry(home.outbox.entries()[0].id)
    home.outbox.send_due()
    assert gateway.tell() == 1

    first, last = ([(n["state"], n["text"]) for n in json.loads(body)["notices"]] for _, body in hook.got)
    assert first[0][0] == "new"
    assert first[0][1].startswith("1 object waiting for pacs")
    assert last == [("resolved", "pacs does not take results: over")]
    home.close()


def test_a_source_is_known_by_its_ae_title_its_orthanc_or_its_channel(tmp_path):
    home = House(loaded(tmp_path))
    home.check()
    write_study(a_study("US"), tmp_path / "in")
    home.take_folder(tmp_path / "in")

    arrivals = home.intake.last_arrivals(["folder", "CT01"])

    assert set(arrivals) == {"folder"}
    assert datetime.now(UTC) - arrivals["folder"] < HOUR
    home.close()


def test_notify_test_says_which_channels_work(hook, mailbox, authority, tmp_path):
    inbox, port = mailbox
    smtp = {"host": "127.0.0.1", "port": port, "sender": "a@b.example", "to": ["c@d.example"], "username": "radnode", "password": "secret"}
    loaded(tmp_path, smtp={**smtp, "ca_file": str(authority.file)}, webhooks=[{"name": "chat", "url": hook.url, "secret": SECRET}])

    works = radnode("notify", "test", config=tmp_path / "radnode.yaml")
    hook.status = 403
    one_fails = radnode("notify", "test", config=tmp_path / "radnode.yaml")

    assert (works.returncode, works.stdout) == (0, "webhook chat: sent\nsmtp: sent\n")
    assert (one_fails.returncode, one_fails.stdout) == (1, "webhook chat: not sent, HTTP 403\nsmtp: sent\n")
    assert "test" in inbox.mails[0]["Subject"]
    assert json.loads(hook.got[0][1])["test"] is True


def test_notify_without_a_channel_says_which_setting_is_missing(tmp_path):
    loaded(tmp_path)
    said = radnode("notify", "test", config=tmp_path / "radnode.yaml")
    assert said.returncode == 1
    assert "notifications" in said.stderr
    assert radnode("notify", "list", config=tmp_path / "radnode.yaml").stdout == "Nothing is wrong.\n"


@pytest.mark.parametrize(
    ("silence", "words"),
    [
        ({"source": "CT01", "hours": 4, "between": [1140, 420]}, "in quotes"),
        ({"source": "CT01", "hours": 13, "between": ["07:00", "19:00"]}, "12 hours a day"),
        ({"source": "CT01", "hours": 0}, "greater than 0"),
        ({"source": "CT01", "hours": 4, "weekdays": ["sonntag"]}, "mon"),
    ],
)
def test_a_silence_that_could_never_be_heard_stops_the_start(tmp_path, silence, words):
    with pytest.raises(SettingsInvalid, match=words):
        loaded(tmp_path, silence=[silence])
