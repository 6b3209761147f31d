"""Save, create and delete policies, with a question before anything is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.notifications import SeverityLevel
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, Static

from etui.config.config import Config
from etui.errors import UsageError
from etui.routing.editing import check_name, get_own_path
from etui.text import sanitize
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.notices import notice_text
from etui.tui.policies import tasks
from etui.tui.policies.editing_pane import EditingPane
from etui.tui.policies.messages import Draft, Fact, PolicyCatalogue, PolicyEntry
from etui.tui.policies.text import template_names
from etui.tui.widgets.key_footer import KeyFooter
from etui.units import count_text


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """Name and template of a new policy; None as template starts from a blank file."""

    name: str
    template: str | None


class NewPolicyModal(ModalScreen[NewPolicy | None]):
    """Asks for a name and a template; the result is None if the user cancels.

    Args:
        templates: (name, description) of the policies to start from.
        like: Template that is selected at first.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="new_policy.up", show=False, priority=True),
        Binding("down", "move(1)", "Down", id="new_policy.down", show=False, priority=True),
        Binding("enter", "take", "Create", id="new_policy.take", priority=True),
        Binding("escape", "leave", "Cancel", id="new_policy.leave", priority=True),
    ]

    def __init__(
        self, templates: Sequence[tuple[str, str]], taken: Collection[str], like: str
    ) -> None:
        super().__init__()
        self._names: list[str | None] = [None, *(name for name, _ in templates)]
        self._taken = taken
        self._like = like
        self._name_input = Input(placeholder="name", compact=True)
        choices = [("blank", "two arms and two rules to fill in"), *templates]
        self._list = OptionList(
            *(_format_template(name, what) for name, what in choices), compact=True
        )
        self._hint = Static(
            "↑ ↓ choose a template · Enter creates the policy", markup=False, classes="help"
        )

    def compose(self) -> ComposeResult:
        """Build the name field, the list of templates and the hint."""
        with Vertical(classes="box"):
            yield Static("new policy", markup=False, classes="title")
            yield self._name_input
            yield self._list
            yield self._hint
        yield KeyFooter()

    def on_mount(self) -> None:
        """Select the first template and focus the name."""
        self._list.can_focus = False
        known = self._like in self._names
        self._list.highlighted = self._names.index(self._like) if known else 0
        self._name_input.focus()

    def action_move(self, steps: int) -> None:
        """Select the next or the previous template."""
        index = (self._list.highlighted or 0) + steps
        self._list.highlighted = max(0, min(index, len(self._names) - 1))

    def action_take(self) -> None:
        """Close with the name and the template, if the name is valid."""
        name = self._name_input.value.strip()
        try:
            check_name(name)
            if name in self._taken:
                raise UsageError(f"policy {name!r} already exists", "choose another name")
        except UsageError as error:
            self._hint.update(sanitize(f"✗ {error.what}: {error.fix}"))
            self._hint.add_class("-error")
        else:
            self.dismiss(NewPolicy(name, self._names[self._list.highlighted or 0]))

    def action_leave(self) -> None:
        """Cancel."""
        self.dismiss(None)


def _format_template(name: str, what: str) -> Content:
    return Content.assemble((sanitize(name), "bold"), (f"  {sanitize(what)}", "$foreground 60%"))


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
