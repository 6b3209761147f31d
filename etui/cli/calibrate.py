"""``etui calibrate``: measure the operating curve of a model on this machine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

from etui.arm import Arm
from etui.calibration.grid import QUICK, Grid, parse_grid
from etui.cli.cluster import cluster_option
from etui.cli.output import json_option, load_models, open_watch, stop_signals
from etui.cli.param_types import TEXT, FiniteNumber, WholeNumber, flag, number_option, text_option
from etui.cli.when import wait_for_price, when_options
from etui.config.config import Config, load_config, make_home
from etui.curves.fit import LEAST_POINTS
from etui.errors import ExitCode, UsageError
from etui.runtime.model_resolution import catalogue_name, find_model_file
from etui.text import local_time
from etui.units import percent_text

if TYPE_CHECKING:
    from pathlib import Path

    from etui.curves.operating_curve import OperatingCurve
    from etui.log.writer import TurnWriter
    from etui.models.spec import ModelSpec

Form = Literal["text", "json", "jsonl"]


@click.command()
@click.argument("model", type=TEXT)
@text_option(
    "--grid",
    metavar="P,P,..xO,O,..",
    help="Prompt and output lengths in tokens, for example 32,128,512x16,64,192.",
)
@number_option(WholeNumber(1, 50), "--repeats", help="Number of measurements of each length.")
@number_option(
    FiniteNumber(0, 60),
    "--window",
    metavar="S",
    help="Repeat each phase back to back for at least S seconds (default 2; with --quick 0.5).",
)
@flag("--quick", help="Measure a rough curve: fewer lengths, shorter windows.")
@flag("--force", help="Measure even if other programs use the machine.")
@flag("--fresh", help="Discard an interrupted calibration and start over.")
@flag("--from-log", help="Fit to the turns in the log instead of measuring.")
@when_options
@cluster_option
@json_option
@flag("--jsonl", help="Print a JSON line per measured length, and the curve last.")
def calibrate(
    model: str,
    grid: str | None,
    repeats: int | None,
    window: float | None,
    quick: bool,
    force: bool,
    fresh: bool,
    from_log: bool,
    when: str | None,
    by: str | None,
    cluster: str | None,
    as_json: bool,
    jsonl: bool,
) -> int:
    """Measure what a model's tokens cost on this machine.

    Measures prompts and outputs of several lengths repeatedly and in random order, and fits a
    curve: joules as a function of tokens, separately for prefill and decode. Routing predicts
    joules with this curve. Turns off the grid show how accurate it is. Ctrl-C keeps what was
    measured, and the same command resumes.

    \b
    etui calibrate smollm2-135m
    etui calibrate qwen2.5-coder-1.5b --grid 64,256,1024x32,128 --repeats 5
    etui calibrate qwen2.5-coder-1.5b --cluster desk:6379
    """  # noqa: D301
    from etui.calibration.run import ModelCalibration
    from etui.cli.cluster import calibrate_on_cluster
    from etui.cli.curves import print_curve
    from etui.log.writer import TurnWriter

    measuring = (grid, repeats, window, quick or None, force or None, fresh or None, when)
    if from_log and any(option is not None for option in measuring):
        raise UsageError("--from-log measures nothing", "remove the measuring options")
    if as_json and jsonl:
        raise UsageError("--json and --jsonl cannot be combined", "pass only one of them")
    if from_log and cluster is not None:
        raise UsageError("--from-log measures nothing", "remove --cluster")
    config = load_config()
    make_home(config)
    lengths = _build_grid(grid, repeats, window, quick)
    form: Form = "json" if as_json else "jsonl" if jsonl else "text"
    wait_for_price({"when": when, "by": by}, config, lambda: (lengths.least_seconds, None))
    if cluster is not None:
        from etui.cluster.messages import Measurement

        asked = Measurement(model, lengths, force, fresh)
        calibrate_on_cluster(cluster, asked, form, config)
        return ExitCode.DONE
    with TurnWriter(config) as writer:
        writer.ready()
        spec, path = find_model(model, config)
        if from_log:
            curve = _fit_log(spec, config, writer)
            print_curve(curve, form, "complete")
            return ExitCode.DONE
        with stop_signals(), open_watch(jsonl=jsonl, texts=not jsonl) as watch:
            calibration = ModelCalibration(spec, path, config, lengths, writer, watch, force, fresh)
            curve, complete = calibration.measure()
    print_curve(curve, form, "complete" if complete else "stopped")
    if note := _describe_better(curve, config):
        click.echo(note, err=True)
    if not complete:
        click.echo("stopped before the end: run the same command again to resume", err=True)
    return ExitCode.DONE if complete else ExitCode.PARTIAL


def _describe_better(curve: OperatingCurve, config: Config) -> str:
    """Say that an earlier curve stays in use because it predicts far better; empty otherwise."""
    from etui.log.curve_lookup import find_curve
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        used = find_curve(log, curve.model, curve.model_sha256, curve.conditions)
    if used is None or used.curve_id == curve.curve_id:
        return ""
    errors = f"{percent_text(used.held_out_mape)} against {percent_text(curve.held_out_mape)}"
    when = local_time(used.created_at)[:16]
    return f"the curve of {when} stays in use, because it predicts better: {errors} mean error"


def _build_grid(text: str | None, repeats: int | None, window: float | None, quick: bool) -> Grid:
    base = QUICK if quick else Grid()
    found = parse_grid(text, base) if text is not None else base
    found = replace(
        found,
        repeats=found.repeats if repeats is None else repeats,
        window_s=found.window_s if window is None else window,
    )
    if found.points < LEAST_POINTS:
        raise UsageError(
            f"the grid {found} has {found.points} points, but a curve needs {LEAST_POINTS}",
            "add more lengths with --grid, or more --repeats",
        )
    return found


def find_model(name: str, config: Config) -> tuple[ModelSpec, Path]:
    """Find the model, by its name in the log and with the hash of its file, and the file."""
    catalogue = load_models(config)
    model = catalogue_name(name, config, catalogue)
    return find_model_file(Arm("direct", model), config, catalogue)


def _fit_log(spec: ModelSpec, config: Config, writer: TurnWriter) -> OperatingCurve:
    from etui.energy.discovery import open_recorder
    from etui.log.curve_lookup import fit_logged_turns, select_comparable_turns
    from etui.log.queries import LogReader
    from etui.runtime.provenance import conditions

    with closing(open_recorder(config)) as recorder, LogReader(config) as log:
        now = conditions(config, recorder.selection.summed, spec)
        turns = select_comparable_turns(log, spec.name, spec.sha256, now)
        curve = fit_logged_turns(turns, spec.name, spec.sha256, now)
    writer.save_curve(curve)
    return curve
