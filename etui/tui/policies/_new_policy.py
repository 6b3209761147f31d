"""The dialog that asks for the name and the template of a new policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, OptionList, Static

from etui.errors import UsageError
from etui.routing.library import check_name
from etui.text import sanitize
from etui.tui.modals import BoxModal


class NewPolicyModal(BoxModal[tuple[str, str | None]]):
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
        super().__init__("new policy")
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

    def compose_box(self) -> ComposeResult:
        yield self._name_input
        yield self._list
        yield self._hint

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


def _format_template(name: str, what: str) -> Content:
    return Content.assemble((sanitize(name), "bold"), (f"  {sanitize(what)}", "$foreground 60%"))
