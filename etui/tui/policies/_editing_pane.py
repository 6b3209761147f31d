"""The right half of the policies screen: the edited policy, checked while the user types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static, TextArea

from etui.errors import Problem
from etui.tui._work import faults_shown, in_thread
from etui.tui.commands import Unsaved
from etui.tui.policies._completion import Known, complete, help_line
from etui.tui.policies._editor import PolicyEditor, find_fix, find_matches, next_fault
from etui.tui.policies._tasks import (
    FitRead,
    PolicyCatalogue,
    PolicyOpened,
    Subject,
    check,
    read_fit,
)
from etui.tui.policies._text import hint_line, problem_line, title_line, verdict_line
from etui.tui.widgets.tables import RowList
from etui.yaml.named_files import NamedFile

CHECK_AFTER_SECONDS = 0.2  # Delay from the last key to the check of the text
_HINT_AFTER_SECONDS = 0.05  # Delay from the last key to the help on the key under the cursor
_CHECKS = "policy-check"


class FindBar(Horizontal, can_focus=True):
    """A line above the editor. Enter in its field gives the keys to the bar itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,down", "move(1)", "Next", id="find.next", key_display="n"),
        Binding("N,up", "move(-1)", "Previous", id="find.previous", key_display="N"),
        Binding("slash", "type", "Other text", id="find.type", key_display="/"),
        Binding("enter", "edit", "Edit there", id="find.edit"),
    ]

    def __init__(self, editor: PolicyEditor) -> None:
        super().__init__(id="find")
        self._editor = editor
        self._input = Input(placeholder="find", compact=True)
        self._count = Static("", markup=False)
        self._places: list[tuple[int, int]] = []
        self._index = 0
        self.display = False

    def compose(self) -> ComposeResult:
        yield self._input
        yield self._count

    def open(self) -> None:
        """Find the selected text, or else what was found last, from the selection on."""
        self.display = True
        selected = self._editor.selected_text
        if selected and "\n" not in selected:
            self._input.value = selected
        self._find(self._editor.selection.start)
        self.action_type()

    def action_move(self, steps: int) -> None:
        if self._places:
            self._index = (self._index + steps) % len(self._places)
        self._show()

    def action_type(self) -> None:
        self._input.focus()
        self._input.action_select_all()

    def action_edit(self) -> None:
        """Close; the cursor stays at the place."""
        self.display = False
        self._editor.highlight("")
        self._editor.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        changed.stop()
        if self.display:
            self._find(self._places[self._index] if self._places else (0, 0))

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        if self._places:
            self.focus()

    def _find(self, at: tuple[int, int]) -> None:
        self._places = find_matches(self._editor.text, self._input.value)
        later = (index for index, place in enumerate(self._places) if place >= at)
        self._index = next(later, 0)
        self._show()

    def _show(self) -> None:
        words = self._input.value
        count = f"{self._index + 1} of {len(self._places)}" if self._places else "not found"
        self._count.update(count if words else "")
        self._editor.highlight(words if self._places else "")
        if self._places:
            row, column = self._places[self._index]
            self._editor.show_place(row + 1, column + 1)


