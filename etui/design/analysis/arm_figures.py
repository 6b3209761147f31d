"""Figures of every arm: accuracy, joules, tokens and time, over the paired questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.accuracy import OUTCOMES, classify_outcome, compute_accuracy
from etui.bench.cost import Cost, compute_cost
from etui.design.analysis.intervals import compute_mean_interval
from etui.design.analysis.paired import Paired
from etui.design.analysis.strategies import Strategy
from etui.stats.frontier import hull
from etui.stats.tests import Interval

if TYPE_CHECKING:
    from etui.bench.sample import Sample


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Figures of one arm."""

    strategy: Strategy
    questions: int
    accuracy: Interval  # Share of right answers
    energy: Cost | None
    """Joules per question, right answer and output token, over the questions of which every metered
    arm has joules; None if unmeasured."""
    output_tokens: Interval  # Thinking and answer tokens of a question
    seconds: Interval  # Time of a question
    ttft_seconds: Interval | None
    """Time to first token, over the questions of which it is known; None if none."""
    outcomes: dict[str, int]
    """Each of ``right``, ``wrong``, ``no_answer``, ``truncated``, ``error`` -> number."""
    on_hull: bool = False
    """Whether no random mixture of other arms is as accurate for as few joules."""

    @property
    def lost(self) -> int:
        """Questions without an answer."""
        return sum(self.outcomes[name] for name in OUTCOMES if name not in ("right", "wrong"))


def compute_arm_figures(paired: Paired, seed: int) -> tuple[ArmFigures, ...]:
    """Compute the figures of every arm; empty without a paired question."""
    if not len(paired):
        return ()
    measured = paired.measured.tolist()
    costs = {
        one: compute_cost(
            [s for s, kept in zip(paired.column(one), measured, strict=True) if kept], seed
        )
        for one, metered in zip(paired.layout.strategies, paired.metered, strict=True)
        if metered
    }
    found = [
        _compute_arm(one, paired.column(one), costs.get(one), seed)
        for one in paired.layout.strategies
    ]
    points = {
        one.strategy.arm: (one.energy.per_question.value, one.accuracy.value)
        for one in found
        if one.energy is not None
    }
    best = set(hull(points)) if len(points) == len(found) else set()
    return tuple(
        ArmFigures(
            one.strategy, one.questions, one.accuracy, one.energy, one.output_tokens, one.seconds,
            one.ttft_seconds, one.outcomes, one.strategy.arm in best,
        )
        for one in found
    )  # fmt: skip


def _compute_arm(
    strategy: Strategy, samples: tuple[Sample, ...], energy: Cost | None, seed: int
) -> ArmFigures:
    def mean(read: Callable[[Sample], float | None]) -> Interval | None:
        known = [(sample.subject, read(sample)) for sample in samples]
        pairs = [(subject, value) for subject, value in known if value is not None]
        return compute_mean_interval([v for _, v in pairs], [s for s, _ in pairs], seed)

    tokens, seconds = mean(lambda s: float(s.tokens.output)), mean(lambda s: s.seconds)
    assert tokens is not None
    assert seconds is not None
    outcomes = [classify_outcome(sample) for sample in samples]
    return ArmFigures(
        strategy=strategy,
        questions=len(samples),
        accuracy=compute_accuracy(samples, seed).micro,
        energy=energy,
        output_tokens=tokens,
        seconds=seconds,
        ttft_seconds=mean(lambda s: s.ttft_seconds),
        outcomes={name: outcomes.count(name) for name in OUTCOMES},
    )
