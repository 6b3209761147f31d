"""The model that the user chose stands in where a policy names missing ones only."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from etui.config.config import Config
from etui.models.catalogue import load_catalogue
from etui.routing.library import load_policy
from etui.routing.policy import Policy, add_fallback_model
from etui.runtime.decide import fallback_model_file, load_fallback_model, save_fallback_model


@pytest.fixture
def balanced(config: Config) -> Policy:
    return load_policy("balanced", config, load_catalogue(config).models)


def models_of(policy: Policy) -> Mapping[str, tuple[str, ...]]:
    return {name: plan.models for name, plan in policy.arms.items()}


def test_it_is_the_last_model_of_every_direct_arm_without_one(balanced: Policy) -> None:
    here = {"gemma-3-270m"}.__contains__
    extended = add_fallback_model(balanced, "gemma-3-270m", here)
    for name, plan in extended.arms.items():
        before = balanced.arms[name]
        if plan.arm.reasoning == "direct":
            assert plan.models == (*before.models, "gemma-3-270m")
            assert plan.arms[-1].model == "gemma-3-270m"
            assert len(plan.arms) == len(plan.models)
        else:
            assert plan == before, "an arm that thinks falls through"


def test_an_arm_with_a_model_keeps_its_own(balanced: Policy) -> None:
    here = {"gemma-3-270m", "smollm2-135m"}.__contains__
    assert add_fallback_model(balanced, "gemma-3-270m", here) is balanced


def test_a_model_that_is_missing_itself_does_not_stand_in(balanced: Policy) -> None:
    assert add_fallback_model(balanced, "gemma-3-270m", lambda _name: False) is balanced


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}'])
def test_a_damaged_choice_is_none(config: Config, text: str) -> None:
    assert load_fallback_model(config) is None
    fallback_model_file(config).write_text(text)
    assert load_fallback_model(config) is None
    save_fallback_model(config, "m")
    assert load_fallback_model(config) == "m"
