"""Find words in a chat: which turns have them, their marks on the screen, the line to type them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Collapsible, Input, Static

from etui.tui.chat._turn_view import TurnView
from etui.turn.record import TurnRecord

_FOUND_STYLE, _CURRENT_STYLE = "reverse", "bold $background on $accent"
_MARKUP = str.maketrans("", "", "*_`")


def find_turns(records: Sequence[TurnRecord], words: str) -> list[int]:
    """Return the indices of the turns whose question, thinking or answer has ``words``.

    Upper and lower case are the same, and so are line breaks and spaces. Signs of Markdown for
    emphasis and code may be between the words.
    """
    sought = _plain(words)
    return [
        index
        for index, record in enumerate(records)
        if sought
        and any(
            sought in text or sought in text.translate(_MARKUP)
            for text in map(_plain, (record.query, record.thinking, record.answer))
        )
    ]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


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
    return [found.span() for found in re.finditer(re.escape(sought), lower)]


Place = tuple[Widget, int]
"""A widget with found words, and the line in it where they are."""


class FoundWords:
    """The words of a search, marked in the texts of one turn; one place is the current one."""

    def __init__(self) -> None:
        self._view: TurnView | None = None
        self._texts: dict[Static, Content | str] = {}
        self._places: list[tuple[Static, int, int]] = []
        self._at = 0

    @property
    def turn_id(self) -> str | None:
        record = None if self._view is None else self._view.record
        return None if record is None else record.turn_id

    @property
    def place_text(self) -> str:
        """Which of the places in the turn is current; empty for the only one."""
        count = len(self._places)
        return f"place {self._at + 1} of {count}" if count > 1 else ""

    def mark(self, view: TurnView, words: str, *, at_end: bool) -> Place | None:
        """Mark the words in a turn, and choose the first place, or the last one; None for none.

        What is folded is unfolded.
        """
        self.clear()
        self._view = view
        for static in view.query(Static):
            text = static.content
            if not isinstance(text, Content | str) or not _is_text(static):
                continue
            content = text if isinstance(text, Content) else Content(text)
            spans = find_spans(content.plain, words)
            self._places += [(static, *span) for span in spans]
            if spans:
                self._texts[static] = text
        self._at = len(self._places) - 1 if at_end else 0
        return self._show()

    def step(self, step: int) -> Place | None:
        """Choose the next (1) or the earlier (-1) place in the turn; None at its ends."""
        if not 0 <= self._at + step < len(self._places):
            return None
        self._at += step
        return self._show()

    def clear(self) -> TurnView | None:
        for static, text in self._texts.items():
            if static.is_mounted:
                static.update(text)
        view, self._view = self._view, None
        self._texts.clear()
        self._places.clear()
        return view

    def _show(self) -> Place | None:
        if not self._places:
            return None
        for static, text in self._texts.items():
            content = text if isinstance(text, Content) else Content(text)
            for at, (of, start, end) in enumerate(self._places):
                if of is static:
                    style = _CURRENT_STYLE if at == self._at else _FOUND_STYLE
                    content = content.stylize(style, start, end)
            static.update(content)
        static, _, end = self._places[self._at]
        for box in static.ancestors:
            if isinstance(box, Collapsible):
                box.collapsed = False
        above = Content(static.visual.plain[:end]) if isinstance(static.visual, Content) else None
        width = static.content_size.width
        return static, len(above.wrap(width)) - 1 if above is not None and width else 0


def _is_text(static: Static) -> bool:
    """Check whether a widget shows a part of the question, the thinking or the answer."""
    own = static.has_class("question") or static.has_class("thought-text")
    from textual.widgets.markdown import MarkdownBlock  # its parser: after the first paint

    return own or isinstance(static, MarkdownBlock) or static.id == "code-content"


class FindBar(Horizontal):
    """One line to type what to find; hidden until it is asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.stop", "Close", id="find.close"),
    ]
    HELP = "## Find"

    def __init__(self) -> None:
        self._input = Input(placeholder="words in this chat", compact=True)
        self._result = Static("", markup=False, classes="found")
        sign = Static("Find", markup=False, classes="sign")
        super().__init__(sign, self._input, self._result, classes="find")
        self.display = False

    def open(self) -> None:
        self.display = True
        self._input.focus()
        self._input.select_all()

    def show_result(self, result: str) -> None:
        self._result.update(result)
