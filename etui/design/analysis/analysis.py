"""The analysis of a design run: everything that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.design.analysis.arm_figures import ArmFigures, compute_arm_figures
from etui.design.analysis.bands import Bands, compute_groups, compute_subjects
from etui.design.analysis.leads import Lead, compute_leads
from etui.design.analysis.limits import list_limits
from etui.design.analysis.machines import group_machines
from etui.design.analysis.multiples import Multiple, compute_multiples, resample
from etui.design.analysis.operating_curves import ModelCurve, compute_curves
from etui.design.analysis.paired import Key, Paired, pair_samples
from etui.design.analysis.routing import Replay, replay_routers
from etui.design.analysis.strategies import Layout, build_layout
from etui.design.analysis.thinking_verdict import Comparisons
from etui.design.analysis.verdict import Verdict, reach_verdict
from etui.energy.scopes import weakest
from etui.energy.types import Kind

if TYPE_CHECKING:
    from etui.bench.store.run_config import RunConfig
    from etui.bench.store.sample import Sample
    from etui.calibration.measure import MeasuredPoint

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
