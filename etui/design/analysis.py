"""The analysis of a design run: everything that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etui import units
from etui.bench.config import RunConfig
from etui.bench.cost import find_weakest_kind
from etui.bench.machines import group_equal
from etui.bench.sample import Sample
from etui.bench.summary import drop_unpooled, may_pool
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
    ArmFigures,
    Multiple,
    Readout,
    compare_readouts,
    compute_arm_figures,
    compute_multiples,
    resample,
)
from etui.design._paired import Layout, Paired, build_layout, pair_samples
from etui.design._verdict import Statement, judge, write_headline
from etui.stats.small_samples import estimate_means

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
        found.append("Joules are unmeasured, so there is no result about cost.")
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
    votes = (
        arm
        for arm in config.arms.values()
        if arm.get("reasoning") == "vote" and int(arm.get("votes", 1)) > 1
    )
    wide = {int(arm.get("batch", 1)) for arm in votes} - {1}
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


@dataclass(frozen=True, slots=True)
class DesignAnalysis:
    """The analysis of a run."""

    config: RunConfig
    layout: Layout
    paired: Paired
    kind: str | None  # The weakest kind of the joules; None if unmeasured
    arms: tuple[ArmFigures, ...]  # Figures of every arm; empty without a paired question
    multiples: tuple[Multiple, ...]  # The arms against the direct answers
    readouts: tuple[Readout, ...]  # What the letter behind the answers is worth
    curves: tuple[ModelCurve, ...]  # Operating curves, smallest model first
    headline: str  # The answer in one sentence
    statements: tuple[Statement, ...]
    limits: tuple[str, ...]  # What the figures do not cover
    machine: str = ""  # Names of the machines; empty for all of them

    @property
    def is_complete(self) -> bool:
        """Whether every arm answered every question of the plan."""
        return len(self.paired) == self.config.questions


def analyse_kinds(
    config: RunConfig,
    samples: Sequence[Sample],
    read_points: Callable[[Collection[str] | None], Mapping[str, Sequence[MeasuredPoint]]],
    roles: Mapping[str, str] | None = None,
) -> tuple[DesignAnalysis, ...]:
    """Analyse a run, and after it each kind of its machines, if they are unlike.

    ``read_points`` takes keys of machines, or None for all, and returns their points.
    """
    found = [analyse(config, samples, read_points(None), roles)]
    for group in () if may_pool(samples, config) else group_equal(config.machines or ()):
        keys = [machine.key for machine in group]
        own = analyse(config, [s for s in samples if s.machine in keys], read_points(keys), roles)
        name = f"{len(group)} x {group[0].name}" if len(group) > 1 else group[0].name
        found.append(replace(own, machine=name))
    return tuple(found)


def analyse(
    config: RunConfig,
    samples: Sequence[Sample],
    points: Mapping[str, Sequence[MeasuredPoint]],
    roles: Mapping[str, str] | None = None,
) -> DesignAnalysis:
    """Analyse a run; the order of the samples does not matter.

    Joules of unlike machines are left out, and so are their curves: one that answered other
    questions, or measured other lengths, would pass for an arm that costs less.

    ``points``: model -> points of its curve. ``roles``: role -> model, smallest first; None names
    the roles by the models.
    """
    layout, seed = build_layout(config, roles), config.seed
    alike = may_pool(samples, config)
    paired = pair_samples(layout, drop_unpooled(samples, config))
    kind = find_weakest_kind([s.kind for inside in paired.samples for s in inside if s.joules])
    arms = compute_arm_figures(paired, seed)
    multiples = compute_multiples(resample(paired, seed)) if len(paired) else ()
    curves = compute_curves(layout, points if alike else {}, seed)
    statements = judge(layout, arms, multiples, kind)
    limits = list_limits(config, paired, kind, curves)
    if not alike:
        limits = (
            "The run has unlike machines, whose joules are not pooled: a question has joules only "
            "if one kind of them gave all its answers.",
            *limits,
        )
    return DesignAnalysis(
        config=config,
        layout=layout,
        paired=paired,
        kind=kind,
        arms=arms,
        multiples=multiples,
        readouts=compare_readouts(paired, seed),
        curves=curves,
        headline=write_headline(statements),
        statements=statements,
        limits=limits,
    )
