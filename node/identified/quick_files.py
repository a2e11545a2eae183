"""Files by their paths as text: a `Path` and a buffer for each of thousands of files take a twentieth of what a file takes in all."""

from __future__ import annotations

from io import FileIO


def read(path: str) -> bytes:
    """All of a file."""
    with FileIO(path) as file:
        return file.readall()
