"""Rules × series → routes, with the reasons. Rules are typed data; the only file access is `read_rules`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from node.companions import Wanted, channels_of
from node.conditions._groups import Asked, Group, Reason, answers, holds
from node.conditions._lines import Mark, parse_yaml
from node.conditions.interface import Condition, matches
from node.domain import CleanUid, Priority, Route, SendIf, Series, Study
from node.errors import RulesInvalid
from node.imaging.build import is_localizer
from node.imaging.decode import frame_count, is_image
from node.imaging.functional import number_of
from node.off_peak import Window
from node.registry import Registry

RULE_KEYS = ("name", "when", "any_of", "none_of", "run", "send_to", "send_if", "priority", "series", "between", "after", "if_found")
SEND_IF_KEYS = ("finding", "probability", "present", "send_to")
IF_FOUND_KEYS = ("finding", "probability", "present")
C = TypeVar("C", bound=StrEnum)
MOST_RULES, MOST_GROUPS, MOST_PIPELINES, MOST_WINDOWS = 500, 50, 20, 10


class Choice(StrEnum):
    """Which of the series that meet a rule are taken."""

    ALL = "all"
    THINNEST = "thinnest"
    LARGEST = "largest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a series is like this, run that, send it there."""

    name: str
    when: Group
    any_of: tuple[Group, ...]
    none_of: tuple[Group, ...]
    run: tuple[str, ...]  #: pipelines; each is a route of its own
    send_to: tuple[str, ...]
    send_if: tuple[SendIf, ...]
    after: tuple[str, ...] = ()  #: rules whose jobs on the study must have ended
    if_found: tuple[SendIf, ...] = ()  #: of these one must have been found by them; empty: they need only have ended
    priority: Priority
    series: Choice
    between: tuple[Window, ...]
    line: int  #: in the file, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules of one file, in its order, and the text they were read from."""

    rules: tuple[Rule, ...]
    text: str = field(repr=False)
    revision: int | None = None  #: in the ledger; None: they were read from a file or a draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a pipeline takes, as the router needs to know it."""

    takes: str  #: "volume" or "image", as `node.pipelines.interface.Takes`
    modalities: tuple[str, ...] = ()  #: empty: any
    min_slices: int = 1
    series: tuple[Wanted, ...] = ()  #: of a model that reads several series of a study at once: the first is that which a rule meets
    findings: tuple[str, ...] = ()  #: what it names, so that a rule can't ask for another; empty: not known


