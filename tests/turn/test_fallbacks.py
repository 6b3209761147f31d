"""What follows when an answer cannot be had as it was planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.errors import ContextOverflow, EngineFailed, ModelUnavailable, RemoteFailed
from etui.turn.events import HopEnded, HopStarted
from tests.turn.stage import CHOICE, LARGE, QUICK, THINK, Part, Stage, decided, play

GONE = ModelUnavailable("big is not on this machine", "pull it")


def test_a_model_that_cannot_be_loaded_gives_way_to_the_fallback():
    failing = Part(failure=EngineFailed("out of memory"))
    stage = Stage({"large": failing, "quick": Part("Mars.")})
    played = play(stage, decided(LARGE, load_failed=QUICK))
    record = played.record
    assert (record.answer, record.arm, record.status) == ("Mars.", "quick", "complete")
    assert [hop.arm for hop in record.hops] == ["large", "quick"]
    assert record.why.startswith("rule: because; large failed: out of memory")
    assert [e.why for e in played.of(HopStarted)] == ["big could not be loaded"]
    assert [e.taken for e in played.of(HopEnded)] == [False, True]


def test_a_file_that_is_not_there_gives_way_too():
    stage = Stage({"quick": Part("Mars.")}, missing={"big": GONE})
    assert play(stage, decided(LARGE, load_failed=QUICK)).record.answer == "Mars."


def test_without_a_fallback_a_missing_model_is_told_and_nothing_is_saved():
    played = play(Stage({}, missing={"big": GONE}), decided(LARGE))
    assert played.error is GONE
    assert played.saved.turns == []


def test_a_fallback_that_cannot_be_loaded_either_ends_the_turn():
    stage = Stage({}, missing={"big": GONE, "small": ModelUnavailable("small neither")})
    played = play(stage, decided(LARGE, load_failed=QUICK))
    assert str(played.error) == "small neither"
    assert (played.record.status, len(played.record.hops)) == ("error", 2)


def test_an_arm_is_not_its_own_fallback():
    played = play(Stage({}, missing={"big": GONE}), decided(LARGE, load_failed=LARGE))
    assert played.error is GONE


OFF = Part(failure=ModelUnavailable("the backend desk cannot answer: refused"))
INSTEAD = {"big": ("tiny", "small")}


def test_the_models_of_a_backend_answer_while_it_cannot():
    stage = Stage({"large": [OFF, Part("Mars.")], "quick": Part()}, fallbacks=INSTEAD)
    played = play(stage, decided(LARGE, load_failed=QUICK))
    record = played.record
    assert [(hop.arm, hop.model) for hop in record.hops] == [("large", "big"), ("large", "tiny")]
    assert (record.answer, record.model, record.status) == ("Mars.", "tiny", "complete")
    assert [e.why for e in played.of(HopStarted)] == ["big could not answer"]
    assert stage.requests[1].arm == replace(stage.requests[0].arm, model="tiny")


def test_the_models_of_a_backend_are_asked_in_their_order_and_then_the_policys():
    stage = Stage({"large": [OFF, OFF, OFF], "quick": Part("Mars.")}, fallbacks=INSTEAD)
    record = play(stage, decided(LARGE, load_failed=QUICK)).record
    assert [hop.model for hop in record.hops] == ["big", "tiny", "small", "small"]
    assert (record.answer, record.arm) == ("Mars.", "quick")


def test_without_a_policy_the_models_of_a_backend_answer_too():
    stage = Stage({"large": [OFF, Part("Mars.")]}, fallbacks=INSTEAD)
    assert play(stage, decided(LARGE)).record.answer == "Mars."


def test_nothing_answers_instead_of_what_may_have_been_paid():
    failing = Part(failure=RemoteFailed("the backend desk failed: silent for 120 s"))
    stage = Stage({"large": failing, "quick": Part()}, fallbacks=INSTEAD)
    played = play(stage, decided(LARGE, load_failed=QUICK))
    assert isinstance(played.error, RemoteFailed)
    assert len(stage.requests) == 1


def test_a_crash_in_mid_answer_is_no_failed_load():
    stage = Stage({"large": Part(failure=EngineFailed("gone"), fails_at="decode")})
    played = play(stage, decided(LARGE, load_failed=QUICK))
    assert str(played.error) == "gone"
    assert played.record.status == "error"


def test_a_multiple_choice_without_a_letter_is_asked_for_it():
    stage = Stage({"think": [Part("It is hard to say."), Part("B) Mars", 0.7, tokens=1)]})
    record = play(stage, decided(THINK, no_answer="ask_constrained"), query=CHOICE).record
    again = stage.requests[1].arm
    assert (again.reasoning, again.readout, again.model) == ("direct", "choices", "small")
    assert record.answer == "B) Mars"
    assert (record.arm, record.reasoning, record.confidence) == ("think", "direct", 0.7)
    assert "think without an answer, asked again for the letter only" in record.why
    assert record.energy.joules == pytest.approx(sum(hop.joules for hop in record.hops))


@pytest.mark.parametrize(
    ("query", "answer", "policy"),
    [
        (CHOICE, "B", "ask_constrained"),
        (CHOICE, "It is hard to say.", "keep"),
        (CHOICE, "It is hard to say.", "next_arm"),
        ("Which planet is red?", "It is hard to say.", "ask_constrained"),
    ],
)
def test_nothing_is_asked_again_where_there_is_no_need_or_no_way(query, answer, policy):
    stage = Stage({"think": Part(answer)})
    record = play(stage, decided(THINK, no_answer=policy), query=query).record
    assert (len(stage.requests), record.hops, record.answer) == (1, (), answer)


def test_in_a_cascade_an_answer_without_a_letter_is_never_sure():
    stage = Stage({"quick": Part("Hard to say.", 0.99), "large": Part("B", 0.9)})
    record = play(stage, decided(QUICK, LARGE, no_answer="next_arm"), query=CHOICE).record
    assert record.answer == "B"
    stage = Stage({"quick": Part("Hard to say.", 0.99), "large": Part("B", 0.9)})
    record = play(stage, decided(QUICK, LARGE, no_answer="keep"), query=CHOICE).record
    assert record.answer == "Hard to say."


def test_in_a_cascade_the_letter_is_asked_for_before_the_next_arm():
    unsure = [Part("Hard to say.", 0.99), Part("A) Venus", 0.5)]
    stage = Stage({"quick": unsure, "large": Part("B", 0.9)})
    record = play(stage, decided(QUICK, LARGE, no_answer="ask_constrained"), query=CHOICE).record
    assert [(hop.arm, hop.answer) for hop in record.hops] == [
        ("quick", "Hard to say."),
        ("quick", "A) Venus"),
        ("large", "B"),
    ]


def test_a_vote_without_a_majority_has_no_answer():
    vote = replace(QUICK, name="vote", reasoning="vote")
    stage = Stage({"vote": Part("B", None), "large": Part("B", 0.9)})
    record = play(stage, decided(vote, LARGE, no_answer="next_arm"), query=CHOICE).record
    assert record.hops[0].why == "without an answer, 75 % required, continuing with large"
    assert record.arm == "large"


def test_what_gives_way_in_a_full_context_goes_with_the_arm():
    stage = Stage({"quick": Part()})
    play(stage, decided(QUICK, context_overflow="drop_history"))
    assert stage.requests[0].arm.context_overflow == "drop_history"


def test_a_prompt_that_does_not_fit_is_told_or_left_to_the_next_arm():
    over = ContextOverflow(5000, 4096, 16)
    stage = Stage({"quick": Part(failure=over), "large": Part("Mars.", 0.9)})
    played = play(stage, decided(QUICK, load_failed=LARGE))
    assert played.error is over
    assert play(stage, decided(QUICK, LARGE)).record.answer == "Mars."
