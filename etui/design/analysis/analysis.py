"""The analysis of a design run: everything that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etui import units
from etui.bench.machines import group_equal
from etui.curves.context_share import ContextTerm
from etui.design.analysis.arm_figures import ArmFigures, compute_arm_figures
from etui.design.analysis.band_verdict import judge_bands
from etui.design.analysis.bands import Bands, compute_groups, compute_subjects
from etui.design.analysis.leads import Lead, compute_leads
from etui.design.analysis.multiples import Multiple, compute_multiples, resample
from etui.design.analysis.operating_curves import ModelCurve, compute_curves
from etui.design.analysis.paired import Key, Paired, pair_samples
from etui.design.analysis.router_verdict import judge_replay
from etui.design.analysis.routing import BY_SUBJECT, Replay, replay_routers
from etui.design.analysis.statement import (
    UNDECIDED,
    UNKNOWN,
    Evidence,
    Statement,
    percent_change_text,
)
from etui.design.analysis.strategies import Layout, build_layout
from etui.design.analysis.thinking_verdict import (
    Comparisons,
    judge_arms,
    judge_replacements,
    judge_thinking,
)
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.stats.tests import holm

if TYPE_CHECKING:
    from etui.bench.config import RunConfig
    from etui.bench.sample import Sample
    from etui.calibration.measure import MeasuredPoint
    from etui.design.analysis.operating_curves import ModelCurve


def judge_curves(curves: Sequence[ModelCurve]) -> list[Statement]:
    """Say for every model and phase whether the joules of the context differ from 0."""
    terms = [(curve, term) for curve in curves for term in curve.terms]
    adjusted = holm([term.p for _, term in terms])
    refused = [_refuse(curve) for curve in curves if curve.error]
    return refused + [
        _judge_term(curve, term, p) for (curve, term), p in zip(terms, adjusted, strict=True)
    ]


def _judge_term(curve: ModelCurve, term: ContextTerm, p: float) -> Statement:
    figures = tuple(
        Evidence(
            f"share at {share.context:,} tokens", "share", share.value, share.low, share.high, p
        )
        for share in term.shares
    )
    shown = bool(figures) and all(figure.side > 0 for figure in figures)
    what = "a prompt" if term.phase == "prefill" else "each generated token"
    parts = " and ".join(
        f"{percent_change_text(figure)} at {share.context:,} tokens"
        + ("" if share.measured else " (extrapolated)")
        for figure, share in zip(figures, term.shares, strict=True)
    )
    if shown:
        text = (
            f"Attention over the context takes {parts} of the joules of {what} of {curve.role} "
            f"({units.p_value_text(p)})."
        )
    else:
        text = (
            f"The joules of {what} of {curve.role} are not shown to depend on the context: {parts} "
            f"({units.p_value_text(p)}, {units.count_text(term.points, 'measurement')})."
        )
    return Statement(
        "curve", f"{curve.role} {term.phase}", "nonlinear" if shown else UNDECIDED, text, figures,
        tuple(figure.name for figure in figures) if shown else (), 0,
    )  # fmt: skip


def _refuse(curve: ModelCurve) -> Statement:
    text = f"There is no curve of {curve.model}: {curve.error}."
    return Statement("curve", curve.role, UNKNOWN, text, (), (), 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All sentences."""

    headline: str  # The answer to the question of the design, in one sentence
    statements: tuple[Statement, ...]
    """Thinking, replacement, places, routers, curves, and every arm, in this order."""

    def about(self, *topics: str) -> tuple[Statement, ...]:
        """Return the statements about some topics."""
        return tuple(one for one in self.statements if one.about in topics)

    @property
    def summary(self) -> tuple[Statement, ...]:
        """The sentences that answer the question: those of the other places follow below them.

        They are about thinking, replacement, groups (subjects without groups), and the router by
        subject, or why there is none.
        """
        places = self.about("band")
        first = places[0].what if places else ""
        return (
            *self.about("thinking", "replacement"),
            *(one for one in places if one.what == first),
            *(one for one in self.about("router") if one.subject in (BY_SUBJECT, "")),
        )


