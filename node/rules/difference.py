"""How two texts of the rules differ: line by line, and rule by rule."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from node.conditions._lines import parse_yaml
from node.errors import RulesInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one text to another."""

    lines: tuple[str, ...]  #: a unified diff, without its two head lines
    added: tuple[str, ...]  #: names of rules
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    moved: bool  #: the rules that both have stand in another order

    @property
    def in_words(self) -> str:
        """`1 added, 2 changed`."""
        counts = {"added": len(self.added), "removed": len(self.removed), "changed": len(self.changed)}
        said = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join([*said, *(["another order"] if self.moved else [])]) or "the same rules"


def difference(before: str, after: str) -> Difference:
    """What changes from one text to the other. A text that can't be read counts as one without rules."""
    old, new = _rules(before), _rules(after)
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3))[2:]
    both = [name for name in new if name in old]
    return Difference(
        lines=tuple(lines),
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in both if old[name] != new[name]),
        moved=both != [name for name in old if name in new],
    )


def _rules(text: str) -> dict[str, Any]:
    """The rules by name, as plain values."""
    try:
        plain = parse_yaml(text, "rules").plain()
    except RulesInvalid:
        return {}
    listed = plain.get("rules") if isinstance(plain, dict) else None
    return {str(rule.get("name")): rule for rule in listed or [] if isinstance(rule, dict)} if isinstance(listed, list) else {}


def same_rules(before: str, after: str) -> frozenset[str]:
    """Names of the rules that say the same in both texts, whatever stands around them."""
    old, new = _rules(before), _rules(after)
    return frozenset(name for name in new if name in old and old[name] == new[name])
