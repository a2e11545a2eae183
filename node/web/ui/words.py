"""An element of HTML with a text: a heading, a link, a paragraph. The text is text, whatever it holds."""

from __future__ import annotations

from nicegui.elements.mixins.text_element import TextElement


class Words(TextElement):
    """`Words("h2", "Findings")`."""

    def __init__(self, tag: str, text: str) -> None:
        super().__init__(tag=tag, text=text)
