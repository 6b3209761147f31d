"""The editor of a policy: YAML in the colours of the theme, problems marked at their lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
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
from etui.tui.policies.completion import Completion
from etui.tui.policies.completion_list import CompletionList
from etui.tui.policies.typing_rules import Fix, indent_after
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
    """The text of one policy. Lines do not wrap, so that every row is a line.

    Args:
        completions: The list of completions, which takes some keys while it is open.
        complete: Returns what may be typed at (line, column), from 0.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+@,ctrl+space", "complete", "Complete", id="policies.complete",
                key_display="^space", show=False),
    ]  # fmt: skip

    COMPONENT_CLASSES: ClassVar[set[str]] = {*_PARTS.values(), "policy-editor--warning"}

    def __init__(
        self, completions: CompletionList, complete: Callable[[int, int], Completion | None]
    ) -> None:
        super().__init__(
            "", soft_wrap=False, tab_behavior="indent", show_line_numbers=True, id="editor"
        )
        self._completions = completions
        self._complete = complete
        self._found = ""
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

    def show_place(self, line: int, column: int) -> None:
        """Move the cursor to a position, counted from 1, and scroll to it."""
        row = min(max(0, line - 1), self.document.line_count - 1)
        self.move_cursor((row, max(0, column - 1)), center=True)

    def go_to(self, line: int, column: int) -> None:
        """Move the cursor to a position, counted from 1, and focus the editor."""
        self.show_place(line, column)
        self.focus()

    def highlight(self, words: str) -> None:
        """Mark every place of a text; an empty one marks none."""
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
        """List what may be typed at the cursor."""
        self._offer(asked=True)

    def action_delete_left(self) -> None:
        """Delete the character before the cursor; an open list of completions follows."""
        super().action_delete_left()
        if self._completions.completion is not None:
            self._offer()

    def on_blur(self) -> None:
        """Close the completions."""
        self._completions.close()

    async def _on_key(self, event: events.Key) -> None:
        is_open = self._completions.completion is not None and event.key in CompletionList.KEYS
        if is_open and self._use_completion_key(event.key):
            event.stop()
            event.prevent_default()
            return
        if event.key == "enter" and not self.read_only:
            event.stop()
            event.prevent_default()
            self._insert_line()
            return
        await super()._on_key(event)
        if event.is_printable and not self.read_only:
            self._offer()
        elif event.key != "backspace":
            self._completions.close()

    def _insert_line(self) -> None:
        """Begin a line with the indent of what belongs there."""
        self._completions.close()
        start, end = sorted((self.selection.start, self.selection.end))
        before = self.document.get_line(start[0])[: start[1]]
        self._replace_via_keyboard("\n" + " " * indent_after(before), start, end)

    def _use_completion_key(self, key: str) -> bool:
        """Use a key for the open list; returns whether the list took it."""
        completions = self._completions
        if key in ("up", "down"):
            completions.move(1 if key == "down" else -1)
        elif key == "tab" and completions.chosen is None:
            completions.move(1)
        elif key == "escape":
            completions.close()
        else:
            return self.take_completion()
        return True

    def take_completion(self) -> bool:
        """Insert the selected completion and close the list; returns whether one was selected."""
        chosen, completion = self._completions.chosen, self._completions.completion
        self._completions.close()
        if chosen is None or completion is None:
            return False
        row = self.cursor_location[0]
        self._replace_via_keyboard(chosen.insert, (row, completion.start), (row, completion.end))
        self.focus()
        return True

    def _offer(self, *, asked: bool = False) -> None:
        """Open the completions at the cursor, or close them if there are none.

        Without being asked, a list after nothing but a space has no selection: Enter stays a line
        break.
        """
        row, column = self.cursor_location
        completion = None
        if self.selection.is_empty:
            completion = self._complete(row, column)
        if completion is None:
            self._completions.close()
            return
        typed = self.document.get_line(row)[completion.start : column].strip()
        if typed or asked or self.document.get_line(row)[:column].endswith((": ", "[", "{", ", ")):
            exact = completion.candidates[0].text == typed
            selected = asked or bool(typed and not exact)
            self._completions.open(completion, self.cursor_screen_offset, selected=selected)
        else:
            self._completions.close()

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
