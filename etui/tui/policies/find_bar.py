"""Find a text in the editor: a field for it, and keys that go through its places."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static

from etui.tui.policies.typing_rules import find_matches


class FindBar(Horizontal, can_focus=True):
    """A line above the editor. Enter in its field gives the keys to the bar itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,down", "move(1)", "Next", id="find.next", key_display="n"),
        Binding("N,up", "move(-1)", "Previous", id="find.previous", key_display="N"),
        Binding("slash", "type", "Other text", id="find.type", key_display="/"),
        Binding("enter", "edit", "Edit there", id="find.edit"),
    ]

    class Moved(Message):
        """A place was chosen; ``place`` is (line, column) from 0, None without any."""

        def __init__(self, place: tuple[int, int] | None, words: str) -> None:
            super().__init__()
            self.place = place
            self.words = words

    class Closed(Message):
        """The editor is to have the keys again."""

    def __init__(self) -> None:
        super().__init__(id="find")
        self._input = Input(placeholder="find", compact=True)
        self._count = Static("", markup=False)
        self._text = ""
        self._places: list[tuple[int, int]] = []
        self._index = 0
        self.display = False

    def compose(self) -> ComposeResult:
        """Build the field and the count of places."""
        yield self._input
        yield self._count

    def open(self, text: str, words: str, at: tuple[int, int]) -> None:
        """Find in a text, from a place on.

        Args:
            words: What to find first; empty keeps what was found last.
            at: (line, column) from which places are visited.
        """
        self._text = text
        self.display = True
        if words:
            self._input.value = words
        self._find(at)
        self._input.focus()
        self._input.action_select_all()

    def close(self) -> None:
        """Hide the bar."""
        self.display = False

    def action_move(self, steps: int) -> None:
        """Go to the next or the previous place; after the last comes the first."""
        if self._places:
            self._index = (self._index + steps) % len(self._places)
        self._show()

    def action_type(self) -> None:
        """Type another text."""
        self._input.focus()
        self._input.action_select_all()

    def action_edit(self) -> None:
        """Give the keys to the editor, at the place."""
        self.post_message(self.Closed())

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Find while the user types."""
        changed.stop()
        if self.display:
            self._find(self._places[self._index] if self._places else (0, 0))

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Go through the places with n and N."""
        submitted.stop()
        if self._places:
            self.focus()

    def _find(self, at: tuple[int, int]) -> None:
        self._places = find_matches(self._text, self._input.value)
        later = (index for index, place in enumerate(self._places) if place >= at)
        self._index = next(later, 0)
        self._show()

    def _show(self) -> None:
        words = self._input.value
        count = f"{self._index + 1} of {len(self._places)}" if self._places else "not found"
        self._count.update(count if words else "")
        place = self._places[self._index] if self._places else None
        self.post_message(self.Moved(place, words))
