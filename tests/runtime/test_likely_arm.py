"""The arm whose model is loaded ahead: that of the last questions, else the policy's default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.log.writer import TurnWriter
from etui.runtime.host import read_host
from etui.runtime.overrides import Overrides
from etui.runtime.routes import LAST_TURNS, find_likely_arm, rank_arms
from etui.runtime.runtime import open_runtime
from etui.turn.record import HopRecord, TurnRecord
from tests.fixtures.turns import TURN

SMALL, MEDIUM, LARGE = "smollm2-135m", "qwen2.5-coder-1.5b", "llama-3.2-3b"
POLICY = f"""
version: 1
description: Small for greetings, medium for the rest, large for long questions.
arms:
  small: {{model: {SMALL}, reasoning: direct}}
  medium: {{model: {MEDIUM}, reasoning: direct}}
  large: {{model: {LARGE}, reasoning: direct}}
signals:
  greeting: {{keywords: [hello]}}
rules:
  - {{name: greetings, when: {{all: [greeting]}}, use: small}}
  - {{name: others, use: medium}}
"""


@pytest.fixture
def here(config: Config) -> Config:
    config.models_dir.mkdir(exist_ok=True)
    for name in (SMALL, MEDIUM, LARGE):
        (config.models_dir / f"{name}.gguf").touch()
    config.policies_dir.mkdir(parents=True, exist_ok=True)
    (config.policies_dir / "sizes.yaml").write_text(POLICY)
    return config


@pytest.fixture
def log(here: Config) -> Callable[..., None]:
    def save(*arms: str, **changes: object) -> None:
        with TurnWriter(here) as writer:
            for arm in arms:
                save.number += 1  # type: ignore[attr-defined]
                at = f"2026-01-01T00:00:{save.number:02}Z"  # type: ignore[attr-defined]
                facts = {"policy": "sizes", "rule": "others", "arm": arm, **changes}
                writer.save_turn(build(f"turn{save.number}", at, facts))  # type: ignore[attr-defined]

    save.number = 0  # type: ignore[attr-defined]
    return save


def build(turn_id: str, at: str, facts: dict[str, object]) -> TurnRecord:
    hops = {"hops": (), **facts}
    return replace(TURN, turn_id=turn_id, created_at=at, **hops)  # type: ignore[arg-type]


def make_hop(arm: str) -> HopRecord:
    return HopRecord(
        arm=arm, model="m", model_sha256=None, reasoning="direct", answer="a", status="complete",
        confidence=None, margin=None, probability=None, accepted=True, taken=True,
        tokens=TURN.tokens, joules=1.0, uncertainty=0.1, seconds=1.0, load_joules=0.0, why="",
    )  # fmt: skip


def likely(config: Config, chat_id: str | None = None, **overrides: str) -> Arm:
    with open_runtime(config) as runtime:
        named = Overrides(**(overrides or {"policy": "sizes"}))  # type: ignore[arg-type]
        return find_likely_arm(named, runtime, lambda: read_host(config), chat_id)


def test_before_the_first_question_it_is_the_default_and_not_that_of_a_greeting(
    here: Config,
) -> None:
    assert likely(here).model == MEDIUM


def test_it_is_the_arm_that_answered_most_of_the_last_questions(
    here: Config, log: Callable[..., None]
) -> None:
    log("small", "large", "large", "small", "large")
    assert likely(here).name == "large"
    log(*["small"] * LAST_TURNS)
    assert likely(here).model == SMALL


def test_the_turns_of_the_chat_come_before_those_of_other_chats(
    here: Config, log: Callable[..., None]
) -> None:
    log("small", chat_id="mine")
    log("large", "large", chat_id="other")
    assert likely(here, "mine").model == SMALL
    assert likely(here, "new").model == LARGE


def test_turns_of_other_policies_and_of_arms_that_the_user_named_do_not_count(
    here: Config, log: Callable[..., None]
) -> None:
    log("large", policy="another")
    log("large", rule=None)
    assert likely(here).model == MEDIUM


def test_a_cascade_begins_with_its_first_arm(here: Config, log: Callable[..., None]) -> None:
    log("large", hops=(make_hop("small"), make_hop("large")))
    assert likely(here).model == SMALL


def test_an_arm_that_is_gone_is_passed_over(here: Config, log: Callable[..., None]) -> None:
    log("gone", "gone", "large")
    assert likely(here).model == LARGE
    (here.models_dir / f"{LARGE}.gguf").unlink()
    assert likely(here).model == MEDIUM


def test_what_the_user_has_chosen_is_loaded(here: Config, log: Callable[..., None]) -> None:
    log("large")
    assert likely(here, model=SMALL).model == SMALL
    assert likely(here, policy="sizes", arm="medium").model == MEDIUM


def test_without_the_model_of_the_default_another_rule_decides(here: Config) -> None:
    (here.models_dir / f"{MEDIUM}.gguf").unlink()
    assert likely(here).model == SMALL


def test_of_two_arms_alike_the_last_one_comes_first() -> None:
    assert rank_arms(["b", "a", "a", "b", "c"]) == ["b", "a", "c"]
