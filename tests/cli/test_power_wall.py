"""``etui power calibrate-wall`` as a user runs it, on a simulated machine."""

from __future__ import annotations

import os
from functools import partial

import pytest

from etui.calibration.wall import WallRun, list_cpu_loads
from etui.energy.wall_model import load_wall
from tests.support.wall_machine import Machine, Plug


@pytest.fixture
def machine(monkeypatch, etui_home):
    """A simulated machine and plug in place of this one."""
    names = [load.name for load in list_cpu_loads(os.cpu_count() or 1)]
    loads = {name: (8.0 + 60.0 * number / len(names), 0.0) for number, name in enumerate(names)}
    machine = Machine(loads, plug=Plug(noise=0.001))
    machine.sleep(2.0)
    monkeypatch.setattr("etui.energy.discovery.open_recorder", lambda config: machine.recorder)
    monkeypatch.setattr(machine.recorder, "start", lambda: None)
    monkeypatch.setattr(machine.recorder, "close", lambda: None)
    monkeypatch.setattr("etui.cli.power_calibrate._WALL_WARM_UP_S", 0.0)
    monkeypatch.setattr("etui.energy.idle.refuse_busy", lambda *args, **facts: None)
    run = partial(WallRun, hold=machine.hold, clock=machine.clock, sleep=machine.sleep)
    monkeypatch.setattr("etui.calibration.wall.WallRun", run)
    return machine


def test_without_a_wall_meter_the_way_to_one_is_said(cli, etui_home):
    text = cli.err("power", "calibrate-wall", code=1)
    assert "there is no wall meter" in text
    assert "config.yaml" in text


def test_a_dry_run_says_what_and_how_long_and_measures_nothing(cli, machine, config):
    before = machine.clock.seconds
    plan = cli.json("power", "calibrate-wall", "--dry-run", "--json")
    assert plan["meter"] == "wall:plug"
    assert plan["channels"] == ["package:0"]
    assert plan["loads"][0] == "idle"
    assert plan["seconds"] > 60
    assert machine.clock.seconds == before
    assert load_wall(config) == ()


def test_a_calibration_is_kept_shown_and_replaced(cli, machine, config, tmp_path):
    shown = cli.run("power", "calibrate-wall", "--rounds", "3", "--svg", str(tmp_path / "w.svg"))
    assert "each further watt inside" in shown.out
    assert "fitted" in shown.out
    assert (tmp_path / "w.svg").read_text().startswith("<?xml")
    found = cli.json("power", "calibrate-wall", "--rounds", "3", "--json")
    assert found["base_watts"] > 0
    assert found["levels"][0]["efficiency"] is not None
    assert len(load_wall(config)) == 2
    listed = cli.out("power", "calibrate-wall", "--list")
    assert listed.count("in use") == 1
    assert listed.count("replaced") == 1
    document = cli.json("power", "calibrate-wall", "--list", "--json")
    assert [each["id"] for each in document["calibrations"]][-1] == found["id"]


def test_ctrl_c_keeps_nothing(cli, machine, config, monkeypatch):
    def stop(seconds: float) -> None:
        if machine.clock.seconds > 60:
            raise KeyboardInterrupt
        Machine.sleep(machine, seconds)

    run = partial(WallRun, hold=machine.hold, clock=machine.clock, sleep=stop)
    monkeypatch.setattr("etui.calibration.wall.WallRun", run)
    cli.run("power", "calibrate-wall", code=None)
    assert load_wall(config) == ()
