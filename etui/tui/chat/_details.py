"""Where the numbers of an answer come from: one page of facts, for any turn with a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from etui import units
from etui.energy.scopes import describe_unread
from etui.energy.wall_model import wall_text
from etui.text import SEPARATOR, count_cells, format_table, one_line, sanitize
from etui.tui.modals import BoxModal
from etui.turn.record import TurnRecord
from etui.turn.text import (
    cache_lines,
    drafts_text,
    forecast_range,
    forecast_ratio,
    kind_of_hop,
    loop_text,
    route_parts,
    shared_text,
    tool_tree,
)

NO_BASELINE = "needs an idle baseline: leave etui idle for 35 s"

_SOURCES = {
    "counter": "a hardware counter",
    "integrated": "hardware power readings, integrated over time",
    "model": "the vendor's power model",
    "battery": "the battery's readings",
    units.ESTIMATE: "estimated, no hardware reading: CPU time and a configured power range",
}
"""How an energy was obtained, by its kind."""

Fact = tuple[str, str]


def list_details(record: TurnRecord) -> list[Fact]:
    """List the facts of a turn as pairs of name and text; a text may have several lines."""
    facts = [*_list_energy(record), *_list_route(record)]
    return [(name, text) for name, text in facts if text]


def _list_energy(record: TurnRecord) -> Iterator[Fact]:
    energy = record.energy
    yield "failed", one_line(record.error or "")
    if energy.joules is None:
        yield "energy", f"{units.UNMEASURED}: nothing could be read; `etui doctor` shows why"
    else:
        gross = units.marked(
            units.energy_text(energy.joules, energy.uncertainty, energy.kind, spread=True)
        )
        if energy.joules_per_token is not None:
            each = units.per_token_text(energy.joules_per_token, energy.kind)
            gross += f", {units.marked(each)}"
        source = _SOURCES.get(energy.kind or "", "")
        yield "energy", SEPARATOR.join(part for part in (f"{gross}, idle included", source) if part)
        yield "at the wall", "" if energy.wall is None else wall_text(energy.wall)
        yield "net", _format_net(record)
        yield "others", shared_text(energy) if energy.shared else "counts no other program"
        parts = [f"{units.short_watts_text(energy.mean_watts, energy.kind)} mean"]
        if energy.peak_watts is not None:
            parts.append(f"{units.short_watts_text(energy.peak_watts, energy.kind)} peak")
        yield "power", ", ".join([*parts, f"{units.percent_text(energy.coverage)} recorded"])
    yield "phases", "\n".join(_format_phases(record))
    if record.cache is not None:
        yield "cache", "\n".join(cache_lines(record.cache))
    if again := record.settings.get("recomputed_tokens"):
        why = one_line(str(record.settings.get("recomputed_why") or ""))
        yield "recomputed", f"{units.tok_text(int(again))} {why}"
    if record.seconds.ttft is not None:
        yield "first token", f"after {units.seconds_text(record.seconds.ttft)}"
    yield "channels", _format_channels(record)


def _format_net(record: TurnRecord) -> str:
    energy = record.energy
    if energy.net_joules is None:
        return NO_BASELINE
    if energy.net_joules <= 0:
        net = units.NOT_ABOVE_IDLE
    else:
        net = units.short_energy_text(energy.net_joules, energy.kind)
        if record.tokens.output:
            per_token = energy.net_joules / record.tokens.output
            net += f", {units.short_per_token_text(per_token, energy.kind)}"
    return f"{net}, without the {units.short_watts_text(energy.idle_watts, energy.kind)} of idling"


def _format_phases(record: TurnRecord) -> list[str]:
    """Format the phases as a table: joules, seconds, tokens."""
    energy, seconds, tokens = record.energy, record.seconds, record.tokens
    decode, thinking = energy.phases.get("decode"), energy.thinking_joules
    cached = f", {tokens.cached:,} cached" if tokens.cached else ""
    rows = []
    if seconds.load or energy.phases.get("load"):
        load = _joules(record, energy.phases.get("load"))
        rows.append(("load", load, units.seconds_text(seconds.load), "not in the price"))
    rows.append(
        (
            "read",
            _joules(record, energy.phases.get("prefill")),
            units.seconds_text(seconds.prefill),
            f"{units.tok_text(tokens.prompt)}{cached}",
        )
    )
    if (seen := record.pictures) is not None:
        joules = units.energy_text(seen.joules, seen.uncertainty, energy.kind)
        facts = units.tok_text(seen.tokens)
        rows.append(("pictures", joules, units.seconds_text(seen.seconds), facts))
    answer = decode
    if tokens.thinking:
        rows.append(("think", _joules(record, thinking), "", units.tok_text(tokens.thinking)))
        answer = None if decode is None or thinking is None else max(0.0, decode - thinking)
    rows.append(
        (
            "write",
            _joules(record, answer),
            units.seconds_text(seconds.decode) + (" with thinking" if tokens.thinking else ""),
            units.tok_text(tokens.output - tokens.thinking),
        )
    )
    return [line.rstrip() for line in format_table(rows, measure=count_cells)]


def _joules(record: TurnRecord, joules: float | None) -> str:
    return units.short_energy_text(joules, record.energy.kind)


def _format_channels(record: TurnRecord) -> str:
    energy = record.energy
    parts = [
        f"{one_line(name)} {units.short_energy_text(joules, energy.kind)}"
        for name, joules in energy.channels.items()
    ]
    parts.append(one_line(describe_unread(energy.unmeasured)))
    return ", ".join(part for part in parts if part)


def _list_route(record: TurnRecord) -> Iterator[Fact]:
    route = route_parts(
        record.policy, record.rule, record.arm, record.reasoning, record.model, record.why
    )
    yield "model", one_line(SEPARATOR.join(part for part in route if part))
    notices = record.trace.get("notices")
    yield "notice", one_line("; ".join(notices if isinstance(notices, list | tuple) else ()))
    yield "forecast", _format_forecast(record)
    tree = tool_tree(record)
    if tree:
        whole = tree[0][1].replace(": ", "\n", 1)
        yield "tools", "\n".join([whole, *(f"{name}: {text}" for name, text in tree[1:])])
    for number, hop in enumerate(() if tree else record.hops, start=1):
        joules = units.short_energy_text(hop.joules, kind_of_hop(hop, record.energy))
        mark = "✓ " if hop.taken else ""
        text = f"{mark}{hop.arm} › {hop.model}{SEPARATOR}{hop.why}{SEPARATOR}{joules}"
        yield f"hop {number}", one_line(text)
    if record.votes:
        yield "votes", ", ".join(one_line(vote.choice or "no answer") for vote in record.votes)
    if record.confidence is not None:
        yield "confidence", units.percent_text(record.confidence)
    if drafts := drafts_text(record):
        yield "drafts", drafts
    ended = str(record.settings.get("ended") or "")
    yield "ended", one_line(loop_text(record) or ended)


def _format_forecast(record: TurnRecord) -> str:
    parts = []
    if ends := forecast_range(record):
        parts.append(units.joules_between_text(*ends))
        ratio = forecast_ratio(record)
        if ratio is not None:
            joules = units.short_energy_text(record.energy.joules, record.energy.kind)
            parts.append(f"it took {joules}, {units.times_text(ratio)}")
    if record.predicted_accuracy is not None:
        parts.append(f"right with {units.percent_text(record.predicted_accuracy)}")
    return SEPARATOR.join(parts)


class DetailsModal(BoxModal[None]):
    """Page over the chat with the facts of one answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,i,q,enter", "leave", "Close", id="details.leave", key_display="esc"),
    ]

    def __init__(self, record: TurnRecord, costs: Sequence[Fact] = ()) -> None:
        super().__init__("Where the numbers come from")
        self._facts = [*list_details(record), *costs]

    def compose_box(self) -> ComposeResult:
        with VerticalScroll(classes="facts"):
            for name, text in self._facts:
                with Vertical(classes="fact"):
                    yield Static(name, markup=False, classes="name")
                    yield Static(sanitize(text), markup=False, classes="text")
