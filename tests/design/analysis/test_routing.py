"""Routers replayed over a run: cross-fitted, and never better than the oracle that bounds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.design._paired import build_layout, pair_samples
from etui.design._routing import (
    BY_SUBJECT,
    FRUGAL,
    MIXTURE,
    ORACLE,
    find_cheapest_mixture,
    replay_routers,
)
from tests.design import synthetic
from tests.design.synthetic import Truth

TRUTHS = {
    "small-direct": Truth(0.5, 10.0, 4),
    "small-cot-64": Truth(0.55, 60.0, 60),
    "large-direct": Truth(0.5, 40.0, 4),
}


def replay(truths=TRUTHS, per_subject=4, kind="counter", seed=0, roles=synthetic.ROLES):
    run = synthetic.config(truths, per_subject, roles)
    rows = synthetic.samples(run, truths, seed, kind)
    return replay_routers(pair_samples(build_layout(run, roles), rows), 0)


def test_the_oracles_bound_every_router() -> None:
    found = {one.name: one for one in replay().routed}
    assert list(found) == [ORACLE, FRUGAL, MIXTURE, BY_SUBJECT, "by length"]
    assert all(found[ORACLE].accuracy >= one.accuracy for one in found.values())
    assert found[FRUGAL].difference.value >= 0
    assert found[FRUGAL].joules_per_question <= found[ORACLE].joules_per_question
    for one in found.values():
        assert sum(one.shares.values()) == pytest.approx(1.0)
        assert one.saved.value == pytest.approx(1 - one.joules.value)


def test_a_router_that_never_leaves_the_reference_saves_nothing() -> None:
    truths = {"small-direct": Truth(0.1, 30, 4), "large-direct": Truth(0.9, 31, 4)}
    (mixture,) = [one for one in replay(truths, 12).routed if one.name == MIXTURE]
    assert mixture.shares == {"large-direct": 1.0}
    assert mixture.saved.value == 0.0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"kind": None}, "unmeasured"),
        ({"per_subject": 1, "truths": {"large-direct": Truth(0.5, 40, 4)},
          "roles": {"large": "qwen2.5-coder-1.5b"}}, "one model"),
        ({"truths": {"small-direct": Truth(0.5, 9, 4), "large-cot-64": Truth(0.5, 40, 60)}},
         "no arm that answers directly"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_says_why(options, why: str) -> None:
    found = replay(**options)
    assert found.routed == ()
    assert why in found.why_not


def test_too_few_questions_are_not_replayed() -> None:
    run = synthetic.config(TRUTHS, 1)
    rows = [row for row in synthetic.samples(run, TRUTHS) if row.subject < "c"]
    found = replay_routers(pair_samples(build_layout(run, synthetic.ROLES), rows), 0)
    assert "too few to learn from" in found.why_not


@given(
    st.integers(2, 6).flatmap(
        lambda arms: st.tuples(
            st.lists(st.floats(1, 100), min_size=arms, max_size=arms),
            st.lists(st.floats(0, 1), min_size=arms, max_size=arms),
            st.integers(0, arms - 1),
        )
    )
)
def test_the_cheapest_mixture_is_as_accurate_and_no_more_expensive(case) -> None:
    cost, accuracy, at = np.array(case[0]), np.array(case[1]), case[2]
    shares = find_cheapest_mixture(cost, accuracy, at)
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= 0).all()
    assert shares @ accuracy >= accuracy[at] - 1e-9
    assert shares @ cost <= cost[at] + 1e-9


def test_the_joules_of_a_question_do_not_choose_its_own_arm() -> None:
    truths = {"small-direct": Truth(0.5, 10.0, 4), "large-direct": Truth(0.5, 40.0, 4)}
    run = synthetic.config(truths, 1)
    rows = [
        replace(row, choice=row.answer, correct=True, joules=1.0 if "small" in row.arm else 2.0)
        for row in synthetic.samples(run, truths, 0, "counter")
    ]
    at = next(at for at, row in enumerate(rows) if row.arm == "small-direct")
    rows[at] = replace(rows[at], joules=1000.0)  # alone, it makes the small model the dearer one
    found = replay_routers(pair_samples(build_layout(run, synthetic.ROLES), rows), 0)
    (router,) = [one for one in found.routed if one.name == BY_SUBJECT]
    assert 0.1 < router.shares["small-direct"] < 0.3  # the fold of that question


def test_the_error_of_a_counter_widens_what_is_saved() -> None:
    truths = {"small-direct": Truth(0.5, 10.0, 4), "large-direct": Truth(0.5, 40.0, 4)}
    run = synthetic.config(truths, 4)
    rows = synthetic.samples(run, truths, 0, "counter")

    def widths(share: float) -> list[float]:
        found = [replace(row, uncertainty=share * (row.joules or 0.0)) for row in rows]
        paired = pair_samples(build_layout(run, synthetic.ROLES), found)
        ends = [(one.saved.low, one.saved.high) for one in replay_routers(paired, 0).routed]
        return [high - low for low, high in ends if low is not None and high is not None]

    exact, coarse = widths(0.0), widths(0.5)
    assert len(exact) == len(coarse) == 5
    assert all(one < other for one, other in zip(exact, coarse, strict=True))
