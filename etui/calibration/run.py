"""Run a calibration: check that the machine is idle, load the model, measure, fit the curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etui.calibration.checkpoint import PointsFile
from etui.calibration.grid import Grid, Length, Visit, fit_into_context, list_visits
from etui.calibration.measure import MeasuredPoint, TurnTimer, warm_up
from etui.curves.fit import TooFewPoints, compute_error, fit_curve
from etui.curves.measured_under import Conditions
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.energy.discovery import open_recorder
from etui.energy.idle import load_baselines, refuse_busy, use_baseline
from etui.energy.recorder import Recorder
from etui.engine.residency import Residency
from etui.engine.session import Session
from etui.errors import EtuiError, Stopped
from etui.events import Loaded
from etui.log.curve_lookup import build_curve_record
from etui.runtime.provenance import conditions
from etui.turn.build_record import build_load_record
from etui.turn.interfaces import Meter

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.writer import TurnWriter
    from etui.models.spec import ModelSpec

_SEED = 0
_METER_WARM_UP_S = 1.2


class ShowProgress(Protocol):
    """Shows the progress of a calibration."""

    def __call__(
        self, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Show the progress during the body of a ``with``.

        Args:
            speed: Speed of the model, to estimate the time left.
            done: Number of points measured before.

        Returns:
            Yields a function to call with the number of points measured so far.
        """


def measure_curve(
    spec: ModelSpec,
    path: Path,
    config: Config,
    writer: TurnWriter,
    grid: Grid,
    *,
    show_progress: ShowProgress,
    note: Callable[[str], object],
    force: bool = False,
    fresh: bool = False,
) -> tuple[OperatingCurve, bool]:
    """Measure a model's curve, and save the curve and the load of the model to the log.

    Args:
        spec: The model, with the hash its file was checked against.
        writer: Writes the curve and the load to the log.
        grid: The lengths to measure; those that do not fit into the context are left out.
        note: Called with a line that a reader of the curve should know.
        force: Measure even if other programs use the machine.
        fresh: Discard an interrupted calibration and start over.

    Returns:
        The curve, and whether every length was measured; an interrupt keeps the points so far.

    Raises:
        EtuiError: Nothing can be measured on this machine, or other programs use it.
        Stopped: It was interrupted before there were enough points.
        UsageError: Too little of the grid fits into the context.
    """
    with open_recorder(config) as recorder:
        time.sleep(_METER_WARM_UP_S)
        if not recorder.selection.summed:
            raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
        consequence = "the curve will be too high"
        refuse_busy(recorder, force=force, note=note, consequence=consequence)
        now = conditions(config, recorder.selection.summed, spec)
        with _in_memory(spec, path, config, recorder, writer) as (session, layers):
            use_baseline(recorder, load_baselines(config), spec.name)
            grid = fit_into_context(grid, session.facts.context_tokens)
            order = list_visits(grid, _SEED)
            file = PointsFile(config, spec.name, spec.sha256, grid, now)
            done = [] if fresh else file.read(order)
            file.write(done)
            complete = visit_all(session, recorder, grid, order, done, file, show_progress)
        curve = fit_measured(done, spec, now, recorder.idle_watts, layers, complete)
    if complete:
        file.remove()
    writer.save_curve(build_curve_record(curve))
    if shared := sum(point.shared for point in done):
        note(f"other processes used a GPU or the CPUs during {shared} of {len(done)} points")
    return curve, complete


def visit_all(
    session: Session,
    meter: Meter,
    grid: Grid,
    order: Sequence[Visit],
    done: list[MeasuredPoint],
    file: PointsFile,
    show_progress: ShowProgress,
) -> bool:
    """Measure the remaining visits and append them to ``done``; return False after Ctrl-C."""
    if len(done) == len(order):
        return True
    timer = TurnTimer(session, meter, grid.window_s, seed=_SEED + len(done))
    try:
        middle = Length(grid.computed[len(grid.computed) // 2], grid.output[len(grid.output) // 2])
        speed = warm_up(timer, [Length(grid.computed[0], grid.output[0]), middle])
        with show_progress(order, grid, speed, len(done)) as update:
            for visit in order[len(done) :]:
                time.sleep(grid.cool_down_s)
                point = timer.measure(visit)
                done.append(point)
                file.add(point)
                update(len(done))
    except KeyboardInterrupt:
        return False
    return True


def fit_measured(
    done: list[MeasuredPoint],
    spec: ModelSpec,
    measured_under: Conditions,
    idle_watts: float | None,
    layers: int,
    complete: bool,
) -> OperatingCurve:
    """Fit a curve to the points on the grid, and compute its error on those off the grid.

    Args:
        idle_watts: Idle power in watts; None if unknown.
        layers: Number of layers on a GPU.

    Raises:
        Stopped: The calibration was stopped before there were enough points.
    """
    on_grid = [measured.point for measured in done if not measured.visit.held_out]
    off_grid = [measured.point for measured in done if measured.visit.held_out]
    kinds = [measured.kind for measured in done if measured.kind is not None]
    try:
        curve = fit_curve(
            on_grid,
            spec.name,
            spec.sha256,
            measured_under,
            kind=str(kinds[-1]) if kinds else None,
            source="calibration",
            idle_watts=idle_watts,
            gpu_layers=layers,
        )
    except TooFewPoints as error:
        if complete:
            raise
        what = f"stopped after {len(done)} points: {error.what}"
        raise Stopped(what, "run the same command again to resume") from error
    return replace(curve, held_out_mape=compute_error(curve, off_grid))


@contextmanager
def _in_memory(
    spec: ModelSpec, path: Path, config: Config, recorder: Recorder, writer: TurnWriter
) -> Iterator[tuple[Session, int]]:
    """Load the model and save its load, with its joules, to the log."""
    with closing(Residency(config, trials=True)) as residency:
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
                writer.save_load(build_load_record(event, spec.sha256, recorder.energy))
        yield session, layers
