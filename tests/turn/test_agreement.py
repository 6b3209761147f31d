"""A step of a cascade whose arms must give the same answer: who is asked, accepted, and charged."""

from __future__ import annotations

import pytest

from etui.arm import Arm, VoteStop
from etui.errors import EngineFailed
from etui.routing.decision import Agreement, PredictedAgreement
from etui.turn.events import HopStarted
from tests.turn.stage import CHOICE, LARGE, QUICK, Known, Part, Stage, decided, play

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
