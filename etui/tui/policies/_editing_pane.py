"""The right half of the policies screen: the edited policy, checked while the user types."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static, TextArea

from etui.errors import Problem
from etui.tui._work import faults_shown, in_thread
from etui.tui.commands import AppRequest, Unsaved
from etui.tui.policies._completion import Known, complete, help_line
from etui.tui.policies._editor import PolicyEditor, find_fix, find_matches, next_fault
from etui.tui.policies._tasks import (
    CheckVerdict,
    Draft,
    FitRead,
    PolicyContext,
    PolicyOpened,
    Subject,
    check,
    read_fit,
)
from etui.tui.policies._text import hint_line, problem_line, title_line, verdict_line
from etui.tui.widgets.tables import RowList
from etui.yaml.named_files import NamedFile

CHECK_AFTER_SECONDS = 0.2
"""Delay from the last key to the check of the text."""

_HINT_AFTER_SECONDS = 0.05
"""Delay from the last key to the help on the key under the cursor."""

_CHECKS = "policy-check"


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
        self.display = False

    def action_move(self, steps: int) -> None:
        """Go to the next or the previous place; after the last comes the first."""
        if self._places:
            self._index = (self._index + steps) % len(self._places)
        self._show()

    def action_type(self) -> None:
        self._input.focus()
        self._input.action_select_all()

    def action_edit(self) -> None:
        """Give the keys to the editor, at the place."""
        self.post_message(self.Closed())

    def on_input_changed(self, changed: Input.Changed) -> None:
        changed.stop()
        if self.display:
            self._find(self._places[self._index] if self._places else (0, 0))

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
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
        index = self.highlighted or 0
        self.problems = (*errors, *verdict.warnings)
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
        if self.highlighted is not None:
            self.post_message(self.LineRequested(self.problems[self.highlighted]))


class EditingPane(Vertical):
    """An editor, the verdict on its text, and the list of problems.

    Args:
        on_checked: Called after each check of the text.

    Attributes:
        context: What the text is checked against; None until the policies are read.
        opened: The edited policy as it was read; None if no policy is open.
        changed: Whether the text has unsaved edits.
    """

    def __init__(self, on_checked: Callable[[], object]) -> None:
        super().__init__(id="desk")
        self.context: PolicyContext | None = None
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
        self._find = FindBar()
        self._hint = Static("", classes="hint")
        self._verdict = Static("", classes="verdict")
        self._problems = Problems()

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._find
        yield self.editor
        yield self._hint
        yield self._verdict
        yield self._problems

    def on_mount(self) -> None:
        self._problems.display = False
        self.editor.read_only = True

    @property
    def text(self) -> str:
        """The current text."""
        return self.editor.text

    @property
    def subject(self) -> Subject | None:
        """The text and what it is checked against; None while no policy is open."""
        if self.opened is None or self.context is None:
            return None
        place = replace(self.opened.place, path=self.opened.target)
        return Subject(self.text, place, self.context, self._fit.facts)

    def use_context(self, context: PolicyContext) -> None:
        """Check against these models and policies from now on."""
        self.context, self._known = context, None

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
        self._problems.clear()
        self._find.close()
        self._handle_edit()
        self._read_fit_now()
        return opened is None or self._saved_text == opened.text

    def update_place(self, opened: PolicyOpened) -> None:
        """Replace the opened policy by one with the same text at a place of another kind."""
        self.opened = opened
        self._show_title()
        self._read_fit_now()

    def build_draft(self, name: str, opened: PolicyOpened) -> Draft:
        """Return the text as it is now as a draft that replaces the opened policy."""
        return Draft(name, self.text, opened.target, opened.before, opened.place.path)

    def mark_saved(self, draft: Draft, now: bytes) -> None:
        """Take the text of a draft as saved; edits made since then stay unsaved."""
        if self.opened is None:
            return
        place = self.opened.place
        if draft.target != place.path:
            place = NamedFile(draft.name, draft.target, "user")
        named = self.opened.named if place.origin == "file" else draft.name
        self.opened = PolicyOpened(named, place, draft.text, draft.target, now)
        self._saved_text = draft.text
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
        """Show whether this policy decides the next questions."""
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

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        """Take the suggestion of a problem; without one, go to its line."""
        selected.stop()
        problem = self._problems.problems[selected.option_index]
        if (fix := find_fix(self.text, problem)) is not None and not self.editor.read_only:
            self.editor.apply_fix(fix)
        else:
            self.editor.go_to(problem.line, problem.column)

    def on_option_list_option_highlighted(self, moved: OptionList.OptionHighlighted) -> None:
        moved.stop()
        if self._problems.has_focus:
            problem = self._problems.problems[moved.option_index]
            self.editor.show_place(problem.line, problem.column)

    def on_problems_line_requested(self, requested: Problems.LineRequested) -> None:
        self.editor.go_to(requested.problem.line, requested.problem.column)

    def next_fault(self) -> bool:
        """Go to the next error, or else warning, after the cursor; returns whether there is one."""
        row, column = self.editor.cursor_location
        problem = next_fault(self._problems.most_severe, row + 1, column + 1)
        if problem is not None:
            self.editor.go_to(problem.line, problem.column)
            self._show_hint()
        return problem is not None

    def open_find(self) -> None:
        """Find a text, at first the selected one."""
        selected = self.editor.selected_text
        words = selected if "\n" not in selected else ""
        self._find.open(self.text, words, self.editor.selection.start)

    def close_overlay(self) -> bool:
        """Drop the suggestion, or else close the find bar; returns whether one was open."""
        if self.editor.suggestion:
            self.editor.suggestion = ""
            return True
        if self._find.display:
            self.on_find_bar_closed()
            return True
        return False

    def on_find_bar_moved(self, moved: FindBar.Moved) -> None:
        self.editor.highlight(moved.words if moved.place is not None else "")
        if moved.place is not None:
            self.editor.show_place(moved.place[0] + 1, moved.place[1] + 1)

    def on_find_bar_closed(self) -> None:
        """Close the find bar; the cursor stays at the place."""
        self._find.close()
        self.editor.highlight("")
        self.editor.focus()

    def _handle_edit(self) -> None:
        """Report whether the text is saved, and schedule a check after the last key."""
        changed = self.opened is not None and self.text != self._saved_text
        if changed != self.changed:
            self.changed = changed
            name = self.opened.place.name if self.opened is not None else ""
            # Posted to the app itself: a message created while the screen handles one (as it does
            # after a save) bubbles no further than the screen.
            unsaved = Unsaved(f"policy {name}", self.save_aside) if changed else Unsaved("")
            self.app.post_message(AppRequest(unsaved))
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
        if self.context is None or self.editor.read_only:
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

            context = self.context
            models = () if context is None else tuple(context.catalogue.models)
            self._known = Known(json_schema(), models, () if context is None else context.names)
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
            self.editor.mark(verdict.checked.errors, verdict.warnings)
            self._problems.show(verdict)
            self._show_hint()
            self._on_checked()