def reach_verdict(
    comparisons: Comparisons,
    bands: Sequence[Bands],
    replay: Replay,
    curves: Sequence[ModelCurve],
    kind: str | None,
) -> Verdict:
    """Derive the verdict from the figures.

    Args:
        comparisons: The arms against each other.
        bands: Differences by group and by subject.
        kind: Kind of the joules.
    """
    thinking = judge_thinking(comparisons)
    return Verdict(
        _write_headline(thinking),
        (
            *thinking,
            *judge_replacements(comparisons),
            *(one for inside in bands for one in judge_bands(inside, kind)),
            *judge_replay(replay),
            *judge_curves(curves),
            *judge_arms(comparisons),
        ),
    )


_HEADLINES = {
    "pays": "pays for",
    "does not pay": "does not pay for",
    "undecided": "is undecided for",
    "unknown": "is not judged for",
}


def _write_headline(thinking: Sequence[Statement]) -> str:
    if not thinking:
        return "No arm of this run thinks"
    roles: dict[str, list[str]] = {}
    for one in thinking:
        roles.setdefault(one.outcome, []).append(one.subject)
    parts = [
        f"{words} {' and '.join(roles[outcome])}"
        for outcome, words in _HEADLINES.items()
        if outcome in roles
    ]
    return f"Thinking {', and '.join(parts)}"


_PAPER = (
    "No figure repeats one of arXiv 2603.20224, whose numbers are not public: models, card and "
    "prompts differ from the paper's (an L40S, read by NVML), and its second suite, MT-Bench, is "
    "not included because its answers are graded by a model."
)


def list_limits(
    config: RunConfig, paired: Paired, kind: str | None, curves: Sequence[ModelCurve] = ()
) -> tuple[str, ...]:
    """List the limits of a run.

    Args:
        kind: Kind of the joules; None if unmeasured.
    """
    return (
        *_list_machine(config),
        *(_list_joules(config, kind) if len(paired) else ()),
        _describe_batches(config),
        *_list_questions(config, paired),
        *_list_shared(curves),
        *_list_models(config),
        f"Prompts: format {config.format}@{config.format_version}, {config.shots} worked examples, "
        f"one wording; seed {config.seed}. Intervals cover the choice of questions, not another "
        "wording, seed or day.",
        _PAPER,
    )


def _list_machine(config: RunConfig) -> Iterator[str]:
    names = [machine.name for machine in config.machines or ()]
    if not names:
        names = [str(config.machine.get("name") or config.machine.get("cpu") or units.UNKNOWN)]
    yield f"Machine: {', '.join(dict.fromkeys(names))}. Other hardware has other multiples."


def _list_joules(config: RunConfig, kind: str | None) -> Iterator[str]:
    if kind is None:
        yield "Joules are unmeasured, so that nothing is said about cost."
    elif kind == units.ESTIMATE:
        yield (
            "Joules are estimates (utilisation times a stated power range), not readings of a "
            "sensor. A constant error of the range cancels in the multiples; an error that "
            "depends on the kind of work does not, and no interval contains it."
        )
    else:
        yield f"Joules are measured ({kind}); the loading of models is not included."
    missing = [str(scope) for scope in config.energy.get("unmeasured", ())]
    if missing and kind is not None:
        yield f"Not in the joules: {', '.join(missing)}."


def _describe_batches(config: RunConfig) -> str:
    wide = {int(arm.get("batch", 1)) for arm in config.arms.values() if _votes(arm) > 1}
    if wide - {1}:
        return (
            f"Up to {max(wide)} votes of a question are decoded as one batch; other answers are "
            "computed one at a time."
        )
    return "Answers are computed one at a time (batch 1); a server with many users spends less."


def _votes(arm: Mapping[str, Any]) -> int:
    return int(arm.get("votes", 1)) if arm.get("reasoning") == "vote" else 1


