"""The joules of another machine, asked in the time of this one."""

from __future__ import annotations

import json
import math
from itertools import chain, cycle, repeat
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.json_client import BODY_LIMIT_BYTES
from etui.energy.remote.client import MeterFailed
from etui.energy.remote.meter import UnmeasuredMeter
from etui.energy.types import Energy, Kind
from etui.errors import UsageError
from tests.energy.remote.machine import HOURS, SECOND, Machine

MS = 1_000_000


def answer(machine: Machine, seconds: float = 4.0, **options: Any) -> tuple[Any, int, int]:
    """Run an answer of some seconds on the machine; return its meter and its interval."""
    meter = machine.meter(**options)
    start_ns = machine.now_ns
    meter.mark(start_ns)
    meter.look()
    end_ns = machine.wait(seconds)
    meter.mark(end_ns)
    return meter, start_ns, end_ns


def flags_of(energy: Energy) -> set[str]:
    return set(energy.flags)


def busy(t: float) -> float:
    """40 W at rest, 300 W while it answers."""
    return 300.0 if 100.0 <= t < 104.0 else 40.0


@given(
    st.lists(st.tuples(st.integers(0, 40 * MS), st.integers(0, 40 * MS)), min_size=1, max_size=9),
    st.integers(-HOURS, HOURS),
    st.floats(-2e-4, 2e-4),
)
def test_the_true_joules_are_within_the_uncertainty(delays, offset_ns, drift):
    machine = Machine(
        now_ns=10 * HOURS, offset_ns=offset_ns, drift=drift, delays=cycle(delays), uncertainty=0.0
    )
    begin = machine.now_ns / 1e9
    machine.watts = lambda t: 300.0 if begin <= t < begin + 4.0 else 40.0
    meter, start_ns, end_ns = answer(machine)
    energy = meter.energy(start_ns, end_ns)
    true = machine.joules(start_ns, end_ns)
    assert abs(energy.joules - true) <= energy.uncertainty + 0.4  # the sums have steps of 1 ms
    assert (energy.start_ns, energy.end_ns) == (start_ns, end_ns)


def test_the_uncertainty_grows_by_watts_times_the_error_at_each_edge():
    machine = Machine(watts=busy, delays=repeat((1 * MS, 1 * MS)))
    meter, start_ns, end_ns = answer(machine, 3.0)
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules == pytest.approx(300.0 * (end_ns - start_ns) / 1e9, abs=0.1)
    # 300 W times 1 ms at each edge is 0.6 J; a probe lasts 16 ms, in which the clocks may drift.
    assert energy.uncertainty == pytest.approx(0.5 + 0.6, abs=0.03)
    exact = meter.settings()
    assert exact["meter"] == "http://desk:9911"
    assert exact["meter_boot_id"] == "boot-1"
    assert abs(exact["meter_offset_ns"] - HOURS) <= exact["meter_offset_error_ns"] < 1.1 * MS


def test_an_energy_keeps_what_the_other_machine_says_and_names_it():
    meter, start_ns, end_ns = answer(Machine())
    energy = meter.energy(start_ns, end_ns)
    assert energy.kind is Kind.COUNTER
    assert energy.coverage == 1.0
    assert energy.idle_watts == 12.0
    assert energy.net_joules == pytest.approx(energy.joules - 12.0 * (end_ns - start_ns) / 1e9)
    assert [channel.id for channel in energy.channels] == ["desk/gpu:GPU-1"]
    assert energy.unmeasured == ("desk/dram:0",)
    # The meter runs by itself there: the other process that it saw is the server that answered.
    assert energy.flags == ("coarse",)
    assert energy.own_joules is None
    # The server itself knows of other processes, and a load there is flagged.
    machine = Machine(change=lambda path, document: document | {"loading": "large"})
    counts = iter([1, 3])
    options = {"own_server": True, "count_running": lambda: next(counts)}
    meter, start_ns, end_ns = answer(machine, **options)
    energy = meter.energy(start_ns, end_ns)
    assert set(energy.flags) == {"coarse", "shared", "load"}
    assert energy.own_joules == 0.1
    meter.look()
    assert meter.energy(start_ns, end_ns).own_joules is None


