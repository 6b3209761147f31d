"""The loop guard of a run: off unless an arm says so, and then part of the configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.bench.arms import ArmOverrides, build_arms, parse_arm, to_json
from etui.bench.formats import FORMATS


def test_an_arm_without_a_setting_is_written_as_before_there_was_a_guard():
    document = to_json(Arm("a", "m"))
    assert "loop_guard" not in document
    assert parse_arm(document) == Arm("a", "m")


@pytest.mark.parametrize("given", [True, False])
def test_a_setting_is_part_of_the_configuration(given):
    arm = Arm("a", "m", loop_guard=given)
    assert to_json(arm)["loop_guard"] is given
    assert parse_arm(to_json(arm)) == arm


def test_the_option_reaches_every_arm():
    plain = build_arms(["m"], ["direct", "cot"], ArmOverrides(), FORMATS["chat"])
    guarded = build_arms(["m"], ["direct", "cot"], ArmOverrides(loop_guard=True), FORMATS["chat"])
    assert [arm.loop_guard for arm in plain.values()] == [None, None]
    assert guarded == {name: replace(arm, loop_guard=True) for name, arm in plain.items()}
