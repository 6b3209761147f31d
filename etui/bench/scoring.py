"""Score the endings of questions in shared batches, and split each batch's joules."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from etui.energy.types import Energy, EnergyOf
from etui.engine.llama_session import LlamaSession
from etui.engine.session import Session, TokenSequence
from etui.measure.run import StopRequested
from etui.turn.accounting import split_by_tokens
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

        Raises:
            StopRequested: The user stopped the run; the current question is discarded.
            EtuiError: The engine failed.
        """


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
        """Score prompts together."""
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


OpenSession = Callable[[], LlamaSession]
"""Returns the session of the arm's model; loads the model again if another one replaced it."""
GPU_QUESTIONS = 8
"""Most questions computed together on a GPU: about as many short ones as fit into its batch."""
_CLOZE_QUESTIONS = 3
"""Most questions computed together if endings have several tokens."""
_LEAST_SEQUENCES = 5
"""Sequences of a question whose endings have several tokens: the prompt and four options. One with
more options needs more of them."""


@dataclass(slots=True)
class Shared:
    """The worked examples that the questions of a subject share, computed once.

    Attributes:
        start_ns, end_ns: Interval of the computation, monotonic clock.
    """

    start_ns: int
    end_ns: int
    tokens: int  # Number of computed tokens
    questions: int
    """Questions of the run that share them, including those answered before an interruption."""
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

    arm: str
    format_: Format
    start_ns: int
    end_ns: int
    scored: tuple[Scored, ...]
    kept: frozenset[int]
    """Rows that become samples; the others were answered before the run was interrupted."""
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
            arm=self.arm,
            subject=question.subject,
            row=question.row,
            answer=question.answer,
            choice=choice,
            correct=choice == question.answer,
            status="answered",
            text="",
            logprobs=dict(one.logprobs),
            letter_mass=one.mass if self.format_.reads == "letters" else None,
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


class ScoringArm:
    """Scores questions of one model.

    Args:
        format_: A format that does not generate.
        reuse: Whether worked examples are computed once per subject.
        cancelled: Checked before every batch.
    """

    def __init__(
        self,
        name: str,
        session: OpenSession,
        format_: Format,
        *,
        reuse: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._open = session
        self._format = format_
        self._reuse = reuse
        self._cancelled = cancelled
        self.decode_ns = 0
        """Time spent inside llama.cpp, nanoseconds."""
        self.computed_tokens = 0

    def answer(self, work: SubjectWork) -> Iterator[ScoredGroup]:
        """Score the unanswered questions of a subject, one group at a time.

        Raises:
            StopRequested: The user stopped the run; the current group is discarded.
            ContextOverflow: A question does not fit, even without worked examples.
            EngineFailed: llama.cpp failed.
        """
        session = self._open()
        start_ns = time.monotonic_ns()
        prompts = build_prompts(session, self._format, work, reuse=self._reuse)
        scorer = Scorer(session, self._cancelled)
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
                yield ScoredGroup(
                    self.name, self._format, start_ns, end_ns, tuple(scored), rows, shared
                )
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
    """One question's share of energy, time and tokens."""

    joules: float | None  # Gross joules with its share of the prefix; None if unmeasured
    uncertainty: float | None  # Half width in joules; None if `joules` is
    kind: str | None  # The weaker kind of the two measurements
    seconds: float  # Its share of the time, the prefix's time included
    prefix_tokens: float  # Its share of the prefix's tokens
    coverage: float | None = None
    """The smaller share of both intervals that was recorded, 0..1; None if unmeasured."""
    shared: bool | None = None
    """Whether other processes used the measured devices in either; None if unmeasured."""


def split_charges(
    group: Energy, tokens: Sequence[int], shared: Shared | None, shared_energy: Energy | None
) -> list[Charge]:
    """Split the energy of questions that were computed together.

    A group is split by the tokens computed for each question. The shared prefix is charged equally
    to all questions of the subject, so that the charges of a subject sum to its energy. The
    uncertainty is split like the joules, because the parts of one reading have the same error.

    Args:
        shared: The prefix that the subject shares; None if there is none.
        shared_energy: Energy of the prefix; None if there is none.
    """
    whole = max(1, sum(tokens))
    parts = [count / whole for count in tokens]
    joules = split_by_tokens(group.joules, tokens) if group.joules is not None else None
    even = 1 / shared.questions if shared is not None else 0.0
    found: list[Charge] = []
    read = [group] if shared is None or shared_energy is None else [group, shared_energy]
    for index, part in enumerate(parts):
        own = None if joules is None else joules[index]
        spread = None if group.uncertainty is None else group.uncertainty * part
        if shared is not None and shared_energy is not None:
            own = _add_share(own, shared_energy.joules, even)
            spread = _add_share(spread, shared_energy.uncertainty, even)
        found.append(
            Charge(
                joules=own,
                uncertainty=spread if own is not None else None,
                kind=_kind(group, shared_energy) if own is not None else None,
                seconds=group.seconds * part + (shared.seconds * even if shared else 0.0),
                prefix_tokens=shared.tokens * even if shared is not None else 0.0,
                coverage=None if own is None else min(energy.coverage for energy in read),
                shared=None if own is None else any(energy.shared for energy in read),
            )
        )
    return found


def _add_share(own: float | None, shared: float | None, even: float) -> float | None:
    """Add a share; None if a part is unknown, since a partial sum would look like the total."""
    return None if own is None or shared is None else own + shared * even


def _kind(group: Energy, shared: Energy | None) -> str | None:
    from etui.energy.scopes import weakest

    kind = weakest(e.kind for e in (group, shared) if e is not None and e.kind is not None)
    return kind.value if kind is not None else None
