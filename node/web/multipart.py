"""A multipart/related body, part by part as it arrives (RFC 2387, RFC 2046 5.1); python-multipart finds the boundaries."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

LONGEST_HEADERS = 16 << 10  #: bytes of one part's headers, which are held in memory
PIECE = 1 << 20  #: bytes of a body that are one trip to a worker thread


class MultipartInvalid(ValueError):
    """The body is not what its Content-Type says."""


@dataclass(slots=True)
class Part:
    """One part: its headers, names in lower case, and its body in a spool."""

    file: BinaryIO
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def media_type(self) -> str:
        return parse_options_header(self.headers.get("content-type"))[0].decode("latin-1").lower()


class Parts:
    """Feed it bytes; it gives back the parts that are complete. Memory holds a chunk and what the spool keeps there."""

    def __init__(self, boundary: bytes, spool: Callable[[], BinaryIO]) -> None:
        self._spool = spool
        self._part: Part | None = None
        self._complete: list[Part] = []
        self._name, self._value = b"", b""
        self._headers = 0
        self.ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._all,
                },
            )
        except FormParserError as why:
            raise MultipartInvalid("the boundary is too long") from why

    def feed(self, chunk: bytes) -> list[Part]:
        """The parts that ended within this chunk; the caller closes their files."""
        try:
            self._parser.write(chunk)
        except FormParserError as why:
            raise MultipartInvalid("the body is not multipart with the boundary that Content-Type names") from why
        done, self._complete = self._complete, []
        return done

    def close(self) -> None:
        """Throw away what is not complete."""
        for part in [*self._complete, *([self._part] if self._part else [])]:
            part.file.close()
        self._complete, self._part = [], None

    # --- what the parser calls --------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._part = Part(self._spool())
        self._headers = 0

    def _counted(self, data: bytes) -> bytes:
        self._headers += len(data)
        if self._headers > LONGEST_HEADERS:
            raise MultipartInvalid("the headers of a part are too long")
        return data

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _header_end(self) -> None:
        assert self._part is not None
        self._part.headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        self._part.file.write(data[start:end])

    def _end(self) -> None:
        assert self._part is not None
        self._part.file.seek(0)
        self._complete.append(self._part)
        self._part = None

    def _all(self) -> None:
        self.ended = True


async def pieces(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """A body in pieces of about a megabyte, the last one of what is left."""
    waiting = bytearray()
    async for chunk in body:
        waiting += chunk
        if len(waiting) >= PIECE:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
