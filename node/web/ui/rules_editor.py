"""The YAML of the rules with line numbers, and below it what is wrong, each with the way to its line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from node.rules.book import Problem
from node.web.ui.markup import Html, chip, counted, joined, tag

_GO = """(event) => {
  const button = event.target.closest('[data-line]');
  if (!button) return;
  const area = document.querySelector('.editor textarea'), lines = area.value.split('\\n'), line = Number(button.dataset.line);
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + Number(button.dataset.column) - 1;
  area.focus();
  area.setSelectionRange(start, start);
  area.closest('.editor').scrollTop = (line - 4) * parseFloat(getComputedStyle(area).lineHeight);
}"""


class Editor:
    """`typed` is told when somebody changed the text."""

    def __init__(self, typed: Callable[[str], Awaitable[None]]) -> None:
        self._typed, self._text = typed, ""
        with ui.element("div").classes("editor"):
            self._numbers = ui.html("", sanitize=False).classes("numbers").props('aria-hidden="true"')
            self._area = ui.textarea(on_change=self._changed).classes("yaml")
            self._area.props(
                'borderless dense autogrow debounce=300 wrap=off maxlength=500000 spellcheck=false autocomplete=off aria-label="The rules as YAML"'
            )
        self._said = ui.html("", sanitize=False).classes("problems").props('role="status"')
        self._said.on("click", js_handler=_GO)

    def write(self, text: str) -> None:
        """Put another text in its place."""
        self._text = text
        self._area.set_value(text)

    def say(self, problems: Sequence[Problem], rules: int) -> None:
        """What is wrong with the text that stands there."""
        bad = {one.line for one in problems}
        lines = range(1, self._text.count("\n") + (0 if self._text.endswith("\n") else 1) + 1)
        self._numbers.set_content("\n".join(f'<span class="bad">{line}</span>' if line in bad else str(line) for line in lines))
        good = joined([chip("valid", "good"), f" {counted(rules, 'rule')}"])
        self._said.set_content(tag("ul", *map(_problem, problems), class_="wrong") if problems else good)

    async def _changed(self, event: ValueChangeEventArguments[str | None]) -> None:
        text = event.value or ""
        if text != self._text:
            self._text = text
            await self._typed(text)


def _problem(one: Problem) -> Html:
    if not one.line:
        return tag("li", one.what)
    place = f"line {one.line}, column {one.column}"
    button = tag("button", place, type="button", class_="act", data_line=str(one.line), data_column=str(one.column))
    return tag("li", button, f" {one.what}")
