"""Summary of a run: the document of ``summary.json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etui.bench.accuracy import (
    CHANCE,
    LOW_MASS,
    ConstantLetter,
    Oracle,
    SystemAccuracy,
    compute_accuracy,
    constant_letter,
    oracle,
)
from etui.bench.config import RunConfig
from etui.bench.cost import (
    Cost,
    CostOverTime,
    compute_cost,
    compute_costs_over_time,
    compute_percentiles,
)
from etui.bench.formats import grades_numbers
from etui.bench.machines import explain_difference, group_equal, is_comparison
from etui.bench.precision import RunPrecision
from etui.bench.sample import Sample
from etui.codec import to_document
from etui.energy import tariff
from etui.energy.energy_record import RecordPercentiles
from etui.stats.frontier import hull
from etui.turn.speculation import sum_speculation


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """Results of one system on one machine."""

    name: str  # Processor, number of CPUs and system
    devices: tuple[str, ...]  # Models of its GPUs; empty without
    group: int  # Machines of the same group are equal, so that their joules may be pooled; from 0
    questions: int  # Number of questions that it answered, and of right answers
    correct: int
    seconds: float  # Sum over the questions
    energy: Cost | None  # Cost of the answers; None if unmeasured


def may_pool(samples: Iterable[Sample], run: RunConfig) -> bool:
    """Test whether the machines that answered are all equal; a run of one machine always is."""
    if run.machines is None:
        return True
    keys = {sample.machine for sample in samples}
    used = [machine for machine in run.machines if machine.key in keys]
    return len(keys) <= 1 or (len(used) == len(keys) and len(group_equal(used)) == 1)


def drop_unpooled(samples: Sequence[Sample], run: RunConfig) -> Sequence[Sample]:
    """Return the samples, without their joules if their machines are not all equal.

    A sum, a mean or a difference over unlike machines depends on which of them answered what. In a
    comparison of machines each system is on one of them, so its joules stay.
    """
    if is_comparison(run) or may_pool(samples, run):
        return samples
    return [sample.without_joules() for sample in samples]


def summarise_machines(
    samples: Sequence[Sample], run: RunConfig
) -> dict[str, MachineSummary] | None:
    """Summarise the answers of one system by machine, in the order of the machines.

    Its samples have their joules. Machines that answered nothing are left out; None for a run of
    one machine.
    """
    if run.machines is None:
        return None
    groups = {
        machine.key: at for at, group in enumerate(group_equal(run.machines)) for machine in group
    }
    found = {}
    for machine in run.machines:
        inside = [sample for sample in samples if sample.machine == machine.key]
        if inside:
            found[machine.key] = MachineSummary(
                name=machine.name,
                devices=machine.devices or (),
                group=groups[machine.key],
                questions=len(inside),
                correct=sum(sample.correct for sample in inside),
                seconds=math.fsum(sample.seconds for sample in inside),
                energy=compute_cost(inside, run.seed),
            )
    return found


def explain_unpooled(samples: Sequence[Sample], run: RunConfig) -> str | None:
    """Say why the joules of a run are not pooled; None if they are."""
    if run.machines is None or is_comparison(run) or may_pool(samples, run):
        return None
    keys = {sample.machine for sample in samples}
    used = [machine for machine in run.machines if machine.key in keys]
    return f"joules are given by machine and not pooled: {explain_difference(used)}"


SUMMARY_VERSION = 1
_MANY = 0.05  # Share of lost answers or shortened prompts above which there is a warning


@dataclass(frozen=True, slots=True)
class TokenTotals:
    """Tokens of a system's questions; ``prefix`` counts those of shared prefixes."""

    prompt: int
    cached: int
    computed: int
    thinking: int
    output: int
    prefix: float


