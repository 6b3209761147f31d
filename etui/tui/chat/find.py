"""Find words in the turns of a chat: which turns have them, and where they are on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from etui.turn.record import TurnRecord

_FOUND_STYLE = "reverse"


def find_turns(records: Sequence[TurnRecord], words: str) -> list[int]:
    """Return the indices of the turns whose question, thinking or answer has ``words``.

    Upper and lower case are the same.
    """
    sought = words.casefold()
    return [
        index
        for index, record in enumerate(records)
        if sought
        and any(sought in t.casefold() for t in (record.query, record.thinking, record.answer))
    ]


def choose_match(matches: Sequence[int], current: int, step: int) -> int | None:
    """Return the match after (1) or before (-1) the turn ``current``, going round at the ends.

    With 0 it is the match at ``current`` or the next one. None without any match.
    """
    if not matches:
        return None
    if step < 0:
        return next((m for m in reversed(matches) if m < current), matches[-1])
    at_least = current + step
    return next((m for m in matches if m >= at_least), matches[0])


def find_spans(text: str, words: str) -> list[tuple[int, int]]:
    """Return start and end of every occurrence of ``words`` in ``text``, without overlaps.

    Nothing is found in the rare text whose length changes with its case.
    """
    lower, sought = text.casefold(), words.casefold()
    if not sought or len(lower) != len(text) or len(sought) != len(words):
        return []
    spans, at = [], lower.find(sought)
    while at >= 0:
        spans.append((at, at + len(sought)))
        at = lower.find(sought, at + len(sought))
    return spans


class FoundWords:
    """The words of a search, marked in the texts of one turn until it is cleared."""

    def __init__(self) -> None:
        self._marked: list[tuple[Static, Content | str]] = []

    def mark(self, view: Widget, words: str) -> Static | None:
        """Mark the words in a turn, and return the first text that has them; None for none."""
        self.clear()
        first = None
        for static in view.query(Static):
            text = static.content
            if not isinstance(text, Content | str) or not _is_text(static):
                continue
            content = text if isinstance(text, Content) else Content(text)
            spans = find_spans(content.plain, words)
            if spans:
                self._marked.append((static, text))
                first = first or static
                for start, end in spans:
                    content = content.stylize(_FOUND_STYLE, start, end)
                static.update(content)
        return first

    def clear(self) -> None:
        """Show the texts without marks again."""
        for static, text in self._marked:
            if static.is_mounted:
                static.update(text)
        self._marked.clear()


def _is_text(static: Static) -> bool:
    """Check whether a widget shows a part of the question, the thinking or the answer."""
    own = static.has_class("question") or static.has_class("thought-text")
    from textual.widgets.markdown import MarkdownBlock  # its parser: after the first paint

    return own or isinstance(static, MarkdownBlock) or static.id == "code-content"


class FindBar(Horizontal):
    """One line to type what to find; hidden until it is asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="find.close"),
    ]

    class Sought(Message):
        """Words were entered."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Closed(Message):
        """The line was left."""

    def __init__(self) -> None:
        super().__init__(classes="find")
        self._input = Input(placeholder="find in this chat", compact=True)
        self._result = Static("", markup=False, classes="found")
        self.display = False

    def compose(self) -> ComposeResult:
        """Lay out the sign, the input and the result."""
        yield Static("/", markup=False, classes="sign")
        yield self._input
        yield self._result

    def open(self) -> None:
        """Show the line, with the words of the last search selected."""
        self.display = True
        self._input.focus()
        self._input.select_all()

    def show_result(self, result: str) -> None:
        """Show how many turns were found."""
        self._result.update(result)

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Search for the words."""
        submitted.stop()
        self.post_message(self.Sought(submitted.value.strip()))

    def action_close(self) -> None:
        """Hide the line and end the search."""
        self.display = False
        self.post_message(self.Closed())