def test_phases_sum_to_the_whole_and_each_interval_is_asked_once():
    machine = Machine(watts=busy)
    meter, start_ns, end_ns = answer(machine)
    first_ns = start_ns + SECOND
    parts = [meter.energy(start_ns, first_ns), meter.energy(first_ns, end_ns)]
    whole = meter.energy(start_ns, end_ns)
    assert math.fsum(part.joules for part in parts) == pytest.approx(whole.joules, abs=0.2)
    asked = len(machine.asked)
    assert meter.energy(start_ns, end_ns) == whole
    meter.settle(end_ns)
    assert meter.energy(start_ns, first_ns) == parts[0]
    assert len(machine.asked) == asked


def test_an_interval_without_length_has_0_joules_only_where_the_meter_measures():
    meter, start_ns, end_ns = answer(Machine())
    assert meter.energy(end_ns, end_ns).joules is None
    meter.energy(start_ns, end_ns)
    assert meter.energy(end_ns, end_ns).joules == 0.0
    with pytest.raises(UsageError):
        meter.energy(end_ns, start_ns)


def test_a_running_answer_is_not_asked_for_but_what_was_looked_at_is_known():
    machine = Machine(watts=busy)
    meter = machine.meter()
    start_ns = machine.now_ns
    meter.mark(start_ns)
    meter.look()
    now_ns = machine.wait(1.0)
    asked = len(machine.asked)
    running = meter.energy(start_ns, now_ns)
    assert (running.joules, running.flags) == (None, ("unmeasured", "pending"))
    assert len(machine.asked) == asked
    meter.look()
    now_ns = machine.wait(1.0)
    running = meter.energy(start_ns, now_ns)
    assert running.joules == pytest.approx(300.0, rel=0.05)  # of the first second
    assert running.coverage == pytest.approx(0.5, abs=0.02)
    assert "pending" in running.flags
    meter.mark(now_ns)
    assert meter.energy(start_ns, now_ns).joules == pytest.approx(600.0, rel=0.05)


@pytest.mark.parametrize(
    ("looks", "shared"),
    [((1, 1), False), ((None, None), False), ((0, 1), False), ((1, 2), True), ((5, 1), True)],
)
def test_other_requests_make_the_joules_shared(looks, shared):
    machine = Machine(running=iter(looks))
    meter = machine.meter(own_server=True)
    start_ns = machine.now_ns
    meter.mark(start_ns)
    meter.look()
    meter.look()
    end_ns = machine.wait(1.0)
    meter.mark(end_ns)
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules is not None  # gross, as measured
    if shared:
        assert "shared" in energy.flags
        assert energy.own_joules is None
    else:
        assert energy.own_joules == 0.1


def broken(path: str) -> Any:
    """Return a change that breaks off the connection at a path."""

    def change(asked: str, document: dict[str, Any]) -> Any:
        if asked == path:
            raise httpx2.ReadTimeout("no answer")
        return document

    return change


def status(path: str, code: int, **headers: str) -> Any:
    def change(asked: str, document: dict[str, Any]) -> Any:
        return httpx2.Response(code, headers=headers) if asked == path else document

    return change


