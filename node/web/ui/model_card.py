"""The figures of a model card: what stands below its heading *Figures*, as text and tables. Markdown is read as far as cards use it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from node.web.ui.markup import Html, joined, more, table, tag

_FIGURES = re.compile(r"^##\s+Figures\s*$(.*?)(?=^##?\s|\Z)", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"\|[\s:|]*-[\s:|-]*\|")
ROWS = 6  #: of the first table are shown at once
_EMPTY = ("Figure", "Value", "", "", "")  #: heads where a card's table has none


def figures(card: str) -> str:
    """That part of a card; empty where it has none."""
    found = _FIGURES.search(card)
    return found[1].strip() if found else ""


def as_html(markdown: str, *, caption: str) -> Html:
    """Paragraphs, lists and tables; all that is in them is text. Shown are the first rows of the first table, the rest when somebody asks."""
    blocks = [block.strip().splitlines() for block in re.split(r"\n\s*\n", markdown) if block.strip()]
    first = next((number for number, block in enumerate(blocks) if block[0].startswith("|")), len(blocks))
    head = [_block(block, caption) for block in blocks[:first]]
    rest = [_block(block, caption) for block in blocks[first + 1 :]]
    if first < len(blocks):
        heads, rows = _table(blocks[first])
        head.append(table(heads, rows[:ROWS], caption=caption))
        if rows[ROWS:]:
            rest.insert(0, table(heads, rows[ROWS:], caption=f"{caption}, further rows"))
    return joined([*head, more("More figures", *rest)] if rest else head)


def _block(lines: list[str], caption: str) -> Html:
    if lines[0].startswith("|"):
        heads, rows = _table(lines)
        return table(heads, rows, caption=caption)
    if lines[0].startswith(("- ", "* ")):
        items = re.split(r"\n[-*] ", "\n" + "\n".join(lines))
        return tag("ul", *(tag("li", _plain(item)) for item in items if item.strip()))
    if lines[0].startswith("#"):
        return joined([tag("p", tag("strong", lines[0].lstrip("# "))), *([_block(lines[1:], caption)] if lines[1:] else [])])
    return tag("p", _plain(" ".join(lines)))


def _table(lines: list[str]) -> tuple[Sequence[str], list[list[str]]]:
    heads, *rows = (_cells(line) for line in lines if not _RULE.fullmatch(line.strip()))
    return heads if any(heads) else _EMPTY[: len(heads)], rows


def _cells(line: str) -> list[str]:
    return [_plain(cell.strip()) for cell in line.strip().strip("|").split("|")]


def _plain(text: str) -> str:
    return re.sub(r"\*\*|`", "", " ".join(text.split()))
