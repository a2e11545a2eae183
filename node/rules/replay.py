"""What a draft would have done with past studies, beside the rules in force: the same `decide` over kept headers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from node.domain import Route, Study
from node.ledger.headers import Past
from node.router import Decision, Needs, RuleSet, decide_rule, routes_of
from node.rules.difference import same_rules
from node.rules.kept import given_back

MOST_EXAMPLES = 20  #: of each group
AT_ONCE = 250  #: studies a task
WORTH_PROCESSES = 4_000  #: studies; starting processes takes a second or two

MORE, FEWER, OTHERWISE = "more", "fewer", "otherwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One series and one pipeline that draft and active rules treat otherwise."""

    kind: str  #: more, fewer, or otherwise: run by both, with other destinations, urgency or hours
    rule: str  #: of the draft, or for `fewer` of the active rules
    pipeline: str
    modality: str
    study: str
    series: str
    because: str


@dataclass(slots=True)
class Group:
    """The changes of one rule, pipeline and modality."""

    rule: str
    pipeline: str
    modality: str
    more: int = 0
    fewer: int = 0
    otherwise: int = 0
    examples: list[Change] = field(default_factory=list)

    @property
    def in_words(self) -> str:
        """`chest CT → covid_ct: 41 CT series more, 3 fewer`."""
        counts = [(self.more, MORE), (self.fewer, FEWER), (self.otherwise, OTHERWISE)]
        said = [f"{count} {self.modality or 'unknown'} series {what}" for count, what in counts if count]
        return f"{self.rule} → {self.pipeline}: {', '.join(said)}"


@dataclass(slots=True)
class Comparison:
    """A draft beside the active rules, over past studies."""

    studies: int = 0
    series: int = 0
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)

    def add(self, change: Change) -> None:
        """Count it, and keep the first ones of each kind as examples."""
        key = (change.rule, change.pipeline, change.modality)
        group = self.groups.setdefault(key, Group(*key))
        setattr(group, change.kind, getattr(group, change.kind) + 1)
        if sum(one.kind == change.kind for one in group.examples) < MOST_EXAMPLES:
            group.examples.append(change)

    def join(self, other: Comparison) -> None:
        """Add what another part of the studies gave."""
        self.studies, self.series = self.studies + other.studies, self.series + other.series
        for key, group in other.groups.items():
            mine = self.groups.setdefault(key, Group(*key))
            mine.more, mine.fewer, mine.otherwise = mine.more + group.more, mine.fewer + group.fewer, mine.otherwise + group.otherwise
            for change in group.examples:
                if sum(one.kind == change.kind for one in mine.examples) < MOST_EXAMPLES:
                    mine.examples.append(change)

    def as_json(self) -> dict[str, Any]:
        """JSON values, for programs and pages."""
        return {
            "studies": self.studies,
            "series": self.series,
            "groups": [{**asdict(group), "in_words": group.in_words} for _, group in sorted(self.groups.items())],
        }


def replay(
    past: Past,
    draft: RuleSet,
    active: RuleSet,
    needs: Mapping[str, Needs],
    progress: Callable[[int, int], None] = lambda done, of: None,
    *,
    workers: int = 1,
) -> Comparison:
    """Both rule sets over the same studies, with the pipelines that are installed now.

    Parameters
    ----------
    progress
        Told how many studies are done, and of how many.
    workers
        Processes to share the work, where it is worth their start.
    """
    comparing = _Comparing(draft, active, needs)
    parts = _parts(past.read())
    found = Comparison()
    each = map(comparing, parts) if workers < 2 or past.count < WORTH_PROCESSES else _shared(comparing, parts, workers)
    for one in each:
        found.join(one)
        progress(found.studies, past.count)
    return found


def changes(study: Study, draft: RuleSet, active: RuleSet, needs: Mapping[str, Needs]) -> list[Change]:
    """How the two treat one study otherwise."""
    return _Comparing(draft, active, needs).changes(study)


