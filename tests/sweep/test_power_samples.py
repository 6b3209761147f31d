"""The power of a block over time."""

from __future__ import annotations

import pytest

from etui.sweep.blocks import Block
from etui.sweep.power_samples import read_power
from etui.sweep.procedure import Procedure
from tests.sweep.simulated_rig import BASELINE, OTHER, QUIET, Machine


@pytest.fixture
def machine(config, tmp_path):
    return Machine(tmp_path / "sysfs", config)


def test_the_power_of_a_block_says_whose_it_was(machine):
    rig = machine.rig(procedure=Procedure(cool_down_s=6.0))
    block = Block(3, "race", (rig.visit(BASELINE, 0), rig.visit(OTHER, 0)))
    samples = read_power(rig.meter, block)
    first, second = block.visits
    length_s = (second.end_ns - first.start_ns) / 1e9
    assert len(samples) == round(length_s)
    joules = sum(sample.watts for sample in samples) * length_s / len(samples)
    assert joules == pytest.approx(machine.gpu.truth(first.start_ns, second.end_ns), rel=0.02)
    assert {sample.block for sample in samples} == {3}
    assert [s.setting for s in samples[:2]] == [BASELINE.key] * 2
    assert samples[-1].setting == OTHER.key
    idle = [sample.watts for sample in samples if sample.setting is None]
    assert min(idle) == pytest.approx(QUIET.idle_watts, rel=0.05)
    assert read_power(rig.meter, Block(4, "race", ())) == ()
