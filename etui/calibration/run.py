"""Run a calibration: check that the machine is idle, load the model, measure, fit the curve."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from etui.calibration.grid import (
    CurveVisit,
    Grid,
    expected_seconds,
    fit_into_context,
    list_visits,
    seconds_left,
)
from etui.calibration.measure import MeasuredPoint, TurnTimer, warm_up
from etui.codec import from_document, to_document
from etui.config.config import Config
from etui.curves.fit import TooFewPoints, compute_error, fit_curve
from etui.curves.operating_curve import Conditions, OperatingCurve
from etui.energy.discovery import open_recorder
from etui.energy.idle import load_baselines, refuse_busy, use_baseline
from etui.energy.recorder import Recorder
from etui.engine.residency import Residency, finish_load
from etui.engine.session import Session
from etui.errors import EtuiError, Stopped, writing
from etui.log.writer import TurnWriter
from etui.measure.progress import Progress, Watch
from etui.measure.run import measure_cells
from etui.models.spec import ModelSpec
from etui.runtime.provenance import conditions
from etui.turn.build_record import build_load_record
from etui.turn.interfaces import Meter
from etui.units import count_text, seconds_text

_SEED = 0
_METER_WARM_UP_S = 1.2


class PointsFile:
    """The points of one calibration, a line each, in ``ETUI_HOME/calibrations``.

    The first line identifies the model file, the grid and the conditions; points of another grid
    or under other conditions are discarded.
    """

    def __init__(
        self, config: Config, model: str, sha256: str | None, grid: Grid, conditions: Conditions
    ) -> None:
        self.model = model
        self.path: Path = config.home / "calibrations" / f"{model}.jsonl"
        head = {"sha256": sha256, "grid": grid, "conditions": conditions}
        self._head = json.dumps(to_document(head))

    def read(self, order: Sequence[CurveVisit]) -> list[MeasuredPoint]:
        """Read the points of the first visits of ``order``; empty where the file does not match."""
        try:
            head, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError, ValueError):
            return []
        if head != self._head:
            return []
        points: list[MeasuredPoint] = []
        for line, visit in zip(lines, order, strict=False):
            try:
                point = from_document(MeasuredPoint, json.loads(line))
            except ValueError:
                break  # the last line is incomplete
            if point.visit != visit:
                break
            points.append(point)
        return points

    def write(self, points: Sequence[MeasuredPoint]) -> None:
        """Replace the file by these points."""
        lines = [self._head, *(json.dumps(to_document(point)) for point in points)]
        with writing(self.path, "make the folder writable, or set ETUI_HOME"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def add(self, point: MeasuredPoint) -> None:
        """Append a point; ignore a full disk, which only prevents a later resume."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_document(point)) + "\n")

    def remove(self) -> None:
        """Remove the file of a finished calibration."""
        with suppress(OSError):
            self.path.unlink()


@dataclass(frozen=True, slots=True)
class ModelCalibration:
    """A calibration of one model on this machine."""

    spec: ModelSpec  # The model, with the hash its file was checked against
    path: Path
    config: Config
    grid: Grid  # Lengths to measure; those that do not fit into the context are left out
    writer: TurnWriter  # Writes the curve and the load of the model to the log
    watch: Watch  # Shows the progress, and what a reader of the curve should know
    force: bool = False  # Measure even if other programs use the machine
    fresh: bool = False  # Discard an interrupted calibration and start over

    def measure(self) -> tuple[OperatingCurve, bool]:
        """Measure and save the curve; return it, and whether every length was measured.

        An interrupt keeps the points so far, and is Stopped before there are enough. EtuiError if
        nothing can be measured on this machine, other programs use it, or the grid does not fit.
        """
        spec, config = self.spec, self.config
        with open_recorder(config) as recorder:
            time.sleep(_METER_WARM_UP_S)
            if not recorder.selection.summed:
                raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
            consequence = "the curve will be too high"
            refuse_busy(recorder, force=self.force, note=self._note, consequence=consequence)
            now = conditions(config, recorder.selection.summed, spec)
            with load_session(spec, self.path, config, recorder, self.writer) as (session, layers):
                use_baseline(recorder, load_baselines(config), spec.name)
                grid = fit_into_context(self.grid, session.facts.context_tokens)
                order = list_visits(grid, _SEED)
                file = PointsFile(config, spec.name, spec.sha256, grid, now)
                done = [] if self.fresh else file.read(order)
                file.write(done)
                complete = visit_all(session, recorder, grid, order, done, file, self.watch)
            curve = fit_measured(done, spec, now, recorder.idle_watts, layers, complete)
        if complete:
            file.remove()
        self.writer.save_curve(curve)
        if shared := sum(point.shared for point in done):
            text = f"other processes used a GPU or the CPUs during {shared} of {len(done)} points"
            self._note(text)
        return curve, complete

    def _note(self, text: str) -> None:
        self.watch(Progress(text, fields={"text": text}))


