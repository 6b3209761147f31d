"""Gaps between the questions of chats, and what a load costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.config.config import Config
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.runtime.keep_warm import compute_gaps, read_load_cost, read_uses
from etui.turn.record import HopRecord, LoadRecord, Tokens
from tests.fixtures.turns import TURN
from tests.log.idle_log import MODEL, stamp, write_residence, write_turns

NOON = 1_795_000_000.0


def seconds(config: Config, model: str) -> list[float]:
    with LogReader(config) as log:
        return [round(gap.seconds, 3) for gap in compute_gaps(read_uses(log), model)]


def test_a_gap_lasts_from_an_answer_to_the_next_question_to_the_same_model(config):
    write_turns(config, [NOON, NOON + 40, NOON + 45, NOON + 1000])
    write_turns(config, [NOON + 500], "other")
    write_turns(config, [NOON + 50], chat_id=None)  # `etui ask`: its process has ended
    assert seconds(config, MODEL) == [30, 0, 945]  # answers take ten seconds
    assert seconds(config, "other") == []
    with LogReader(config) as log:
        first = compute_gaps(read_uses(log), MODEL)[0]
    assert first.start_seconds == NOON + 10


def test_a_cascade_uses_each_of_its_models(config):
    hop = HopRecord(
        *("quick", "small", None, "direct", "4", "complete", None, None, None, False, False),
        Tokens(1, 0, 1, 0, 1), 1.0, None, 0.0, 1.0, "",
    )  # fmt: skip
    with TurnWriter(config) as writer:
        for number in range(2):
            writer.save_turn(
                replace(
                    TURN,
                    turn_id=f"t{number}",
                    chat_id="c",
                    created_at=stamp(NOON + 100 * number),
                    hops=(hop,),
                )
            )
    assert len(seconds(config, "small")) == len(seconds(config, TURN.model)) == 1


def test_the_cost_of_a_load_is_the_mean_of_the_last_with_their_spread(config):
    write_residence(config, NOON)
    with LogReader(config) as log:
        cost = read_load_cost(log, MODEL, None)
    assert (cost.joules.value, cost.seconds, cost.loads, cost.kind) == (300, 2, 3, "counter")
    # 4.30 * 10 / sqrt(3) of the spread, 6 of the meter
    assert cost.joules.uncertainty == pytest.approx((24.83**2 + 36) ** 0.5, rel=1e-3)


def test_loads_of_another_kind_or_file_are_left_out(config):
    rows = (("ab", 100.0, "counter"), ("ab", 7.0, "estimate"), ("cd", 50.0, "counter"))
    with TurnWriter(config) as writer:
        for number, (sha256, joules, kind) in enumerate(rows):
            writer.save_load(
                LoadRecord(
                    *(str(number), stamp(NOON + number), MODEL, sha256, None, 1.0),
                    *(joules, 1.0, kind, 0, 1),
                )
            )
    with LogReader(config) as log:
        newest = read_load_cost(log, MODEL, "ab")
        any_file = read_load_cost(log, MODEL, None)
    assert (newest.joules.value, newest.kind) == (7.0, "estimate")
    assert (any_file.joules.value, any_file.loads) == (75.0, 2)
