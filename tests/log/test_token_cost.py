"""The price of a model's tokens from its last turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm, TokenCost
from etui.log.curve_lookup import TurnCost, mean_token_cost
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import ModelSpec
from etui.runtime.model_resolution import token_cost_for
from etui.turn.record import Attribution, Tokens

SPEC = ModelSpec("m", "tiny", (), sha256="ab" * 32)


@pytest.fixture
def spent(make_turn):
    """A turn of the model that took so many joules for so many tokens, by phase."""

    def make(number, prefill, computed, decode, output, kind="counter", **changes):
        turn = make_turn(number, model=SPEC.name, model_sha256=SPEC.sha256, **changes)
        phases = {"load": 0.0, "prefill": prefill, "decode": decode}
        energy = replace(turn.energy, kind=kind, phases=phases)
        return replace(turn, energy=energy, tokens=Tokens(computed, 0, computed, 0, output))

    return make


def save(config, *turns):
    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)


def test_joules_are_divided_by_tokens_not_by_turns(config, spent):
    save(config, spent(1, 10.0, 100, 30.0, 10), spent(2, 20.0, 200, 60.0, 50))
    with LogReader(config) as log:
        price = log.price(SPEC.name, SPEC.sha256)
    assert price == TokenCost(90.0 / 60, 0.0, 30.0 / 300, "the mean of 2 turns")


BATCHED = Attribution("shapley", 0.5, 20.0, 0.1, 9, 2.0)


@pytest.mark.parametrize("how", [{"shared": True}, {"attribution": BATCHED}])
def test_turns_beside_others_count_only_without_turns_alone(config, spent, how):
    def with_shared(turn, shared):
        changes = how if shared else {"shared": False}
        return replace(turn, energy=replace(turn.energy, **{"shared": False} | changes))

    save(config, *(with_shared(spent(n, 1.0, 10, 12.0, 1), True) for n in range(1, 4)))
    with LogReader(config) as log:
        assert log.price(SPEC.name, SPEC.sha256).joules_per_token == pytest.approx(12.0)
    alone = with_shared(spent(0, 1.0, 10, 6.6, 10), False)  # older than the others
    save(config, alone)
    with LogReader(config) as log:
        price = log.price(SPEC.name, SPEC.sha256)
    assert (price.joules_per_token, price.source) == (pytest.approx(0.66), "the mean of 1 turn")


def test_turns_in_batches_of_others_count_only_without_those_beside_other_programs(config, spent):
    def change(turn, **changes):
        return replace(turn, energy=replace(turn.energy, **changes))

    batched = change(spent(2, 1.0, 10, 2.0, 10), shared=True, attribution=BATCHED)
    save(config, change(spent(1, 1.0, 10, 12.0, 10), shared=True), batched)
    with LogReader(config) as log:
        assert log.price(SPEC.name, SPEC.sha256).joules_per_token == pytest.approx(1.2)


def test_votes_other_models_and_unmeasured_turns_do_not_count(config, spent, make_turn):
    save(
        config,
        spent(1, 1.0, 10, 2.0, 10),
        spent(2, 1.0, 10, 900.0, 10, reasoning="vote"),
        replace(spent(3, 1.0, 10, 900.0, 10), model="other"),
        replace(spent(4, 1.0, 10, 900.0, 10), model_sha256="cd" * 32),
        make_turn(5, joules=None, model=SPEC.name, model_sha256=SPEC.sha256),
    )
    with LogReader(config) as log:
        price = log.price(SPEC.name, SPEC.sha256)
    assert (price.joules_per_token, price.source) == (0.2, "the mean of 1 turn")


def test_estimates_and_readings_are_not_mixed():
    turns = [TurnCost(1, 10, 5, 10, "estimate"), TurnCost(1, 10, 50, 10, "counter")]
    price = mean_token_cost(turns)
    assert price.joules_per_token == 0.5
    assert mean_token_cost([]) is None
    batched = TurnCost(1.0, 10, 5.0, 10, "counter", shared=True, batched=True)
    assert mean_token_cost([batched, batched]).batched
    assert not mean_token_cost([batched, replace(batched, batched=False)]).batched


def test_a_log_that_does_not_exist_or_is_damaged_has_no_price(config):
    arm = Arm("a", "m", "cot", exchange=2.0)
    assert token_cost_for(arm, SPEC, config) is None
    config.database.write_bytes(b"no database at all" * 100)
    assert token_cost_for(arm, SPEC, config) is None
