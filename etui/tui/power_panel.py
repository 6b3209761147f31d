"""What the machine draws now, what this answer has cost so far, and which model is in memory."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from etui import units
from etui.energy.types import Channel, ChannelPower, Energy, Kind
from etui.engine.events import Loaded
from etui.lines import SEPARATOR
from etui.log.records import TurnRecord
from etui.tui.power_graph import PowerGraph
from etui.visible import visible

_KIND_WORDS = {
    Kind.COUNTER: "counter",
    Kind.INTEGRATED: "integrated",
    Kind.MODEL: "vendor's model",
    Kind.BATTERY: "battery",
    Kind.ESTIMATE: "estimate",
}

NOTHING_READ = "nothing on this machine can be read; `etui doctor` says why"


class ChannelMeter(Vertical):
    """One channel: its name, its watts in words, its graph."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._watts = Static("", markup=False, classes="watts")
        self._graph = PowerGraph(channel.limit_watts)

    def compose(self) -> ComposeResult:
        label = visible(self._channel.label or self._channel.scope)
        yield Static(label, markup=False, classes="label")
        yield self._watts
        yield self._graph

    def push(self, power: ChannelPower) -> None:
        """Take the latest reading."""
        self._graph.push(power.watts)
        self._watts.update(watts_line(power, self._graph.top_watts))


def watts_line(power: ChannelPower, top_watts: float) -> str:
    """``118 W of 350 W · counter``; a scale without a known limit says so."""
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


def total_watts(powers: Sequence[ChannelPower]) -> str:
    """Watts of all channels that make up the total, as text; unmeasured when one is not known."""
    counted = [power for power in powers if power.in_total]
    known = [power.watts for power in counted if power.watts is not None]
    if not counted or len(known) < len(counted):
        return units.UNMEASURED
    estimated = any(power.channel.kind is Kind.ESTIMATE for power in counted)
    return units.watts_text(sum(known), Kind.ESTIMATE.value if estimated else None)


def chat_total(records: Sequence[TurnRecord]) -> str:
    """Joules and watt-hours of the answers of a chat; those unmeasured are counted apart."""
    measured = [record.energy for record in records if record.energy.joules is not None]
    answers = units.count_text(len(records), "answer")
    if not measured:
        return f"{answers}, {units.UNMEASURED}"
    kinds = {energy.kind for energy in measured}
    kind = Kind.ESTIMATE.value if Kind.ESTIMATE.value in kinds else None
    total = units.total_text(sum(energy.joules or 0.0 for energy in measured), None, kind)
    missing = len(records) - len(measured)
    return f"{answers}: {total}" + (f"\n({missing} of them {units.UNMEASURED})" if missing else "")


class PowerPanel(VerticalScroll, can_focus=False):
    """The side panel; on a narrow screen the style sheet shows its one line instead."""

    HELP = """\
## Power

Watts now, on a scale from 0 to the channel's limit. The joules of an answer leave the loading of
the model out, and count idle power in (gross).
"""

    def __init__(self) -> None:
        super().__init__()
        self._meters: dict[str, ChannelMeter] = {}
        self._fold = Static("", markup=False, classes="fold")
        self._nothing = Static("", markup=False, classes="wide unmeasured")
        self._turn_heading = Static("This answer", markup=False, classes="wide heading")
        self._turn = Static("–", markup=False, classes="wide turn")
        self._chat = Static("–", markup=False, classes="wide chat")
        self._model = Static("none in memory", markup=False, classes="wide model")
        self._route = Static("", markup=False, classes="wide route")
        self._watts_text = ""
        self._turn_text = ""
        self._model_text = ""

    def compose(self) -> ComposeResult:
        yield self._fold
        yield Static("Power now", markup=False, classes="wide heading")
        yield self._nothing
        yield Vertical(classes="wide meters")
        yield self._turn_heading
        yield self._turn
        yield Static("This chat", markup=False, classes="wide heading")
        yield self._chat
        yield Static("Model", markup=False, classes="wide heading")
        yield self._model
        yield self._route

    async def show_power(self, powers: Sequence[ChannelPower]) -> None:
        """Take the latest readings of every channel."""
        for power in powers:
            meter = self._meters.get(power.channel.id)
            if meter is None:
                meter = self._meters[power.channel.id] = ChannelMeter(power.channel)
                await self.query_one(".meters").mount(meter)
            meter.push(power)
        self._watts_text = total_watts(powers)
        self._nothing.update("" if powers else f"{units.UNMEASURED}: {NOTHING_READ}")
        self._nothing.display = not powers
        self._show_fold()

    def show_turn(self, energy: Energy, output_tokens: int) -> str:
        """Joules of the running answer; returns their text."""
        kind = energy.kind.value if energy.kind else None
        joules = units.energy_text(energy.joules, energy.uncertainty, kind)
        self._turn_heading.update("This answer")
        self._show_joules(joules, _per_token(energy.joules, output_tokens, kind))
        return joules

    def show_record(self, record: TurnRecord) -> None:
        """Joules of the answer that has ended."""
        energy = record.energy
        self._turn_heading.update("Last answer")
        self._show_joules(
            units.energy_text(energy.joules, energy.uncertainty, energy.kind),
            _per_token(energy.joules, record.tokens.output, energy.kind),
        )

    def show_chat(self, records: Sequence[TurnRecord]) -> None:
        """What the chat has cost so far."""
        self._chat.update(chat_total(records) if records else "–")

    def show_loading(self, model: str) -> None:
        """A model is on its way into memory."""
        self._show_model(f"loading {model} …", "")

    def show_loaded(self, loaded: Loaded) -> None:
        """A model is in memory."""
        layers = loaded.gpu_layers
        where = f"{units.count_text(layers, 'layer')} on the GPU" if layers else "on the CPU"
        took = units.seconds_text((loaded.end_ns - loaded.start_ns) / 1e9)
        size = units.bytes_text(loaded.size_bytes)
        self._show_model(loaded.model, f"in memory, {size}, {where}\nloaded in {took}")

    def show_no_model(self) -> None:
        """No model is in memory."""
        self._show_model("none in memory", "")

    def show_route(self, policy: str, model: str | None) -> None:
        """Who chooses the next model."""
        self._route.update(f"chosen by you: {model}" if model else f"policy {visible(policy)}")

    def _show_joules(self, joules: str, per_token: str) -> None:
        self._turn.update("\n".join(line for line in (joules, per_token) if line))
        self._turn_text = joules
        self._show_fold()

    def _show_model(self, name: str, detail: str) -> None:
        self._model.update(visible(f"{name}\n{detail}" if detail else name))
        self._model_text = visible(name)
        self._show_fold()

    def _show_fold(self) -> None:
        watts = f"now {self._watts_text}" if self._watts_text else ""
        parts = (self._turn_text, watts, self._model_text)
        self._fold.update(SEPARATOR.join(part for part in parts if part))


def _per_token(joules: float | None, output_tokens: int, kind: str | None) -> str:
    if joules is None or not output_tokens:
        return ""
    return units.per_token_text(joules / output_tokens, kind)