ENERGY, CLOCK = "/meter/energy", "/meter/clock"


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (broken(ENERGY), "meter-unreachable"),
        (broken(CLOCK), "meter-unreachable"),
        (status(CLOCK, 401), "meter-refused"),
        (status(ENERGY, 403), "meter-refused"),
        (status(ENERGY, 302, location="http://elsewhere/"), "meter-refused"),
        (status(ENERGY, 404), "meter-refused"),
        (status(ENERGY, 409), "meter-rebooted"),
        (status(ENERGY, 410), "meter-history"),
        (status(ENERGY, 503), "meter-unreachable"),
    ],
)
def test_without_an_answer_joules_are_unknown_and_a_flag_says_why(change, flag):
    machine = Machine(change=change)
    meter, start_ns, end_ns = answer(machine)
    energy = meter.energy(start_ns, end_ns)
    assert (energy.joules, energy.uncertainty, energy.kind) == (None, None, None)
    assert flags_of(energy) == {"unmeasured", flag}
    assert energy.unmeasured == ("desk",)
    asked = len(machine.asked)
    assert meter.energy(start_ns, start_ns + 1).joules is None
    assert len(machine.asked) == asked  # not once more for each phase and slice
    machine.change = lambda path, document: document
    meter.settle(end_ns)  # asks once more at the end
    assert meter.energy(start_ns, end_ns).joules is not None


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda m: vars(m).update(boot_id="boot-2", offset_ns=-m.now_ns), "meter-rebooted"),
        (  # no probe saw it
            lambda m: setattr(
                m, "change", lambda p, d: d | {"boot_id": "b2"} if p == ENERGY else d
            ),
            "meter-rebooted",
        ),
        (lambda m: vars(m).update(offset_ns=m.offset_ns - SECOND), "meter-clock"),  # suspended
        *(
            (lambda m, now=now: setattr(m, "change", lambda p, d: d | {"now_ns": now}), flag)
            for now in (None, -1, 1.5, True, 2**63, "12")
            for flag in ["meter-invalid"]
        ),
    ],
)
def test_a_clock_that_changed_meanwhile_leaves_joules_unknown(change, flag):
    machine = Machine()
    if flag == "meter-invalid":  # a clock that is no clock, from the first probe on
        change(machine)
    meter, start_ns, end_ns = answer(machine)
    change(machine)
    assert flags_of(meter.energy(start_ns, end_ns)) == {"unmeasured", flag}


def test_a_machine_started_after_the_interval_has_no_history_of_it():
    machine = Machine()
    meter = machine.meter()
    start_ns = machine.now_ns
    meter.mark(start_ns)
    end_ns = machine.wait(1.0)
    meter.mark(end_ns)
    machine.offset_ns = -end_ns  # the first probe is after the reboot
    assert "meter-history" in meter.energy(start_ns, end_ns).flags


def test_without_a_probe_before_the_drift_is_in_the_error():
    machine = Machine(watts=busy, change=broken(CLOCK))
    meter, start_ns, end_ns = answer(machine)
    machine.change = lambda path, document: document
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules == pytest.approx(1200.0, abs=1.0)
    assert energy.uncertainty == pytest.approx(0.5 + 300 * 4e-3, rel=0.2)  # 1000 ppm of 4 s


@pytest.mark.parametrize(
    "lie",
    [
        {"joules": -1.0},
        {"joules": True},
        {"joules": "12"},
        {"joules": 1e300},
        {"joules": 10**400},
        {"uncertainty": None},
        {"uncertainty": -0.1},
        {"coverage": 1.5},
        {"coverage": None},
        {"kind": "guess"},
        {"kind": None},
        {"mean_watts": 1e9},
        {"idle_watts": [1]},
        {"channels": {"gpu:0": -5.0}},
        {"channels": {f"gpu:{i}": 1.0 for i in range(300)}},
        {"flags": "coarse"},
        {"start_ns": 0},
        {"end_ns": None},
        {"boot_id": ""},
        {"boot_id": 7},
        {"boot_id": "x\x1b[2J"},
    ],
)
def test_a_document_that_cannot_be_true_is_not_used(lie):
    machine = Machine()
    machine.change = lambda path, document: document | lie if path == ENERGY else document
    meter, start_ns, end_ns = answer(machine)
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules is None
    assert flags_of(energy) == {"unmeasured", "meter-invalid"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"joules": 1',
        b'{"joules": NaN}',
        b'{"joules": Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": "' + b"x" * BODY_LIMIT_BYTES + b'"}',
    ],
    ids=["empty", "list", "null", "cut", "nan", "infinite", "bytes", "deep", "long"],
)
def test_a_body_that_is_no_document_is_not_used(body):
    machine = Machine()
    machine.change = lambda path, document: (
        httpx2.Response(200, content=body) if path == ENERGY else document
    )
    meter, start_ns, end_ns = answer(machine)
    assert flags_of(meter.energy(start_ns, end_ns)) == {"unmeasured", "meter-invalid"}


