"""Faces leave a folder: its clean files lie in a hidden place until every series has been looked at, then they go where they belong."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from node.errors import RecognizableFeatures, StudyRefused
from node.identified.defacing import Faces, Treated

Outcome = dict[str, str]


@dataclass(slots=True)
class Written:
    """One clean file: its line in the report, its series, and whether it stays."""

    outcome: Outcome
    series: str
    painted: bool = field(default=False)  #: with new pixels: the whole original is needed for the way home
    gone: bool = field(default=False)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A hidden folder below `target`, gone afterwards with all that is still in it; so is what killed processes left there."""
    target.mkdir(parents=True, exist_ok=True)
    fresh = Path(mkdtemp(prefix=".radnode.", dir=target))
    with ExitStack() as held:
        with suppress(OSError):  # where nothing can be locked, nothing is swept
            held.enter_context(_locked(fresh))
        place = fresh.rename(target / f".radnode-{os.getpid()}-{fresh.name.rpartition('.')[2]}")  # locked before its name says what it is
        try:
            for left in target.glob(".radnode-*"):
                with suppress(OSError), _locked(left):
                    shutil.rmtree(left)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """As long as this process and those that it forks live. Raises OSError when another one has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def take_out(faces: Faces, place: Path, written: Iterable[Written], pool: ProcessPoolExecutor | None) -> None:
    """Treat every series of the files at `place`. Outcomes are changed; a file that is refused or left out is deleted."""
    by_series: dict[str, list[Written]] = defaultdict(list)
    for file in written:
        by_series[file.series].append(file)
    groups = list(by_series.values())
    paths = [[place / file.outcome["file"] for file in group] for group in groups]
    work: Callable[[list[Path]], Treated | str] = partial(_treated, faces)
    results = pool.map(work, paths) if pool else map(work, paths)
    for group, files, result in zip(groups, paths, results, strict=True):
        out = set(files) if isinstance(result, str) else {path for path, _ in result.left_out}
        for file, path in zip(group, files, strict=True):
            if path in out:
                path.unlink()
                file.gone = True
                _say(file.outcome, result)
            elif isinstance(result, Treated) and result.done == "defaced":
                file.outcome["face"] = "removed"
                file.painted = path in result.painted


def move(place: Path, target: Path, written: Iterable[Written]) -> None:
    """To where they belong. A file that lies there already stays, the new one gets a number."""
    taken: dict[str, set[str]] = {}  #: names in each folder
    for file in written:
        if file.gone:
            continue
        folder, slash, name = file.outcome["file"].rpartition("/")
        if folder not in taken:
            (target / folder).mkdir(parents=True, exist_ok=True)
            taken[folder] = {path.name for path in (target / folder).iterdir()}
        number, wanted = 1, name
        while wanted in taken[folder]:
            number += 1
            wanted = f"{name.removesuffix('.dcm')}-{number}.dcm"
        taken[folder].add(wanted)
        Path(f"{place}/{file.outcome['file']}").rename(f"{target}/{folder}{slash}{wanted}")
        file.outcome["file"] = f"{folder}{slash}{wanted}"


def _treated(faces: Faces, files: list[Path]) -> Treated | str:
    """What was done to a series, or why it is refused. For whatever process."""
    try:
        [treated] = faces.treat(files)
    except StudyRefused as why:
        return str(why)
    return treated


def _say(outcome: Outcome, result: Treated | str) -> None:
    instance = outcome.get("instance", "")
    outcome.clear()
    if isinstance(result, str):
        outcome.update(outcome="refused", instance=instance, kind=RecognizableFeatures.__name__, reason=result)
    else:
        outcome.update(outcome="left out", instance=instance, sop_class="", reason="a localizer that may show a profile")
