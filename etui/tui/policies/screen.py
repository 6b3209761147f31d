"""The policies screen: edit, check while typing, explain and replay before saving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DescendantFocus
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, OptionList

from etui.config.config import Config, shipped_dir
from etui.runtime.routes import Route
from etui.tui._work import faults_shown, in_thread
from etui.tui.commands import AppRequest, Command, PoliciesListed, RouteRequested
from etui.tui.policies import _tasks as tasks
from etui.tui.policies._analysis_pane import AnalysisPane
from etui.tui.policies._editing_pane import EditingPane
from etui.tui.policies._files import PolicyFiles
from etui.tui.policies._tasks import PolicyEntry, PolicyOpened, list_files
from etui.tui.policies._text import entry_line
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import RowList, has_words

_LOOK_SECONDS = 2.0
"""How often the folder of policies is looked at while the screen is shown."""


class PolicyList(RowList):
    """All policies; Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="policies.open"),
        Binding("n", "screen.new", "New", id="policies.new"),
        Binding("d,delete", "screen.delete", "Delete", id="policies.delete", key_display="d"),
        Binding("u", "screen.use", "Use", id="policies.use_this"),
    ]

    def __init__(self) -> None:
        super().__init__(id="shelf", compact=True)
        self._all: tuple[PolicyEntry, ...] = ()
        self._policies: tuple[PolicyEntry, ...] = ()
        self._in_use: Callable[[PolicyEntry], bool] = lambda _entry: False
        self._words = ""

    def show(self, policies: Sequence[PolicyEntry], in_use: Callable[[PolicyEntry], bool]) -> None:
        """Show these policies and keep the cursor on its policy."""
        self._all, self._in_use = tuple(policies), in_use
        self._draw()

    def filter(self, words: str) -> None:
        """Show only the policies with all words in the name or the description."""
        self._words = words
        self._draw()

    def _draw(self) -> None:
        current = self.under_cursor
        self._policies = tuple(
            entry
            for entry in self._all
            if has_words(f"{entry.named} {entry.description or ''}", self._words)
        )
        self.set_options([entry_line(entry, self._in_use(entry)) for entry in self._policies])
        self.put_cursor(current.named if current is not None else "")

    def put_cursor(self, named: str) -> None:
        """Move the cursor to a policy, or to the first if it is not listed."""
        names = [entry.named for entry in self._policies]
        if names:
            self.highlighted = names.index(named) if named in names else 0

    @property
    def under_cursor(self) -> PolicyEntry | None:
        """The policy under the cursor."""
        index = self.highlighted
        return self._policies[index] if index is not None and index < len(self._policies) else None


class PolicyShelf(Vertical):
    """The policies; a filter above them is shown while it is used."""

    class FilesChanged(Message):
        """A policy file came, went or changed since the policies were read."""

    def __init__(self, config: Config) -> None:
        super().__init__(id="policy-list")
        self._config = config
        self._seen_files: frozenset[tuple[str, int]] = frozenset()
        self._filter = Input(placeholder="filter", id="filter", compact=True)
        self._filter.display = False
        self.policies = PolicyList()

    def compose(self) -> ComposeResult:
        yield self._filter
        yield self.policies

    def on_mount(self) -> None:
        self.set_interval(_LOOK_SECONDS, self._look)

    @property
    def is_filtered(self) -> bool:
        """Whether the filter is shown."""
        return self._filter.display

    def note_files(self) -> None:
        """Take the files as they are now as read."""
        self._seen_files = list_files(self._config)

    def open_filter(self) -> None:
        """Type words that a policy must have."""
        self._filter.display = True
        self._filter.focus()

    def close_filter(self) -> None:
        """Show all policies again."""
        self._filter.value = ""
        self._filter.display = False

    def on_input_changed(self, changed: Input.Changed) -> None:
        changed.stop()
        self.policies.filter(changed.value)

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        self.policies.focus()

    def _look(self) -> None:
        if self.screen.is_current and list_files(self._config) != self._seen_files:
            self.post_message(self.FilesChanged())


