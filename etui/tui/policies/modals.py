"""Small questions of the policies screen: what a new policy is called and begins with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static

from etui.errors import UsageError
from etui.routing.editing import check_name
from etui.text.sanitize import sanitize


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """What was asked for; without a template it begins blank."""

    name: str
    template: str | None


class NewPolicyModal(ModalScreen[NewPolicy | None]):
    """Asks for a name and a policy to begin with; ends with None where it was left.

    Args:
        templates: (name, what it is) of the policies to begin with.
        taken: Names of the user's own policies.
        like: Template that is chosen at first.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="new_policy.up", show=False, priority=True),
        Binding("down", "move(1)", "Down", id="new_policy.down", show=False, priority=True),
        Binding("enter", "take", "Make it", id="new_policy.take", priority=True),
        Binding("escape", "leave", "Leave it", id="new_policy.leave", priority=True),
    ]

    def __init__(
        self, templates: Sequence[tuple[str, str]], taken: Collection[str], like: str
    ) -> None:
        super().__init__()
        self._names: list[str | None] = [None, *(name for name, _ in templates)]
        self._taken = taken
        self._like = like
        self._name_input = Input(placeholder="its name", compact=True)
        told = [("blank", "two arms and two rules, to be filled in"), *templates]
        self._list = OptionList(*(_template(name, what) for name, what in told), compact=True)
        self._told = Static(
            "↑ ↓ what it begins with · Enter makes it", markup=False, classes="help"
        )

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static("a new policy", markup=False, classes="title")
            yield self._name_input
            yield self._list
            yield self._told
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._list.can_focus = False
        known = self._like in self._names
        self._list.highlighted = self._names.index(self._like) if known else 0
        self._name_input.focus()

    def action_move(self, steps: int) -> None:
        """Choose the next or the previous template."""
        at = (self._list.highlighted or 0) + steps
        self._list.highlighted = max(0, min(at, len(self._names) - 1))

    def action_take(self) -> None:
        """End with what was typed, if it can be a name."""
        name = self._name_input.value.strip()
        try:
            check_name(name)
            if name in self._taken:
                raise UsageError(f"there is a policy {name!r} already", "take another name")
        except UsageError as error:
            self._told.update(sanitize(f"✗ {error.what}: {error.fix}"))
            self._told.add_class("-error")
        else:
            self.dismiss(NewPolicy(name, self._names[self._list.highlighted or 0]))

    def action_leave(self) -> None:
        """End without one."""
        self.dismiss(None)


def _template(name: str, what: str) -> Content:
    return Content.assemble((sanitize(name), "bold"), (f"  {sanitize(what)}", "$foreground 60%"))
