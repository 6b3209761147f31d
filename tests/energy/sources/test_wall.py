"""Wall meters: 40 and more stand-in plugs, none of which may give joules that are false."""

from __future__ import annotations

import json
import math
import random
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from etui.config.backend_spec import WallMeterSpec, read_wall_key
from etui.energy.recorder import Recorder
from etui.energy.sources.wall import WallSource, check_wall_meters
from etui.energy.types import ChannelEnergy
from tests.support.plugs import KEY, LOAD, PLUGS, SECOND, Plug, serve_plug
from tests.support.power_curves import WattCurve, steps

STEADY = WattCurve(tuple((t / 2, 150 + math.sin(t * 1.7)) for t in range(480)))
SECONDS = 240


def watch(plug: Plug, seconds: float = SECONDS, every_s: float = 0.5) -> Recorder:
    """Read a plug for a while, as the sampler does, in the time of its clock."""
    recorder = Recorder([plug.source()], clock=plug.clock, keep_seconds=seconds + 60)
    end_ns, beat = plug.now_ns + int(seconds * SECOND), 0
    while plug.now_ns < end_ns:
        beat += 1
        plug.now_ns += int((every_s + 0.02 * math.sin(beat)) * SECOND)
        recorder.sample_now()
    return recorder


def measure(plug: Plug, recorder: Recorder, start_s: float, end_s: float) -> ChannelEnergy | None:
    energy = recorder.energy(
        plug.begin_ns + int(start_s * SECOND), plug.begin_ns + int(end_s * SECOND)
    )
    return next(iter((*energy.channels, *energy.cross_checks)), None)


def check_joules(plug: Plug, recorder: Recorder, seconds: float = SECONDS) -> list[ChannelEnergy]:
    """Check every window: the truth is within the half width, or the window has a gap."""
    rng, found = random.Random(4), []
    for _ in range(60):
        span_s = rng.choice((2.0, 7.0, 20.0, 60.0, 120.0))
        start_s = rng.uniform(-5.0, seconds - span_s)
        part = measure(plug, recorder, start_s, start_s + span_s)
        if part is None:
            continue
        true = plug.joules(start_s, start_s + span_s)
        if part.coverage >= 0.99:
            off = abs(part.joules - true)
            assert off <= part.uncertainty, (start_s, span_s, true, part)
            found.append(part)
        else:
            assert "gap" in part.flags
            # What is not known is within the half width, too.
            assert part.joules <= true + part.uncertainty, (start_s, span_s, true, part)
    return found


@pytest.mark.parametrize("name", PLUGS)
def test_no_plug_gives_false_joules(name: str) -> None:
    plug = replace(PLUGS[name])
    if plug.curve == Plug().curve:
        plug.curve = LOAD
    recorder = watch(plug)
    check_joules(plug, recorder)
    recorder.close()


USABLE = [name for name in list(PLUGS)[:18] if not name.endswith("counter")]


@pytest.mark.parametrize("name", USABLE)
def test_a_plug_without_faults_says_much_about_steady_power(name: str) -> None:
    plug = replace(PLUGS[name], curve=STEADY)
    recorder = watch(plug)
    part = measure(plug, recorder, 100.0, 200.0)
    assert part is not None
    assert part.coverage == 1.0
    assert part.uncertainty <= 0.06 * part.joules, part


