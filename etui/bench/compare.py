"""Compare systems on the same questions: McNemar, paired bootstrap, joules, mixtures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from etui import units
from etui.bench.accuracy import compute_macro_weights
from etui.bench.config import RunConfig, differences
from etui.bench.cost import CostFigure, add_half_widths, build_figure
from etui.bench.folder import find_run, read_run
from etui.bench.machines import group_equal, list_machines
from etui.bench.sample import Sample
from etui.bench.summary import explain_unpooled, group_by_system
from etui.codec import to_document
from etui.config.config import Config
from etui.datasets.mmlu import find_group
from etui.errors import UsageError
from etui.stats.arrays import Floats
from etui.stats.bootstrap import percentiles, resample_sums
from etui.stats.frontier import hull, mixture_accuracies
from etui.stats.tests import Interval, mcnemar, wilson

_MUST_AGREE = {
    "suite": "suite",
    "split": "split",
    "data_sha256": "data (sha256)",
    "format": "format",
    "format_version": "version of the format",
    "grading": "grading rule",
    "shots": "shots",
    "seed": "seed",
    "prefix_reuse": "prefix reuse",
}
"""Settings that must be equal in compared runs -> their names."""
_WORTH_KNOWING = {
    "threads": "threads",
    "group_questions": "questions computed together",
    "versions.llama_cpp": "llama.cpp",
    "machine": "machine",
    "energy.channels": "power channels",
    "energy.kind": "kind of energy",
    "energy.unmeasured": "what is unmeasured",
}
"""Settings that may affect joules, or scores slightly, but do not invalidate a comparison."""
_BY_MACHINE = frozenset({"threads", "versions.llama_cpp", "machine", "energy.channels"})
"""Settings that runs of several machines have for each of them."""


@dataclass(frozen=True, slots=True)
class System:
    """One arm of a run, or a policy's whole run."""

    label: str  # Unique label in the comparison
    name: str  # Name of the arm or the policy
    run: RunConfig
    samples: Sequence[Sample]  # Its answers, sorted by question

    @property
    def questions(self) -> list[tuple[str, int]]:
        """Subject and row of each sample."""
        return [(sample.subject, sample.row) for sample in self.samples]


def check_comparable(systems: Sequence[System]) -> None:
    """Check that all systems answered the same questions, asked in the same way.

    UsageError if a system differs from the first; the message has one line per difference.
    """
    first, *others = systems
    found = [text for other in others for text in list_obstacles(first, other)]
    if found:
        raise UsageError(
            "these runs cannot be compared:\n" + "\n".join(f"  {text}" for text in found),
            "run both with the same --suite, --format, --shots, --seed, --limit and --subjects; "
            "resume an unfinished run with --resume",
        )


def list_obstacles(first: System, other: System) -> list[str]:
    """List what prevents a comparison of two systems; empty if they are comparable."""
    one, two = f"{first.label} has", f"{other.label} has"
    found = [
        f"{name}: {one} {_short(getattr(first.run, key))}, {two} {_short(getattr(other.run, key))}"
        for key, name in _MUST_AGREE.items()
        if getattr(first.run, key) != getattr(other.run, key)
    ]
    ours, theirs = set(first.questions), set(other.questions)
    if ours != theirs:
        found.append(
            f"questions: {one} {len(ours):,}, {two} {len(theirs):,}, {len(ours & theirs):,} "
            "in common"
        )
    elif not ours:
        found.append(f"questions: {one} none, {two} none")
    return found


