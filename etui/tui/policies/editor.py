"""The editor of a policy: YAML in the colours of the theme, problems marked at their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip
from textual.widgets.text_area import LanguageDoesNotExist, TextAreaTheme

from etui.errors import Problem
from etui.text.sanitize import sanitize
from etui.tui.widgets.text_box import TextBox

_HIGHLIGHTED_CHARACTERS = 100_000
"""Longer texts stay plain: the whole text is highlighted again after every key."""

_PARTS = {
    "yaml.field": "policy-editor--key",
    "string": "policy-editor--text",
    "string.escape": "policy-editor--text",
    "number": "policy-editor--number",
    "boolean": "policy-editor--number",
    "constant.builtin": "policy-editor--number",
    "type": "policy-editor--number",
    "comment": "policy-editor--comment",
    "error": "policy-editor--error",
}
"""Kind of token in the YAML highlighter -> component class that styles it."""

_WORD = re.compile(r"[^\s,{}\[\]]+")


class PolicyEditor(TextBox):
    """The text of one policy. Lines do not wrap, so that every row is a line."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {*_PARTS.values(), "policy-editor--warning"}

    def __init__(self) -> None:
        super().__init__(
            "", soft_wrap=False, tab_behavior="indent", show_line_numbers=True, id="editor"
        )
        self.indent_width = 2
        self._syntax: dict[str, Style] = {}
        self._marks: dict[int, tuple[bool, set[int]]] = {}

    def on_mount(self) -> None:
        """Register the theme of the highlighter."""
        self.register_theme(TextAreaTheme("policy", syntax_styles=self._syntax))
        self.theme = "policy"

    def notify_style_update(self) -> None:
        """Take the colours of the current theme."""
        super().notify_style_update()
        with suppress(KeyError):  # no styles exist before the stylesheet is read
            for part, name in _PARTS.items():
                self._syntax[part] = self.get_component_rich_style(name, partial=True)

    def show(self, text: str) -> None:
        """Load another text and clear the undo history."""
        self._marks = {}
        self.language = None
        self.load_text(text)
        self.colour()

    def colour(self) -> None:
        """Highlight the text if the language is installed and the text is not too long."""
        language = "yaml" if len(self.text) <= _HIGHLIGHTED_CHARACTERS else None
        if language != self.language:
            selection = self.selection
            try:
                self.language = language
            except LanguageDoesNotExist:
                self.language = None
            self.selection = selection

    def mark(self, errors: Iterable[Problem], warnings: Iterable[Problem]) -> None:
        """Put a sign next to the lines of these problems, and underline the start of each."""
        marks: dict[int, tuple[bool, set[int]]] = {}
        for is_error, problems in ((False, warnings), (True, errors)):
            for problem in problems:
                if problem.line:
                    columns = marks.get(problem.line - 1, (False, set()))[1]
                    marks[problem.line - 1] = (is_error, {*columns, problem.column - 1})
        if marks != self._marks:
            self._marks = marks
            self.notify_style_update()  # drops the cached lines
            self.refresh()

    def marks(self) -> dict[int, str]:
        """Return the sign of each marked line, from 0: ``✗`` for an error, ``!`` for a warning."""
        return {line: "✗" if is_error else "!" for line, (is_error, _) in self._marks.items()}

    def go_to(self, line: int, column: int) -> None:
        """Move the cursor to a position, counted from 1, and scroll to it."""
        row = min(max(0, line - 1), self.document.line_count - 1)
        self.move_cursor((row, max(0, column - 1)), center=True)
        self.focus()

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is drawn, without control characters that the terminal would obey."""
        # Not the text of the superclass, which lets some control characters through.
        text = Text(sanitize(self.document.get_line(line_index)), end="", no_wrap=True)
        is_error, columns = self._marks.get(line_index, (False, set()))
        for column in columns:
            if found := _WORD.search(text.plain, column):
                style = self._mark_style(is_error)
                text.stylize(style + Style(underline=True), found.start(), found.end())
        return text

    def render_line(self, y: int) -> Strip:
        """Render a row with the sign of its line in the gutter."""
        strip = super().render_line(y)
        mark = self._marks.get(y + self.scroll_offset.y)
        if mark is None or self.gutter_width < 2:
            return strip
        style = self.rich_style + self._mark_style(mark[0]) + Style(bold=True)
        sign = Segment("✗ " if mark[0] else "! ", style)
        before = strip.crop(0, self.gutter_width - 2)
        after = strip.crop(self.gutter_width)
        return Strip.join([before, Strip([sign], 2), after])

    def _mark_style(self, is_error: bool) -> Style:
        name = "policy-editor--error" if is_error else "policy-editor--warning"
        return self.get_component_rich_style(name, partial=True)
