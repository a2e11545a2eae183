"""YAML as plain values, each with its line: bounded, without aliases, tags or anything that could run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from node.errors import RulesInvalid

MOST_NODES, DEEPEST, LARGEST = 50_000, 12, 2**20
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


@dataclass(frozen=True, slots=True)
class Mark:
    """A value and where it stands: a scalar, a list of marks, or a mapping of text to marks."""

    value: Any
    line: int  #: from 1
    source: str
    key_line: int = 0  #: line of the key it belongs to

    def wrong(self, what: str, *, at_key: bool = False) -> RulesInvalid:
        """The error that names this line."""
        return RulesInvalid(f"{self.source}, line {self.key_line if at_key and self.key_line else self.line}: {what}")

    def plain(self) -> Any:
        """Without the lines."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return {key: item.plain() for key, item in self.value.items()} if isinstance(self.value, dict) else self.value


def parse_yaml(text: str, source: str) -> Mark:
    """The one document in a text. Raises RulesInvalid."""
    if len(text) > LARGEST:
        raise RulesInvalid(f"{source}: larger than {LARGEST // 2**20} MiB")
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as why:
        at = getattr(why, "problem_mark", None) or getattr(why, "context_mark", None)
        what = getattr(why, "problem", None) or "not readable as YAML"
        raise RulesInvalid(f"{source}, line {at.line + 1 if at else 1}: {what}") from None
    except (ValueError, RecursionError) as why:
        raise RulesInvalid(f"{source}: not readable as YAML ({type(why).__name__})") from None
    if node is None:
        raise RulesInvalid(f"{source}, line 1: the file is empty")
    return _marked(node, source, 0)


def _check_events(text: str, source: str) -> None:
    """Size, depth, aliases and tags, before anything is built."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = (event.start_mark.line if event.start_mark else 0) + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or count > MOST_NODES:
            raise RulesInvalid(f"{source}, line {line}: {'nested too deep' if depth > DEEPEST else 'too long'}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise RulesInvalid(f"{source}, line {line}: anchors and aliases (& and *) are not used in rules; put a leading * in quotes")
        if getattr(event, "tag", None):
            raise RulesInvalid(f"{source}, line {line}: tags (!) are not used in rules")


def _marked(node: yaml.Node, source: str, key_line: int) -> Mark:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Mark([_marked(item, source, 0) for item in node.value], line, source, key_line)
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Mark] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RulesInvalid(f"{source}, line {at}: a key is a word")
            if key.value in out:
                raise RulesInvalid(f"{source}, line {at}: the key {key.value[:40]!r} stands twice")
            out[key.value] = _marked(value, source, at)
        return Mark(out, line, source, key_line)
    return Mark(_scalar(node, source, line), line, source, key_line)


def _scalar(node: yaml.Node, source: str, line: int) -> Any:
    """Text, number, true or false, or nothing. Dates and the like stay text."""
    if node.tag not in PLAIN_TAGS:
        return str(node.value)
    try:
        return SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError):
        raise RulesInvalid(f"{source}, line {line}: not a number that can be read") from None
