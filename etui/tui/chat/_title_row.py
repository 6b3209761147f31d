"""The first row of the chat: its name, what answers, how full the context is, and the budget."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from etui import units
from etui.runtime.routes import Route
from etui.text import SEPARATOR, sanitize
from etui.tui.power.energy_text import short_model
from etui.tui.widgets.lines import Line

NEW_CHAT = "new chat"
_GAP = "    "
_PINNED = " (pinned)"
TITLE_BUDGET_CELLS = 34  # Cells of the budget with its bar
_LEAST_NAME, _ENOUGH_NAME = 8, 16
"""Cells of a name that is cut, at least; the second of one beside the route in full."""


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
    chat is cut, then the meters go; the route, and whether it is pinned, stay to the last.
    """
    full, short = _route_text(facts), _short(facts)
    by_rules = facts.route is not None and not facts.route.model and not facts.route.arm
    word = "policy " if by_rules else ""
    chat = " ".join(sanitize(facts.chat).split()) or NEW_CHAT
    used, limit = _context_texts(facts)
    rights = [
        _GAP.join(part for part in parts if part)
        for parts in (
            (f"{used}{limit}", facts.budget),
            (used, facts.budget),
            (used, facts.short_budget),
            (used,),
            (),
        )
    ]
    whole = cell_len(chat)
    for right, tries in (
        *((right, ((f"{word}{full} [F7]", whole), (full, whole))) for right in rights[:3]),
        *((right, ((full, _ENOUGH_NAME), (short, _LEAST_NAME))) for right in rights[2:]),
    ):
        for route, least in tries:
            room = width - cell_len(f"{SEPARATOR}{route}{_GAP if right else ''}{right}")
            if room >= min(least, whole):
                name = chat if whole <= room else set_cell_size(chat, room - 1).rstrip() + "…"
                left = f"{name}{SEPARATOR}{route}"
                return left + " " * (width - cell_len(left) - cell_len(right)) + right
    return set_cell_size(short, max(0, width))


def _route_text(facts: TitleFacts) -> str:
    route, tools = facts.route, " + tools" if facts.tools else ""
    if route is None:
        return sanitize(facts.model)
    if route.model:
        return sanitize(f"{route.model}{_PINNED}{tools}")
    policy = _policy_text(route)
    return sanitize(f"{policy} → {facts.model}{tools}" if facts.model else policy)


def _short(facts: TitleFacts) -> str:
    route, model = facts.route, short_model(facts.model)
    if route is None:
        return sanitize(model)
    if route.model:
        return sanitize(f"{short_model(route.model)}{_PINNED}")
    policy = _policy_text(route)
    return sanitize(f"{policy} → {model}" if model and not route.arm else policy)


def _policy_text(route: Route) -> str:
    return f"{route.policy} ▸ {route.arm}{_PINNED}" if route.arm else route.policy


def _context_texts(facts: TitleFacts) -> tuple[str, str]:
    """Return ``context 5 %``, and `` of 8.2k tok``."""
    if facts.context_tokens is None or not facts.context_limit:
        return "", ""
    share = units.percent_text(facts.context_tokens / facts.context_limit)
    return f"context {share}", f" of {units.short_count_text(facts.context_limit)} tok"


class TitleRow(Line):
    """The first row of the chat screen."""

    def __init__(self) -> None:
        super().__init__(classes="")
        self.facts = TitleFacts()

    def show(self, facts: TitleFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self.on_resize()

    def on_resize(self) -> None:
        self.set_text(title_line(self.facts, self.content_size.width))
