"""Shares of a batch: Shapley values by the formula and by their definition, and exact sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import TokenCost
from etui.turn.shared_meter import (
    BatchCost,
    compute_shares,
    find_batch_cost,
    split_by_weights,
    weigh_requests,
)

JOULES = st.floats(0.0, 1e6, allow_nan=False)
COSTS = st.builds(BatchCost, st.floats(0.0, 1e3), st.floats(1e-6, 1e3))
TOKENS = st.lists(st.integers(0, 4096), min_size=1, max_size=6)


def shapley(tokens: Sequence[int], cost: BatchCost) -> list[float]:
    """The mean of what each request adds to the batch, over every order in which they may come."""

    def joules(members: Sequence[int]) -> float:
        computed = sum(tokens[index] for index in members)
        return cost.fixed + cost.per_token * computed if computed else 0.0

    added: list[list[float]] = [[] for _ in tokens]
    for order in permutations(range(len(tokens))):
        for place, index in enumerate(order):
            added[index].append(joules(order[: place + 1]) - joules(order[:place]))
    return [math.fsum(each) / len(each) for each in added]


@given(TOKENS.filter(any), COSTS)
def test_weights_are_the_shapley_values_of_an_affine_batch(
    tokens: list[int], cost: BatchCost
) -> None:
    weights = weigh_requests(tokens, cost)
    assert weights == pytest.approx(shapley(tokens, cost), rel=1e-9, abs=1e-9)
    whole = cost.fixed + cost.per_token * sum(tokens)
    assert math.fsum(weights) == pytest.approx(whole, rel=1e-12)


@given(JOULES, TOKENS, COSTS | st.none())
def test_parts_sum_to_the_batch_and_none_is_negative(
    joules: float, tokens: list[int], cost: BatchCost | None
) -> None:
    parts = split_by_weights(joules, weigh_requests(tokens, cost))
    assert math.fsum(parts) == pytest.approx(joules, rel=1e-15, abs=0.0)
    assert min(parts) >= -1e-12 * joules
    assert all(
        part == 0 for part, count in zip(parts, tokens, strict=True) if not count and any(tokens)
    )


@given(TOKENS, COSTS | st.none(), st.data())
def test_shares_do_not_depend_on_the_order_of_the_requests(
    tokens: list[int], cost: BatchCost | None, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(tokens))))
    shares = compute_shares(tokens, cost)
    moved = compute_shares([tokens[index] for index in order], cost)
    assert moved == pytest.approx([shares[index] for index in order], abs=1e-12)


def test_a_prompt_pays_for_its_tokens_and_half_of_the_fixed_part() -> None:
    # 100 prompt tokens at 0.05 J beside one decoded token: F = 2 - 0.05 is paid by both alike.
    cost = find_batch_cost(TokenCost(2.0, joules_per_prompt_token=0.05))
    assert cost == BatchCost(1.95, 0.05)
    assert weigh_requests([100, 1], cost) == pytest.approx([0.975 + 5.0, 0.975 + 0.05])


def test_without_a_curve_tokens_decide() -> None:
    assert compute_shares([3, 1], None) == [0.75, 0.25]


@pytest.mark.parametrize("cost", [None, BatchCost(1.0, 0.1)])
def test_a_span_without_tokens_is_divided_equally(cost: BatchCost | None) -> None:
    assert compute_shares([0, 0, 0, 0], cost) == [0.25] * 4


def test_a_decoded_token_cheaper_than_one_of_a_prompt_has_no_fixed_part() -> None:
    assert find_batch_cost(TokenCost(0.1, joules_per_prompt_token=0.3)) == BatchCost(0.0, 0.3)


@pytest.mark.parametrize(
    "cost",
    [
        None,
        TokenCost(2.0),  # no joules of a prompt token were measured
        TokenCost(2.0, joules_per_prompt_token=-0.1),
        TokenCost(math.nan, joules_per_prompt_token=0.1),
        TokenCost(2.0, joules_per_prompt_token=math.inf),
        TokenCost(2.0, joules_per_prompt_token=0.1, batched=True),  # it follows from such shares
    ],
)
def test_a_cost_that_says_nothing_of_prompts_is_no_curve(cost: TokenCost | None) -> None:
    assert find_batch_cost(cost) is None