def _list_questions(config: RunConfig, paired: Paired) -> Iterator[str]:
    count = len(paired)
    subjects = len(set(paired.subjects))
    yield (
        f"Questions: {count:,} of {config.questions:,} drawn from {config.suite} "
        f"({config.split} split), {units.count_text(subjects, 'subject')}."
    )
    if paired.questions_dropped:
        yield (
            f"{units.count_text(paired.questions_dropped, 'question')} of an unfinished block "
            f"({units.count_text(paired.answers_dropped, 'answer')}) is left out, because not "
            "every arm answered it."
            if paired.questions_dropped == 1
            else f"{units.count_text(paired.questions_dropped, 'question')} of an unfinished block "
            f"({units.count_text(paired.answers_dropped, 'answer')}) are left out, because not "
            "every arm answered them."
        )
    unmetered = count - int(paired.measured.sum())
    if any(paired.metered) and unmetered:
        yield (
            f"{units.count_text(unmetered, 'question')} without joules of every arm: left out of "
            "all figures in joules."
        )
    failed = sum(sample.status == "error" for inside in paired.samples for sample in inside)
    if failed:
        yield f"{units.count_text(failed, 'answer')} failed with an error; they count as not right."


def _list_shared(curves: Sequence[ModelCurve]) -> Iterator[str]:
    shared = sum(curve.shared for curve in curves)
    if shared:
        total = sum(mean.repeats for curve in curves for mean in curve.means)
        yield (
            f"Other processes used the hardware during {shared:,} of {total:,} measurements of the "
            "operating curves."
        )


def _list_models(config: RunConfig) -> Iterator[str]:
    files = ", ".join(
        f"{model.name} ({units.bytes_text(model.file_bytes)}, sha256 "
        f"{(model.sha256 or units.UNKNOWN)[:12]})"
        for model in config.models
    )
    yield (
        f"Models: {files}. Quantised files, so that neither accuracy nor joules are those of the "
        "original weights."
    )


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
    """The figures of equal machines, or those of all machines without joules.

    Attributes:
        multiples, leads: The arms against the direct answers.
        groups, subjects: Differences by group of MMLU and by subject.
    """

    machine: str  # Name of the machines; empty if the run has only one kind
    paired: Paired
    kind: str | None  # The weakest kind of the joules; None if unmeasured
    arms: tuple[ArmFigures, ...]  # Figures of every arm; empty without a paired question
    multiples: tuple[Multiple, ...]
    leads: tuple[Lead, ...]
    groups: Bands
    subjects: Bands
    replay: Replay  # What a router would have saved
    curves: tuple[ModelCurve, ...]  # Operating curves, smallest model first
    verdict: Verdict


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
        return DesignAnalysis(config, layout, (part,), limits)
    bare = [_drop_joules(sample) for sample in samples]
    pooled = _analyse_part(config, layout, bare, {}, "all machines, accuracy only")
    parts = tuple(
        _analyse_part(config, layout, samples, read_points(group.keys), group.name, group.questions)
        for group in groups
    )
    kinds = [part.kind for part in parts if part.kind is not None]
    curves = [curve for part in parts for curve in part.curves]
    limits = list_limits(config, pooled.paired, _weakest_kind(kinds), curves)
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
    kind = _weakest_kind([s.kind for inside in paired.samples for s in inside if s.joules])
    multiples: tuple[Multiple, ...] = ()
    leads: tuple[Lead, ...] = ()
    if len(paired):
        resampled = resample(paired, seed)
        multiples, leads = compute_multiples(resampled), compute_leads(resampled)
    groups, subjects = compute_groups(paired, seed), compute_subjects(paired, seed)
    replay, curves = replay_routers(paired, seed), compute_curves(layout, points, seed)
    shown = [bands for bands in (groups, subjects) if bands.rows]
    verdict = reach_verdict(Comparisons(layout, multiples, leads), shown, replay, curves, kind)
    return PartAnalysis(
        machine=machine,
        paired=paired,
        kind=kind,
        arms=compute_arm_figures(paired, seed),
        multiples=multiples,
        leads=leads,
        groups=groups,
        subjects=subjects,
        replay=replay,
        curves=curves,
        verdict=verdict,
    )


def _drop_joules(sample: Sample) -> Sample:
    return replace(
        sample, joules=None, uncertainty=None, kind=None, prefill_joules=None, decode_joules=None
    )


def _weakest_kind(kinds: Sequence[str | None]) -> str | None:
    known = set(Kind)
    found = weakest(Kind(kind) for kind in kinds if kind in known)
    return None if found is None else found.value
