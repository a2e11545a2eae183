"""Pictures of results, kept in memory within a budget. What was purged is not shown from memory either."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any

from node.domain import Job, WrittenObject
from node.viewing.film import Film, open_film


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """A job whose result is to be looked at."""

    job: Job
    objects: Collection[WrittenObject]
    sites: Callable[[], Collection[str]] = tuple  #: meanings of the findings' sites


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice comes from."""

    image: str  #: clean SOP Instance UID
    frame: int  #: from 1
    rows: int
    columns: int


@dataclass(slots=True)
class _Open:
    objects: tuple[str, ...]
    film: Film
    lock: threading.Lock = field(default_factory=threading.Lock)  #: pydicom turns elements into values as they are read


class LightBox:
    """Opens films and renders pictures; both are remembered."""

    def __init__(self, find: Callable[[str], Exposed | None], *, budget_bytes: int = 64 << 20, films: int = 6) -> None:
        self._find = find
        self._budget_bytes = budget_bytes
        self._most_films = films
        self._films: OrderedDict[str, _Open] = OrderedDict()
        self._pictures: OrderedDict[tuple[Hashable, ...], bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # one film at a time: twenty slices asked for at once open it once

    @property
    def held_bytes(self) -> int:
        """Pictures in memory."""
        return self._held

    def job(self, id: str) -> Job | None:
        """The job, while its images are here; None when it is not known or its study was purged."""
        found = self._exposed(id)
        return found.job if found else None

    def described(self, id: str) -> dict[str, Any] | None:
        """What there is to show of a job, in JSON values; None when nothing is here. Raises PixelsUnreadable."""
        opened = self._opened(id)
        return opened.film.described() if opened else None

    def places(self, id: str) -> list[Place] | None:
        """Which image and frame each slice is; None when nothing is here. Raises PixelsUnreadable."""
        opened = self._opened(id)
        if opened is None:
            return None
        return [
            Place(str(one.instance.sop_instance_uid), one.number, int(one.instance.header.Rows), int(one.instance.header.Columns))
            for one in opened.film.frames
        ]

    def slice(self, id: str, at: int, window: str = "") -> bytes | None:
        """PNG of one slice of the source; None when there is none. Raises PixelsUnreadable."""
        return self._picture(id, ("slice", at, window), lambda film: film.slice_png(at, window))

    def segment(self, id: str, segment: int, at: int) -> bytes | None:
        """PNG of one segment on one slice; None where it has nothing."""
        return self._picture(id, ("segment", segment, at), lambda film: film.segment_png(segment, at))

    def capture(self, id: str, number: int) -> bytes | None:
        """PNG of one frame of the capture; None when there is none. Raises PixelsUnreadable."""
        return self._picture(id, ("capture", number), lambda film: film.capture_png(number))

    # --- below ----------------------------------------------------------------------------------------------------------
    def _exposed(self, id: str) -> Exposed | None:
        found = self._find(id)
        return found if found and (found.job.folder / found.job.route.series).is_dir() else None

    def _opened(self, id: str) -> _Open | None:
        found = self._exposed(id)
        if found is None:
            self._forget(id)
            return None
        objects = tuple(written.sop_instance_uid for written in found.objects)
        opened = self._open_already(id, objects)
        if opened is None:
            with self._opening:
                opened = self._open_already(id, objects)
                if opened is None:
                    opened = _Open(objects, open_film(found.job, found.objects, found.sites()))
                    with self._lock:
                        self._films[id] = opened
                        while len(self._films) > self._most_films:
                            self._films.popitem(last=False)
        return opened

    def _forget(self, id: str) -> None:
        with self._lock:
            self._films.pop(id, None)
            for key in [key for key in self._pictures if key[0] == id]:
                self._held -= len(self._pictures.pop(key))

    def _open_already(self, id: str, objects: tuple[str, ...]) -> _Open | None:
        with self._lock:
            opened = self._films.get(id)
            if opened is None or opened.objects != objects:
                return None
            self._films.move_to_end(id)
            return opened

    def _picture(self, id: str, what: tuple[Hashable, ...], render: Callable[[Film], bytes]) -> bytes | None:
        opened = self._opened(id)
        if opened is None:
            return None
        key = (id, opened.objects, *what)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        try:
            with opened.lock:
                picture = render(opened.film)
        except (IndexError, KeyError):
            return None
        self._keep(key, picture)
        return picture

    def _keep(self, key: tuple[Hashable, ...], picture: bytes) -> None:
        with self._lock:
            if key in self._pictures or len(picture) > self._budget_bytes:
                return
            self._pictures[key] = picture
            self._held += len(picture)
            while self._held > self._budget_bytes:
                _, oldest = self._pictures.popitem(last=False)
                self._held -= len(oldest)