def list_differences(systems: Sequence[System]) -> list[str]:
    """List differences that do not prevent a comparison, one sentence each."""
    first = systems[0]
    found: dict[str, None] = {}
    for system in systems:
        why = explain_unpooled(system.samples, system.run)
        if why is not None:
            found[f"{system.run.run_id}: {why}"] = None
    for other in systems[1:]:
        if other.run.run_id == first.run.run_id:
            continue
        machines = (*list_machines(first.run), *list_machines(other.run))
        several = first.run.machines is not None or other.run.machines is not None
        if several and len(group_equal(machines)) > 1:
            found[f"machines: differ between {first.label} and {other.label}"] = None
        changed = differences(first.run, other.run)
        for prefix, name in _WORTH_KNOWING.items():
            if not (several and prefix in _BY_MACHINE) and any(
                path == prefix or path.startswith(f"{prefix}.") for path in changed
            ):
                found[f"{name}: differs between {first.label} and {other.label}"] = None
    if "machine" in "".join(found):
        found["joules from different machines also differ because of the hardware"] = None
    return list(found)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 16 else text


def build_labels(named: Sequence[tuple[str, str]]) -> list[str]:
    """Build a unique label for each system: its name, with its run's name if two share it."""
    counts: Mapping[str, int] = {
        name: sum(other == name for _, other in named) for _, name in named
    }
    plain = [name if counts[name] == 1 else f"{run}:{name}" for run, name in named]
    return [
        label if plain.count(label) == 1 else f"{label} #{plain[: at + 1].count(label)}"
        for at, label in enumerate(plain)
    ]


@dataclass(frozen=True, slots=True)
class SubjectDifference:
    """One subject: both accuracies, and the questions that only one of the systems got right."""

    subject: str
    group: str | None
    questions: int
    first: float
    second: float
    only_first: int
    only_second: int

    @property
    def difference(self) -> float:
        """Second minus first, a share."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class EnergyDifference:
    """Joules per question of both systems, over the questions that both have measured."""

    questions: int  # Number of these questions
    first: float  # Joules per question
    second: float
    kinds: tuple[str | None, str | None]
    difference: CostFigure
    """Second minus first in joules per question. The sensor's half widths of both sides add up like
    those of one side, since two readings may err in opposite directions."""
    ratio: float | None  # Second over first; None if the first is 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of a second system with a first; differences are second minus first."""

    first: str
    second: str
    questions: int  # Number of questions that both answered
    accuracies: tuple[float, float]  # Share of right answers of both
    difference: Interval  # Difference of the accuracies over all questions (micro)
    macro_difference: Interval  # Difference of the means over subjects
    both: int  # Number of questions by which system is right
    only_first: int
    only_second: int
    neither: int
    p_value: float  # Two-sided p-value of McNemar's exact test
    p_holm: float  # The p-value adjusted for the number of comparisons
    energy: EnergyDifference | None  # None if one of them is unmeasured
    subjects: tuple[SubjectDifference, ...]

    @property
    def points_lost(self) -> float:
        """Percentage points by which the second is worse (micro); negative if it is better."""
        return -self.difference.value * 100


def compare(first: System, second: System) -> Comparison:
    """Compare two systems that answered the same questions, at least one, sorted by question.

    The bootstrap draws pairs within each subject, which keeps the correlation of the two systems;
    its seed is the first run's. ``p_holm`` is that of a single comparison.
    """
    if first.questions != second.questions or not first.questions:
        raise ValueError("both systems need the same questions, at least one")
    pairs = list(zip(first.samples, second.samples, strict=True))
    whole = _compare_subject("", pairs)
    count, only_first, only_second = whole.questions, whole.only_first, whole.only_second
    both = sum(one.correct and two.correct for one, two in pairs)
    difference, macro = _compare_accuracies(pairs, only_first + only_second, first.run.seed)
    p_value = mcnemar(only_first, only_second)
    by_subject: dict[str, list[tuple[Sample, Sample]]] = {}
    for pair in pairs:
        by_subject.setdefault(pair[0].subject, []).append(pair)
    return Comparison(
        first=first.label,
        second=second.label,
        questions=count,
        accuracies=((both + only_first) / count, (both + only_second) / count),
        difference=difference,
        macro_difference=macro,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=count - both - only_first - only_second,
        p_value=p_value,
        p_holm=p_value,
        energy=_compare_energy(pairs, first.run.seed),
        subjects=tuple(_compare_subject(name, own) for name, own in sorted(by_subject.items())),
    )


