"""A form with files (multipart/form-data, RFC 7578), read as it comes: files into spools, a few short fields into memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from node.web.multipart import MultipartInvalid, Part, Parts, pieces
from node.web.problems import Problem

FIELDS = ("pipeline", "clinical", "view", "modality")
LONGEST_FIELD = 64 << 10
_FORM = f"Send `Content-Type: multipart/form-data` with the files, and if you like the fields {', '.join(FIELDS)}."


@dataclass(slots=True)
class Form:
    """What came. The files lie where the spool put them."""

    files: list[BinaryIO] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def json_of(self, name: str) -> Any:
        """A field in JSON; an empty object where it is not there. Raises Problem."""
        try:
            return json.loads(self.fields.get(name) or "{}")
        except (ValueError, RecursionError):
            raise Problem(422, f"`{name}` is not JSON.") from None


async def read_form(request: Request, *, spool: Callable[[], BinaryIO], most_bytes: int, most_files: int) -> Form:
    """The form of a request. Memory holds a piece of it, and what the spools keep there.

    Raises
    ------
    Problem
        400, 413, 415 or 422, with what to do.
    """
    boundary = _boundary(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    form = Form()
    body = _begun(boundary, spool)
    try:
        await _read(request, body, form, most_bytes, most_files)
    finally:
        body.close()
    return form


async def _read(request: Request, body: Parts, form: Form, most_bytes: int, most_files: int) -> None:
    size = 0
    async for piece in pieces(request.stream()):
        size += len(piece)
        if size > most_bytes:
            raise _too_large(most_bytes)
        try:
            for part in await run_in_threadpool(body.feed, piece):
                _take(part, form, most_files)
        except MultipartInvalid as why:
            raise Problem(400, f"{str(why).capitalize()}. {_FORM}") from None
    if not body.ended:
        raise Problem(400, "The body ends before its last boundary. Send it again.")


def _take(part: Part, form: Form, most_files: int) -> None:
    """A part that is complete: a field, or a file."""
    options = parse_options_header(part.headers.get("content-disposition"))[1]
    name = options.get(b"name", b"").decode("utf-8", "replace")
    empty = not part.file.read(1)
    part.file.seek(0)
    if name not in FIELDS and b"filename" in options:
        if empty and not options[b"filename"]:
            part.file.close()  # a browser's file input that nobody filled
            return
        form.files.append(part.file)
        if len(form.files) > most_files:
            raise Problem(413, f"There are more than {most_files} files (predict.max_files); send one series a request.")
        return
    content = part.file.read(LONGEST_FIELD + 1)
    part.file.close()
    if name not in FIELDS:
        raise Problem(422, f"There is a field that is not known. {_FORM}", known=[*FIELDS, "files"])
    if len(content) > LONGEST_FIELD:
        raise Problem(413, f"The field `{name}` is longer than {LONGEST_FIELD >> 10} kB.")
    if name in form.fields:
        raise Problem(422, f"The field `{name}` is there twice.")
    try:
        form.fields[name] = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Problem(422, f"The field `{name}` is not UTF-8.") from None


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind.lower() != b"multipart/form-data":
        raise Problem(415, _FORM)
    if not options.get(b"boundary"):
        raise Problem(400, f"Content-Type names no boundary. {_FORM}")
    return options[b"boundary"]


def _begun(boundary: bytes, spool: Callable[[], BinaryIO]) -> Parts:
    try:
        return Parts(boundary, spool)
    except MultipartInvalid as why:
        raise Problem(400, f"{str(why).capitalize()}.") from None


def _too_large(most_bytes: int) -> Problem:
    return Problem(413, f"The upload is larger than {most_bytes >> 20} MB (web.max_upload_mb); send one series a request.")
