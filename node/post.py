"""Notices go out: by mail (SMTP), and as signed JSON to a webhook. Each channel remembers for itself what it was told."""

from __future__ import annotations

import hmac
import json
import smtplib
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from hashlib import sha256
from typing import Any, Literal, Protocol

import httpx

from node.errors import NoticeNotSent
from node.notices import Found, Notice, State, Told, plan
from node.tls import Tls, client_context

SIGNATURE = "X-Radnode-Signature"
HEADS = {State.NEW: "New", State.STILL: "Still there", State.OVER: "Resolved"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What one channel is told at once."""

    node: str  #: which node says so, e.g. "RADNODE on imaging-1"
    at: datetime
    notices: Sequence[Notice]
    link: str = ""  #: the node's pages, where a person can look


class Recipient(Protocol):
    """A way out of the house."""

    @property
    def name(self) -> str: ...

    def send(self, letter: Letter) -> None:
        """Give the letter away, or raise NoticeNotSent without quoting an answer."""


class Memory(Protocol):
    """What channels were told, kept over restarts."""

    def of(self, channel: str) -> Mapping[str, Told]: ...

    def keep(self, channel: str, told: Collection[Told]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Tells every channel what it does not know yet."""

    channels: Sequence[Recipient]
    memory: Memory
    quiet_s: float
    node: str
    link: str = ""

    def tell(self, now_found: Found, now: datetime) -> int:
        """How many notices went out. What could not be sent is not remembered as told, so the next turn tries again.

        Raises
        ------
        NoticeNotSent
            Naming the channels that failed, after all were tried.
        """
        sent, failed = 0, []
        for channel in self.channels:
            told = self.memory.of(channel.name)
            notices, after = plan(told, now_found, now=now, quiet_s=self.quiet_s)
            try:
                if notices:
                    channel.send(Letter(node=self.node, at=now, notices=notices, link=self.link))
                    sent += len(notices)
            except NoticeNotSent as why:
                failed.append(f"{channel.name}: {why.detail}")
                continue
            if {one.key: one for one in after} != told:
                self.memory.keep(channel.name, after)
        if failed:
            raise NoticeNotSent("; ".join(failed))
        return sent


# --- the letter -------------------------------------------------------------------------------------------------------------------
def subject(letter: Letter) -> str:
    """One line: the most urgent notice, and how many more."""
    first = next((n for state in State for n in letter.notices if n.state is state), None)
    if first is None:
        return f"[{letter.node}] notices work: this is a test"
    more = f" (and {len(letter.notices) - 1} more)" if len(letter.notices) > 1 else ""
    return f"[{letter.node}] {HEADS[first.state]}: {first.text}{more}"


def words(letter: Letter) -> str:
    """The letter as plain text."""
    parts = [f"{letter.node}, {letter.at.astimezone():%Y-%m-%d %H:%M %Z}", ""]
    for state in State:
        if told := [notice for notice in letter.notices if notice.state is state]:
            parts += [f"{HEADS[state]}:", *(f"- {n.text} (since {n.since.astimezone():%Y-%m-%d %H:%M})" for n in told), ""]
    if not letter.notices:
        parts += ["This is a test: notices of this node arrive here.", ""]
    if letter.link:
        parts += [letter.link, ""]
    return "\n".join([*parts, "Counts only: nothing here names a patient. Look on the node, with `radnode status` or in its pages."])


def as_json(letter: Letter) -> dict[str, Any]:
    """The letter for a program."""
    return {
        "node": letter.node,
        "at": letter.at.isoformat(),
        "test": not letter.notices,
        "link": letter.link,
        "notices": [
            {"state": n.state.value, "kind": n.kind, "key": n.key, "text": n.text, "count": n.count, "since": n.since.isoformat()}
            for n in letter.notices
        ],
    }


# --- mail -------------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Mail:
    """SMTP with STARTTLS, TLS from the start, or neither."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: str
    to: Sequence[str]
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    timeout_s: float = 20
    name: str = "smtp"

    def send(self, letter: Letter) -> None:
        message = EmailMessage()
        message["Subject"] = " ".join(subject(letter).split())[:200]
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Date"], message["Message-ID"] = format_datetime(letter.at), make_msgid(domain="radnode.invalid")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(words(letter))
        try:
            with self._connected() as server:
                if self.username:
                    server.login(self.username, self.password)
                refused = server.send_message(message)
        except (smtplib.SMTPException, OSError) as why:  # its words may quote addresses
            code = getattr(why, "smtp_code", "")
            raise NoticeNotSent(f"{type(why).__name__} {code}".strip()) from None
        if refused:
            raise NoticeNotSent(f"{len(refused)} of {len(self.to)} recipients refused")

    def _connected(self) -> smtplib.SMTP:
        context: ssl.SSLContext = client_context(Tls(ca_file=self.ca_file))
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_s, context=context)
        server = smtplib.SMTP(self.host, self.port, timeout=self.timeout_s)
        if self.security == "starttls":
            try:
                server.starttls(context=context)
            except BaseException:
                server.close()
                raise
        return server


# --- webhook ------------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Webhook:
    """POST of JSON; the receiver checks `X-Radnode-Signature: t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>">`."""

    name: str
    url: str = field(repr=False)  #: may hold a secret
    secret: str = field(repr=False)
    ca_file: str = ""
    timeout_s: float = 20

    def send(self, letter: Letter) -> None:
        body = json.dumps(as_json(letter), separators=(",", ":")).encode()
        seconds = int(letter.at.timestamp())
        headers = {"Content-Type": "application/json", SIGNATURE: f"t={seconds},v1={sign(self.secret, seconds, body)}"}
        verify: Any = client_context(Tls(ca_file=self.ca_file)) if self.ca_file else True
        try:
            answer = httpx.post(self.url, content=body, headers=headers, timeout=self.timeout_s, verify=verify)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as why:
            raise NoticeNotSent(f"no answer ({type(why).__name__})") from None
        if not answer.is_success:
            raise NoticeNotSent(f"HTTP {answer.status_code}")


def sign(secret: str, seconds: int, body: bytes) -> str:
    """HMAC-SHA256 in hexadecimal. The time is signed with it, so that a receiver can turn away what is old."""
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, sha256).hexdigest()