@dataclass(frozen=True, slots=True)
class SpeculationTotals:
    """Drafted tokens of a system's answers, as in :mod:`etui.turn.record`.

    Attributes:
        batches, drafted, accepted: Verified batches, their drafted and their accepted tokens.
        verify_joules, draft_joules, waste_joules: None if one of the questions is unmeasured.

    Each ``_uncertainty`` is a half width in joules; those of the questions are added.
    """

    questions: int  # Questions with drafted tokens; all values are sums over these
    method: str  # Methods that drafted, joined by `+`
    batches: int
    drafted: int
    accepted: int
    acceptance: float  # `accepted` over `drafted`
    verify_joules: float | None
    verify_uncertainty: float | None
    draft_joules: float | None
    draft_uncertainty: float | None
    waste_joules: float | None
    waste_uncertainty: float | None
    joules_per_accepted_token: float | None  # Of drafted rows and of the drafting
    joules_per_accepted_token_uncertainty: float | None


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Results of one system."""

    accuracy: SystemAccuracy  # Right answers
    energy: Cost | None  # None also if the machines of the run are not equal
    tokens: TokenTotals  # Sums over the questions
    seconds: float  # Sum over the questions
    questions_per_second: float | None  # None if `seconds` is 0
    fewer_shots: int  # Number of prompts with fewer worked examples than requested
    routes: dict[str, int]  # Arm -> number of questions it answered; empty unless a policy decided
    rules: dict[str, int]  # Rule of the policy -> number of questions it matched
    speculation: SpeculationTotals | None = None  # Drafted tokens; None if nothing was drafted
    machines: dict[str, MachineSummary] | None = None  # By key; None for one machine
    percentiles: RecordPercentiles | None = None  # Also of the times between tokens
    courses: tuple[CostOverTime, ...] = ()
    """The course of the answers on each machine; unlike all else, it depends on the order of the
    samples."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The document of ``summary.json``; attributes not listed are as in ``RunConfig``."""

    summary_version: int
    run_id: str
    started_at: str
    suite: str
    split: str
    data_sha256: str
    format: str
    format_version: int
    shots: int
    seed: int
    policy: str | None  # Name of the run's policy
    routed: bool
    questions: int  # Of each system; those asked, if it stopped at a precision
    complete: bool  # Whether every system answered all of them
    chance: float  # Accuracy of guessing an option; 0 if the answers are numbers
    constant_letter: ConstantLetter | None  # None without answers, and for numbers
    arms: dict[str, ArmSummary]
    """System -> results, in the order of the configuration, without those that have no answers."""
    hull: list[str]  # The systems on the upper hull, cheapest first; empty if one is unmeasured
    oracle: Oracle | None  # None with only one system
    warnings: list[str]  # Caveats about the figures
    grading: str | None = None  # As in `RunConfig`; None is the letter of an option
    precision: RunPrecision | None = None  # None if no precision was asked for
    cost: tariff.Cost | None = None  # Each answer at the price of its time; None without a tariff

    @property
    def kinds(self) -> set[str | None]:
        """Kinds of the arms' joules; None for an arm without."""
        return {arm.energy.kind if arm.energy else None for arm in self.arms.values()}


def summarise(
    samples: Sequence[Sample],
    run: RunConfig,
    labels: Mapping[str, Mapping[int, str]] | None = None,
    precision: RunPrecision | None = None,
) -> Summary:
    """Summarise a run from its answers so far; their order matters only for ``courses``.

    ``labels`` of MMLU-Redux are used only for MMLU's test questions.
    """
    if run.suite != "mmlu" or run.split != "test":
        labels = None
    questions = run.questions
    if precision is not None and precision.reached:
        questions = precision.questions
    grouped = group_by_system(samples, run)
    courses = compute_costs_over_time(samples, run)
    arms = {name: _arm(inside, run, labels, courses[name]) for name, inside in grouped.items()}
    if run.machines is not None:
        measured = group_samples(samples, run)
        arms = {
            name: replace(arm, machines=summarise_machines(measured[name], run))
            for name, arm in arms.items()
        }
    costs = [sample.cost for sample in samples if sample.cost is not None]
    points = {
        name: (arm.energy.per_question.value, arm.accuracy.micro.value)
        for name, arm in arms.items()
        if arm.energy is not None
    }
    return Summary(
        summary_version=SUMMARY_VERSION,
        run_id=run.run_id,
        started_at=run.started_at,
        suite=run.suite,
        split=run.split,
        data_sha256=run.data_sha256,
        format=run.format,
        format_version=run.format_version,
        shots=run.shots,
        seed=run.seed,
        policy=run.policy.name if run.policy else None,
        routed=run.routed,
        questions=questions,
        complete=bool(arms)
        and len(arms) == len(run.contenders)
        and all(arm.accuracy.questions == questions for arm in arms.values()),
        chance=CHANCE if run.chance is None else run.chance,
        constant_letter=constant_letter(samples)
        if samples and not grades_numbers(run.grading)
        else None,
        arms=arms,
        hull=hull(points) if len(points) == len(arms) else [],
        oracle=oracle(grouped),
        warnings=_warnings(arms, run, samples, questions),
        grading=run.grading,
        precision=precision,
        cost=sum(costs, tariff.Cost()) if costs else None,
    )


def summary_document(summary: Summary) -> dict[str, Any]:
    """Return the document of ``summary.json``, as plain JSON values.

    Later additions appear only where they are used, so that the summaries of other runs keep their
    form.
    """
    document: dict[str, Any] = to_document(summary)
    document["cost"] = None if summary.cost is None else summary.cost.to_json()
    for name in ("grading", "precision", "cost"):
        if document[name] is None:
            del document[name]
    for arm in document["arms"].values():
        if arm["accuracy"]["strict"] is None:
            del arm["accuracy"]["strict"]
    return document


def group_by_system(samples: Iterable[Sample], run: RunConfig) -> dict[str, list[Sample]]:
    """Group samples by system, in configuration order; samples are sorted by question.

    They have no joules if the machines of the run are not equal.
    """
    return group_samples(drop_unpooled(list(samples), run), run)


