"""Ids of clients: policies, their arms, and models; nothing else, and never a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.errors import InvalidFile, InvalidRequest
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.runtime.model_ids import list_model_ids, parse_model_id
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime, open_runtime
from tests.fixtures.turns import TURN

MINE = """
version: 1
description: Mine.
arms: {quick: {model: smollm2-135m}, think: {model: qwen3-4b, reasoning: cot}}
rules: [{name: all, use: quick}]
"""


def replace_config(runtime: Runtime[Any], **changes: Any) -> Runtime[Any]:
    return open_runtime(replace(runtime.config, **changes))


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    config.models_dir.mkdir()
    model_path(load_catalogue(config).get("smollm2-135m"), config).touch()
    config.policies_dir.mkdir()
    (config.policies_dir / "mine.yaml").write_text(MINE)
    return open_runtime(config)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("", Overrides()),
        ("  etui ", Overrides()),
        ("balanced", Overrides(policy="balanced")),
        ("mine/think", Overrides(policy="mine", arm="think")),
        ("smollm2-135m", Overrides(model="smollm2-135m")),
        ("qwen3-4b", Overrides(model="qwen3-4b")),
    ],
)
def test_an_id_names_a_policy_an_arm_or_a_model(
    runtime: Runtime[Any], text: str, overrides: Overrides
) -> None:
    assert parse_model_id(text, runtime) == overrides


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("gpt-4o", "'etui' is the default"),
        ("balancd", "did you mean 'balanced'"),
        ("mine/thinks", "did you mean 'mine/think'"),
        ("smollm-135m", "smollm2-135m"),
        ("mine/", "mine/"),
        ("x" * 100_000, "/v1/models"),
    ],
)
def test_an_unknown_id_is_refused_with_the_nearest_names(
    runtime: Runtime[Any], text: str, nearest: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_model_id(text, runtime)
    assert caught.value.param == "model"
    assert nearest in caught.value.fix
    assert len(str(caught.value)) < 1000


def test_a_path_is_no_id_even_of_a_file_that_exists(
    runtime: Runtime[Any], config: Config, tmp_path: Path
) -> None:
    policy = config.policies_dir / "mine.yaml"
    model = tmp_path / "other.gguf"
    model.touch()
    for text in (str(policy), str(model), "../policies/mine", "./mine.yaml", "mine.yaml"):
        with pytest.raises(InvalidRequest):
            parse_model_id(text, runtime)


@given(text=st.text(max_size=60))
def test_any_text_names_something_or_is_refused(runtime: Runtime[Any], text: str) -> None:
    known = {"", "etui", *(each.id for each in list_model_ids(runtime)), *runtime.catalogue.models}
    if text.strip() in known:
        parse_model_id(text, runtime)
    else:
        with pytest.raises(InvalidRequest):
            parse_model_id(text, runtime)


ALIASES = {
    "gpt-4o": "mine", "claude-*": "mine/quick", "claude-opus-*": "balanced", "balanced": "mine",
    "lost": "nowhere", "a[b]?": "mine",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("gpt-4o", Overrides(policy="mine")),
        ("claude-sonnet-4-5-20250929", Overrides(policy="mine", arm="quick")),
        ("claude-opus-4", Overrides(policy="mine", arm="quick")),  # the first that fits
        ("balanced", Overrides(policy="balanced")),  # what exists goes first
        ("a[b]?", Overrides(policy="mine")),
        ("gpt-4o-mini", None),
        ("claude", None),
        ("a[b]x", None),
        ("ab?", None),
        ("lost", None),
    ],
)
def test_an_alias_stands_for_a_policy_an_arm_or_a_model(
    runtime: Runtime[Any], text: str, overrides: Overrides | None
) -> None:
    runtime = replace_config(runtime, aliases=ALIASES)
    if overrides is not None:
        assert parse_model_id(text, runtime) == overrides
        return
    with pytest.raises(InvalidRequest) as caught:
        parse_model_id(text, runtime)
    assert ("the alias 'lost' of config.yaml means 'nowhere'" in str(caught.value)) == (
        text == "lost"
    )


def test_aliases_are_listed_with_the_facts_of_what_they_stand_for(runtime: Runtime[Any]) -> None:
    runtime = replace_config(runtime, aliases=ALIASES)
    listed = {each.id: each for each in list_model_ids(runtime)}
    assert listed["balanced" if "balanced" in listed else "mine"].kind == "policy"
    alias, meant = listed["claude-*"], listed["mine/quick"]
    assert (alias.kind, alias.context_tokens) == ("alias", meant.context_tokens)
    assert alias.description.startswith("mine/quick: ")
    assert "lost" not in listed


def test_the_list_has_what_can_answer_and_says_what_a_token_costs(
    runtime: Runtime[Any], config: Config
) -> None:
    spec = runtime.catalogue.get("smollm2-135m")
    listed = {each.id: each for each in list_model_ids(runtime)}
    assert listed["smollm2-135m"].kind == "model"
    assert listed["smollm2-135m"].context_tokens == spec.context
    assert listed["smollm2-135m"].joules_per_token is None
    assert (listed["mine"].kind, listed["mine"].description) == ("policy", "Mine.")
    assert listed["mine/quick"].kind == "arm"
    assert "mine/think" not in listed  # its model has no file here
    assert "qwen3-4b" not in listed
    with TurnWriter(config) as writer:
        writer.save_turn(replace(TURN, model=spec.name, model_sha256=spec.sha256, hops=()))
    listed = {each.id: each for each in list_model_ids(runtime, residents=["smollm2-135m"])}
    for name in ("smollm2-135m", "mine/quick"):
        assert listed[name].joules_per_token is not None
        assert listed[name].joules_source == "the mean of 1 turn"
        assert listed[name].resident
    assert listed["mine"].resident


def test_a_broken_policy_is_not_listed_and_its_error_is_told_to_who_names_it(
    runtime: Runtime[Any], config: Config
) -> None:
    (config.policies_dir / "mine.yaml").write_text("version: 1\nruls: []\n")
    assert not [each for each in list_model_ids(runtime) if each.id.startswith("mine")]
    assert parse_model_id("mine", runtime) == Overrides(policy="mine")
    with pytest.raises(InvalidFile, match=r"mine\.yaml:2:1"):
        parse_model_id("mine/quick", runtime)


def test_edits_are_seen_by_the_next_request(runtime: Runtime[Any], config: Config) -> None:
    from etui.chat import Query
    from etui.runtime.decide import choose

    def decide() -> str:
        runtime.reload_catalogue()
        return choose(Query("hello"), Overrides(policy="mine"), runtime).decision.arm.model

    assert decide() == "smollm2-135m"
    (config.models_dir / "found.gguf").touch()
    edited = MINE.replace("model: smollm2-135m", "model: found")
    (config.policies_dir / "mine.yaml").write_text(edited)
    assert decide() == "found"
    (config.policies_dir / "new.yaml").write_text(MINE)
    assert parse_model_id("new", runtime).policy == "new"
    (config.policies_dir / "new.yaml").unlink()
    with pytest.raises(InvalidRequest):
        parse_model_id("new", runtime)
    config.models_file.write_text(
        "models:\n  entry:\n    size: s\n    sources: [{path: found.gguf}]\n"
    )
    assert parse_model_id("entry", runtime).model == "entry"
