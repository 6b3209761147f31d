"""Penalties for repeated tokens: they see prompt and answer, whatever became of the sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession
from etui.engine.session import TokenSequence
from tests.engine.driving import GREEDY, QUESTION, answer, generate, prompt

STRONG = Sampling(temperature=0.0, repeat_penalty=1.8)
PRESENT = Sampling(temperature=0.0, presence_penalty=2.0)
WARM = Sampling(temperature=0.8, repeat_penalty=1.5, seed=5)


def penalized(logits: np.ndarray, tokens: list[int], sampling: Sampling) -> np.ndarray:
    """Penalize as llama.cpp's documentation of the sampler says (the CTRL paper)."""
    window = len(tokens) if sampling.repeat_last_n < 0 else sampling.repeat_last_n
    out = logits.astype(np.float64)
    for token in set(tokens[-window:]) if window else ():
        value = out[token]
        out[token] = (
            value * sampling.repeat_penalty if value <= 0 else value / sampling.repeat_penalty
        ) - sampling.presence_penalty
    return out


def expected(session: LlamaSession, tokens: list[int], sampling: Sampling, count: int) -> list[int]:
    """Take the best token after the penalty, from the logits of a sequence without it."""
    sequence, found = session.open(tokens, GREEDY), list[int]()
    while len(found) < count:
        step = session.step([sequence], draw=False)
        if sequence.pending:
            continue
        assert step.computed
        logits = np.array(session._context.logits(sequence.row))
        token = int(penalized(logits, [*tokens, *found], sampling).argmax())
        found.append(token)
        session.extend(sequence, [token])
    session.close(sequence)
    return found


@pytest.mark.parametrize("penalty", [STRONG, PRESENT, replace(STRONG, presence_penalty=-1.0)])
@pytest.mark.parametrize("window", [64, 8, -1])
def test_the_best_token_after_the_penalty_is_taken(make_session, window, penalty):
    sampling = replace(penalty, repeat_last_n=window)
    tokens = prompt(make_session(), QUESTION)
    found = answer(make_session(), tokens, 16, sampling)
    assert found == expected(make_session(), tokens, sampling, len(found))
    assert len(found) >= 8


def test_the_penalty_sees_the_prompt(make_session):
    session = make_session()
    tokens = prompt(session, "Say: red red red red red red")
    first = [answer(make_session(), tokens, 1, each) for each in (GREEDY, STRONG)]
    assert first[0] != first[1] or first[0][0] not in tokens


@pytest.mark.parametrize("off", [{"repeat_penalty": 1.0}, {"repeat_last_n": 0}])
def test_without_a_penalty_the_argmax_is_taken(session, off):
    sequence = session.open(prompt(session, QUESTION), replace(STRONG, **off))
    assert sequence.sampler.greedy


def follow(session: LlamaSession, sequence: TokenSequence, bridge: list[int]) -> list[int]:
    """Draw a token and take it back, queue a bridge, and go on."""
    while not session.step([sequence]).sampled:
        pass
    session.rollback(sequence, 1)
    session.extend(sequence, bridge)
    return generate(session, sequence, 12)


def test_a_fork_a_rollback_and_a_bridge_keep_the_penalty_right(make_session):
    session = make_session()
    tokens = prompt(session, QUESTION)
    bridge = session.tokenize(" Blue, blue and blue again:")
    whole = answer(make_session(), [*tokens, *bridge], 12, STRONG)
    parent = session.open(tokens, GREEDY)  # another sampling: the fork has a state of its own
    fork = session.fork(parent, STRONG)
    assert follow(session, fork, bridge) == whole
    # ... and after the fork has ended, the prefix is reused without its state.
    session.close(fork)
    session.close(parent)
    again = session.open([*tokens, *bridge], STRONG)
    assert again.cached > 0
    assert generate(session, again, 12) == whole


def vote(session: LlamaSession) -> list[list[int]]:
    """Draw two answers with seeds of their own after one prompt."""
    parent = session.open(prompt(session, QUESTION), GREEDY)
    while not session.step([parent]).sampled:
        pass
    session.rollback(parent, 1)
    votes = [session.fork(parent, replace(WARM, seed=seed)) for seed in (5, 6)]
    texts: dict[int, list[int]] = {vote.id: [] for vote in votes}
    for _ in range(12):
        for sampled in session.step(votes).sampled:
            texts[sampled.sequence_id].append(sampled.token)
    return list(texts.values())


def test_votes_with_a_penalty_are_repeated_by_their_seeds(make_session):
    first, other = vote(make_session())
    assert first != other
    assert vote(make_session()) == [first, other]
