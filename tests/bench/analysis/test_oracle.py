"""The oracle against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.accuracy import oracle
from etui.bench.summary import group_by_system
from etui.stats.frontier import cheapest_correct
from tests.bench import synthetic

RUN = synthetic.config(per_subject=3)
ROWS = synthetic.samples(RUN)


def test_the_oracle_is_brute_force() -> None:
    grouped = group_by_system(ROWS, RUN)
    found = oracle(grouped)
    assert found is not None
    right, joules = 0, []
    for answers in zip(*grouped.values(), strict=True):
        good = [answer.joules for answer in answers if answer.correct]
        right += bool(good)
        joules.append(min(good or [answer.joules for answer in answers]))
    assert found.accuracy == right / 171
    assert found.joules_per_question == pytest.approx(math.fsum(joules) / 171)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_one_unmeasured_answer_leaves_the_joules_unknown() -> None:
    grouped = group_by_system([replace(ROWS[0], joules=None), *ROWS[1:]], RUN)
    found, whole = oracle(grouped), oracle(group_by_system(ROWS, RUN))
    assert found is not None
    assert whole is not None
    assert found.joules_per_question is None
    assert (found.questions, found.accuracy) == (whole.questions, whole.accuracy)


def test_there_is_no_oracle_over_one_arm_or_no_common_question() -> None:
    grouped = group_by_system(ROWS, RUN)
    name, rows = next(iter(grouped.items()))
    assert oracle({}) is None
    assert oracle({name: rows}) is None
    assert oracle({"one": rows[:3], "other": rows[3:]}) is None
    found = oracle({"one": rows[:4], "other": rows[3:]})
    assert found is not None
    assert found.questions == 1


answers = st.integers(1, 4).flatmap(
    lambda arms: st.lists(
        st.lists(
            st.tuples(st.booleans(), st.sampled_from([0.5, 1.0, 2.0, math.inf])),
            min_size=arms,
            max_size=arms,
        ),
        min_size=1,
        max_size=20,
    )
)


@given(answers)
def test_the_cheapest_right_arm_is_the_first_of_the_least(
    rows: list[list[tuple[bool, float]]],
) -> None:
    taken = cheapest_correct(
        np.array([[right for right, _ in row] for row in rows]),
        np.array([[cost for _, cost in row] for row in rows]),
    )
    for row, at in zip(rows, taken.tolist(), strict=True):
        right = [arm for arm, (good, _) in enumerate(row) if good] or list(range(len(row)))
        assert at == min(right, key=lambda arm: row[arm][1])
