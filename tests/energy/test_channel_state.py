"""The state of every channel: use, clocks, temperature and etui's part; missing stays missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.devices import ChannelState, DeviceReader, join_states, total_watts
from etui.energy.recorder import Recorder
from etui.energy.sharing import CpuWatch, DeviceVitals
from etui.energy.types import Channel, ChannelPower, Kind
from tests.support.devices import FakeClock, FakeDevice
from tests.support.power_curves import steps

STATES = """
import dataclasses, json, os, time
os.environ["FAKE_NVML_PIDS"] = os.environ["PIDS"] % os.getpid()
from etui.config.config import load_config
from etui.energy.devices import join_states
from etui.energy.devices import DeviceReader
from etui.energy.discovery import open_recorder
config = load_config()
with open_recorder(config) as recorder:
    reader = DeviceReader(recorder, config.sysfs_dir, time.monotonic_ns)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        found = join_states(recorder.latest(), reader.read(), recorder.idle_by_channel)
        gpus = [s.device for s in found if s.power.channel.scope.startswith("gpu:")]
        known = all(gpu.temperature_celsius is not None for gpu in gpus)
        known = known and (all(gpu.own_share for gpu in gpus) or ":0" in os.environ["PIDS"])
        if known and found[0].power.watts is not None:
            break
        time.sleep(0.05)
print(json.dumps([
    dict(dataclasses.asdict(s.device), scope=s.power.channel.scope, limit=s.limit_watts,
         own=s.own_watts) for s in found]))
"""


def states(environ: dict[str, str], pids: str = "%d:60") -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", STATES],
        env={**environ, "PIDS": pids},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_eight_gpus_a_package_and_its_memory_have_their_states(
    many_channels: dict[str, str],
) -> None:
    found = states(many_channels, f"%d:60,{os.getpid()}:20")
    assert len(found) == 10
    gpus = found[:8]
    assert [state["utilisation"] for state in gpus] == [(10 + 10 * n) / 100 for n in range(8)]
    assert {state["temperature_celsius"] for state in gpus} == {61}
    assert {(state["clock_mhz"], state["memory_mhz"]) for state in gpus} == {(1980, 9501)}
    assert all(state["own_share"] == pytest.approx(0.75) for state in gpus)
    assert gpus[0]["memory_total_bytes"] is None  # this driver does not report it
    package, dram = found[8:]
    assert package["scope"] == "package:0"
    assert (package["temperature_celsius"], package["clock_mhz"]) == (58, 2100)
    assert package["limit"] == 150
    assert dram["utilisation"] is dram["temperature_celsius"] is dram["own"] is None


def test_a_driver_without_utilisation_leaves_it_unknown(many_channels: dict[str, str]) -> None:
    found = states(
        {**many_channels, "FAKE_NVML_MISSING": "rates", "FAKE_NVML_GPUS": "1", "ETUI_SYSFS": "/no"}
    )
    assert found[0]["utilisation"] is None
    assert found[0]["temperature_celsius"] == 61
    assert found[0]["own_share"] == 1.0  # nobody else uses it


def test_watts_of_a_gpu_that_nobody_uses_are_not_etuis(many_channels: dict[str, str]) -> None:
    (gpu,) = states({**many_channels, "FAKE_NVML_GPUS": "1", "ETUI_SYSFS": "/no"}, "%d:0")
    assert gpu["own_share"] is gpu["own"] is None


def test_etuis_part_of_the_cpu_is_recorded_once_it_is_shown(tmp_path: Path) -> None:
    clock = FakeClock()
    used = {"own": 0.0, "busy": 0.0}
    watch = CpuWatch(
        clock, lambda: used["own"], lambda: (used["busy"], clock.seconds * 4), attribute=False
    )
    device = FakeDevice(steps([(99.0, 100.0)]), clock, scope="package:0", limit_watts=150.0)
    recorder = Recorder([device, watch], clock=clock, cpu_watch=watch)
    recorder.set_idle({"package:0": 20.0})

    def run(seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            clock.advance(0.05)
            used["own"] += 0.05
            used["busy"] += 0.1
            recorder.sample_now()

    run(3)
    assert watch.share("package:0", clock.at(1), clock.at(3)).own is None  # nobody asked for it
    reader = DeviceReader(recorder, tmp_path, clock)
    run(3)
    (state,) = join_states(recorder.latest(), reader.read(), recorder.idle_by_channel)
    assert state.device.utilisation == pytest.approx(0.5)
    assert state.device.own_share == pytest.approx(0.5)
    assert state.power.watts == pytest.approx(100, rel=0.05)
    assert state.own_watts == pytest.approx(40, rel=0.1)
    assert state.others_watts == pytest.approx(40, rel=0.1)
    assert state.device.temperature_celsius is None
    assert recorder.energy(clock.at(4), clock.at(6)).own_joules is None  # only of estimates


CHANNEL = Channel("gpu:a", "gpu:a", Kind.COUNTER)


@given(
    watts=st.none() | st.floats(0, 1000),
    idle=st.none() | st.floats(0, 1000),
    share=st.none() | st.floats(0, 1),
)
def test_idle_own_and_others_are_the_whole(
    watts: float | None, idle: float | None, share: float | None
) -> None:
    state = ChannelState(
        ChannelPower(CHANNEL, 0, watts, None, True), DeviceVitals("gpu:a", own_share=share), idle
    )
    own, others = state.own_watts, state.others_watts
    if watts is None or share is None:
        assert own is others is None
    else:
        assert own is not None
        assert others is not None
        assert own >= 0
        assert others >= 0
        assert own + others + min(idle or 0.0, watts) == pytest.approx(watts, abs=1e-6)


@given(st.lists(st.tuples(st.none() | st.floats(0, 1e4), st.booleans())))
def test_a_total_with_an_unknown_part_is_unknown(parts: list[tuple[float | None, bool]]) -> None:
    powers = [ChannelPower(CHANNEL, 0, watts, None, counted) for watts, counted in parts]
    known = [watts for watts, counted in parts if counted]
    total = total_watts(powers)
    if not known or None in known:
        assert total is None
    else:
        assert total == pytest.approx(sum(watts or 0.0 for watts in known))