def visit_all(
    session: Session,
    meter: Meter,
    grid: Grid,
    order: Sequence[CurveVisit],
    done: list[MeasuredPoint],
    file: PointsFile,
    watch: Watch,
) -> bool:
    """Measure the remaining visits and append them to ``done``; return False after Ctrl-C."""
    if len(done) == len(order):
        return True
    before, points = len(done), count_text(len(order), "point")
    timer = TurnTimer(session, meter, grid.window_s, seed=_SEED + before)

    def measure(visit: CurveVisit) -> Iterator[MeasuredPoint]:
        time.sleep(grid.cool_down_s)
        yield timer.measure(visit)

    def describe() -> Progress:
        count, elapsed = len(done), time.monotonic() - began
        left = seconds_left(order, before, count, elapsed, grid, speed)
        coming = order[count] if count < len(order) else None
        fields = {
            "model": file.model,
            "done": count,
            "points": len(order),
            "seconds_left": None if left is None else round(left, 1),
            "next": coming and {"prompt_tokens": coming.computed, "output_tokens": coming.output},
        }
        text = f"{file.model}: {count} of {points}, about {seconds_text(left)} left"
        return Progress(text, count, len(order), "measured", fields)

    def keep(point: MeasuredPoint) -> None:
        done.append(point)
        file.add(point)
        watch(describe())

    try:
        middle = CurveVisit(
            grid.computed[len(grid.computed) // 2], grid.output[len(grid.output) // 2]
        )
        speed = warm_up(timer, [CurveVisit(grid.computed[0], grid.output[0]), middle])
        began = time.monotonic()
        expected = seconds_text(expected_seconds(order[before:], grid, speed))
        known = f" ({before} already measured)" if before else ""
        text = f"{file.model}: {points}{known}, about {expected}; Ctrl-C stops"
        watch(replace(describe(), text=text, total=None, event="begun"))
        measure_cells(order[before:], measure, keep, lambda: None)
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

    Stopped if the calibration was not complete, and stopped before there were enough points.
    ``layers`` are those on a GPU.
    """
    on_grid = [measured.point for measured in done if not measured.visit.held_out]
    off_grid = [measured.point for measured in done if measured.visit.held_out]
    kinds = [measured.kind for measured in done if measured.kind is not None]
    try:
        kind = str(kinds[-1]) if kinds else None
        curve = fit_curve(
            on_grid, spec.name, spec.sha256, measured_under, kind=kind, source="calibration"
        )
    except TooFewPoints as error:
        if complete:
            raise
        what = f"stopped after {len(done)} points: {error.what}"
        raise Stopped(what, "run the same command again to resume") from error
    mape = compute_error(curve, off_grid)
    return replace(curve, idle_watts=idle_watts, gpu_layers=layers, held_out_mape=mape)


@contextmanager
def load_session(
    spec: ModelSpec, path: Path, config: Config, recorder: Recorder, writer: TurnWriter
) -> Iterator[tuple[Session, int]]:
    """Load the model and save its load, with its joules, to the log."""
    with closing(Residency(config, trials=True)) as residency:
        session, loaded = finish_load(residency.session(spec, path))
        if loaded is not None:
            recorder.settle(loaded.end_ns)
            writer.save_load(build_load_record(loaded, spec.sha256, recorder.energy))
        yield session, 0 if loaded is None else loaded.gpu_layers
