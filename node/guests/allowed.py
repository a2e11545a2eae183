"""Which guests may run: those that `radnode bundles add` has checked, by digest, exactly as they were then.

`ALLOWED` in the bundles' folder lists the SHA-256 of each guest's SHA256SUMS, so `sha256sum -c ALLOWED` checks it too.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.bundle import SUMS, Bundle, sha256
from node.errors import BundleDamaged, BundleInvalid

LIST = "ALLOWED"


def check(bundle: Bundle) -> None:
    """Nothing of it is new or changed. Raises BundleInvalid or BundleDamaged, naming the file.

    A file that SHA256SUMS does not list could be imported by the bundle's own code, so there may be none.
    """
    name = f"{bundle.path.parent.name}/{bundle.path.name}"
    listed = _read(bundle.path.parents[1] / LIST).get(f"{name}/{SUMS}")
    if listed is None:
        raise BundleInvalid(f"it is not on the list {LIST}: bundles that bring code are added with `radnode bundles add`", bundle=name)
    if listed != sha256(bundle.path / SUMS):
        raise BundleDamaged(file=SUMS, bundle=name)
    for file in bundle.path.rglob("*"):
        inside = file.relative_to(bundle.path).as_posix()
        if (file.is_file() or file.is_symlink()) and inside not in bundle.sums and inside != SUMS:
            raise BundleInvalid(f"{inside} is not listed in its {SUMS}", bundle=name)


def allow(path: Path) -> None:
    """Put the guest in folder `path`, `<bundles>/<name>/<version>`, on the list."""
    file = path.parents[1] / LIST
    with _alone(file.parent):
        entries = _read(file) | {f"{path.parent.name}/{path.name}/{SUMS}": sha256(path / SUMS)}
        passing = file.with_name(f".{LIST}.{os.getpid()}")
        passing.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(entries.items())), encoding="utf-8")
        passing.replace(file)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else puts something on the list meanwhile: it would be lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}
