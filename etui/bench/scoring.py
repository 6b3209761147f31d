"""Score the endings of questions in shared batches, and split each batch's joules."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from etui.arm import Sampling
from etui.bench._tokens import (
    PromptEnding,
    SubjectPrompts,
    TokenizedPrompt,
    build_subject_prompts,
    group_prompts,
)
from etui.bench.formats import Format
from etui.bench.sample import Sample
from etui.datasets.questions import Question
from etui.energy.scopes import weakest
from etui.energy.types import Energy, EnergyOf
from etui.engine.llama_session import LlamaSession
from etui.engine.session import Session, TokenSequence
from etui.measure.run import StopRequested
from etui.turn.accounting import split_by_weights
from etui.turn.record import Tokens


@dataclass(frozen=True, slots=True)
class SubjectWork:
    """One subject of a run."""

    subject: str
    questions: Sequence[Question]
    """Every question of it in the run, in order. Answered ones are included, so that the groups
    that are computed together stay the same."""
    done: Collection[int]  # Rows that are already answered
    examples: Sequence[Question]

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return sum(question.row not in self.done for question in self.questions)


class Answered(Protocol):
    """Questions answered together; their joules are read once the meter has them."""

    @property
    def end_ns(self) -> int:
        """End of the interval that the meter must have read, in monotonic nanoseconds."""

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answers, each with its energy."""


class QuestionAnswerer(Protocol):
    """An arm or a policy that answers questions."""

    def answer(self, work: SubjectWork) -> Iterator[Answered]:
        """Answer the unanswered questions of a subject.

        StopRequested if the user stopped the run; the current question is discarded; EtuiError if
        the engine failed.
        """


_GREEDY = Sampling(temperature=0.0)


@dataclass(slots=True)
class Scored:
    """Scores of one prompt."""

    prompt: TokenizedPrompt
    logprobs: dict[str, float]  # Letter -> that of its ending in nats, full softmax at every token
    cached: int  # Number of reused tokens
    computed: int = 0  # Number of tokens computed for it, endings included

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
class _Walk:
    """An ending of several tokens that is being scored; the first ``at`` tokens are done."""

    scored: Scored
    ending: PromptEnding
    sequence: TokenSequence
    at: int = 1


class Scorer:
    """Scores prompts on one session, from a single thread; no other sequences may be open on it."""

    def __init__(self, session: Session, cancelled: Callable[[], bool] = lambda: False) -> None:
        self._session = session
        self._cancelled = cancelled
        self._prefix: TokenSequence | None = None
        self.decode_ns = 0  # Time spent inside llama.cpp
        self.computed_tokens = 0  # Tokens computed, prefixes included

    def begin(self, prefix: Sequence[int]) -> int:
        """Compute and keep the prefix that the next prompts share; return its computed tokens."""
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
        """Score prompts together."""
        opened: list[tuple[Scored, TokenSequence]] = []
        try:
            for prompt in group:
                sequence = self._session.open(list(prompt.tokens), _GREEDY)
                opened.append((Scored(prompt, {}, sequence.cached), sequence))
            self._score_prompts(opened)
            self._score_endings(opened)
        finally:
            for _, sequence in opened:
                self._session.close(sequence, keep=False)
        return [one for one, _ in opened]

    def _score_prompts(self, opened: Sequence[tuple[Scored, TokenSequence]]) -> None:
        """Compute the prompts, and score the first token of every ending from their logits."""
        waiting = list(opened)
        while waiting:
            computed = self._step([sequence for _, sequence in waiting])
            for one, sequence in waiting:
                one.computed += computed.get(sequence.id, 0)
                if not sequence.pending:
                    endings = one.prompt.endings
                    firsts = [ending.tokens[0] for ending in endings]
                    values = self._session.logprobs(sequence, firsts)
                    letters = [ending.letter for ending in endings]
                    one.logprobs.update(zip(letters, values, strict=True))
            waiting = [pair for pair in waiting if pair[1].pending]

    def _score_endings(self, opened: Sequence[tuple[Scored, TokenSequence]]) -> None:
        """Score endings of several tokens, one token of each per batch, as many as fit."""
        waiting = deque(
            (one, sequence, ending)
            for one, sequence in opened
            for ending in one.prompt.endings
            if len(ending.tokens) > 1
        )
        walks: list[_Walk] = []
        try:
            while waiting or walks:
                while waiting and (self._session.free_sequences or not walks):
                    one, sequence, ending = waiting.popleft()
                    fork = self._session.fork(sequence, _GREEDY)
                    self._session.extend(fork, ending.tokens[:1])
                    walks.append(_Walk(one, ending, fork))
                self._step([walk.sequence for walk in walks])
                walks = [walk for walk in walks if self._advance(walk)]
        finally:
            for walk in walks:
                self._session.close(walk.sequence, keep=False)

    def _advance(self, walk: _Walk) -> bool:
        """Score the next token of an ending; return whether more tokens follow."""
        token = walk.ending.tokens[walk.at]
        (value,) = self._session.logprobs(walk.sequence, [token])
        walk.scored.logprobs[walk.ending.letter] += value
        walk.scored.computed += 1
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


