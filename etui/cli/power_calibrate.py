"""``etui power idle``, ``calibrate`` and ``calibrate-wall``: measure what the figures rest on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import (
    json_option,
    load_context,
    load_models,
    open_watch,
    print_result,
    stop_signals,
    write_output,
)
from etui.cli.param_types import WholeNumber, flag, number_option, path_option, text_option
from etui.cli.power import WARM_UP_S, Seconds, open_meter
from etui.codec import to_document
from etui.config.config import Config, load_config
from etui.energy.sources.estimate import Calibration, fit_range
from etui.energy.wall_model import WallCalibration, find_wall, load_wall, save_wall
from etui.errors import EtuiError
from etui.extras import require_extra
from etui.measure.progress import Progress
from etui.models.files import require
from etui.plots.figure import ARM_COLOURS, Figure, Point
from etui.runtime.model_resolution import catalogue_name
from etui.text import format_table
from etui.units import percent_text, seconds_text, significant, watts_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder


_AFTER_LOAD_S = 2.0
"""A GPU keeps its clocks high for a moment after the last copy."""
_WALL_WARM_UP_S = 1.2
_BAND_POINTS = 60


@click.command()
@text_option("--model", metavar="NAME", help="Load this model first, and save its own baseline.")
@number_option(Seconds, "--seconds", default=5.0, help="Duration in seconds (5).")
@flag("--force", help="Measure even if other programs use the machine.")
@json_option
def idle(model: str | None, seconds: float, force: bool, as_json: bool) -> None:
    """Measure the idle power of the machine, the baseline of net joules.

    Net joules are gross joules minus idle power times duration. Without --model, the baseline is
    that of a machine with no model in memory; a loaded model draws more, and its answers use its
    own baseline if there is one. Run nothing else during the measurement: a busy machine is
    refused.
    """
    from etui.energy.idle import load_baselines, measure_baseline, save_baselines

    config = load_config()
    with open_meter() as recorder, _in_memory(model, config) as name:
        time.sleep(WARM_UP_S if name is None else _AFTER_LOAD_S)
        found = measure_baseline(recorder, seconds, force=force)
        kinds = {channel.id: channel.kind.value for channel in recorder.channels}
    if found is None:
        raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
    save_baselines(config, load_baselines(config).with_idle(found, name))
    document = {"model": name, "watts": found.watts, "seconds": found.seconds}
    lines = (f"{id_}  {watts_text(watts, kinds[id_])}" for id_, watts in found.watts.items())
    print_result(document | {"steady": found.steady}, lines, as_json)
    if not found.steady:
        click.echo("the machine was not idle: other programs ran; measure again", err=True)


@contextmanager
def _in_memory(model: str | None, config: Config) -> Iterator[str | None]:
    if model is None:
        yield None
        return
    from etui.backends.local import LocalBackend

    catalogue = load_models(config)
    spec = catalogue.get(catalogue_name(model, config, catalogue))
    with closing(LocalBackend(config, trials=True)) as engine:
        list(engine.load(spec, require(spec, config)))  # the load runs while its events are read
        yield spec.name


@click.command()
@number_option(Seconds, "--seconds", default=30.0, help="Duration in seconds (30).")
@json_option
def calibrate(seconds: float, as_json: bool) -> None:
    """Fit the CPU power estimate to real readings of the CPU package.

    Keep the machine idle for the first half of the time and busy for the second. Put the two
    printed lines into config.yaml; they are used when the counter cannot be read (for example,
    without root).
    """
    with open_meter() as recorder:
        readings = list(_read_use_and_watts(recorder, seconds))
    if not readings:
        what = "no counter of the CPU package can be read, so there is nothing to calibrate with"
        raise EtuiError(what, "`etui doctor` shows the command that makes it readable")
    fitted = fit_range(readings)
    if fitted is None or not fitted.trustworthy:
        what = "the readings do not span enough of the CPU's range"
        raise EtuiError(what, "keep the machine idle for one half and busy for the other")
    document = {
        "cpu_idle_watts": fitted.idle_watts,
        "cpu_limit_watts": fitted.limit_watts,
        "band": fitted.band,
        "points": fitted.points,
    }
    print_result(document, _format_calibration(fitted), as_json)


def _read_use_and_watts(recorder: Recorder, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield (utilisation, watts of all packages) every half second; nothing without a package."""
    import psutil

    packages = {c.id for c in recorder.selection.summed if c.scope.startswith("package:")}
    if not packages:
        return
    time.sleep(WARM_UP_S)
    psutil.cpu_percent()
    start_ns = begin_ns = time.monotonic_ns()
    while (start_ns - begin_ns) / 1e9 < seconds:
        time.sleep(0.5)
        use, end_ns = psutil.cpu_percent() / 100, time.monotonic_ns()
        recorder.settle(end_ns)
        parts = [p for p in recorder.energy(start_ns, end_ns).channels if p.id in packages]
        if len(parts) == len(packages):
            yield use, sum(part.mean_watts for part in parts)
        start_ns = end_ns


