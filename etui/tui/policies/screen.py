"""The policies screen: edit, check while typing, explain and replay before saving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static

from etui.config.config import Config, shipped_dir
from etui.errors import UsageError
from etui.routing.library import ChangedOnDisk, check_name, get_own_path, remove
from etui.runtime.routes import Route
from etui.text import one_line, sanitize
from etui.tui._work import faults_shown, in_thread, notify_error, warn
from etui.tui.commands import Command, RouteRequested, build_commands
from etui.tui.modals import BoxModal, ask_line, confirm
from etui.tui.policies import _tasks as tasks
from etui.tui.policies._panes import AnalysisPane, EditingPane
from etui.tui.policies._tasks import PolicyCatalogue, PolicyEntry, PolicyOpened, list_files
from etui.tui.policies._text import MUTED, entry_line
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import RowList, has_words
from etui.units import count_text
from etui.yaml.named_files import NamedFile

_LOOK_SECONDS = 2.0  # How often the folder of policies is looked at while the screen is shown


class NewPolicyModal(BoxModal[tuple[str, str | None]]):
    """Asks for a name and a template (None for a blank file); the result is None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="new_policy.up", show=False, priority=True),
        Binding("down", "move(1)", "Down", id="new_policy.down", show=False, priority=True),
        Binding("enter", "take", "Create", id="new_policy.take", priority=True),
        Binding("escape", "dismiss", "Cancel", id="new_policy.leave", priority=True),
    ]

    def __init__(
        self, templates: Sequence[tuple[str, str]], taken: Collection[str], like: str
    ) -> None:
        self._names: list[str | None] = [None, *(name for name, _ in templates)]
        self._taken = taken
        self._like = like
        self._name_input = Input(placeholder="name", compact=True)
        choices = [("blank", "two arms and two rules to fill in"), *templates]
        self._list = OptionList(
            *(
                Content.assemble((sanitize(name), "bold"), (f"  {sanitize(what)}", MUTED))
                for name, what in choices
            ),
            compact=True,
        )
        self._hint = Static(
            "↑ ↓ choose a template · Enter creates the policy", markup=False, classes="help"
        )
        super().__init__("new policy", "", self._name_input, self._list, self._hint)

    def on_mount(self) -> None:
        self._list.can_focus = False
        known = self._like in self._names
        self._list.highlighted = self._names.index(self._like) if known else 0
        self._name_input.focus()

    def action_move(self, steps: int) -> None:
        index = (self._list.highlighted or 0) + steps
        self._list.highlighted = max(0, min(index, len(self._names) - 1))

    def action_take(self) -> None:
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


