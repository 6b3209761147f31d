"""Measure the operating curves of a design between the blocks of its questions.

Curves and answers are so measured under the same conditions in every prefix of a run. The visits
take a fixed share of its time, and their order is random and the same after a resume.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.arm import Arm
from etui.bench.config import BenchModel, RunConfig
from etui.bench.folder import CURVES
from etui.bench.plan import RunPlan
from etui.bench.sample import Sample
from etui.calibration.grid import CurveVisit, Grid, fit_into_context, list_visits
from etui.calibration.measure import MeasuredPoint, TurnTimer
from etui.calibration.run import fit_measured
from etui.codec import from_document, to_document
from etui.curves.fit import TooFewPoints
from etui.design.load import read_curve_grid
from etui.engine.residency import finish_load
from etui.errors import Stopped, UsageError, writing
from etui.measure.folder import append_line, read_lines
from etui.runtime.provenance import conditions
from etui.runtime.runtime import Runtime
from etui.turn.interfaces import ResolvedModel


def read_curve_points(
    folder: Path, machines: Collection[str] | None = None
) -> dict[str, tuple[MeasuredPoint, ...]]:
    """Read the points that a run has measured so far: of each model, in their order.

    ``machines``: their keys; None is all. A last line that was cut off is left out.
    """
    found: dict[str, list[MeasuredPoint]] = {}
    fix = "the file was changed outside etui; remove the line"
    lines = read_lines(folder / CURVES, _parse_point, "a valid point of a curve", fix)
    for model, machine, point in lines.values:
        if machines is None or machine in machines:
            found.setdefault(model, []).append(point)
    return {model: tuple(points) for model, points in found.items()}


def append_curve_point(folder: Path, model: str, machine: str | None, point: MeasuredPoint) -> None:
    """Append a point and wait until it is on the disk; a line that was cut off is dropped first.

    ``machine``: key of the machine that measured it; None for the only machine of a run.
    """
    path = folder / CURVES
    document = {"model": model, "machine": machine, **to_document(point)}
    with writing(path, "make room or make the folder writable, and resume the run"):
        append_line(path, document)


def _parse_point(document: Mapping[str, Any]) -> tuple[str, str | None, MeasuredPoint]:
    rest = {key: value for key, value in document.items() if key not in ("model", "machine")}
    return str(document["model"]), document.get("machine"), from_document(MeasuredPoint, rest)


SHARE = 0.1
"""Most of a run's time that the visits take."""

FITTED_FROM = 0.5
"""Share of the grid's measurements from which on a curve is fitted and saved."""


def next_visit(
    orders: Mapping[str, Sequence[CurveVisit]], done: Mapping[str, int]
) -> tuple[str, CurveVisit] | None:
    """Choose the next visit: of the model that is furthest behind, the first one that is left.

    ``done``: model -> number of its visits that are done. None if all are.
    """
    left = [model for model, order in orders.items() if done.get(model, 0) < len(order)]
    if not left:
        return None
    model = min(left, key=lambda model: done.get(model, 0) / len(orders[model]))
    return model, orders[model][done.get(model, 0)]


def is_due(answer_seconds: float, visit_seconds: float) -> bool:
    """Return whether the visits so far took less than their share of the time."""
    return visit_seconds < SHARE * (answer_seconds + visit_seconds)


def spent_on(points: Sequence[MeasuredPoint], grid: Grid) -> tuple[float, float]:
    """Estimate the seconds and the joules of visits from their points, which are per turn.

    ``grid``: their grid; a phase was repeated until it had lasted its ``window_s``.
    """
    seconds = joules = 0.0
    for point in (measured.point for measured in points):
        phases = (
            (point.prefill_seconds, point.prefill_joules),
            (point.decode_seconds, point.decode_joules),
        )
        for once, cost in phases:
            if once:
                runs = max(1, math.ceil(grid.window_s / once))
                seconds += once * runs
                joules += cost * runs
    return seconds + grid.cool_down_s * len(points), joules


def build_curve_visits(
    plan: RunPlan, runtime: Runtime[Any], say: Callable[[str], None]
) -> CurveVisits | None:
    """Build what a plan measures between its blocks: the curves of its design, or nothing."""
    grid = read_curve_grid(plan.config.design) if plan.config.design is not None else None
    return None if grid is None else CurveVisits(plan, grid, runtime, say)


@dataclass(frozen=True, slots=True)
class _ModelVisits:
    """The visits of one model."""

    grid: Grid  # Its lengths, as far as they fit into its context
    order: tuple[CurveVisit, ...]
    points: list[MeasuredPoint]  # Of the visits that are done
    gpu_layers: int


