"""Arm that scores the endings of several questions per batch and splits the batch's joules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from etui.bench.prompts.formats import Format
from etui.bench.prompts.tokens import (
    SubjectPrompts,
    TokenizedPrompt,
    build_subject_prompts,
    group_prompts,
)
from etui.bench.run.scoring import Scored, Scorer
from etui.bench.run.work import SubjectWork
from etui.bench.store.sample import Sample
from etui.energy.types import Energy, EnergyOf
from etui.engine.llama_session import LlamaSession
from etui.turn.accounting import split_by_tokens
from etui.turn.record import Tokens

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
class _SharedCost:
    """Energy of a subject's worked examples, read once, while the meter still has the interval."""

    shared: Shared
    energy: Energy | None = None

    def read_energy(self, energy_of: EnergyOf) -> Energy:
        if self.energy is None:
            self.energy = energy_of(self.shared.start_ns, self.shared.end_ns)
        return self.energy


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
    cost: _SharedCost | None = field(repr=False)

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answers, each with its energy."""
        group = energy_of(self.start_ns, self.end_ns)
        shared = self.cost.shared if self.cost is not None else None
        before = self.cost.read_energy(energy_of) if self.cost is not None else None
        parts = split_charges(group, [one.computed for one in self.scored], shared, before)
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
            cost = None
            tokens = scorer.begin(prompts.prefix)
            if tokens:
                end_ns = time.monotonic_ns()
                cost = _SharedCost(Shared(start_ns, end_ns, tokens, len(work.questions)))
                start_ns = end_ns
            for group in group_for_batches(prompts, session):
                rows = frozenset(prompt.question.row for prompt in group).difference(work.done)
                if not rows:
                    continue
                scored = scorer.score(group)
                end_ns = time.monotonic_ns()
                yield ScoredGroup(
                    self.name, self._format, start_ns, end_ns, tuple(scored), rows, cost
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
        group: Energy of the group's interval.
        tokens: Tokens computed for each question of the group.
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
                seconds=group.seconds * part + (_seconds(shared) * even if shared else 0.0),
                prefix_tokens=shared.tokens * even if shared is not None else 0.0,
                coverage=None if own is None else min(energy.coverage for energy in read),
                shared=None if own is None else any(energy.shared for energy in read),
            )
        )
    return found


def _add_share(own: float | None, shared: float | None, even: float) -> float | None:
    """Add a share; None if a part is unknown, since a partial sum would look like the total."""
    return None if own is None or shared is None else own + shared * even


def _seconds(shared: Shared) -> float:
    return (shared.end_ns - shared.start_ns) / 1e9


def _kind(group: Energy, shared: Energy | None) -> str | None:
    from etui.energy.scopes import weakest

    kind = weakest(e.kind for e in (group, shared) if e is not None and e.kind is not None)
    return kind.value if kind is not None else None
