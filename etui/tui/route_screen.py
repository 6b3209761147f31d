"""Choose what answers the next questions: a policy, an arm or a model, in one list to filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import work
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from etui import units
from etui.errors import EtuiError
from etui.runtime.routes import Route, RouteChoice
from etui.text import format_table, sanitize
from etui.tui._work import in_thread, notice_text
from etui.tui.modals import BoxModal
from etui.tui.widgets.tables import has_words

HELP_LINE = (
    "An arm is a model with a way to answer: direct, cot (thinks first), vote (several answers)\n"
    "type to filter · ↑ ↓ select · Enter uses it for the next questions"
)
NO_MODEL = "no model on this machine: F6 pulls one"
_NOT_HERE = "not on disk: F6 pulls it"
_OTHER_ROWS = 12  # Of the box, beside the list


class RouteScreen(BoxModal[Route]):
    """List of policies, arms and models; its result is the chosen route, or None."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f7", "dismiss", "Close", id="route.close", key_display="esc"),
        Binding("f6", "models", "Models", id="route.models"),
        Binding("down", "move(1)", "Next", id="route.down", show=False),
        Binding("up", "move(-1)", "Previous", id="route.up", show=False),
        Binding("pagedown", "move(8)", "Further down", id="route.page_down", show=False),
        Binding("pageup", "move(-8)", "Further up", id="route.page_up", show=False),
    ]

    HELP = "## Policy, arm or model"

    def __init__(self, route: Route, read: Callable[[Route], Sequence[RouteChoice]]) -> None:
        self._filter = Input(placeholder="policy, arm or model", compact=True)
        self._list = OptionList(markup=False)
        self._list.can_focus = False  # the keys stay in the filter
        self._note = Static("reading policies and models …", markup=False, classes="help")
        super().__init__("What answers next", "", self._filter, self._list, self._note)
        self._route = route
        self._read = read
        self._choices: Sequence[RouteChoice] = ()
        self._shown: Sequence[RouteChoice] = ()

    def on_mount(self) -> None:
        self._load()

    def on_resize(self) -> None:
        """Give the list the rows that the rest leaves: in CSS the box counts all of its rows."""
        rows = int(0.96 * self.size.height) - _OTHER_ROWS
        self._list.styles.max_height = rows if rows >= _OTHER_ROWS else None

    @work(exclusive=True, group="routes")
    async def _load(self) -> None:
        try:
            self._choices = await in_thread(lambda: self._read(self._route))
            self._show()
        except EtuiError as error:
            self._note.update(notice_text(error.what, error.fix))

    def on_input_changed(self, changed: Input.Changed) -> None:
        if self._choices:
            self._show()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        self._choose(self._list.highlighted)

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        self._choose(selected.option_index)

    def action_models(self) -> None:
        self.dismiss(None)
        self.app.switch_mode("models")

    def action_move(self, lines: int) -> None:
        if self._shown:
            at = (self._list.highlighted or 0) + lines
            self._list.highlighted = min(max(at, 0), len(self._shown) - 1)

    def _choose(self, at: int | None) -> None:
        if at is None or at >= len(self._shown):
            return
        choice = self._shown[at]
        if choice.here:
            self.dismiss(choice.route)
        elif choice.kind == "model":
            self._note.update(sanitize(f"{choice.name} is {_NOT_HERE}"))
        else:
            self._note.update(sanitize(f"{choice.name} has no model on disk: F6 pulls one"))

    def _show(self) -> None:
        self._shown = filter_choices(self._choices, self._filter.value)
        self._list.clear_options()
        self._list.add_options([Option(row) for row in format_choices(self._shown, self._route)])
        current = [at for at, choice in enumerate(self._shown) if choice.route == self._route]
        if self._shown:
            self._list.highlighted = 0 if self._filter.value or not current else current[0]
        self._note.update(note_for(self._choices, self._shown))


def note_for(choices: Sequence[RouteChoice], shown: Sequence[RouteChoice]) -> str:
    """Return the line below the list: what the keys do, or why nothing can be chosen."""
    if choices and not shown:
        return "nothing contains these words"
    return HELP_LINE if any(choice.here for choice in choices) else NO_MODEL


def filter_choices(choices: Sequence[RouteChoice], words: str) -> list[RouteChoice]:
    """Return the choices that contain every word; those with all of them in the name come first."""
    found = [one for one in choices if has_words(f"{one.kind} {one.name} {one.details}", words)]
    return sorted(found, key=lambda one: not has_words(f"{one.kind} {one.name}", words))


def format_choices(choices: Sequence[RouteChoice], route: Route) -> list[str]:
    """Format one line per choice: the one in use, its kind, name, cost, and what else to know."""
    has_costs = any(choice.joules_per_token is not None for choice in choices)
    rows = [
        (
            "●" if choice.route == route else " ",
            choice.kind,
            sanitize(f"{route.policy} ▸ {choice.name}" if choice.kind == "arm" else choice.name),
            *([format_cost(choice)] if has_costs else []),
            sanitize(choice.details if choice.here else f"{_NOT_HERE} · {choice.details}"),
        )
        for choice in choices
    ]
    return format_table(rows, align="<<<><" if has_costs else "<<<<", measure=cell_len)


def format_cost(choice: RouteChoice) -> str:
    """Format the predicted joules per token: ``≈0.56 J/token``, ``–`` if unknown."""
    if choice.joules_per_token is None:
        return "–"
    least = "from " if choice.kind == "policy" else ""
    return least + units.marked(units.per_token_text(choice.joules_per_token, units.ESTIMATE))
