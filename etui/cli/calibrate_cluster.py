"""``etui calibrate --cluster``: one curve for each machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from etui.cli.cluster_commands import build_words, read_event, refuse_failed, run_on_nodes
from etui.cli.output import print_json
from etui.errors import ExitCode

if TYPE_CHECKING:
    from etui.config.config import Config

_OURS = frozenset({"cluster", "as_json", "jsonl", "from_log"})


def calibrate_cluster(ctx: click.Context, address: str, config: Config) -> int:
    """Calibrate a model on every node, and save the curves to the log of this machine too.

    Args:
        address: HOST:PORT, or ``local``.

    Raises:
        Stopped: It was interrupted; the same command resumes.
        EtuiError: A node could not measure; the curves of the others are saved.
    """
    model = str(ctx.params["model"])
    as_json, as_lines = bool(ctx.params["as_json"]), bool(ctx.params["jsonl"])
    words = build_words(ctx, _OURS)
    commands = (("models", "pull", model), (words[0], "--jsonl", *words[1:]))
    results, stopped = run_on_nodes(address, commands, collect=False, as_lines=as_lines)
    found = {
        machine: event
        for machine, result in results.items()
        if (event := read_event(result, "curve")) is not None
    }
    curves = {
        machine: {k: v for k, v in event.items() if k not in ("event", "status")}
        for machine, event in found.items()
    }
    _save(curves, config)
    if as_json:
        print_json(
            {
                "curves": [
                    {"node": machine, "status": found[machine]["status"], **curve}
                    for machine, curve in curves.items()
                ]
            }
        )
    elif not as_lines:
        _print(curves)
    refuse_failed(results, stopped, "run the same command again to resume")
    return ExitCode.DONE


def _save(curves: dict[str, dict[str, Any]], config: Config) -> None:
    """Save the curves to the log here; a node of this machine has saved its own already."""
    from etui.codec import from_document
    from etui.log.queries import LogReader
    from etui.log.records import CurveRecord
    from etui.log.writer import TurnWriter

    with TurnWriter(config) as writer:
        writer.ready()
        with LogReader(config) as log:
            known = {curve.curve_id for curve in log.curves(None)}
        for curve in curves.values():
            record = from_document(CurveRecord, curve, extra="ignore")
            if record.curve_id not in known:
                writer.save_curve(record)


def _print(curves: dict[str, dict[str, Any]]) -> None:
    from etui.curves.text import doubt_text, fit_lines, points_text
    from etui.log.curve_lookup import parse_curve

    for machine, document in curves.items():
        row = {
            name: json.dumps(value) if isinstance(value, dict) else value
            for name, value in document.items()
        }
        curve = parse_curve(row)
        if curve is None:
            continue
        click.echo(f"{machine}: {curve.model} on {curve.conditions.machine}, {points_text(curve)}")
        for line in fit_lines(curve):
            click.echo(f"  {line}")
        if doubt := doubt_text(curve):
            click.echo(f"{machine}: {doubt}", err=True)
