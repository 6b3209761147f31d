"""Format turns and totals for the history screen."""

from __future__ import annotations

from collections.abc import Sequence

from etui import units
from etui.log.filters import Sort
from etui.log.totals import Total
from etui.plots.terminal import bar
from etui.text.tables import count_cells, fit_cells, one_line
from etui.tui.history.queries import HistoryQuery, TotalsBy

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
