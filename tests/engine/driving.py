"""Driving a session token by token, as tests of it do."""

from __future__ import annotations

import pytest

from etui.arm import Sampling
from etui.chat import Message
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence
from etui.engine.session import Sampled, TokenSequence

GREEDY = Sampling(temperature=0)
QUESTION = "Write two sentences about the sea."


def prompt(session: LlamaSession, *texts: str) -> list[int]:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]  # type: ignore[arg-type]
    return session.tokenize(session.render(messages), bos=True)


def prefill(session: LlamaSession, sequence: TokenSequence) -> list[int]:
    """Compute what is queued; the sizes of the batches it took."""
    sizes = []
    while True:
        step = session.step([sequence])
        sizes.append(step.computed.get(sequence.id, 0))
        if step.sampled:
            return sizes


def generate(session: LlamaSession, sequence: TokenSequence, count: int) -> list[int]:
    """The next ``count`` tokens, fewer if the model ends."""
    tokens: list[int] = []
    while len(tokens) < count:
        step = session.step([sequence])
        for sampled in step.sampled:
            if sampled.ends:
                return tokens
            tokens.append(sampled.token)
    return tokens


def answer(session: LlamaSession, tokens: list[int], count: int, sampling: Sampling) -> list[int]:
    sequence = session.open(tokens, sampling)
    try:
        return generate(session, sequence, count)
    finally:
        session.close(sequence)


def drawn(session: LlamaSession, tokens: list[int], count: int) -> list[Sampled]:
    """What a sequence of its own draws, prefilled whole."""
    sequence = session.open(tokens, GREEDY)
    prefill(session, sequence)
    session.rollback(sequence, 1)
    found = [session.step([sequence]).sampled[0] for _ in range(count)]
    assert not any(sampled.ends for sampled in found)
    return found


def assert_follow(
    session: LlamaSession, sequences: list[LlamaSequence], expected: list[list[Sampled]]
) -> None:
    """The sequences give each expected token the probability it was drawn with.

    Kernels add up in another order for a batch of another size, so near-ties may fall otherwise:
    probabilities are compared, and the expected token is what goes on.
    """
    for draws in zip(*expected, strict=True):
        session.step(sequences)
        for sequence, draw in zip(sequences, draws, strict=True):
            logprob = session.logprobs(sequence, [draw.token])[0]
            assert logprob == pytest.approx(draw.logprob, abs=0.3)
        for sequence, draw in zip(sequences, draws, strict=True):
            session.rollback(sequence, sequence.pending)
            session.extend(sequence, [draw.token])