class PoliciesScreen(Screen[None]):
    """The list and the analyses on the left, the editor and its problems on the right.

    Args:
        route: Returns the route of the next questions.
    """

    AUTO_FOCUS = "#shelf"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="policies.save"),
        Binding("ctrl+t", "ask", "Explain", id="policies.explain"),
        Binding("ctrl+r", "replay", "Replay", id="policies.replay"),
        Binding("ctrl+g", "compare('saved')", "Diff", id="policies.diff"),
        Binding("ctrl+o", "use", "Use", id="policies.use"),
        Binding("f8", "next_fault", "Next fault", id="policies.next_fault"),
        Binding("ctrl+f", "find", "Find", id="policies.find", priority=True),
        Binding("slash", "filter", "Filter", id="policies.filter", show=False),
        Binding("escape", "back", "List", id="policies.back", priority=True),
    ]

    HELP = """\
## Policies

Enter opens a policy. Names, keys and values are completed behind the cursor as you type (Tab or
Right takes one, `ctrl+space` shows the next), and the line below the text explains the key under
the cursor. Problems are listed below it: `F8` goes to the next one, Enter on one takes its
suggestion or goes to its line. `ctrl+f` finds, then `n` and `N`.

`ctrl+t` shows which arm would answer a question under the text as it is now; `ctrl+r` replays the
questions of the log; `ctrl+g` shows the differences from the saved file. `ctrl+s` saves (a shipped
policy as your own copy), `ctrl+o` uses the policy for the next questions. In the list `n` creates a
policy, `d` deletes one of yours, `/` filters. Esc goes back to the list. Unsaved text is kept until
you open another policy or exit etui; both ask first.
"""

    def __init__(self, config: Config, route: Callable[[], Route]) -> None:
        super().__init__()
        self._config = config
        self._route = route
        self._shelf = PolicyShelf(config)
        self._policy_list = self._shelf.policies
        self._analysis = AnalysisPane(lambda: self._pane.subject)
        self._pane = EditingPane(self._analysis.text_changed)
        self._files = PolicyFiles(
            self,
            config,
            self._pane,
            show=self._show_opened,
            read_again=self._read_policies,
            is_needed=self._is_needed,
        )
        self._cursor_to = ""

    def compose(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="aside"):
                yield self._shelf
                yield self._analysis
            yield self._pane
        yield KeyFooter()

    def on_mount(self) -> None:
        self.add_class("-aside")

    def on_screen_resume(self) -> None:
        """Read the policies again: files may have changed since the last visit."""
        self._read_policies()

    def take_route(self, route: Route) -> None:
        """Mark the policy of the route of the next questions."""
        self._show_use()

    def commands(self) -> Sequence[Command]:
        """Return the commands of this screen for the command palette."""
        compare = self.action_compare
        offered: tuple[tuple[str, str, Callable[[], None]], ...] = (
            ("save", "Write the text to its file", self.action_save),
            ("save as", "Save it under another name", self.action_save_as),
            ("use", "Use it for the next questions", self.action_use),
            ("explain a question", "Show which arm would answer it, and why", self.action_ask),
            ("replay the log", "Show which questions would move", self.action_replay),
            ("diff with the saved file", "Show what your edits change", partial(compare, "saved")),
            ("diff with the shipped policy", "Show how yours differs", partial(compare, "shipped")),
            ("find", "Find a text in the policy", self.action_find),
            ("next fault", "Go to the next fault", self.action_next_fault),
            ("new", "Create a policy from a template", self.action_new),
            ("delete", "Delete one of your policies", self.action_delete),
            ("read again", "Discard unsaved edits", self.action_read_again),
        )
        return [Command(f"policies: {name}", text, run) for name, text, run in offered]

    def action_save(self) -> None:
        """Save the text; for a shipped policy, ask for the name of the copy."""
        self._files.save()

    def action_save_as(self) -> None:
        self._files.save_as()

    def action_use(self) -> None:
        """Use the saved policy for the next questions, if it is valid."""
        entry = self._selected_entry()
        if entry is None:
            return
        if self._pane.changed and self._is_open(entry):
            self._files.notify("your edits are not saved", "save them first: ctrl+s", "warning")
        elif entry.description is None:
            self._files.notify(
                f"{entry.named} has errors, so it cannot be used", "fix and save it first"
            )
        else:
            self.post_message(AppRequest(RouteRequested(Route(entry.named))))

    def action_ask(self) -> None:
        self._go(self._analysis.question, aside=True)
        self._analysis.explain()

    def action_replay(self) -> None:
        self._go(self._analysis.answer, aside=True)
        self._analysis.replay()

    def action_compare(self, other: str) -> None:
        """Show the differences from the saved file, or from the shipped one."""
        opened = self._pane.opened
        if opened is None:
            return
        path = opened.place.path
        if other == "shipped":
            path = shipped_dir() / "policies" / f"{opened.place.name}.yaml"
            if not path.is_file():
                self._files.notify(f"etui ships no policy {opened.place.name!r}", "", "warning")
                return
        self._go(self._analysis.answer, aside=True)
        self._analysis.compare(path)

    def action_new(self) -> None:
        self._files.new(self._selected_entry())

    def action_delete(self) -> None:
        """Delete a policy of the user, after a confirmation."""
        if (entry := self._selected_entry()) is not None:
            self._files.delete(entry)

    def action_read_again(self) -> None:
        if (opened := self._pane.opened) is not None:
            self._open(PolicyEntry(opened.named, opened.place, None))

    def action_next_fault(self) -> None:
        if self._pane.opened is not None:
            self._go(self._pane.editor, aside=False)
            if not self._pane.next_fault():
                self._files.notify("no faults", "", "information")

    def action_find(self) -> None:
        if self._pane.opened is not None:
            self.remove_class("-aside")
            self.call_after_refresh(self._pane.open_find)

    def action_filter(self) -> None:
        """Filter the list of policies; elsewhere, find a text in the open policy."""
        if self._policy_list.has_focus:
            self._shelf.open_filter()
        else:
            self.action_find()

    def action_back(self) -> None:
        """Close what is open over the text, or else the filter; then go back to the list."""
        if self._pane.close_overlay():
            return
        self._shelf.close_filter()
        self._go(self._policy_list, aside=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (
            action == "back" and self._policy_list.has_focus and not self._shelf.is_filtered
        )

    def on_policy_shelf_files_changed(self) -> None:
        self._read_policies()

    def on_descendant_focus(self, focused: DescendantFocus) -> None:
        self.set_class(self.query_one("#aside") in focused.widget.ancestors, "-aside")

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        """Open the selected policy; ask before unsaved edits are lost."""
        entry = self._policy_list.under_cursor
        if entry is not None and self._is_open(entry):
            self._go(self._pane.editor, aside=False)
        elif entry is not None:
            self._open(entry, to_edit=True)

    @work(exclusive=True, group="policy-list", exit_on_error=False)
    async def _read_policies(self) -> None:
        self._shelf.note_files()
        active = self._route().policy
        with faults_shown(self):
            catalogue = await in_thread(lambda: tasks.read_policies(self._config, active))
            first = self._files.catalogue is None
            self._files.catalogue = catalogue
            self._pane.use_context(catalogue.context)
            self.post_message(AppRequest(PoliciesListed(catalogue.context.names)))
            self._show_use()
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
            self._files.notify(
                "the file has mixed line endings", "saving makes them uniform", "warning"
            )
        if self._files.catalogue is not None and self._files.catalogue.find(opened.named) is None:
            self._cursor_to = opened.named  # a new policy: it is in the list once that is read
            self._read_policies()
        else:
            self._policy_list.put_cursor(opened.named)
        self._show_use()

    def _show_use(self) -> None:
        """Mark the policy of the next questions."""
        route = self._route()
        if self._files.catalogue is not None:
            self._policy_list.show(
                self._files.catalogue.policies,
                lambda entry: route.model is None and entry.named == route.policy,
            )
        opened = self._pane.opened
        in_use = opened is not None and route.model is None and opened.named == route.policy
        self._pane.show_use(in_use)

    def _is_needed(self, named: str) -> bool:
        """Return whether questions need this policy, now or at the next start of etui."""
        return named in (self._route().policy, self._config.policy)

    def _is_open(self, entry: PolicyEntry) -> bool:
        return self._pane.opened is not None and self._pane.opened.named == entry.named

    def _selected_entry(self) -> PolicyEntry | None:
        """Return the policy under the cursor of the list, or else the edited one."""
        if (
            self._files.catalogue is None
            or self._policy_list.has_focus
            or self._pane.opened is None
        ):
            return self._policy_list.under_cursor
        return self._files.catalogue.find(self._pane.opened.named)

    def _go(self, widget: Widget, *, aside: bool) -> None:
        """Focus a widget; a narrow screen shows its side first."""
        self.set_class(aside, "-aside")
        if all(node.display for node in (widget, *widget.ancestors) if isinstance(node, Widget)):
            widget.focus()
        else:
            self.call_after_refresh(widget.focus)

    @work(exclusive=True, group="policy-open", exit_on_error=False)
    async def _open(self, entry: PolicyEntry, *, to_edit: bool = False) -> None:
        if to_edit and not await self._files.may_discard():
            return
        with faults_shown(self):
            self._show_opened(await in_thread(lambda: tasks.open_policy(entry, self._config)))
            if to_edit:
                self._go(self._pane.editor, aside=False)
