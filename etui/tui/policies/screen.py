"""The policies: edited, checked while one types, explained and replayed before they are saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DescendantFocus
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, OptionList

from etui.config.config import Config, shipped_dir
from etui.errors import UsageError
from etui.routing.editing import check_name, own_file
from etui.runtime.route import Route
from etui.tui.app_messages import AppRequest, PoliciesThere, RouteRequested
from etui.tui.commands import Command
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.notices import notice_text
from etui.tui.policies import tasks as policy_desk
from etui.tui.policies.analysis_pane import AnalysisPane
from etui.tui.policies.editing_pane import EditingPane
from etui.tui.policies.lists import PolicyList
from etui.tui.policies.messages import (
    CheckVerdict,
    Clash,
    Draft,
    Fact,
    HasErrors,
    PolicyCatalogue,
    PolicyDeleted,
    PolicyEntry,
    PolicyNews,
    PolicyOpened,
    PolicyTaskFailed,
    Reread,
    Saved,
)
from etui.tui.policies.modals import NewPolicy, NewPolicyModal
from etui.tui.policies.text import template_names
from etui.units import count_text


class PoliciesScreen(Screen[None]):
    """The list and the inquiries on the left, the editor with its faults on the right.

    Args:
        config: Folders and settings.
        route: Tells how the next questions find their arm.
    """

    AUTO_FOCUS = "#shelf"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="policies.save"),
        Binding("ctrl+t", "ask", "Explain", id="policies.explain"),
        Binding("ctrl+r", "replay", "Replay", id="policies.replay"),
        Binding("ctrl+g", "compare('saved')", "Diff", id="policies.diff"),
        Binding("ctrl+o", "use", "Use", id="policies.use"),
        Binding("escape", "back", "List", id="policies.back", priority=True),
    ]

    HELP = """\
## Policies