GPU_QUESTIONS = 8
"""Most questions computed together on a GPU: about as many short ones as fit into its batch."""
_CLOZE_QUESTIONS = 3  # Most questions computed together if endings have several tokens
_LEAST_SEQUENCES = 5
"""Sequences of a question whose endings have several tokens: the prompt and four options. One with
more options needs more of them."""


@dataclass(slots=True)
class Shared:
    """The worked examples that the questions of a subject share, computed once."""

    start_ns: int  # Interval of the computation, monotonic clock
    end_ns: int
    tokens: int  # Number of computed tokens
    questions: int  # Those that share them, answered before an interruption or not
    _energy: Energy | None = None

    @property
    def seconds(self) -> float:
        """Duration of the computation."""
        return (self.end_ns - self.start_ns) / 1e9

    def read_energy(self, energy_of: EnergyOf) -> Energy:
        """Read its energy once, while the meter still has the interval."""
        if self._energy is None:
            self._energy = energy_of(self.start_ns, self.end_ns)
        return self._energy


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """Questions that were computed together."""

    arm: ScoringArm
    start_ns: int
    end_ns: int
    scored: tuple[Scored, ...]
    kept: frozenset[int]  # Rows that become samples; the others were answered before
    shared: Shared | None = field(repr=False)

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answers, each with its energy."""
        group = energy_of(self.start_ns, self.end_ns)
        before = None if self.shared is None else self.shared.read_energy(energy_of)
        parts = split_charges(group, [one.computed for one in self.scored], self.shared, before)
        return [
            self._sample(one, part)
            for one, part in zip(self.scored, parts, strict=True)
            if one.prompt.question.row in self.kept
        ]

    def _sample(self, one: Scored, cost: Charge) -> Sample:
        prompt, choice = one.prompt, one.choice
        question = prompt.question
        return Sample(
            arm=self.arm.name,
            subject=question.subject,
            row=question.row,
            answer=question.answer,
            choice=choice,
            correct=choice == question.answer,
            status="answered",
            text="",
            logprobs=dict(one.logprobs),
            letter_mass=one.mass if self.arm.format.reads == "letters" else None,
            confidence=one.confidence,
            margin=one.margin,
            shots=prompt.shots,
            tokens=Tokens(one.cached + one.computed, one.cached, one.computed, 0, 0),
            prefix_tokens=cost.prefix_tokens,
            joules=cost.joules,
            uncertainty=cost.uncertainty,
            kind=cost.kind,
            prefill_joules=cost.joules,
            decode_joules=None if cost.joules is None else 0.0,
            seconds=cost.seconds,
            prompt_sha256=prompt.sha,
            coverage=cost.coverage,
            shared=cost.shared,
        )


@dataclass(slots=True)
class ScoringArm:
    """Scores questions of one model."""

    name: str
    session: Callable[[], LlamaSession]  # Loads the model again if another one replaced it
    format: Format  # One that does not generate
    reuse: bool = True  # Whether worked examples are computed once per subject
    cancelled: Callable[[], bool] = lambda: False  # Checked before every batch
    decode_ns: int = 0  # Time spent inside llama.cpp, nanoseconds
    computed_tokens: int = 0

    def answer(self, work: SubjectWork) -> Iterator[ScoredGroup]:
        """Score the unanswered questions of a subject, one group at a time.

        StopRequested if the user stopped the run; the current group is discarded; ContextOverflow
        if a question does not fit, even without worked examples; EngineFailed if llama.cpp failed.
        """
        session = self.session()
        start_ns = time.monotonic_ns()
        prompts = build_prompts(session, self.format, work, reuse=self.reuse)
        scorer = Scorer(session, self.cancelled)
        try:
            shared = None
            tokens = scorer.begin(prompts.prefix)
            if tokens:
                end_ns = time.monotonic_ns()
                shared = Shared(start_ns, end_ns, tokens, len(work.questions))
                start_ns = end_ns
            for group in group_for_batches(prompts, session):
                rows = frozenset(prompt.question.row for prompt in group).difference(work.done)
                if not rows:
                    continue
                scored = scorer.score(group)
                end_ns = time.monotonic_ns()
                yield ScoredGroup(self, start_ns, end_ns, tuple(scored), rows, shared)
                start_ns = end_ns
        finally:
            scorer.end()
            self.decode_ns += scorer.decode_ns
            self.computed_tokens += scorer.computed_tokens


def build_prompts(
    session: LlamaSession, format_: Format, work: SubjectWork, *, reuse: bool = True
) -> SubjectPrompts:
    """Build the prompts of a subject, in the tokens of a session's model."""
    return build_subject_prompts(
        format_,
        work.questions,
        work.examples,
        lambda text: session.tokenize(text, bos=True, special=False),
        session.facts.context_tokens,
        reuse=reuse,
    )


