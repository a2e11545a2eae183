"""The rules as a form: HTML out of the values of a text, and changed values out of what the browser says stands in the fields.

A field that says what it said before leaves its value as it was, however that was written; only what somebody changed is read anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from node.rules.form import WAS
from node.web.ui.markup import Html, joined, safe, tag

Rule = dict[str, Any]
Entries = Sequence[tuple[str, str]]  #: names and values of all fields, as a browser's FormData has them
GROUPS = {"any_of": "At least one of these groups", "none_of": "None of these groups"}
SEVERAL = (*GROUPS, "send_if", "if_found")  #: an object, or a list of such
MOST_IN_FULL = 30  #: rules; of more, those that lie closed have no fields, and stay as they are
NEW: Rule = {"name": "new rule", "when": {}, "run": "", "send_to": []}
_AFTER, _IF_FOUND = "When the jobs of these rules have ended", "Only if they found"
_FINDINGS = "known-findings"
_SERIES = {"all": "all that meet the rule", "thinnest": "the thinnest of them", "largest": "the largest of them"}

#: what the browser sends: all fields, which rules lie open, and the act of a button if it was one
SENDS = """(event) => {
  const at = event.target, form = at.closest('form');
  const opened = () => [...form.querySelectorAll('details.rule')].map((one) => one.open);
  const told = (more) => emit({fields: [...new FormData(form).entries()], opened: opened(), ...more});
  if (event.type === 'submit') { event.preventDefault(); return; }
  if (event.type === 'click') {
    const button = at.closest('[data-act]');
    if (button) told({act: JSON.parse(button.dataset.act)});
    else if (at.closest('summary')) setTimeout(() => emit({opened: opened()}), 0);
  } else if (at.dataset.add) {
    told({act: ['condition', JSON.parse(at.dataset.add), at.value]});
  } else {
    if (at.name.endsWith('.name')) {
      at.closest('details').querySelector('.rule-name').textContent = at.value;
      form.querySelectorAll(`[data-named="${at.name}"]`).forEach((one) => (one.textContent = at.value));
    }
    told({});
  }
}"""


# --- values and what fields say of them -----------------------------------------------------------------------------------
def kind_of(value: Any, usual: str) -> str:
    """How a condition's value is typed: as is usual for it, or `other` where a field can't say it."""
    fits = {
        "number": _number_like(value)
        or (isinstance(value, dict) and set(value) <= {"min", "max"} and all(map(_number_like, value.values()))),
        "words": _words_like(value),
        "yes or no": isinstance(value, bool),
    }
    return usual if fits.get(usual) else "other"


def _names_like(value: Any) -> bool:
    return all(map(_number_like, value if isinstance(value, list) else [value]))


def _number_like(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _words_like(value: Any) -> bool:
    words = value if isinstance(value, list) else [value]
    return all(_number_like(word) and "," not in str(word) and str(word).strip() == str(word) for word in words)


def words_in(value: Any) -> str:
    """Words as they are typed: `CHEST, THORAX`."""
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def words_from(text: str) -> Any:
    """One word, or a list."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    return words if len(words) > 1 else words[0] if words else ""


def range_in(value: Any) -> tuple[str, str]:
    """From and to, as they are typed."""
    if isinstance(value, dict):
        return str(value.get("min", "")), str(value.get("max", ""))
    return str(value), str(value)


def range_from(low: str, high: str) -> Any:
    """A number, or what is between two."""
    if low and low == high:
        return number(low)
    return {key: number(text) for key, text in (("min", low), ("max", high)) if text}


def number(text: str) -> Any:
    """As a number; a text that is none stays, so that the check says what is wrong with it."""
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        return value if value == value and abs(value) != float("inf") else text
    return text


# --- what stands in the fields, as values -----------------------------------------------------------------------------------
class _Fields:
    """What the browser sent, by name."""

    def __init__(self, entries: Entries) -> None:
        self._all: dict[str, list[str]] = {}
        for name, value in entries:
            self._all.setdefault(name, []).append(value)

    def one(self, name: str) -> str | None:
        return self._all[name][0].strip() if name in self._all else None

    def several(self, name: str) -> list[str]:
        return [value for value in self._all.get(name, ()) if value]