_Pairs = Sequence[tuple[Sample, Sample]]


def _compare_accuracies(pairs: _Pairs, discordant: int, seed: int) -> tuple[Interval, Interval]:
    """Compute the difference over all questions (micro) and over the subjects (macro)."""
    subjects = [one.subject for one, _ in pairs]
    changes = [float(two.correct) - float(one.correct) for one, two in pairs]
    weights = compute_macro_weights(subjects)
    columns = [
        (change / len(pairs), change * weight)
        for change, weight in zip(changes, weights, strict=True)
    ]
    sums = resample_sums(columns, subjects, seed)
    # Where the bootstrap has no spread (for example, all answers are equal): the share of
    # disagreements that Wilson's interval still allows.
    unseen = (wilson(discordant, len(pairs)).high or 1.0) - discordant / len(pairs)

    def bound(at: int) -> Interval:
        value = math.fsum(row[at] for row in columns)
        low, high = percentiles(sums[:, at])
        if low is None or high is None or high - low < 1e-12:
            return Interval(value, max(-1.0, value - unseen), min(1.0, value + unseen), "wilson")
        return Interval(value, max(-1.0, low), min(1.0, high), "bootstrap")

    return bound(0), bound(1)


def _compare_energy(pairs: _Pairs, seed: int) -> EnergyDifference | None:
    measured = [
        (one, two) for one, two in pairs if one.joules is not None and two.joules is not None
    ]
    if not measured:
        return None
    count = len(measured)
    first, second = (
        math.fsum(sample.joules or 0.0 for sample in side) / count
        for side in zip(*measured, strict=True)
    )
    changes = [[((two.joules or 0.0) - (one.joules or 0.0)) / count] for one, two in measured]
    sums = resample_sums(changes, [one.subject for one, _ in measured], seed)[:, 0]
    both = [sample for pair in measured for sample in pair]
    width = add_half_widths(
        [sample.uncertainty for sample in both],
        [sample.subject for sample in both],
        {sample.kind for sample in both},
    )
    sensor = None if width is None else width / count
    return EnergyDifference(
        questions=count,
        first=first,
        second=second,
        kinds=(measured[0][0].kind, measured[0][1].kind),
        difference=build_figure(second - first, sums, sensor, -math.inf),
        ratio=second / first if first > 0 else None,
    )


def _compare_subject(subject: str, pairs: _Pairs) -> SubjectDifference:
    return SubjectDifference(
        subject=subject,
        group=find_group(subject),
        questions=len(pairs),
        first=sum(one.correct for one, _ in pairs) / len(pairs),
        second=sum(two.correct for _, two in pairs) / len(pairs),
        only_first=sum(one.correct and not two.correct for one, two in pairs),
        only_second=sum(two.correct and not one.correct for one, two in pairs),
    )


@dataclass(frozen=True, slots=True)
class AgainstMixture:
    """One system and the best random mixture of the others at its joules."""

    label: str
    joules_per_question: float
    """Joules of the system. The mixture costs the same, or as much as the most expensive of the
    others if they all cost less."""
    accuracy: float
    mixture: tuple[str, ...]  # The other systems on the hull, cheapest first
    mixture_accuracy: float
    difference: Interval  # Accuracy of the system minus that of the mixture, with its interval


