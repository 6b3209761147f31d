"""One calibration from end to end: a quiet machine, a loaded model, its points, the curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etui.calibration.checkpoint import PointsFile
from etui.calibration.grid import Grid, Length, Visit, fitted_into, visits
from etui.calibration.measure import MeasuredPoint, TurnTimer, warm_up
from etui.curves.fit import TooFewPoints, curve_of_points, error_on
from etui.curves.measured_under import Conditions
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.energy.discovery import open_recorder
from etui.energy.idle_baseline import load_baselines, use
from etui.energy.recorder import Recorder
from etui.engine.residency import Residency
from etui.engine.session import Session
from etui.errors import EtuiError, Stopped
from etui.events import Loaded
from etui.log.curve_rows import curve_record
from etui.runtime.provenance import conditions
from etui.turn.build_record import load_record
from etui.turn.ports import Meter

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.writer import TurnWriter
    from etui.models.spec import ModelSpec

_SEED = 0
_METER_WARM_UP_S = 1.2
_BUSY_LOOK_S = 1.0
_BUSY_SHARE = 0.2
"""Of all CPUs, from which on something else is at work."""


class Shown(Protocol):
    """Shows the progress: what it hands out is told how many points are done."""

    def __call__(
        self, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
    ) -> AbstractContextManager[Callable[[int], None]]: ...


def measured_curve(
    spec: ModelSpec,
    path: Path,
    config: Config,
    writer: TurnWriter,
    grid: Grid,
    *,
    shown: Shown,
    note: Callable[[str], object],
    force: bool = False,
    fresh: bool = False,
) -> tuple[OperatingCurve, bool]:
    """Measure a model; its curve and its load are in the log by then.

    Args:
        spec: The model, with the hash its file was checked against.
        writer: Takes curve and load.
        grid: What is measured; lengths that the context cannot hold are left out.
        shown: Shows the progress.
        note: Takes a line on what a reader of the curve should know.
        force: Measure on a machine that is at work.
        fresh: Begin anew where an earlier calibration was stopped.

    Returns:
        The curve, and whether every length was measured: an interrupt keeps what there is.

    Raises:
        EtuiError: Nothing can be measured here, or the machine is at work.
        Stopped: It was interrupted before there were enough points.
        UsageError: The context holds too little of the grid.
    """
    with open_recorder(config) as recorder:
        time.sleep(_METER_WARM_UP_S)
        if not recorder.selection.summed:
            raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
        _refuse_busy(recorder, force, note)
        here = conditions(config, recorder.selection.summed)
        with _in_memory(spec, path, config, recorder, writer) as (session, layers):
            use(recorder, load_baselines(config), spec.name)
            grid = fitted_into(grid, session.facts.context_tokens)
            order = visits(grid, _SEED)
            file = PointsFile(config, spec.name, spec.sha256, grid, here)
            done = [] if fresh else file.read(order)
            file.write(done)
            whole = visit_all(session, recorder, grid, order, done, file, shown)
        curve = fitted(done, spec, here, recorder.idle_watts, layers, whole)
    if whole:
        file.remove()
    writer.save_curve(curve_record(curve))
    if shared := sum(point.shared for point in done):
        note(f"other processes used a GPU during {shared} of {len(done)} points")
    return curve, whole


def visit_all(
    session: Session,
    meter: Meter,
    grid: Grid,
    order: Sequence[Visit],
    done: list[MeasuredPoint],
    file: PointsFile,
    shown: Shown,
) -> bool:
    """Measure what is not done yet, adding to ``done``; False when Ctrl-C stopped it."""
    if len(done) == len(order):
        return True
    bench = TurnTimer(session, meter, grid.window_s, seed=_SEED + len(done))
    try:
        middle = Length(grid.computed[len(grid.computed) // 2], grid.output[len(grid.output) // 2])
        speed = warm_up(bench, [Length(grid.computed[0], grid.output[0]), middle])
        with shown(order, grid, speed, len(done)) as progress:
            for visit in order[len(done) :]:
                time.sleep(grid.cool_down_s)
                point = bench.measure(visit)
                done.append(point)
                file.add(point)
                progress(len(done))
    except KeyboardInterrupt:
        return False
    return True


def fitted(
    done: list[MeasuredPoint],
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
        raise Stopped(what, "the same command goes on from there") from error
    return replace(curve, held_out_mape=error_on(curve, off_grid))


def _refuse_busy(recorder: Recorder, force: bool, note: Callable[[str], object]) -> None:
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
    note(f"the machine is not at rest: {what}; the curve will be too high")


@contextmanager
def _in_memory(
    spec: ModelSpec, path: Path, config: Config, recorder: Recorder, writer: TurnWriter
) -> Iterator[tuple[Session, int]]:
    """The model's session and its layers on a GPU; the load goes into the log with its joules."""
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