def rules_from(entries: Entries, before: Sequence[Rule], kinds: Mapping[str, str]) -> list[Rule]:
    """The rules with what was changed in the fields. `kinds`: of each condition."""
    fields = _Fields(entries)
    names = [str(rule.get("name", "")) for rule in before]
    rules = [_rule(fields, f"r{number}", rule, names, kinds) for number, rule in enumerate(before)]
    renamed = {rule[WAS]: rule["name"] for rule in rules if WAS in rule and names.count(rule[WAS]) == 1}
    for rule in rules:  # who waits for a rule waits for it under its new name
        if _names_like(rule.get("after", [])) and renamed.keys() & set(_names(rule, "after")):
            names_now = [renamed.get(name, name) for name in _names(rule, "after")]
            rule["after"] = names_now if isinstance(rule["after"], list) else names_now[0]
    return rules


def _rule(fields: _Fields, at: str, before: Rule, names: Sequence[str], kinds: Mapping[str, str]) -> Rule:
    rule = dict(before)
    name = fields.one(f"{at}.name")
    if name is not None and name != str(before.get("name", "")):
        rule["name"], rule[WAS] = name, str(before.get("name", ""))
    for key in ("run", "send_to"):
        _choose(rule, key, fields.several(f"{at}.{key}"), fields.one(f"{at}.{key}?") is not None)
    if "after" in rule or fields.several(f"{at}.after"):
        _choose(rule, "after", [_named(one, names) for one in fields.several(f"{at}.after")], fields.one(f"{at}.after?") is not None)
        if rule["after"] == [] != before.get("after"):  # nothing is waited for any more
            del rule["after"]
    for key, usual in (("series", "all"), ("priority", "routine")):
        _set(rule, key, fields.one(f"{at}.{key}"), str(before.get(key, usual)))
    _set(rule, "between", fields.one(f"{at}.between"), words_in(before.get("between", "")), words_from)
    if isinstance(rule.get("when"), dict):
        rule["when"] = _group(fields, f"{at}.when", rule["when"], kinds)
    for key in SEVERAL:
        if key in rule and _groups(rule[key]):
            one_of = partial(_group, kinds=kinds) if key in GROUPS else _asked
            changed = [one_of(fields, f"{at}.{key}.{index}", one) for index, one in enumerate(_listed(rule[key]))]
            rule[key] = changed if isinstance(rule[key], list) else changed[0]
    return rule


def _named(ticked: str, names: Sequence[str]) -> str:
    """The rule of a box: `#3` is the fourth one, whatever it is called meanwhile."""
    number = ticked.removeprefix("#")
    return names[int(number)] if ticked != number and number.isdecimal() and int(number) < len(names) else ticked


def _names(rule: Mapping[str, Any], key: str) -> list[str]:
    return [str(one) for one in _listed(rule.get(key, []))]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _set(rule: Rule, key: str, typed: str | None, shown: str, read: Any = str) -> None:
    if typed is None or typed == shown:
        return
    if typed:
        rule[key] = read(typed)
    else:
        rule.pop(key, None)


def _choose(rule: Rule, key: str, chosen: list[str], there: bool) -> None:
    """Of a list of boxes; the order of those that stay is kept."""
    now = rule.get(key, [])
    had = _listed(now)
    if not there or not _names_like(now) or set(map(str, had)) == set(chosen):
        return
    wanted = [one for one in had if one in chosen] + [one for one in chosen if one not in had]
    rule[key] = wanted if len(wanted) != 1 else wanted[0]