def _format_calibration(fitted: Calibration) -> Iterator[str]:
    yield f"cpu_idle_watts: {fitted.idle_watts:.1f}"
    yield f"cpu_limit_watts: {fitted.limit_watts:.1f}"
    band = f"±{100 * fitted.band:.0f} %"
    yield f"# fitted to {fitted.points} readings, {band} (2 standard deviations)"


@click.command("calibrate-wall")
@text_option("--model", metavar="NAME", help="Model whose decode and prefill are two of the loads.")
@number_option(WholeNumber(3, 20), "--rounds", default=5, help="Rounds of all loads (5).")
@text_option("--meter", metavar="CHANNEL", help="The wall meter, if there are several.")
@flag("--force", help="Measure even if other programs use the machine.")
@flag("--dry-run", help="Say what would be measured and how long it takes; measure nothing.")
@flag("--list", "listing", help="List the calibrations, also those that were replaced.")
@path_option(
    "--svg",
    dir_okay=False,
    metavar="FILE",
    help="Also draw the calibration as SVG into FILE; with --list the newest one.",
)
@json_option
def calibrate_wall(
    model: str | None,
    rounds: int,
    meter: str | None,
    force: bool,
    dry_run: bool,
    listing: bool,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Fit the power at the wall to the channels inside the machine.

    Holds loads in random order (idle, one thread to all threads, decode and prefill of a model),
    each until the wall meter has settled, and fits the loss of the power supply and what no inner
    channel contains (memory, fans, board). From then on answers also have joules at the wall, by
    this model; the meter may be unplugged. Run nothing else meanwhile. Ctrl-C stops and keeps
    nothing.

    \b
    etui power calibrate-wall --dry-run
    etui power calibrate-wall --model qwen2.5-coder-1.5b --svg wall.svg
    """  # noqa: D301
    if svg is not None:
        require_extra("figures", "--svg")
    if listing:
        found = load_wall(load_config())
        print_result({"calibrations": list(map(_build_document, found))}, _list(found), as_json)
        if svg is not None and found:
            write_output(svg, draw_wall(found[-1]), "choose a file in a writable folder")
        return
    made = _measure(model, rounds, meter, force, dry_run)
    if isinstance(made, dict):
        shown = made | {"seconds": f"about {seconds_text(made['seconds'])} with a usual plug"}
        lists = {name: ", ".join(each) for name, each in made.items() if isinstance(each, list)}
        print_result(made, (f"{k}: {v}" for k, v in (shown | lists).items()), as_json)
        return
    print_result(_build_document(made), format_wall(made), as_json)
    if svg is not None:
        write_output(svg, draw_wall(made), "choose a file in a writable folder")


def _measure(
    model: str | None, rounds: int, meter_id: str | None, force: bool, dry_run: bool
) -> WallCalibration | dict[str, Any]:
    from etui.calibration.measure import TurnTimer
    from etui.calibration.run import load_session
    from etui.calibration.wall import (
        WallRun,
        expected_seconds,
        find_meter,
        list_cpu_loads,
        list_model_loads,
    )
    from etui.cli.calibrate import find_model
    from etui.energy.discovery import open_recorder
    from etui.energy.idle import refuse_busy
    from etui.log.writer import TurnWriter

    config, catalogue, on_disk = load_context()
    if model is None:
        local = (spec.name for spec in catalogue if spec.backend is None)
        model = next((name for name in local if on_disk(name)), None)
    cpus = os.cpu_count() or 1
    loads = list_cpu_loads(cpus)
    with ExitStack() as stack:
        recorder = stack.enter_context(open_recorder(config))
        meter = find_meter(recorder, meter_id)
        channels = [channel.id for channel in recorder.selection.summed]
        if dry_run:
            names = [load.name for load in loads] + (["decode", "prefill"] if model else [])
            return {
                "meter": meter.id,
                "channels": channels,
                "model": model,
                "loads": names,
                "rounds": rounds,
                "seconds": round(expected_seconds(len(names), rounds)),
            }
        stack.enter_context(stop_signals())
        watch = stack.enter_context(open_watch())

        def note(text: str) -> None:
            watch(Progress(text))

        time.sleep(_WALL_WARM_UP_S)
        refuse_busy(
            recorder, force=force, note=note, consequence="the ± of the calibration will be wider"
        )
        if model is None:
            note("no model is on this machine: its decode and prefill are left out")
        else:
            writer = stack.enter_context(TurnWriter(config))
            loaded = load_session(*find_model(model, config), config, recorder, writer)
            session, layers = stack.enter_context(loaded)
            timer = TurnTimer(session, recorder, 0.0)
            threads = max(1, cpus // 2) if layers else 0
            loads += list_model_loads(timer, session.facts.context_tokens, threads)
        before = find_wall(config, channels)
        made = WallRun(recorder, meter, loads, watch).measure(rounds)
        save_wall(config, made)
        if before is not None:
            note(f"replaces the calibration of {_format_time(before)}, which --list still shows")
    return made


def _format_time(found: WallCalibration) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(found.created_at))


def _build_document(found: WallCalibration) -> dict[str, Any]:
    levels = []
    for level in found.levels:
        watts, half = found.wall_watts(level.cpu_watts, level.gpu_watts)
        fitted = {"fitted_watts": watts, "uncertainty": half}
        levels.append(to_document(level) | fitted | {"efficiency": found.efficiency(level)})
    base, slope = found.base, found.slope_error
    document: dict[str, Any] = to_document(found)
    return document | {
        "levels": levels,
        "base_watts": base[0],
        "base_uncertainty": base[1],
        "wall_watts_per_inner_watt": slope[0],
        "wall_watts_per_inner_watt_uncertainty": slope[1],
        "outdated": found.outdated,
    }


def format_wall(found: WallCalibration) -> Iterator[str]:
    """Format a calibration: its loads with measured and fitted watts, base and slope."""
    yield f"{found.meter} by {', '.join(found.channels)} ({found.kind}), {found.machine}"
    rows = []
    for level in found.levels:
        watts, half = found.wall_watts(level.cpu_watts, level.gpu_watts)
        cells = (watts_text(level.inner_watts), watts_text(level.wall_watts))
        efficiency = percent_text(found.efficiency(level))
        rows.append((level.name, *cells, watts_text(watts, uncertainty=half), efficiency))
    yield from format_table(rows, header=("load", "inside", "at the wall", "fitted", "efficiency"))
    base, slope = found.base, found.slope_error
    yield (
        f"without a watt inside: {watts_text(base[0], uncertainty=base[1])} at the wall (memory, "
        "fans, board and the supply's own loss; extrapolated below idle)"
    )
    per_watt = watts_text(slope[0], uncertainty=slope[1])
    yield f"each further watt inside: {per_watt} at the wall"
    yield (
        f"meter: steps of {significant(found.resolution_watts, 2)} W, read every "
        f"{seconds_text(found.period_s)}, late by {seconds_text(found.lag_s)}"
    )
    if found.kind == "estimate":
        yield (
            "the inner watts are estimated from the use of the CPUs: this calibrates the estimate, "
            "and holds for loads like these"
        )
    if drift := found.describe_drift():
        yield drift


def _list(found: Sequence[WallCalibration]) -> Iterator[str]:
    if not found:
        yield "no calibration of the wall yet; run: etui power calibrate-wall"
    for number, each in enumerate(reversed(found)):
        same = (e for e in found[len(found) - number :] if e.machine == each.machine)
        used = not any(set(e.channels) == set(each.channels) for e in same)
        yield f"{each.id}  {_format_time(each)}  {'in use' if used else 'replaced'}"
        yield from (f"  {line}" for line in format_wall(each))


def draw_wall(found: WallCalibration) -> str:
    """Draw the loads as points, and the fit with its 95 % band, as an SVG document."""
    figure = Figure(6.4, 4.0)
    [panel] = figure.panels
    low, high = found.levels[0], found.levels[-1]
    xs, ys, halves = [], [], []
    for step in range(_BAND_POINTS):
        share = step / (_BAND_POINTS - 1)
        cpu = low.cpu_watts + (high.cpu_watts - low.cpu_watts) * share
        gpu = low.gpu_watts + (high.gpu_watts - low.gpu_watts) * share
        watts, half = found.wall_watts(cpu, gpu)
        xs.append(cpu + gpu)
        ys.append(watts)
        halves.append(half)
    bounds = [[y + sign * h for y, h in zip(ys, halves, strict=True)] for sign in (-1, 1)]
    panel.band(xs, bounds[0], bounds[1], ARM_COLOURS[0])
    panel.line(xs, ys, ARM_COLOURS[0])
    panel.points([Point(e.inner_watts, e.wall_watts, label=e.name, size=3.5) for e in found.levels])
    panel.name_axes("watts inside", "watts at the wall", f"{found.meter}, {_format_time(found)}")
    panel.axes.set_xlim(left=0)
    panel.axes.set_ylim(bottom=0)
    return figure.document()
