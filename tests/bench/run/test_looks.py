"""When a run looks: a pilot of every subject, then by the prediction, always further."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.bench.schedule import choose_first_look, choose_next_look
from etui.datasets.questions import order_balanced

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 900), min_size=1)


@given(SIZES, st.floats(0.005, 0.4))
def test_the_first_look_is_within_the_questions(sizes, half_width):
    total = sum(sizes.values())
    first = choose_first_look(sizes, half_width)
    assert min(30, total) <= first <= total


def test_the_first_block_has_every_subject_where_that_is_affordable():
    sizes = {f"s{at}": 100 + 23 * at for at in range(57)}
    first = choose_first_look(sizes, 0.03)
    for seed in range(5):
        seen = {subject for subject, _ in order_balanced(sizes, seed)[:first]}
        assert len(seen) == 57
    tiny = {**sizes, "tiny": 1}
    assert choose_first_look(tiny, 0.03) < 200  # one of 40,000: not worth asking for


@given(
    st.integers(1, 5000),
    st.integers(1, 9000),
    st.floats(0, 1),
    st.integers(1, 9000),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_the_next_look_is_further_and_within_the_questions(asked, needed, error, more, step):
    total = asked + more
    found = choose_next_look(asked, needed, error, total, step)
    assert asked < found <= total
    if step is None and needed > asked + 8:
        assert found <= max(needed * 1.02 + 1, asked + 8)


def test_the_second_block_ends_short_of_an_uncertain_prediction():
    assert choose_next_look(141, 1000, 0.02, 14_000, None) == 920
    assert choose_next_look(141, 1000, 0.3, 14_000, None) == 700
    assert choose_next_look(920, 1000, 0.02, 14_000, None) == 1002
    assert choose_next_look(920, 900, 0.02, 14_000, None) == 928