def _group(fields: _Fields, at: str, before: Mapping[str, Any], kinds: Mapping[str, str]) -> Rule:
    group = dict(before)
    for name, value in before.items():
        kind = kind_of(value, kinds.get(name, "other"))
        if kind == "number":
            low, high = fields.one(f"{at}.{name}.min"), fields.one(f"{at}.{name}.max")
            if low is not None and high is not None and (low, high) != range_in(value):
                group[name] = range_from(low, high)
        elif kind == "words":
            typed = fields.one(f"{at}.{name}")
            if typed is not None and typed != words_in(value):
                group[name] = words_from(typed)
        elif kind == "yes or no":
            group[name] = {"yes": True, "no": False}.get(fields.one(f"{at}.{name}") or "", value)
    return group


def _asked(fields: _Fields, at: str, before: Mapping[str, Any]) -> Rule:
    """What is asked of a finding, and where it sends to if it does."""
    one = dict(before)
    _set(one, "finding", fields.one(f"{at}.finding"), str(before.get("finding", "")))
    _choose(one, "send_to", fields.several(f"{at}.send_to"), fields.one(f"{at}.send_to?") is not None)
    low, high = fields.one(f"{at}.min"), fields.one(f"{at}.max")
    if low is not None and high is not None and (low, high) != _chance(before):
        one["probability"] = {key: number(text) for key, text in (("min", low), ("max", high)) if text}
        if not one["probability"]:
            del one["probability"]
    present = fields.one(f"{at}.present")
    if present is not None and present != _told(before.get("present")):
        one.pop("present", None)
        if present:
            one["present"] = present == "yes"
    return one


def _chance(one: Mapping[str, Any]) -> tuple[str, str]:
    value = one.get("probability", {})
    return range_in(value) if isinstance(value, dict) else ("", "")


def _told(value: Any) -> str:
    return "" if value is None else "yes" if value else "no"


def _groups(value: Any) -> bool:
    return all(isinstance(one, dict) for one in _listed(value))


# --- acts of buttons ----------------------------------------------------------------------------------------------------
def acted(rules: Sequence[Rule], act: Any, kinds: Mapping[str, str]) -> list[Rule]:
    """The rules after a button: `["open", number]` (they stay), `["add"]`, `["drop", path]`, `["move", from, to]`, `["condition", path, name]`, `["put", path, value]`.

    What makes no sense changes nothing: an act comes from a browser whose form may be older than the rules.
    """
    after: list[Rule] = json.loads(json.dumps(list(rules)))
    try:
        what, *more = act
        if what in {"drop", "condition", "put"}:
            _list_the_only_one(after, more[0])
        if what == "add":
            after.append(dict(NEW))
        elif what == "move":
            start, end = int(more[0]), int(more[1])
            if 0 <= start < len(after) and 0 <= end < len(after):
                after.insert(end, after.pop(start))
        elif what == "drop":
            *way, last = more[0]
            del _at(after, way)[last]
            if len(way) == 2 and not _at(after, way):  # an empty list of groups is no list of groups
                del after[way[0]][way[1]]
        elif what == "condition":
            group = _at(after, more[0], make={})
            group.setdefault(str(more[1]), {"number": {}, "yes or no": True}.get(kinds[str(more[1])], ""))
        elif what == "put":
            _at(after, more[0], make=[]).append(more[1])
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        return list(rules)
    return after


def _list_the_only_one(rules: list[Rule], way: Sequence[Any]) -> None:
    """`any_of: {…}` becomes a list, so that another one may stand beside it."""
    if len(way) > 1 and way[1] in SEVERAL and isinstance(rules[way[0]].get(way[1]), dict):
        rules[way[0]][way[1]] = [rules[way[0]][way[1]]]


def focus_after(act: Any, count: int) -> str:
    """Where the keyboard goes on after a button, as a CSS selector: the form is written anew, and what had the focus is gone."""
    try:
        what, *more = act
        if what == "condition":
            number, *way = more[0]
            return f'.sheet [name^="{".".join(["r" + str(int(number)), *map(str, way), str(more[1])])}"]'
        rule = {"add": count - 1, "move": more[-1:] and more[-1]}.get(what)
        if rule is None:
            rule = more[0] if what == "open" else more[0][0]
        return f".sheet details.rule:nth-of-type({min(int(rule), count - 1) + 1}) summary" if count else ".sheet button"
    except (TypeError, ValueError, IndexError, KeyError):
        return ".sheet button"


