"""The first row of the chat: its name, what answers, how full the context is, and the budget."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual import events
from textual.widgets import Static

from etui import units
from etui.plots.terminal import meter
from etui.runtime.routes import Route
from etui.text import SEPARATOR, sanitize
from etui.tui.power.energy_text import short_model

NEW_CHAT = "new chat"
_GAP = "    "
_BAR_CELLS = 8
TITLE_BUDGET_CELLS = 34  # Cells of the budget with its bar
_LEAST_NAME, _ENOUGH_NAME = 8, 16
"""Cells of a name that is cut, at least; with the second, the meters stay beside it."""


@dataclass(frozen=True, slots=True)
class TitleFacts:
    """What the row shows."""

    chat: str = ""  # Name of the chat; empty for a new one
    route: Route | None = None  # How the next questions find their arm
    model: str = ""  # Model that answers, or that is likely to; empty if unknown
    context_tokens: int | None = None
    context_limit: int | None = None
    budget: str = ""  # Text of the budget, with its bar
    short_budget: str = ""  # The same in few cells
    tools: bool = False  # Whether the model may call tools


def title_line(facts: TitleFacts, width: int) -> str:
    """Lay the facts out in ``width`` cells: the name and route left, the meters right.

    Where they do not fit, the bars of the context and the budget go first, then the name of the
    chat is cut, then the meters go, and the route stays to the last.
    """
    routes = (_route_text(facts), _short(facts))
    chat = " ".join(sanitize(facts.chat).split()) or NEW_CHAT
    plain = _context_text(facts, bar=False)
    rights = [
        _GAP.join(part for part in parts if part)
        for parts in (
            (_context_text(facts, bar=True), facts.budget),
            (plain, facts.budget),
            (plain, facts.short_budget),
            (plain,),
            (),
        )
    ]
    for right in rights:
        for route, key in ((routes[0], " [F7]"), (routes[0], ""), (routes[1], "")):
            left = f"{chat}{SEPARATOR}{route}{key}"
            spare = width - cell_len(left) - cell_len(right)
            if spare >= (len(_GAP) if right else 0):
                return left + " " * spare + right
        room = width - cell_len(f"{SEPARATOR}{routes[1]}{_GAP}{right}")
        if right == rights[2] and room >= _ENOUGH_NAME:
            break
    for right in rights[2:]:
        room = width - cell_len(f"{SEPARATOR}{routes[1]}{_GAP}{right}")
        if room >= _LEAST_NAME:
            cut = set_cell_size(chat, room - 1).rstrip() + "…"
            left = f"{cut}{SEPARATOR}{routes[1]}"
            return left + " " * (width - cell_len(left) - cell_len(right)) + right
    return set_cell_size(routes[1], max(0, width))


def _route_text(facts: TitleFacts) -> str:
    route, tools = facts.route, " + tools" if facts.tools else ""
    if route is None:
        return sanitize(facts.model)
    if route.model:
        return sanitize(f"you → {route.model}{tools}")
    policy = f"{route.policy} ({route.arm})" if route.arm else route.policy
    return sanitize(f"{policy} → {facts.model}{tools}" if facts.model else policy)


def _short(facts: TitleFacts) -> str:
    route, model = facts.route, sanitize(short_model(facts.model))
    if route is None or route.model:
        return sanitize(short_model(route.model or "")) if route is not None else model
    return f"{sanitize(route.policy)} → {model}" if model else sanitize(route.policy)


def _context_text(facts: TitleFacts, *, bar: bool) -> str:
    if facts.context_tokens is None or not facts.context_limit:
        return ""
    used = units.short_count_text(facts.context_tokens)
    text = f"{used}/{units.short_count_text(facts.context_limit)}"
    share = facts.context_tokens / facts.context_limit
    return f"ctx {meter(share, _BAR_CELLS)} {text}" if bar else f"ctx {text}"


class TitleRow(Static):
    """The first row of the chat screen."""

    def __init__(self) -> None:
        super().__init__("", markup=False, id="title-row")
        self._facts = TitleFacts()

    @property
    def facts(self) -> TitleFacts:
        return self._facts

    def show(self, facts: TitleFacts) -> None:
        if facts != self._facts:
            self._facts = facts
            self._draw()

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        text = title_line(self._facts, self.content_size.width)
        if text != str(self.content):
            self.update(text, layout=False)
