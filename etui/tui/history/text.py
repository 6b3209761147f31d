"""Format turns and totals for the history screen."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.log.filters import Sort
from etui.log.text import list_facts, list_texts
from etui.log.totals import Total
from etui.plots.terminal import bar, bar_rows, scale_top
from etui.text.tables import count_cells, fit_cells, one_line
from etui.tui.history.queries import Detail, HistoryQuery, TotalsBy
from etui.turn.record import TurnRecord

_BAR_WIDTH = 24
_ONE_LINE_FROM = 110
"""Width in cells from which a total and its bar share one line."""


def status_text(
    query: HistoryQuery, read: int, total: int, totals_by: TotalsBy | None, page: int
) -> str:
    """Describe the listed turns: ``1,204 turns with "joule", by joules, most first``."""
    words = f' with "{query.search}"' if query.search else ""
    text = f"{units.count_text(total, 'turn')}{words}"
    if totals_by is not None:
        return f"{text}, totals by {totals_by}"
    if total == 0:
        return "no turns" + (words or " in the log yet")
    first = _FIRST[query.sort][query.descending]
    more = f"; {read:,} read, more as you scroll" if page <= read < total else ""
    return f"{text}, by {query.sort.value.replace('-', ' ')}, {first} first{more}"


_FIRST = {
    Sort.TIME: ("oldest", "newest"),
    Sort.JOULES: ("least", "most"),
    Sort.JOULES_PER_TOKEN: ("least", "most"),
    Sort.SECONDS: ("shortest", "longest"),
    Sort.TOKENS: ("fewest", "most"),
    Sort.MODEL: ("a", "z"),
    Sort.RULE: ("a", "z"),
}


def totals_lines(by: TotalsBy, totals: Sequence[Total], width: int) -> list[str]:
    """Draw a bar of joules for each group, with readings and estimates labelled in words."""
    if not totals:
        return ["no turns to total"]
    names = [one_line(total.key) or "(none)" for total in totals]
    name_width = min(28, max(count_cells(name) for name in names))
    highest = max((_total_joules(total) or 0.0) for total in totals)
    drawn = max(8, min(_BAR_WIDTH, width - name_width - 50))
    lines = [f"joules by {by}", ""]
    for name, total in zip(names, totals, strict=True):
        label = fit_cells(name, name_width)
        label += " " * (name_width - count_cells(label))
        length = bar(_total_joules(total), highest, drawn)
        if width < _ONE_LINE_FROM:
            lines += [f"{label}  {length}", f"    {_amount_text(total)}"]
        else:
            lines.append(f"{label}  {length:<{drawn}}  {_amount_text(total)}")
    return lines


def _total_joules(total: Total) -> float | None:
    known = [part for part in (total.joules, total.estimated_joules) if part is not None]
    return sum(known) if known else None


def _amount_text(total: Total) -> str:
    parts = []
    if total.joules is not None:
        parts.append(units.total_text(total.joules, total.uncertainty, total.kind))
    if total.estimated_joules is not None:
        parts.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if total.unmeasured_turns:
        parts.append(f"{units.count_text(total.unmeasured_turns, 'turn')} unmeasured")
    return f"{' and '.join(parts)} · {units.count_text(total.turns, 'turn')}"


class DetailView(Vertical):
    """One turn in full: its energy and power over time, then the question and the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._detail: Detail | None = None
        self._watts = Static("", markup=False, classes="watts")
        self._lines = Static("select a turn", markup=False)

    def compose(self) -> ComposeResult:
        """Build the graph and the text below it."""
        yield self._watts
        yield self._lines

    def show(self, detail: Detail | None) -> None:
        """Show a turn; None clears the view."""
        self._detail = detail
        if detail is None:
            self._watts.update("")
            self._lines.update("select a turn")
            return
        self._watts.update(power_graph_text(detail.turn, max(20, self.size.width - 2)))
        self._lines.update("\n".join(_detail_lines(detail, max(20, self.size.width))))

    def on_resize(self) -> None:
        """Draw again at the new width."""
        self.show(self._detail)


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


_HEIGHT = 4


def power_graph_text(turn: TurnRecord, width: int) -> str:
    """Draw power over time from 0 to a round number of watts, with the phases below.

    Returns:
        The graph, or a line that says "unmeasured" if no watts were logged.
    """
    watts = turn.power_watts
    known = [value for value in watts if value is not None]
    if not known:
        return f"power over time: {units.UNMEASURED}"
    top = scale_top(None, max(known))
    wide = _stretch(watts, width)
    rows = bar_rows(wide, top, len(wide), _HEIGHT)
    head = f"power over {units.seconds_text(turn.seconds.total)}, 0 to {units.watts_text(top)}"
    if turn.energy.kind == units.ESTIMATE:
        head += " (estimate)"
    return "\n".join([head, *rows, _phases(turn, len(wide))])


def _stretch(watts: tuple[float | None, ...], width: int) -> list[float | None]:
    """Repeat every slice as often as it fits, so that the graph of a short turn is wide too."""
    if len(watts) >= width:
        return [watts[index * len(watts) // width] for index in range(width)]
    return [value for value in watts for _ in range(width // len(watts))]


def _phases(turn: TurnRecord, width: int) -> str:
    """Return ``prefill│decode`` with the bar at the first token."""
    seconds = turn.seconds
    if seconds.total <= 0:
        return ""
    split = max(1, min(width - 1, round(width * seconds.prefill / seconds.total)))
    return f"{_pad_name('prefill', split - 1)}│{_pad_name('decode', width - split)}"


def _pad_name(name: str, width: int) -> str:
    return name[:width].ljust(width) if width > 0 else ""
