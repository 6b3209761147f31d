"""Who decides about the loop guard: the option, else the arm, else config.yaml."""

from __future__ import annotations

import pytest

from etui.arm import OPEN_SAMPLING, Arm
from etui.routing.decision import Cascade, Decision, Fallbacks
from etui.runtime.decide import Overrides, apply_overrides, set_loop_guard


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("own", [True, False, None])
@pytest.mark.parametrize("option", [True, False, None])
def test_the_option_comes_first_then_the_arm_then_the_config(option, own, default):
    decision = Decision(Arm("a", "m", loop_guard=own), None, None, "")
    decided = set_loop_guard(apply_overrides(decision, Overrides(loop_guard=option)), default)
    expected = next(each for each in (option, own, default) if each is not None)
    assert decided.arm.loop_guard is expected


def test_every_arm_of_a_cascade_and_its_fallback_say_so():
    arms = (Arm("a", "m"), Arm("b", "n", loop_guard=False))
    decision = Decision(
        arms[0],
        None,
        None,
        "",
        cascade=Cascade(arms, 0.5, 2),
        fallbacks=Fallbacks(load_failed=Arm("c", "m")),
    )
    decided = set_loop_guard(decision, True)
    assert decided.cascade is not None
    assert [arm.loop_guard for arm in decided.cascade.arms] == [True, False]
    assert decided.fallbacks.load_failed is not None
    assert decided.fallbacks.load_failed.loop_guard is True
    assert set_loop_guard(Decision(arms[0], None, None, ""), False).cascade is None


def test_options_hold_for_the_arm_that_answers_if_a_load_fails():
    other = Arm("b", "n", "cot", speculate="auto", sampling_from=OPEN_SAMPLING)
    decision = Decision(Arm("a", "m"), None, None, "", fallbacks=Fallbacks(load_failed=other))
    overrides = Overrides(
        reasoning="direct", temperature=0.0, seed=3, speculate="off", loop_guard=False
    )
    decided = apply_overrides(decision, overrides)
    instead = decided.fallbacks.load_failed
    assert instead is not None
    assert (instead.sampling.temperature, instead.sampling.seed) == (0.0, 3)
    assert instead.sampling_from.temperature == "option"  # its model is not asked
    assert (instead.speculate, instead.loop_guard) == ("off", False)
    assert instead.reasoning == "cot"  # as in a cascade, of which only the chosen arm changes this
    assert apply_overrides(decision, Overrides()).fallbacks == decision.fallbacks


def test_the_arm_that_answers_if_a_load_fails_needs_no_draft_model_for_an_option():
    other = Arm("b", "n", speculate="lookup")
    decision = Decision(Arm("a", "m"), None, None, "", fallbacks=Fallbacks(load_failed=other))
    decided = apply_overrides(decision, Overrides(speculate="draft"))
    assert decided.arm.speculate == "draft"
    assert decided.fallbacks.load_failed == other