def most_questions(gpu: bool) -> int:
    """Return the most questions whose letters are read from one batch.

    On a CPU more than one question brings no speed and costs accuracy: with other sequences in the
    cache between a question and its examples, attention sums in another order, which the rounding
    of quantised activations turns into up to 0.1 nats.
    """
    return GPU_QUESTIONS if gpu else 1


def group_for_batches(
    prompts: SubjectPrompts, session: LlamaSession
) -> Iterator[tuple[TokenizedPrompt, ...]]:
    """Group prompts that are computed together: as many questions as fit into one batch."""
    options = session.options
    if all(prompt.single for prompt in prompts.prompts):
        most = min(most_questions(options.offload_kv), options.sequences - 1)
    else:
        endings = max(len(prompt.endings) for prompt in prompts.prompts)
        each = max(_LEAST_SEQUENCES, 1 + endings)
        most = max(1, min(_CLOZE_QUESTIONS, (options.sequences - 1) // each))
    room = options.context_tokens - len(prompts.prefix)
    return group_prompts(prompts.prompts, min(options.batch_tokens, room), most, room)


@dataclass(frozen=True, slots=True)
class Charge:
    """One question's share of energy, time and tokens, that of the prefix included."""

    joules: float | None  # Gross joules; None if unmeasured
    uncertainty: float | None  # Half width in joules; None if `joules` is
    kind: str | None  # The weaker kind of the two measurements
    seconds: float
    prefix_tokens: float  # Its share of the prefix's tokens
    coverage: float | None  # The smaller recorded share of both intervals, 0..1
    shared: bool | None  # Whether other processes used the measured devices in either


def split_charges(
    group: Energy, tokens: Sequence[int], shared: Shared | None, shared_energy: Energy | None
) -> list[Charge]:
    """Split the energy of questions that were computed together.

    A group is split by the tokens computed for each question. The shared prefix is charged equally
    to all questions of the subject, so that the charges of a subject sum to its energy. The
    uncertainty is split like the joules, because the parts of one reading have the same error.
    Without a shared prefix, it and its energy are None.
    """
    whole = max(1, sum(tokens))
    joules = split_by_weights(group.joules, tokens) if group.joules is not None else None
    even = 1 / shared.questions if shared is not None else 0.0
    read = [group] if shared_energy is None else [group, shared_energy]
    kind = weakest(energy.kind for energy in read if energy.kind is not None)
    found: list[Charge] = []
    for index, count in enumerate(tokens):
        part = count / whole
        own = None if joules is None else joules[index]
        spread = None if group.uncertainty is None else group.uncertainty * part
        if shared_energy is not None:
            own = _add_share(own, shared_energy.joules, even)
            spread = _add_share(spread, shared_energy.uncertainty, even)
        known = own is not None
        found.append(
            Charge(
                joules=own,
                uncertainty=spread if known else None,
                kind=kind.value if known and kind is not None else None,
                seconds=group.seconds * part + (shared.seconds * even if shared else 0.0),
                prefix_tokens=shared.tokens * even if shared is not None else 0.0,
                coverage=min(energy.coverage for energy in read) if known else None,
                shared=any(energy.shared for energy in read) if known else None,
            )
        )
    return found


def _add_share(own: float | None, shared: float | None, even: float) -> float | None:
    """Add a share; None if a part is unknown, since a partial sum would look like the total."""
    return None if own is None or shared is None else own + shared * even