@given(
    watts=st.lists(st.floats(20, 900), min_size=3, max_size=12),
    refresh_s=st.floats(0.3, 8.0),
    lag_s=st.floats(0.0, 6.0),
    step_joules=st.sampled_from([0.01, 3.6, 36.0, 360.0, 3600.0]),
    step_watts=st.sampled_from([0.01, 0.1, 1.0]),
    latency_s=st.floats(0.0, 1.0),
    stopped_s=st.floats(10.0, 100.0),
)
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_power_is_within_the_half_width(
    watts: list[float], refresh_s: float, lag_s: float, step_joules: float, step_watts: float,
    latency_s: float, stopped_s: float,
) -> None:  # fmt: skip
    plug = Plug(
        curve=steps([(120 / len(watts), each) for each in watts]),
        refresh_s=refresh_s,
        lag_s=lag_s,
        step_joules=step_joules,
        step_watts=step_watts,
        latency_s=latency_s,
        stopped=((stopped_s, stopped_s + 8.0),),
    )
    check_joules(plug, watch(plug, 120), 120)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "relay": ("shelly", {"switch:0": {"output": True}}, "relay without a meter"),
    "other output": ("shelly", {"switch:1": {"apower": 3}}, "no output 0"),
    "relay of gen1": ("shelly-gen1", {"meters": [{"power": 0, "is_valid": True}]}, "no total"),
    "not valid": ("shelly-gen1", {"meters": [{"power": 9, "is_valid": False, "total": 1}]},
                  "not valid"),
    "0 W": ("url", {"data": [{"value": 0}]}, "0 W"),
    "no sensor": ("tasmota", {"StatusSNS": {"Time": "x"}}, "no energy sensor"),
    "error": ("shelly", {"switch:0": {"apower": 3, "errors": ["power_meter_failure"]}}, "error"),
    "clamp": ("shelly", {"em1:0": {"act_power": -80.0}}, "negative"),
    "path": ("url", {"data": []}, "nothing at data.0.value"),
    "entity": ("home-assistant", {"entity_id": "sensor.other", "state": "5"}, "another entity"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_reading_is_refused_with_a_reason(name: str) -> None:
    type_, document, why = REFUSED[name]
    plug = Plug(type_, change=lambda now_s, _: document)
    source = plug.source()
    reading = source.read()["wall:desk"]
    assert (reading.joules, reading.watts) == (None, None)
    assert why in source.problem
    assert source.probe()[0].readable is False


METERED: dict[str, tuple[dict[str, Any], float, float]] = {
    "em1": ({"em1:0": {"act_power": 80.5}, "em1data:0": {"total_act_energy": 2.0}}, 80.5, 7200.0),
    "em": ({"em:0": {"total_act_power": 80.5}, "emdata:0": {"total_act": 2.0}}, 80.5, 7200.0),
    "pm1": ({"pm1:0": {"apower": 80.5, "aenergy": {"total": 2.0}}}, 80.5, 7200.0),
    "relay beside a meter": (
        {"switch:0": {"output": False}, "em1:0": {"act_power": 80.5},
         "em1data:0": {"total_act_energy": 2.0}}, 80.5, 7200.0),
}  # fmt: skip


@pytest.mark.parametrize("name", METERED)
def test_every_metered_component_of_a_shelly_is_read(name: str) -> None:
    document, watts, joules = METERED[name]
    reading = Plug(change=lambda now_s, _: document).source().read()["wall:desk"]
    assert (reading.watts, reading.joules) == (watts, joules)


def test_one_total_of_several_outputs_is_not_the_counter_of_one() -> None:
    energy = {"Power": [12.0, 80.0], "Total": 3.0}
    plug = Plug("tasmota", output=1, change=lambda now_s, _: {"StatusSNS": {"ENERGY": energy}})
    reading = plug.source().read()["wall:desk"]
    assert (reading.watts, reading.joules) == (80.0, None)


@pytest.mark.parametrize("type_", ["shelly", "shelly-gen1", "tasmota", "home-assistant", "url"])
def test_each_dialect_and_its_password_over_loopback(type_: Any) -> None:
    plug = Plug(type_, key=KEY)
    with serve_plug(plug) as url:
        environ = {"PLUG_KEY": KEY}
        with closing(WallSource(plug.spec(url), plug.clock, environ)) as source:
            for _ in range(3):
                reading = source.read()["wall:desk"]
                assert source.problem == ""
                assert reading.watts == pytest.approx(100.0, abs=0.2)
                plug.now_ns += SECOND
        with closing(WallSource(plug.spec(url), plug.clock, {"PLUG_KEY": "wrong"})) as source:
            reading = source.read()["wall:desk"]
            assert (reading.watts, reading.joules) == (None, None)
            assert "password" in source.problem
            asked = len(plug.asked)
            source.read()
            assert len(plug.asked) == asked  # a wrong key is not tried again at once


def test_a_redirect_is_not_followed_over_loopback() -> None:
    other = Plug("url")
    with serve_plug(other) as elsewhere:
        plug = Plug("url", change=lambda *_: (301, {"Location": f"{elsewhere}/reading"}, b""))
        with serve_plug(plug) as url, closing(WallSource(plug.spec(url), plug.clock)) as source:
            source.read()
    assert "redirect" in source.problem
    assert not other.asked


def test_a_dead_plug_is_a_reason_and_no_exception() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        spec = Plug().spec(f"http://127.0.0.1:{taken.getsockname()[1]}")
        [probe] = check_wall_meters({"desk": spec})
    assert probe.readable is False
    assert "no answer" in probe.why_not
    assert "config.yaml" in probe.fix


def test_a_file_of_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    spec = WallMeterSpec("desk", "shelly", "http://plug.test", key_file=str(file))
    file.chmod(0o644)
    assert read_wall_key(spec, {})[0] is None
    assert "chmod 600" in read_wall_key(spec, {})[1]
    file.chmod(0o600)
    assert read_wall_key(spec, {}) == (KEY, "")


def test_opening_a_source_asks_nothing() -> None:
    plug = Plug()
    source = plug.source()
    assert source.channels[0].id == "wall:desk"
    assert plug.asked == []


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["switch:0", "apower", "aenergy", "total", "data", "StatusSNS", "ENERGY",
                         "Power", "Total", "meters", "state", "attributes", "sys", "uptime"]),
        inner, max_size=4),
    max_leaves=12,
), st.sampled_from(["shelly", "shelly-gen1", "tasmota", "home-assistant", "url"]))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_document_raises(document: Any, type_: Any) -> None:
    plug = Plug(type_, change=lambda now_s, _: json.dumps(document).encode())
    source = plug.source()
    reading = source.read()["wall:desk"]
    for value in (reading.watts, reading.joules):
        assert value is None or (math.isfinite(value) and value >= 0)
