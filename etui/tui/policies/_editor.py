"""The editor of a policy: YAML in the colours of the theme, problems marked, words completed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widgets.text_area import LanguageDoesNotExist, TextAreaTheme

from etui.errors import Problem
from etui.text import sanitize
from etui.tui.policies._completion import open_brackets
from etui.tui.widgets.lines import TextBox

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
_INDENT = 2  # Spaces of one level
_OPENS = re.compile(r":\s*(?:[|>][-+]?)?$")
_DASHES = re.compile(r" *((?:- +)*)")
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*\"""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_SUGGESTED = re.compile(r"did you mean '([^']+)'")
_PLAIN_WORD = re.compile(r"[^\s,:{}\[\]'\"#]+")


@dataclass(frozen=True, slots=True)
class Fix:
    """A replacement of the characters from ``start`` to ``end`` in a line; all count from 0."""

    line: int
    start: int
    end: int
    text: str


def indent_after(before: str) -> int:
    """Return the spaces that a new line begins with.

    A key without a value opens a level, the items of a list line up below the first key, and the
    rest of an open bracket lines up with what follows the bracket.
    """
    spaces = len(before) - len(before.lstrip(" "))
    plain = _QUOTED.sub(lambda found: "_" * len(found[0]), before)
    plain = _COMMENT.sub(lambda found: " " * len(found[0]), plain).rstrip()
    if not plain.strip():
        return spaces
    if brackets := open_brackets(plain):
        return brackets[-1] + 1
    dashes = _DASHES.match(plain)
    level = spaces + (len(dashes[1]) if dashes else 0)
    return level + _INDENT if _OPENS.search(plain) else level


def find_fix(text: str, problem: Problem) -> Fix | None:
    """Return the replacement that a problem suggests; None without one that still fits."""
    suggested = _SUGGESTED.search(problem.message)
    lines = text.split("\n")
    if suggested is None or not 1 <= problem.line <= len(lines):
        return None
    line, message = lines[problem.line - 1], problem.message[: suggested.start()]
    quoted = re.findall(r"'([^']+)'", message)
    for found in _PLAIN_WORD.finditer(line, max(0, problem.column - 1)):
        if found[0] in quoted and found[0] != suggested[1]:
            return Fix(problem.line - 1, found.start(), found.end(), suggested[1])
    return None


def next_fault(problems: tuple[Problem, ...], line: int, column: int) -> Problem | None:
    """Return the first problem after a cursor, or the first one of all; None without problems."""
    placed = sorted((p for p in problems if p.line), key=lambda p: (p.line, p.column))
    later = (p for p in placed if (p.line, p.column) > (line, column))
    return next(later, placed[0] if placed else None)


def find_matches(text: str, words: str) -> list[tuple[int, int]]:
    """Return (line, column) of each place of a text, from 0; case does not matter."""
    if not words:
        return []
    pattern = re.compile(re.escape(words), re.IGNORECASE)
    return [
        (number, found.start())
        for number, line in enumerate(text.split("\n"))
        for found in pattern.finditer(line)
    ]


class PolicyEditor(TextBox):
    """The text of one policy. Lines do not wrap, so that every row is a line.

    What may follow a typed word, by ``complete`` at (line, column), is shown behind the cursor:
    Tab or Right takes it, Ctrl+Space shows the next one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+@,ctrl+space", "complete", "Complete", id="policies.complete",
                key_display="^space", show=False),
    ]  # fmt: skip

    COMPONENT_CLASSES: ClassVar[set[str]] = {*_PARTS.values(), "policy-editor--warning"}

    def __init__(self, complete: Callable[[int, int], list[str]]) -> None:
        super().__init__(
            "", soft_wrap=False, tab_behavior="indent", show_line_numbers=True, id="editor"
        )
        self._complete = complete
        self._found = ""
        self.indent_width = 2
        self._syntax: dict[str, Style] = {}
        self._marks: dict[int, tuple[bool, set[int]]] = {}

    def on_mount(self) -> None:
        self.register_theme(TextAreaTheme("policy", syntax_styles=self._syntax))
        self.theme = "policy"

    def notify_style_update(self) -> None:
        super().notify_style_update()
        with suppress(KeyError):  # no styles exist before the stylesheet is read
            for part, name in _PARTS.items():
                self._syntax[part] = self.get_component_rich_style(name, partial=True)

    def show(self, text: str) -> None:
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

    def show_place(self, line: int, column: int) -> None:
        """Move the cursor to a position, counted from 1, and scroll to it."""
        row = min(max(0, line - 1), self.document.line_count - 1)
        self.move_cursor((row, max(0, column - 1)), center=True)

    def go_to(self, line: int, column: int) -> None:
        """Move the cursor to a position, counted from 1, and focus the editor."""
        self.show_place(line, column)
        self.focus()

    def highlight(self, words: str) -> None:
        if words != self._found:
            self._found = words
            self.notify_style_update()  # drops the cached lines
            self.refresh()

    def apply_fix(self, fix: Fix) -> None:
        """Replace a word by the suggestion of a fault; undo brings it back."""
        self.history.checkpoint()
        self.replace(fix.text, (fix.line, fix.start), (fix.line, fix.end))
        self.show_place(fix.line + 1, fix.start + 1)

    def action_complete(self) -> None:
        """Show what may be typed at the cursor, or the next that may be."""
        found = self._complete(*self.cursor_location) if self.selection.is_empty else []
        at = found.index(self.suggestion) + 1 if self.suggestion in found else 0
        self.suggestion = found[at % len(found)] if found else ""

    def watch_selection(self) -> None:
        """Drop the suggestion: it belongs to the place of the cursor."""
        self.suggestion = ""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "tab" and self.suggestion:
            event.stop()
            event.prevent_default()
            self.insert(self.suggestion)
            return
        if event.key == "enter" and not self.read_only:
            event.stop()
            event.prevent_default()
            start, end = sorted((self.selection.start, self.selection.end))
            before = self.document.get_line(start[0])[: start[1]]
            self._replace_via_keyboard("\n" + " " * indent_after(before), start, end)
            return
        await super()._on_key(event)
        if event.is_printable and event.key != "space" and not self.read_only:
            self.suggestion = next(iter(self._complete(*self.cursor_location)), "")

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is drawn, without control characters that the terminal would obey."""
        # Not the text of the superclass, which lets some control characters through.
        text = Text(sanitize(self.document.get_line(line_index)), end="", no_wrap=True)
        is_error, columns = self._marks.get(line_index, (False, set()))
        if self._found:
            for match in re.finditer(re.escape(self._found), text.plain, re.IGNORECASE):
                text.stylize(Style(reverse=True), match.start(), match.end())
        for column in columns:
            if found := _WORD.search(text.plain, column):
                style = self._mark_style(is_error)
                text.stylize(style + Style(underline=True), found.start(), found.end())
        return text

    def render_line(self, y: int) -> Strip:
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
