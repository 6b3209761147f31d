"""The choice readout: letters from the logits, nothing decoded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Message
from etui.events import Answer, Prefilled, Probe, Thought
from etui.multiple_choice import parse_options
from etui.reasoning.answer import answer
from etui.reasoning.choice_readout import letter_tokens, read_letters
from tests.reasoning.scripted import GO_ON, FakeControl, FakeSession, plain_facts

TEXT = "Which?\nA) one\nB) two\nC) three"
QUESTION = (Message("user", TEXT),)
ARM = Arm(name="t", model="fake", readout="choices")


def sees(**probabilities: float):
    """Log-probabilities of the next token: a letter alone, or (``_A``) behind a space."""

    def logprob(text: str, token: str) -> float:
        assert text.endswith("[assistant]Answer:")
        return math.log(probabilities.get(token.replace(" ", "_"), 1e-9))

    return logprob


def says_nothing(text: str) -> str:
    return "x"


def test_the_likeliest_letter_answers_and_nothing_is_decoded(fake):
    session = fake(says_nothing, sees=sees(_A=0.1, A=0.1, _B=0.3, B=0.2, _C=0.05, C=0.05))
    events = list(answer(QUESTION, ARM, session, GO_ON))
    end = events[-1]
    assert (end.answer, end.status, end.why) == ("B) two", "complete", "")
    assert (end.output_tokens, end.first_token_ns) == (0, None)
    assert end.confidence == pytest.approx(0.5 / 0.8)
    assert end.margin == pytest.approx(0.3 / 0.8)
    (probe,) = [e for e in events if isinstance(e, Probe)]
    assert dict(probe.probabilities) == pytest.approx({"A": 0.25, "B": 0.625, "C": 0.125})
    assert "".join(e.text for e in events if isinstance(e, Answer)) == "B) two"
    assert not [e for e in events if isinstance(e, Thought)]
    prefilled = next(e for e in events if isinstance(e, Prefilled))
    assert prefilled.end_ns == end.end_ns == end.thinking_end_ns
    assert session.computed == end.computed_tokens == end.prompt_tokens


def test_letters_the_model_would_not_write_are_named(fake):
    session = fake(says_nothing, sees=sees(_A=0.02, _B=0.01, _C=0.01))
    end = list(answer(QUESTION, ARM, session, GO_ON))[-1]
    assert end.answer == "A) one"
    assert end.why == "the option letters have only 4 % of the probability of the next token"
    text = session.opened[0].text
    assert text.index("C) three") < text.index("letter of the right option")


def test_a_question_without_options_is_answered_in_text(fake):
    def says(so_far: str) -> str:
        return "Yes."[len(so_far.rpartition("[assistant]")[2]) :]

    end = list(answer((Message("user", "Is it?"),), ARM, fake(says), GO_ON))[-1]
    assert (end.answer, end.output_tokens) == ("Yes.", 4)
    assert end.why == "the question has no options, so the answer was decoded"


def test_letters_that_are_no_single_token_are_answered_in_text(fake, monkeypatch):
    session = fake(lambda so_far: "B"[len(so_far.rpartition("[assistant]")[2]) :])
    whole = session.tokenize
    monkeypatch.setattr(
        session, "tokenize", lambda text, **k: [1, 2] if "B" in text[-1:] else whole(text, **k)
    )
    end = list(answer(QUESTION, ARM, session, GO_ON))[-1]
    assert end.answer == "B"
    assert end.why.startswith("some option letters are not a single token")


def test_cancel_in_the_prefill(fake):
    session = fake(says_nothing, batch_tokens=8)
    control = FakeControl(lambda: session.steps == 2)
    end = list(answer(QUESTION, ARM, session, control))[-1]
    assert (end.status, end.answer, end.confidence) == ("stopped", "", None)
    assert session.live == []


@given(st.lists(st.floats(-800.0, -0.7), min_size=6, max_size=6))
def test_probabilities_sum_to_one_however_small(logprobs):
    table = dict(zip([" A", "A", " B", "B", " C", "C"], logprobs, strict=True))
    session = FakeSession(plain_facts(), says_nothing, sees=lambda text, token: table[token])
    sequence = session.open(session.tokenize("q"), ARM.sampling)
    session.step([sequence])
    tokens = letter_tokens(session, parse_options(TEXT))
    assert tokens is not None
    reading = read_letters(session, sequence, tokens)
    assert math.fsum(p for _, p in reading.probabilities) == pytest.approx(1.0)
    assert 0.0 <= reading.margin <= 1.0
    assert 0.0 <= reading.mass <= 1.0
    assert reading.best[1] == max(p for _, p in reading.probabilities)
