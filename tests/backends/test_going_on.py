"""An answer that was cut off goes on with its own tokens, and a fork computes what differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest, Cancel
from etui.backends.local import LocalBackend
from etui.chat import Message, OutputOptions
from etui.config.config import Config
from etui.events import Answer, Event, Finished, Prefilled
from etui.models.spec import ModelSpec

SPEC = ModelSpec("starter", "135M", (), context=1024)
QUESTION = Message("user", "Write a short story about a river, with a café in it. 🦀")


@pytest.fixture
def backend(config: Config) -> Iterator[LocalBackend]:
    with closing(LocalBackend(replace(config, threads=1))) as backend:
        yield backend


def ask(
    backend: LocalBackend,
    path: Path,
    messages: tuple[Message, ...],
    tokens: int,
    turn_id: str,
    continues: str = "",
    stop_after: int | None = None,
) -> tuple[Prefilled, Finished, str]:
    arm = Arm("quick", "starter", max_tokens=tokens, loop_guard=False)
    options = OutputOptions(continues=continues)
    request = AnswerRequest(SPEC, path, messages, arm, options=options, turn_id=turn_id)
    events: list[Event] = []
    cancel = Cancel()
    for event in backend.answer(request, cancel):
        events.append(event)
        if stop_after is not None and len(events) > stop_after:
            cancel.cancel()
    text = "".join(event.text for event in events if isinstance(event, Answer))
    (prefilled,) = [event for event in events if isinstance(event, Prefilled)]
    assert isinstance(events[-1], Finished)
    return prefilled, events[-1], text


def test_an_answer_goes_on_with_one_token_of_prefill_and_as_if_never_cut(backend, starter_model):
    _, whole, _ = ask(backend, starter_model, (QUESTION,), 48, "whole")
    backend.forget()
    _, first, _ = ask(backend, starter_model, (QUESTION,), 20, "a")
    assert first.status == "truncated"
    so_far = (QUESTION, Message("assistant", first.answer))
    prefilled, second, new = ask(backend, starter_model, so_far, 28, "b", continues="a")
    assert prefilled.computed_tokens == 1
    assert prefilled.cached_tokens == first.prompt_tokens + first.output_tokens - 1
    assert second.answer == whole.answer
    assert (first.answer + new).strip() == whole.answer
    third_messages = (QUESTION, Message("assistant", second.answer))
    prefilled, _, _ = ask(backend, starter_model, third_messages, 8, "c", continues="b")
    assert prefilled.computed_tokens == 1


def test_an_answer_that_was_stopped_loses_no_token(backend, starter_model):
    _, whole, _ = ask(backend, starter_model, (QUESTION,), 40, "whole")
    backend.forget()
    _, first, _ = ask(backend, starter_model, (QUESTION,), 40, "a", stop_after=14)
    assert first.status == "stopped"
    assert 0 < first.output_tokens < 20
    so_far = (QUESTION, Message("assistant", first.answer))
    rest = 40 - first.output_tokens
    prefilled, second, _ = ask(backend, starter_model, so_far, rest, "b", continues="a")
    assert prefilled.computed_tokens == 1
    assert second.answer == whole.answer


def test_without_its_tokens_an_answer_goes_on_from_its_text(backend, starter_model):
    _, first, _ = ask(backend, starter_model, (QUESTION,), 20, "a")
    backend.forget()
    so_far = (QUESTION, Message("assistant", first.answer))
    prefilled, second, _ = ask(backend, starter_model, so_far, 8, "b", continues="a")
    assert prefilled.cached_tokens == 0
    assert second.answer.startswith(first.answer)
    assert len(second.answer) > len(first.answer)


def test_a_fork_computes_only_what_differs(backend, starter_model):
    chat = [QUESTION]
    counts = []
    for number, question in enumerate(("Who is in it?", "Where does it end?", "")):
        prefilled, ended, _ = ask(backend, starter_model, tuple(chat), 12, f"turn {number}")
        counts.append(prefilled)
        chat += [Message("assistant", ended.answer), Message("user", question)]
    before = tuple(chat[:2])
    forked = (*before, Message("user", "Who is not in it?"))
    prefilled, _, _ = ask(backend, starter_model, forked, 8, "fork")
    # The second turn's prompt is shared up to the words of its question.
    assert prefilled.cached_tokens >= counts[0].prompt_tokens + 10
    assert prefilled.computed_tokens <= 24
