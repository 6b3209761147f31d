"""A policy over a real log."""

from __future__ import annotations

from dataclasses import replace

from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.replay.log_replay import replay_log
from etui.routing.library import check_text, find_policy
from etui.runtime.open import open_runtime
from tests.fixtures.turns import TURN

POLICY = """
version: 1
description: d
models: {small: [smollm2-135m]}
arms: {quick: {model: small}}
rules: [{name: all, use: quick}]
"""


def test_the_newest_turns_are_replayed_by_rules_that_are_not_saved(config):
    catalogue = load_catalogue(config)
    file = model_path(catalogue.get("smollm2-135m"), config)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    writer = TurnWriter(config)
    for number in range(5):
        time = f"2026-11-24T10:00:0{number}.000+00:00"
        writer.save_turn(replace(TURN, turn_id=f"id{number:010}", created_at=time))
    writer.close()
    policy = check_text(POLICY, find_policy("balanced", config), catalogue.models).policy
    assert policy is not None
    replayed = replay_log(policy, open_runtime(config), newest=2)
    assert [again.turn_id for again in replayed] == ["id0000000003", "id0000000004"]
    assert {again.after for again in replayed} == {("quick", "smollm2-135m")}
    assert len(replay_log(policy, open_runtime(config))) == 5