Enter opens a policy. It is checked while you type: faults stand below it, and Enter on one goes to
its line. `ctrl+t` tells who would answer a question by the text as it is now; `ctrl+r` replays the
questions of the log by it; `ctrl+g` shows what differs from the saved file. `ctrl+s` saves (a
shipped policy as a copy of your own), `ctrl+o` lets it choose for the next questions. In the list
`n` makes a new one and `d` deletes one of yours. Esc leads back to the list. What is not saved
stays until another policy is opened or etui is left, and both ask first.
"""

    def __init__(self, config: Config, route: Callable[[], Route]) -> None:
        super().__init__()
        self._config = config
        self._route = route
        self._there: PolicyCatalogue | None = None
        self._shelf = PolicyList()
        self._pane = EditingPane()
        self._inquiries = AnalysisPane(lambda: self._pane.subject)

    def compose(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="aside"):
                yield self._shelf
                yield self._inquiries
            yield self._pane
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.add_class("-aside")

    def on_screen_resume(self) -> None:
        """Files may have changed since the screen was last seen."""
        self._read_shelf()

    def take_route(self, route: Route) -> None:
        """Show how the next questions find their arm."""
        self._show_use()

    def commands(self) -> Sequence[Command]:
        """What the command palette offers here."""
        compare = self.action_compare
        offered: tuple[tuple[str, str, Callable[[], None]], ...] = (
            ("save", "Write the policy as it was typed", self.action_save),
            ("save as", "Write it under another name", self.action_save_as),
            ("use", "Let it choose for the next questions", self.action_use),
            ("explain a question", "Who would answer it, and why", self.action_ask),
            ("replay the log", "Which questions would move, and at what", self.action_replay),
            ("diff to the saved", "What the changes change", partial(compare, "saved")),
            ("diff to the shipped", "What yours changes", partial(compare, "shipped")),
            ("new", "Begin with a template", self.action_new),
            ("delete", "Delete a policy of yours", self.action_delete),
            ("read again", "Give up what was typed", self.action_read_again),
        )
        return [Command(f"policies: {name}", told, run) for name, told, run in offered]

    def action_save(self) -> None:
        """Write the text; a shipped policy asks for the name of its copy."""
        opened = self._pane.opened
        if opened is None:
            return
        if opened.place.origin == "shipped":
            self.action_save_as()
        else:
            self._save(self._pane.draft(opened.place.name, opened))

    def action_save_as(self) -> None:
        """Write the text under a name that is asked for."""
        if self._pane.opened is not None:
            told = "Enter saves it; under the name of a shipped policy it takes that one's place"
            modal = TextModal(
                "save among your policies as", self._pane.opened.place.name, told, one_line=True
            )
            self.app.push_screen(modal, self._save_as)

    def action_use(self) -> None:
        """Let the policy choose for the next questions, as it is saved and if it is sound."""
        on = self._meant()
        if on is None:
            return
        if self._pane.changed and self._is_open(on):
            self._say("what you typed is not saved", "save it first: ctrl+s", "warning")
        elif on.description is None:
            self._say(f"{on.named} has errors, so it cannot be used", "mend it and save it")
        else:
            self.post_message(AppRequest(RouteRequested(Route(on.named))))

    def action_ask(self) -> None:
        """Type a question to have decided."""
        self._go(self._inquiries.question, aside=True)
        self._inquiries.explain()

    def action_replay(self) -> None:
        """Replay the questions of the log by the text as it is now."""
        self._go(self._inquiries.answer, aside=True)
        self._inquiries.replay()

    def action_compare(self, other: str) -> None:
        """Show what differs from the saved file, or from the shipped one."""
        opened = self._pane.opened
        if opened is None:
            return
        path = opened.place.path
        if other == "shipped":
            path = shipped_dir() / "policies" / f"{opened.place.name}.yaml"
            if not path.is_file():
                self._say(f"no policy {opened.place.name!r} ships with etui", "", "warning")
                return
        self._go(self._inquiries.answer, aside=True)
        self._inquiries.compare(path, other)

    def action_new(self) -> None:
        """Make a policy of your own from a template."""
        if self._there is not None:
            on = self._meant()
            taken = {o.named for o in self._there.policies if o.place.origin == "user"}
            templates = list(template_names(self._there.policies))
            like = "" if on is None else on.named
            self.app.push_screen(NewPolicyModal(templates, taken, like), self._make)

    def action_delete(self) -> None:
        """Delete a policy of yours, after asking."""
        on = self._meant()
        if on is None:
            return
        place = on.place
        if place.origin != "user":
            self._say(f"{on.named} is not in your folder", "only your own policies can be deleted")
        elif self._is_needed(on.named) and not place.hides:
            self._say(f"{on.named} is in use", "let another policy choose first")
        else:
            also = "; the shipped one takes its place" if place.hides else ""
            self._confirm(
                f"delete {place.path}{also}?",
                lambda: self._ask(lambda: policy_desk.delete_policy(place)),
            )

    def action_read_again(self) -> None:
        """Give up what was typed for what the file holds."""
        if (opened := self._pane.opened) is not None:
            self._open(PolicyEntry(opened.named, opened.place, None))

    def action_back(self) -> None:
        """Lead back to the list."""
        self._go(self._shelf, aside=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing leads back to the list from itself."""
        return not (action == "back" and self._shelf.has_focus)

    def on_descendant_focus(self, focused: DescendantFocus) -> None:
        self.set_class(self.query_one("#aside") in focused.widget.ancestors, "-aside")

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        on = self._shelf.under_cursor
        if on is None:
            return
        if self._pane.changed and not self._is_open(on):
            self._confirm("give up what was typed and not saved?", lambda: self._open_to_edit(on))
        elif self._is_open(on):
            self._go(self._pane.editor, aside=False)
        else:
            self._open_to_edit(on)

    def on_policy_news(self, news: PolicyNews) -> None:
        match news.fact:
            case PolicyCatalogue() as shelf:
                self._take_shelf(shelf)
            case PolicyOpened() as opened:
                self._take_opened(opened)
            case Reread(opened=opened):
                self._take_reread(opened)
            case CheckVerdict():
                self._inquiries.text_changed()
            case Saved() as saved:
                self._take_saved(saved)
            case HasErrors(draft=draft, errors=errors):
                self._save_unsound(draft, errors)
            case Clash(draft=draft, what=what):
                self._confirm(f"{what}: write over it?", lambda: self._save(draft, over=True))
            case PolicyDeleted(place=place):
                self._say(f"{place.path} is deleted", "", "information")
                if self._pane.opened is not None and self._pane.opened.place == place:
                    self._pane.show(None)
                self._read_shelf()
            case PolicyTaskFailed(what=what, fix=fix):
                self._say(what, fix)

    def _take_shelf(self, shelf: PolicyCatalogue) -> None:
        first = self._there is None
        self._there = shelf
        self._pane.desk = shelf.desk
        self.post_message(AppRequest(PoliciesThere(shelf.desk.names)))
        self._show_use()
        opened = self._pane.opened
        if first:
            self._shelf.put_cursor(self._route().policy)
        on = self._shelf.under_cursor if opened is None else shelf.find(opened.named)
        if on is not None and not self._pane.changed:
            self._ask(lambda: Reread(policy_desk.open_policy(on, self._config)))

    def _take_reread(self, opened: PolicyOpened) -> None:
        known = self._pane.opened
        if self._pane.changed or (known is not None and known.named != opened.named):
            return
        if known is not None and (known.text, known.target) == (opened.text, opened.target):
            self._pane.take_place(opened)
        else:
            self._take_opened(opened)

    def _take_opened(self, opened: PolicyOpened) -> None:
        if not self._pane.show(opened):
            self._say("its line ends differ", "saving it makes them alike", "warning")
        if self._there is not None and self._there.find(opened.named) is None:
            self._read_shelf()
        self._show_use()
        self._shelf.put_cursor(opened.named)

    def _take_saved(self, saved: Saved) -> None:
        self._pane.saved(saved)
        self._say(f"saved as {saved.draft.target}", "", "information")
        self._read_shelf()

    def _save_as(self, name: str | None) -> None:
        opened = self._pane.opened
        if name is None or opened is None:
            return
        try:
            check_name(name)
        except UsageError as error:
            self._say(error.what, error.fix)
            return
        draft = self._pane.draft(name, opened)
        target = own_file(name, self._config)
        if target != opened.target:
            draft = replace(draft, target=target, before=None)
        self._save(draft)

    def _save_unsound(self, draft: Draft, errors: int) -> None:
        """Ask; the policy that chooses now is never broken."""
        count = count_text(errors, "error")
        if self._is_needed(draft.name):
            self._say(f"{draft.name} is in use, and the text has {count}",
                      "mend them, or save it under another name")  # fmt: skip
        else:
            self._confirm(f"the text has {count}: save it all the same?",
                          lambda: self._save(draft, with_errors=True))  # fmt: skip

    def _make(self, wanted: NewPolicy | None) -> None:
        if wanted is None or self._there is None:
            return
        template = self._there.find(wanted.template) if wanted.template is not None else None

        def make() -> None:
            self._ask(lambda: policy_desk.make_policy(wanted.name, template, self._config))

        if self._pane.changed:
            self._confirm("give up what was typed and not saved?", make)
        else:
            make()

    def _show_use(self) -> None:
        """Mark the policy that chooses for the next questions."""
        route = self._route()
        if self._there is not None:
            self._shelf.show(
                self._there.policies, lambda on: route.model is None and on.named == route.policy
            )
        opened = self._pane.opened
        in_use = opened is not None and route.model is None and opened.named == route.policy
        self._pane.show_use(in_use)

    def _is_needed(self, named: str) -> bool:
        """Whether a question would fail without it, now or when etui starts again."""
        return named in (self._route().policy, self._config.policy)

    def _is_open(self, on: PolicyEntry) -> bool:
        return self._pane.opened is not None and self._pane.opened.named == on.named

    def _meant(self) -> PolicyEntry | None:
        """The policy under the cursor of the list, or the one that is edited."""
        if self._there is None or self._shelf.has_focus or self._pane.opened is None:
            return self._shelf.under_cursor
        return self._there.find(self._pane.opened.named)

    def _go(self, widget: Widget, *, aside: bool) -> None:
        """Focus a widget; a narrow screen turns to its side first."""
        self.set_class(aside, "-aside")
        if all(node.display for node in (widget, *widget.ancestors) if isinstance(node, Widget)):
            widget.focus()
        else:
            self.call_after_refresh(widget.focus)

    def _open_to_edit(self, on: PolicyEntry) -> None:
        self._open(on)
        self._go(self._pane.editor, aside=False)

    def _open(self, on: PolicyEntry) -> None:
        self._ask(lambda: policy_desk.open_policy(on, self._config))

    def _save(self, draft: Draft, *, with_errors: bool = False, over: bool = False) -> None:
        if (there := self._there) is not None:
            desk = there.desk
            self._ask(
                lambda: policy_desk.save_draft(draft, desk, with_errors=with_errors, over=over)
            )

    def _read_shelf(self) -> None:
        also = self._route().policy
        self._ask(lambda: policy_desk.read_policies(self._config, also))

    def _confirm(self, question: str, then: Callable[[], object]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                then()

        self.app.push_screen(ConfirmModal(question), answered)

    def _say(self, what: str, fix: str, severity: SeverityLevel = "error") -> None:
        self.notify(notice_text(what, fix), severity=severity, markup=False)

    @work(thread=True, group="policy-files", exit_on_error=False)
    def _ask(self, ask: Callable[[], Fact]) -> None:
        self.post_message(PolicyNews(policy_desk.told(ask)))
