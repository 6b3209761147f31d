"""Format turns and totals for the history screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.log.filters import Sort
from etui.log.queries import TurnSummary
from etui.log.text import turn_facts, turn_texts
from etui.log.totals import Total
from etui.plots.terminal import bar, bar_rows, scale_top
from etui.text.tables import count_cells, fit_cells, one_line
from etui.text.timestamps import local_time
from etui.tui.history.queries import Detail, HistoryQuery, TotalsBy
from etui.turn.record import TurnRecord

_BAR_WIDTH = 24


_ONE_LINE_FROM = 110
"""Cells from which a total stands on one line with its bar."""


@dataclass(frozen=True, slots=True)
class TurnColumn:
    """One column of the table; None as width takes what its cells need."""

    key: str
    title: str
    sort: Sort | None
    width: int | None = None


COLUMNS = (
    TurnColumn("time", "TIME", Sort.TIME),
    TurnColumn("question", "QUESTION", None, 26),
    TurnColumn("joules", "ENERGY", Sort.JOULES),
    TurnColumn("per_token", "PER TOKEN", Sort.JOULES_PER_TOKEN),
    TurnColumn("tokens", "TOKENS", Sort.TOKENS),
    TurnColumn("seconds", "SECONDS", Sort.SECONDS),
    TurnColumn("model", "MODEL", Sort.MODEL),
    TurnColumn("rule", "RULE", Sort.RULE),
)


_RIGHT = frozenset({"joules", "per_token", "tokens", "seconds"})


def turn_cells(turn: TurnSummary) -> tuple[Text, ...]:
    """One row of the table, in the order of :data:`COLUMNS`; no cell of it is markup.

    Of the kind only an estimate is written: the detail tells which reading the others are.
    """
    mark = "" if turn.status == "complete" else f"[{turn.status}] "
    texts = {
        "time": local_time(turn.created_at)[5:16],
        "question": mark + one_line(turn.query),
        "joules": units.energy_text(turn.joules, None, _estimate(turn.kind)),
        "per_token": units.per_token_text(turn.joules_per_token, turn.kind),
        "tokens": f"{turn.tokens_output:,}",
        "seconds": units.seconds_text(turn.seconds_total),
        "model": one_line(turn.model),
        "rule": one_line(turn.rule or "-"),
    }
    return tuple(
        Text(
            texts[column.key],
            justify="right" if column.key in _RIGHT else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
        for column in COLUMNS
    )


def _estimate(kind: str | None) -> str | None:
    return kind if kind == units.ESTIMATE else None


def status_text(
    wanted: HistoryQuery, read: int, total: int, totals_by: TotalsBy | None, page: int
) -> str:
    """What is shown: ``1,204 turns with "joule", by joules, highest first; 100 read``."""
    words = f' with "{wanted.search}"' if wanted.search else ""
    said = f"{units.count_text(total, 'turn')}{words}"
    if totals_by is not None:
        return f"{said}, added up by {totals_by}"
    if total == 0:
        return "no turn" + (words or " in the log yet")
    first = _FIRST[wanted.sort][wanted.descending]
    more = f"; {read:,} read, more as you go down" if page <= read < total else ""
    return f"{said}, by {wanted.sort.value.replace('-', ' ')}, {first} first{more}"


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
    """A line a group: its bar of joules, readings and estimates told apart by their words."""
    if not totals:
        return ["nothing to add up"]
    names = [one_line(total.key) or "(none)" for total in totals]
    room = min(28, max(count_cells(name) for name in names))
    highest = max((_joules(total) or 0.0) for total in totals)
    drawn = max(8, min(_BAR_WIDTH, width - room - 50))
    lines = [f"joules by {by}", ""]
    for name, total in zip(names, totals, strict=True):
        label = fit_cells(name, room)
        label += " " * (room - count_cells(label))
        length = bar(_joules(total), highest, drawn)
        if width < _ONE_LINE_FROM:
            lines += [f"{label}  {length}", f"    {_amount(total)}"]
        else:
            lines.append(f"{label}  {length:<{drawn}}  {_amount(total)}")
    return lines


def _joules(total: Total) -> float | None:
    known = [part for part in (total.joules, total.estimated_joules) if part is not None]
    return sum(known) if known else None


def _amount(total: Total) -> str:
    parts = []
    if total.joules is not None:
        parts.append(units.total_text(total.joules, total.uncertainty, total.kind))
    if total.estimated_joules is not None:
        parts.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if total.unmeasured_turns:
        parts.append(f"{units.count_text(total.unmeasured_turns, 'turn')} unmeasured")
    return f"{' and '.join(parts)} · {units.count_text(total.turns, 'turn')}"


class DetailView(Vertical):
    """One turn in full: what it cost and its power over time, then what was said."""

    def __init__(self) -> None:
        super().__init__()
        self._detail: Detail | None = None
        self._watts = Static("", markup=False, classes="watts")
        self._lines = Static("choose a turn", markup=False)

    def compose(self) -> ComposeResult:
        yield self._watts
        yield self._lines

    def show(self, detail: Detail | None) -> None:
        """Show a turn; None shows none."""
        self._detail = detail
        if detail is None:
            self._watts.update("")
            self._lines.update("choose a turn")
            return
        self._watts.update(watts_text_graph(detail.turn, max(20, self.size.width - 2)))
        self._lines.update("\n".join(_detail_lines(detail, max(20, self.size.width))))

    def on_resize(self) -> None:
        self.show(self._detail)


def _detail_lines(detail: Detail, width: int) -> list[str]:
    """The turn in full, each fact hanging behind its name."""
    facts = turn_facts(detail.turn, detail.loads, detail.unloads)
    room = max(len(name) for name, _ in facts) + 2
    lines = []
    for name, text in facts:
        lines += wrap(f"{name:<{room}}{text}", width, subsequent_indent=" " * room) or [name]
    for title, text in turn_texts(detail.turn):
        lines += ["", f"{title}:", text]
    return lines


_HEIGHT = 4


def watts_text_graph(turn: TurnRecord, width: int) -> str:
    """The graph from 0 to a round number of watts, and below it where decoding begins.

    Says so where no watts were kept.
    """
    watts = turn.power_watts
    known = [value for value in watts if value is not None]
    if not known:
        return f"power over time: {units.UNMEASURED}"
    top = scale_top(None, max(known))
    wide = _stretched(watts, width)
    rows = bar_rows(wide, top, len(wide), _HEIGHT)
    head = f"power over {units.seconds_text(turn.seconds.total)}, 0 to {units.watts_text(top)}"
    if turn.energy.kind == units.ESTIMATE:
        head += " (estimate)"
    return "\n".join([head, *rows, _phases(turn, len(wide))])


def _stretched(watts: tuple[float | None, ...], width: int) -> list[float | None]:
    """Every slice as many columns as fit, so that a short turn is no sliver."""
    if len(watts) >= width:
        return [watts[index * len(watts) // width] for index in range(width)]
    return [value for value in watts for _ in range(width // len(watts))]


def _phases(turn: TurnRecord, width: int) -> str:
    """``prefill|decode`` with the bar where the first token came."""
    seconds = turn.seconds
    if seconds.total <= 0:
        return ""
    split = max(1, min(width - 1, round(width * seconds.prefill / seconds.total)))
    return f"{_named('prefill', split - 1)}│{_named('decode', width - split)}"


def _named(name: str, room: int) -> str:
    return name[: max(0, room)].ljust(room) if room > 0 else ""
