"""What ``etui models status`` prints: the cost of keeping each model warm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from etui.cli.output import print_lines, print_table
from etui.codec import finite, pick, to_document
from etui.config.config import Config
from etui.energy.idle import describe_cool_down
from etui.energy.keep_warm import Measured
from etui.log.queries import LogReader
from etui.models.catalogue import Catalogue
from etui.runtime.keep_warm import (
    ModelIdle,
    break_even_text,
    build_cool_down,
    dated_unload_text,
    find_last_cool_down,
    keep_text,
    load_text,
    power_text,
    read_all_idle,
)
from etui.text import join_lines
from etui.turn.record import UnloadRecord


def read_status(
    log: LogReader, config: Config, catalogue: Catalogue
) -> tuple[dict[str, Any], Sequence[ModelIdle]]:
    """Read the status of all models of which something is known: as a document, and as values."""
    known = [idle for idle in read_all_idle(log, config, catalogue) if idle.is_known]
    last = find_last_cool_down(log)
    device = None
    if last is not None:
        device = {"last_unload": _build_last_unload(last[0]), "loaded_since": last[1]}
    models = [_build_model(idle) for idle in known]
    return {"keep_warm": config.keep_warm, "device": device, "models": models}, known


def _build_model(idle: ModelIdle) -> dict[str, Any]:
    load, even, last = idle.load, idle.choice.break_even, idle.last_unload
    return {
        "name": idle.model,
        "load_joules": build_figure(None if load is None else load.joules),
        "load_seconds": None if load is None else load.seconds,
        "load_kind": None if load is None else load.kind,
        "loads": 0 if load is None else load.loads,
        "loaded_idle_watts": build_figure(idle.loaded_watts),
        "cold_idle_watts": build_figure(idle.cold_watts),
        "loaded_idle_kind": idle.loaded_kind,
        "cold_idle_kind": idle.cold_kind,
        "extra_watts": build_figure(idle.extra_watts),
        "channels": build_channels(idle),
        "break_even_seconds": even and finite(even.seconds),
        "break_even_low": even and finite(even.low),
        "break_even_high": even and finite(even.high),
        "gaps": len(idle.gaps),
        "keep_warm": idle.setting,
        "keep_seconds": idle.keep_seconds,
        "auto_seconds": idle.choice.seconds,
        "auto_basis": idle.choice.basis,
        "auto_why": idle.choice.why,
        "last_unload": None if last is None else _build_last_unload(last),
    }


def _build_last_unload(unload: UnloadRecord) -> dict[str, Any]:
    found = build_cool_down(unload)
    return {
        **pick(unload, "created_at", "model", "reason"),
        "before_watts": build_figure(found.before),
        "after_watts": build_figure(found.after),
        "cold_watts": build_figure(found.cold),
        "above_cold_watts": build_figure(found.above_cold),
        "state": found.state,
        "text": describe_cool_down(found),
    }


def build_channels(idle: ModelIdle) -> list[dict[str, Any]]:
    """Build the idle watts of each channel with the model in memory, and cold."""
    return [
        {"id": name, "loaded_watts": loaded, "cold_watts": cold}
        for name, (loaded, cold) in idle.channels.items()
    ]


def build_figure(found: Measured | None) -> dict[str, float | None]:
    """Build the document of a measured number; of None, one without a value."""
    document: dict[str, float | None] = {"value": None, "uncertainty": None}
    return document if found is None else document | to_document(found)


def print_status(document: dict[str, Any], known: Sequence[ModelIdle]) -> None:
    """Print a table of the models, and notes on standard error."""
    if known:
        head = ["MODEL", "LOAD", "IDLE LOADED", "IDLE COLD", "BREAK-EVEN", "KEPT", "LAST UNLOAD"]
        print_table(head, [
            [join_lines(idle.model), load_text(idle),
             power_text(idle.loaded_watts, idle.loaded_kind),
             power_text(idle.cold_watts, idle.cold_kind), break_even_text(idle), keep_text(idle),
             dated_unload_text(idle.last_unload)]
            for idle in known
        ])  # fmt: skip
    else:
        click.echo("no model was loaded or measured yet", err=True)
    print_lines(_list_notes(document["device"], known), err=True)


def _list_notes(device: dict[str, Any] | None, known: Sequence[ModelIdle]) -> Iterator[str]:
    if device is not None:
        since = "; a model was loaded since" if device["loaded_since"] else ""
        yield f"idle power after the last unload: {device['last_unload']['text']}{since}"
    for idle in known:
        if idle.setting == "auto":
            yield f"{join_lines(idle.model)}: {idle.choice.why}"
    if any(idle.load is None for idle in known):
        yield "the next load of a model measures its joules and seconds"
    if known and known[0].cold_watts is None:
        yield "measure the cold idle power with: etui power idle"
    missing = [idle.model for idle in known if idle.loaded_watts is None]
    if missing:
        name = join_lines(missing[0])
        yield (
            "a pause of 35 s after an answer in the app measures a model's idle power, and so "
            f"does: etui power idle --model {name}"
        )
