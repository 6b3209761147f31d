"""Visits of the grid between blocks: their share of the time, their order, their resume."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.config import NamedText
from etui.bench.folder import CURVES
from etui.calibration.grid import CurveVisit, Grid, list_visits
from etui.calibration.measure import MeasuredPoint
from etui.curves.fit import TurnPoint
from etui.curves.operating_curve import Conditions
from etui.design.curve_visits import (
    SHARE,
    CurveVisits,
    append_curve_point,
    build_curve_visits,
    is_due,
    next_visit,
    read_curve_points,
    spent_on,
)
from etui.energy.types import Kind
from etui.errors import EtuiError, InvalidFile
from tests.bench import synthetic
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu


def point(computed: int = 32, output: int = 8, *, held_out: bool = False) -> MeasuredPoint:
    turn = TurnPoint(computed, 0, output, 1.5, 2.5, 0.1, None, 0.25, 0.5)
    return MeasuredPoint(held_out, turn, Kind.COUNTER, False)


def test_points_are_read_by_model_in_their_order(tmp_path: Path):
    assert read_curve_points(tmp_path) == {}
    append_curve_point(tmp_path, "small", None, point())
    append_curve_point(tmp_path, "large", "b", point(64, held_out=True))
    append_curve_point(tmp_path, "small", None, point(128))
    assert read_curve_points(tmp_path) == {
        "small": (point(), point(128)),
        "large": (point(64, held_out=True),),
    }
    lines = [json.loads(line) for line in (tmp_path / CURVES).read_text().splitlines()]
    assert [line["machine"] for line in lines] == [None, "b", None]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path):
    append_curve_point(tmp_path, "small", None, point())
    path = tmp_path / CURVES
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    assert read_curve_points(tmp_path) == {"small": (point(),)}
    append_curve_point(tmp_path, "small", None, point(64))
    assert read_curve_points(tmp_path) == {"small": (point(), point(64))}


def test_a_line_that_is_not_a_point_is_refused_by_its_number(tmp_path: Path):
    append_curve_point(tmp_path, "small", None, point())
    with (tmp_path / CURVES).open("a") as file:
        file.write('{"model": "small"}\n')
    with pytest.raises(InvalidFile, match=r"curves\.jsonl:2: not a valid point"):
        read_curve_points(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(EtuiError, match="cannot write"):
        append_curve_point(tmp_path / "gone", "small", None, point())


def test_points_of_some_machines_are_read_alone(tmp_path: Path):
    append_curve_point(tmp_path, "small", "a", point())
    append_curve_point(tmp_path, "small", "b", point(64))
    assert read_curve_points(tmp_path, {"b"}) == {"small": (point(64),)}
    assert read_curve_points(tmp_path, ()) == {}


HERE = Conditions("here", "build", 2)
GRID = Grid((32, 128), (8, 32), repeats=3, window_s=0.5, cool_down_s=0.0)


@dataclass
class FakeMachine:
    """A runtime of simulated models on one simulated GPU; its clock is that of the GPU."""

    gpu: SimulatedGpu
    saved: list[Any] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    config: Any = None

    def __post_init__(self) -> None:
        self.backend = SimpleNamespace(load=self._load, forget=lambda: None)
        self.writer = SimpleNamespace(save_curve=self.saved.append)
        self.gpu.rest(1.5)

    def _load(self, spec, path):
        self.loads.append(spec.name)
        return SimulatedSession(self.gpu)
        yield

    def resolve(self, arm):
        spec = SimpleNamespace(name=arm.model, sha256="ab")
        return SimpleNamespace(spec=spec, local_path=lambda: Path("model.gguf"))

    @property
    def meter(self):
        return _Meter(self.gpu)

    def seconds(self) -> float:
        return self.gpu.clock() / 1e9


class _Meter:
    """The GPU as a recorder with one channel."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu
        self.idle_watts = 60.0
        self.selection = SimpleNamespace(summed=(SimpleNamespace(id="gpu:0", limit_watts=350.0),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gpu, name)


def run_of(**changes):
    models = (synthetic.MODEL, replace(synthetic.MODEL, name="large"))
    return synthetic.config(models=models, **changes)


def visits(machine: FakeMachine, notes: list[str], grid: Grid = GRID) -> CurveVisits:
    plan: Any = SimpleNamespace(config=SimpleNamespace(seed=3, design=None))
    return CurveVisits(plan, grid, machine, notes.append, machine.gpu.clock)


@pytest.fixture
def machine(monkeypatch, config) -> FakeMachine:
    monkeypatch.setattr("etui.design.curve_visits.time.sleep", lambda seconds: None)
    monkeypatch.setattr("etui.design.curve_visits.conditions", lambda *_: HERE)
    return FakeMachine(SimulatedGpu(GpuLoad(), seed=1), config=config)


def answer_for(machine: FakeMachine, seconds: float) -> None:
    machine.gpu.rest(seconds)


def test_visits_take_their_share_of_the_time(machine, tmp_path):
    made = visits(machine, [])
    made.begin(run_of(), tmp_path, ())
    shares = []
    for _ in range(20):
        answer_for(machine, 30.0)
        before = machine.seconds()
        made.work(lambda: False)
        shares.append(machine.seconds() - before)
    whole = 2 * len(list_visits(GRID, 3))
    points = read_curve_points(tmp_path)
    assert sum(map(len, points.values())) == whole
    assert shares[0] <= SHARE * 30 + 4
    assert shares[-1] == 0
    assert made.joules > 0


def test_the_models_take_turns_in_random_orders_that_resume(machine, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    made = visits(machine, [])
    made.begin(run_of(), whole, ())
    answer_for(machine, 1000.0)
    made.work(lambda: False)
    expected = {m: [p.visit for p in points] for m, points in read_curve_points(whole).items()}
    assert expected == {model: list(list_visits(GRID, 3)) for model in ("small", "large")}
    for seconds in (20.0, 25.0, 1000.0):
        again = visits(machine, [])  # a new process
        again.begin(run_of(), cut, ())
        answer_for(machine, seconds)
        again.work(lambda: False)
    found = {m: [p.visit for p in points] for m, points in read_curve_points(cut).items()}
    assert found == expected


def test_curves_are_fitted_and_saved_once_there_are_enough_points(machine, tmp_path):
    notes: list[str] = []
    made = visits(machine, notes)
    made.begin(run_of(), tmp_path, ())
    answer_for(machine, 10.0)
    made.work(lambda: False)
    made.finish()
    assert machine.saved == []
    assert any("no curve of small is saved yet" in note for note in notes), notes
    answer_for(machine, 1000.0)
    made.work(lambda: False)
    made.finish()
    assert [record.model for record in machine.saved] == ["small", "large"]
    assert all(record.source == "calibration" for record in machine.saved)


def test_a_model_of_another_machine_has_no_curve(machine, tmp_path):
    notes: list[str] = []
    made = visits(machine, notes)
    remote = replace(synthetic.MODEL, name="far", backend="desk")
    made.begin(replace(run_of(), models=(remote,)), tmp_path, ())
    answer_for(machine, 100.0)
    made.work(lambda: False)
    made.finish()
    assert machine.loads == []
    assert notes == ["no operating curve of far: it runs on desk"]


def test_a_plan_without_curves_has_no_side_work():
    text = "version: 1\ntitle: T\nmodels: {a: [m]}\narms: {d: {}}\nquestions: {suite: sample}\n"
    plan: Any = SimpleNamespace(config=SimpleNamespace(design=NamedText("d", text), seed=0))
    assert build_curve_visits(plan, SimpleNamespace(), print) is None
    with_curves = text + "curves: {prompt_tokens: [8, 16], output_tokens: [4, 8]}\n"
    plan.config.design = NamedText("d", with_curves)
    made = build_curve_visits(plan, SimpleNamespace(), print)
    assert isinstance(made, CurveVisits)
    assert (made.grid.computed, made.grid.output) == ((8, 16), (4, 8))


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 6), min_size=1))
def test_the_model_that_is_furthest_behind_is_next(done):
    orders = {
        model: [CurveVisit(number + 1, 2) for number in range(5)] for model in ("a", "b", "c")
    }
    chosen = next_visit(orders, done)
    if chosen is None:
        assert all(done.get(model, 0) >= 5 for model in orders)
        return
    model, visit = chosen
    assert visit == orders[model][done.get(model, 0)]
    assert done.get(model, 0) == min(done.get(other, 0) for other in orders)


MILLISECONDS = st.integers(0, 10**9).map(lambda count: count / 1000)


@given(MILLISECONDS, MILLISECONDS)
def test_visits_are_due_below_their_share(answers, spent):
    share = spent / (answers + spent) if answers + spent else math.inf
    if abs(share - SHARE) > 1e-9:
        assert is_due(answers, spent) == (share < SHARE)


def test_short_phases_count_with_all_their_repeats():
    grid = Grid((32,), (8,), window_s=0.9, cool_down_s=0.5)
    # 0.25 s is repeated 4 times, 0.5 s twice
    assert spent_on([point()], grid) == (0.25 * 4 + 0.5 * 2 + 0.5, 1.5 * 4 + 2.5 * 2)
