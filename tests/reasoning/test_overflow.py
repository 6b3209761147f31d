"""What is cut when the conversation, the thought and the answer do not all fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.chat import Message, OutputOptions
from etui.errors import ContextOverflow
from etui.events import Finished, Prefilled
from etui.reasoning.answer import answer
from etui.reasoning.answer_plan import without_oldest
from tests.reasoning.scripted import GO_ON, script

HISTORY = (
    Message("user", "x" * 100),
    Message("assistant", "y" * 100),
    Message("user", "Why?"),
)
THINK = Arm("think", "m", "cot", think_tokens=400, max_tokens=50)
MUSES = script("[assistant]", "m" * 600)


def run(session, arm):
    events = list(answer(HISTORY, arm, session, GO_ON))
    (prefilled,) = [e for e in events if isinstance(e, Prefilled)]
    (end,) = [e for e in events if isinstance(e, Finished)]
    return prefilled, end


@pytest.mark.parametrize(
    ("overflow", "dropped", "whole"),
    [("truncate_thought", 0, False), ("drop_history", 2, True)],
)
def test_the_thought_shrinks_or_the_oldest_messages_go(fake, overflow, dropped, whole):
    prefilled, end = run(fake(MUSES, context_tokens=700), replace(THINK, context_overflow=overflow))
    assert prefilled.dropped_messages == dropped
    assert 0 < end.thinking_tokens <= 400
    assert (end.thinking_tokens > 300) is whole


def test_nothing_is_cut_where_it_is_to_fail(fake):
    arm = replace(THINK, context_overflow="fail")
    with pytest.raises(ContextOverflow, match="tokens too long"):
        run(fake(MUSES, context_tokens=700), arm)
    prefilled, end = run(fake(MUSES, context_tokens=1200), arm)
    assert (prefilled.dropped_messages, end.thinking_tokens) == (0, 400)


def test_a_question_alone_needs_only_the_least(fake):
    """Dropping the history cannot make room for a thought larger than the context."""
    arm = replace(THINK, think_tokens=5000, context_overflow="drop_history")
    prefilled, end = run(fake(MUSES, context_tokens=700), arm)
    assert prefilled.dropped_messages == 2
    assert 0 < end.thinking_tokens < 700


@pytest.mark.parametrize(("overflow", "dropped"), [("truncate_thought", 0), ("drop_history", 2)])
def test_a_direct_answer_keeps_its_reserve_by_dropping(fake, overflow, dropped):
    arm = Arm("quick", "m", max_tokens=100, context_overflow=overflow)
    prefilled, _ = run(fake(script("[assistant]", "Because."), context_tokens=300), arm)
    assert prefilled.dropped_messages == dropped


@pytest.mark.parametrize(
    ("roles", "kept"),
    [
        ("system user assistant user", ("system user", None)),
        ("user assistant user assistant tool", ("user assistant tool", None)),
        ("user assistant tool assistant user assistant tool", ("user assistant tool", None)),
        ("system user assistant tool", (None,)),
        ("assistant user", ("user", None)),
        ("user", (None,)),
        ("assistant tool", ("tool", None)),
    ],
)
def test_calls_of_tools_stay_with_their_question(roles, kept):
    messages = tuple(Message(role, role) for role in roles.split())
    for expected in kept:
        messages = without_oldest(messages)
        found = None if messages is None else " ".join(message.role for message in messages)
        assert found == expected


def test_thousands_of_turns_are_read_a_few_times_only(fake):
    turns = (Message("user", "x" * 9), Message("assistant", "y" * 9)) * 1000
    session = fake(script("[assistant]", "Because."), context_tokens=300)
    read: list[int] = []
    render = session.render

    def count(messages, **options):
        read.append(len(messages))
        return render(messages, **options)

    session.render = count
    arm = Arm("quick", "m", max_tokens=100, context_overflow="drop_history")
    (prefilled,) = [
        e
        for e in answer((*turns, Message("user", "Why?")), arm, session, GO_ON)
        if isinstance(e, Prefilled)
    ]
    assert len(read) < 14
    fitted = len(turns) + 1 - prefilled.dropped_messages
    assert 1 < fitted < 50
    assert fitted + 2 in read  # one turn more was tried, and did not fit


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("overflow", ["fail", "truncate_thought", "drop_history"])
def test_megabytes_are_refused_without_reading_them(fake, raw, overflow):
    session = fake(script("[assistant]", "Because."), context_tokens=300)
    session.tokenize = session.render = None
    arm = Arm("quick", "m", max_tokens=100, context_overflow=overflow)
    chat = (Message("system", " " * 1_000_000), Message("user", "Why?"))
    if raw:
        chat = (Message("user", " " * 1_000_000),)
    with pytest.raises(ContextOverflow, match="it has 15625 tokens"):
        list(answer(chat, arm, session, GO_ON, options=OutputOptions(raw=raw)))
