"""The speed of the memory: measured once, in a process, and never while an answer runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.energy.types import Channel, Kind
from etui.errors import EtuiError
from etui.models.memory_speed import (
    MemorySpeed,
    load_memory_speed,
    memory_speed_file,
    save_memory_speed,
)
from etui.runtime import measure_memory
from etui.runtime.measure_memory import find_memory_speed, limit_without_gpus


def never() -> bool:
    return False


def test_the_process_measures_this_machine_and_the_result_is_kept(config: Config) -> None:
    speed = find_memory_speed(config, 1, never)
    assert speed is not None
    assert speed.machine == machine_name()
    assert 1e8 < speed.bytes_per_second < 1e13
    assert load_memory_speed(config) == speed


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that notes each of its runs, in place of a measurement."""
    runs = tmp_path / "runs"
    speed = {"machine": machine_name(), "threads": 2, "bytes_per_second": 2e10}
    script = f"open({str(runs)!r}, 'a').write('x'); print({json.dumps(json.dumps(speed))})"
    monkeypatch.setattr(measure_memory, "command", lambda _n: [sys.executable, "-c", script])
    return runs


def test_it_is_measured_once_and_not_while_an_answer_runs(config: Config, scripted: Path) -> None:
    assert find_memory_speed(config, 2, lambda: True) is None
    assert not scripted.exists()
    first = find_memory_speed(config, 2, never)
    assert find_memory_speed(config, 2, never) == first
    assert scripted.read_text() == "x"


def test_a_measurement_during_which_an_answer_began_is_not_kept(
    config: Config, scripted: Path
) -> None:
    assert find_memory_speed(config, 2, scripted.exists) is None
    assert scripted.read_text() == "x"
    assert load_memory_speed(config) is None


def test_a_busy_machine_is_measured_again_and_the_speed_at_rest_kept(
    config: Config, scripted: Path
) -> None:
    fast = MemorySpeed(machine_name(), 2, 9e10, busy=True)
    save_memory_speed(config, fast)
    speed = find_memory_speed(config, 2, never)
    assert speed == MemorySpeed(machine_name(), 2, 2e10)
    assert load_memory_speed(config) == speed, "it was at rest this time"
    assert find_memory_speed(config, 2, never) == speed
    assert scripted.read_text() == "x"


def test_of_two_busy_measurements_the_newer_one_is_kept(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {"machine": machine_name(), "threads": 2, "bytes_per_second": 1e10, "busy": True}
    script = f"print({json.dumps(json.dumps(slow))})"
    monkeypatch.setattr(measure_memory, "command", lambda _n: [sys.executable, "-c", script])
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 3e10, busy=True))
    assert find_memory_speed(config, 2, never) == MemorySpeed(machine_name(), 2, 1e10, busy=True)


@pytest.mark.parametrize(
    ("new", "kept", "replaces"),
    [
        ((1e9, True), None, True),
        ((9e9, True), (1e9, False), False),
        ((1e9, False), (9e9, True), True),
        ((1e9, False), (9e9, False), False),
        ((9e9, False), (1e9, False), True),
    ],
)
def test_only_a_measurement_at_rest_replaces_one_at_rest_and_the_faster_one_wins(
    new: tuple[float, bool], kept: tuple[float, bool] | None, replaces: bool
) -> None:
    before = None if kept is None else MemorySpeed("m", 2, *kept)
    assert MemorySpeed("m", 2, *new).replaces(before) is replaces


def test_machines_that_share_a_folder_keep_their_own_speed(config: Config) -> None:
    other, here = MemorySpeed("another", 8, 9e10), MemorySpeed(machine_name(), 2, 2e10)
    save_memory_speed(config, other)
    assert load_memory_speed(config) is None
    save_memory_speed(config, here)
    save_memory_speed(config, other)
    assert load_memory_speed(config) == here


OTHER = {"machine": "another", "threads": 1, "bytes_per_second": 1e12}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"machine": "another"}', json.dumps(OTHER), json.dumps([OTHER])]
)
def test_a_file_that_is_damaged_or_of_another_machine_is_measured_again(
    config: Config, scripted: Path, text: str
) -> None:
    memory_speed_file(config).write_text(text)
    speed = find_memory_speed(config, 2, never)
    assert speed is not None
    assert speed.bytes_per_second == 2e10


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("import sys; sys.exit('etui: no room\\nclose other programs')", "no room"),
        ("raise ImportError('no numpy')", "ImportError: no numpy"),
        ("import os; os._exit(7)", "exit code 7"),
        ("print('not JSON')", "cannot be read"),
    ],
)
def test_errors_of_the_process_are_said(
    config: Config, monkeypatch: pytest.MonkeyPatch, script: str, what: str
) -> None:
    monkeypatch.setattr(measure_memory, "command", lambda _n: [sys.executable, "-c", script])
    with pytest.raises(EtuiError) as raised:
        find_memory_speed(config, 2, never)
    assert what in raised.value.what
    if what == "no room":
        assert raised.value.fix == "close other programs"


def test_a_folder_that_cannot_be_written_is_said(
    config: Config, scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_speed_file(config).mkdir()
    with pytest.raises(EtuiError, match="cannot write"):
        find_memory_speed(config, 2, never)


@pytest.mark.parametrize(
    ("channels", "limit"),
    [
        ({}, None),
        ({"package:0": 30.0, "gpu:GPU-1": 300.0}, 30.0),
        ({"package:0": 30.0, "dram:0": None}, None),
        ({"gpu:GPU-1": 300.0}, None),
    ],
)
def test_the_power_limit_leaves_gpus_out(
    channels: dict[str, float | None], limit: float | None
) -> None:
    summed = [
        Channel(scope, scope, Kind.COUNTER, limit_watts=watts) for scope, watts in channels.items()
    ]
    assert limit_without_gpus(summed) == limit
