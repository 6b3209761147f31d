"""The lists of the policies screen: all policies, and the problems of the edited one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

from etui.errors import Problem
from etui.tui.policies.messages import CheckVerdict, PolicyEntry
from etui.tui.policies.text import entry_line, problem_line


class PolicyList(OptionList):
    """All policies; Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="policies.open"),
        Binding("n", "screen.new", "New", id="policies.new"),
        Binding("d,delete", "screen.delete", "Delete", id="policies.delete", key_display="d"),
        Binding("u", "screen.use", "Use", id="policies.use_this"),
    ]

    def __init__(self) -> None:
        super().__init__(id="shelf", compact=True)
        self._policies: tuple[PolicyEntry, ...] = ()

    def show(self, policies: Sequence[PolicyEntry], in_use: Callable[[PolicyEntry], bool]) -> None:
        """Show these policies and keep the cursor on its policy."""
        current = self.under_cursor
        self._policies = tuple(policies)
        self.set_options([entry_line(entry, in_use(entry)) for entry in policies])
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


class Problems(OptionList):
    """The problems found by the check, errors first; Enter goes to the line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Go to the line", id="policies.go_to"),
    ]

    def __init__(self) -> None:
        super().__init__(id="problems", compact=True)
        self.problems: tuple[Problem, ...] = ()

    def show(self, verdict: CheckVerdict) -> None:
        """Show the problems of a verdict; the list is hidden if there are none."""
        errors = verdict.checked.errors
        warnings = (*verdict.checked.warnings, *verdict.failing)
        index = self.highlighted or 0
        self.problems = (*errors, *warnings)
        self.set_options(
            [
                problem_line(problem, index < len(errors))
                for index, problem in enumerate(self.problems)
            ]
        )
        if self.problems:
            self.highlighted = min(index, len(self.problems) - 1)
        self.display = bool(self.problems)
