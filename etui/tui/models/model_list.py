"""The list of models: a table with a filter above it that opens with a slash."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input

from etui.tui.models.cards import Cards, ModelCard
from etui.tui.models.cells import model_cells, model_texts
from etui.tui.widgets.columns import FittedColumn, TableColumn, fit_columns, measure_columns
from etui.tui.widgets.list_keys import RowTable

_SCROLLBAR_CELLS = 1


def filter_cards(cards: Sequence[ModelCard], words: str) -> tuple[ModelCard, ...]:
    """Return the models that have every word in their name, size or purpose, whatever its case."""
    wanted = words.casefold().split()

    def matches(card: ModelCard) -> bool:
        text = f"{card.spec.name} {card.spec.size} {card.spec.good_for}".casefold()
        return all(word in text for word in wanted)

    return tuple(card for card in cards if matches(card))


class ModelTable(RowTable[Text]):
    """One row per model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "details", "Details", id="models.details", show=False),
    ]

    class DetailsAsked(Message):
        """Everything about the model under the cursor is to be shown."""

    def action_details(self) -> None:
        """Ask for everything about the model under the cursor."""
        self.post_message(self.DetailsAsked())


class FilterInput(Input):
    """The words that a model must have."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Show all", id="models.find_close"),
    ]

    class Left(Message):
        """The filter was closed."""

    def action_leave(self) -> None:
        """Close the filter and show every model again."""
        self.value = ""
        self.post_message(self.Left())


class ModelList(Vertical):
    """The table and its filter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", id="models.find", key_display="/", show=False),
    ]

    class Highlighted(Message):
        """Another model is under the cursor, or none."""

    def __init__(self, columns: Sequence[TableColumn]) -> None:
        super().__init__(id="model-list")
        self._columns = columns
        self._cards = Cards(())
        self._residents: Collection[str] = ()
        self._shown: tuple[ModelCard, ...] = ()
        self._fitted: tuple[FittedColumn, ...] = ()
        self._filter = FilterInput(placeholder="name, size or purpose", compact=True, id="find")
        self._table = ModelTable(
            cursor_type="row", zebra_stripes=True, header_height=1, id="models"
        )

    @property
    def current(self) -> ModelCard | None:
        """The model under the cursor; None where the list is empty."""
        row = self._table.cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def compose(self) -> ComposeResult:
        """Lay out the filter above the table."""
        yield self._filter
        yield self._table

    def on_mount(self) -> None:
        """Hide the filter."""
        self._filter.display = False

    def show(self, cards: Cards, residents: Collection[str], cursor: str | None = None) -> None:
        """Show the models; the cursor stays on its model.

        Args:
            residents: Names of those in memory.
            cursor: The model to move to; None keeps the cursor.
        """
        self._cards, self._residents = cards, residents
        self._fill(cursor)

    def action_find(self) -> None:
        """Open the filter."""
        self._filter.display = True
        self._fit()
        self._filter.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Show the models that match."""
        changed.stop()
        self._fill()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Go back to the table; the filter stays while it has words."""
        submitted.stop()
        self._leave()

    def on_filter_input_left(self) -> None:
        """Go back to the table."""
        self._leave()

    def on_data_table_row_highlighted(self) -> None:
        """Say that another model is under the cursor."""
        self.post_message(self.Highlighted())

    def on_resize(self, _resized: events.Resize) -> None:
        """Choose the columns for the new width, and keep the cursor in sight."""
        self._fit()
        if self._fit_columns(self._texts()) != self._fitted:
            self._fill()
        self._table.move_cursor(row=self._table.cursor_row, animate=False)

    def _leave(self) -> None:
        self._filter.display = bool(self._filter.value)
        self._fit()
        self._table.focus()

    def _fill(self, cursor: str | None = None) -> None:
        current = self.current
        cursor = cursor or (None if current is None else current.spec.name)
        self._shown = filter_cards(self._cards.models, self._filter.value)
        texts = self._texts()
        self._fitted = self._fit_columns(texts)
        self._table.clear(columns=True)
        for one in self._fitted:
            title = Text(one.column.title, justify="right" if one.column.right else "left")
            self._table.add_column(title, key=one.column.key, width=one.width)
        for row in texts:
            self._table.add_row(*model_cells(row, self._fitted))
        names = [card.spec.name for card in self._shown]
        if cursor in names:
            self._table.move_cursor(row=names.index(cursor), animate=False)
        self._fit()
        self.post_message(self.Highlighted())

    def _texts(self) -> list[dict[str, str]]:
        return [
            model_texts(card, self._cards, resident=card.spec.name in self._residents)
            for card in self._shown
        ]

    def _fit_columns(self, texts: Sequence[dict[str, str]]) -> tuple[FittedColumn, ...]:
        width = self.size.width - _SCROLLBAR_CELLS
        return fit_columns(self._columns, measure_columns(self._columns, texts), width)

    def _fit(self) -> None:
        """Take the rows that all models need, so that a filter does not move what is below."""
        if self.screen.has_class("-low"):
            self.styles.height = "1fr"  # what is left: the cursor must not be below the screen
        else:
            self.styles.height = len(self._cards.models) + 1 + int(self._filter.display)
