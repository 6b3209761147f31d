"""The right half of the policies screen: a policy being edited, checked while one types."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.timer import Timer
from textual.widgets import OptionList, Static, TextArea

from etui.routing.library import PolicyPlace
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
from etui.tui.policies.tasks import check, told
from etui.tui.policies.text import title_line, verdict_line

CHECK_AFTER_SECONDS = 0.2
"""So long after the last key the text is checked, and a question decided."""


class EditingPane(Vertical):
    """An editor, what the check says of its text, and the faults.

    Attributes:
        desk: What the text is checked against; None until the policies were read.
        opened: The policy that is edited, as it was read.
        changed: Whether something was typed that is not saved.
    """

    def __init__(self) -> None:
        super().__init__(id="desk")
        self.desk: PolicyContext | None = None
        self.opened: PolicyOpened | None = None
        self.changed = False
        self._clean = ""
        self._edit = 0
        self._in_use = False
        self._check_soon: Timer | None = None
        self._title = Static("", classes="title")
        self.editor = PolicyEditor()
        self._verdict = Static("", classes="verdict")
        self._problems = Problems()

    def compose(self) -> ComposeResult:
        yield self._title
        yield self.editor
        yield self._verdict
        yield self._problems

    def on_mount(self) -> None:
        self._problems.display = False
        self.editor.read_only = True

    @property
    def text(self) -> str:
        """The text as it is now."""
        return self.editor.text

    @property
    def subject(self) -> Subject | None:
        """The text with what it is judged against; None while nothing is open."""
        if self.opened is None or self.desk is None:
            return None
        return Subject(self.text, replace(self.opened.place, path=self.opened.target), self.desk)

    def show(self, opened: PolicyOpened | None) -> bool:
        """Begin with a policy; None shows none.

        Returns:
            Whether the text came through as it is: an editor of lines makes its line ends alike.
        """
        self.opened = opened
        self.editor.read_only = opened is None
        self.editor.show("" if opened is None else opened.text)
        self._clean = self.editor.text
        self._verdict.update("" if opened is None else verdict_line(None))
        self._problems.display = False
        self._text_is_new()
        return opened is None or self._clean == opened.text

    def take_place(self, opened: PolicyOpened) -> None:
        """The same text was found at a place of another kind."""
        self.opened = opened
        self._show_title()

    def draft(self, name: str, opened: PolicyOpened) -> Draft:
        """The text as it is, to be saved over what was opened."""
        return Draft(name, self.text, opened.target, opened.before, opened.place.path)

    def saved(self, saved: Saved) -> None:
        """The text of a draft is on disk; what was typed since is not."""
        if self.opened is None:
            return
        draft = saved.draft
        place = self.opened.place
        if draft.target != place.path:
            place = PolicyPlace(draft.name, draft.target, "user")
        named = self.opened.named if place.origin == "file" else draft.name
        self.opened = replace(
            self.opened,
            named=named,
            place=place,
            text=draft.text,
            target=draft.target,
            before=saved.now,
        )
        self._clean = draft.text
        self._text_is_new()

    def put_aside(self) -> None:
        """Write what is not saved beside its file; what cannot be written is lost."""
        if self.opened is not None and self.changed:
            target = self.opened.target
            with suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.with_name(f"{target.name}.unsaved").write_text(self.text, encoding="utf-8")

    def show_use(self, in_use: bool) -> None:
        """Say whether the next questions go by this policy."""
        self._in_use = in_use
        self._show_title()

    def on_text_area_changed(self, changed: TextArea.Changed) -> None:
        changed.stop()
        self.editor.colour()
        self._text_is_new()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        selected.stop()
        problem = self._problems.problems[selected.option_index]
        self.editor.go_to(problem.line, problem.column)

    def on_policy_news(self, news: PolicyNews) -> None:
        match news.fact:
            case CheckVerdict() as verdict if verdict.edit == self._edit:
                checked = verdict.checked
                self._verdict.update(verdict_line(verdict))
                self.editor.mark(checked.errors, (*checked.warnings, *verdict.failing))
                self._problems.show(verdict)

    def _text_is_new(self) -> None:
        """Tell whether it is saved, and have it checked once the keys rest."""
        self._edit += 1
        changed = self.opened is not None and self.text != self._clean
        if changed != self.changed:
            self.changed = changed
            name = self.opened.place.name if self.opened is not None else ""
            # Straight to the app: a message made while the screen has the turn (as it has when it
            # tells that the text is saved) bubbles no further than the screen.
            unsaved = Unsaved(f"policy {name}", self.put_aside) if changed else Unsaved("")
            self.app.post_message(AppRequest(unsaved))
        self._show_title()
        if self._check_soon is not None:
            self._check_soon.stop()
        self._check_soon = self.set_timer(CHECK_AFTER_SECONDS, self._check_now)

    def _show_title(self) -> None:
        if self.opened is None:
            self._title.update("no policy is open")
        else:
            self._title.update(title_line(self.opened, changed=self.changed, in_use=self._in_use))

    def _check_now(self) -> None:
        if (subject := self.subject) is not None:
            self._check(subject, self._edit)

    @work(thread=True, exclusive=True, group="policy-check", exit_on_error=False)
    def _check(self, subject: Subject, edit: int) -> None:
        self.post_message(PolicyNews(told(lambda: check(subject, edit))))
