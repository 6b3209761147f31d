"""A live turn and a replayed one walk a cascade alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.arm import Arm
from etui.errors import EngineFailed
from etui.replay.policy_replay import _walk_cascade
from etui.routing.accuracy.table import Graded
from etui.routing.limits import Cascade
from etui.turn.cascade import CascadeStep, Outcome, advance, find_best_outcome, is_sure
from tests.turn.stage import Known, Part, Stage, decided, play

WATTS = 10
SHARES = (0.0, 0.3, 0.5, 0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Asked:
    """One arm of a random cascade: its answer, and what is expected of it."""

    model: str
    confidence: float | None
    seconds: int
    predicted: float | None
    fails_at: str | None = None

    @property
    def joules(self) -> int:
        return 0 if self.fails_at == "load" else WATTS * self.seconds


@dataclass(frozen=True)
class Case:
    """A random cascade, and how each of its arms answers."""

    cascade: Cascade
    asked: dict[str, Asked]
    known: Known


def cases(*, failing: bool) -> st.SearchStrategy[Case]:
    arm = st.builds(
        Asked,
        model=st.sampled_from("abc"),
        confidence=st.none() | st.sampled_from(SHARES),
        seconds=st.integers(1, 9),
        predicted=st.none() | st.integers(1, 90).map(float),
        fails_at=st.sampled_from([None, None, "load", "decode"]) if failing else st.none(),
    )

    def made(asked: list[Asked], accept_at: float, hops: int, joules: float | None, fitted: bool):
        named = {f"arm{number}": each for number, each in enumerate(asked)}
        arms = tuple(Arm(name, each.model) for name, each in named.items())
        known = Known(
            {name: each.predicted for name, each in named.items() if each.predicted is not None},
            calibrates=fitted,
        )
        return Case(Cascade(arms, accept_at, min(hops, len(arms)), joules), named, known)

    return st.builds(
        made,
        st.lists(arm, min_size=2, max_size=5),
        st.sampled_from(SHARES),
        st.integers(1, 5),
        st.none() | st.integers(1, 40).map(lambda tens: 5.0 * tens),
        st.booleans(),
    )


def live(case: Case) -> tuple[list[str], str, float]:
    """Arms that were asked, the one whose answer is taken, and joules, of a turn."""
    parts = {
        name: Part(
            confidence=each.confidence,
            prefill=0.0,
            decode=each.seconds,
            tokens=1,
            failure=EngineFailed("gone") if each.fails_at else None,
            fails_at=each.fails_at or "load",
        )
        for name, each in case.asked.items()
    }
    cascade = case.cascade
    decision = decided(
        *cascade.arms,
        accept_at=cascade.accept_at,
        max_hops=cascade.max_hops,
        max_joules=cascade.max_joules,
    )
    record = play(Stage(parts, between_s=0.0), decision, outlook=case.known).record
    return [hop.arm for hop in record.hops], record.arm, record.energy.joules or 0.0


def replayed(case: Case) -> tuple[list[str], str, float]:
    """The same by the pure functions alone."""
    spent, outcomes = 0.0, []
    while True:
        step = advance(case.cascade, outcomes, spent, lambda arm: case.asked[arm.name].predicted)
        if step.arm is None or step.barred is not None:
            break
        each = case.asked[step.arm.name]
        spent += each.joules
        failed = each.fails_at and ("load" if each.fails_at == "load" else "answer")
        probability = None if failed else case.known.calibrated(step.arm, each.confidence, None)
        sure = not failed and is_sure(case.cascade, each.confidence, probability)
        outcomes.append(Outcome(step.arm, probability, sure, usable=failed is None, failed=failed))
    taken = find_best_outcome(outcomes)
    names = [outcome.arm.name for outcome in outcomes]
    return names, names[-1 if taken is None else taken], spent


@given(cases(failing=True))
@settings(max_examples=300, deadline=None)
def test_a_live_turn_walks_as_the_pure_functions_do(case: Case) -> None:
    assert live(case) == replayed(case)


@given(cases(failing=False))
@settings(max_examples=300, deadline=None)
def test_a_replay_walks_as_a_live_turn_does(case: Case) -> None:
    names = tuple(case.asked)
    asked = case.asked.values()
    confidence = [math.nan if each.confidence is None else each.confidence for each in asked]
    graded = Graded(
        names,
        ("s",),
        (0,),
        (),
        np.zeros((1, len(names)), dtype=bool),
        confidence=np.array([confidence]),
    )
    cost = np.array([[float(each.joules) for each in asked]])
    chosen, hops, spent = _walk_cascade(case.cascade, 0, graded, cost, case.known)
    arms, taken, joules = live(case)
    assert (names[chosen], hops, spent) == (taken, len(arms), joules)


@given(cases(failing=True))
def test_no_arm_is_asked_twice_or_past_its_limits(case: Case) -> None:
    arms, taken, spent = replayed(case)
    assert len(set(arms)) == len(arms)
    assert taken in arms
    assert sum(case.asked[arm].joules for arm in arms) == spent
    if not any(case.asked[arm].fails_at for arm in arms):
        assert len(arms) <= case.cascade.max_hops
        most = case.cascade.max_joules
        assert most is None or len(arms) == 1 or spent - case.asked[arms[-1]].joules < most


def test_what_forbids_an_arm_is_named() -> None:
    small, large = Arm("small", "a"), Arm("large", "b")
    unsure = [Outcome(small, 0.2, accepted=False)]

    def step(
        predicted: float | None = None, spent: float | None = 30.0, **limits: float
    ) -> CascadeStep:
        cascade = Cascade((small, large), 0.9, **{"max_hops": 2, **limits})
        return advance(cascade, unsure, spent, lambda arm: predicted)

    assert step() == CascadeStep(large)
    assert step(max_hops=1) == CascadeStep(large, "hops")
    assert step(max_joules=30.0) == CascadeStep(large, "spent")
    assert step(11.0, max_joules=40.0) == CascadeStep(large, "predicted", 11.0)
    assert step(10.0, max_joules=40.0) == CascadeStep(large)
    assert step(max_joules=40.0, spent=None) == CascadeStep(large)


def test_arms_of_a_model_that_cannot_be_loaded_are_passed_over() -> None:
    arms = (Arm("quick", "a"), Arm("think", "a"), Arm("large", "b"))
    cascade = Cascade(arms, 0.9, 3)
    failed = [Outcome(arms[0], None, accepted=False, usable=False, failed="load")]
    assert advance(cascade, failed, 0.0, lambda arm: None) == CascadeStep(arms[2])
    failed = [Outcome(arms[0], None, accepted=False, usable=False, failed="answer")]
    assert advance(cascade, failed, 0.0, lambda arm: None) == CascadeStep(arms[1])


def test_the_walk_imports_neither_the_engine_nor_the_log() -> None:
    import etui.turn.cascade

    source = Path(etui.turn.cascade.__file__).read_text()
    assert "etui.engine" not in source
    assert "etui.log" not in source
