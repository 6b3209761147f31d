"""A cache that refuses partial removal, of a model of which etui knows no reason for it."""

from __future__ import annotations

import pytest

from etui.engine.context import Context
from etui.engine.llama_session import LlamaSession
from tests.engine.conftest import MakeSession
from tests.engine.driving import GREEDY, QUESTION, answer, generate, prefill, prompt


class RefusingContext(Context):
    """A context that refuses partial removal."""

    def remove(self, sequence: int, start: int) -> bool:
        return start <= 0 and super().remove(sequence, start)


@pytest.fixture
def refusing(make_session: MakeSession) -> LlamaSession:
    session = make_session()
    session._context.__class__ = RefusingContext
    return session


def test_a_refused_rollback_computes_all_again(refusing):
    sequence = refusing.open(prompt(refusing, QUESTION), GREEDY)
    drawn = generate(refusing, sequence, 3)
    assert refusing.rollback(sequence, 2)
    assert sequence.pending == len(sequence.tokens)
    assert generate(refusing, sequence, 2) == drawn[1:]


def test_a_refused_removal_computes_a_changed_prompt_whole(refusing):
    answer(refusing, prompt(refusing, QUESTION), 4, GREEDY)
    other = prompt(refusing, QUESTION + " Please.")
    sequence = refusing.open(other, GREEDY)
    assert sequence.cached == 0
    assert sum(prefill(refusing, sequence)) == len(other)


def test_a_whole_sequence_goes_on_where_nothing_can_be_removed(refusing):
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    generate(refusing, first, 3)
    computed = first.tokens[: first.computed]
    refusing.close(first)
    more = [*computed, *refusing.tokenize(" And then?")]
    assert refusing.open(more, GREEDY).cached == len(computed)


def test_lost_logits_are_computed_again_with_all_before_them(refusing):
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    prefill(refusing, first)
    drawn_first = first.tokens[-1]
    refusing.rollback(first, 1)
    other = refusing.open(prompt(refusing, "Why?"), GREEDY)
    prefill(refusing, other)
    step = refusing.step([first])
    assert step.computed == {first.id: len(first.tokens) - 1}
    assert step.sampled[0].token == drawn_first
