"""Everything about one model on a page of its own, for terminals without room for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from etui.text import sanitize
from etui.tui.models.cards import Cards, ModelCard
from etui.tui.models.text import curve_lines, fact_lines, wrap_facts
from etui.tui.widgets.key_footer import KeyFooter

_PLOT_HEIGHT = 10
_LABEL = 10


class ModelDetailsModal(ModalScreen[None]):
    """Shows a model: its facts, every source of its file, and its curve.

    Args:
        cards: All models, and the free memory.
        problem: What went wrong with a model, with its fix; shown first. Empty for nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "leave", "Close", id="model.close", key_display="esc"),
        Binding("j", "scroll(1)", "Down", id="model.down", show=False),
        Binding("k", "scroll(-1)", "Up", id="model.up", show=False),
        Binding("g", "jump(-1)", "Top", id="model.top", show=False),
        Binding("G", "jump(1)", "End", id="model.end", show=False),
    ]

    def __init__(self, card: ModelCard, cards: Cards, *, resident: bool, problem: str = "") -> None:
        super().__init__()
        self._problem = Static(sanitize(problem), markup=False, classes="problem")
        self._card = card
        self._cards = cards
        self._resident = resident
        self._text = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        with VerticalScroll(id="model-page"):
            yield self._problem
            yield self._text
        yield KeyFooter()

    def on_mount(self) -> None:
        """Focus the page, so that it can be scrolled."""
        self._problem.display = bool(self._problem.content)
        self.query_one("#model-page").focus()

    def on_resize(self) -> None:
        """Wrap the text to the new width."""
        self.call_after_refresh(self._draw)

    def action_leave(self) -> None:
        """Close the page."""
        self.dismiss(None)

    def action_scroll(self, rows: int) -> None:
        """Scroll by rows."""
        self.query_one("#model-page").scroll_relative(y=rows, animate=False)

    def action_jump(self, direction: int) -> None:
        """Scroll to the top or the end."""
        page = self.query_one("#model-page")
        if direction < 0:
            page.scroll_home(animate=False)
        else:
            page.scroll_end(animate=False)

    def _draw(self) -> None:
        width = self._text.size.width
        lines = wrap_facts(self._lines(width), width)
        self._text.update(sanitize("\n".join(lines)))

    def _lines(self, width: int) -> Iterator[str]:
        yield from fact_lines(self._card, self._cards, resident=self._resident)
        if self._card.has_file:
            yield from (f"{'source':<{_LABEL}}{source}" for source in self._card.spec.sources)
        yield ""
        yield from curve_lines(self._card, width, _PLOT_HEIGHT)