class Pipelines(dict[str, Needs]):
    """What each pipeline takes that can run; and why others that are installed can't."""

    def __init__(self, needs: Mapping[str, Needs], damaged: Mapping[str, str]) -> None:
        super().__init__(needs)
        self.damaged = damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rule, one of its pipelines and one series: whether they met, and why."""

    rule: Rule
    pipeline: str
    series: Series = field(repr=False)
    met: bool
    reasons: tuple[Reason, ...]


# --- deciding: pure -----------------------------------------------------------------------------------------------------
def routes_for(study: Study, rules: RuleSet, needs: Mapping[str, Needs]) -> list[Route]:
    """What is to be done with a study."""
    return routes_of(decide(study, rules, needs))


def routes_of(decisions: Iterable[Decision]) -> list[Route]:
    """The routes that follow. Two rules that want the same pipeline on the same series make one route to all destinations."""
    routes: dict[tuple[str, CleanUid], Route] = {}
    for decision in decisions:
        if not decision.met:
            continue
        rule, series = decision.rule, decision.series.series_instance_uid
        route = Route(
            rule=rule.name,
            series=series,
            pipeline=decision.pipeline,
            destinations=rule.send_to,
            priority=rule.priority,
            reasons=tuple(reason.words for reason in decision.reasons),
            between=rule.between,
            send_if=rule.send_if,
        )
        known = routes.get((decision.pipeline, series))
        routes[decision.pipeline, series] = route if known is None else _joined(known, route)
    return list(routes.values())


def _joined(known: Route, route: Route) -> Route:
    """One route for two rules: to all destinations, as urgent and as early as either wants it."""
    return replace(
        known,
        destinations=tuple(dict.fromkeys((*known.destinations, *route.destinations))),
        priority=Priority.STAT if Priority.STAT in (known.priority, route.priority) else Priority.ROUTINE,
        between=(*known.between, *route.between) if known.between and route.between else (),
        send_if=tuple(dict.fromkeys((*known.send_if, *route.send_if))),
        reasons=(*known.reasons, f"also wanted by the rule {route.rule}"),
    )


def decide(study: Study, rules: RuleSet, needs: Mapping[str, Needs]) -> list[Decision]:
    """Every rule and each of its pipelines against every series, in the order of the rules."""
    return [decision for rule in rules.rules for decision in decide_rule(study, rule, needs)]


def decide_rule(study: Study, rule: Rule, needs: Mapping[str, Needs]) -> list[Decision]:
    """One rule against every series: what `decide` does, for who keeps what a rule gave."""
    out: list[Decision] = []
    for pipeline in rule.run:
        out += _chosen(rule, [_decide(study, series, rule, pipeline, needs.get(pipeline)) for series in study])
    return out


def _decide(study: Study, series: Series, rule: Rule, pipeline: str, needs: Needs | None) -> Decision:
    reasons = [
        *_needed(study, series, rule, pipeline, needs),
        *answers(study, series, rule.when, rule.any_of, rule.none_of),
    ]
    return Decision(rule=rule, pipeline=pipeline, series=series, met=all(reason.met for reason in reasons), reasons=tuple(reasons))


def _needed(study: Study, series: Series, rule: Rule, pipeline: str, needs: Needs | None) -> list[Reason]:
    """What the pipeline itself needs, whatever the rule says. Silent where all is well."""
    images = [instance for instance in series.instances if is_image(instance)]
    if not images:
        return [Reason(key="pipeline", met=False, words="the series has no images")]
    if needs is None:
        return [Reason(key="pipeline", met=False, words=f"the pipeline {pipeline} is not installed")]
    out = []
    if needs.modalities and series.modality not in needs.modalities:
        words = f"the pipeline {pipeline} takes {', '.join(needs.modalities)}, not {series.modality[:16] or 'an unknown modality'}"
        out.append(Reason(key="pipeline", met=False, words=words))
    if needs.series:
        out += sorted(channels_of(study, series, needs.series)[1], key=lambda reason: reason.met)  # what is missing first
    if _asks_for_few(rule.when) or any(_asks_for_few(group) and holds(study, series, group) for group in rule.any_of):
        return out
    slices = [instance for instance in images if not is_localizer(instance)]
    least = max(needs.min_slices, 2 if needs.takes == "volume" else 1)
    count = sum(max(0, frame_count(instance.header)) for instance in (slices or images))
    if needs.takes == "volume" and not slices:
        words = f"every image is a localizer, and {pipeline} takes a volume; a rule gets them by image_type or slice_count"
        out.append(Reason(key="pipeline", met=False, words=words))
    elif count < least:
        are = "image is" if count == 1 else "images are"
        words = f"{count} {are} fewer than the {least} that {pipeline} takes; a rule gets them by slice_count"
        out.append(Reason(key="pipeline", met=False, words=words))
    return out


def _asks_for_few(group: Group) -> bool:
    """Whether the conditions themselves say that scouts or few slices are wanted: they count them, or name localizers as the image type."""
    for asked in group:
        if asked.key == "slice_count":
            return True
        if asked.key == "image_type":
            words: tuple[str, ...] = getattr(asked.condition, "words", ())
            if any(matches(word, scout) for word in words for scout in ("LOCALIZER", "SCOUT")):
                return True
    return False


def _chosen(rule: Rule, decisions: list[Decision]) -> list[Decision]:
    """With `series: thinnest` or `largest`, one of the series that met the rule; the others say so."""
    met = [decision for decision in decisions if decision.met]
    if rule.series is Choice.ALL or len(met) < 2:
        return decisions
    best = min(met, key=lambda d: (_rank(rule.series, d.series), d.series.series_instance_uid))
    because = Reason(key="series", met=False, words=f"another series of the study is the {rule.series}, {best.series.series_instance_uid}")
    return [replace(d, met=False, reasons=(*d.reasons, because)) if d.met and d is not best else d for d in decisions]


def _rank(choice: Choice, series: Series) -> tuple[float, float]:
    count = float(sum(frame_count(instance.header) for instance in series.instances if is_image(instance)))
    thickness = number_of(series.header, 1, "PixelMeasuresSequence", "SliceThickness", 1e6)
    return (thickness if thickness > 0 else 1e6, -count) if choice is Choice.THINNEST else (-count, thickness)


# --- saying why ---------------------------------------------------------------------------------------------------------
def explain(study: Study, rules: RuleSet, needs: Mapping[str, Needs]) -> str:
    """Every rule, what matched, what did not and why: what `radnode explain` prints."""
    lines: list[str] = []
    for rule in rules.rules:
        alone = RuleSet(rules=(rule,), text="")
        lines.append(f"rule “{rule.name}” (line {rule.line}) → {', '.join(rule.run)} → {', '.join(rule.send_to) or 'nowhere'}{_also(rule)}")
        for decision in decide(study, alone, needs):
            count = len(decision.series.instances)
            what = f"{decision.series.modality[:16] or 'no modality'}, {count} instance{'' if count == 1 else 's'}"
            run = f" {decision.pipeline}" if len(rule.run) > 1 else ""
            lines.append(f"  series {decision.series.series_instance_uid} ({what}): {'RUN' if decision.met else 'not run'}{run}")
            lines += [f"    {'✓' if reason.met else '✗'} {reason.words}" for reason in decision.reasons]
    return "\n".join(lines) or "there are no rules"


def _also(rule: Rule) -> str:
    """Time windows, what it waits for, and what findings send on."""
    windows = f", starts between {' or '.join(map(str, rule.between))}" if rule.between else ""
    if rule.after:
        windows += f", after {' and '.join(rule.after)}"
    if rule.if_found:
        windows += f" if {' or '.join(map(in_words, rule.if_found))}"
    return windows + "".join(f"; {in_words(one)} → {', '.join(one.destinations)}" for one in rule.send_if)


def in_words(one: SendIf) -> str:
    """`infection with a probability of at least 0.5`."""
    chance = f" with a probability of {one.low:g} to {one.high:g}" if one.low > 0 or one.high < 1 else ""
    return f"{one.finding}{'' if one.present is None else ' present' if one.present else ' not present'}{chance}"


def explained(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """The same for programs: JSON values only."""
    return [
        {
            "rule": d.rule.name,
            "line": d.rule.line,
            "pipeline": d.pipeline,
            "send_to": list(d.rule.send_to),
            "send_if": [{"when": in_words(one), "send_to": list(one.destinations)} for one in d.rule.send_if],
            "between": [str(window) for window in d.rule.between],
            "after": list(d.rule.after),
            "if_found": [in_words(one) for one in d.rule.if_found],
            "priority": d.rule.priority.value,
            "series": str(d.series.series_instance_uid),
            "modality": d.series.modality,
            "met": d.met,
            "reasons": [{"key": r.key, "met": r.met, "words": r.words} for r in d.reasons],
        }
        for d in decisions
    ]


# --- reading ---------------------------------------------------------------------------------------------------------------
def read_rules(path: Path, *, pipelines: Collection[str], destinations: Collection[str]) -> RuleSet:
    """The rules of a file. Raises RulesInvalid with the line, what is wrong there, and what is known."""
    return parse_rules(text_of_file(path), pipelines=pipelines, destinations=destinations, source=path.name)


def text_of_file(path: Path) -> str:
    """The text of a rules file, unread beyond 1 MiB. Raises RulesInvalid."""
    try:
        if path.stat().st_size > 2**20:
            raise RulesInvalid(f"{path.name}: larger than 1 MiB")
        return path.read_text(encoding="utf-8")
    except OSError as why:
        raise RulesInvalid(f"{path.name}: can't be read: {why.strerror}") from None
    except UnicodeDecodeError:
        raise RulesInvalid(f"{path.name}: not UTF-8 text") from None


def parse_rules(text: str, *, pipelines: Collection[str], destinations: Collection[str], source: str = "rules") -> RuleSet:
    """The rules of a text. Raises RulesInvalid."""
    rules, wrong = read_all(text, pipelines=pipelines, destinations=destinations, source=source)
    if wrong:
        raise wrong[0]
    return rules


def read_all(
    text: str, *, pipelines: Collection[str], destinations: Collection[str], source: str = "rules"
) -> tuple[RuleSet, list[RulesInvalid]]:
    """The rules of a text that can be read, and what is wrong with the others: at most one error a rule."""
    try:
        top = parse_yaml(text, source)
        _keys(top, ("rules",), required=("rules",))
        listed = top.value["rules"]
        if not isinstance(listed.value, list) or len(listed.value) > MOST_RULES:
            raise listed.wrong(f"rules: a list of at most {MOST_RULES} rules")
    except RulesInvalid as why:
        return RuleSet(rules=(), text=text), [why]
    conditions = Registry("node.conditions", Condition)  # type: ignore[type-abstract]
    rules: list[Rule] = []
    wrong: list[RulesInvalid] = []
    seen: dict[str, int] = {}
    for mark in listed.value:
        try:
            rule = _rule(mark, conditions, pipelines, destinations)
            if rule.name in seen:
                raise mark.wrong(f"the name {rule.name!r} is taken by the rule in line {seen[rule.name]}")
        except RulesInvalid as why:
            wrong.append(why)
            continue
        seen[rule.name] = rule.line
        rules.append(rule)
    if not wrong:
        wrong = _out_of_order(rules, {str(mark.value["name"].value).strip(): mark for mark in listed.value})
    return RuleSet(rules=tuple(rules), text=text), wrong


def _out_of_order(rules: Sequence[Rule], marks: Mapping[str, Mark]) -> list[RulesInvalid]:
    """A rule may wait for rules above it only: so that none waits for itself, by whatever detour."""
    above: set[str] = set()
    wrong = []
    for rule in rules:
        strange = [name for name in rule.after if name not in above]
        if strange:
            known = ", ".join(sorted(above)) or "none"
            wrong.append(marks[rule.name].value["after"].wrong(f"after: {strange[0]!r} is no rule above this one; above it: {known}"))
        above.add(rule.name)
    return wrong


def _rule(mark: Mark, conditions: Registry[Condition], pipelines: Collection[str], destinations: Collection[str]) -> Rule:
    _keys(mark, RULE_KEYS, required=("name", "run"))
    entry: dict[str, Mark] = mark.value
    when = _group(entry["when"], conditions) if "when" in entry else ()
    any_of = _group_list(entry["any_of"], conditions) if "any_of" in entry else ()
    none_of = _group_list(entry["none_of"], conditions) if "none_of" in entry else ()
    if not when and not any_of:
        raise mark.wrong("a rule needs conditions: give when or any_of")
    run = _pipelines(entry["run"], pipelines)
    return Rule(
        name=_word(entry["name"], "name"),
        when=when,
        any_of=any_of,
        none_of=none_of,
        run=run,
        send_to=_destinations(entry.get("send_to"), destinations),
        send_if=_send_if(entry.get("send_if"), destinations, _findings(run, pipelines)),
        priority=_closed(entry.get("priority"), Priority, Priority.ROUTINE, "priority"),
        series=_closed(entry.get("series"), Choice, Choice.ALL, "series"),
        between=_windows(entry.get("between")),
        **_order(mark, entry),
        line=mark.line,
    )


def _group(mark: Mark, conditions: Registry[Condition]) -> Group:
    """`{modality: CT, body_part: CHEST}`: all are required."""
    if not isinstance(mark.value, dict) or not mark.value:
        raise mark.wrong("conditions are written as key: value")
    out = []
    for key, value in mark.value.items():
        if key in conditions.broken:
            raise value.wrong(f"the condition {key} can't be loaded: {conditions.broken[key]}")
        if key not in conditions:
            raise value.wrong(f"unknown condition {key[:40]!r}; known: {', '.join(conditions)}", at_key=True)
        try:
            out.append(Asked(key=key, condition=conditions[key].parse(value.plain())))
        except ValueError as why:
            raise value.wrong(str(why)) from None
    return tuple(out)


def _group_list(mark: Mark, conditions: Registry[Condition]) -> tuple[Group, ...]:
    groups = mark.value if isinstance(mark.value, list) else [mark]
    if not groups or len(groups) > MOST_GROUPS:
        raise mark.wrong(f"1 to {MOST_GROUPS} groups of conditions")
    return tuple(_group(group, conditions) for group in groups)


def _pipelines(mark: Mark, known: Collection[str]) -> tuple[str, ...]:
    """One pipeline, or a list of them."""
    items = mark.value if isinstance(mark.value, list) else [mark]
    if not items or len(items) > MOST_PIPELINES:
        raise mark.wrong(f"run: 1 to {MOST_PIPELINES} pipelines")
    out: list[str] = []
    for item in items:
        word = _word(item, "run")
        if isinstance(known, Pipelines) and word in known.damaged:
            raise item.wrong(f"the pipeline {word!r} is installed but damaged: {known.damaged[word]}")
        if word not in known:
            raise item.wrong(f"unknown pipeline {word!r}; known: {', '.join(sorted(known)) or 'none'}")
        if word in out:
            raise item.wrong(f"the pipeline {word!r} is named twice")
        out.append(word)
    return tuple(out)


def _windows(mark: Mark | None) -> tuple[Window, ...]:
    """`"20:00-06:00"`, or a list of such."""
    if mark is None:
        return ()
    items = mark.value if isinstance(mark.value, list) else [mark]
    if not items or len(items) > MOST_WINDOWS:
        raise mark.wrong(f"between: 1 to {MOST_WINDOWS} parts of the day")
    out = []
    for item in items:
        try:
            out.append(Window.of(item.value if isinstance(item.value, str) else ""))
        except ValueError as why:
            raise item.wrong(f"between: {why}") from None
    return tuple(out)


def _findings(run: Sequence[str], pipelines: Collection[str]) -> tuple[str, ...]:
    """What the pipelines of a rule may find; empty where one of them does not say."""
    if not isinstance(pipelines, Mapping):
        return ()
    named = [needs.findings if isinstance(needs := pipelines.get(name), Needs) else () for name in run]
    return tuple(dict.fromkeys(finding for one in named for finding in one)) if all(named) else ()


def _order(mark: Mark, entry: Mapping[str, Mark]) -> dict[str, Any]:
    """`after: chest CT` or a list of rules, and `if_found: {finding: infection, present: true}` or a list of findings."""
    if "after" not in entry:
        if "if_found" in entry:
            raise mark.wrong("if_found: name the rules whose jobs find it, with after")
        return {}
    names = entry["after"].value if isinstance(entry["after"].value, list) else [entry["after"]]
    found = entry.get("if_found")
    asked = [] if found is None else found.value if isinstance(found.value, list) else [found]
    if not names or len(names) > MOST_GROUPS or len(asked) > MOST_GROUPS:
        raise mark.wrong(f"after and if_found: 1 to {MOST_GROUPS} of each")
    return {
        "after": tuple(dict.fromkeys(_word(name, "after") for name in names)),
        "if_found": tuple(_one_finding(one, IF_FOUND_KEYS) for one in asked),
    }


def _send_if(mark: Mark | None, known: Collection[str], findings: Sequence[str]) -> tuple[SendIf, ...]:
    """`{finding: infection, probability: {min: 0.5}, send_to: ward}`, or a list of such."""
    if mark is None:
        return ()
    items = mark.value if isinstance(mark.value, list) else [mark]
    if not items or len(items) > MOST_GROUPS:
        raise mark.wrong(f"send_if: 1 to {MOST_GROUPS} findings")
    return tuple(_one_send_if(item, known, findings) for item in items)


def _one_send_if(mark: Mark, known: Collection[str], findings: Sequence[str]) -> SendIf:
    one = _one_finding(mark, SEND_IF_KEYS)
    entry: dict[str, Mark] = mark.value
    destinations = _destinations(entry["send_to"], known)
    if not destinations:
        raise entry["send_to"].wrong("send_to: at least one destination")
    if findings and one.finding.partition(",")[0] not in findings:  # a finding of one side is called "infection, left lung"
        raise entry["finding"].wrong(f"unknown finding {one.finding!r}; known: {', '.join(findings)}")
    return replace(one, destinations=destinations)


def _one_finding(mark: Mark, keys: Sequence[str]) -> SendIf:
    """What is asked of a finding; it goes nowhere yet."""
    _keys(mark, keys, required=tuple(key for key in keys if key in ("finding", "send_to")))
    entry: dict[str, Mark] = mark.value
    present = entry["present"].value if "present" in entry else None
    if present is not None and not isinstance(present, bool):
        raise entry["present"].wrong("present: true or false")
    if present is None and "probability" not in entry:
        raise mark.wrong("give probability, as in {min: 0.5}, or present: true")
    low, high = _chance(entry["probability"]) if "probability" in entry else (0.0, 1.0)
    return SendIf(finding=_word(entry["finding"], "finding"), low=low, high=high, present=present)


def _chance(mark: Mark) -> tuple[float, float]:
    """`{min: 0.5, max: 1}`; one of them may be left out."""
    _keys(mark, ("min", "max"), required=())
    numbers = [mark.value[key].value if key in mark.value else default for key, default in (("min", 0.0), ("max", 1.0))]
    if not mark.value or any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 <= n <= 1 for n in numbers):
        raise mark.wrong("probability: min and max between 0 and 1, as in {min: 0.5}")
    if numbers[0] > numbers[1]:
        raise mark.wrong("probability: min is larger than max")
    return float(numbers[0]), float(numbers[1])


def _destinations(mark: Mark | None, known: Collection[str]) -> tuple[str, ...]:
    if mark is None:
        return ()
    items = mark.value if isinstance(mark.value, list) else [mark]
    out = []
    for item in items:
        word = _word(item, "send_to")
        if word not in known:
            raise item.wrong(f"unknown destination {word!r}; known: {', '.join(sorted(known)) or 'none'}")
        if word in out:
            raise item.wrong(f"the destination {word!r} is named twice")
        out.append(word)
    return tuple(out)


def _closed(mark: Mark | None, kind: type[C], default: C, key: str) -> C:
    if mark is None:
        return default
    for known in kind:
        if isinstance(mark.value, str) and mark.value.casefold() == known.value.casefold():
            return known
    raise mark.wrong(f"{key}: one of {', '.join(known.value.lower() for known in kind)}")


def _word(mark: Mark, key: str) -> str:
    if not isinstance(mark.value, str) or not mark.value.strip() or len(mark.value) > 80 or not mark.value.isprintable():
        raise mark.wrong(f"{key}: a text of 1 to 80 letters")
    return mark.value.strip()


def _keys(mark: Mark, known: Sequence[str], *, required: Sequence[str]) -> None:
    if not isinstance(mark.value, dict):
        raise mark.wrong(f"key: value is expected here, with the keys {', '.join(known)}")
    for key, value in mark.value.items():
        if key not in known:
            raise value.wrong(f"unknown key {key[:40]!r}; known: {', '.join(known)}", at_key=True)
    for key in required:
        if key not in mark.value:
            raise mark.wrong(f"the key {key} is missing")