def compare_with_mixtures(systems: Sequence[System]) -> list[AgainstMixture]:
    """Compare every system with a random mixture of the others.

    The interval comes from the paired bootstrap, and every resample has its own hull. Sensor errors
    are not included, because they move all points alike if one sensor measured them. Systems that
    cost less than the cheapest of the others are left out, all with fewer than three systems, or if
    the energy of one is unknown.
    """
    samples = [sample for system in systems for sample in system.samples]
    if len(systems) < 3 or any(sample.joules is None for sample in samples):
        return []
    count = len(systems[0].samples)
    columns = [
        [value / count for sample in row for value in (sample.joules or 0.0, float(sample.correct))]
        for row in zip(*(system.samples for system in systems), strict=True)
    ]
    subjects = [sample.subject for sample in systems[0].samples]
    sums = resample_sums(columns, subjects, systems[0].run.seed)
    totals = np.array([[math.fsum(column) for column in zip(*columns, strict=True)]])

    def compute_leads(sums: Floats, at: int) -> Floats:
        """Return the lead over the mixture, or over the cheapest other system if all cost more."""
        joules, right = sums[:, ::2], sums[:, 1::2]
        others = np.arange(len(systems)) != at
        mixed = mixture_accuracies(joules[:, others], right[:, others], joules[:, at])
        return np.asarray(right[:, at] - mixed)

    points = [(joules, accuracy) for joules, accuracy in totals.reshape(-1, 2).tolist()]
    found = []
    for at, (joules, accuracy) in enumerate(points):
        others = {systems[i].label: point for i, point in enumerate(points) if i != at}
        if joules < min(point[0] for point in others.values()):
            continue
        lead = float(compute_leads(totals, at)[0])
        difference = Interval(lead, *percentiles(compute_leads(sums, at)), "bootstrap")
        mixture, label = tuple(hull(others)), systems[at].label
        found.append(AgainstMixture(label, joules, accuracy, mixture, accuracy - lead, difference))
    return found


def split_arm(text: str) -> tuple[str, str | None]:
    """Split into run and arm; the name of an existing folder is not split at colons."""
    if Path(text).is_dir():
        return text, None
    run, colon, arm = text.rpartition(":")
    return (run, arm) if colon and arm and run else (text, None)


def read_systems(texts: Sequence[str], config: Config) -> tuple[list[list[System]], list[str]]:
    """Read the systems of some runs, and notes about the runs.

    A run without an arm selects all its arms, or the policy of a policy run. UsageError if a run
    has no such arm, or no answers; EtuiError if a folder is not a run.
    """
    found: list[list[System]] = []
    named: list[tuple[str, str]] = []
    notes: list[str] = []
    for text in texts:
        run, arm = split_arm(text)
        folder = find_run(run, config)
        recorded = read_run(folder)
        grouped = group_by_system(recorded.samples, recorded.config)
        if recorded.edited:
            notes.append(f"{folder} was changed outside etui: {'; '.join(recorded.edited)}")
        if arm is not None and arm not in grouped:
            raise UsageError(
                f"{folder} has no answers from arm {arm!r}",
                f"available arms: {', '.join(grouped) or 'none'}",
            )
        if not grouped:
            raise UsageError(f"{folder} has no answers yet", "resume it with --resume")
        names = grouped if arm is None else [arm]
        found.append([System("", name, recorded.config, grouped[name]) for name in names])
        named += [(folder.name, name) for name in names]
    labels = iter(build_labels(named))
    return [[replace(system, label=next(labels)) for system in run] for run in found], notes


def choose_pairs(runs: Sequence[Sequence[System]]) -> list[tuple[System, System]]:
    """Choose the pairs of systems to compare.

    Every system is compared with the first one. If several runs have the same arms (more than one),
    each arm is compared with its namesake in the first run.
    """
    first, *others = runs
    arms = [[system.name for system in run] for run in runs]
    if others and len(first) > 1 and all(names == arms[0] for names in arms):
        return [pair for run in others for pair in zip(first, run, strict=True)]
    every = [system for run in runs for system in run]
    if len(every) < 2:
        raise UsageError(
            "there is only one arm to compare",
            "add a second run, or select a run with several arms: etui bench compare A B",
        )
    return [(every[0], other) for other in every[1:]]


_LEVEL = 0.05


