"""What is wrong now, and what of it somebody must be told: once, again only after a while, and once more when it is over.

Pure functions over figures. A text has counts and words of the settings (pipelines, destinations, sources) and ids of jobs and deliveries:
nothing that came with a study, since mail and webhooks leave the house.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from itertools import chain

MOST_IDS = 5  #: named in a text
FORGOTTEN_AFTER = timedelta(hours=24)  #: a job that was given up is trouble for so long
ENDS_SOON = timedelta(days=14)  #: before a certificate ends
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Kind(StrEnum):
    """What a notice is about."""

    JOBS = "jobs"
    DELIVERIES = "deliveries"
    QUARANTINE = "quarantine"
    SILENCE = "silence"
    DISK = "disk"
    AUDIT = "audit"
    CERTIFICATE = "certificate"


class State(StrEnum):
    """Why somebody is told."""

    NEW = "new"
    STILL = "still"
    OVER = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the node counts at one moment."""

    given_up: Mapping[str, Sequence[str]]  #: pipeline → ids of jobs that were given up within FORGOTTEN_AFTER
    refused: Mapping[str, Sequence[int]]  #: destination → ids of deliveries that it refused for good (dead letters)
    waiting: Mapping[str, tuple[int, datetime]]  #: destination that is late → objects that wait for it, and since when the first does
    quarantined: Mapping[str, int]  #: why (the error's class) → studies
    last_arrival: Mapping[str, datetime]  #: source → when its latest study last grew
    free_bytes: int  #: above the watermark; 0 or less: nothing is taken any more
    trail_intact: bool | None  #: None: not verified yet
    broken_at: int | None = None  #: first record of the trail that is wrong
    certificates: Mapping[str, datetime] = field(default_factory=dict)  #: setting that names one of the node's own → when it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A source that usually sends: an AE title, the name of an Orthanc, or a channel ("stow")."""

    source: str
    hours: float  #: without a study, within its working time
    opens: time = time(0)  #: local time of this machine
    closes: time = time(0)  #: the same as `opens`: it never closes
    weekdays: frozenset[int] = frozenset(range(7))  #: 0 is Monday; of the opening

    def open_since(self, now: datetime) -> datetime | None:
        """When the working time began that `now` is in; None outside of it."""
        local = now.astimezone()
        if self.opens == self.closes and len(self.weekdays) == 7:
            return datetime.min.replace(tzinfo=now.tzinfo)
        for day in (local.date(), local.date() - timedelta(days=1)):
            began = datetime.combine(day, self.opens).astimezone()
            ends = datetime.combine(day if self.closes > self.opens else day + timedelta(days=1), self.closes).astimezone()
            if day.weekday() in self.weekdays and began <= local < ends:
                return began
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that is wrong. The key is the same as long as it is the same trouble."""

    key: str
    kind: Kind
    title: str  #: without a figure
    text: str
    count: int = 1
    again_after: timedelta = timedelta(0)  #: told again after so long at the earliest, where a channel would sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is wrong at one moment, and what nobody can say just now: that stays as it was."""

    troubles: tuple[Trouble, ...]
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one channel was told about a trouble."""

    key: str
    kind: str
    title: str
    count: int
    since: datetime
    told_at: datetime | None  #: last, that it is there; None: never
    open: bool  #: it was there when last looked
    said: bool  #: the channel knows that it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One sentence for somebody."""

    state: State
    kind: str
    key: str
    text: str
    count: int
    since: datetime


# --- what is wrong ----------------------------------------------------------------------------------------------------------------
def found(figures: Figures, watches: Collection[Watch], *, now: datetime, began: datetime) -> Found:
    """What is wrong. `began`: since when this node looks; a source that was never heard is silent from then on."""
    silent, unknown = _silent(figures, watches, now, began)
    trail = [] if figures.trail_intact is not False else [_trail(figures)]
    if figures.trail_intact is None:
        unknown.add(str(Kind.AUDIT))
    counted = chain(_given_up(figures), _refused(figures), _waiting(figures), _quarantined(figures), _disk(figures))
    return Found(troubles=(*counted, *silent, *trail, *_certificates(figures, now)), unknown=frozenset(unknown))


def _given_up(figures: Figures) -> list[Trouble]:
    return [
        Trouble(
            key=f"{Kind.JOBS}:{pipeline}",
            kind=Kind.JOBS,
            title=f"jobs of {pipeline} fail",
            text=f"{_many(len(ids), 'job')} of {pipeline} given up within {FORGOTTEN_AFTER.total_seconds() / 3600:g} hours ({_some(ids)})",
            count=len(ids),
        )
        for pipeline, ids in sorted(figures.given_up.items())
        if ids
    ]


def _refused(figures: Figures) -> list[Trouble]:
    return [
        Trouble(
            key=f"{Kind.DELIVERIES}:{destination}",
            kind=Kind.DELIVERIES,
            title=f"deliveries to {destination} are refused",
            text=f"{_many(len(ids), 'object')} refused by {destination} for good, results wait there (deliveries {_some(ids)})",
            count=len(ids),
        )
        for destination, ids in sorted(figures.refused.items())
        if ids
    ]


