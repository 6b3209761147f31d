"""Where the numbers of an answer come from: one page of facts, for any turn with a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from etui.text import sanitize, title_from_question
from etui.tui.modals import BoxModal
from etui.turn.facts import ID_FACTS, Fact, list_facts
from etui.turn.record import TurnRecord


class DetailsModal(BoxModal[None]):
    """Page over the chat with the facts of one answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,i,q,enter", "leave", "Close", id="details.leave", key_display="esc"),
    ]

    def __init__(self, record: TurnRecord, costs: Sequence[Fact] = ()) -> None:
        super().__init__("Where the numbers come from", title_from_question(record.query))
        facts = list_facts(record, costs=costs)
        self._facts = [fact for fact in facts if fact[0] not in ID_FACTS]

    def compose_box(self) -> ComposeResult:
        with VerticalScroll(classes="facts"):
            for name, text in self._facts:
                with Vertical(classes="fact"):
                    yield Static(name, markup=False, classes="name")
                    yield Static(sanitize(text), markup=False, classes="text")
