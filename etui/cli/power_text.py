"""Format what ``etui power`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from etui.text import format_table
from etui.units import cost_text, energy_text, percent_text, seconds_text, watts_text

if TYPE_CHECKING:
    from etui.energy.documents import ChannelDocument, CostDocument, PowerDocument
    from etui.energy.sources.estimate import Calibration

_HEAD = ("channel", "now", "mean", "energy", "since start", "period", "coverage", "notes")


def format_power(document: PowerDocument) -> Iterator[str]:
    """Format a power document as lines of text: every channel, then the total."""
    rows = [_format_row(channel) for channel in document["channels"]]
    yield from format_table(rows, header=_HEAD)
    energy = document["energy"]
    total = energy_text(energy["joules"], energy["uncertainty"], energy["kind"], spread=True)
    yield f"total over {seconds_text(document['seconds'])}: {total}"
    mean = watts_text(energy["mean_watts"], energy["kind"])
    peak = watts_text(energy["peak_watts"], energy["kind"])
    yield f"mean {mean}, peak {peak}, coverage {percent_text(energy['coverage'])}"
    if energy["unmeasured"]:
        from etui.energy.scopes import describe_unread

        yield f"{describe_unread(energy['unmeasured'])} (see `etui doctor`)"
    if cost := document.get("cost"):
        yield _format_cost(cost)


def format_calibration(fitted: Calibration) -> Iterator[str]:
    """Format a fitted range as lines of config.yaml."""
    yield f"cpu_idle_watts: {fitted.idle_watts:.1f}"
    yield f"cpu_limit_watts: {fitted.limit_watts:.1f}"
    band = f"±{100 * fitted.band:.0f} %"
    yield f"# fitted to {fitted.points} readings, {band} (2 standard deviations)"


def _format_row(channel: ChannelDocument) -> tuple[str, ...]:
    kind = channel["kind"]
    notes = [] if channel["in_total"] else ["cross-check"]
    notes += [flag for flag in channel["flags"] if flag != "extrapolated"]
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


def _format_cost(cost: CostDocument) -> str:
    text = cost_text(cost.get("grams_co2e"), cost.get("price"), cost.get("currency", ""))
    return f"by your factors: {text}"
