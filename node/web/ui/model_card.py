"""The figures of a model card: what stands below its heading *Figures*, as text and tables. Markdown is read as far as cards use it."""

from __future__ import annotations

import re

from node.web.ui.markup import Html, joined, more, table, tag

_FIGURES = re.compile(r"^##\s+Figures\s*$(.*?)(?=^##?\s|\Z)", re.MULTILINE | re.DOTALL)
_RULE = re.compile(r"\|[\s:|]*-[\s:|-]*\|")
_EMPTY = ("Figure", "Value", "", "", "")  #: heads where a card's table has none


def figures(card: str) -> str:
    """That part of a card; empty where it has none."""
    found = _FIGURES.search(card)
    return found[1].strip() if found else ""


def as_html(markdown: str, *, caption: str) -> Html:
    """Paragraphs, lists and tables; all that is in them is text. What follows the first table is shown when somebody asks."""
    blocks = [block.strip().splitlines() for block in re.split(r"\n\s*\n", markdown) if block.strip()]
    first = next((number for number, block in enumerate(blocks, 1) if block[0].startswith("|")), len(blocks))
    head, rest = ([_block(block, caption) for block in some] for some in (blocks[:first], blocks[first:]))
    return joined([*head, more("More figures", *rest)] if rest else head)


def _block(lines: list[str], caption: str) -> Html:
    if lines[0].startswith("|"):
        rows = [_cells(line) for line in lines if not _RULE.fullmatch(line.strip())]
        heads, *rest = rows
        return table(heads if any(heads) else _EMPTY[: len(heads)], rest, caption=caption)
    if lines[0].startswith(("- ", "* ")):
        items = re.split(r"\n[-*] ", "\n" + "\n".join(lines))
        return tag("ul", *(tag("li", _plain(item)) for item in items if item.strip()))
    if lines[0].startswith("#"):
        return joined([tag("p", tag("strong", lines[0].lstrip("# "))), *([_block(lines[1:], caption)] if lines[1:] else [])])
    return tag("p", _plain(" ".join(lines)))


def _cells(line: str) -> list[str]:
    return [_plain(cell.strip()) for cell in line.strip().strip("|").split("|")]


def _plain(text: str) -> str:
    return re.sub(r"\*\*|`", "", " ".join(text.split()))
