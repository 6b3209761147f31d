"""Log-probabilities of endings after prompts: several prompts per batch, with a shared prefix."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etui.arm import Sampling
from etui.bench.prompts.tokens import PromptEnding, TokenizedPrompt
from etui.engine.session import Session, TokenSequence
from etui.measure.run import StopRequested

_GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one prompt."""

    prompt: TokenizedPrompt
    logprobs: Mapping[str, float]
    """Letter -> log-probability of its ending in nats, full softmax at every token."""
    cached: int  # Number of reused tokens
    computed: int  # Number of tokens computed for it, endings included

    @property
    def choice(self) -> str:
        """The letter with the most likely ending, by weight; the first among equals."""
        return max(self._shares(), key=lambda pair: pair[1])[0]

    @property
    def mass(self) -> float | None:
        """Probability of all endings together; None if they are not single tokens."""
        if not self.prompt.single:
            return None
        return min(1.0, math.fsum(math.exp(value) for value in self.logprobs.values()))

    @property
    def confidence(self) -> float:
        """Probability of the choice among the endings, 0..1."""
        return max(share for _, share in self._shares())

    @property
    def margin(self) -> float:
        """Lead of the choice over the second letter, 0..1."""
        first, second = sorted((share for _, share in self._shares()), reverse=True)[:2]
        return first - second

    def _shares(self) -> list[tuple[str, float]]:
        weighted = [(e.letter, self.logprobs[e.letter] / e.weight) for e in self.prompt.endings]
        top = max(value for _, value in weighted)
        powers = [(letter, math.exp(value - top)) for letter, value in weighted]
        whole = math.fsum(power for _, power in powers)
        return [(letter, power / whole) for letter, power in powers]


@dataclass(slots=True)
class _Tally:
    """Scores of a prompt that is being computed."""

    prompt: TokenizedPrompt
    sequence: TokenSequence
    cached: int
    computed: int
    sums: dict[str, float]


@dataclass(slots=True)
class _Walk:
    """An ending of several tokens that is being scored; the first ``at`` tokens are done."""

    tally: _Tally
    ending: PromptEnding
    sequence: TokenSequence
    at: int


class Scorer:
    """Scores prompts on one session, from a single thread.

    Args:
        session: The model; no other sequences may be opened on it meanwhile.
        cancelled: Checked before every batch.
    """

    def __init__(self, session: Session, cancelled: Callable[[], bool] = lambda: False) -> None:
        self._session = session
        self._cancelled = cancelled
        self._prefix: TokenSequence | None = None
        self.decode_ns = 0
        """Time spent inside llama.cpp."""
        self.computed_tokens = 0
        """Tokens computed, prefixes included."""

    def begin(self, prefix: Sequence[int]) -> int:
        """Compute and keep the prefix that the next prompts share.

        Returns:
            Number of computed tokens.

        Raises:
            StopRequested: The user stopped the run.
            EngineFailed: llama.cpp failed.
        """
        self.end()
        if not prefix:
            return 0
        sequence = self._session.open(prefix, _GREEDY)
        self._prefix = sequence
        before = self.computed_tokens
        while sequence.pending:
            self._step([sequence])
        return self.computed_tokens - before

    def end(self) -> None:
        """Release the prefix."""
        if self._prefix is not None:
            self._session.close(self._prefix, keep=False)
            self._prefix = None

    def score(self, group: Sequence[TokenizedPrompt]) -> list[Scored]:
        """Score prompts together.

        Raises:
            StopRequested: The user stopped the run.
            EngineFailed: llama.cpp failed.
        """
        tallies: list[_Tally] = []
        try:
            for prompt in group:
                sequence = self._session.open(list(prompt.tokens), _GREEDY)
                tallies.append(_Tally(prompt, sequence, sequence.cached, 0, {}))
            self._score_prompts(tallies)
            self._score_endings(tallies)
        finally:
            for tally in tallies:
                self._session.close(tally.sequence, keep=False)
        return [Scored(t.prompt, t.sums, t.cached, t.computed) for t in tallies]

    def _score_prompts(self, tallies: Sequence[_Tally]) -> None:
        """Compute the prompts, and score the first token of every ending from their logits."""
        waiting = list(tallies)
        while waiting:
            computed = self._step([tally.sequence for tally in waiting])
            for tally in waiting:
                tally.computed += computed.get(tally.sequence.id, 0)
                if not tally.sequence.pending:
                    firsts = [ending.tokens[0] for ending in tally.prompt.endings]
                    values = self._session.logprobs(tally.sequence, firsts)
                    letters = [ending.letter for ending in tally.prompt.endings]
                    tally.sums.update(zip(letters, values, strict=True))
            waiting = [tally for tally in waiting if tally.sequence.pending]

    def _score_endings(self, tallies: Sequence[_Tally]) -> None:
        """Score endings of several tokens, one token of each per batch, as many as fit."""
        waiting = deque(
            (tally, ending)
            for tally in tallies
            for ending in tally.prompt.endings
            if len(ending.tokens) > 1
        )
        walks: list[_Walk] = []
        try:
            while waiting or walks:
                while waiting and (self._session.free_sequences or not walks):
                    tally, ending = waiting.popleft()
                    fork = self._session.fork(tally.sequence, _GREEDY)
                    self._session.extend(fork, ending.tokens[:1])
                    walks.append(_Walk(tally, ending, fork, 1))
                self._step([walk.sequence for walk in walks])
                walks = [walk for walk in walks if self._advance(walk)]
        finally:
            for walk in walks:
                self._session.close(walk.sequence, keep=False)

    def _advance(self, walk: _Walk) -> bool:
        """Score the next token of an ending; return whether more tokens follow."""
        token = walk.ending.tokens[walk.at]
        (value,) = self._session.logprobs(walk.sequence, [token])
        walk.tally.sums[walk.ending.letter] += value
        walk.tally.computed += 1
        walk.at += 1
        if walk.at < len(walk.ending.tokens):
            self._session.extend(walk.sequence, [token])
            return True
        self._session.close(walk.sequence, keep=False)
        return False

    def _step(self, sequences: Sequence[TokenSequence]) -> dict[int, int]:
        if self._cancelled():
            raise StopRequested
        step = self._session.step(sequences, draw=False)
        self.decode_ns += step.end_ns - step.start_ns if step.computed else 0
        self.computed_tokens += sum(step.computed.values())
        return step.computed
