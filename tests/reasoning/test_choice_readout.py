"""The choice readout: letters from the logits, nothing decoded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, VoteStop
from etui.chat import Message, OutputOptions
from etui.events import Answer, Prefilled, Probe, Thought, Vote
from etui.multiple_choice import parse_options
from etui.reasoning.answer import answer
from etui.reasoning.choice_readout import (
    LETTER_LEAD,
    letter_tokens,
    read_letters,
    split_letter,
)
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


def prefers(**probabilities: float):
    """Log-probabilities of the letter behind a free answer."""

    def logprob(text: str, token: str) -> float:
        assert text.endswith(LETTER_LEAD)
        return math.log(probabilities.get(token.replace(" ", "_"), 1e-9))

    return logprob


def behind(**changes) -> Arm:
    return Arm(**{"name": "t", "model": "fake", "readout": "letter", "max_tokens": 5, **changes})


def speaks(text: str, after: str = "[assistant]"):
    """A model that writes a text in the answer, and anything where its letter is read."""

    def says(so_far: str) -> str:
        written = so_far.rpartition(after)[2]
        if LETTER_LEAD in written:
            return "?"
        return text[len(written) :] if text.startswith(written) else ""

    return says


@pytest.mark.parametrize(
    ("text", "tokens", "why"),
    [
        ("A) o", 4, ""),
        ("", 0, ""),
        ("To find the one", 5, "max tokens cut off the answer after 6 tokens"),
    ],
)
def test_a_letter_is_read_behind_every_free_answer(fake, text: str, tokens: int, why: str):
    session = fake(speaks(text), sees=prefers(_B=0.6, A=0.2))
    events = list(answer(QUESTION, behind(), session, GO_ON))
    end = events[-1]
    free = text[:tokens]
    assert end.answer == f"{free}\nFinal answer: B".strip()
    assert split_letter(end.answer) == (free.strip(), "B")
    assert (end.status, end.why, end.output_tokens) == ("complete", why, tokens + 1)
    assert end.confidence == pytest.approx(0.75)
    assert end.margin == pytest.approx(0.5)
    (probe,) = [e for e in events if isinstance(e, Probe)]
    assert probe.tokens == len(LETTER_LEAD)
    assert "".join(e.text for e in events if isinstance(e, Answer)).strip() == end.answer
    assert end.end_ns == probe.t_ns, "its time and joules are those of the turn"
    assert session.live == []


def test_a_letter_is_read_behind_thinking(fake):
    thinks = behind(reasoning="cot", think_tokens=6, style="plain")

    def says(so_far: str) -> str:
        written = so_far.rpartition("[assistant]")[2]
        if LETTER_LEAD in written:
            return "?"
        if "Answer:" in written:
            return " C."[len(written.rpartition("Answer:")[2]) :]
        return "well, maybe so"[len(written) :]

    end = list(answer(QUESTION, thinks, fake(says, sees=prefers(_B=0.9)), GO_ON))[-1]
    assert end.thinking_tokens == 6
    assert end.answer == "C.\nFinal answer: B"
    assert end.output_tokens == 6 + 3 + 1


@pytest.mark.parametrize("batch", [1, 8])
def test_every_vote_counts_for_the_letter_behind_it(fake, batch: int):
    votes = behind(reasoning="vote", think_tokens=0, votes=3, stop=VoteStop("all"), batch=batch)

    def says(so_far: str, seed: int) -> str:
        written = so_far.rpartition("[assistant]")[2]
        return "?" if LETTER_LEAD in written else ("A", "no", "C")[seed][len(written) :]

    def sees(text: str, token: str) -> float:
        likely = {"A": "A", "no": "B", "C": "B"}[text.rpartition("[assistant]")[2].split("\n")[0]]
        return math.log(0.8 if token.strip() == likely else 0.01)

    events = list(answer(QUESTION, votes, fake(says, sees=sees, seeded=True), GO_ON))
    drawn, end = [e for e in events if isinstance(e, Vote)], events[-1]
    assert [(v.choice, v.status, v.tokens) for v in drawn] == [
        ("A", "answered", 2), ("B", "answered", 3), ("B", "answered", 2),
    ]  # fmt: skip
    assert (end.answer, end.output_tokens) == ("no\nFinal answer: B", 7)
    assert end.confidence == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("question", "options"),
    [("Is it?", OutputOptions()), (TEXT, OutputOptions(number=True)),
     (TEXT, OutputOptions(top_logprobs=0))],
)  # fmt: skip
def test_no_letter_is_read_where_none_is_asked_for(fake, question: str, options: OutputOptions):
    session = fake(speaks("Yes"))
    end = list(answer((Message("user", question),), behind(), session, GO_ON, None, options))[-1]
    assert (end.answer, end.output_tokens) == ("Yes", 3)


def test_the_letter_has_room_in_a_full_context(fake):
    session = fake(speaks("x" * 999), sees=prefers(_B=0.6), context_tokens=120)
    end = list(answer(QUESTION, behind(max_tokens=90), session, GO_ON))[-1]
    assert end.answer.endswith("Final answer: B")
    assert end.prompt_tokens + end.output_tokens + len(LETTER_LEAD) <= 120
