"""Early exit and regulated depth of a chain of thought, on a scripted session."""

from __future__ import annotations

import math

import pytest

from etui.arm import Arm, EarlyExit, TokenCost
from etui.chat import Message
from etui.events import Probe, Thought
from etui.reasoning.answer import answer
from tests.reasoning.scripted import GO_ON

CHOICE = (Message("user", "Which?\nA) one\nB) two"),)
OPEN = (Message("user", "Which star is near?"),)
EXIT = EarlyExit(every=10, min_p=0.9, stable=2)


def cot(**changes):
    values = {"reasoning": "cot", "think_tokens": 100, "max_tokens": 20}
    return Arm(name="t", model="fake", **{**values, **changes})


def thinker(reply=" B"):
    """Thinks without end; answers once it is led to."""

    def says(so_far: str) -> str:
        tail = so_far.rpartition("[assistant]")[2]
        if "\nAnswer:" not in tail:
            return "xyz" * 100
        return reply[len(tail.rpartition("\nAnswer:")[2]) :]

    return says


def certain_from(tokens: int, before: float = 0.5, after: float = 0.95):
    """The letters' log-probabilities: B is likely, and certain once so much was thought."""

    def sees(text: str, token: str) -> float:
        thought = text.rpartition("[assistant]")[2].partition("\n")[0]
        p = after if len(thought) >= tokens else before
        return math.log({" A": 1 - p, " B": p}.get(token, 1e-12))

    return sees


def run(session, arm, question=CHOICE, price=None):
    events = list(answer(question, arm, session, GO_ON, price))
    return events, events[-1], [e for e in events if isinstance(e, Probe)]


def test_it_stops_once_the_answer_is_confident_and_stable(fake):
    session = fake(thinker(), sees=certain_from(30))
    events, end, probes = run(session, cot(early_exit=EXIT))
    assert [p.thinking_tokens for p in probes] == [10, 20, 30, 40]
    assert dict(probes[-1].probabilities) == pytest.approx({"A": 0.05, "B": 0.95})
    assert (end.thinking_tokens, end.answer, end.status) == (40, "B", "complete")
    assert end.why == (
        "early exit after 40 thinking tokens: the answer was 95 % certain in 2 consecutive probes"
    )
    assert end.output_tokens == 40 + len(" B")
    assert "".join(e.text for e in events if isinstance(e, Thought)) == end.thinking


def test_looks_leave_nothing_behind(fake):
    session = fake(thinker(), sees=certain_from(30))
    run(session, cot(early_exit=EXIT))
    assert session.live == []
    assert session.kept == [0]
    assert session.opened[0].text.count("Answer:") == 2  # the instruction's and the last one
    assert all(probe.tokens <= 1 + len("\n\nAnswer:") for probe in run(session, cot())[2])


def test_looks_that_never_fire_change_nothing(fake):
    plain = run(fake(thinker()), cot())[1]
    session = fake(thinker(), sees=certain_from(1000))
    _, looked, probes = run(session, cot(early_exit=EXIT))
    assert len(probes) == 9  # at the end of the budget nothing is left to decide
    assert (looked.thinking, looked.answer, looked.why) == (
        plain.thinking,
        plain.answer,
        plain.why,
    )
    assert looked.output_tokens == plain.output_tokens


def test_words_are_looked_at_by_a_short_decode(fake):
    session = fake(thinker(" The Sun.\n"))
    _, end, probes = run(session, cot(early_exit=EarlyExit(10, 0.6, 2)), OPEN)
    assert [p.thinking_tokens for p in probes] == [10, 20]
    ((said, probability),) = probes[0].probabilities
    assert said == "sun"
    assert probability == pytest.approx(math.exp(-0.5))
    assert probes[0].tokens > len("\n\nAnswer: The Sun.")
    assert end.thinking_tokens == 20
    assert run(fake(thinker(" The Sun.\n")), cot(early_exit=EarlyExit(10, 0.7, 2)), OPEN)[
        1
    ].why.startswith("the thinking budget")


def test_native_thought_is_closed_before_a_look(fake):
    def says(so_far: str) -> str:
        closed, reply = so_far.rpartition("</think>\n\nAnswer:")[1:]
        return " B"[len(reply) :] if closed else "hm" * 99

    facts = {"think_open": "<think>", "think_close": "</think>"}

    def sees(text: str, token: str) -> float:
        assert text.endswith("</think>\n\nAnswer:")
        return math.log(0.97 if token == " B" else 0.01)

    session = fake(says, sees=sees, **facts)
    _, end, _ = run(session, cot(early_exit=EXIT))
    assert (end.thinking_tokens, end.answer) == (20, "B")
    assert "think>" not in end.thinking


def test_a_cache_without_room_is_not_looked_into(fake):
    session = fake(thinker(), sees=certain_from(0), sequences=1)
    _, end, probes = run(session, cot(early_exit=EXIT))
    assert (probes, end.thinking_tokens) == ([], 100)


def test_joules_that_are_left_bound_the_depth(fake):
    price = TokenCost(1.0, source="mean of 4 turns")
    session = fake(thinker())
    _, end, probes = run(session, cot(max_joules=168.0, think_tokens=400), price=price)
    assert probes == []  # no confidence is asked for
    assert end.thinking_tokens == 144  # 3 chunks of 48, 20 for the answer: a fourth is too much
    assert end.why == (
        "regulated depth after 144 thinking tokens: 48 more tokens would cost ≈48 J, but only "
        "≈4.0 J of 168 J is left for thinking (token cost: mean of 4 turns)"
    )
    assert "That is enough thinking" in end.thinking
    assert (end.answer, end.status) == ("B", "complete")


def test_no_thought_is_begun_that_cannot_be_paid(fake):
    session = fake(thinker())
    _, end, _ = run(session, cot(max_joules=30.0), price=TokenCost(1.0))
    assert (end.thinking_tokens, end.answer) == (0, "B")
    assert end.why.startswith(
        "regulated depth: no thinking, because 48 more tokens would cost ≈48 J"
    )


def test_the_exchange_rate_ends_thought_that_gains_nothing(fake):
    price = TokenCost(1.0, source="operating curve")
    session = fake(thinker(), sees=certain_from(1000))
    _, end, probes = run(session, cot(exchange=5.0, think_tokens=400), price=price)
    assert [p.thinking_tokens for p in probes] == [0, 48, 96]
    assert end.thinking_tokens == 96
    assert end.why == (
        "regulated depth after 96 thinking tokens: 48 more tokens would cost ≈48 J for 0 % more "
        "confidence, worth ≈0.0 J (token cost: operating curve)"
    )


def test_without_a_price_only_confidence_counts(fake):
    session = fake(thinker(), sees=certain_from(1000))
    _, end, probes = run(session, cot(exchange=0.001, max_joules=1.0, early_exit=EXIT))
    assert end.thinking_tokens == 100
    assert len(probes) == 9
