"""A context that is full, too small or out of memory says so, and goes on."""

from __future__ import annotations

import pytest

from etui.arm import Sampling
from etui.errors import CacheFull, ContextOverflow, EngineFailed
from tests.engine.driving import GREEDY, QUESTION, prefill, prompt


def test_free_tokens_count_shared_cells_once(session):
    free = session.free_tokens
    parent = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, parent)
    held = len(parent.tokens) - 1
    assert session.free_tokens == free - held
    fork = session.fork(parent, GREEDY)
    assert session.free_tokens == free - held
    session.step([parent, fork])
    assert session.free_tokens == free - held - 2
    session.close(parent)
    session.close(fork)
    assert session.free_tokens == free


def test_open_sequences_that_fill_the_cache_are_told(make_session):
    session = make_session(context_tokens=256)
    parent = session.open(session.tokenize("one two three four " * 40, bos=True)[:200], GREEDY)
    prefill(session, parent)
    shared = parent.computed
    forks = [session.fork(parent, Sampling(temperature=1, seed=seed)) for seed in range(5)]
    room = session.free_tokens

    def fill() -> None:
        for _ in range(56):
            session.step(forks)

    with pytest.raises(CacheFull) as caught:
        fill()
    assert caught.value.sequences == 6
    # Every cell was used before it was refused: the last steps served fewer sequences.
    assert sum(fork.computed - shared for fork in forks) == room
    # Giving sequences up makes room for the others.
    for fork in forks[1:]:
        session.close(fork, keep=False)
    assert session.step(forks[:1]).sampled


def test_a_failed_decode_says_what_to_do_and_harms_nothing(make_session, monkeypatch):
    session = make_session()
    prompt = session.tokenize("Once upon a time in a small village", bos=True)
    expected = [s.token for s in session.step([session.open(prompt, Sampling())]).sampled]
    session = make_session()
    decode = session._context.decode

    def out_of_memory() -> int:
        decode()  # what it computed is in the cache all the same
        return -2

    monkeypatch.setattr(session._context, "decode", out_of_memory)
    sequence = session.open(prompt, Sampling())
    with pytest.raises(EngineFailed, match=r"failed to decode a batch \(code -2\)") as caught:
        session.step([sequence])
    assert "lower `context` or `gpu_layers`" in caught.value.fix
    assert sequence.pending == len(prompt)
    monkeypatch.undo()
    assert [s.token for s in session.step([sequence]).sampled] == expected


def test_more_sequences_than_the_context_holds_are_refused(make_session):
    session = make_session(sequences=2)
    tokens = prompt(session, QUESTION)
    first, second = session.open(tokens, GREEDY), session.open(tokens, GREEDY)
    assert session.free_sequences == 0
    with pytest.raises(EngineFailed, match="2 sequences are open"):
        session.fork(first, GREEDY)
    session.close(second)
    assert session.fork(first, GREEDY).tokens == first.tokens


def test_a_prompt_longer_than_the_context_says_by_how_much(session):
    tokens = [session.tokenize(" sea")[0]] * 1030
    with pytest.raises(ContextOverflow, match="6 tokens too long"):
        session.open(tokens, GREEDY)