def _at(found: Any, way: Sequence[Any], make: Any = None) -> Any:
    for step in way[:-1]:
        found = found[step]
    if not way:
        return found
    if make is not None and isinstance(found, dict):
        found.setdefault(way[-1], make)
    return found[way[-1]]


# --- HTML ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Sheet:
    """Writes the form. `words`: what may be chosen, as `node.rules.form.words` says it."""

    words: Mapping[str, Any]

    @property
    def kinds(self) -> dict[str, str]:
        """How each condition is typed."""
        return {name: str(one["kind"]) for name, one in self.words["conditions"].items()}

    def html(self, rules: Sequence[Rule], opened: Sequence[bool]) -> Html:
        """All rules, in their order."""
        names = [str(rule.get("name", "")) for rule in rules]
        cards = [
            self._rule(number, rule, names, opened[number] if number < len(opened) else len(rules) < 3) for number, rule in enumerate(rules)
        ]
        offered = [Html(f'<option value="{safe(name)}"></option>') for name in self._findings]
        known = tag("datalist", *offered, id=_FINDINGS)
        return joined([*cards, known, tag("div", _act("Add a rule", ["add"]), class_="strip")])

    @property
    def _findings(self) -> list[str]:
        """Of all pipelines; those that dropped in do not say theirs."""
        return list(dict.fromkeys(finding for one in self.words["pipelines"].values() for finding in one["findings"]))

    def _rule(self, number: int, rule: Rule, names: Sequence[str], opened: bool) -> Html:
        at, name, count = f"r{number}", str(rule.get("name", "")), len(names)
        head = tag(
            "summary",
            tag("span", name, class_="rule-name"),
            tag("span", f" → {words_in(rule.get('run')) or 'nothing'} → {words_in(rule.get('send_to')) or 'nowhere'}", class_="soft"),
            tag("span", f", after {words_in(rule['after'])}", class_="soft") if rule.get("after") else Html(""),
        )
        about = f"rule {number + 1}, {name}"
        if count > MOST_IN_FULL and not opened:
            shut = tag("div", _act("Show the fields", ["open", number], about), class_="strip")
            return Html(f'<details class="rule">{head}{shut}</details>')
        moves = [
            _act("Up", ["move", number, number - 1], about) if number else Html(""),
            _act("Down", ["move", number, number + 1], about) if number + 1 < count else Html(""),
            _act("Remove the rule", ["drop", [number]], about),
        ]
        between = words_in(rule["between"]) if _words_like(rule.get("between", "")) and "between" in rule else ""
        pieces = [
            _line("Name", _text(f"{at}.name", name, size=40, maxlength="80")),
            self._conditions("All of these", f"{at}.when", [number, "when"], rule.get("when", {})),
            *(self._groups(number, key, rule.get(key)) for key in GROUPS),
            tag(
                "div",
                _act("Add a group: at least one of", ["put", [number, "any_of"], {}]),
                _act("Add a group: none of", ["put", [number, "none_of"], {}]),
                class_="strip",
            ),
            self._boxes("Run", f"{at}.run", rule.get("run", []), list(self.words["pipelines"])),
            self._boxes("Send to", f"{at}.send_to", rule.get("send_to", []), self.words["destinations"]),
            self._send_ifs(number, rule.get("send_if")),
            self._order(number, rule, names),
            tag(
                "div",
                _line(
                    "Series",
                    _choice(f"{at}.series", str(rule.get("series", "all")), {one: _SERIES.get(one, one) for one in self.words["series"]}),
                ),
                _line(
                    "Priority",
                    _choice(f"{at}.priority", str(rule.get("priority", "routine")), {one: one for one in self.words["priority"]}),
                ),
                _line("Only between", _text(f"{at}.between", between, size=14, placeholder="20:00-06:00")),
                class_="lines",
            ),
            tag("div", *moves, class_="strip"),
        ]
        return Html(f'<details class="rule"{" open" if opened else ""}>{head}{joined(pieces)}</details>')

    def _conditions(self, title: str, at: str, way: list[Any], group: Any, *more: Html) -> Html:
        if not isinstance(group, dict):
            return _fieldset(title, _only_yaml(group))
        rows = [
            tag("div", self._condition(f"{at}.{name}", name, value), _act("Remove", ["drop", [*way, name]], name), class_="condition")
            for name, value in group.items()
        ]
        free = {"": "add a condition …", **{name: name for name in self.words["conditions"] if name not in group}}
        add = Html(
            _choice(f"{at}+", "", free).replace(
                "<select", f'<select data-add="{safe(json.dumps(way))}" aria-label="Add a condition to: {safe(title)}"', 1
            )
        )
        return _fieldset(title, *rows, tag("div", add, *more, class_="strip"))

    def _condition(self, at: str, name: str, value: Any) -> Html:
        known = self.words["conditions"].get(name, {})
        kind = kind_of(value, str(known.get("kind", "other")))
        about = tag("span", name, title=f"{known.get('about', '')} {known.get('help', '')}".strip(), class_="name")
        if kind == "number":
            low, high = range_in(value)
            return joined(
                [
                    about,
                    _text(f"{at}.min", low, size=6, aria_label=f"{name} from", placeholder="from"),
                    _text(f"{at}.max", high, size=6, aria_label=f"{name} to", placeholder="to"),
                ]
            )
        if kind == "yes or no":
            return joined([about, _choice(at, "yes" if value else "no", {"yes": "yes", "no": "no"}, label=name)])
        if kind == "words":
            hint = ", ".join(known.get("allowed", ())) or str(known.get("help", ""))
            return joined([about, _text(at, words_in(value), size=20, aria_label=name, placeholder=hint)])
        return joined([about, _only_yaml(value)])

    def _groups(self, number: int, key: str, value: Any) -> Html:
        if value is None or _groups(value):
            groups = [
                self._conditions(
                    f"{GROUPS[key]}: group {index + 1}",
                    f"r{number}.{key}.{index}",
                    [number, key, index],
                    group,
                    _act("Remove the group", ["drop", [number, key, index]]),
                )
                for index, group in enumerate(_listed([] if value is None else value))
            ]
            return joined(groups)
        return _fieldset(GROUPS[key], _only_yaml(value))

    def _boxes(self, title: str, at: str, value: Any, known: Sequence[str]) -> Html:
        if not _names_like(value):
            return _fieldset(title, _only_yaml(value))
        chosen = [str(one) for one in _listed(value) if str(one)]
        boxes = [
            Html(
                f'<label><input type="checkbox" name="{safe(at)}" value="{safe(one)}"{" checked" if one in chosen else ""}> {safe(one)}</label>'
            )
            for one in [*known, *(one for one in chosen if one not in known)]
        ]
        there = Html(f'<input type="hidden" name="{safe(at)}?" value="1">')
        return _fieldset(title, tag("div", there, *boxes, class_="boxes"))

    def _send_ifs(self, number: int, value: Any) -> Html:
        if value is not None and not _groups(value):
            return _fieldset("Send on by finding", _only_yaml(value))
        pieces = [
            _fieldset(
                f"Send on by finding: {index + 1}",
                _finding(f"r{number}.send_if.{index}", one),
                self._boxes("goes to", f"r{number}.send_if.{index}.send_to", one.get("send_to", []), self.words["destinations"]),
                _act("Remove", ["drop", [number, "send_if", index]], f"send on by finding {index + 1}"),
            )
            for index, one in enumerate(_listed(value or []))
        ]
        new: Rule = {"finding": next(iter(self._findings), ""), "probability": {"min": 0.5}, "send_to": []}
        return joined([*pieces, tag("div", _act("Send on by finding …", ["put", [number, "send_if"], new]), class_="strip")])

    def _order(self, number: int, rule: Rule, names: Sequence[str]) -> Html:
        """Which rules this one waits for, and what they must have found. The first rule has none to wait for."""
        if not number and not rule.keys() & {"after", "if_found"}:
            return Html("")
        value, found = rule.get("after", []), rule.get("if_found")
        pieces = [self._after(number, value, names[:number]) if _names_like(value) else _fieldset(_AFTER, _only_yaml(value))]
        if found is not None and not _groups(found):
            return joined([*pieces, _fieldset(_IF_FOUND, _only_yaml(found))])
        pieces += [
            _fieldset(
                f"{_IF_FOUND}: {index + 1}",
                _finding(f"r{number}.if_found.{index}", one),
                _act("Remove", ["drop", [number, "if_found", index]], f"only if they found {index + 1}"),
            )
            for index, one in enumerate(_listed(found or []))
        ]
        new: Rule = {"finding": next(iter(self._findings), ""), "present": True}
        return joined([*pieces, tag("div", _act(f"{_IF_FOUND} …", ["put", [number, "if_found"], new]), class_="strip")])

    @staticmethod
    def _after(number: int, value: Any, above: Sequence[str]) -> Html:
        """A box for each rule above, known by its place: it may be renamed in the same form. One that is not above stays as it is called."""
        at, waits = f"r{number}.after", [str(one) for one in _listed(value)]
        boxes = [
            Html(
                f'<label><input type="checkbox" name="{at}" value="#{place}"{" checked" if name in waits else ""}> '
                f'<span data-named="r{place}.name">{safe(name)}</span></label>'
            )
            for place, name in enumerate(above)
        ]
        boxes += [
            Html(f'<label><input type="checkbox" name="{at}" value="{safe(name)}" checked> {safe(name)}</label>')
            for name in waits
            if name not in above
        ]
        return _fieldset(_AFTER, tag("div", Html(f'<input type="hidden" name="{at}?" value="1">'), *boxes, class_="boxes"))


