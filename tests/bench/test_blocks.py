"""The order of a run: every piece once, and every prefix of the balanced order a fair sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.bench.config import BenchPart
from etui.bench.plan import RunPlan, RunRequest, make_plan
from etui.bench.schedule import build_schedule, order_questions
from etui.datasets.questions import order_balanced
from etui.measure.run import RunLimits
from etui.models.catalogue import load_catalogue

SIZES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(min_value=1, max_value=40), min_size=1
)


@given(SIZES, st.integers(min_value=0, max_value=9))
def test_a_prefix_of_the_balanced_order_holds_every_subjects_share(sizes, seed):
    order = order_balanced(sizes, seed)
    assert sorted(order) == sorted((name, i) for name, size in sizes.items() for i in range(size))
    total = sum(sizes.values())
    seen: Counter[str] = Counter()
    for count, (name, _) in enumerate(order, 1):
        seen[name] += 1
        for subject, size in sizes.items():
            # each subject is within one of its share of the keys below the cut, and so is the sum
            assert abs(seen[subject] - count * size / total) <= 1 + len(sizes) * size / total


def test_every_question_is_first_equally_often():
    first = Counter(order_balanced({"a": 3, "b": 1}, seed)[0] for seed in range(2000))
    assert set(first) == {("a", 0), ("a", 1), ("a", 2), ("b", 0)}
    # the first key is the smallest of u/3 (a) and u (b): b comes first with probability 1/6
    assert first["b", 0] / 2000 == pytest.approx(1 / 6, abs=0.03)


@pytest.fixture
def plan(questions_csv, config) -> RunPlan:
    made = make_plan(RunRequest(str(questions_csv), shots=2), config, load_catalogue(config))
    arms = {name: Arm(name, model) for name, model in (("a", "m"), ("b", "n"), ("c", "m"))}
    return replace(made, arms=arms)


@pytest.mark.parametrize("order", ["subjects", "balanced"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_every_system_answers_every_question_once(plan, order, block):
    pieces = list(build_schedule(plan.change(order=order, block=block), plan.arms))
    asked = Counter((p.system, p.subject, row) for p in pieces for row in p.rows)
    expected = {
        (system, q.subject, q.row)
        for system in plan.arms
        for inside in plan.drawn.values()
        for q in inside
    }
    assert asked == Counter(expected)


def asked(plan, **changes) -> Counter:
    pieces = build_schedule(plan.change(**changes), plan.arms)
    return Counter((p.system, p.subject, row) for p in pieces for row in p.rows)


@pytest.mark.parametrize("order", ["subjects", "balanced"])
@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_the_parts_of_a_plan_are_the_plan(plan, order, count):
    whole = asked(plan, order=order, block=2)
    parts = []
    for index in range(count):
        part = BenchPart(index, count)
        parts.append(asked(plan, order=order, block=2, part=part))
        shares = plan.change(order=order, block=2, part=part)
        assert sum(parts[-1].values()) == shares.questions * len(plan.arms) > 0
        expected = {(s, q.row) for s, inside in shares.asked.items() for q in inside}
        assert {(subject, row) for _, subject, row in parts[-1]} == expected
    assert sum(parts, Counter()) == whole
    assert max(whole.values()) == 1


def test_a_part_of_whole_subjects_is_the_schedule_of_the_plan(plan):
    whole = list(build_schedule(plan, plan.arms))
    halves = [
        piece
        for index in range(2)
        for piece in build_schedule(plan.change(part=BenchPart(index, 2)), plan.arms)
    ]
    assert Counter(whole) == Counter(halves)


def test_a_block_keeps_the_arms_of_a_model_together(plan):
    for seed in range(20):
        ordered = plan.change(order="balanced", block=4, seed=seed)
        pieces = list(build_schedule(ordered, plan.arms))
        for block in {piece.block for piece in pieces}:
            models = [plan.arms[p.system].model for p in pieces if p.block == block]
            changes = sum(one != other for one, other in pairwise(models))
            assert changes == 1
    firsts = {
        next(build_schedule(plan.change(order="balanced", seed=seed), plan.arms)).system
        for seed in range(40)
    }
    assert firsts == {"a", "b", "c"}


def test_the_balanced_order_names_rows_of_the_plan(plan):
    rows = {(q.subject, q.row) for inside in plan.drawn.values() for q in inside}
    assert set(order_questions(plan)) == rows


def test_time_ends_a_run():
    clock = iter([0.0, 5.0, 9.9, 10.0])
    check = RunLimits(seconds=10).start(lambda: False, lambda: next(clock))
    assert [check(0.0), check(1e9), check(0.0)] == [None, None, "time"]
