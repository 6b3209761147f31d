"""One turn in full: its power over time, its facts, its question and its answer."""

from __future__ import annotations

from textwrap import wrap

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.log.text import list_facts, list_texts
from etui.plots.braille import Graph
from etui.plots.power_history import Buckets
from etui.tui.history.queries import Detail
from etui.tui.widgets.power_graph import PowerGraph
from etui.turn.record import TurnRecord


class DetailView(Vertical):
    """The graph of the live panel, drawn for a turn of the past, and the text below it."""

    def __init__(self) -> None:
        super().__init__()
        self._detail: Detail | None = None
        self._head = Static("", markup=False, classes="watts")
        self._graph = PowerGraph()
        self._graph.display = False
        self._lines = Static("select a turn", markup=False)

    def compose(self) -> ComposeResult:
        """Build the graph with its heading, and the text below it."""
        yield self._head
        yield self._graph
        yield self._lines

    def show(self, detail: Detail | None) -> None:
        """Show a turn; None clears the view."""
        self._detail = detail
        if detail is None:
            self._head.update("")
            self._graph.display = False
            self._lines.update("select a turn")
            return
        self._head.update(power_heading(detail.turn))
        self._graph.display = any(watts is not None for watts in detail.turn.power_watts)
        self._graph.show(turn_graph(detail.turn, max(40, 2 * self.size.width)))
        self._lines.update("\n".join(_detail_lines(detail, max(20, self.size.width))))

    def on_resize(self) -> None:
        """Draw again at the new width."""
        self.show(self._detail)


def power_heading(turn: TurnRecord) -> str:
    """Format what the graph shows: ``power over 6.95 s``, or that nothing was measured."""
    if all(watts is None for watts in turn.power_watts):
        return f"power over time: {units.UNMEASURED}"
    known = [watts for watts in turn.power_watts if watts is not None]
    kind = turn.energy.kind if turn.energy.kind == units.ESTIMATE else None
    seconds = units.seconds_text(turn.seconds.total)
    return f"power over {seconds}, at most {units.short_watts_text(max(known), kind)}"


def turn_graph(turn: TurnRecord, values: int) -> Graph:
    """Build the graph of a turn from its start to its end.

    Args:
        turn: The turn; its logged watts are repeated or thinned out to ``values`` ones.
        values: Number of values to draw.
    """
    watts = turn.power_watts
    means = tuple(watts[index * len(watts) // values] for index in range(values)) if watts else ()
    buckets = Buckets(turn.seconds.total / max(1, values), means, means, turn_phases(turn, values))
    return Graph(buckets, None, turn.energy.idle_watts, end_word="end")


def turn_phases(turn: TurnRecord, values: int) -> str:
    """Return the letter of the phase of each of ``values`` equal parts of a turn.

    The prefill is known by its seconds; thinking and answer share the decode by their tokens.
    """
    seconds, tokens = turn.seconds, turn.tokens
    if seconds.total <= 0:
        return " " * values
    prefill = round(values * min(1.0, seconds.prefill / seconds.total))
    share = tokens.thinking / tokens.output if tokens.output else 0.0
    thinking = round((values - prefill) * min(1.0, max(0.0, share)))
    return "P" * prefill + "T" * thinking + "A" * (values - prefill - thinking)


def _detail_lines(detail: Detail, width: int) -> list[str]:
    """Format the turn in full, each fact indented after its name."""
    facts = list_facts(detail.turn, detail.loads, detail.unloads)
    name_width = max(len(name) for name, _ in facts) + 2
    lines = []
    for name, text in facts:
        lines += wrap(f"{name:<{name_width}}{text}", width, subsequent_indent=" " * name_width) or [
            name
        ]
    for title, text in list_texts(detail.turn):
        lines += ["", f"{title}:", text]
    return lines