class _Comparing:
    """Compares the two on some studies; goes to another process as it is."""

    def __init__(self, draft: RuleSet, active: RuleSet, needs: Mapping[str, Needs]) -> None:
        self._draft, self._active, self._needs = draft, active, dict(needs)
        self._same = same_rules(active.text, draft.text)

    def __call__(self, texts: Sequence[str]) -> Comparison:
        found = Comparison()
        for text in texts:
            study = given_back(text)
            found.studies, found.series = found.studies + 1, found.series + len(study.series)
            for change in self.changes(study):
                found.add(change)
        return found

    def changes(self, study: Study) -> list[Change]:
        before = {rule.name: decide_rule(study, rule, self._needs) for rule in self._active.rules}
        after = {
            rule.name: before[rule.name] if rule.name in self._same else decide_rule(study, rule, self._needs) for rule in self._draft.rules
        }
        old, new = _routes(before), _routes(after)
        modality = {series.series_instance_uid: series.modality[:16] for series in study}
        out = []
        for key in dict.fromkeys((*new, *old)):
            if told := _told(old.get(key), new.get(key), after):
                kind, route, because = told
                out.append(
                    Change(
                        kind=kind,
                        rule=route.rule,
                        pipeline=route.pipeline,
                        modality=modality[route.series],
                        study=study.ref.study,
                        series=route.series,
                        because=because,
                    )
                )
        return out


def _told(old: Route | None, new: Route | None, after: Mapping[str, Sequence[Decision]]) -> tuple[str, Route, str] | None:
    """What kind of change it is, the route it is about, and why; None when both do the same."""
    if old is None and new is not None:
        return MORE, new, "; ".join(new.reasons)
    if old is not None and new is None:
        return FEWER, old, _why_not(old, after)
    if old is None or new is None:
        return None
    wished = [
        (what, before, now)
        for what, before, now in (
            ("sent to", sorted(old.destinations), sorted(new.destinations)),
            ("priority", [old.priority.value], [new.priority.value]),
            ("between", sorted(map(str, old.between)), sorted(map(str, new.between))),
            ("sent on by", sorted(map(repr, old.send_if)), sorted(map(repr, new.send_if))),
        )
        if before != now
    ]
    if not wished:
        return None
    because = [
        f"{what} {', '.join(now) or 'nothing'} in place of {', '.join(before) or 'nothing'}" if what != "sent on by" else "other findings"
        for what, before, now in wished
    ]
    return OTHERWISE, new, "; ".join(because)


def _why_not(old: Route, after: Mapping[str, Sequence[Decision]]) -> str:
    """What the draft's rule of the same name says about that series."""
    for decision in after.get(old.rule, ()):
        if decision.pipeline == old.pipeline and decision.series.series_instance_uid == old.series:
            return "; ".join(reason.words for reason in decision.reasons if not reason.met)
    return "the draft has no such rule" if old.rule not in after else "the rule does not run that pipeline any more"


def _routes(decisions: Mapping[str, Sequence[Decision]]) -> dict[tuple[str, str], Route]:
    return {(route.pipeline, route.series): route for route in routes_of(one for mine in decisions.values() for one in mine)}


def _parts(texts: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(texts, AT_ONCE)):
        yield part


def _shared(comparing: _Comparing, parts: Iterator[list[str]], workers: int) -> Iterator[Comparison]:
    """The parts in processes of their own, and never more of them in memory than are worked on."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(comparing,)) as pool:
        running: set[Future[Comparison]] = {pool.submit(_go_on, part) for part in islice(parts, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_go_on, part) for part in islice(parts, len(done))}
            yield from (future.result() for future in done)


_here: list[_Comparing] = []  #: of a process that shares the work


def _begin(comparing: _Comparing) -> None:
    _here[:] = [comparing]


def _go_on(texts: Sequence[str]) -> Comparison:
    return _here[0](texts)
