"""The table of channels of ``etui power`` and ``etui power run``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etui.text import format_table, one_line
from etui.units import cost_text, energy_text, net_text, percent_text, seconds_text, watts_text

_HEAD = ("channel", "now", "mean", "energy", "since start", "period", "coverage", "notes")


def format_power(document: dict[str, Any], *, live: bool = True) -> Iterator[str]:
    """Format a power document as lines of text: every channel, then the total.

    Without ``live``, the watts now and the joules since the start are left out.
    """
    from etui.energy.types import WallEnergy
    from etui.energy.wall_model import wall_text

    rows = [_HEAD, *(_format_row(channel) for channel in document["channels"])]
    head, *rows = rows if live else [(row[0], *row[2:4], *row[5:]) for row in rows]
    yield from format_table(rows, header=head)
    energy = document["energy"]
    total = energy_text(energy["joules"], energy["uncertainty"], energy["kind"], spread=True)
    if energy["net_joules"] is not None and not live:
        net = net_text(energy["net_joules"], energy["uncertainty"], energy["kind"])
        total += f", {net} above idle"
    yield f"total over {seconds_text(document['seconds'])}: {total}"
    if wall := energy.get("wall"):
        yield f"at the wall: {wall_text(WallEnergy(**{k: wall[k] for k in wall if k != 'kind'}))}"
    mean = watts_text(energy["mean_watts"], energy["kind"])
    peak = watts_text(energy["peak_watts"], energy["kind"])
    yield f"mean {mean}, peak {peak}, coverage {percent_text(energy['coverage'])}"
    if energy["unmeasured"]:
        from etui.energy.scopes import describe_unread

        yield f"{describe_unread(energy['unmeasured'])} (see `etui doctor`)"
    if cost := document.get("cost"):
        text = cost_text(cost.get("grams_co2e"), cost.get("price"), cost.get("currency", ""))
        wall = ", at the wall" if text and "joules_of" in cost else ""
        yield f"by your tariff: {text or 'no price known for this time'}{wall}"


def _format_row(channel: dict[str, Any]) -> tuple[str, ...]:
    kind = channel["kind"]
    notes = [] if channel["in_total"] else ["cross-check"]
    notes += [flag for flag in channel["flags"] if flag != "extrapolated"]
    wall = channel["wall"] or {}
    notes += [one_line(wall["problem"])] if wall.get("problem") else []
    period = channel["period_seconds"]
    return (
        channel["id"],
        watts_text(channel["watts"], kind),
        watts_text(channel.get("mean_watts"), kind),
        energy_text(channel["joules"], channel["uncertainty"], kind),
        energy_text(channel["joules_since_start"], None, kind),
        seconds_text(period) if period else "-",
        percent_text(channel["coverage"]),
        ", ".join(notes),
    )
