"""A live turn and a replayed one walk a cascade alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.errors import EngineFailed
from etui.learning.graded import Graded
from etui.learning.policy_replay import Walk, walk_cascade
from etui.routing.decision import Agreement, Cascade, PredictedAgreement
from etui.turn.attempt import ArmAttempt
from etui.turn.cascade import CascadeStep, advance, find_best, is_sure, settle
from tests.turn.stage import Known, Part, Stage, decided, play

WATTS = 10
ANSWERS = ("Mars.", "It is Venus, the brightest.", "Jupiter, as far as I know.")
SHARES = (0.0, 0.3, 0.5, 0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Asked:
    """One arm of a random cascade: its answer, and what is expected of it."""

    model: str
    confidence: float | None
    seconds: int
    predicted: float | None
    answer: int = 0
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
        answer=st.sampled_from([0, 0, 1, 2]),
        fails_at=st.sampled_from([None, None, "load", "decode"]) if failing else st.none(),
    )

    def made(
        asked: list[Asked],
        accept_at: float,
        hops: int,
        joules: float | None,
        fitted: bool,
        together: tuple[int, int, float, float | None] | None,
    ):
        named = {f"arm{number}": each for number, each in enumerate(asked)}
        arms = tuple(Arm(name, each.model) for name, each in named.items())
        agreements: tuple[Agreement, ...] = ()
        odds = {}
        if together is not None:
            first, count, accept, p = together
            names = tuple(named)[:-1][first : first + count]
            if len(names) > 1:
                agreements = (Agreement(names, accept),)
                if p is not None:
                    apart = tuple(p / (3 + at) for at in range(len(names)))
                    odds = {names: PredictedAgreement(p, 0.0, 1.0, 9, apart)}
        known = Known(
            {name: each.predicted for name, each in named.items() if each.predicted is not None},
            calibrates=fitted,
            odds=odds,
        )
        cascade = Cascade(arms, accept_at, min(hops, len(arms)), joules, agreements)
        return Case(cascade, named, known)

    return st.builds(
        made,
        st.lists(arm, min_size=2, max_size=5),
        st.sampled_from(SHARES),
        st.integers(1, 5),
        st.none() | st.integers(1, 40).map(lambda tens: 5.0 * tens),
        st.booleans(),
        st.none()
        | st.tuples(
            st.integers(0, 2),
            st.integers(2, 3),
            st.sampled_from(SHARES),
            st.none() | st.sampled_from(SHARES),
        ),
    )


def live(case: Case) -> tuple[list[str], str, float]:
    """Arms that were asked, the one whose answer is taken, and joules, of a turn."""
    parts = {
        name: Part(
            answer=ANSWERS[each.answer],
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
        agreements=cascade.agreements,
    )
    record = play(Stage(parts, between_s=0.0), decision, predictor=case.known).record
    return [hop.arm for hop in record.hops], record.arm, record.energy.joules or 0.0


def replayed(case: Case) -> tuple[list[str], str, float]:
    """The same by the pure functions alone."""
    spent = 0.0
    outcomes: list[ArmAttempt] = []
    while True:
        step = advance(case.cascade, outcomes, spent, lambda arm: case.asked[arm.name].predicted)
        if step.arm is None or step.barred is not None:
            break
        each = case.asked[step.arm.name]
        spent += each.joules
        failed = each.fails_at and ("load" if each.fails_at == "load" else "answer")
        probability = None if failed else case.known.calibrated(step.arm, each.confidence, None)
        sure = not failed and is_sure(case.cascade, each.confidence, probability)
        outcome = ArmAttempt(
            step.arm,
            probability,
            sure,
            usable=failed is None,
            failed=failed,
            key=None if failed else str(each.answer),
            confidence=None if failed else each.confidence,
        )
        outcomes = settle(case.cascade, [*outcomes, outcome], case.known.agreement)
    taken = find_best(outcomes)
    names = [outcome.arm.name for outcome in outcomes]
    return names, names[-1] if taken is None else taken.arm.name, spent


@given(cases(failing=True))
def test_a_live_turn_walks_as_the_pure_functions_do(case: Case) -> None:
    assert live(case) == replayed(case)


@given(cases(failing=False))
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
        answers=np.array([[each.answer for each in asked]]),
    )
    cost = np.array([[float(each.joules) for each in asked]])
    walk = walk_cascade(case.cascade, 0, graded, cost, case.known)
    assert isinstance(walk, Walk)
    arms, taken, joules = live(case)
    assert (names[walk.column], walk.hops, walk.cost) == (taken, len(arms), joules)


@given(cases(failing=False))
def test_an_agreement_is_never_begun_without_room_for_all_its_arms(case: Case) -> None:
    arms, _, _ = replayed(case)
    for step in case.cascade.agreements:
        asked = [name for name in step.arms if name in arms]
        answers = {case.asked[name].answer for name in asked}
        if asked and arms[0] != asked[0] and case.cascade.max_joules is None:
            assert asked == list(step.arms) or len(answers) > 1
        if len(answers) > 1:  # decided: the rest of the step is not asked
            assert case.asked[asked[-1]].answer != case.asked[asked[0]].answer
            assert len({case.asked[name].answer for name in asked[:-1]}) <= 1


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
    unsure = [ArmAttempt(small, 0.2, accepted=False)]

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
    failed = [ArmAttempt(arms[0], None, accepted=False, usable=False, failed="load")]
    assert advance(cascade, failed, 0.0, lambda arm: None) == CascadeStep(arms[2])
    failed = [ArmAttempt(arms[0], None, accepted=False, usable=False, failed="answer")]
    assert advance(cascade, failed, 0.0, lambda arm: None) == CascadeStep(arms[1])


def test_the_walk_imports_neither_the_engine_nor_the_log() -> None:
    import etui.turn.cascade

    source = Path(etui.turn.cascade.__file__).read_text()
    assert "etui.engine" not in source
    assert "etui.log" not in source
