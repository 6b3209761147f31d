"""Save, create and delete policies, with a question before anything is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from textual.notifications import SeverityLevel
from textual.screen import Screen

from etui.config.config import Config
from etui.errors import UsageError
from etui.routing.editing import check_name, get_own_path
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.notices import notice_text
from etui.tui.policies import tasks
from etui.tui.policies.editing_pane import EditingPane
from etui.tui.policies.messages import Draft, Fact, PolicyCatalogue, PolicyEntry
from etui.tui.policies.modals import NewPolicy, NewPolicyModal
from etui.tui.policies.text import template_names
from etui.units import count_text


class PolicyFiles:
    """What a screen does with the files of policies.

    Args:
        screen: The screen, which shows questions and notices.
        run_task: Runs a task in a thread and posts its result to the screen.
        is_needed: Whether questions need the policy of a name, now or at the next start of etui.

    Attributes:
        catalogue: All policies; None until they are read.
    """

    def __init__(
        self,
        screen: Screen[Any],
        config: Config,
        pane: EditingPane,
        run_task: Callable[[Callable[[], Fact]], object],
        is_needed: Callable[[str], bool],
    ) -> None:
        self._screen = screen
        self._config = config
        self._pane = pane
        self._run_task = run_task
        self._is_needed = is_needed
        self.catalogue: PolicyCatalogue | None = None

    def save(self) -> None:
        """Save the text; for a shipped policy, ask for the name of the copy."""
        opened = self._pane.opened
        if opened is None:
            return
        if opened.place.origin == "shipped":
            self.save_as()
        else:
            self.save_draft(self._pane.build_draft(opened.place.name, opened))

    def save_as(self) -> None:
        """Ask for a name and save the text under it."""
        if self._pane.opened is not None:
            help_text = "Enter saves it; with the name of a shipped policy it replaces that one"
            modal = TextModal(
                "save to your policies as", self._pane.opened.place.name, help_text, one_line=True
            )
            self._screen.app.push_screen(modal, self._save_under)

    def save_draft(self, draft: Draft, *, with_errors: bool = False, over: bool = False) -> None:
        """Save a draft; the arguments are those of :func:`tasks.save_draft`."""
        if self.catalogue is not None:
            context = self.catalogue.context
            self._run_task(
                lambda: tasks.save_draft(draft, context, with_errors=with_errors, over=over)
            )

    def confirm_overwrite(self, draft: Draft, what: str) -> None:
        """Ask whether to overwrite a file that changed, or that exists already."""
        self.confirm(f"{what}: overwrite it?", lambda: self.save_draft(draft, over=True))

    def confirm_errors(self, draft: Draft, errors: int) -> None:
        """Ask whether to save a text with errors; refuse for the policy in use."""
        count = count_text(errors, "error")
        if self._is_needed(draft.name):
            self.notify(
                f"{draft.name} is in use, and the text has {count}",
                "fix them, or save it under another name",
            )
        else:
            self.confirm(
                f"the text has {count}: save it anyway?",
                lambda: self.save_draft(draft, with_errors=True),
            )

    def new(self, like: PolicyEntry | None) -> None:
        """Create a policy of the user from a template; ``like`` is selected at first."""
        if self.catalogue is not None:
            taken = {o.named for o in self.catalogue.policies if o.place.origin == "user"}
            templates = list(template_names(self.catalogue.policies))
            modal = NewPolicyModal(templates, taken, "" if like is None else like.named)
            self._screen.app.push_screen(modal, self._create)

    def delete(self, entry: PolicyEntry) -> None:
        """Delete a policy of the user, after a confirmation."""
        place = entry.place
        if place.origin != "user":
            self.notify(
                f"{entry.named} is not in your folder", "only your own policies can be deleted"
            )
        elif self._is_needed(entry.named) and not place.hides:
            self.notify(f"{entry.named} is in use", "use another policy first")
        else:
            shipped = " and use the shipped policy again" if place.hides else ""
            self.confirm(
                f"delete {place.path}{shipped}?",
                lambda: self._run_task(lambda: tasks.delete_policy(place)),
            )

    def confirm(self, question: str, then: Callable[[], object]) -> None:
        """Ask a question, and go on if the answer is yes."""

        def answered(yes: bool | None) -> None:
            if yes:
                then()

        self._screen.app.push_screen(ConfirmModal(question), answered)

    def notify(self, what: str, fix: str, severity: SeverityLevel = "error") -> None:
        """Show a notice."""
        self._screen.notify(notice_text(what, fix), severity=severity, markup=False)

    def _save_under(self, name: str | None) -> None:
        opened = self._pane.opened
        if name is None or opened is None:
            return
        try:
            check_name(name)
        except UsageError as error:
            self.notify(error.what, error.fix)
            return
        draft = self._pane.build_draft(name, opened)
        target = get_own_path(name, self._config)
        if target != opened.target:
            draft = replace(draft, target=target, before=None)
        self.save_draft(draft)

    def _create(self, new: NewPolicy | None) -> None:
        if new is None or self.catalogue is None:
            return
        template = self.catalogue.find(new.template) if new.template is not None else None

        def create() -> None:
            self._run_task(lambda: tasks.make_policy(new.name, template, self._config))

        if self._pane.changed:
            self.confirm("discard unsaved edits?", create)
        else:
            create()
