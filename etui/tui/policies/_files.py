"""Save, create and delete policies, with a question before anything is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from functools import partial
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
from etui.routing.library import ChangedOnDisk, check_name, get_own_path, remove
from etui.text import one_line, sanitize
from etui.tui._work import faults_shown, in_thread, notice_text, start
from etui.tui.modals import TextModal, confirm
from etui.tui.policies import _tasks as tasks
from etui.tui.policies._editing_pane import EditingPane
from etui.tui.policies._tasks import Draft, PolicyCatalogue, PolicyEntry, PolicyOpened
from etui.tui.widgets.key_footer import KeyFooter
from etui.units import count_text


class NewPolicyModal(ModalScreen[tuple[str, str | None] | None]):
    """Asks for a name and a template (None for a blank file); the result is None if cancelled."""

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
        with Vertical(classes="box"):
            yield Static("new policy", markup=False, classes="title")
            yield self._name_input
            yield self._list
            yield self._hint
        yield KeyFooter()

    def on_mount(self) -> None:
        self._list.can_focus = False
        known = self._like in self._names
        self._list.highlighted = self._names.index(self._like) if known else 0
        self._name_input.focus()

    def action_move(self, steps: int) -> None:
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
            self.dismiss((name, self._names[self._list.highlighted or 0]))

    def action_leave(self) -> None:
        self.dismiss(None)


def _format_template(name: str, what: str) -> Content:
    return Content.assemble((sanitize(name), "bold"), (f"  {sanitize(what)}", "$foreground 60%"))


class PolicyFiles:
    """What a screen does with the files of policies.

    Args:
        read_again: Reads the list of policies again.
        is_needed: Whether questions need the policy of a name, now or at the next start of etui.

    Attributes:
        catalogue: All policies; None until they are read.
    """

    def __init__(
        self,
        screen: Screen[Any],
        config: Config,
        pane: EditingPane,
        *,
        show: Callable[[PolicyOpened], object],
        read_again: Callable[[], object],
        is_needed: Callable[[str], bool],
    ) -> None:
        self._screen = screen
        self._config = config
        self._pane = pane
        self._show = show
        self._read_again = read_again
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
            draft = self._pane.build_draft(opened.place.name, opened)
            self._run(partial(self._save, draft))

    def save_as(self) -> None:
        """Ask for a name and save the text under it."""
        if self._pane.opened is not None:
            self._run(partial(self._save_as, self._pane.opened))

    def new(self, like: PolicyEntry | None) -> None:
        """Create a policy of the user from a template; ``like`` is selected at first."""
        if self.catalogue is not None:
            self._run(partial(self._new, self.catalogue, "" if like is None else like.named))

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
            self._run(partial(self._delete, entry))

    def notify(self, what: str, fix: str, severity: SeverityLevel = "error") -> None:
        """Show a notice."""
        self._screen.notify(notice_text(what, fix), severity=severity, markup=False)

    async def may_discard(self) -> bool:
        """Return whether unsaved edits may be lost; asks if there are any."""
        return not self._pane.changed or await confirm(self._screen, "discard unsaved edits?")

    def _run(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def work() -> None:
            with faults_shown(self._screen):
                await job()

        start(self._screen, work, "policy-files")

    async def _save_as(self, opened: PolicyOpened) -> None:
        help_text = "Enter saves it; with the name of a shipped policy it replaces that one"
        modal = TextModal("save to your policies as", opened.place.name, help_text, one_line=True)
        name = await self._screen.app.push_screen_wait(modal)
        if name is None:
            return
        check_name(name)
        draft = self._pane.build_draft(name, opened)
        target = get_own_path(name, self._config)
        if target != opened.target:
            draft = replace(draft, target=target, before=None)
        await self._save(draft)

    async def _save(self, draft: Draft) -> None:
        if self.catalogue is None:
            return
        context = self.catalogue.context
        errors = await in_thread(lambda: tasks.count_errors(draft, context))
        count = count_text(errors, "error")
        if errors and self._is_needed(draft.name):
            what = f"{draft.name} is in use, and the text has {count}"
            self.notify(what, "fix them, or save it under another name")
            return
        if errors and not await confirm(self._screen, f"the text has {count}: save it anyway?"):
            return
        try:
            now = await in_thread(lambda: tasks.write_draft(draft, self._config))
        except ChangedOnDisk as clash:
            if not await confirm(self._screen, f"{clash.what}: overwrite it?"):
                return
            now = await in_thread(lambda: tasks.write_draft(draft, self._config, over=True))
        self._pane.mark_saved(draft, now)
        self.notify(f"saved as {draft.target}", "", "information")
        self._read_again()

    async def _new(self, catalogue: PolicyCatalogue, like: str) -> None:
        taken = {one.named for one in catalogue.policies if one.place.origin == "user"}
        templates = [
            (one.place.name, one_line(one.description or "has errors"))
            for one in catalogue.policies
        ]
        new = await self._screen.app.push_screen_wait(NewPolicyModal(templates, taken, like))
        if new is None or not await self.may_discard():
            return
        name, named = new
        template = None if named is None else catalogue.find(named)
        self._show(await in_thread(lambda: tasks.make_policy(name, template, self._config)))

    async def _delete(self, entry: PolicyEntry) -> None:
        place = entry.place
        shipped = " and use the shipped policy again" if place.hides else ""
        if not await confirm(self._screen, f"delete {place.path}{shipped}?"):
            return
        await in_thread(lambda: remove(place))
        self.notify(f"deleted {place.path}", "", "information")
        if self._pane.opened is not None and self._pane.opened.place == place:
            self._pane.show(None)
        self._read_again()
