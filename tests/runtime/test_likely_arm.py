"""The arm whose model is loaded ahead: that of the last questions, else the policy's default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.log.writer import TurnWriter
from etui.runtime.host import read_host
from etui.runtime.overrides import Overrides
from etui.runtime.routes import LAST_TURNS, find_likely_arm, rank_arms
from etui.runtime.runtime import open_runtime
from etui.turn.record import HopRecord
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


OF_CHAT = [("small", {"chat_id": "mine"}), *[("large", {"chat_id": "other"})] * 2]
MOST = [(arm, {}) for arm in ("small", "large", "large", "small", "large")]


@pytest.mark.parametrize(
    ("turns", "given", "gone", "model"),
    [
        ([], {}, (), MEDIUM),  # the default, and not that of a greeting
        ([], {}, (MEDIUM,), SMALL),  # another rule decides
        (MOST, {}, (), LARGE),
        ([*MOST, *[("small", {})] * LAST_TURNS], {}, (), SMALL),
        # The turns of the chat come before those of others.
        (OF_CHAT, {"chat_id": "mine"}, (), SMALL),
        (OF_CHAT, {"chat_id": "new"}, (), LARGE),
        # Those of other policies, and of arms that the user named, do not count.
        ([("large", {"policy": "another"}), ("large", {"rule": None})], {}, (), MEDIUM),
        # A cascade begins with its first arm.
        ([("large", {"hops": (make_hop("small"), make_hop("large"))})], {}, (), SMALL),
        # An arm that is gone is passed over.
        ([("gone", {}), ("gone", {}), ("large", {})], {}, (), LARGE),
        ([("gone", {}), ("gone", {}), ("large", {})], {}, (LARGE,), MEDIUM),
        # What the user has chosen is loaded.
        ([("large", {})], {"model": SMALL}, (), SMALL),
        ([("large", {})], {"policy": "sizes", "arm": "medium"}, (), MEDIUM),
    ],
)
def test_the_likely_arm_is_that_of_the_last_questions_or_the_default(
    here: Config,
    turns: list[tuple[str, dict[str, Any]]],
    given: dict[str, str],
    gone: tuple[str, ...],
    model: str,
) -> None:
    with TurnWriter(here) as writer:
        for number, (arm, changes) in enumerate(turns):
            facts = {"policy": "sizes", "rule": "others", "arm": arm, "hops": (), **changes}
            at = f"2026-01-01T00:00:{number:02}Z"
            writer.save_turn(replace(TURN, turn_id=f"turn{number}", created_at=at, **facts))
    for name in gone:
        (here.models_dir / f"{name}.gguf").unlink()
    assert likely(here, **given).model == model


def test_of_two_arms_alike_the_last_one_comes_first() -> None:
    assert rank_arms(["b", "a", "a", "b", "c"]) == ["b", "a", "c"]
