"""A process that decodes one picture: PNG or JPEG on standard input, the array (NumPy's format 1.0) on standard output. Started by `plain.py`."""

from __future__ import annotations

import os
import resource
import sys
from io import BytesIO

import cv2
import numpy as np

MEMORY_BYTES = 8 << 30  #: of address space, libraries and all
LONGEST_S = 60  #: of computing


def main() -> int:
    """Exit status 1: it can't be decoded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_S, LONGEST_S))
    data, out = sys.stdin.buffer.read(), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not the array
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return 1
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        return 1
    if picture.ndim == 3:
        picture = picture[..., 0] if picture.shape[2] < 3 else picture[..., 2::-1]
    array = BytesIO()  # NumPy writes to a pipe by a file position, which it has not
    np.save(array, np.ascontiguousarray(picture))
    out.write(array.getbuffer())
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
