"""The halves of the policies screen: analyses, and the policy checked while the user types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import ClassVar, Literal, TypeAlias

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static, TextArea

from etui.errors import EtuiError, Problem
from etui.tui._work import faults_shown, in_thread
from etui.tui.commands import Unsaved
from etui.tui.policies import _tasks as tasks
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
from etui.tui.policies._text import (
    compared_lines,
    explained_lines,
    failed_lines,
    hint_line,
    problem_line,
    replay_lines,
    title_line,
    verdict_line,
)
from etui.tui.widgets.tables import RowList
from etui.yaml.named_files import NamedFile

CHECK_AFTER_SECONDS = 0.2  # Delay from the last key to the check of the text
_HINT_AFTER_SECONDS = 0.05  # Delay from the last key to the help on the key under the cursor
_CHECKS = "policy-check"
About: TypeAlias = Literal["", "explain", "replay", "compare"]
Lines: TypeAlias = Callable[[int], Sequence[str]]  # Formats a result for a width in cells
_EXPLAIN_AFTER_SECONDS = 0.2  # Delay from the last key to the decision about the typed question
_NARROWEST = 20
_GROUP = "policy-analysis"
_INTRODUCTION = """\
Type a question to see which arm (a model with a way to answer: direct; cot, which thinks first;
vote, the most frequent of several answers) would answer it under the text as it is now. A replay
estimates which questions of the history would move to another arm, and their joules. Both work
before you save; Use switches the chat to a policy."""
_TITLES: dict[About, str] = {
    "": "",
    "explain": "which arm would answer",
    "replay": "replay of the log",
    "compare": "differences",
}


class FindBar(Horizontal, can_focus=True):
    """A line above the editor. Enter in its field gives the keys to the bar itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,down", "move(1)", "Next", id="find.next", key_display="n"),
        Binding("N,up", "move(-1)", "Previous", id="find.previous", key_display="N"),
        Binding("slash", "type", "Other text", id="find.type", key_display="/"),
        Binding("enter", "edit", "Edit there", id="find.edit"),
    ]

    def __init__(self, editor: PolicyEditor) -> None:
        self._editor = editor
        self._input = Input(placeholder="find", compact=True)
        self._count = Static("", markup=False)
        super().__init__(self._input, self._count, id="find")
        self._places: list[tuple[int, int]] = []
        self._index = 0
        self.display = False

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
    """An editor, the verdict on its text, and the list of problems."""

    def __init__(self, on_checked: Callable[[], object]) -> None:
        self.catalogue: PolicyCatalogue | None = None  # None until the policies are read
        self.opened: PolicyOpened | None = None  # As it was read
        self.changed = False  # Whether the text has unsaved edits
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
        lines = self._hint, self._verdict, self._problems
        super().__init__(self._title, self.find, self.editor, *lines, id="desk")

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
        self.catalogue, self._known = catalogue, None

    def show(self, opened: PolicyOpened | None) -> bool:
        """Show a policy, or none; return False if mixed line endings of its text became uniform."""
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


class AnalysisPane(Vertical):
    """A field for a question, and below it the result of the last analysis."""

    def __init__(self, subject: Callable[[], Subject | None]) -> None:
        self._subject = subject
        self._explain_timer: Timer | None = None
        self._about: About = ""
        self._lines: Lines = partial(wrap, _INTRODUCTION)
        self.question = Input(
            placeholder="a question: which model would answer?", id="question", compact=True
        )
        self._title = Static("", markup=False, classes="title")
        self._body = Static("", markup=False)
        self.answer = VerticalScroll(self._title, self._body, id="answer", can_focus=True)
        super().__init__(self.question, self.answer, id="inquiries")

    def explain(self) -> None:
        if question := self.question.value.strip():
            self._start(
                "explain",
                lambda subject: partial(explained_lines, tasks.explain(question, subject)),
            )

    def replay(self) -> None:

        def task(subject: Subject) -> Lines:
            document, newest_only = tasks.replay(subject)
            return lambda width: replay_lines(document, newest_only, width)

        self._show("replay", lambda _width: ("…",))
        self._start("replay", task)

    def compare(self, other: Path) -> None:
        self._start(
            "compare", lambda subject: partial(compared_lines, tasks.compare(subject, other))
        )

    def text_changed(self) -> None:
        """Explain the question again: another text may decide differently."""
        if self._about == "explain":
            self.explain()

    def on_resize(self) -> None:
        self.call_after_refresh(self._write)  # the answer has its new width only then

    def on_input_changed(self) -> None:
        if self._explain_timer is not None:
            self._explain_timer.stop()
        if self._about == "explain":  # of a question that is no longer typed
            self.workers.cancel_group(self, _GROUP)
        self._explain_timer = self.set_timer(_EXPLAIN_AFTER_SECONDS, self.explain)

    def on_input_submitted(self) -> None:
        self.explain()

    def _start(self, about: About, task: Callable[[Subject], Lines]) -> None:
        if (subject := self._subject()) is not None:
            self._run(about, task, subject)

    @work(exclusive=True, group=_GROUP, exit_on_error=False)
    async def _run(self, about: About, task: Callable[[Subject], Lines], subject: Subject) -> None:
        try:
            lines = await in_thread(lambda: task(subject))
        except EtuiError as error:
            lines = partial(failed_lines, error.what, error.fix)
        self._show(about, lines)

    def _show(self, about: About, lines: Lines) -> None:
        if about != self._about:
            self.answer.scroll_home(animate=False)
        self._about, self._lines = about, lines
        self._title.update(_TITLES[about])
        self._write()

    def _write(self) -> None:
        width = max(_NARROWEST, self._body.size.width)
        self._body.update("\n".join(self._lines(width)))
