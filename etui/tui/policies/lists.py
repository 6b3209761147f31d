"""The lists of the policies screen: the policies there are, and the faults of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

from etui.errors import Problem
from etui.tui.policies.messages import CheckVerdict, PolicyEntry
from etui.tui.policies.text import entry_line, problem_line


class PolicyList(OptionList):
    """The policies there are; Enter opens one."""

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
        """Show these, the cursor where it was."""
        under = self.under_cursor
        self._policies = tuple(policies)
        self.set_options([entry_line(on, in_use(on)) for on in policies])
        self.put_cursor(under.named if under is not None else "")

    def put_cursor(self, named: str) -> None:
        """Move to a policy, or to the first where it is not there."""
        names = [on.named for on in self._policies]
        if names:
            self.highlighted = names.index(named) if named in names else 0

    @property
    def under_cursor(self) -> PolicyEntry | None:
        """The policy at the cursor."""
        at = self.highlighted
        return self._policies[at] if at is not None and at < len(self._policies) else None


class Problems(OptionList):
    """What the check found, the errors first; Enter goes to the place."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Go to the line", id="policies.go_to"),
    ]

    def __init__(self) -> None:
        super().__init__(id="problems", compact=True)
        self.problems: tuple[Problem, ...] = ()

    def show(self, verdict: CheckVerdict) -> None:
        """Show what was found, or nothing where nothing was."""
        errors = verdict.checked.errors
        warnings = (*verdict.checked.warnings, *verdict.failing)
        at = self.highlighted or 0
        self.problems = (*errors, *warnings)
        self.set_options(
            [problem_line(problem, n < len(errors)) for n, problem in enumerate(self.problems)]
        )
        if self.problems:
            self.highlighted = min(at, len(self.problems) - 1)
        self.display = bool(self.problems)