def test_a_machine_that_measured_nothing_says_so_and_its_flags_are_made_safe():
    machine = Machine()
    machine.change = lambda path, document: (
        document | {"joules": None, "uncertainty": None, "flags": ["gap", "\x1b[31m", 5]}
        if path == ENERGY
        else document
    )
    meter, start_ns, end_ns = answer(machine)
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules is None
    assert energy.flags == ("gap", "unmeasured")


def test_the_power_curve_is_one_question_where_the_meter_has_it():
    machine = Machine()
    meter, start_ns, end_ns = answer(machine)
    meter.energy(start_ns, end_ns)
    asked = len(machine.asked)
    curve = meter.power_curve(start_ns, end_ns, 8)
    assert len(machine.asked) == asked + 1
    assert [watts for _, watts in curve] == [pytest.approx(40.0)] * 8
    assert curve[0][0] == start_ns + (end_ns - start_ns) // 16
    machine.power_points = False
    assert [watts for _, watts in meter.power_curve(start_ns, end_ns, 3)] == [None] * 3
    assert meter.energy(start_ns, end_ns).joules is not None
    assert meter.power_curve(end_ns, start_ns, 3) == []


def test_a_key_goes_only_where_it_may():
    machine = Machine()
    with pytest.raises(MeterFailed) as caught:
        machine.client("secret").read_clock()
    assert caught.value.flag == "meter-refused"
    assert "secret" not in str(caught.value)
    assert machine.asked == []
    for url in ("https://desk:9911", "http://127.0.0.2:9911", "http://localhost:9911"):
        machine.client("secret", url).read_clock(1)
    assert {h["authorization"] for h in machine.headers} == {"Bearer secret"}
    machine.headers.clear()
    machine.client().read_clock(1)
    assert "authorization" not in machine.headers[0]
    machine.change = broken(CLOCK)
    client = machine.client(url="http://me:secret@desk:9911/x")
    assert client.url == "http://desk:9911/x"
    with pytest.raises(MeterFailed) as caught:
        client.read_clock()
    assert "secret" not in str(caught.value)


def test_a_machine_without_a_meter_is_never_0():
    meter = UnmeasuredMeter("desk", "meter-refused")
    energy = meter.energy(1, 2)
    assert (energy.joules, energy.coverage) == (None, 0.0)
    assert energy.flags == ("unmeasured", "meter-refused")
    assert meter.power_curve(0, 10, 2) == [(2, None), (7, None)]
    meter.mark(5)
    assert not meter.settle(5)


def test_a_look_at_each_mark_and_none_after_the_end():
    """The thread: it looks at once at a mark, and ``settle`` ends it."""
    import threading

    machine = Machine(running=chain([1, 4], repeat(1)))
    looked = threading.Semaphore(0)

    def change(path: str, document: dict[str, Any]) -> Any:
        if path == "/meter":
            looked.release()
        return document

    machine.change = change
    meter = machine.meter(watch=True)
    start_ns = machine.now_ns
    meter.mark(start_ns)
    assert looked.acquire(timeout=60)
    meter.mark(start_ns + 1)
    assert looked.acquire(timeout=60)
    end_ns = machine.wait(1.0)
    meter.mark(end_ns)
    assert meter.settle(end_ns)
    asked = len(machine.asked)
    energy = meter.energy(start_ns, end_ns)
    assert energy.joules == pytest.approx(40.0, rel=0.01)
    assert "shared" in energy.flags
    assert [path for path, _ in machine.asked[asked:]] == [ENERGY]


def test_the_questions_are_the_documented_ones():
    machine = Machine()
    meter, start_ns, end_ns = answer(machine)
    meter.energy(start_ns, end_ns)
    paths = [path for path, _ in machine.asked]
    assert paths == [CLOCK] * 8 + ["/meter"] + [CLOCK] * 8 + [ENERGY]
    query = machine.asked[-1][1]
    assert set(query) == {"start_ns", "end_ns", "boot_id"}
    assert abs(int(query["start_ns"]) - machine.remote(start_ns)) < MS
    assert json.loads(json.dumps(meter.settings()))["meter_boot_id"] == "boot-1"
