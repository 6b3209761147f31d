"""What a batch computes: single tokens first, prompts in chunks, one after another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from etui.engine.llama_session import SHORT_QUEUE, plan_batch

PENDING = st.lists(st.integers(1, 200), max_size=12)


def plan_counts(pending: list[int], room: int, **options: Any) -> list[tuple[int, int]]:
    """The plan for sequences with so many queued tokens, with their indices as ids."""
    made: Any = [SimpleNamespace(id=id_, pending=count) for id_, count in enumerate(pending)]
    return [(sequence.id, count) for sequence, count in plan_batch(made, room, **options)]


@given(PENDING, st.integers(1, 128), st.none() | st.integers(1, 64), st.booleans())
def test_a_plan_fits_and_computes_what_there_is(pending, room, limit, decoding):
    plan = plan_counts(pending, room, prompt_limit=limit, decoding=decoding)
    assert len({index for index, _ in plan}) == len(plan)
    assert all(0 < count <= pending[index] for index, count in plan)
    assert sum(count for _, count in plan) <= room
    assert bool(plan) == bool(pending)
    singles = [index for index, count in enumerate(pending) if count == 1]
    assert [index for index, _ in plan[: len(singles)]] == singles[:room]
    prompts = sum(count for index, count in plan if pending[index] > 1)
    if limit is not None and (singles or decoding):
        assert prompts <= limit
    elif sum(pending) >= room:
        assert sum(count for _, count in plan) == room


@given(PENDING, st.integers(1, 128))
def test_without_a_limit_prompts_keep_their_order(pending, room):
    prompts = [index for index, _ in plan_counts(pending, room) if pending[index] > 1]
    assert prompts == [index for index, count in enumerate(pending) if count > 1][: len(prompts)]


@given(PENDING, st.integers(1, 128), st.integers(1, 64), st.booleans())
def test_prompts_and_single_tokens_take_turns(pending, room, limit, decoding):
    options = {"prompt_limit": limit, "decoding": decoding}
    prompts = plan_counts(pending, room, turn="prompts", **options)
    tokens = plan_counts(pending, room, turn="tokens", **options)
    for plan in (prompts, tokens):
        assert bool(plan) == bool(pending)
        assert sum(count for _, count in plan) <= room
    if 1 in pending and any(count > SHORT_QUEUE for count in pending):
        assert all(pending[index] > 1 for index, _ in prompts)
        assert all(pending[index] <= SHORT_QUEUE for index, _ in tokens)


def test_a_hand_over_is_computed_before_a_long_prompt():
    plan = plan_counts([300, 1, SHORT_QUEUE], 128, prompt_limit=32)
    assert plan == [(1, 1), (2, 16), (0, 16)]


@given(st.lists(st.integers(SHORT_QUEUE + 1, 99), min_size=1, max_size=9))
def test_prompts_end_in_the_order_of_their_arrival(pending):
    ended: list[int] = []
    while len(ended) < len(pending):
        for index, count in plan_counts([max(1, each) for each in pending], 40, prompt_limit=16):
            if pending[index] > 1:
                pending[index] -= count
                if pending[index] <= 1:
                    ended.append(index)
    assert ended == sorted(ended)
