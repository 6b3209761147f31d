"""Votes, looks and the choice readout on the starter model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm, EarlyExit, Sampling, VoteStop
from etui.chat import Message
from etui.events import Answer, Prefilled, Probe, Thought, Vote
from etui.reasoning.answer import answer
from etui.reasoning.choice_readout import split_letter
from tests.reasoning.scripted import GO_ON

QUESTION = (Message("user", "Which planet is known as the red one?\nA) Venus\nB) Mars\nC) Saturn"),)
COT = Arm("think", "starter", "cot", think_tokens=20, max_tokens=4)
VOTE = Arm(
    "vote",
    "starter",
    "vote",
    think_tokens=6,
    max_tokens=4,
    votes=3,
    stop=VoteStop("all"),
    sampling=Sampling(temperature=0.9, seed=5),
)


def text_of(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


def thinks_long(question, temperature, make_session):
    """Return an arm that thinks for long enough to be probed, and its events.

    What a seed draws depends on the last bits of the logits, and these on the CPU.
    """
    for seed in range(3, 23):
        arm = replace(COT, sampling=Sampling(temperature=temperature, seed=seed))
        events = list(answer(question, arm, make_session(), GO_ON))
        if events[-1].thinking_tokens > 6:
            return arm, events
    raise AssertionError("no seed makes the model think for more than six tokens")


@pytest.mark.parametrize(
    ("question", "temperature"),
    [(QUESTION, 0.0), ((Message("user", "Which planet is red?"),), 0.9)],
)
def test_looks_that_never_fire_leave_the_thought_as_it_was(make_session, question, temperature):
    arm, plain = thinks_long(question, temperature, make_session)
    looked_at = replace(arm, early_exit=EarlyExit(every=6, min_p=1.0, stable=99))
    looked = list(answer(question, looked_at, make_session(), GO_ON))
    assert [e for e in looked if isinstance(e, Probe)]
    assert not [e for e in plain if isinstance(e, Probe)]
    assert text_of(looked, Thought) == text_of(plain, Thought)
    assert text_of(looked, Answer) == text_of(plain, Answer)
    # The mean log-probability of the answer tells a single bit that differs.
    assert looked[-1].confidence == plain[-1].confidence


def test_the_letters_are_read_and_sum_to_one(make_session):
    session = make_session()
    arm = Arm("choose", "starter", readout="choices")
    events = list(answer(QUESTION, arm, session, GO_ON))
    (probe,) = [event for event in events if isinstance(event, Probe)]
    assert sum(p for _, p in probe.probabilities) == pytest.approx(1.0)
    end = events[-1]
    assert end.output_tokens == 0
    assert end.answer[0] == max(probe.probabilities, key=lambda letter: letter[1])[0]
    assert end.confidence == pytest.approx(max(p for _, p in probe.probabilities))


@pytest.mark.parametrize("arm", [Arm("direct", "starter", max_tokens=5), COT, VOTE])
def test_every_way_of_answering_ends_on_a_letter_if_asked(make_session, arm):
    session = make_session(context_tokens=512)
    plain = list(answer(QUESTION, arm, make_session(context_tokens=512), GO_ON))[-1]
    events = list(answer(QUESTION, replace(arm, readout="letter"), session, GO_ON))
    end, votes = events[-1], [each for each in events if isinstance(each, Vote)]
    for text in [end.answer, *(vote.answer for vote in votes)]:
        assert split_letter(text)[1] in ("A", "B", "C")
    assert split_letter(end.answer)[0] == plain.answer or votes
    drawn = len(votes) or 1
    assert end.output_tokens == plain.output_tokens + drawn
    assert end.end_ns >= end.thinking_end_ns
    assert session.free_sequences == 8


def test_the_same_seed_votes_the_same_way(make_session):
    outcomes = []
    for _ in range(2):
        session = make_session(context_tokens=512)
        events = list(answer(QUESTION, VOTE, session, GO_ON))
        outcomes.append([(v.index, v.answer, v.thinking) for v in events if isinstance(v, Vote)])
        assert session.free_sequences == 8
        assert session.free_tokens == 512
    assert outcomes[0] == outcomes[1]
    assert len({thinking for _, _, thinking in outcomes[0]}) > 1


def test_votes_that_do_not_fit_wait_for_a_place(make_session):
    narrow = make_session(sequences=3)  # the prompt and two votes
    events = list(answer(QUESTION, VOTE, narrow, GO_ON))
    votes = [event for event in events if isinstance(event, Vote)]
    assert len(votes) == 3
    assert events[-1].output_tokens == sum(vote.tokens for vote in votes)


def test_all_ways_of_answering_one_question_share_its_prefill(make_session):
    session = make_session()
    ends = []
    for arm in (Arm("quick", "starter", max_tokens=8), COT, VOTE):
        events = list(answer(QUESTION, arm, session, GO_ON))
        ends.append(events[-1])
        (prefilled,) = [event for event in events if isinstance(event, Prefilled)]
        assert prefilled.cached_tokens == ends[-1].cached_tokens
    direct, cot, vote = ends
    header = len(session.tokenize("<|im_end|>\n<|im_start|>assistant\n"))
    assert direct.cached_tokens == 0
    assert cot.cached_tokens >= direct.prompt_tokens - header - 1  # a token may hold both sides
    assert vote.cached_tokens == cot.prompt_tokens - 2  # the last is each fork's, one gives logits
