"""A decision that was made already is explained as the policy's own one is."""

from __future__ import annotations

from typing import Any

import pytest

from etui.chat import Query
from etui.config.config import Config
from etui.errors import UsageError
from etui.routing.library import load_policy
from etui.runtime.decide import Overrides, choose, collect_knowledge, decide_query
from etui.runtime.explain import explain, explain_choice
from etui.runtime.runtime import Runtime

QUESTION = Query("What is 17 times 23? Calculate step by step.")


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    return Runtime(config, lambda config: pytest.fail("a backend was opened"))


def test_a_policys_decision_has_the_same_document(runtime: Runtime[Any]) -> None:
    policy = load_policy("balanced", runtime.config, runtime.catalogue.models)
    expected = explain(QUESTION, policy, runtime)
    known = collect_knowledge(policy, runtime, available=lambda model: True)
    choice = decide_query(QUESTION, policy, runtime, knowledge=known)
    document = explain_choice(QUESTION, choice, runtime, "balanced")
    assert set(document) == set(expected)
    for key in ("arm", "model", "policy", "rule", "candidates", "models", "policy_file", "needs"):
        assert document[key] == expected[key]  # type: ignore[literal-required]


def test_a_named_model_has_no_policy(runtime: Runtime[Any]) -> None:
    choice = choose(QUESTION, Overrides(model="smollm2-135m", max_tokens=7), runtime)
    document = explain_choice(QUESTION, choice, runtime)
    assert document["policy"] is None
    assert document["policy_file"] is None
    assert document["max_tokens"] == 7
    assert document["models"] == [{"model": "smollm2-135m", "on_disk": False}]


def test_a_policy_that_is_gone_is_reported(runtime: Runtime[Any]) -> None:
    policy = load_policy("balanced", runtime.config, runtime.catalogue.models)
    known = collect_knowledge(policy, runtime, available=lambda model: True)
    choice = decide_query(QUESTION, policy, runtime, knowledge=known)
    with pytest.raises(UsageError, match="gone"):
        explain_choice(QUESTION, choice, runtime, "gone")