def comparison_lines(one: Comparison, *, several: bool) -> list[str]:
    """Format a comparison in a few lines, with the adjusted p-value if there are several."""
    first, second = (units.accuracy_text(share) for share in one.accuracies)
    adjusted = f", adjusted {p_text(one.p_holm)}" if several else ""
    return [
        f"{one.second} against {one.first}: {verdict(one)}",
        f"  accuracy  {first} -> {second}: {_change(one.difference)} points micro, "
        f"{_change(one.macro_difference)} macro",
        f"  McNemar   {p_text(one.p_value)}{adjusted}: of {one.questions:,} questions, only "
        f"{one.second} got {one.only_second:,} right and only {one.first} {one.only_first:,}",
        f"  energy    {_energy_line(one.energy)}",
    ]


def verdict(one: Comparison) -> str:
    """Return the verdict in words; the adjusted p-value decides."""
    if one.p_holm >= _LEVEL:
        return "no significant difference in accuracy"
    return "better" if one.difference.value > 0 else "worse"


def p_text(p_value: float) -> str:
    """Format a p-value: ``p = 0.041``, ``p < 0.001``."""
    return "p < 0.001" if p_value < 0.001 else f"p = {units.significant(p_value, 2)}"


def mixture_line(one: AgainstMixture) -> str:
    """Format the comparison of a system with a random mixture of the others."""
    names = " and ".join(one.mixture)
    return (
        f"{one.label} against a random mixture of {names} at the same joules: "
        f"{units.accuracy_text(one.mixture_accuracy)} -> {units.accuracy_text(one.accuracy)}: "
        f"{_change(one.difference)} points"
    )


def subject_lines(one: Comparison) -> list[str]:
    """Format the table of subjects, largest gain first; single subjects are not tested."""
    width = max(len("subject"), *(len(row.subject) for row in one.subjects))
    lines = [f"  {'subject':<{width}}     n   first  second  points  only first  only second"]
    for row in sorted(one.subjects, key=lambda row: (-row.difference, row.subject)):
        lines.append(
            f"  {row.subject:<{width}} {row.questions:>5,} {row.first * 100:>7.1f} "
            f"{row.second * 100:>7.1f} {units.difference_text(row.difference):>7} "
            f"{row.only_first:>11,} {row.only_second:>12,}"
        )
    return lines


@dataclass(frozen=True, slots=True)
class Gate:
    """Result of ``--max-regression``: percentage points allowed, and the systems that lost more."""

    max_regression: float
    met: bool
    failed: tuple[str, ...]


def comparison_document(
    comparisons: Sequence[Comparison],
    mixtures: Sequence[AgainstMixture],
    notes: Sequence[str],
    gate: Gate | None,
) -> dict[str, Any]:
    """Return all comparisons as plain JSON values; shares and p-values are from 0 to 1."""
    return {
        "comparisons": [
            {
                **to_document(one),
                "points_lost": one.points_lost,
                "subjects": [
                    {**to_document(row), "difference": row.difference} for row in one.subjects
                ],
            }
            for one in comparisons
        ],
        "against_mixture": to_document(list(mixtures)),
        "notes": list(notes),
        "gate": to_document(gate),
    }


def _change(difference: Interval) -> str:
    text = units.difference_text(difference.value)
    if difference.low is None or difference.high is None:
        return text
    low, high = (units.difference_text(end) for end in (difference.low, difference.high))
    return f"{text} (95 % CI {low} to {high})"


def _energy_line(energy: EnergyDifference | None) -> str:
    if energy is None:
        return units.UNMEASURED
    kind = units.ESTIMATE if units.ESTIMATE in energy.kinds else None
    first, second = (
        units.per_text(joules, "question", own)
        for joules, own in zip((energy.first, energy.second), energy.kinds, strict=True)
    )
    change = energy.difference
    times = "" if energy.ratio is None else f", {units.significant(energy.ratio, 2)} times as much"
    shown = units.per_text(change.value, "question", kind, change.half_width, spread=True)
    return f"{first} -> {second}: difference {shown}{times}"
