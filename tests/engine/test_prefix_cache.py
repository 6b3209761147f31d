"""Which donor a new sequence starts from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.engine.sequence_cache import Donor, choose_reuse, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=30)


@given(TOKENS, TOKENS)
def test_common_prefix_is_the_longest(first: list[int], second: list[int]) -> None:
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == min(
        len(first), len(second)
    )


def choose(
    donors: list[Donor], wanted: list[int], *, whole: bool = False, free: int = 1
) -> tuple[int, int, bool] | None:
    reuse = choose_reuse(donors, wanted, whole_only=whole, free_slots=free)
    return reuse and (reuse.donor.slot, reuse.length, reuse.take_over)


def test_the_longest_prefix_wins() -> None:
    donors = [Donor(0, [1, 2, 3], True), Donor(1, [1, 2, 3, 4], True), Donor(2, [1, 9], True)]
    assert choose(donors, [1, 2, 3, 4, 5]) == (1, 4, True)


def test_one_token_is_left_to_compute() -> None:
    assert choose([Donor(0, [1, 2, 3], True)], [1, 2, 3]) == (0, 2, True)
    assert choose([Donor(0, [1], True)], [1]) is None


def test_a_sequence_in_use_is_shared() -> None:
    assert choose([Donor(0, [1, 2, 3], False)], [1, 2, 3, 4]) == (0, 3, False)
    assert choose([Donor(0, [1, 2, 3], False)], [1, 2, 3, 4], free=0) is None


def test_a_closed_donor_is_taken_over_however_little_of_it_is_reused() -> None:
    donor = Donor(0, [1, 2, 3, 4, 5, 6, 7, 8], True)
    assert choose([donor], [1, 2, 9]) == (0, 2, True)
    assert choose([donor, Donor(1, [7], True)], [1, 2, 9], free=0) == (0, 2, True)


def test_a_model_that_refuses_partial_removal_continues_whole_donors_only() -> None:
    assert choose([Donor(0, [1, 2, 3], True)], [1, 2, 9, 9], whole=True) is None
    assert choose([Donor(0, [1, 2], True)], [1, 2, 9, 9], whole=True) == (0, 2, True)
    assert choose([Donor(0, [1, 2], True)], [1, 2], whole=True) is None


@given(st.lists(st.tuples(TOKENS, st.booleans()), max_size=5), TOKENS, st.integers(0, 2))
def test_what_is_reused_is_a_prefix_of_both(
    donors: list[tuple[list[int], bool]], wanted: list[int], free: int
) -> None:
    made = [Donor(i, tokens, closed) for i, (tokens, closed) in enumerate(donors)]
    reuse = choose_reuse(made, wanted, whole_only=False, free_slots=free)
    if reuse is None:
        return
    assert 0 < reuse.length < len(wanted)
    assert list(reuse.donor.tokens[: reuse.length]) == wanted[: reuse.length]
    assert reuse.donor.closed or not reuse.take_over
