"""The list of completions below the cursor of the editor; the keys stay with the editor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.content import Content
from textual.geometry import Offset
from textual.widgets import OptionList

from etui.text import count_cells, fit_cells, sanitize
from etui.tui.policies.completion import Candidate, Completion

_DETAIL_CELLS = 44
_NAME_CELLS = 32


class CompletionList(OptionList, can_focus=False):
    """The candidates, while there are any."""

    KEYS: ClassVar[frozenset[str]] = frozenset({"up", "down", "enter", "tab", "escape"})
    """Keys of the editor that belong to the list while it is open."""

    def __init__(self) -> None:
        super().__init__(id="completions", compact=True)
        self._completion: Completion | None = None
        self.display = False

    @property
    def completion(self) -> Completion | None:
        """What is offered; None while the list is closed."""
        return self._completion

    @property
    def chosen(self) -> Candidate | None:
        """The selected candidate; None before one is selected."""
        if self._completion is None or self.highlighted is None:
            return None
        return self._completion.candidates[self.highlighted]

    def open(self, completion: Completion, below: Offset, *, selected: bool) -> None:
        """Show candidates below a place of the screen.

        Args:
            selected: Whether the first one is selected already.
        """
        self._completion = completion
        self.set_options(candidate_lines(completion.candidates))
        self.highlighted = 0 if selected else None
        self.absolute_offset = Offset(max(0, below.x - 1), below.y + 1)
        self.display = True

    def close(self) -> None:
        """Hide the list."""
        self._completion = None
        self.display = False

    def move(self, rows: int) -> None:
        """Select the next or the previous candidate."""
        if self.option_count:
            row = -1 if self.highlighted is None else self.highlighted
            self.highlighted = max(0, min(self.option_count - 1, row + rows))


def candidate_lines(candidates: Sequence[Candidate]) -> list[Content]:
    """Format one line for each candidate, with the names in a column."""
    names = [fit_cells(sanitize(one.text), _NAME_CELLS) for one in candidates]
    width = max((count_cells(name) for name in names), default=0)
    return [
        Content.assemble(
            (name + " " * (width - count_cells(name)), "bold"),
            (f"  {fit_cells(sanitize(one.detail), _DETAIL_CELLS)}", "$foreground 60%"),
        )
        for name, one in zip(names, candidates, strict=True)
    ]
