"""Signed links to the reading page: a job and one of its findings, until when, and no more. Whoever has one needs no password for that page.

The signature is an HMAC (RFC 2104, SHA-256) with a key of this site; nothing is kept, so a link can't be called back, only run out.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from node.errors import LinkRefused

LONGEST = 1000  #: characters of a token; ours are far shorter
LASTS = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """What a good token opens."""

    job: str
    tracking_uid: str  #: of the finding; empty: the result as a whole
    until: datetime


class ReadingLinks:
    """Makes and opens tokens. `key`: 32 random bytes of this site, for nothing else."""

    def __init__(self, key: bytes, *, clock: Callable[[], datetime], lasts: timedelta = LASTS) -> None:
        self._key, self._clock, self._lasts = key, clock, lasts

    def __repr__(self) -> str:
        return "<ReadingLinks>"

    def make(self, job: str, tracking_uid: str = "") -> str:
        """A token for a path or a query: letters, digits, `-`, `_` and one dot."""
        until = int((self._clock() + self._lasts).timestamp())
        said = _text(json.dumps([job, tracking_uid, until], separators=(",", ":")).encode())
        return f"{said}.{_text(self._mac(said))}"

    def open(self, token: str) -> Linked:
        """What the token names.

        Raises
        ------
        LinkRefused
            When it is not ours, was altered, or has run out.
        """
        said, _, mac = token[:LONGEST].partition(".")
        if not token.isascii() or not hmac.compare_digest(mac.encode(), _text(self._mac(said)).encode()):
            raise LinkRefused("it was not made here, or was altered")
        job, tracking_uid, until = json.loads(urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        ends = datetime.fromtimestamp(until, UTC)
        if self._clock() >= ends:
            raise LinkRefused("it has run out")
        return Linked(job=job, tracking_uid=tracking_uid, until=ends)

    def _mac(self, said: str) -> bytes:
        return hmac.new(self._key, said.encode(), sha256).digest()


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