class PolicyList(RowList):
    """All policies; Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="policies.open"),
        Binding("n", "screen.new", "New", id="policies.new"),
        Binding("d,delete", "screen.delete", "Delete", id="policies.delete", key_display="d"),
        Binding("u", "screen.use", "Use selected", id="policies.use_this"),
    ]

    def __init__(self) -> None:
        super().__init__(id="shelf", compact=True)
        self._all: tuple[PolicyEntry, ...] = ()
        self._policies: tuple[PolicyEntry, ...] = ()
        self._used: str | None = None
        self._words = ""

    def show(self, policies: Sequence[PolicyEntry], used: str | None) -> None:
        self._all, self._used = tuple(policies), used
        self._draw()

    def filter(self, words: str) -> None:
        self._words = words
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        current = self.under_cursor
        self._policies = tuple(
            entry
            for entry in self._all
            if has_words(f"{entry.named} {entry.description or ''}", self._words)
        )
        width = self.scrollable_content_region.width - 1
        lines = [entry_line(one, one.named == self._used, width) for one in self._policies]
        self.set_options(lines)
        self.put_cursor(current.named if current is not None else "")

    def put_cursor(self, named: str) -> None:
        """Move the cursor to a policy, or to the first if it is not listed."""
        names = [entry.named for entry in self._policies]
        if names:
            self.highlighted = names.index(named) if named in names else 0

    @property
    def under_cursor(self) -> PolicyEntry | None:
        index = self.highlighted
        return self._policies[index] if index is not None and index < len(self._policies) else None


class PoliciesScreen(Screen[None]):
    """The list and the analyses on the left, the editor and its problems on the right."""

    AUTO_FOCUS = "#shelf"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="policies.save"),
        Binding("ctrl+e", "ask", "Try a question", id="policies.explain", priority=True),
        Binding("ctrl+r", "replay", "Replay history", id="policies.replay"),
        Binding("ctrl+b", "compare('saved')", "Diff", id="policies.diff"),
        Binding("ctrl+l", "use", "Use edited", id="policies.use"),
        Binding("f8", "next_fault", "Next fault", id="policies.next_fault"),
        Binding("ctrl+f", "find", "Find", id="policies.find", priority=True),
        Binding("slash", "filter", "Filter", id="policies.filter", show=False),
        Binding("escape", "back", "List", id="policies.back", priority=True),
    ]

    HELP = "## Policies"

    def __init__(self, config: Config, route: Callable[[], Route]) -> None:
        super().__init__()
        self._config = config
        self._route = route
        self._seen_files: frozenset[tuple[str, int]] = frozenset()
        self._filter = Input(placeholder="filter", id="filter", compact=True)
        self._policy_list = PolicyList()
        self._analysis = AnalysisPane(lambda: self._pane.subject)
        self._pane = EditingPane(self._analysis.text_changed)
        self._cursor_to = ""

    def compose(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="aside"):
                with Vertical(id="policy-list"):
                    yield self._filter
                    yield self._policy_list
                yield self._analysis
            yield self._pane
        yield KeyFooter()

    def on_mount(self) -> None:
        self._filter.display = False
        self.add_class("-aside")
        self.set_interval(_LOOK_SECONDS, self._look)

    def on_screen_resume(self) -> None:
        self._read_policies()

    def _look(self) -> None:
        if self.is_current and list_files(self._config) != self._seen_files:
            self._read_policies()

    def commands(self) -> list[Command]:
        return build_commands(
            ("policies: save", "Write the text to its file", self.action_save),
            ("policies: save as", "Save it under another name", self.action_save_as),
            ("policies: use", "Use it for the next questions", self.action_use),
            ("policies: explain a question", "Show which arm would answer it, and why",
             self.action_ask),
            ("policies: replay the log", "Show which questions would move", self.action_replay),
            ("policies: diff with the saved file", "Show what your edits change",
             partial(self.action_compare, "saved")),
            ("policies: diff with the shipped policy", "Show how yours differs",
             partial(self.action_compare, "shipped")),
            ("policies: find", "Find a text in the policy", self.action_find),
            ("policies: next fault", "Go to the next fault", self.action_next_fault),
            ("policies: new", "Create a policy from a template", self.action_new),
            ("policies: delete", "Delete one of your policies", self.action_delete),
            ("policies: read again", "Discard unsaved edits", self.action_read_again),
        )  # fmt: skip

    def action_save(self) -> None:
        opened = self._pane.opened
        if opened is not None and opened.place.origin == "shipped":
            self._save_as(opened)
        elif opened is not None:
            edited = replace(opened, text=self._pane.text)
            self._change(lambda: self._save(opened.place.name, edited))

    def action_save_as(self) -> None:
        if self._pane.opened is not None:
            self._save_as(self._pane.opened)

    def action_use(self) -> None:
        entry = self._selected_entry()
        if entry is None:
            return
        if self._pane.changed and self._is_open(entry):
            warn(self, "your edits are not saved", "save them first: ctrl+s")
        elif entry.description is None:
            notify_error(
                self, f"{entry.named} has errors, so it cannot be used", "fix and save it first"
            )
        else:
            self.post_message(RouteRequested(Route(entry.named)))

    def action_ask(self) -> None:
        self._go(self._analysis.question, aside=True)
        self._analysis.explain()

    def action_replay(self) -> None:
        self._go(self._analysis.answer, aside=True)
        self._analysis.replay()

    def action_compare(self, other: str) -> None:
        opened = self._pane.opened
        if opened is None:
            return
        path = opened.place.path
        if other == "shipped":
            path = shipped_dir() / "policies" / f"{opened.place.name}.yaml"
            if not path.is_file():
                warn(self, f"etui ships no policy {opened.place.name!r}")
                return
        self._go(self._analysis.answer, aside=True)
        self._analysis.compare(path)

    def action_new(self) -> None:
        catalogue, like = self._pane.catalogue, self._selected_entry()
        if catalogue is not None:
            self._change(lambda: self._new(catalogue, "" if like is None else like.named))

    def action_delete(self) -> None:
        entry = self._selected_entry()
        if entry is None:
            return
        if entry.place.origin != "user":
            what = f"{entry.named} is not in your folder"
            notify_error(self, what, "only your own policies can be deleted")
        elif self._is_needed(entry.named) and not entry.place.hides:
            notify_error(self, f"{entry.named} is in use", "use another policy first")
        else:
            self._change(lambda: self._delete(entry.place))

    def action_read_again(self) -> None:
        if (opened := self._pane.opened) is not None:
            self._open(PolicyEntry(opened.named, opened.place, None))

    def action_next_fault(self) -> None:
        if self._pane.opened is not None:
            self._go(self._pane.editor, aside=False)
            if not self._pane.next_fault():
                self.notify("no faults")

    def action_find(self) -> None:
        if self._pane.opened is not None:
            self.remove_class("-aside")
            self.call_after_refresh(self._pane.find.open)

    def action_filter(self) -> None:
        """Filter the list of policies; elsewhere, find a text in the open policy."""
        if self._policy_list.has_focus:
            self._filter.display = True
            self._filter.focus()
        else:
            self.action_find()

    def action_back(self) -> None:
        """Close what is open over the text, or else the filter; then go back to the list."""
        if self._pane.close_overlay():
            return
        self._filter.value = ""
        self._filter.display = False
        self._go(self._policy_list, aside=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (action == "back" and self._policy_list.has_focus and not self._filter.display)

    def on_descendant_focus(self, focused: DescendantFocus) -> None:
        self.set_class(self.query_one("#aside") in focused.widget.ancestors, "-aside")

    @on(Input.Changed, "#filter")
    def _filter_policies(self, changed: Input.Changed) -> None:
        self._policy_list.filter(changed.value)

    @on(Input.Submitted, "#filter")
    def _leave_filter(self) -> None:
        self._policy_list.focus()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        entry = self._policy_list.under_cursor
        if entry is not None and self._is_open(entry):
            self._go(self._pane.editor, aside=False)
        elif entry is not None:
            self._open(entry, to_edit=True)

    @work(exclusive=True, group="policy-list", exit_on_error=False)
    async def _read_policies(self) -> None:
        self._seen_files = list_files(self._config)
        active = self._route().policy
        with faults_shown(self):
            catalogue = await in_thread(lambda: tasks.read_policies(self._config, active))
            first = self._pane.catalogue is None
            self._pane.take_catalogue(catalogue)
            self.show_use()
            opened = self._pane.opened
            if first:
                self._policy_list.put_cursor(active)
            elif self._cursor_to and catalogue.find(self._cursor_to) is not None:
                self._policy_list.put_cursor(self._cursor_to)
                self._cursor_to = ""
            entry = self._policy_list.under_cursor
            if opened is not None:
                entry = catalogue.find(opened.named)
            if entry is not None and not self._pane.changed:
                self._show_reread(await in_thread(lambda: tasks.open_policy(entry, self._config)))

    def _show_reread(self, opened: PolicyOpened) -> None:
        """Show a policy that was read again by itself; it never replaces unsaved text."""
        known = self._pane.opened
        if self._pane.changed or (known is not None and known.named != opened.named):
            return
        if known is not None and (known.text, known.target) == (opened.text, opened.target):
            self._pane.update_place(opened)
        else:
            self._show_opened(opened)

    def _show_opened(self, opened: PolicyOpened) -> None:
        if not self._pane.show(opened):
            warn(self, "the file has mixed line endings", "saving makes them uniform")
        catalogue = self._pane.catalogue
        if catalogue is not None and catalogue.find(opened.named) is None:
            self._cursor_to = opened.named  # a new policy: it is in the list once that is read
            self._read_policies()
        else:
            self._policy_list.put_cursor(opened.named)
        self.show_use()

    def show_use(self) -> None:
        route, opened = self._route(), self._pane.opened
        used = route.policy if route.model is None else None
        if self._pane.catalogue is not None:
            self._policy_list.show(self._pane.catalogue.policies, used)
        self._pane.show_use(opened is not None and opened.named == used)

    def _is_needed(self, named: str) -> bool:
        """Return whether questions need this policy, now or at the next start of etui."""
        return named in (self._route().policy, self._config.policy)

    def _is_open(self, entry: PolicyEntry) -> bool:
        return self._pane.opened is not None and self._pane.opened.named == entry.named

    def _selected_entry(self) -> PolicyEntry | None:
        """Return the policy under the cursor of the list, or else the edited one."""
        catalogue, opened = self._pane.catalogue, self._pane.opened
        if catalogue is None or opened is None or self._policy_list.has_focus:
            return self._policy_list.under_cursor
        return catalogue.find(opened.named)

    def _go(self, widget: Widget, *, aside: bool) -> None:
        """Focus a widget; a narrow screen shows its side first."""
        self.set_class(aside, "-aside")
        if all(node.display for node in (widget, *widget.ancestors) if isinstance(node, Widget)):
            widget.focus()
        else:
            self.call_after_refresh(widget.focus)

    @work(exclusive=True, group="policy-open", exit_on_error=False)
    async def _open(self, entry: PolicyEntry, *, to_edit: bool = False) -> None:
        if to_edit and not await self._may_discard():
            return
        with faults_shown(self):
            self._show_opened(await in_thread(lambda: tasks.open_policy(entry, self._config)))
            if to_edit:
                self._go(self._pane.editor, aside=False)

    async def _may_discard(self) -> bool:
        """Return whether unsaved edits may be lost; asks if there are any."""
        return not self._pane.changed or await confirm(self, "discard unsaved edits?")

    @work(group="policy-files", exit_on_error=False)
    async def _change(self, job: Callable[[], Awaitable[None]]) -> None:
        with faults_shown(self):
            await job()

    def _save_as(self, opened: PolicyOpened) -> None:
        async def save() -> None:
            how = "Enter saves it; with the name of a shipped policy it replaces that one"
            name = await ask_line(self, "save to your policies as", opened.place.name, how)
            if name is None:
                return
            check_name(name)
            edited = replace(opened, text=self._pane.text)
            target = get_own_path(name, self._config)
            if target != opened.target:
                edited = replace(edited, target=target, before=None)
            await self._save(name, edited)

        self._change(save)

    async def _save(self, name: str, edited: PolicyOpened) -> None:
        context = self._pane.catalogue
        if context is None:
            return
        errors = await in_thread(lambda: tasks.count_errors(name, edited, context))
        count = count_text(errors, "error")
        if errors and self._is_needed(name):
            what = f"{name} is in use, and the text has {count}"
            notify_error(self, what, "fix them, or save it under another name")
            return
        if errors and not await confirm(self, f"the text has {count}: save it anyway?"):
            return
        try:
            now = await in_thread(lambda: tasks.write(name, edited, self._config))
        except ChangedOnDisk as clash:
            if not await confirm(self, f"{clash.what}: overwrite it?"):
                return
            now = await in_thread(lambda: tasks.write(name, edited, self._config, over=True))
        self._pane.mark_saved(name, edited, now)
        self.notify(sanitize(f"saved as {edited.target}"), markup=False)
        self._read_policies()

    async def _new(self, catalogue: PolicyCatalogue, like: str) -> None:
        taken = {one.named for one in catalogue.policies if one.place.origin == "user"}
        templates = [
            (one.place.name, one_line(one.description or "has errors"))
            for one in catalogue.policies
        ]
        new = await self.app.push_screen_wait(NewPolicyModal(templates, taken, like))
        if new is None or not await self._may_discard():
            return
        name, named = new
        template = None if named is None else catalogue.find(named)
        self._show_opened(await in_thread(lambda: tasks.make_policy(name, template, self._config)))

    async def _delete(self, place: NamedFile) -> None:
        shipped = " and use the shipped policy again" if place.hides else ""
        if not await confirm(self, f"delete {place.path}{shipped}?"):
            return
        await in_thread(lambda: remove(place))
        self.notify(sanitize(f"deleted {place.path}"), markup=False)
        if self._pane.opened is not None and self._pane.opened.place == place:
            self._pane.show(None)
        self._read_policies()
