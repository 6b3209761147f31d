"""A cascade: who is asked next, whose answer stands, and that every hop is paid for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, VoteStop
from etui.errors import ContextOverflow, EngineFailed, ModelUnavailable, RemoteFailed
from etui.events import Answer
from etui.learning.graded import Graded
from etui.learning.policy_replay import Walk, walk_cascade
from etui.log.text import format_turn
from etui.routing.decision import Agreement, Cascade, PredictedAgreement
from etui.turn.attempt import ArmAttempt
from etui.turn.cascade import CascadeStep, advance, find_best, is_sure, settle
from etui.turn.events import HopEnded, HopStarted, TurnFinished
from etui.turn.text import energy_line
from tests.turn.scripted import Meter10W, Saved
from tests.turn.stage import CHOICE, LARGE, QUICK, THINK, Known, Part, Stage, decided, play

GONE = ModelUnavailable("big is not on this machine", "pull it")
OFF = Part(failure=ModelUnavailable("the backend desk cannot answer: refused"))
CRASH = Part(failure=EngineFailed("gone"), fails_at="decode")
OVER = Part(failure=ContextOverflow(5000, 4096, 16))
UNPAID = Part(failure=RemoteFailed("silent for 120 s"))
"""It may have been paid, so nothing answers instead."""
MARS, SURE, VENUS = Part(), Part(confidence=0.9), Part("Venus.")
SILENT = Part("Hard to say.", 0.99)
INSTEAD = {"big": ("tiny", "small")}
PLACES = {"large": ("big-desk", "big-rack")}
VOTE = replace(QUICK, name="vote", reasoning="vote")


@pytest.mark.parametrize(
    ("parts", "arms", "options", "missing", "asked", "answer"),
    [
        # What cannot be loaded gives way to the fallback of the policy, if there is another.
        ({"large": Part(failure=EngineFailed("out of memory")), "quick": MARS}, (LARGE,),
         {"load_failed": QUICK}, "", "big small", "Mars."),
        ({"quick": MARS}, (LARGE,), {"load_failed": QUICK}, "big", "big small", "Mars."),
        ({}, (LARGE,), {}, "big", None, GONE),
        ({}, (LARGE,), {"load_failed": LARGE}, "big", None, GONE),
        ({}, (LARGE,), {"load_failed": QUICK}, "big small", "big small", "big is not"),
        ({"large": CRASH}, (LARGE,), {"load_failed": QUICK}, "", "", "gone"),
        # The models of a backend come before it.
        ({"large": [OFF, OFF, OFF], "quick": MARS}, (LARGE,),
         {"load_failed": QUICK, "instead": INSTEAD}, "", "big tiny small small", "Mars."),
        ({"large": [OFF, MARS]}, (LARGE,), {"instead": INSTEAD}, "", "big tiny", "Mars."),
        ({"large": UNPAID}, (LARGE,), {"load_failed": QUICK, "instead": INSTEAD}, "", "",
         "silent for 120 s"),
        # So do the other places of the same weights.
        ({"large": MARS}, (LARGE,), {"places": PLACES}, "big", "big big-desk", "Mars."),
        ({"quick": MARS}, (LARGE,), {"places": PLACES, "load_failed": QUICK},
         "big big-desk big-rack", "big big-desk big-rack small", "Mars."),
        ({"large": CRASH}, (LARGE,), {"places": PLACES}, "", "", "gone"),
        ({"quick": SURE, "large": VENUS}, (QUICK, LARGE), {"places": {"quick": ("desk",)}},
         "small", "small desk", "Mars."),
        # In a cascade a failed arm is passed over, with others of a model that is not there.
        ({"quick": OVER}, (QUICK,), {"load_failed": LARGE}, "", "", "5000"),
        ({"quick": OVER, "large": SURE}, (QUICK, LARGE), {}, "", "small big", "Mars."),
        ({"quick": CRASH, "large": SURE}, (QUICK, LARGE), {}, "", "small big", "Mars."),
        ({"quick": CRASH, "large": CRASH}, (QUICK, LARGE), {}, "", "small big", "gone"),
        ({"large": SURE}, (QUICK, THINK, LARGE), {}, "small", "small big", "Mars."),
        ({"quick": Part("Venus.", 0.99, status="truncated"), "large": SURE}, (QUICK, LARGE), {},
         "", "small big", "Mars."),
        ({"quick": VENUS, "large": replace(SURE, status="stopped")}, (QUICK, LARGE), {}, "",
         "small big", "Mars."),
        ({"quick": VENUS, "large": replace(SURE, status="stopped", answer="")}, (QUICK, LARGE),
         {}, "", "small big", "Venus."),
        # Raw confidences are not compared: the later answer stands.
        ({"quick": Part("Venus.", 0.6), "large": Part(confidence=0.4)}, (QUICK, LARGE), {}, "",
         "small big", "Mars."),
        # Without a letter an answer to a choice is not sure, or asked for the letter only.
        ({"think": Part("B")}, (THINK,), {"no_answer": "ask_constrained"}, "", "", "B"),
        ({"think": SILENT}, (THINK,), {"no_answer": "keep"}, "", "", "Hard to say."),
        ({"think": SILENT}, (THINK,), {"no_answer": "next_arm"}, "", "", "Hard to say."),
        ({"quick": SILENT, "large": Part("B", 0.9)}, (QUICK, LARGE), {"no_answer": "next_arm"},
         "", "small big", "B"),
        ({"quick": SILENT, "large": Part("B", 0.9)}, (QUICK, LARGE), {"no_answer": "keep"}, "",
         "small", "Hard to say."),
        ({"quick": [SILENT, Part("A) Venus", 0.5)], "large": Part("B", 0.9)}, (QUICK, LARGE),
         {"no_answer": "ask_constrained"}, "", "small small big", "B"),
        ({"vote": Part("B", None), "large": Part("B", 0.9)}, (VOTE, LARGE),
         {"no_answer": "next_arm"}, "", "small big", "B"),
        # Limits of a cascade.
        ({"quick": VENUS, "large": SURE}, (QUICK, LARGE, THINK), {"max_hops": 1}, "", "small",
         "Venus."),
        *(
            ({"quick": VENUS, "large": SURE}, (QUICK, LARGE),
             {"max_joules": limit, "known": known}, "", asked, answer)
            for limit, known, asked, answer in [
                (100.0, Known({"large": 60.0}), "small big", "Mars."),
                (80.0, Known({"large": 60.0}), "small", "Venus."),
                (100.0, Known({"large": 60.0}, load=20.0), "small", "Venus."),
                (30.0, Known(), "small", "Venus."),
                (31.0, Known(), "small big", "Mars."),
            ]
        ),
        ({"quick": Part("Venus.", 0.2), "large": Part(confidence=0.0)}, (QUICK, LARGE),
         {"known": Known()}, "", "small big", "Venus."),  # a probability of 0 is one
    ],
)  # fmt: skip
def test_who_is_asked_and_whose_answer_stands(parts, arms, options, missing, asked, answer):
    options = {"known": None, "instead": {}} | options
    known, instead = options.pop("known"), options.pop("instead")
    parts = {name: [*part] if isinstance(part, list) else part for name, part in parts.items()}
    stage = Stage(parts, dict.fromkeys(missing.split(), GONE), fallbacks=instead)
    played = play(stage, decided(*arms, **options), query=CHOICE, predictor=known)
    if asked is None:
        assert (played.error, played.saved.turns) == (answer, [])
        return
    record = played.record
    assert [hop.model for hop in record.hops] == asked.split()
    assert [event.taken for event in played.of(HopEnded)].count(True) <= 1
    if played.error is None:
        assert (record.answer, record.status == "error") == (answer, False)
    else:
        assert record.status == "error"
        assert answer in str(played.error)
    if options.get("max_hops") or (options.get("max_joules") and asked == "small"):
        assert "large skipped: " in record.why


def test_the_record_says_why_another_arm_or_model_answered():
    failing = Part(failure=EngineFailed("out of memory"))
    stage = Stage({"large": failing, "quick": MARS})
    played = play(stage, decided(LARGE, load_failed=QUICK))
    record = played.record
    assert (record.arm, [hop.arm for hop in record.hops]) == ("quick", ["large", "quick"])
    assert record.why.startswith("rule: because; large failed: out of memory")
    assert [e.why for e in played.of(HopStarted)] == ["big could not be loaded"]
    assert [e.taken for e in played.of(HopEnded)] == [False, True]
    stage = Stage({"large": [OFF, MARS]}, fallbacks=INSTEAD)
    played = play(stage, decided(LARGE))
    assert (played.record.arm, played.record.model) == ("large", "tiny")
    assert [e.why for e in played.of(HopStarted)] == ["big could not answer"]
    assert stage.requests[1].arm == replace(stage.requests[0].arm, model="tiny")
    stage = Stage({"vote": Part("B", None), "large": Part("B", 0.9)})
    record = play(stage, decided(VOTE, LARGE, no_answer="next_arm"), query=CHOICE).record
    assert record.hops[0].why == "without an answer, 75 % required, continuing with large"
    decision = decided(QUICK, LARGE, max_joules=100)
    known = Known({"large": 60.0}, load=20.0)
    record = play(Stage({"quick": VENUS}), decision, predictor=known).record
    assert "it would cost ≈80 J, but only 70" in record.why
    record = play(Stage({"quick": VENUS}), decided(QUICK, LARGE, max_hops=1)).record
    assert "large skipped: the cascade is limited to 1 hop" in record.why


def test_a_multiple_choice_without_a_letter_is_asked_for_it():
    stage = Stage({"think": [Part("It is hard to say."), Part("B) Mars", 0.7, tokens=1)]})
    record = play(stage, decided(THINK, no_answer="ask_constrained"), query=CHOICE).record
    again = stage.requests[1].arm
    assert (again.reasoning, again.readout, again.model) == ("direct", "choices", "small")
    assert record.answer == "B) Mars"
    assert (record.arm, record.reasoning, record.confidence) == ("think", "direct", 0.7)
    assert "think without an answer, asked again for the letter only" in record.why
    assert record.energy.joules == pytest.approx(sum(hop.joules for hop in record.hops))


def test_what_gives_way_in_a_full_context_goes_with_the_arm():
    stage = Stage({"quick": Part()})
    play(stage, decided(QUICK, context_overflow="drop_history"))
    assert stage.requests[0].arm.context_overflow == "drop_history"


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


OTHER = Arm("other", "middle")

PAIR = ("quick", "other")

STEP = Agreement(PAIR, 0.7)

AGREE = decided(QUICK, OTHER, LARGE, agreements=(STEP,))


def odds(agreed: float, *apart: float) -> Known:
    return Known(odds={PAIR: PredictedAgreement(agreed, 0.0, 1.0, 50, apart or (0.3, 0.4))})


def stage(first: str = "B) Mars", second: str = "The answer is B.", **large: float) -> Stage:
    return Stage(
        {
            "quick": Part(first, 0.6),
            "other": Part(second, 0.5),
            "large": Part("A", 0.9, **{"decode": 4.0, **large}),
        }
    )


def test_the_same_answer_is_accepted_and_both_arms_are_charged():
    record = play(stage(), AGREE, query=CHOICE, predictor=odds(0.8)).record
    assert (record.arm, record.answer) == ("other", "The answer is B.")
    assert [(hop.arm, hop.step, hop.accepted) for hop in record.hops] == [
        ("quick", 1, False),
        ("other", 1, True),
    ]
    assert [hop.probability for hop in record.hops] == [0.8, 0.8]
    # 1 + 2 s for each, half a second between them, at 10 W.
    assert record.energy.joules == pytest.approx(65)
    assert sum(hop.joules or 0 for hop in record.hops) == pytest.approx(65)
    assert "other agrees with quick, 80 % sure, 70 % required" in record.why
    assert "quick 30 % sure, continuing with other" in record.why


def test_different_answers_go_up_and_all_three_arms_are_charged():
    played = play(stage("A) Venus"), AGREE, query=CHOICE, predictor=odds(0.8))
    record = played.record
    assert [(hop.arm, hop.step) for hop in record.hops] == [
        ("quick", 1),
        ("other", 1),
        ("large", 2),
    ]
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 3 + 0.5 + 5))
    assert [e.why for e in played.of(HopStarted)] == [
        "",
        "to see whether it agrees with quick",
        "quick and other do not agree",
    ]
    assert record.hops[1].why == "differs from quick, continuing with large"
    # Where they differ, each is as likely right as arms that differ are.
    assert [hop.probability for hop in record.hops] == [0.3, 0.4, 0.45]


def test_agreement_is_not_enough_where_agreed_answers_are_often_wrong():
    record = play(stage(), AGREE, query=CHOICE, predictor=odds(0.6)).record
    assert [hop.arm for hop in record.hops] == ["quick", "other", "large"]
    assert "agrees with quick, 60 % sure, 70 % required, continuing with large" in record.why
    # The larger arm is only 45 % sure, so the agreed answer is the likelier one.
    assert record.arm == "other"


def test_without_a_fit_the_most_confident_of_them_decides():
    predictor = Known(calibrates=False)
    low = play(stage(), AGREE, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in low.hops] == ["quick", "other", "large"]
    sure = stage()
    sure.parts["quick"] = Part("B", 0.7)
    high = play(sure, AGREE, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in high.hops] == ["quick", "other"]


def test_numbers_and_free_text_are_compared_as_votes_are():
    numbers = Stage({"quick": Part("It is 1,000."), "other": Part("1000"), "large": Part("2")})
    record = play(numbers, AGREE, query="How many metres are 1 km?", predictor=odds(0.9)).record
    assert record.arm == "other"
    words = Stage(
        {
            "quick": Part("Paris."),
            "other": Part("The capital of France is Paris."),
            "large": Part("Nice", 0.9),
        }
    )
    asked = "What is the capital of France?"
    assert play(words, AGREE, query=asked, predictor=odds(0.9)).record.arm == "other"
    words.parts["other"] = Part("Lyon")
    assert play(words, AGREE, query=asked, predictor=odds(0.9)).record.arm == "large"


def test_no_second_arm_is_asked_once_there_is_nothing_to_agree_with():
    silent = stage("I do not know.")
    record = play(silent, AGREE, query=CHOICE, predictor=odds(0.9)).record
    assert [hop.arm for hop in record.hops] == ["quick", "large"]
    assert record.hops[0].why == "without an answer to compare, continuing with large"


def test_a_third_arm_is_not_asked_where_two_differ():
    third = Arm("third", "fourth")
    step = Agreement(("quick", "other", "third"), 0.7)
    decision = decided(QUICK, OTHER, third, LARGE, agreements=(step,))
    differing = stage("A")
    differing.parts["third"] = Part("B")
    record = play(differing, decision, query=CHOICE).record
    assert [hop.arm for hop in record.hops] == ["quick", "other", "large"]


def test_a_step_that_cannot_be_finished_is_not_begun():
    decision = decided(LARGE, QUICK, OTHER, THIRD, agreements=(STEP,), max_joules=100.0)
    predictor = Known({"quick": 30.0, "other": 30.0})
    record = play(stage(), decision, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in record.hops] == ["large"]
    assert "quick skipped: it would cost ≈60" in record.why


THIRD = Arm("third", "fourth")


def test_an_arm_that_fails_leaves_the_other_as_any_arm_of_a_cascade():
    broken = stage(second="B")
    broken.parts["quick"] = Part(failure=EngineFailed("gone"))
    broken.parts["other"] = Part("B", 0.9)
    record = play(broken, AGREE, query=CHOICE).record
    assert [hop.arm for hop in record.hops] == ["quick", "other"]
    assert record.hops[1].accepted  # its own confidence of 90 % reaches 75 %


def test_votes_of_one_arm_agree_if_all_do():
    votes = Arm("quick", "small", "vote", votes=3, stop=VoteStop("flip"))
    decision = decided(votes, LARGE, agreements=(Agreement(("quick",), 0.6),))
    predictor = Known(odds={("quick",): PredictedAgreement(0.65, 0.5, 0.8, 30, (0.2,))})
    same = stage()
    same.parts["quick"] = Part("B", 1.0)
    record = play(same, decision, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in record.hops] == ["quick"]
    assert same.requests[0].arm.stop.rule == "unanimous"
    assert "quick all its votes agree, 65 % sure, 60 % required" in record.why
    split = stage()
    split.parts["quick"] = Part("B", 0.67)
    record = play(split, decision, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in record.hops] == ["quick", "large"]
    assert record.hops[0].why == "its votes differ, continuing with large"
    cut = stage()
    cut.parts["quick"] = Part("B", 1.0, status="budget")  # one vote of three
    record = play(cut, decision, query=CHOICE, predictor=predictor).record
    assert [hop.arm for hop in record.hops] == ["quick", "large"]


CASCADE = decided(QUICK, LARGE)


def two(first: float | None = 0.5, second: float | None = 0.9, **large) -> Stage:
    return Stage(
        {
            "quick": Part("Venus.", first),
            "large": Part("Mars.", second, **{"load": 3.0, "decode": 4.0, **large}),
        }
    )


def test_a_sure_answer_ends_the_cascade_at_its_first_hop():
    played = play(two(first=0.8), CASCADE)
    record = played.record
    assert (record.answer, record.arm, len(record.hops)) == ("Venus.", "quick", 1)
    (ended,) = played.of(HopEnded)
    assert (ended.accepted, ended.taken, ended.confidence) == (True, True, 0.8)
    assert ended.why == "80 % confident (uncalibrated), 75 % required"
    assert record.why == "rule: because; quick 80 % confident (uncalibrated), 75 % required"
    assert "hops" not in energy_line(record)


def test_an_unsure_answer_is_replaced_and_both_hops_are_paid_for():
    stage = two()
    played = play(stage, CASCADE)
    record = played.record
    assert (record.answer, record.arm, record.model) == ("Mars.", "large", "big")
    assert record.model_sha256 == "big" * 8
    # 1 + 2 s of quick, half a second between, 3 s of load left out, 1 + 4 s of large: at 10 W.
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 5))
    assert record.energy.phases == pytest.approx({"load": 30, "prefill": 25, "decode": 60})
    assert record.energy.net_joules == pytest.approx(85 - 4 * 8.5)
    assert record.energy.mean_watts == pytest.approx(10)
    assert record.energy.channels == {"gpu:0": pytest.approx(85)}
    assert record.energy.coverage == pytest.approx(1.0)
    assert record.seconds.total == pytest.approx(8.5)
    assert record.seconds.load == 3
    assert record.seconds.ttft == pytest.approx(3 + 0.5 + 1)
    assert (record.tokens.prompt, record.tokens.output) == (40, 8)
    assert [load.joules for load in played.saved.loads] == [pytest.approx(30)]
    assert played.saved.loads[0].model_sha256 == "big" * 8


def test_hops_of_the_record_sum_to_the_turn_and_go_to_json():
    record = play(two(), CASCADE, predictor=Known({"quick": 20.0, "large": 40.0})).record
    first, second = record.to_json()["hops"]
    assert first["joules"] + second["joules"] == pytest.approx(record.energy.joules)
    assert first["seconds"] + second["seconds"] == pytest.approx(record.seconds.total)
    assert (first["load_joules"], second["load_joules"]) == (0.0, pytest.approx(30))
    assert (first["answer"], second["answer"]) == ("Venus.", "Mars.")
    assert (first["accepted"], first["taken"]) == (False, False)
    assert (second["probability"], second["confidence"]) == (0.45, 0.9)
    assert first["tokens"]["output"] == 4
    assert first["why"] == "25 % sure, 75 % required, continuing with large"
    assert record.predicted_joules == 60.0
    assert "2 hops: quick 30.0 J, large 55.0 J" in energy_line(record)
    shown = "\n".join(format_turn(record, []))
    assert "quick (direct) on small; 25 % sure" in shown
    assert "✓ large (direct) on big" in shown


def test_an_estimated_hop_beside_an_unmeasured_one_is_called_an_estimate():
    record = play(two(), CASCADE, predictor=Known({"quick": 20.0, "large": 40.0})).record
    first, second = record.hops
    assert (first.kind, second.kind) == ("counter", "counter")
    hops = (replace(first, joules=None, kind=None), replace(second, kind="estimate"))
    record = replace(record, hops=hops, energy=replace(record.energy, joules=None, kind=None))
    assert "2 hops: quick unmeasured, large ≈55 J" in energy_line(record)
    assert "≈55 J" in "\n".join(format_turn(record, []))


def test_events_tell_which_text_belongs_to_which_hop():
    events = play(two(), CASCADE).events
    marks = [e for e in events if isinstance(e, HopStarted | HopEnded | TurnFinished)]
    assert [type(mark).__name__ for mark in marks] == [
        *("HopStarted", "HopEnded", "HopStarted", "HopEnded", "TurnFinished")
    ]
    first, second = [m for m in marks if isinstance(m, HopStarted)]
    assert (first.number, first.arm, second.number, second.model) == (1, "quick", 2, "big")
    assert second.why == "quick was 50 % confident (uncalibrated)"
    ended = [m for m in marks if isinstance(m, HopEnded)]
    assert [(e.accepted, e.taken) for e in ended] == [(False, False), (True, True)]
    assert ended[0].joules == pytest.approx(30)


def test_where_none_is_sure_the_likeliest_answer_stands():
    played = play(two(first=0.6, second=0.4), CASCADE, predictor=Known())
    assert played.record.answer == "Venus."
    assert played.record.arm == "quick"
    assert [hop.taken for hop in played.record.hops] == [True, False]
    assert "the answer of quick is used" in played.record.why
    assert played.of(HopEnded)[-1].taken is False


def test_a_later_hop_that_crashes_leaves_the_answer_there_was():
    stage = two(failure=EngineFailed("the engine died", "ask again"), fails_at="decode")
    played = play(stage, CASCADE)
    record = played.record
    assert played.error is None
    assert (record.status, record.answer, record.arm) == ("complete", "Venus.", "quick")
    # 3 s of quick, half a second between, 1 s of prefill and the one token that came.
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 1 + 1))
    assert (record.hops[1].status, record.hops[1].joules) == ("error", pytest.approx(25))
    assert "large failed: the engine died; the answer of quick is used" in record.why


def test_a_stop_between_two_hops_asks_no_further_arm():
    stage, stopped = two(), []
    played = play(
        stage,
        CASCADE,
        cancelled=lambda: bool(stopped),
        seen=lambda event: stopped.append(1) if isinstance(event, Answer) else None,
    )
    assert len(stage.requests) == 1
    assert stage.cancelled == 1
    assert (played.record.status, played.record.answer) == ("stopped", "Venus.")


@pytest.mark.parametrize(
    ("left", "status", "error"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (ZeroDivisionError("by zero"), "error", "ZeroDivisionError: by zero"),
    ],
)
def test_leaving_in_the_second_hop_saves_both(left, status, error):
    saved = Saved()
    with pytest.raises(type(left)):
        play(two(failure=left, fails_at="decode"), CASCADE, saved=saved)
    (record,) = saved.turns
    assert (record.status, record.error) == (status, error)
    assert [hop.answer for hop in record.hops] == ["Venus.", ""]
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 1 + 1))
    assert record.answer == "Venus."


def test_unmeasured_hops_have_no_joules_and_forbid_nothing():
    decision = decided(QUICK, LARGE, max_joules=1)
    played = play(two(), decision, meter=Meter10W(joules_known=False))
    record = played.record
    assert len(record.hops) == 2
    assert record.energy.joules is None
    assert [hop.joules for hop in record.hops] == [None, None]
    assert set(record.energy.phases.values()) == {None}


def test_an_unload_between_hops_is_outside_the_joules():
    stage = two(unload=2.0)
    record = play(stage, CASCADE).record
    assert record.energy.joules == pytest.approx(85)
    assert record.seconds.total == pytest.approx(8.5)