def _finding(at: str, one: Mapping[str, Any]) -> Html:
    """A finding by name, its probability, the decision."""
    low, high = _chance(one)
    return tag(
        "div",
        _line("Finding", _text(f"{at}.finding", str(one.get("finding", "")), size=18, list=_FINDINGS)),
        _line("Probability from", _text(f"{at}.min", low, size=5)),
        _line("to", _text(f"{at}.max", high, size=5)),
        _line("Present", _choice(f"{at}.present", _told(one.get("present")), {"": "does not matter", "yes": "yes", "no": "no"})),
        class_="lines",
    )


def _fieldset(title: str, *inside: object) -> Html:
    return tag("fieldset", tag("legend", title), *inside)


def _only_yaml(value: Any) -> Html:
    return tag("span", tag("code", json.dumps(value, ensure_ascii=False)), " is changed in the YAML.", class_="soft")


def _line(title: str, control: Html) -> Html:
    return tag("label", tag("span", title), control, class_="line")


def _text(name: str, value: str, *, size: int, **more: str) -> Html:
    told = "".join(f' {key.replace("_", "-")}="{safe(one)}"' for key, one in more.items())
    return Html(f'<input name="{safe(name)}" value="{safe(value)}" size="{size}" autocomplete="off" spellcheck="false"{told}>')


def _choice(name: str, value: str, choices: Mapping[str, str], label: str = "") -> Html:
    options = {**choices, **({} if value in choices else {value: value})}
    inside = "".join(
        f'<option value="{safe(key)}"{" selected" if key == value else ""}>{safe(title)}</option>' for key, title in options.items()
    )
    named = f' aria-label="{safe(label)}"' if label else ""
    return Html(f'<select name="{safe(name)}"{named}>{inside}</select>')


def _act(title: str, act: list[Any], about: str = "") -> Html:
    more = {"aria_label": f"{title}: {about}"} if about else {}
    return tag("button", title, type="button", class_="act", data_act=json.dumps(act), **more)
