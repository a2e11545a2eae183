"""Rules as a form and as YAML, both true: JSON values out of a text, and a text out of changed values that keeps its comments."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from io import StringIO
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from node.conditions._lines import LARGEST, parse_yaml
from node.conditions.interface import Condition, OneOf, Range, Words
from node.domain import Priority
from node.errors import RulesInvalid
from node.registry import Registry
from node.router import RULE_KEYS, SEND_IF_KEYS, Choice, Needs

Form = dict[str, Any]
WAS = "was"  #: in a form: the name that a rule had before it was renamed
WIDEST = 120  #: letters of a line; longer lists are broken


# --- a text as a form -----------------------------------------------------------------------------------------------------
def form_of(text: str) -> Form:
    """`{"rules": [{"name": …, "when": {…}, …}, …]}`, values as they stand in the text. Raises RulesInvalid.

    The text need not be valid rules, but it must be YAML with a list of rules: what is wrong in one of them `RuleBook.validate` says.
    """
    top = parse_yaml(text, "rules")
    plain = top.plain()
    if not isinstance(plain, dict) or not isinstance(plain.get("rules"), list) or not all(isinstance(r, dict) for r in plain["rules"]):
        raise top.wrong("rules: a list of rules is expected here")
    return {"rules": plain["rules"]}


def words(pipelines: Mapping[str, Needs], destinations: Collection[str]) -> dict[str, Any]:
    """What a form offers: keys, conditions with their help, pipelines with what they find, destinations, closed words."""
    conditions = Registry("node.conditions", Condition)  # type: ignore[type-abstract]
    return {
        "keys": list(RULE_KEYS),
        "send_if_keys": list(SEND_IF_KEYS),
        "conditions": {
            name: {
                "help": conditions[name].help,
                "about": (conditions[name].__doc__ or "").strip(),
                "kind": _kind(conditions[name]),
                "allowed": list(getattr(conditions[name], "allowed", ())),
            }
            for name in conditions
        },
        "pipelines": {
            name: {"modalities": list(one.modalities), "findings": list(one.findings)} for name, one in sorted(pipelines.items())
        },
        "destinations": sorted(destinations),
        "priority": [one.value.lower() for one in Priority],
        "series": [one.value for one in Choice],
    }


def _kind(condition: type[Condition]) -> str:
    """What is typed: `number` (one, or from and to), `words`, `yes or no`; `other`: only YAML can say it."""
    if issubclass(condition, Range):
        return "number"
    if issubclass(condition, OneOf | Words):
        return "words"
    try:
        condition.parse(True)
    except ValueError:
        return "other"
    return "yes or no"


# --- a form as a text -----------------------------------------------------------------------------------------------------
def text_of(form: Mapping[str, Any], base: str = "") -> str:
    """The YAML of a form, written into `base`: what did not change stays as it was, with its comments. Raises RulesInvalid.

    A rule is known by its name, or by the name it had (`was`). Comments go with the rule and the key that they stand behind.
    """
    wanted = _checked(form)
    try:
        text = _into(base, wanted)
        if form_of(text)["rules"] == _without_was(wanted):
            return text
    except (RulesInvalid, YAMLError, ValueError, AttributeError, KeyError, TypeError):
        pass  # an odd text: its comments can't be kept
    text = yaml.safe_dump({"rules": _without_was(wanted)}, sort_keys=False, allow_unicode=True, width=WIDEST)
    if form_of(text)["rules"] != _without_was(wanted):
        raise RulesInvalid("the form holds letters that can't be written as YAML")
    return text


def _checked(form: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules of a form as JSON values, within the bounds of a rules file."""
    rules = form.get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise RulesInvalid("a form is an object whose `rules` is a list of objects")
    try:
        text = json.dumps(rules, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RulesInvalid("a form holds JSON values only") from None
    if len(text) > LARGEST:
        raise RulesInvalid(f"larger than {LARGEST // 2**20} MiB")
    return [dict(rule) for rule in json.loads(text)]


def _without_was(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in rule.items() if key != WAS} for rule in rules]


def _into(base: str, wanted: list[dict[str, Any]]) -> str:
    """The base with the wanted rules, by a parser that keeps comments. The base was read within bounds before."""
    if base.strip():
        form_of(base)
    rt = YAML(typ="rt")
    rt.preserve_quotes, rt.width = True, WIDEST
    rt.indent(mapping=2, sequence=2 + _dash(base), offset=_dash(base))
    top = rt.load(base) if base.strip() else CommentedMap({"rules": CommentedSeq()})
    listed = top["rules"]
    known = {str(rule.get("name")): rule for rule in listed}
    before = [str(rule.get("name")) for rule in listed]
    after = [str(rule.get(WAS, rule.get("name"))) for rule in wanted]
    rules = [_rule(known.get(name), rule) for name, rule in zip(after, _without_was(wanted), strict=True)]
    if before == after:
        return _written(rt, top)  # each was changed where it stands
    listed[:] = []
    listed.extend(rules)
    return _written(rt, top)


def _dash(base: str) -> int:
    """How far in the dashes of the list of rules stand, so that a change of one value is no change of every line."""
    found = re.search(r"^( {0,4})- ", base, re.MULTILINE)
    return len(found[1]) if found else 2


def _written(rt: YAML, top: CommentedMap) -> str:
    out = StringIO()
    rt.dump(top, out)
    return out.getvalue()


def _rule(old: Any, new: dict[str, Any]) -> Any:
    if old is None:
        return _made(new)
    _change(old, new)
    return old


def _change(old: CommentedMap, new: Mapping[str, Any]) -> None:
    """Keys that went, keys that came, values that differ; the rest is not touched."""
    for key in [key for key in old if key not in new]:
        del old[key]
    for key, value in new.items():
        mine = old.get(key)
        if isinstance(mine, CommentedMap) and isinstance(value, dict):
            _change(mine, value)
        elif isinstance(mine, CommentedSeq) and isinstance(value, list) and len(mine) == len(value):
            for index, item in enumerate(value):
                if isinstance(mine[index], CommentedMap) and isinstance(item, dict):
                    _change(mine[index], item)
                elif _differs(mine[index], item):
                    mine[index] = _made(item)
        elif key not in old or _differs(mine, value):
            old[key] = _made(value)


def _differs(old: Any, new: Any) -> bool:
    return isinstance(old, bool) is not isinstance(new, bool) or bool(old != new)  # True == 1


def _made(value: Any) -> Any:
    """JSON values as YAML nodes: short lists and objects of words in one line, as people write them."""
    if isinstance(value, dict):
        made = CommentedMap({key: _made(one) for key, one in value.items()})
        if value and all(not isinstance(one, dict | list) for one in value.values()) and "name" not in value:
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        items = CommentedSeq([_made(one) for one in value])
        if all(not isinstance(one, dict | list) for one in value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, str) and _needs_quotes(value):
        return DoubleQuotedScalarString(value)
    return value


def _needs_quotes(text: str) -> bool:
    """Whether the node's own parser would read the bare word as something else."""
    try:
        return bool(yaml.safe_load(text) != text)
    except yaml.YAMLError:
        return True
