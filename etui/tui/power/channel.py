"""One power channel of the panel: its name, its watts as text, its graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.energy.types import Channel, ChannelPower, Kind
from etui.plots.braille import Graph
from etui.plots.power_history import TOTAL, PowerHistory
from etui.text.sanitize import sanitize
from etui.text.tables import SEPARATOR
from etui.tui.pacing import SAMPLE_SECONDS
from etui.tui.services import Vitals
from etui.tui.widgets.fact_line import FactLine, Line
from etui.tui.widgets.power_graph import PowerGraph

if TYPE_CHECKING:
    from etui.energy.sources.nvml_watch import GpuState

_KIND_WORDS = {
    Kind.COUNTER: "counter",
    Kind.INTEGRATED: "integrated",
    Kind.MODEL: "vendor's model",
    Kind.BATTERY: "battery",
    Kind.ESTIMATE: "estimate",
}


class ChannelMeter(Vertical):
    """One channel: its name, its watts as text, its graph."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._watts = Line(classes="watts")
        self._history = PowerHistory()
        self._idle_watts: float | None = None
        self._graph = PowerGraph(axes=False, letters=False)
        self._state = FactLine(classes="state")

    def compose(self) -> ComposeResult:
        """Lay out the name, the watts, the graph and the state."""
        label = sanitize(self._channel.label or self._channel.scope)
        yield Static(label, markup=False, classes="label")
        yield self._watts
        yield self._graph
        yield self._state

    def push(self, power: ChannelPower) -> None:
        """Add the latest reading."""
        now_ns = time.monotonic_ns()
        self._history.add(now_ns, {TOTAL: power.watts})
        buckets = self._history.buckets(TOTAL, now_ns, SAMPLE_SECONDS, self._graph.values)
        graph = Graph(buckets, self._channel.limit_watts, self._idle_watts)
        self._graph.show(graph)
        self._watts.set_text(watts_line(power, graph.top_watts))

    def show_vitals(self, vitals: Vitals) -> None:
        """Show the idle watts of the channel and the state of its GPU."""
        idle = vitals.idle_by_channel.get(self._channel.id)
        self._idle_watts = idle
        gpu = next((state for state in vitals.gpus if state.scope == self._channel.scope), None)
        self._state.show(state_line(idle, self._channel.kind, gpu))


def watts_line(power: ChannelPower, top_watts: float) -> str:
    """Return ``118 W of 350 W · counter``, or the top of the scale if no limit is known."""
    channel = power.channel
    if power.watts is None:
        return f"{units.UNMEASURED} now{SEPARATOR}{_KIND_WORDS[channel.kind]}"
    top = units.watts_text(top_watts)
    of = f"of {top}" if channel.limit_watts else f"(scale to {top})"
    if channel.kind is Kind.ESTIMATE:
        parts = [f"{units.watts_text(power.watts, channel.kind)} {of}"]
    else:
        parts = [f"{units.watts_text(power.watts)} {of}", _KIND_WORDS[channel.kind]]
    if not power.in_total:
        parts.append("not in the total")
    return SEPARATOR.join(parts)


def state_line(idle_watts: float | None, kind: Kind, gpu: GpuState | None) -> str:
    """Return ``idle 61.0 W · 54 °C · 4.10 GB of 48.3 GB VRAM``, without unknown values."""
    idle = "not measured" if idle_watts is None else units.watts_text(idle_watts, kind)
    parts = [f"idle {idle}"]
    if gpu is not None and gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius:.0f} °C")
    if gpu is not None and gpu.memory_total_bytes:
        used = units.bytes_text(gpu.memory_used_bytes)
        parts.append(f"{used} of {units.bytes_text(gpu.memory_total_bytes)} VRAM")
    return SEPARATOR.join(parts)


def total_watts(powers: Sequence[ChannelPower]) -> str:
    """Format the watts of all channels in the total; unmeasured if one is unknown."""
    counted = [power for power in powers if power.in_total]
    known = [power.watts for power in counted if power.watts is not None]
    if not counted or len(known) < len(counted):
        return units.UNMEASURED
    estimated = any(power.channel.kind is Kind.ESTIMATE for power in counted)
    return units.watts_text(sum(known), Kind.ESTIMATE.value if estimated else None)
