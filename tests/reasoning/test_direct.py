"""The direct answer on a scripted session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.chat import Message
from etui.errors import ContextOverflow, UsageError
from etui.events import Answer, Finished, Prefilled, Prefilling, Thought
from etui.reasoning.answer import answer
from tests.reasoning.scripted import GO_ON, FakeControl, script

QUESTION = (Message("user", "Why?"),)


def arm(**changes):
    return Arm(name="a", model="fake", **changes)


def test_the_answer_streams_and_ends_by_itself(fake):
    session = fake(script("[assistant]", "Because é."))
    events = list(answer(QUESTION, arm(), session, GO_ON))
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.answer, end.status, end.why) == ("Because é.", "complete", "")
    assert "".join(e.text for e in events if isinstance(e, Answer)) == "Because é."
    assert end.output_tokens == len("Because é.")
    assert end.thinking_tokens == 0
    assert end.prompt_tokens == end.computed_tokens == len("^[user]Why?[assistant]")
    assert end.confidence == pytest.approx(0.60653, abs=1e-4)  # exp(-0.5), as the session says
    prefilled = next(e for e in events if isinstance(e, Prefilled))
    assert prefilled.end_ns == end.prefill_end_ns == end.first_token_ns
    assert end.prefill_end_ns <= end.thinking_end_ns <= end.end_ns
    assert session.closed == [0]


def test_a_prompt_that_was_known_says_what_of_it_was_lost(fake, monkeypatch):
    session = fake(script("[assistant]", "Ok."))
    limit = "this model keeps a window of 512 tokens"
    monkeypatch.setattr(session, "facts", replace(session.facts, cache_limit=limit))
    opened = session.open

    def open_lossy(tokens, sampling, **options):
        sequence = opened(tokens, sampling, **options)
        sequence.computed = sequence.cached = 4
        sequence.lost = 8
        return sequence

    monkeypatch.setattr(session, "open", open_lossy)
    events = list(answer(QUESTION, arm(), session, GO_ON))
    prefilled = next(e for e in events if isinstance(e, Prefilled))
    assert prefilled.recomputed_tokens == 8
    assert prefilled.recomputed_why == f"from a checkpoint: {limit}"


def test_a_long_prompt_tells_its_progress(fake):
    session = fake(script("[assistant]", "Ok."))
    long = (Message("user", "x" * 300),)
    progress = [e for e in answer(long, arm(), session, GO_ON) if isinstance(e, Prefilling)]
    assert [e.done_tokens for e in progress] == [64, 128, 192, 256]
    assert {e.total_tokens for e in progress} == {len("^[user][assistant]") + 300}


def test_max_tokens_truncate_and_say_so(fake):
    session = fake(script("[assistant]", "A very long answer"))
    end = list(answer(QUESTION, arm(max_tokens=6), session, GO_ON))[-1]
    assert (end.answer, end.status, end.output_tokens) == ("A very", "truncated", 6)
    assert end.why == "max tokens cut off the answer after 6 tokens"


def test_a_stop_string_ends_the_answer_and_is_not_shown(fake):
    session = fake(script("[assistant]", "Yes.###more"), stop=("###",))
    end = list(answer(QUESTION, arm(), session, GO_ON))[-1]
    assert (end.answer, end.status) == ("Yes.", "complete")


@pytest.mark.parametrize(
    ("flag", "status", "why"),
    [
        ("cancelled_when", "stopped", "stopped while answering"),
        ("spent_when", "budget", "the budget ended the answer after"),
    ],
)
def test_an_answer_that_is_ended_keeps_its_text(fake, flag, status, why):
    session = fake(script("[assistant]", "One two three"))
    events = []
    for event in answer(QUESTION, arm(), session, FakeControl(**{flag: lambda: len(events) > 5})):
        events.append(event)
    end = events[-1]
    assert end.status == status
    assert end.why.startswith(why)
    assert end.answer
    assert "One two three".startswith(end.answer)
    text = session.opened[0].text.partition("[assistant]")[2]
    assert text == end.answer or text.rstrip() == end.answer, "so that the answer can go on"
    assert session.closed == [0]


def test_cancel_in_mid_prefill_stops_within_one_batch(fake):
    session = fake(script("[assistant]", "never"))
    long = (Message("user", "x" * 1000),)
    events = []
    for event in answer(long, arm(), session, FakeControl(lambda: len(events) == 2)):
        events.append(event)
    end = events[-1]
    assert session.steps == 2
    assert (end.status, end.output_tokens, end.first_token_ns) == ("stopped", 0, None)
    assert end.prompt_tokens == end.cached_tokens + end.computed_tokens == 128


def test_a_prompt_over_the_context_says_by_how_much(fake):
    session = fake(script("[assistant]", "no"), context_tokens=100)
    with pytest.raises(ContextOverflow) as caught:
        list(answer((Message("user", "x" * 200),), arm(), session, GO_ON))
    tokens = len("^[user][assistant]") + 200
    assert f"{tokens + 16 - 100} tokens too long" in caught.value.what


def test_the_oldest_turns_of_a_chat_go_first(fake):
    session = fake(script("[assistant]", "ok"), context_tokens=120)
    chat = (
        Message("system", "S"),
        Message("user", "a" * 50),
        Message("assistant", "b" * 50),
        Message("user", "c"),
        Message("assistant", "d"),
        Message("user", "last"),
    )
    events = list(answer(chat, arm(), session, GO_ON))
    prefilled = next(e for e in events if isinstance(e, Prefilled))
    assert prefilled.dropped_messages == 2
    assert session.opened[0].text.startswith("^[system]S[user]c[assistant]d[user]last")


@pytest.mark.parametrize("switch", [None, "enable_thinking"])
def test_a_model_that_can_think_gets_an_empty_thought(fake, switch):
    tags = {"think_open": "<think>", "think_close": "</think>", "thinking_switch": switch}
    session = fake(script("</think>", "Yes" if switch else "\n\nYes"), **tags)
    events = list(answer(QUESTION, arm(), session, GO_ON))
    assert events[-1].answer == "Yes"
    empty = "<think></think>" if switch else "<think>\n\n</think>\n\n"
    assert f"[assistant]{empty}" in session.opened[0].text
    assert session.opened[0].text.count("<think>") == 1
    assert not [e for e in events if isinstance(e, Thought)]


def test_an_unknown_reasoning_is_refused(fake):
    with pytest.raises(UsageError, match="telepathy"):
        list(answer(QUESTION, arm(reasoning="telepathy"), fake(str), GO_ON))
