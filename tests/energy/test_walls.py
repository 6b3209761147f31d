"""A wall meter beside the channels inside the machine: never in a total, learned, compared."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path

import pytest

from etui.energy.diagnosis import TraceWriter, replay
from etui.energy.documents import format_metrics, power_document
from etui.energy.recorder import Recorder
from etui.energy.scopes import WALL, select_disjoint
from etui.energy.types import BaseSource, Channel, Kind, Reading
from tests.support.plugs import SECOND, Plug
from tests.support.power_curves import WattCurve, steps

LOAD = steps([(20, 60.0), (15, 240.0), (25, 80.0), (10, 300.0), (30, 60.0), (20, 200.0)] * 2)


class Inner(BaseSource):
    """The counter of a CPU package that draws a share of what the plug supplies, at once."""

    def __init__(self, plug: Plug, share: float, base_watts: float) -> None:
        super().__init__(plug.clock)
        self.plug, self.share, self.base_watts = plug, share, base_watts
        self.add(Channel("package:0", "package:0", Kind.COUNTER, period_s=0.001))

    def joules(self, from_s: float, to_s: float) -> float:
        return self.share * self.plug.joules(from_s, to_s) - self.base_watts * (to_s - from_s)

    def read_channel(self, channel: Channel) -> Reading:
        return Reading(self.plug.now_ns, 1e6 + self.joules(0, self.plug.now_s))


def watch(plug: Plug, share: float = 0.8, base_watts: float = 20.0) -> tuple[Recorder, Inner]:
    inner = Inner(plug, share, base_watts)
    recorder = Recorder([inner, plug.source()], clock=plug.clock)
    for beat in range(460):
        plug.now_ns += int((0.5 + 0.02 * math.sin(beat)) * SECOND)
        recorder.sample_now()
    return recorder, inner


def at(plug: Plug, seconds: float) -> int:
    return plug.begin_ns + int(seconds * SECOND)


@pytest.mark.parametrize("lag_s", [0.5, 3.0, 7.0])
def test_the_lag_is_learned_from_the_channels_inside(lag_s: float) -> None:
    plug = Plug(curve=LOAD, lag_s=lag_s)
    recorder, _ = watch(plug)
    lag = recorder.wall_lag("wall:desk")
    assert lag.learned
    assert lag.half_seconds < 3.0
    # The device shows a mean, which is half of a refresh later.
    assert abs(lag.seconds - lag_s) <= lag.half_seconds
    [wall] = recorder.energy(at(plug, 100), at(plug, 180)).cross_checks
    assert abs(wall.joules - plug.joules(100, 180)) <= wall.uncertainty <= 0.1 * wall.joules


def test_a_regular_load_is_not_taken_for_its_opposite() -> None:
    """Half a period off, it falls where the meter rises: as clear a line, but a falling one."""
    plug = Plug(curve=steps([(8, 60.0), (8, 240.0)] * 20), lag_s=3.0)
    recorder, _ = watch(plug)
    lag = recorder.wall_lag("wall:desk")
    assert lag.learned
    assert lag.half_seconds < 3.0
    assert abs(lag.seconds - 3.0) <= lag.half_seconds


def test_a_wall_meter_is_never_in_a_total_beside_others() -> None:
    wall = Channel("wall:desk", WALL, Kind.COUNTER)
    gpu, guess = (
        Channel("gpu:0", "gpu:0", Kind.COUNTER),
        Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE),
    )
    assert select_disjoint([wall, gpu]).summed == (gpu,)
    assert select_disjoint([wall, guess]).summed == (guess,)
    assert select_disjoint([wall, guess], "never").summed == (wall,)
    two = Channel("wall:rack", WALL, Kind.COUNTER)
    assert select_disjoint([wall, two, gpu]).cross_checks == (wall, two)


def test_channels_that_exceed_the_wall_disagree() -> None:
    plug = Plug(curve=WattCurve(tuple((t / 2, 120 + math.sin(t)) for t in range(600))))
    recorder, inner = watch(plug, share=1.3, base_watts=0.0)
    energy = recorder.energy(at(plug, 60), at(plug, 200))
    [wall] = energy.cross_checks
    assert "disagrees" in wall.flags
    assert "disagrees" in energy.flags
    assert energy.joules == pytest.approx(inner.joules(60, 200), rel=0.01)


def test_channels_within_the_wall_agree_and_the_total_leaves_it_out() -> None:
    plug = Plug(curve=LOAD)
    recorder, inner = watch(plug)
    energy = recorder.energy(at(plug, 60), at(plug, 200))
    assert "disagrees" not in energy.flags
    assert energy.joules == pytest.approx(inner.joules(60, 200), rel=0.01)
    assert recorder.wall_wait_s("wall:desk") < 5.0


def test_a_dead_meter_changes_no_total_and_says_why() -> None:
    plug = Plug(curve=LOAD, silent=((0.0, 1e9),))
    recorder, inner = watch(plug)
    energy = recorder.energy(at(plug, 60), at(plug, 200))
    assert energy.joules == pytest.approx(inner.joules(60, 200), rel=0.01)
    assert energy.cross_checks == ()
    rows = {row.channel.id: row for row in recorder.latest()}
    assert rows["wall:desk"].watts is None
    assert "no answer" in rows["wall:desk"].problem


def test_a_stale_reading_is_not_shown() -> None:
    plug = Plug(curve=LOAD, frozen=((100.0, 900.0),))
    recorder, _ = watch(plug)
    [row] = [row for row in recorder.latest() if row.channel.scope == WALL]
    assert row.watts is None
    assert "has not changed" in row.problem


def test_documents_have_the_wall_apart_from_the_total() -> None:
    plug = Plug(curve=LOAD)
    recorder, _ = watch(plug)
    document = power_document(recorder, at(plug, 100), at(plug, 180))
    rows = {row["id"]: row for row in document["channels"]}
    assert rows["package:0"]["wall"] is None
    wall = rows["wall:desk"]
    assert wall["in_total"] is False
    assert wall["wall"]["problem"] is None
    assert wall["wall"]["lag_seconds"] is not None
    assert document["energy"]["channels"].keys() == {"package:0"}
    metrics = format_metrics(recorder)
    assert 'channel="wall:desk",in_total="false"' in metrics


def test_a_record_is_replayed_to_the_same_joules(tmp_path: Path) -> None:
    plug = Plug(curve=LOAD, stopped=((70.0, 80.0),))
    file = StringIO()
    source = plug.source()
    recorder = Recorder([Inner(plug, 0.8, 20.0), source], clock=plug.clock)
    recorder.taps.append(TraceWriter(file, recorder.channels, ()).write)
    for _ in range(300):
        plug.now_ns += SECOND // 2
        recorder.sample_now()
    path = tmp_path / "trace.jsonl"
    path.write_text(file.getvalue())
    again, _, _ = replay(path)
    for start_s, end_s in ((20, 60), (60, 100), (90, 130)):
        span = at(plug, start_s), at(plug, end_s)
        [first], [second] = recorder.energy(*span).cross_checks, again.energy(*span).cross_checks
        assert second.joules == pytest.approx(first.joules, rel=0.02)
        assert second.coverage == pytest.approx(first.coverage, abs=0.05)