def _waiting(figures: Figures) -> list[Trouble]:
    return [
        Trouble(
            key=f"{Kind.DELIVERIES}:{destination}:waiting",
            kind=Kind.DELIVERIES,
            title=f"{destination} does not take results",
            text=f"{_many(count, 'object')} waiting for {destination}, the first since {since.astimezone():%Y-%m-%d %H:%M}",
            count=count,
        )
        for destination, (count, since) in sorted(figures.waiting.items())
    ]


def _quarantined(figures: Figures) -> list[Trouble]:
    return [
        Trouble(
            key=f"{Kind.QUARANTINE}:{why}",
            kind=Kind.QUARANTINE,
            title=f"studies are refused: {why}",
            text=f"{_many(count, 'study', 'studies')} in quarantine: {why}",
            count=count,
        )
        for why, count in sorted(figures.quarantined.items())
        if count
    ]


def _disk(figures: Figures) -> list[Trouble]:
    if figures.free_bytes > 0:
        return []
    text = f"the disk is {-figures.free_bytes >> 20} MB below its watermark: no study is accepted"
    return [Trouble(key=str(Kind.DISK), kind=Kind.DISK, title="the disk is below its watermark", text=text)]


def _trail(figures: Figures) -> Trouble:
    place = f", first at record {figures.broken_at}" if figures.broken_at is not None else ""
    return Trouble(key=str(Kind.AUDIT), kind=Kind.AUDIT, title="the audit trail was altered", text=f"the audit trail was altered{place}")


def _certificates(figures: Figures, now: datetime) -> list[Trouble]:
    return [
        Trouble(
            key=f"{Kind.CERTIFICATE}:{setting}",
            kind=Kind.CERTIFICATE,
            title=f"a certificate ends: {setting}",
            text=f"the certificate of {setting} {'ended' if ends <= now else 'ends'} on {ends.astimezone():%Y-%m-%d}: put a new one in its place",
            again_after=timedelta(days=1),
        )
        for setting, ends in sorted(figures.certificates.items())
        if ends - now < ENDS_SOON
    ]


def _silent(figures: Figures, watches: Collection[Watch], now: datetime, began: datetime) -> tuple[list[Trouble], set[str]]:
    silent, unknown = [], set()
    for watch in watches:
        key = f"{Kind.SILENCE}:{watch.source}"
        opened = watch.open_since(now)
        if opened is None:
            unknown.add(key)
            continue
        last = figures.last_arrival.get(watch.source)
        quiet = now - max(last or began, opened)
        if quiet >= timedelta(hours=watch.hours) and (last is None or last < now - timedelta(hours=watch.hours)):
            heard = f", the last one at {last.astimezone():%Y-%m-%d %H:%M}" if last else ", none since the node watches"
            text = f"no study from {watch.source} for {watch.hours:g} hours{heard}"
            silent.append(Trouble(key=key, kind=Kind.SILENCE, title=f"{watch.source} is silent", text=text))
        elif last is None or last < opened:
            unknown.add(key)  # nothing was heard yet today: yesterday's silence is not over
    return silent, unknown


# --- what is told -------------------------------------------------------------------------------------------------------------------
def plan(told: Mapping[str, Told], now_found: Found, *, now: datetime, quiet_s: float) -> tuple[list[Notice], list[Told]]:
    """What a channel that was told `told` is told now, and what it has been told once that is sent.

    A trouble is told when it is new, again when it stands `quiet_s` after it was last told, and once when it is over. One that comes back
    within `quiet_s` waits until then, so that what comes and goes tells nobody every minute.
    """
    quiet = timedelta(seconds=quiet_s)
    notices, after = [], []
    here = {trouble.key: trouble for trouble in now_found.troubles}
    for trouble in here.values():
        before = told.get(trouble.key)
        notice, then = _there(trouble, before, now, quiet)
        notices += [notice] if notice else []
        after.append(then)
    for before in told.values():
        if before.key in here:
            continue
        if before.open and before.key in now_found.unknown:
            after.append(before)
            continue
        if before.open and before.said:
            notices.append(_notice(State.OVER, before, f"{before.title}: over"))
        if before.told_at is not None and now - before.told_at < quiet:
            after.append(replace(before, open=False, said=False))
    return notices, after


def _there(trouble: Trouble, before: Told | None, now: datetime, quiet: timedelta) -> tuple[Notice | None, Told]:
    since = before.since if before and before.open else now
    told_at = before.told_at if before else None
    said = before is not None and before.open and before.said
    then = Told(
        key=trouble.key,
        kind=trouble.kind.value,
        title=trouble.title,
        count=trouble.count,
        since=since,
        told_at=told_at,
        open=True,
        said=said,
    )
    if told_at is not None and now - told_at < max(quiet, trouble.again_after):
        return None, then
    then = replace(then, told_at=now, said=True)
    return _notice(State.STILL if said else State.NEW, then, trouble.text), then


def _notice(state: State, about: Told, text: str) -> Notice:
    return Notice(state=state, kind=about.kind, key=about.key, text=text, count=about.count, since=about.since)


def _some(ids: Sequence[object]) -> str:
    shown = ", ".join(str(one) for one in ids[:MOST_IDS])
    return shown + (f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else "")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
