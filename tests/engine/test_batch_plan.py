"""What a batch computes: single tokens first, prompts in chunks and in turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.engine.llama_session import SHORT_QUEUE, plan_batch, rotate

PENDING = st.lists(st.integers(1, 200), max_size=12)


@given(PENDING, st.integers(1, 128), st.none() | st.integers(1, 64), st.booleans())
def test_a_plan_fits_and_computes_what_there_is(pending, room, limit, decoding):
    plan = plan_batch(pending, room, prompt_limit=limit, decoding=decoding)
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
    plan = plan_batch(pending, room)
    prompts = [index for index, _ in plan if pending[index] > 1]
    assert prompts == [index for index, count in enumerate(pending) if count > 1][: len(prompts)]


def test_a_hand_over_is_computed_before_a_long_prompt():
    pending = [300, 1, SHORT_QUEUE]
    assert plan_batch(pending, 128, prompt_limit=32) == [(1, 1), (2, 16), (0, 16)]


@given(st.lists(st.integers(1, 99), unique=True, min_size=1), st.integers(0, 100))
def test_each_prompt_is_first_in_turn(ids, last):
    firsts = []
    for _ in ids:
        order = rotate(ids, last)
        assert sorted(order) == list(range(len(ids)))
        last = ids[order[0]]
        firsts.append(last)
    assert sorted(firsts) == sorted(ids)