def group_samples(samples: Iterable[Sample], run: RunConfig) -> dict[str, list[Sample]]:
    """Group samples as :func:`group_by_system`, with their joules whatever the machines are."""
    found: dict[str, list[Sample]] = {name: [] for name in run.contenders}
    for sample in samples:
        found.setdefault(run.contender(sample.arm), []).append(sample)
    return {
        name: sorted(inside, key=lambda sample: (sample.subject, sample.row))
        for name, inside in found.items()
        if inside
    }


def _arm(
    samples: Sequence[Sample],
    run: RunConfig,
    labels: Mapping[str, Mapping[int, str]] | None,
    courses: tuple[CostOverTime, ...],
) -> ArmSummary:
    seconds = math.fsum(sample.seconds for sample in samples)
    names = ("prompt", "cached", "computed", "thinking", "output")
    totals = {name: sum(getattr(sample.tokens, name) for sample in samples) for name in names}
    routes = Counter(sample.arm for sample in samples) if run.routed else {}
    rules = Counter(sample.rule for sample in samples if sample.rule is not None)
    return ArmSummary(
        accuracy=compute_accuracy(samples, run.seed, labels),
        energy=compute_cost(samples, run.seed),
        tokens=TokenTotals(**totals, prefix=math.fsum(sample.prefix_tokens for sample in samples)),
        seconds=seconds,
        questions_per_second=len(samples) / seconds if seconds > 0 else None,
        fewer_shots=sum(sample.shots < run.shots for sample in samples),
        routes=dict(sorted(routes.items())),
        rules=dict(sorted(rules.items())),
        speculation=_sum_speculation(samples),
        percentiles=compute_percentiles(samples),
        courses=courses,
    )


def _sum_speculation(samples: Sequence[Sample]) -> SpeculationTotals | None:
    records = [sample.speculation for sample in samples if sample.speculation is not None]
    total = sum_speculation(records)
    if total is None:
        return None
    return SpeculationTotals(
        questions=len(records),
        method=total.method,
        batches=total.batches,
        drafted=total.drafted,
        accepted=total.accepted,
        acceptance=total.accepted / total.drafted,
        verify_joules=total.verify_joules,
        verify_uncertainty=total.verify_uncertainty,
        draft_joules=total.draft_joules,
        draft_uncertainty=total.draft_uncertainty,
        waste_joules=total.waste_joules,
        waste_uncertainty=total.waste_uncertainty,
        joules_per_accepted_token=total.joules_per_accepted_token,
        joules_per_accepted_token_uncertainty=total.joules_per_accepted_token_uncertainty,
    )


def _warnings(
    arms: Mapping[str, ArmSummary], run: RunConfig, samples: Sequence[Sample], questions: int
) -> list[str]:
    found = []
    unpooled = explain_unpooled(samples, run)
    if unpooled is not None:
        found.append(unpooled)
    if run.part is not None:
        found.append(
            f"part {run.part.index + 1} of {run.part.count} of a plan of "
            f"{sum(run.drawn.values()):,} questions: join the parts with `etui bench merge`"
        )
    letters = {len(sample.logprobs) for sample in samples if sample.logprobs}
    named = "the four letters get" if letters == {4} else "the letters of the options get"
    answer = "number" if grades_numbers(run.grading) else "letter"
    for name, arm in arms.items():
        accuracy, energy = arm.accuracy, arm.energy
        count = accuracy.questions
        if count < questions:
            found.append(f"{name}: {count:,} of {questions:,} questions answered")
        mass = accuracy.letter_mass
        if (
            mass
            and run.format.startswith("letters")
            and (mass.mean < LOW_MASS or mass.share_below_half > 0.25)
        ):
            found.append(
                f"{name}: {named} {mass.mean:.2f} of the probability on average, "
                f"and less than half on {mass.share_below_half:.0%} of the questions: the model "
                "prefers to write something else, so its choice of a letter means less"
            )
        for outcome, text in _LOST.items():
            lost = accuracy.outcomes[outcome]
            if lost > _MANY * count:
                found.append(f"{name}: {lost:,} of {count:,} questions {text.format(answer)}")
        if arm.fewer_shots > _MANY * count:
            found.append(
                f"{name}: {arm.fewer_shots:,} of {count:,} prompts have fewer worked examples "
                f"than {run.shots}, because the context is full"
            )
        method = "off" if run.routed else run.arms.get(name, {}).get("speculate", "off")
        if method != "off" and arm.tokens.output and arm.speculation is None:
            found.append(f"{name}: nothing was drafted (speculate: {method})")
        if energy is not None and energy.questions < count:
            found.append(
                f"{name}: the energy of {count - energy.questions:,} questions is unmeasured"
            )
    return found


_LOST = {
    "no_answer": "ended without a {}; they count as not right",
    "truncated": "were cut off before a {}; they count as not right",
    "error": "failed; they count as not right",
}
