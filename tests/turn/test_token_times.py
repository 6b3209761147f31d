"""Times between the tokens of a turn, as its user sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.events import Answer, Batch, Finished, Prefilled, Thought, Vote
from etui.turn.events import HopEnded, HopStarted
from etui.turn.token_times import TokenTimes

MS = 1_000_000
PREFILLED = Prefilled(0, 5 * MS, 40, 0, 40)


def gaps_of(*events) -> tuple[float, ...] | None:
    times = TokenTimes()
    for event in events:
        times.add(event)
    return times.list_gaps()


def finished(end_ns: int) -> Finished:
    return Finished(
        start_ns=0, prefill_end_ns=5 * MS, thinking_end_ns=5 * MS, end_ns=end_ns,
        first_token_ns=5 * MS, status="complete", why="", answer="", thinking="", prompt_tokens=40,
        cached_tokens=0, computed_tokens=40, thinking_tokens=0, output_tokens=3,
    )  # fmt: skip


def answer(ms: int, tokens: int = 1) -> Answer:
    return Answer(ms * MS, "a", tokens)


@pytest.mark.parametrize(
    ("events", "gaps"),
    [
        ([PREFILLED, Thought(10 * MS, "a", 1), Thought(30 * MS, "b", 1), answer(60)],
         (0.020, 0.030)),  # the first token has none
        ([answer(10), answer(20, 0), answer(40)], (0.030,)),  # nor has text without tokens
        ([answer(10), answer(40, 3), answer(50)], (0.010, 0.010, 0.010, 0.010)),
        ([Batch(0, 10 * MS, ((0, 1),)), Batch(10 * MS, 20 * MS, ((0, 1),)),
          Batch(20 * MS, 90 * MS, ((0, 1),)), Vote(90 * MS, 0, "B", "", 2, 1.0, "B")],
         (0.010,)),  # the last batch draws the end of the vote, which is no token
        ([Batch(0, MS, ((0, 1),)), Vote(MS, 0, "", "", 0, 1.0)], ()),
        ([PREFILLED, answer(10), finished(10 * MS)], ()),
        ([PREFILLED, finished(10 * MS)], ()),
        # The votes of a server are not told apart.
        ([Thought(10 * MS, "", 1), Thought(11 * MS, "", 1), Vote(40 * MS, 1, "B", "", 3, 1.0)],
         None),
        # The time between two arms is no gap.
        ([HopStarted(1, "quick", "m", "direct"), PREFILLED, answer(10), answer(20),
          finished(20 * MS), HopEnded(1, "quick", "m", None, None, False, 1.0, "unsure"),
          HopStarted(2, "think", "m", "cot"), Prefilled(20 * MS, 900 * MS, 40, 0, 40),
          answer(910), answer(940)],
         (0.010, 0.030)),
    ],
)  # fmt: skip
def test_gaps_are_between_the_tokens_of_an_answer(events, gaps) -> None:
    found = gaps_of(*events)
    assert found == (gaps and pytest.approx(gaps))


def test_votes_are_timed_one_by_one() -> None:
    found = gaps_of(
        PREFILLED,
        Batch(5 * MS, 10 * MS, ((0, 1), (1, 1))),
        Thought(10 * MS, "", 2),
        Batch(10 * MS, 30 * MS, ((0, 1), (1, 1))),
        Thought(30 * MS, "", 2),
        Batch(30 * MS, 40 * MS, ((1, 4),)),  # tokens that are handed over are computed at once
        Answer(40 * MS, "", 1),
        Vote(40 * MS, 1, "B", "", 3, 1.0, "B"),
        Batch(40 * MS, 50 * MS, ((0, 1), (2, 1))),
        Answer(50 * MS, "", 2),
        finished(50 * MS),
    )
    assert found is not None
    assert sorted(found) == pytest.approx([0.010, 0.020, 0.020, 0.020])


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 8)), min_size=1, max_size=30))
def test_gaps_sum_to_the_time_from_the_first_token_to_the_last(steps) -> None:
    t_ns, events, shown = 0, [], []
    for wait, tokens in steps:
        t_ns += wait
        events.append(Answer(t_ns, "x", tokens))
        if tokens:
            shown.append((t_ns, tokens))
    found = gaps_of(*events)
    assert found is not None
    assert all(gap >= 0 for gap in found)
    assert len(found) == sum(tokens for _, tokens in shown[1:])
    if shown:
        assert sum(found) == pytest.approx((shown[-1][0] - shown[0][0]) / 1e9)
