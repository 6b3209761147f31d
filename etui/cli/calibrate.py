"""``etui calibrate``: measure the operating curve of a model on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from etui.errors import EtuiError, ExitCode, Stopped, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from etui.calibration import Measured
    from etui.calibration_file import PointsFile
    from etui.config import Config
    from etui.energy.conditions import Conditions
    from etui.energy.curve import OperatingCurve
    from etui.energy.curve_plan import Grid, Visit
    from etui.energy.recorder import Recorder
    from etui.engine.llama_session import LlamaSession
    from etui.log.writer import TurnWriter
    from etui.models import ModelSpec

_SEED = 0
_METER_WARM_UP_S = 1.2
_BUSY_LOOK_S = 1.0
_BUSY_SHARE = 0.2
"""Of all CPUs, from which on something else is at work."""


@click.command()
@click.argument("model")
@click.option(
    "--grid",
    metavar="P,P,..xO,O,..",
    help="Prompt and output lengths in tokens, as 32,128,512x16,64,192.",
)
@click.option(
    "--repeats", type=click.IntRange(1, 50), metavar="N", help="How often each length is measured."
)
@click.option(
    "--window",
    type=click.FloatRange(0, 60),
    metavar="S",
    help="Repeat a phase back to back until it has lasted S seconds (2; quick 0.5).",
)
@click.option("--quick", is_flag=True, help="A rough curve: fewer lengths, shorter windows.")
@click.option("--force", is_flag=True, help="Measure though something else is at work.")
@click.option("--fresh", is_flag=True, help="Begin anew where an earlier calibration was stopped.")
@click.option("--from-log", is_flag=True, help="Fit to the turns in the log; measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def calibrate(
    model: str,
    grid: str | None,
    repeats: int | None,
    window: float | None,
    quick: bool,
    force: bool,
    fresh: bool,
    from_log: bool,
    as_json: bool,
) -> int:
    """Measure what a model's tokens cost on this machine.

    Prompts and outputs of several lengths are measured in random order, each again and again,
    and a curve is fitted: joules as a function of tokens, prefill and decode apart. Routing
    predicts with it. Turns off the grid tell how far it is off. Ctrl-C keeps what was measured, and
    the same command goes on from there.

    \b
    etui calibrate smollm2-135m
    etui calibrate qwen2.5-coder-1.5b --grid 64,256,1024x32,128 --repeats 5
    """
    from etui.config import load_config, make_home
    from etui.log.writer import TurnWriter

    measuring = (grid, repeats, window, quick or None, force or None, fresh or None)
    if from_log and any(option is not None for option in measuring):
        raise UsageError("--from-log measures nothing", "leave the other options out")
    config = load_config()
    make_home(config)
    wanted = _grid(grid, repeats, window, quick)
    with TurnWriter(config) as writer:
        writer.ready()
        spec, path = _model(model, config)
        if from_log:
            curve = _from_log(spec, config, writer)
            _show(curve, as_json, "complete")
            return ExitCode.DONE
        curve, whole = _measured_curve(spec, path, config, writer, wanted, force, fresh)
    _show(curve, as_json, "complete" if whole else "stopped")
    if not whole:
        click.echo(f"stopped part-way: `etui calibrate {spec.name}` goes on", err=True)
    return ExitCode.DONE if whole else ExitCode.PARTIAL


def _grid(text: str | None, repeats: int | None, window: float | None, quick: bool) -> Grid:
    """What is to be measured.

    Raises:
        UsageError: It is no grid, or too small to fit a curve to.
    """
    from etui.energy.curve_fit import LEAST_POINTS
    from etui.energy.curve_plan import QUICK, Grid, parse_grid

    base = QUICK if quick else Grid()
    found = parse_grid(text, base) if text is not None else base
    found = replace(
        found,
        repeats=found.repeats if repeats is None else repeats,
        window_s=found.window_s if window is None else window,
    )
    if found.points < LEAST_POINTS:
        raise UsageError(
            f"the grid {found} makes {found.points} points, and a curve takes {LEAST_POINTS}",
            "give more lengths with --grid, or more --repeats",
        )
    return found


def _model(name: str, config: Config) -> tuple[ModelSpec, Path]:
    """The model with the hash its file was checked against, as turns know it."""
    from etui.arm import Arm
    from etui.choice import serving, shelf_name
    from etui.models import load_catalogue

    catalogue = load_catalogue(config)
    shelf = shelf_name(name, config, catalogue)
    return serving(Arm("direct", shelf), config, catalogue)


def _from_log(spec: ModelSpec, config: Config, writer: TurnWriter) -> OperatingCurve:
    from etui.energy.open import open_recorder
    from etui.log.curves import curve_record
    from etui.log.log_curve import curve_of_log, turns_here
    from etui.log.queries import LogReader
    from etui.provenance import conditions

    with closing(open_recorder(config)) as recorder, LogReader(config) as log:
        now = conditions(config, recorder.selection.summed)
        turns = turns_here(log, spec.name, spec.sha256, now)
        curve = curve_of_log(turns, spec.name, spec.sha256, now)
    writer.save_curve(curve_record(curve))
    return curve


def _measured_curve(
    spec: ModelSpec,
    path: Path,
    config: Config,
    writer: TurnWriter,
    grid: Grid,
    force: bool,
    fresh: bool,
) -> tuple[OperatingCurve, bool]:
    """The curve, which is in the log by then, and whether every length was measured."""
    from etui.calibration_file import PointsFile
    from etui.energy.baseline import load_baselines, use
    from etui.energy.curve_plan import fitted_into, visits
    from etui.energy.open import open_recorder
    from etui.log.curves import curve_record
    from etui.provenance import conditions

    with open_recorder(config) as recorder:
        time.sleep(_METER_WARM_UP_S)
        if not recorder.selection.summed:
            raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
        _refuse_busy(recorder, force)
        here = conditions(config, recorder.selection.summed)
        with _in_memory(spec, path, config, recorder, writer) as (session, layers):
            use(recorder, load_baselines(config), spec.name)
            grid = fitted_into(grid, session.facts.context_tokens)
            order = visits(grid, _SEED)
            file = PointsFile(config, spec.name, spec.sha256, grid, here)
            done = [] if fresh else file.read(order)
            file.write(done)
            whole = _visit_all(spec, session, recorder, grid, order, done, file)
        curve = _fitted(done, spec, here, recorder.idle_watts, layers, whole)
    if whole:
        file.remove()
    writer.save_curve(curve_record(curve))
    if shared := sum(point.shared for point in done):
        click.echo(f"other processes used a GPU during {shared} of {len(done)} points", err=True)
    return curve, whole


def _visit_all(
    spec: ModelSpec,
    session: LlamaSession,
    recorder: Recorder,
    grid: Grid,
    order: tuple[Visit, ...],
    done: list[Measured],
    file: PointsFile,
) -> bool:
    """Measure what is not done yet, adding to ``done``; False when Ctrl-C stopped it."""
    from etui.calibration import Bench, warm_up
    from etui.cli.calibrate_progress import shown
    from etui.energy.curve_plan import Length

    if len(done) == len(order):
        return True
    bench = Bench(session, recorder, grid.window_s, seed=_SEED + len(done))
    try:
        middle = Length(grid.computed[len(grid.computed) // 2], grid.output[len(grid.output) // 2])
        speed = warm_up(bench, [Length(grid.computed[0], grid.output[0]), middle])
        with shown(spec.name, order, grid, speed, len(done)) as progress:
            for visit in order[len(done) :]:
                time.sleep(grid.cool_down_s)
                point = bench.measure(visit)
                done.append(point)
                file.add(point)
                progress(len(done))
    except KeyboardInterrupt:
        return False
    return True


def _fitted(
    done: list[Measured],
    spec: ModelSpec,
    here: Conditions,
    idle_watts: float | None,
    layers: int,
    whole: bool,
) -> OperatingCurve:
    """The curve of the points on the grid, judged by those off it.

    Raises:
        Stopped: It was stopped before there were enough points.
    """
    from etui.energy.curve_fit import TooFewPoints
    from etui.energy.curve_points import curve_of_points, error_on

    on_grid = [measured.point for measured in done if not measured.visit.held_out]
    off_grid = [measured.point for measured in done if measured.visit.held_out]
    kinds = [measured.kind for measured in done if measured.kind is not None]
    try:
        curve = curve_of_points(
            on_grid,
            spec.name,
            spec.sha256,
            here,
            kind=str(kinds[-1]) if kinds else None,
            source="calibration",
            idle_watts=idle_watts,
            gpu_layers=layers,
        )
    except TooFewPoints as error:
        if whole:
            raise
        what = f"stopped after {len(done)} points: {error.what}"
        raise Stopped(what, f"`etui calibrate {spec.name}` goes on from there") from error
    return replace(curve, held_out_mape=error_on(curve, off_grid))


def _refuse_busy(recorder: Recorder, force: bool) -> None:
    """Refuse a machine at work: its joules would be counted as the model's."""
    import psutil

    start_ns = time.monotonic_ns()
    use = psutil.cpu_percent(interval=_BUSY_LOOK_S) / 100
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    shared = recorder.energy(start_ns, end_ns).shared
    if not shared and use <= _BUSY_SHARE:
        return
    what = "other processes use a GPU" if shared else f"the CPUs are busy ({use:.0%})"
    if not force:
        raise EtuiError(
            f"the machine is not at rest: {what}",
            "end what else runs, or measure all the same with --force",
        )
    click.echo(f"the machine is not at rest: {what}; the curve will be too high", err=True)


@contextmanager
def _in_memory(
    spec: ModelSpec, path: Path, config: Config, recorder: Recorder, writer: TurnWriter
) -> Iterator[tuple[LlamaSession, int]]:
    """The model's session and its layers on a GPU; the load goes into the log with its joules."""
    from etui.engine.events import Loaded
    from etui.engine.residency import Residency
    from etui.residence import load_record

    with closing(Residency(config)) as residency:
        loading, layers = residency.session(spec, path), 0
        while True:
            try:
                event = next(loading)
            except StopIteration as end:
                session = end.value
                break
            if isinstance(event, Loaded):
                layers = event.gpu_layers
                recorder.settle(event.end_ns)
                writer.save_load(load_record(event, spec.sha256, recorder.energy))
        yield session, layers


def _show(curve: OperatingCurve, as_json: bool, status: str) -> None:
    from etui.cli.curve_text import fit_lines, points_text
    from etui.log.curves import curve_json

    if as_json:
        click.echo(json.dumps({"status": status, **curve_json(curve)}, indent=2))
        return
    click.echo(f"{curve.model} on {curve.conditions.machine}, {points_text(curve)}")
    for line in fit_lines(curve):
        click.echo(line)