@dataclass(slots=True)
class CurveVisits:
    """The visits of a run."""

    plan: RunPlan  # The plan, whose models are visited, and whose seed orders the visits
    grid: Grid  # Lengths to measure
    runtime: Runtime[Any]  # This machine, with llama.cpp in this process
    say: Callable[[str], None]  # Shows a line about the current step
    clock: Callable[[], int] = time.monotonic_ns
    """Monotonic clock in nanoseconds, the same as the meter's."""
    keep: Callable[[str, MeasuredPoint, float], object] | None = None
    """Takes the model, a new point and its joules; None appends the point to the run's folder."""
    joules: float = 0.0  # Joules of the visits so far
    _models: dict[str, _ModelVisits] = field(default_factory=dict)
    _begun: float = 0.0
    _answered: float = 0.0
    _visited: float = 0.0
    _visited_now: float = 0.0

    def begin(
        self,
        config: RunConfig,
        folder: Path,
        samples: Sequence[Sample],
        machine: str | None = None,
    ) -> None:
        """Begin a run, or resume it after ``samples`` and the points in its folder."""
        self.keep = self.keep or (
            lambda model, point, joules: append_curve_point(folder, model, machine, point)
        )
        seconds = math.fsum(sample.seconds for sample in samples if sample.machine == machine)
        known = read_curve_points(folder, None if machine is None else {machine})
        self.begin_after(config.models, known, seconds)

    def begin_after(
        self,
        models: Sequence[BenchModel],
        known: Mapping[str, Sequence[MeasuredPoint]],
        answer_seconds: float,
    ) -> None:
        """Begin after some points of the models, and the time of the answers so far."""
        self._begun = self._now
        self._answered = answer_seconds
        if not self.runtime.meter.selection.summed:
            self.say("no operating curves: nothing can be measured on this machine")
            return
        for model in models:
            if model.backend is not None:
                self.say(f"no operating curve of {model.name}: it runs on {model.backend}")
                continue
            try:
                grid = fit_into_context(self.grid, model.context_tokens)
            except UsageError as error:
                self.say(f"no operating curve of {model.name}: {error.what}")
                continue
            points = list(known.get(model.name, ()))
            order = list_visits(grid, self.plan.config.seed)
            self._models[model.name] = _ModelVisits(grid, order, points, model.gpu_layers)
            seconds, joules = spent_on(points, grid)
            self._visited += seconds
            self.joules += joules

    def work(self, ended: Callable[[], bool]) -> None:
        """Measure as many visits as are due by now."""
        while is_due(self._answer_seconds, self._visited + self._visited_now) and not ended():
            orders = {name: one.order for name, one in self._models.items()}
            done = {name: len(one.points) for name, one in self._models.items()}
            chosen = next_visit(orders, done)
            if chosen is None:
                return
            self._measure(*chosen)

    def finish(self) -> None:
        """Fit a curve of each model that has enough points, and save it to the log."""
        for model, one in self._models.items():
            on_grid = sum(not point.visit.held_out for point in one.points)
            if on_grid >= FITTED_FROM * one.grid.points:
                self._fit(model, one)
            elif one.points:
                self.say(
                    f"no curve of {model} is saved yet: {on_grid} of {one.grid.points} "
                    "measurements of its grid"
                )

    @property
    def _answer_seconds(self) -> float:
        return self._answered + self._now - self._begun - self._visited_now

    @property
    def _now(self) -> float:
        return self.clock() / 1e9

    def _serve(self, model: str) -> ResolvedModel:
        return self.runtime.resolve(Arm(model, model))

    def _measure(self, model: str, visit: CurveVisit) -> None:
        """Measure a visit; the model is loaded first where both do not fit into memory."""
        one = self._models[model]
        served = self._serve(model)
        start = self._now
        session, _ = finish_load(self.runtime.backend.load(served.spec, served.local_path()))
        self.runtime.backend.forget()
        time.sleep(one.grid.cool_down_s)
        seed = self.plan.config.seed * len(one.order) + len(one.points)
        timer = TurnTimer(session, self.runtime.meter, one.grid.window_s, seed, self.clock)
        point = timer.measure(visit)
        self._visited_now += self._now - start
        joules = spent_on([point], one.grid)[1]
        self.joules += joules
        one.points.append(point)
        assert self.keep is not None
        self.keep(model, point, joules)

    def _fit(self, model: str, one: _ModelVisits) -> None:
        points = one.points
        served = self._serve(model)
        recorder = self.runtime.meter
        now = conditions(self.runtime.config, recorder.selection.summed, served.spec)
        complete = len(points) == len(one.order)
        try:
            curve = fit_measured(
                points, served.spec, now, recorder.idle_watts, one.gpu_layers, complete
            )
        except (Stopped, TooFewPoints) as error:
            self.say(f"no curve of {model} is saved: {error.what}")
            return
        self.runtime.writer.save_curve(curve)
        if shared := sum(point.shared for point in points):
            self.say(
                f"other processes used the hardware during {shared} of {len(points)} measurements "
                f"of the curve of {model}"
            )
