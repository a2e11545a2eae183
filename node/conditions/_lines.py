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
    column: int = 1  #: from 1
    key_column: int = 0

    def wrong(self, what: str, *, at_key: bool = False) -> RulesInvalid:
        """The error that names this place."""
        if at_key and self.key_line:
            return wrong(self.source, self.key_line, self.key_column, what)
        return wrong(self.source, self.line, self.column, what)

    def plain(self) -> Any:
        """Without the lines."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return {key: item.plain() for key, item in self.value.items()} if isinstance(self.value, dict) else self.value


def wrong(source: str, line: int, column: int, what: str) -> RulesInvalid:
    """The error that names a place in a text."""
    return RulesInvalid(f"{source}, line {line}: {what}", at=(line, column, what))


def parse_yaml(text: str, source: str) -> Mark:
    """The one document in a text. Raises RulesInvalid."""
    if len(text) > LARGEST or len(text.encode("utf-8", "surrogatepass")) > LARGEST:
        raise RulesInvalid(f"{source}: larger than {LARGEST // 2**20} MiB")
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as why:
        at = getattr(why, "problem_mark", None) or getattr(why, "context_mark", None)
        what = getattr(why, "problem", None) or "not readable as YAML"
        raise wrong(source, at.line + 1 if at else 1, at.column + 1 if at else 1, what) from None
    except (ValueError, RecursionError) as why:
        raise RulesInvalid(f"{source}: not readable as YAML ({type(why).__name__})") from None
    if node is None:
        raise wrong(source, 1, 1, "the file is empty")
    return _marked(node, source)


def _check_events(text: str, source: str) -> None:
    """Size, depth, aliases and tags, before anything is built."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line, column = (event.start_mark.line + 1, event.start_mark.column + 1) if event.start_mark else (1, 1)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or count > MOST_NODES:
            raise wrong(source, line, column, "nested too deep" if depth > DEEPEST else "too long")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise wrong(source, line, column, "anchors and aliases (& and *) are not used in rules; put a leading * in quotes")
        if getattr(event, "tag", None):
            raise wrong(source, line, column, "tags (!) are not used in rules")


def _marked(node: yaml.Node, source: str, key_at: tuple[int, int] = (0, 0)) -> Mark:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    place: dict[str, Any] = {"line": line, "source": source, "key_line": key_at[0], "column": column, "key_column": key_at[1]}
    if isinstance(node, yaml.SequenceNode):
        return Mark([_marked(item, source) for item in node.value], **place)
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Mark] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1, key.start_mark.column + 1
            if not isinstance(key, yaml.ScalarNode):
                raise wrong(source, *at, "a key is a word")
            if key.value in out:
                raise wrong(source, *at, f"the key {key.value[:40]!r} stands twice")
            out[key.value] = _marked(value, source, at)
        return Mark(out, **place)
    return Mark(_scalar(node, source, line, column), **place)


def _scalar(node: yaml.Node, source: str, line: int, column: int) -> Any:
    """Text, number, true or false, or nothing. Dates and the like stay text."""
    if node.tag not in PLAIN_TAGS:
        return str(node.value)
    try:
        return SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError):
        raise wrong(source, line, column, "not a number that can be read") from None
