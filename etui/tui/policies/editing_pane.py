"""The right half of the policies screen: the edited policy, checked while the user types."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.timer import Timer
from textual.widgets import OptionList, Static, TextArea

from etui.tui.app_messages import AppRequest, Unsaved
from etui.tui.policies.editor import PolicyEditor
from etui.tui.policies.lists import Problems
from etui.tui.policies.messages import (
    CheckVerdict,
    Draft,
    PolicyContext,
    PolicyNews,
    PolicyOpened,
    Saved,
    Subject,
)
from etui.tui.policies.tasks import check, run_task
from etui.tui.policies.text import title_line, verdict_line
from etui.yaml.named_files import NamedFile

CHECK_AFTER_SECONDS = 0.2
"""Delay from the last key to the check of the text."""


class EditingPane(Vertical):
    """An editor, the verdict on its text, and the list of problems.

    Attributes:
        context: What the text is checked against; None until the policies are read.
        opened: The edited policy as it was read; None if no policy is open.
        changed: Whether the text has unsaved edits.
    """

    def __init__(self) -> None:
        super().__init__(id="desk")
        self.context: PolicyContext | None = None
        self.opened: PolicyOpened | None = None
        self.changed = False
        self._saved_text = ""
        self._edit_number = 0
        self._in_use = False
        self._check_timer: Timer | None = None
        self._title = Static("", classes="title")
        self.editor = PolicyEditor()
        self._verdict = Static("", classes="verdict")
        self._problems = Problems()

    def compose(self) -> ComposeResult:
        """Build the title, the editor, the verdict and the problems."""
        yield self._title
        yield self.editor
        yield self._verdict
        yield self._problems

    def on_mount(self) -> None:
        """Start without a policy."""
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
        return Subject(self.text, replace(self.opened.place, path=self.opened.target), self.context)

    def show(self, opened: PolicyOpened | None) -> bool:
        """Show a policy for editing; None clears the editor.

        Returns:
            Whether the text is unchanged: the editor makes mixed line endings uniform.
        """
        self.opened = opened
        self.editor.read_only = opened is None
        self.editor.show("" if opened is None else opened.text)
        self._saved_text = self.editor.text
        self._verdict.update("" if opened is None else verdict_line(None))
        self._problems.display = False
        self._handle_edit()
        return opened is None or self._saved_text == opened.text

    def update_place(self, opened: PolicyOpened) -> None:
        """Replace the opened policy by one with the same text at a place of another kind."""
        self.opened = opened
        self._show_title()

    def build_draft(self, name: str, opened: PolicyOpened) -> Draft:
        """Return the text as it is now as a draft that replaces the opened policy."""
        return Draft(name, self.text, opened.target, opened.before, opened.place.path)

    def mark_saved(self, saved: Saved) -> None:
        """Take the text of a draft as saved; edits made since then stay unsaved."""
        if self.opened is None:
            return
        draft = saved.draft
        place = self.opened.place
        if draft.target != place.path:
            place = NamedFile(draft.name, draft.target, "user")
        named = self.opened.named if place.origin == "file" else draft.name
        self.opened = replace(
            self.opened,
            named=named,
            place=place,
            text=draft.text,
            target=draft.target,
            before=saved.now,
        )
        self._saved_text = draft.text
        self._handle_edit()

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
        """Highlight and check the new text."""
        changed.stop()
        self.editor.colour()
        self._handle_edit()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        """Move the cursor to the selected problem."""
        selected.stop()
        problem = self._problems.problems[selected.option_index]
        self.editor.go_to(problem.line, problem.column)

    def on_policy_news(self, news: PolicyNews) -> None:
        """Show the verdict on the current text."""
        match news.fact:
            case CheckVerdict() as verdict if verdict.edit == self._edit_number:
                checked = verdict.checked
                self._verdict.update(verdict_line(verdict))
                self.editor.mark(checked.errors, (*checked.warnings, *verdict.failing))
                self._problems.show(verdict)

    def _handle_edit(self) -> None:
        """Report whether the text is saved, and schedule a check after the last key."""
        self._edit_number += 1
        changed = self.opened is not None and self.text != self._saved_text
        if changed != self.changed:
            self.changed = changed
            name = self.opened.place.name if self.opened is not None else ""
            # Posted to the app itself: a message created while the screen handles one (as it does
            # after a save) bubbles no further than the screen.
            unsaved = Unsaved(f"policy {name}", self.save_aside) if changed else Unsaved("")
            self.app.post_message(AppRequest(unsaved))
        self._show_title()
        if self._check_timer is not None:
            self._check_timer.stop()
        self._check_timer = self.set_timer(CHECK_AFTER_SECONDS, self._check_now)

    def _show_title(self) -> None:
        if self.opened is None:
            self._title.update("no policy is open")
        else:
            self._title.update(title_line(self.opened, changed=self.changed, in_use=self._in_use))

    def _check_now(self) -> None:
        if (subject := self.subject) is not None:
            self._check(subject, self._edit_number)

    @work(thread=True, exclusive=True, group="policy-check", exit_on_error=False)
    def _check(self, subject: Subject, edit: int) -> None:
        self.post_message(PolicyNews(run_task(lambda: check(subject, edit))))
