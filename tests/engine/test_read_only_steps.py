"""Steps that draw nothing: the log-probabilities of several sequences after one batch."""

from __future__ import annotations

import pytest

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession

GREEDY = Sampling(temperature=0)


def test_a_step_that_draws_nothing_leaves_the_tokens_alone(session: LlamaSession) -> None:
    tokens = session.tokenize("One two three", bos=True)
    sequence = session.open(tokens, GREEDY)
    step = session.step([sequence], draw=False)
    assert step.sampled == ()
    assert step.computed == {sequence.id: len(tokens)}
    assert list(sequence.tokens) == tokens
    assert sequence.pending == 0


def test_each_sequence_of_a_batch_tells_its_own_logprobs(session: LlamaSession) -> None:
    texts = ["The capital of France is", "Two and two make"]
    answers = [session.tokenize(text)[0] for text in (" Paris", " four")]
    alone = []
    for text in texts:
        sequence = session.open(session.tokenize(text, bos=True), GREEDY)
        session.step([sequence], draw=False)
        alone.append(session.logprobs(sequence, answers))
        session.close(sequence, keep=False)
    together = [session.open(session.tokenize(text, bos=True), GREEDY) for text in texts]
    session.step(together, draw=False)
    for sequence, expected in zip(together, alone, strict=True):
        assert session.logprobs(sequence, answers) == pytest.approx(expected, abs=1e-3)
    assert alone[0][0] > alone[0][1]
    assert alone[1][1] > alone[1][0]


def test_a_drawing_step_goes_on_after_one_that_drew_nothing(session: LlamaSession) -> None:
    tokens = session.tokenize("The capital of France is", bos=True)
    sequence = session.open(tokens, GREEDY)
    session.step([sequence], draw=False)
    (drawn,) = session.step([sequence]).sampled
    assert drawn.token == session.tokenize(" Paris")[0]


def test_a_session_that_forgets_reuses_nothing(session: LlamaSession) -> None:
    tokens = session.tokenize("One two three four five six", bos=True)
    first = session.open(tokens, GREEDY)
    session.step([first])
    session.close(first)
    again = session.open(tokens, GREEDY)
    assert again.cached > 0
    session.close(again)
    free = session.free_sequences
    session.forget()
    anew = session.open(tokens, GREEDY)
    assert anew.cached == 0
    assert session.free_sequences == free - 1
