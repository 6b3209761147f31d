"""The list of models: a table with a filter above it that opens with a slash."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from etui.models.spec import describe_sources
from etui.text import sanitize
from etui.tui.modals import PageModal
from etui.tui.models._cards import Cards, ModelCard
from etui.tui.models._text import curve_lines, fact_lines, model_texts, wrap_facts
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.lines import TitledLines
from etui.tui.widgets.tables import FittedTable, TableColumn, has_words

_PLOT_HEIGHT = 10


class ModelDetailsModal(PageModal):
    """Shows a model: its facts, every source of its file, and its curve."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "leave", "Close", id="model.close", key_display="esc"),
        Binding("j", "move(1)", "Down", id="model.down", show=False),
        Binding("k", "move(-1)", "Up", id="model.up", show=False),
        Binding("g", "jump(-1)", "Top", id="model.top", show=False),
        Binding("G", "jump(1)", "End", id="model.end", show=False),
    ]

    def __init__(self, card: ModelCard, cards: Cards, *, resident: bool, problem: str = "") -> None:
        super().__init__("model-page")
        self._problem = Static(sanitize(problem), markup=False, classes="problem")
        self._card = card
        self._cards = cards
        self._resident = resident
        self._text = TitledLines(classes="facts")

    def compose(self) -> ComposeResult:
        with self.page:
            yield self._problem
            yield self._text
        yield KeyFooter()

    def on_mount(self) -> None:
        self._problem.display = bool(self._problem.content)
        self.page.focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        width = self._text.size.width
        lines = wrap_facts(self._lines(width), width)
        self._text.set_text(sanitize("\n".join(lines)))

    def _lines(self, width: int) -> Iterator[str]:
        yield from fact_lines(self._card, self._cards, resident=self._resident)
        if self._card.has_file:
            yield ""
            yield from (f"source    {source}" for source in describe_sources(self._card.spec))
        yield ""
        hint = "Joules by token count: not calibrated; c on the Models screen (F6) does it"
        yield from curve_lines(self._card, width, _PLOT_HEIGHT) if self._card.curve else [hint]


class ModelTable(FittedTable[ModelCard]):
    """One row per model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Details", id="models.details", show=False),
    ]


class FilterInput(Input):
    """The words that a model must have; Enter searches the hub for them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Search the hub", id="models.search"),
        Binding("down", "app.focus_next", "List", id="models.find_list"),
        Binding("escape", "leave", "Show all", id="models.find_close"),
    ]

    async def action_leave(self) -> None:
        self.value = ""
        await self.action_submit()


class ModelList(Vertical):
    """The table and its filter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", id="models.find", key_display="/", show=False),
    ]

    class Highlighted(Message):
        """Another model is under the cursor, or none."""

    @dataclass
    class SearchAsked(Message):
        """The hub is to be searched for some words."""

        words: str

    def __init__(self, columns: Sequence[TableColumn]) -> None:
        super().__init__(id="model-list")
        self._cards = Cards(())
        self._residents: Collection[str] = ()
        self._filter = FilterInput(
            placeholder="name, size or purpose; enter searches the hub", compact=True, id="find"
        )
        self._table = ModelTable(columns, self._texts, id="models", margin=1)

    @property
    def current(self) -> ModelCard | None:
        """The model under the cursor; None where the list is empty."""
        return self._table.current

    @property
    def words(self) -> str:
        """The words of the filter; empty while all models are shown."""
        return self._filter.value.strip()

    def compose(self) -> ComposeResult:
        yield self._filter
        yield self._table

    def on_mount(self) -> None:
        self._filter.display = False

    def show(self, cards: Cards, residents: Collection[str], cursor: str | None = None) -> None:
        """Show the models; the cursor stays on its model."""
        self._cards, self._residents = cards, residents
        self._fill(cursor)

    def action_find(self) -> None:
        self._filter.display = True
        self._fit()
        self._filter.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        changed.stop()
        self._fill()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        self.show_all()
        if words := submitted.value.strip():
            self.post_message(self.SearchAsked(words))

    def show_all(self) -> None:
        """Close the filter, and go to the table."""
        self._filter.display = False
        self._filter.value = ""
        self._fit()
        self._table.focus()

    def on_data_table_row_highlighted(self) -> None:
        self.post_message(self.Highlighted())

    def on_resize(self) -> None:
        self._fit()
        self._table.move_cursor(row=self._table.cursor_row, animate=False)

    def _fill(self, cursor: str | None = None) -> None:
        current = self.current
        cursor = cursor or (None if current is None else current.spec.name)
        shown = [
            card
            for card in self._cards.models
            if has_words(
                f"{card.spec.name} {card.spec.size} {card.spec.good_for}", self._filter.value
            )
        ]
        names = [card.spec.name for card in shown]
        self._table.show(shown, names.index(cursor) if cursor in names else 0)
        self._fit()
        self.post_message(self.Highlighted())

    def _texts(self, card: ModelCard) -> dict[str, str]:
        return model_texts(card, self._cards, resident=card.spec.name in self._residents)

    def _fit(self) -> None:
        """Take the rows that all models need, so that a filter does not move what is below."""
        if self.screen.has_class("-low"):
            self.styles.height = "1fr"  # what is left: the cursor must not be below the screen
        else:
            self.styles.height = len(self._cards.models) + 1 + int(self._filter.display)
