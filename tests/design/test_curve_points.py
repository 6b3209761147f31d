"""The points of the curves in a run folder: what is written is read, and a cut line is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etui.bench.folder import CURVES
from etui.calibration.measure import MeasuredPoint
from etui.curves.fit import TurnPoint
from etui.design.curve_visits import append_curve_point, read_curve_points
from etui.energy.types import Kind
from etui.errors import EtuiError, InvalidFile


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
