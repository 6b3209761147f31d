"""Chain of thought on a scripted session: budgets, hand-over, reserved answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Message
from etui.events import Answer, Thought
from etui.reasoning.answer import answer
from etui.reasoning.answer_plan import thinking_budget
from etui.reasoning.prompts import ANSWER_MARKER
from tests.reasoning.scripted import GO_ON, FakeControl, script

QUESTION = (Message("user", "2+2?"),)
NATIVE = {"think_open": "<think>", "think_close": "</think>", "thinking_switch": "enable_thinking"}


def cot(**changes):
    return Arm(name="t", model="fake", reasoning="cot", **changes)


def thinker(thought: str, reply: str = "", marker: str = "\nAnswer:"):
    """A model that writes the thought until it is led to the answer."""

    def says(so_far: str) -> str:
        tail = so_far[so_far.rindex("[assistant]") + len("[assistant]") :]
        _, led, written = tail.rpartition(marker)
        return reply[len(written) :] if led else thought[len(tail) :]

    return says


def texts(events, kind):
    return "".join(e.text for e in events if isinstance(e, kind))


def test_a_plain_model_ends_its_thought_with_the_marker(fake):
    session = fake(script("[assistant]", "Two and two.\nAnswer: 4"))
    events = list(answer(QUESTION, cot(), session, GO_ON))
    end = events[-1]
    assert (end.thinking, end.answer, end.status) == ("Two and two.", "4", "complete")
    assert ANSWER_MARKER not in texts(events, Thought)
    assert texts(events, Answer).strip() == "4"
    assert end.output_tokens == len("Two and two.\nAnswer: 4")
    text = session.opened[0].text
    assert text.startswith("^[user]2+2?"), "the question comes first, the instruction last"
    assert text.index("step by step") > text.index("2+2?")


def test_the_budget_hands_over_with_a_sentence(fake):
    session = fake(thinker("round and round " * 50, " 4"))
    events = list(answer(QUESTION, cot(think_tokens=20), session, GO_ON))
    end = events[-1]
    assert end.thinking_tokens == 20
    assert (end.answer, end.status) == ("4", "complete")
    assert end.why == "the thinking budget ended the thinking after 20 tokens"
    assert "That is enough thinking" in end.thinking
    assert ANSWER_MARKER not in end.thinking
    assert end.output_tokens == 20 + len(" 4")


@pytest.mark.parametrize(("reply", "said"), [(" 4", ("It is four.", "4")), ("", None)])
def test_a_thought_that_ends_without_a_marker_still_gets_an_answer(fake, reply, said):
    events = list(answer(QUESTION, cot(), fake(thinker("It is four.", reply)), GO_ON))
    end = events[-1]
    assert (end.status, end.why) == ("complete", "")
    if said is not None:
        assert (end.thinking, end.answer) == said
    else:  # the model said all in its thought
        assert end.answer == texts(events, Answer) == "It is four."
        assert end.output_tokens == len("It is four.")


def test_native_thought_stays_between_its_tags(fake):
    session = fake(script("<think>\n", "Hmm.</think>\n\nIt is 4."), **NATIVE)
    events = list(answer(QUESTION, cot(), session, GO_ON))
    end = events[-1]
    assert (end.thinking, end.answer) == ("Hmm.", "It is 4.")
    assert "think>" not in texts(events, Thought) + texts(events, Answer)
    assert session.opened[0].text.count("<think>") == 1


def test_native_budget_closes_the_tag_itself(fake):
    def says(so_far: str) -> str:
        _, closed, reply = so_far.rpartition("</think>\n\n")
        return "on and on " * 99 if not closed else "4"[len(reply) :]

    session = fake(says, **NATIVE)
    end = list(answer(QUESTION, cot(think_tokens=12), session, GO_ON))[-1]
    assert (end.answer, end.thinking_tokens, end.status) == ("4", 12, "complete")
    assert "<" not in end.thinking
    assert session.opened[0].text.count("</think>") == 1


def test_a_style_can_be_asked_for_on_a_thinking_model(fake):
    session = fake(script("</think>", "Draft.\nAnswer: 4"), **NATIVE)
    end = list(answer(QUESTION, cot(style="draft"), session, GO_ON))[-1]
    assert (end.thinking, end.answer) == ("Draft.", "4")
    assert "terse draft" in session.opened[0].text


def test_no_budget_means_no_thought_but_still_an_answer(fake):
    session = fake(thinker("thought", " 4"))
    end = list(answer(QUESTION, cot(think_tokens=0), session, GO_ON))[-1]
    assert (end.thinking_tokens, end.answer) == (0, "4")
    assert "[assistant]t" not in session.opened[0].text


def test_a_full_context_shortens_the_thought_and_keeps_the_answer(fake):
    session = fake(thinker("so " * 400, " four"), context_tokens=420)
    end = list(answer(QUESTION, cot(think_tokens=400, max_tokens=30), session, GO_ON))[-1]
    assert (end.answer, end.status) == ("four", "complete")
    assert 0 < end.thinking_tokens < 400
    assert end.why.startswith("the context ended the thinking")
    assert len(session.opened[0].tokens) <= 420


def test_stopping_while_thinking_keeps_the_thought(fake):
    session = fake(script("[assistant]", "A long thought without an end"))
    events = []
    for event in answer(QUESTION, cot(), session, FakeControl(lambda: len(events) > 8)):
        events.append(event)
    end = events[-1]
    assert (end.status, end.answer) == ("stopped", "")
    assert end.thinking
    assert end.output_tokens == end.thinking_tokens > 0


def test_a_spent_budget_ends_the_thought_and_the_answer_is_still_given(fake):
    session = fake(thinker("so " * 400, " four"))
    events = []
    control = FakeControl(spent_when=lambda: len(events) > 10)
    for event in answer(QUESTION, cot(think_tokens=300), session, control):
        events.append(event)
    end = events[-1]
    assert (end.answer, end.status) == ("four", "budget")
    assert 0 < end.thinking_tokens < 20
    assert end.why.startswith("the budget ended the thinking")


@given(
    think=st.integers(0, 4000),
    answer_tokens=st.integers(1, 4000),
    context=st.integers(100, 5000),
    prompt=st.integers(1, 5000),
    hand_over=st.integers(0, 30),
)
def test_budget_leaves_room_for_the_answer(think, answer_tokens, context, prompt, hand_over):
    arm = cot(think_tokens=think, max_tokens=answer_tokens)
    budget = thinking_budget(arm, context - prompt - hand_over)
    assert 0 <= budget <= think
    if prompt + hand_over + min(answer_tokens, 16) <= context:
        left = context - prompt - hand_over - budget
        assert left >= min(answer_tokens, 16)
