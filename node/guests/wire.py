"""What passes between the node and a guest: a few JSON values and arrays, as bytes. Nothing in it can run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = struct.Struct(">I")
MOST_FACTS = 1 << 20  #: bytes of JSON
MOST_ARRAY = 8 << 30  #: bytes of one array
KINDS = ("uint8", "uint16", "int16", "int32", "float32", "float64")

Arrays = Mapping[str, NDArray[Any]]


class Garbled(ValueError):
    """The bytes are no message of ours."""


def packed(facts: Mapping[str, Any], arrays: Arrays | None = None) -> list[bytes | memoryview]:
    """A message in parts, to be written one after the other."""
    kept = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    shapes = {name: [array.dtype.name, list(array.shape)] for name, array in kept.items()}
    head = json.dumps({"facts": facts, "arrays": shapes}).encode()
    if len(head) > MOST_FACTS:
        raise Garbled("too many facts")
    return [HEAD.pack(len(head)), head, *(array.data.cast("B") for array in kept.values() if array.size)]


def unpacked(take: Callable[[int], bytes | bytearray]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A message from `take(count)`, which gives exactly that many bytes. Raises Garbled: the other side may say anything."""
    (length,) = HEAD.unpack(take(HEAD.size))
    if length > MOST_FACTS:
        raise Garbled("too long a head")
    try:
        said = json.loads(bytes(take(length)))
        facts, shapes = dict(said["facts"]), dict(said["arrays"])
        arrays = {str(name): _array(take, *described) for name, described in shapes.items()}
    except (ValueError, TypeError, KeyError, RecursionError) as why:
        raise Garbled(type(why).__name__) from None
    return facts, arrays


def _array(take: Callable[[int], bytes | bytearray], kind: str, shape: list[int]) -> NDArray[Any]:
    if kind not in KINDS or len(shape) > 6 or not all(isinstance(n, int) and 0 <= n < 1 << 32 for n in shape):
        raise Garbled("an array of another kind")
    size = np.dtype(kind).itemsize
    for n in shape:
        size *= n
    if size > MOST_ARRAY:
        raise Garbled("too large an array")
    return np.frombuffer(take(size), kind).reshape(shape)
