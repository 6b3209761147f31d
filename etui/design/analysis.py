"""The analysis of a design run: everything that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etui import units
from etui.bench.config import RunConfig
from etui.bench.cost import find_weakest_kind
from etui.bench.machines import group_equal
from etui.bench.sample import Sample
from etui.calibration.measure import MeasuredPoint
from etui.curves.fit import (
    ContextTerm,
    TooFewPoints,
    estimate_context_term,
    fit_phase,
    split_phases,
)
from etui.curves.operating_curve import PhaseCurve, mape
from etui.design._arms import (
    Against,
    ArmFigures,
    Multiple,
    compute_arm_figures,
    compute_multiples,
    excludes,
    resample,
)
from etui.design._paired import Key, Layout, Paired, build_layout, pair_samples
from etui.design._routing import Replay, replay_routers
from etui.stats.small_samples import estimate_means
from etui.stats.tests import SIGNIFICANCE, Interval, count_questions_needed

CONTEXTS = (1024, 4096)
"""Contexts, in tokens, at which the share of the nonlinear part is stated."""


@dataclass(frozen=True, slots=True)
class LengthMean:
    """Repeated measurements of one length.

    Attributes:
        prefill, decode, total: Joules as mean and both ends of the interval at 95 %; the ends are
            None with one measurement.
    """

    computed: int  # Prompt tokens and output tokens
    output: int
    repeats: int  # Number of measurements
    prefill: tuple[float, float | None, float | None]
    decode: tuple[float, float | None, float | None]
    total: tuple[float, float | None, float | None]
    shared: bool  # Whether other processes used a GPU during one of them


@dataclass(frozen=True, slots=True)
class ModelCurve:
    """The operating curve of one model."""

    role: str
    model: str
    kind: str | None  # How its joules were determined; None if unknown
    points: int  # Number of fitted measurements
    shared: int  # Number of measurements during which other processes used the hardware
    means: tuple[LengthMean, ...]
    """Mean of each measured length, by prompt length and output length."""
    prefill: PhaseCurve | None  # The fitted phases; None if there are too few lengths
    decode: PhaseCurve | None
    terms: tuple[ContextTerm, ...]  # Tests of the nonlinear part, for the phases that allow one
    error: str  # Why nothing could be fitted; empty if something was
    held_out: float | None
    """Mean absolute relative error on lengths that were not fitted; None without any."""

    def joules(self, computed: float, output: float, *, bend: bool = True) -> float | None:
        """Predict the joules of a turn; ``bend`` False leaves out the terms of the context."""
        if self.prefill is None or self.decode is None:
            return None
        return predict_phase(self.prefill, 0, computed, bend=bend) + predict_phase(
            self.decode, computed, output - 1, bend=bend
        )


def predict_phase(curve: PhaseCurve, start: float, tokens: float, *, bend: bool = True) -> float:
    """Predict the joules of a phase; ``bend`` False leaves out the term of the context."""
    if bend or tokens <= 0:
        return curve.joules(start, tokens)
    return curve.e0 + curve.slope * tokens


def compute_curves(
    layout: Layout, points: Mapping[str, Sequence[MeasuredPoint]], seed: int
) -> tuple[ModelCurve, ...]:
    """Fit the curve of every model of a layout that has points, smallest model first."""
    found = [
        _compute_curve(role, model, points[model], seed)
        for role, model in layout.roles.items()
        if points.get(model)
    ]
    return tuple(found)


def _compute_curve(role: str, model: str, points: Sequence[MeasuredPoint], seed: int) -> ModelCurve:
    fitted = [one.point for one in points if not one.visit.held_out]
    tests = [one.point for one in points if one.visit.held_out]
    prefill_points, decode_points = split_phases(fitted)
    prefill = decode = None
    error = ""
    try:
        prefill = fit_phase(prefill_points, "prefill")
        decode = fit_phase(decode_points, "decode")
    except TooFewPoints as problem:
        prefill, error = None, problem.what
    terms = (
        estimate_context_term(prefill_points, "prefill", CONTEXTS, seed),
        estimate_context_term(decode_points, "decode", CONTEXTS, seed),
    )
    kinds = [one.kind for one in points if one.kind is not None]
    kind = find_weakest_kind(kinds) if len(kinds) == len(points) else None
    curve = ModelCurve(
        role=role,
        model=model,
        kind=kind,
        points=len(fitted),
        shared=sum(one.shared for one in points),
        means=_compute_means(points, seed),
        prefill=prefill,
        decode=decode if prefill is not None else None,
        terms=tuple(term for term in terms if term is not None),
        error=error,
        held_out=None,
    )
    predicted = [curve.joules(one.computed_tokens, one.output_tokens) for one in tests]
    known = [joules for joules in predicted if joules is not None]
    if not known:
        return curve
    measured = [one.prefill_joules + one.decode_joules for one in tests]
    return replace(curve, held_out=mape(known, measured))


def _compute_means(points: Sequence[MeasuredPoint], seed: int) -> tuple[LengthMean, ...]:
    by_length: dict[tuple[int, int], list[MeasuredPoint]] = {}
    for one in points:
        key = one.point.computed_tokens, one.point.output_tokens
        by_length.setdefault(key, []).append(one)
    lengths = sorted(by_length)
    values = [
        np.array([getattr(one.point, f"{phase}_joules") for one in by_length[length]])
        for length in lengths
        for phase in ("prefill", "decode")
    ]
    totals = [values[2 * at] + values[2 * at + 1] for at in range(len(lengths))]
    means = estimate_means([*values, *totals], seed)
    ends = [(one.mean, one.low, one.high) for one in means]
    return tuple(
        LengthMean(
            computed=length[0],
            output=length[1],
            repeats=len(by_length[length]),
            prefill=ends[2 * at],
            decode=ends[2 * at + 1],
            total=ends[2 * len(lengths) + at],
            shared=any(one.shared for one in by_length[length]),
        )
        for at, length in enumerate(lengths)
    )


UNDECIDED = "undecided"
UNKNOWN = "unknown"

_POINTS = 0.03
"""The difference, as a share, for which the needed number of questions is stated."""


def points_text(figure: Interval) -> str:
    """Format a difference of shares as points: ``+4.1 points [-2.0, 10.1]``."""
    ends = (None if end is None else 100 * end for end in (figure.low, figure.high))
    return units.points_change_text(100 * figure.value, *ends)


def multiple_text(figure: Interval) -> str:
    """Format a ratio with its interval: ``6.1x [5.2, 7.3]``."""
    return units.multiple_text(figure.value, figure.low, figure.high)


@dataclass(frozen=True, slots=True)
class Statement:
    """What thinking, or a smaller model, buys: one sentence about one comparison."""

    subject: str  # Role of the model
    outcome: str  # `more right`, `fewer right`, `undecided` or `unknown`
    text: str
    of_thinking: bool  # Whether it is about thinking


def judge(layout: Layout, multiples: Sequence[Multiple]) -> tuple[Statement, ...]:
    """Say for every model what its best thinking arm buys, and what it is against the largest.

    An outcome other than ``undecided`` needs an interval without 0 and a p-value below 0.05 after
    Holm's correction for the arms of the model. The best arm is the most accurate one.
    """
    found = []
    for role in layout.roles:
        if any(one.thinks for one in layout.of_role(role)):
            inside = _list_multiples(multiples, "direct", role)
            found.append(_judge_best(role, [m for m in inside if m.strategy.thinks], layout))
    against_large = {role: _list_multiples(multiples, "large", role) for role in layout.roles}
    found += [_judge_best(role, inside) for role, inside in against_large.items() if inside]
    return tuple(found)


def _list_multiples(multiples: Sequence[Multiple], against: Against, role: str) -> list[Multiple]:
    return [m for m in multiples if m.against == against and m.strategy.role == role]


def _judge_best(role: str, inside: Sequence[Multiple], layout: Layout | None = None) -> Statement:
    """Judge the best of some arms; with a layout, that thinking is judged."""
    if not inside and layout is not None:
        why = (
            "no arm of it answers directly"
            if layout.direct_of(role) is None
            else "no question has been answered by every arm"
        )
        text = f"What thinking buys with {role} is unknown: {why}."
        return Statement(role, UNKNOWN, text, of_thinking=True)
    best = max(inside, key=lambda one: one.difference.value)
    side = excludes(best.difference, 0.0) if best.p_holm < SIGNIFICANCE else 0
    outcome = {1: "more right", -1: "fewer right"}.get(side, UNDECIDED)
    finding = outcome if side else "no difference shown"
    cost = (
        "; joules are unmeasured"
        if best.joules is None
        else f", at {multiple_text(best.joules)} the joules"
    )
    text = (
        f"{best.strategy.label} is at {points_text(best.difference)} against {best.base.label} "
        f"({finding}){cost}."
    )
    if not side:
        needed = count_questions_needed(best.deviation, _POINTS, len(inside))
        if needed > best.questions:
            text += f" About {needed:,} questions would show a difference of 3 points."
    return Statement(role, outcome, text, of_thinking=layout is not None)


_HEADLINES = {
    "more right": "gets more right with",
    "fewer right": "gets fewer right with",
    UNDECIDED: "is undecided with",
    UNKNOWN: "is not judged with",
}


def write_headline(statements: Sequence[Statement]) -> str:
    """Write the finding on thinking in one sentence, without its full stop."""
    roles: dict[str, list[str]] = {}
    for one in statements:
        if one.of_thinking:
            roles.setdefault(one.outcome, []).append(one.subject)
    parts = [
        f"{words} {' and '.join(roles[outcome])}"
        for outcome, words in _HEADLINES.items()
        if outcome in roles
    ]
    return f"Thinking {', and '.join(parts)}" if parts else "No arm of this run thinks"


_PAPER = (
    "No figure repeats one of arXiv 2603.20224, whose numbers are not public: models, card and "
    "prompts differ from the paper's (an L40S, read by NVML), and its second suite, MT-Bench, is "
    "not included because its answers are graded by a model."
)


def list_limits(
    config: RunConfig, paired: Paired, kind: str | None, curves: Sequence[ModelCurve] = ()
) -> tuple[str, ...]:
    """List the limits of a run; ``kind`` of its joules is None if unmeasured."""
    count = len(paired)
    names = [machine.name for machine in config.machines or ()]
    names = names or [str(config.machine.get("name") or config.machine.get("cpu") or units.UNKNOWN)]
    found = [f"Machine: {', '.join(dict.fromkeys(names))}. Other hardware has other multiples."]
    if count and kind is None:
        found.append("Joules are unmeasured, so that nothing is said about cost.")
    elif count and kind == units.ESTIMATE:
        found.append(
            "Joules are estimates (utilisation times a stated power range), not readings of a "
            "sensor. A constant error of the range cancels in the multiples; an error that "
            "depends on the kind of work does not, and no interval contains it."
        )
    elif count:
        found.append(f"Joules are measured ({kind}); the loading of models is not included.")
    missing = [str(scope) for scope in config.energy.get("unmeasured", ())]
    if count and missing and kind is not None:
        found.append(f"Not in the joules: {', '.join(missing)}.")
    wide = {int(arm.get("batch", 1)) for arm in config.arms.values() if _votes(arm) > 1} - {1}
    found.append(
        f"Up to {max(wide)} votes of a question are decoded as one batch; other answers are "
        "computed one at a time."
        if wide
        else "Answers are computed one at a time (batch 1); a server with many users spends less."
    )
    found.append(
        f"Questions: {count:,} of {config.questions:,} drawn from {config.suite} "
        f"({config.split} split), {units.count_text(len(set(paired.subjects)), 'subject')}."
    )
    if paired.questions_dropped:
        verb, which = ("is", "it") if paired.questions_dropped == 1 else ("are", "them")
        found.append(
            f"{units.count_text(paired.questions_dropped, 'question')} of an unfinished block "
            f"({units.count_text(paired.answers_dropped, 'answer')}) {verb} left out, because not "
            f"every arm answered {which}."
        )
    unmetered = count - int(paired.measured.sum())
    if any(paired.metered) and unmetered:
        found.append(
            f"{units.count_text(unmetered, 'question')} without joules of every arm: left out of "
            "all figures in joules."
        )
    failed = sum(sample.status == "error" for inside in paired.samples for sample in inside)
    if failed:
        answers = units.count_text(failed, "answer")
        found.append(f"{answers} failed with an error; they count as not right.")
    shared = sum(curve.shared for curve in curves)
    if shared:
        total = sum(mean.repeats for curve in curves for mean in curve.means)
        found.append(
            f"Other processes used the hardware during {shared:,} of {total:,} measurements of the "
            "operating curves."
        )
    files = ", ".join(
        f"{model.name} ({units.bytes_text(model.file_bytes)}, sha256 "
        f"{(model.sha256 or units.UNKNOWN)[:12]})"
        for model in config.models
    )
    found.append(
        f"Models: {files}. Quantised files, so that neither accuracy nor joules are those of the "
        "original weights."
    )
    found.append(
        f"Prompts: format {config.format}@{config.format_version}, {config.shots} worked examples, "
        f"one wording; seed {config.seed}. Intervals cover the choice of questions, not another "
        "wording, seed or day."
    )
    return (*found, _PAPER)


def _votes(arm: Mapping[str, Any]) -> int:
    return int(arm.get("votes", 1)) if arm.get("reasoning") == "vote" else 1


@dataclass(frozen=True, slots=True)
class MachineGroup:
    """Equal machines."""

    name: str  # Name of the machine, with their number if there are several
    keys: tuple[str, ...]
    questions: frozenset[Key]  # Questions of which every answer comes from one of them


def group_machines(config: RunConfig, samples: Sequence[Sample]) -> tuple[MachineGroup, ...]:
    """Group the machines of a run; empty if all joules may be pooled."""
    groups = group_equal(config.machines or ())
    if len(groups) < 2:
        return ()
    of_key = {machine.key: at for at, group in enumerate(groups) for machine in group}
    answered: dict[Key, set[int | None]] = {}
    for sample in samples:
        seen = answered.setdefault((sample.subject, sample.row), set())
        seen.add(None if sample.machine is None else of_key.get(sample.machine))
    return tuple(
        MachineGroup(
            f"{len(group)} x {group[0].name}" if len(group) > 1 else group[0].name,
            tuple(machine.key for machine in group),
            frozenset(key for key, seen in answered.items() if seen == {at}),
        )
        for at, group in enumerate(groups)
    )


Points = Mapping[str, Sequence["MeasuredPoint"]]
"""Model -> measured points of its operating curve."""

ReadPoints = Callable[[Collection[str] | None], Points]
"""Takes the keys of machines, or None for all, and returns their points."""


@dataclass(frozen=True, slots=True)
class PartAnalysis:
    """The figures of equal machines, or those of all machines without joules."""

    machine: str  # Name of the machines; empty if the run has only one kind
    paired: Paired
    kind: str | None  # The weakest kind of the joules; None if unmeasured
    arms: tuple[ArmFigures, ...]  # Figures of every arm; empty without a paired question
    multiples: tuple[Multiple, ...]  # The arms against the direct answers
    replay: Replay  # What a router would have saved
    curves: tuple[ModelCurve, ...]  # Operating curves, smallest model first
    headline: str  # The finding on thinking, in one sentence
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class DesignAnalysis:
    """The analysis of a run."""

    config: RunConfig
    layout: Layout
    parts: tuple[PartAnalysis, ...]
    """The figures of the run. If its machines are not equal, the first part has the accuracy of all
    of them, and one part for each kind of machine follows."""
    limits: tuple[str, ...]  # What the figures do not cover

    @property
    def main(self) -> PartAnalysis:
        """The part with every question."""
        return self.parts[0]

    @property
    def is_complete(self) -> bool:
        """Whether every arm answered every question of the plan."""
        return len(self.main.paired) == self.config.questions


def analyse(
    config: RunConfig,
    samples: Sequence[Sample],
    read_points: ReadPoints,
    roles: Mapping[str, str] | None = None,
) -> DesignAnalysis:
    """Analyse a run; the order of the samples does not matter.

    Args:
        samples: Its answers, complete or not.
        read_points: Returns the points of its operating curves.
        roles: Role -> model of the design, smallest first; None names the roles by the models.
    """
    layout = build_layout(config, roles)
    groups = group_machines(config, samples)
    if not groups:
        part = _analyse_part(config, layout, samples, read_points(None))
        limits = list_limits(config, part.paired, part.kind, part.curves)
        if part.replay.why_not:
            limits = (*limits, f"No router was replayed: {part.replay.why_not}.")
        return DesignAnalysis(config, layout, (part,), limits)
    bare = [sample.without_joules() for sample in samples]
    pooled = _analyse_part(config, layout, bare, {}, "all machines, accuracy only")
    parts = tuple(
        _analyse_part(config, layout, samples, read_points(group.keys), group.name, group.questions)
        for group in groups
    )
    kinds = [part.kind for part in parts if part.kind is not None]
    curves = [curve for part in parts for curve in part.curves]
    limits = list_limits(config, pooled.paired, find_weakest_kind(kinds), curves)
    note = (
        f"The run has {len(groups)} kinds of machines; joules are pooled only over equal ones, and "
        "a question counts only if one kind gave all its answers."
    )
    return DesignAnalysis(config, layout, (pooled, *parts), (note, *limits))


def _analyse_part(
    config: RunConfig,
    layout: Layout,
    samples: Sequence[Sample],
    points: Points,
    machine: str = "",
    kept: Collection[Key] | None = None,
) -> PartAnalysis:
    paired = pair_samples(layout, samples, kept)
    seed = config.seed
    kind = find_weakest_kind([s.kind for inside in paired.samples for s in inside if s.joules])
    multiples = compute_multiples(resample(paired, seed)) if len(paired) else ()
    statements = judge(layout, multiples)
    return PartAnalysis(
        machine=machine,
        paired=paired,
        kind=kind,
        arms=compute_arm_figures(paired, seed),
        multiples=multiples,
        replay=replay_routers(paired, seed),
        curves=compute_curves(layout, points, seed),
        headline=write_headline(statements),
        statements=statements,
    )
