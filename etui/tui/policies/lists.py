"""The lists of the policies screen: all policies, and the problems of the edited one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from etui.errors import Problem
from etui.tui.policies.messages import CheckVerdict, PolicyEntry
from etui.tui.policies.text import entry_line, problem_line
from etui.tui.widgets.list_keys import RowList, has_words


class PolicyList(RowList):
    """All policies; Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="policies.open"),
        Binding("n", "screen.new", "New", id="policies.new"),
        Binding("d,delete", "screen.delete", "Delete", id="policies.delete", key_display="d"),
        Binding("u", "screen.use", "Use", id="policies.use_this"),
    ]

    def __init__(self) -> None:
        super().__init__(id="shelf", compact=True)
        self._all: tuple[PolicyEntry, ...] = ()
        self._policies: tuple[PolicyEntry, ...] = ()
        self._in_use: Callable[[PolicyEntry], bool] = lambda _entry: False
        self._words = ""

    def show(self, policies: Sequence[PolicyEntry], in_use: Callable[[PolicyEntry], bool]) -> None:
        """Show these policies and keep the cursor on its policy."""
        self._all, self._in_use = tuple(policies), in_use
        self._draw()

    def filter(self, words: str) -> None:
        """Show only the policies with all words in the name or the description."""
        self._words = words
        self._draw()

    def _draw(self) -> None:
        current = self.under_cursor
        self._policies = tuple(
            entry
            for entry in self._all
            if has_words(f"{entry.named} {entry.description or ''}", self._words)
        )
        self.set_options([entry_line(entry, self._in_use(entry)) for entry in self._policies])
        self.put_cursor(current.named if current is not None else "")

    def put_cursor(self, named: str) -> None:
        """Move the cursor to a policy, or to the first if it is not listed."""
        names = [entry.named for entry in self._policies]
        if names:
            self.highlighted = names.index(named) if named in names else 0

    @property
    def under_cursor(self) -> PolicyEntry | None:
        """The policy under the cursor."""
        index = self.highlighted
        return self._policies[index] if index is not None and index < len(self._policies) else None


class Problems(RowList):
    """The problems found by the check, errors first.

    Enter takes the suggestion of a problem, and goes to the line of one without a suggestion.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Fix, or go there", id="policies.go_to"),
        Binding("space", "show_line", "Go to the line", id="policies.go_only", show=False),
    ]

    class LineRequested(Message):
        """The line of a problem is to be shown."""

        def __init__(self, problem: Problem) -> None:
            super().__init__()
            self.problem = problem

    def __init__(self) -> None:
        super().__init__(id="problems", compact=True)
        self.problems: tuple[Problem, ...] = ()
        self._error_count = 0

    @property
    def most_severe(self) -> tuple[Problem, ...]:
        """The errors, or the warnings if there are no errors."""
        return self.problems[: self._error_count] or self.problems

    def show(self, verdict: CheckVerdict) -> None:
        """Show the problems of a verdict; the list is hidden if there are none."""
        errors = verdict.checked.errors
        warnings = (*verdict.checked.warnings, *verdict.failing)
        index = self.highlighted or 0
        self.problems = (*errors, *warnings)
        self._error_count = len(errors)
        self.set_options(
            [
                problem_line(problem, index < len(errors))
                for index, problem in enumerate(self.problems)
            ]
        )
        if self.problems:
            self.highlighted = min(index, len(self.problems) - 1)
        self.display = bool(self.problems)

    def clear(self) -> None:
        """Forget the problems and hide the list."""
        self.problems = ()
        self.clear_options()
        self.display = False

    def action_show_line(self) -> None:
        """Ask for the line of the selected problem."""
        if self.highlighted is not None:
            self.post_message(self.LineRequested(self.problems[self.highlighted]))
