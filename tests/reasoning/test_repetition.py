"""Answers, thinking and votes that repeat themselves, on a scripted session."""

from __future__ import annotations

import math

import pytest

from etui.arm import Arm, VoteStop
from etui.chat import Message
from etui.engine.session import Sampled
from etui.events import Answer, Vote
from etui.reasoning.answer import answer
from etui.reasoning.decoding import Ending, Run, mean_probability
from etui.reasoning.loop_guard import LoopGuard
from tests.reasoning.scripted import GO_ON, script
from tests.reasoning.test_cot import thinker

QUESTION = (Message("user", "Why?"),)
LOOP = "Paris" + ", la femme au martyre" * 30
FIRST_ROUND = "Paris, la femme au martyre"


def arm(**changes):
    return Arm("a", "fake", **{"loop_guard": True, **changes})


def last(session, chosen, question=QUESTION):
    return list(answer(question, chosen, session, GO_ON))[-1]


def drawn(letter: str, logprob: float = -0.1) -> Sampled:
    return Sampled(0, ord(letter), letter.encode(), logprob, False)


def test_an_answer_that_repeats_is_ended_cut_and_kept_whole(fake):
    session = fake(script("[assistant]", LOOP))
    events = list(answer(QUESTION, arm(), session, GO_ON))
    end = events[-1]
    assert (end.status, end.ended) == ("complete", "repeats")
    assert end.answer == FIRST_ROUND
    assert end.raw_answer == LOOP[: end.output_tokens]
    assert end.output_tokens < len(LOOP) / 4
    assert end.saved_tokens == 512 - end.output_tokens
    assert end.why.startswith("the answer repeats itself (21 tokens, 2.6 times), so it was ended")
    streamed = "".join(event.text for event in events if isinstance(event, Answer))
    assert streamed == end.raw_answer
    assert session.closed == [0]


@pytest.mark.parametrize(
    ("guard", "question"), [(False, "Why?"), (None, "Why?"), (True, "Repeat after me.")]
)
def test_without_a_guard_or_if_it_is_asked_for_it_goes_on(fake, guard, question):
    session = fake(script("[assistant]", LOOP))
    end = last(session, arm(loop_guard=guard), (Message("user", question),))
    assert (end.ended, end.answer, end.raw_answer, end.saved_tokens) == ("", LOOP[:512], "", 0)


def test_the_confidence_is_that_of_the_answer_shown():
    run = Run(512, (), guard=LoopGuard())
    for at, letter in enumerate(LOOP):
        logprob = math.log(0.5) if at < len(FIRST_ROUND) else 0.0
        run.take(drawn(letter, logprob), at)
        if run.ending is not None:
            break
    decoded = run.decoded()
    assert decoded.ending is Ending.REPEATS
    assert (decoded.text, decoded.kept_tokens) == (FIRST_ROUND, len(FIRST_ROUND))
    assert mean_probability(decoded) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="repetition"):
        run.take(drawn(LOOP[0]), 0)


def test_a_stop_string_is_not_shown_in_the_first_round(fake):
    session = fake(script("[assistant]", LOOP), stop=("###",))
    assert last(session, arm()).answer == FIRST_ROUND


@pytest.mark.parametrize("refuses", [False, True])
def test_thinking_that_repeats_hands_over_to_the_answer(fake, refuses):
    session = fake(thinker(LOOP, " Paris."), refuses_rollback=refuses)
    end = last(session, arm(reasoning="cot", think_tokens=400))
    assert (end.status, end.ended, end.answer) == ("complete", "thinking_repeats", "Paris.")
    assert end.thinking.startswith(FIRST_ROUND)
    assert "enough thinking" in end.thinking
    assert end.thinking.count("femme") == 1
    assert end.raw_thinking == LOOP[: end.thinking_tokens]
    assert end.saved_tokens == 400 - end.thinking_tokens
    assert end.why.startswith("the thinking repeats itself")
    in_context = session.opened[0].text.partition("[assistant]")[2]
    assert (in_context.count("femme") == 1) is not refuses


def test_an_answer_that_repeats_after_thinking_is_cut_too(fake):
    session = fake(thinker("Short.\nAnswer:", " " + LOOP))
    end = last(session, arm(reasoning="cot"))
    assert (end.ended, end.answer, end.raw_thinking) == ("repeats", FIRST_ROUND, "")
    assert end.saved_tokens > 0


def test_votes_that_repeat_are_ended_and_counted_by_their_first_round(fake):
    question = (Message("user", "Which?\nA) one\nB) two"),)
    texts = ("B", "The answer is B" + ", as I have just said, the answer is B" * 20, "A")

    def says(so_far: str, seed: int) -> str:
        _, asked, written = so_far.rpartition("[assistant]")
        return texts[seed][len(written) :] if asked else "?"

    chosen = arm(reasoning="vote", think_tokens=0, votes=3, stop=VoteStop("all"))
    events = list(answer(question, chosen, fake(says, seeded=True), GO_ON))
    votes = {event.index: event for event in events if isinstance(event, Vote)}
    assert [votes[n].ended for n in range(3)] == ["", "repeats", ""]
    assert votes[1].choice == "B"
    assert votes[1].raw_answer.startswith(votes[1].answer)
    assert votes[1].tokens < len(texts[1]) / 2
    end = events[-1]
    assert end.saved_tokens == 512 - votes[1].tokens
    assert end.ended == ""
    assert "1 vote ended in a repetition" in end.why
