"""A folder's clean files wait in their hidden place until the leak scan has passed them; a study with a leak is taken back whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from node.domain import CleanUid
from node.errors import LeakFound
from node.identified.account import Account
from node.identified.folder_faces import Written
from node.identified.identifying import Identifying
from node.identified.leak_scan import Leak, LeakScan, ReadText, Scanned, Sought
from node.identified.proof import Prover, leak_found

ENOUGH = 64  #: files that are worth a process


class CleanFiles(NamedTuple):
    """The clean files of one study, and what identifies in the study they came from."""

    found: Identifying
    written: list[Written]
    account: Account


class Searched(NamedTuple):
    """What the report will say, once the files lie where they belong."""

    scanned: Scanned
    sought: list[Sought]
    digests: list[tuple[Written, str]]
    looked_at: list[Written]

    def facts(self, prover: Prover, target: Path) -> dict[str, Any]:
        self.scanned.digests = {f"{target}/{file.outcome['file']}": digest for file, digest in self.digests}
        self.scanned.looked_at = {f"{target}/{file.outcome['file']}" for file in self.looked_at}
        return prover.facts(self.sought, self.scanned, target)


@dataclass(frozen=True, slots=True)
class _Share:
    """Some files of a study, for one process."""

    study: CleanUid
    found: Identifying
    files: tuple[str, ...]
    read_text: ReadText | None


def prove_folder(prover: Prover, place: Path, studies: Mapping[CleanUid, CleanFiles], pool: Executor | None, workers: int) -> Searched:
    """Search every study's files at `place`. Those of a study with a leak are deleted, and their outcomes say so."""
    shares = [share for study, clean in studies.items() for share in _shared(study, clean, place, prover.reads(clean.account), workers)]
    results: Iterator[tuple[Scanned, Sought]] = pool.map(_scanned, shares) if pool else map(_scanned, shares)
    everything = Scanned()
    sought: dict[CleanUid, Sought] = {}
    leaks: dict[CleanUid, list[Leak]] = {}
    for share, (scanned, of) in zip(shares, results, strict=True):
        sought[share.study] = of
        if scanned.leaks:
            leaks.setdefault(share.study, []).extend(scanned.leaks)
        everything.merge(scanned)
    digests, looked_at = [], []
    for study, clean in studies.items():
        for file in _there(clean.written):
            path = f"{place}/{file.outcome['file']}"
            if study not in leaks:
                digests.append((file, everything.digests[path]))
                looked_at += [file] if path in everything.looked_at else []
                continue
            Path(path).unlink()
            file.gone = True
            file.outcome.pop("file")
            file.outcome.update(outcome="refused", kind=LeakFound.__name__, reason=str(leak_found(leaks[study])))
    return Searched(everything, list(sought.values()), digests, looked_at)


def _there(written: Sequence[Written]) -> list[Written]:
    return [file for file in written if not file.gone]


def _shared(study: CleanUid, clean: CleanFiles, place: Path, read_text: ReadText | None, workers: int) -> Iterator[_Share]:
    files = [f"{place}/{file.outcome['file']}" for file in _there(clean.written)]
    at_once = max(ENOUGH, -(-len(files) // workers))
    for start in range(0, len(files), at_once):
        yield _Share(study, clean.found, tuple(files[start : start + at_once]), read_text)


def _scanned(share: _Share) -> tuple[Scanned, Sought]:
    scan = LeakScan(share.found, read_text=share.read_text)
    return scan.scan(share.files), scan.sought
