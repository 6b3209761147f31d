"""The model under the cursor in full: its facts, and its operating curve beside them."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from etui.text.sanitize import sanitize
from etui.tui.models.cards import Cards, ModelCard
from etui.tui.models.text import curve_lines, fact_lines, wrap_facts

_PLOT_HEIGHT = 10


class ModelDetail(Horizontal):
    """Two panes; a narrow screen hides the second, and the curve follows the facts."""

    def __init__(self) -> None:
        super().__init__(id="model-detail")
        self._facts = Static("", markup=False)
        self._curve = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """Lay out the facts and the curve."""
        with VerticalScroll(id="model-facts", can_focus=True):
            yield self._facts
        with VerticalScroll(id="model-curve", can_focus=True):
            yield self._curve

    def show(self, card: ModelCard, cards: Cards, *, resident: bool, job: Sequence[str]) -> None:
        """Show a model.

        Args:
            cards: All models, and the free memory.
            job: Lines about a job that runs on it.
        """
        facts = list(fact_lines(card, cards, resident=resident, running=job))
        has_curve_pane = self.query_one("#model-curve").display
        pane = self._curve if has_curve_pane else self._facts
        curve = list(curve_lines(card, pane.size.width, _PLOT_HEIGHT))
        if has_curve_pane:
            self._curve.update(sanitize("\n".join(curve)))
        else:
            facts += ["", *curve]
        self._facts.update(sanitize("\n".join(wrap_facts(facts, self._facts.size.width))))

    def clear(self) -> None:
        """Show nothing, where no model is left in the list."""
        self._facts.update("")
        self._curve.update("")