class Problems(RowList):
    """The problems found by the check, errors first.

    Enter takes the suggestion of a problem, and goes to the line of one without a suggestion.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Fix, or go there", id="policies.go_to"),
        Binding("space", "show_line", "Go to the line", id="policies.go_only", show=False),
    ]

    def __init__(self, editor: PolicyEditor) -> None:
        super().__init__(id="problems", compact=True)
        self._editor = editor
        self.problems: tuple[Problem, ...] = ()
        self._error_count = 0
        self.display = False

    def show(self, errors: Sequence[Problem], warnings: Sequence[Problem]) -> None:
        """Show problems, and mark their lines; the list is hidden if there are none."""
        self._editor.mark(errors, warnings)
        index = self.highlighted or 0
        self.problems, self._error_count = (*errors, *warnings), len(errors)
        self.set_options(
            [problem_line(problem, at < len(errors)) for at, problem in enumerate(self.problems)]
        )
        if self.problems:
            self.highlighted = min(index, len(self.problems) - 1)
        self.display = bool(self.problems)

    def go_to_next(self) -> bool:
        """Go to the next error, or else warning, after the cursor; returns whether there is one."""
        row, column = self._editor.cursor_location
        severe = self.problems[: self._error_count] or self.problems
        problem = next_fault(severe, row + 1, column + 1)
        if problem is not None:
            self._editor.go_to(problem.line, problem.column)
        return problem is not None

    def action_show_line(self) -> None:
        if self.highlighted is not None:
            problem = self.problems[self.highlighted]
            self._editor.go_to(problem.line, problem.column)

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        selected.stop()
        problem = self.problems[selected.option_index]
        fix = find_fix(self._editor.text, problem)
        if fix is not None and not self._editor.read_only:
            self._editor.apply_fix(fix)
        else:
            self._editor.go_to(problem.line, problem.column)

    def on_option_list_option_highlighted(self, moved: OptionList.OptionHighlighted) -> None:
        moved.stop()
        if self.has_focus:
            problem = self.problems[moved.option_index]
            self._editor.show_place(problem.line, problem.column)


class EditingPane(Vertical):
    """An editor, the verdict on its text, and the list of problems.

    Args:
        on_checked: Called after each check of the text.

    Attributes:
        catalogue: All policies, and what texts are checked against; None until they are read.
        opened: The edited policy as it was read; None if no policy is open.
        changed: Whether the text has unsaved edits.
    """

    def __init__(self, on_checked: Callable[[], object]) -> None:
        super().__init__(id="desk")
        self.catalogue: PolicyCatalogue | None = None
        self.opened: PolicyOpened | None = None
        self.changed = False
        self._on_checked = on_checked
        self._saved_text = ""
        self._in_use = False
        self._fit = FitRead()
        self._check_timer: Timer | None = None
        self._hint_timer: Timer | None = None
        self._known: Known | None = None
        self._title = Static("", classes="title")
        self.editor = PolicyEditor(self._complete)
        self.find = FindBar(self.editor)
        self._hint = Static("", classes="hint")
        self._verdict = Static("", classes="verdict")
        self._problems = Problems(self.editor)

    def compose(self) -> ComposeResult:
        yield self._title
        yield self.find
        yield self.editor
        yield self._hint
        yield self._verdict
        yield self._problems

    def on_mount(self) -> None:
        self.editor.read_only = True

    @property
    def text(self) -> str:
        return self.editor.text

    @property
    def subject(self) -> Subject | None:
        """The text and what it is checked against; None while no policy is open."""
        if self.opened is None or self.catalogue is None:
            return None
        place = replace(self.opened.place, path=self.opened.target)
        return Subject(self.text, place, self.catalogue, self._fit.facts)

    def take_catalogue(self, catalogue: PolicyCatalogue) -> None:
        """Check against these models and policies from now on."""
        self.catalogue, self._known = catalogue, None

    def show(self, opened: PolicyOpened | None) -> bool:
        """Show a policy for editing; None clears the editor.

        Returns:
            Whether the text is unchanged: the editor makes mixed line endings uniform.
        """
        self.opened = opened
        self._fit = FitRead()
        self.editor.read_only = opened is None
        self.editor.show("" if opened is None else opened.text)
        self._saved_text = self.editor.text
        self._verdict.update("" if opened is None else verdict_line(None))
        self._problems.show((), ())
        self.find.display = False
        self._handle_edit()
        self._read_fit_now()
        return opened is None or self._saved_text == opened.text

    def update_place(self, opened: PolicyOpened) -> None:
        """Replace the opened policy by one with the same text at a place of another kind."""
        self.opened = opened
        self._show_title()
        self._read_fit_now()

    def mark_saved(self, name: str, saved: PolicyOpened, now: bytes) -> None:
        """Take a text as saved under a name; edits made since then stay unsaved."""
        place = saved.place
        if saved.target != place.path:
            place = NamedFile(name, saved.target, "user")
        named = saved.named if place.origin == "file" else name
        self.opened = replace(saved, named=named, place=place, before=now)
        self._saved_text = saved.text
        self._handle_edit()
        self._read_fit_now()

    def save_aside(self) -> None:
        """Save unsaved text next to its file, as ``NAME.unsaved``; it is lost if that fails."""
        if self.opened is not None and self.changed:
            target = self.opened.target
            with suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.with_name(f"{target.name}.unsaved").write_text(self.text, encoding="utf-8")

    def show_use(self, in_use: bool) -> None:
        self._in_use = in_use
        self._show_title()

    def on_text_area_changed(self, changed: TextArea.Changed) -> None:
        changed.stop()
        self.editor.colour()
        self._handle_edit()

    def on_text_area_selection_changed(self) -> None:
        if self._hint_timer is not None:
            self._hint_timer.stop()
        self._hint_timer = self.set_timer(_HINT_AFTER_SECONDS, self._show_hint)

    def next_fault(self) -> bool:
        """Go to the next fault after the cursor; returns whether there is one."""
        is_there = self._problems.go_to_next()
        self._show_hint()
        return is_there

    def close_overlay(self) -> bool:
        """Drop the suggestion, or else close the find bar; returns whether one was open."""
        if self.editor.suggestion:
            self.editor.suggestion = ""
            return True
        if self.find.display:
            self.find.action_edit()
            return True
        return False

    def _handle_edit(self) -> None:
        """Report whether the text is saved, and schedule a check after the last key."""
        changed = self.opened is not None and self.text != self._saved_text
        if changed != self.changed:
            self.changed = changed
            name = self.opened.place.name if self.opened is not None else ""
            # Posted to the app itself: a message created while the screen handles one (as it does
            # after a save) bubbles no further than the screen.
            self.app.post_message(Unsaved(f"policy {name}" if changed else "", self.save_aside))
        self._show_title()
        self.workers.cancel_group(self, _CHECKS)  # its verdict would be on another text
        if self._check_timer is not None:
            self._check_timer.stop()
        self._check_timer = self.set_timer(CHECK_AFTER_SECONDS, self._check_now)

    def _show_title(self) -> None:
        if self.opened is None:
            self._title.update("no policy is open")
        else:
            self._title.update(
                title_line(self.opened, changed=self.changed, in_use=self._in_use, fit=self._fit)
            )

    def _complete(self, row: int, column: int) -> list[str]:
        if self.catalogue is None or self.editor.read_only:
            return []
        return complete(self.text, row, column, self._get_known())

    def _show_hint(self) -> None:
        """Show the problem of the cursor's line, or else the help on the key there."""
        row, column = self.editor.cursor_location
        here = (problem for problem in self._problems.problems if problem.line == row + 1)
        text = ""
        if self.opened is not None:
            text = help_line(self.text, row, column, self._get_known())
        self._hint.update(hint_line(next(here, None), text))

    def _get_known(self) -> Known:
        if self._known is None:
            from etui.routing.schema.policy_file import json_schema  # imports pydantic

            known = self.catalogue
            models = () if known is None else tuple(known.catalogue.models)
            self._known = Known(json_schema(), models, () if known is None else known.names)
        return self._known

    def _check_now(self) -> None:
        if (subject := self.subject) is not None:
            self._check(subject)

    def _read_fit_now(self) -> None:
        """Read the fit of the opened policy: it may be new, or the saved arms are others now."""
        if self.opened is not None and (subject := self.subject) is not None:
            self._read_fit(replace(subject, fit=None), self.opened.named)

    @work(exclusive=True, group="policy-fit", exit_on_error=False)
    async def _read_fit(self, subject: Subject, named: str) -> None:
        with faults_shown(self):
            fit = await in_thread(lambda: read_fit(subject))
            if self.opened is None or self.opened.named != named:
                return
            known, self._fit = self._fit, fit
            self._show_title()
            if fit.facts != known.facts:
                self._handle_edit()  # what was fitted is part of the check

    @work(exclusive=True, group=_CHECKS, exit_on_error=False)
    async def _check(self, subject: Subject) -> None:
        with faults_shown(self):
            verdict = await in_thread(lambda: check(subject))
            self._verdict.update(verdict_line(verdict))
            self._problems.show(verdict.checked.errors, verdict.warnings)
            self._show_hint()
            self._on_checked()
