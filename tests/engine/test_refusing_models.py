"""Models that refuse partial removal: nothing of theirs is reused in part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from etui.engine.context import Context
from etui.engine.llama_session import LlamaSession
from tests.engine.conftest import MakeSession
from tests.engine.driving import GREEDY, QUESTION, answer, generate, prefill, prompt


class RefusingContext(Context):
    """A context that refuses partial removal, as recurrent and hybrid models do."""

    def remove(self, sequence: int, start: int) -> bool:
        return start <= 0 and super().remove(sequence, start)


@pytest.fixture
def refusing(make_session: MakeSession) -> Iterator[LlamaSession]:
    session = make_session()
    session._context.__class__ = RefusingContext
    session._model.recurrent = True
    yield session
    session._model.recurrent = False


def test_a_refused_rollback_changes_nothing(refusing):
    sequence = refusing.open(prompt(refusing, QUESTION), GREEDY)
    generate(refusing, sequence, 3)
    before = list(sequence.tokens)
    assert not refusing.rollback(sequence, 2)
    assert sequence.tokens == before
    assert refusing.rollback(sequence, 1)  # the queued token needs no removal
    assert refusing.step([sequence]).sampled[0].token == before[-1]


def test_a_refusing_model_computes_a_changed_prompt_whole(refusing):
    answer(refusing, prompt(refusing, QUESTION), 4, GREEDY)
    other = prompt(refusing, QUESTION + " Please.")
    sequence = refusing.open(other, GREEDY)
    assert sequence.cached == 0
    assert sum(prefill(refusing, sequence)) == len(other)


def test_a_refusing_model_goes_on_from_a_whole_sequence(refusing):
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    generate(refusing, first, 3)
    computed = first.tokens[: first.computed]
    refusing.close(first)
    more = [*computed, *refusing.tokenize(" And then?")]
    assert refusing.open(more, GREEDY).cached == len(computed)


def test_a_refusing_model_computes_all_again_for_lost_logits(refusing):
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    prefill(refusing, first)
    drawn_first = first.tokens[-1]
    refusing.rollback(first, 1)
    other = refusing.open(prompt(refusing, "Why?"), GREEDY)
    prefill(refusing, other)
    step = refusing.step([first])
    assert step.computed == {first.id: len(first.tokens) - 1}
    assert step.sampled[0].token == drawn_first


@pytest.fixture
def windowed(make_session: MakeSession) -> Iterator[LlamaSession]:
    """A model with a sliding window, in a context that keeps no more than the window."""
    session = make_session()
    session._model.sliding_window = 16
    keep_window(session, whole=False)
    yield session
    session._model.sliding_window = 0


def keep_window(session: LlamaSession, *, whole: bool) -> None:
    """Give a session the context that it would have been opened with."""
    context = session._context
    context.options = replace(session.options, full_window=whole)


def test_a_window_that_has_moved_on_is_not_moved_back(windowed):
    answer(windowed, prompt(windowed, QUESTION), 4, GREEDY)
    other = prompt(windowed, QUESTION + " Please.")
    sequence = windowed.open(other, GREEDY)
    assert sequence.cached == 0
    generate(windowed, sequence, 3)
    assert not windowed.rollback(sequence, 2)
    computed = sequence.tokens[: sequence.computed]
    windowed.close(sequence)
    more = [*computed, *windowed.tokenize(" And then?")]
    assert windowed.open(more, GREEDY).cached == len(computed)


def test_a_whole_window_is_reused_like_any_cache(windowed):
    keep_window(windowed, whole=True)
    answer(windowed, prompt(windowed, QUESTION), 4, GREEDY)
    assert windowed.open(prompt(windowed, QUESTION + " Please."), GREEDY).cached > 0
