"""A decision that was made already is explained as the policy's own one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from etui.chat import Query
from etui.cli.policy import explain as explain_command
from etui.config.backend_spec import BackendSpec
from etui.config.config import Config
from etui.errors import UsageError
from etui.log.writer import TurnWriter
from etui.models.catalogue import Catalogue
from etui.routing.library import load_policy
from etui.runtime.decide import choose, collect_knowledge, decide_query
from etui.runtime.explain import (
    Explanation,
    candidate_rows,
    explain,
    explain_choice,
    explained_facts,
)
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime, open_runtime
from tests.runtime.remote.test_remote_meters import BIG, DESK, remote_turn

POLICY = """
version: 1
arms: {deep: {model: big, max_tokens: 120}}
rules:
  - name: cheapest
    objective: {minimize: joules}
    arms: [deep]
    otherwise: deep
"""

RACK = replace(DESK, name="big-rack", backend="rack")

CATALOGUE = Catalogue({"big": BIG, "big-desk": DESK, "big-rack": RACK})


@pytest.fixture
def remote_config(config: Config) -> Config:
    backends = {
        name: BackendSpec(name, f"http://{name}:8080/v1", "llama-server")
        for name in ("desk", "rack")
    }
    return replace(config, backends=backends)


@pytest.fixture
def explained(
    remote_config: Config, monkeypatch: pytest.MonkeyPatch
) -> Callable[[set[str]], Explanation]:
    """Names of the available models -> the explanation, with turns of the desk in the log."""
    with TurnWriter(remote_config) as writer:
        for index in range(3):
            writer.save_turn(remote_turn(remote_config, index, server="b1", joules=40.0))
    path = remote_config.home / "places.yaml"
    path.write_text(POLICY)

    def build(available: set[str]) -> Explanation:
        def on_disk(*_: Any) -> Callable[[str], bool]:
            return available.__contains__

        monkeypatch.setattr("etui.runtime.runtime.models_on_disk", on_disk)
        monkeypatch.setattr("etui.runtime.explain.models_on_disk", on_disk, raising=False)
        runtime: Runtime[Any] = open_runtime(remote_config)
        monkeypatch.setattr(runtime, "find_available", on_disk, raising=False)
        runtime.catalogue = CATALOGUE
        with runtime:
            policy = load_policy(str(path), remote_config, CATALOGUE.models)
            return explain(Query("add 1 and 2"), policy, runtime)

    return build


def test_every_place_is_a_candidate_with_its_machine(
    explained: Callable[[set[str]], Explanation],
) -> None:
    document = explained({"big", "big-desk"})
    assert [(c["model"], c["machine"]) for c in document["candidates"]] == [
        ("big-desk", "desk"),
        ("big", None),
        ("big-rack", "rack"),
    ]
    desk, local, rack = document["candidates"]
    assert desk["joules"] is not None
    assert desk["joules"]["load"] == 0.0
    assert desk["seconds"] == desk["joules"]["seconds"]
    assert (local["failed"], rack["failed"]) == (
        "its joules are unknown",
        "big-rack on rack is not available",
    )
    assert document["model"] == "big-desk"
    assert document["why"].startswith("cheapest: deep on desk is the cheapest arm (")
    assert document["why"].endswith(" J, no other place qualifies)")
    facts = dict(explained_facts(document))
    assert facts["model"] == "big-desk (desk)"
    rows = candidate_rows(document)
    assert [row[1] for row in rows] == ["big-desk (desk)", "big (this machine)", "big-rack (rack)"]
    assert [row[-1] for row in rows] == [
        "taken",
        "its joules are unknown",
        "big-rack on rack is not available",
    ]


def test_without_an_available_place_the_machine_is_named(
    explained: Callable[[set[str]], Explanation],
) -> None:
    document = explained({"big-rack"})
    assert document["model"] == "big-rack"  # by `otherwise`: nothing is known of the rack
    assert dict(explained_facts(document))["model"] == "big-rack (rack)"
    assert " · big is not on disk: big-rack on rack answers instead" in document["why"]
    nowhere = explained(set())
    assert nowhere["on_disk"] is False
    assert nowhere["model"] == "big-desk"
    assert dict(explained_facts(nowhere))["model"] == "big-desk (desk, not available)"


def test_a_policy_of_one_machine_is_shown_as_before(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(POLICY.replace("big", "smollm2-135m"))
    result = CliRunner().invoke(explain_command, ["hello", "--policy", str(path)])
    assert "this machine)" not in result.output.replace("(not on this machine)", "")
    assert "etui models pull smollm2-135m" in result.output


QUESTION = Query("What is 17 times 23? Calculate step by step.")


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    return Runtime(config, lambda config: pytest.fail("a backend was opened"))


def test_a_policys_decision_has_the_same_document(runtime: Runtime[Any]) -> None:
    policy = load_policy("balanced", runtime.config, runtime.catalogue.models)
    expected = explain(QUESTION, policy, runtime)
    known = collect_knowledge(policy, runtime, available=lambda model: True)
    choice = decide_query(QUESTION, policy, knowledge=known)
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
    choice = decide_query(QUESTION, policy, knowledge=known)
    with pytest.raises(UsageError, match="gone"):
        explain_choice(QUESTION, choice, runtime, "gone")
