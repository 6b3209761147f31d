"""Nodes that share a meter: their parts sum to what it reads, whoever works when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cluster.host import HostLedger, HostMeter, HostShare, read_host_id
from etui.energy.types import Energy, Kind


@dataclass
class Clock:
    ns: int = 1_000

    def __call__(self):
        return self.ns


@dataclass
class RampMeter:
    """A machine whose power rises with time: joules = t², t in seconds."""

    marks: list = field(default_factory=list)
    settled: int = 0

    def energy(self, start_ns, end_ns):
        joules = (end_ns / 1e9) ** 2 - (start_ns / 1e9) ** 2
        return Energy(start_ns, end_ns, joules, 0.1 * joules, Kind.COUNTER, 1.0)

    def mark(self, t_ns, phase=""):
        self.marks.append(phase)

    def settle(self, end_ns):
        self.settled = end_ns

    def power_curve(self, start_ns, end_ns, points):
        return [(start_ns, 1.0)] * points


def share(ledger, number, cpus=1):
    return HostShare(ledger, number, cpus)


def test_a_node_that_works_alone_pays_all():
    clock = Clock()
    one = share(HostLedger(clock), 0)
    meter = HostMeter(RampMeter(), one)
    with one.work():
        start, clock.ns = clock.ns, 2 * 10**9
        found = meter.energy(start, clock.ns)
    assert found.joules == pytest.approx(4.0)
    assert found.uncertainty == pytest.approx(0.4)
    assert found.kind is Kind.COUNTER


def test_two_nodes_pay_for_the_time_of_both_by_their_cpus():
    clock = Clock(0)
    ledger = HostLedger(clock)
    one, other = share(ledger, 0, 3), share(ledger, 1, 1)
    machine = RampMeter()
    meters = [HostMeter(machine, each) for each in (one, other)]
    with one.work():
        clock.ns = 10**9
        with other.work():
            clock.ns = 2 * 10**9
            assert meters[1].energy(10**9, clock.ns).joules == pytest.approx(0.75)
        clock.ns = 3 * 10**9
    assert meters[0].energy(0, clock.ns).joules == pytest.approx(1 + 2.25 + 5)
    assert meters[1].energy(0, clock.ns).joules == pytest.approx(0.75)
    meters[0].mark(5, "prefill")
    meters[0].settle(7)
    assert (machine.marks, machine.settled) == (["shared"], 7)


def test_a_process_that_died_is_not_counted_twice_when_it_begins_again():
    clock = Clock(0)
    ledger = HostLedger(clock)
    ledger.begin(0, 2)
    clock.ns = 5
    ledger.begin(0, 2)
    assert ledger.read(0) == (5, [(0, {}), (0, {0: 2})])
    ledger.end(1)
    ledger.end(0)
    assert ledger.read(2) == (5, [(5, {})])


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 10**9), st.booleans()), min_size=1, max_size=40
)


@given(STEPS, st.lists(st.integers(1, 64), min_size=4, max_size=4))
def test_the_parts_of_the_nodes_sum_to_the_meter(steps, cpus):
    clock = Clock(0)
    ledger = HostLedger(clock)
    machine = RampMeter()
    meters = [HostMeter(machine, share(ledger, at, cpus[at])) for at in range(4)]
    working: set[int] = set()
    whole, charged = [], []
    for node, passed, asks in steps:
        start, clock.ns = clock.ns, clock.ns + passed
        if asks:  # each reads at its own times
            meters[node].energy(start, clock.ns)
        if working:
            whole.append(machine.energy(start, clock.ns).joules)
            charged += [(at, start, clock.ns) for at in working]
        if node in working:
            working.discard(node)
            ledger.end(node)
        else:
            working.add(node)
            ledger.begin(node, cpus[node])
    parts = [meters[at].energy(start, end).joules for at, start, end in charged]
    assert math.fsum(parts) == pytest.approx(math.fsum(whole), rel=1e-9)
    paid = {node for node, _, _ in charged}
    for at, meter in enumerate(meters):
        if at not in paid:
            assert meter.energy(0, clock.ns).joules == 0.0


def test_processes_of_one_host_have_one_id(monkeypatch):
    assert read_host_id() == read_host_id()
    ids = iter("abcd")
    monkeypatch.setattr("etui.cluster.host.read_boot_id", lambda: next(ids))
    monkeypatch.setattr("etui.cluster.host.platform.node", lambda: "desk")
    assert read_host_id().startswith("desk ")
