"""The power of a turn of the log over its time, as a graph of text with its phases marked."""

from __future__ import annotations

from etui import units
from etui.log.records import TurnRecord
from etui.plots.terminal import bar_rows, scale_top

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
