"""The list over the prompt: commands after ``/``, paths after ``@``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from etui.text import sanitize

MOST_ROWS = 8


@dataclass(frozen=True, slots=True)
class MenuItem:
    """One line of the list."""

    title: str
    help_text: str  # What it does; empty for none
    value: Any  # What the prompt gets if it is chosen


class PromptMenu(OptionList, can_focus=False):
    """A list that is shown over the transcript while it has something to offer.

    It never has the focus: the prompt moves through it with its own keys.
    """

    class Picked(Message):
        """An item was clicked."""

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._items: tuple[MenuItem, ...] = ()
        self.display = False

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self.display and bool(self._items)

    @property
    def chosen(self) -> MenuItem | None:
        """The highlighted item; None while the list is closed."""
        at = self.highlighted
        if not self.is_open or at is None or at >= len(self._items):
            return None
        return self._items[at]

    def offer(self, items: Sequence[MenuItem]) -> None:
        """Show these items, the first one highlighted; without any, close the list."""
        if tuple(items) == self._items and self.display == bool(items):
            return
        self._items = tuple(items)
        self.clear_options()
        self.display = bool(items)
        if not items:
            return
        width = max(len(item.title) for item in items)
        self.add_options([Option(_draw(item, min(width, 40))) for item in items])
        self.highlighted = 0
        rows = min(len(items), MOST_ROWS)
        self.styles.height = rows
        self.styles.offset = (1, -rows)

    def close(self) -> None:
        """Hide the list."""
        self.offer(())

    def move(self, step: int) -> None:
        """Highlight the next (1) or the previous (-1) item, around the ends."""
        if self.is_open:
            self.highlighted = ((self.highlighted or 0) + step) % len(self._items)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Tell the screen that an item was clicked."""
        event.stop()
        self.post_message(self.Picked())


def _draw(item: MenuItem, width: int) -> Text:
    line = Text(sanitize(item.title).ljust(width), no_wrap=True, overflow="ellipsis")
    if item.help_text:
        line.append(f"  {sanitize(item.help_text)}", "dim")
    return line
