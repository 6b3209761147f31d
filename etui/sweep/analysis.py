"""The result of the blocks that a sweep has measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from etui.bench.cost import find_weakest_kind
from etui.stats.bootstrap import compute_interval, resample_means
from etui.stats.differences import Difference, LogDifference, judge, to_percent
from etui.stats.tests import SIGNIFICANCE, Interval, holm, mcnemar, wilson
from etui.sweep._differences import (
    COMPARED,
    FIGURES,
    Name,
    Repeatability,
    add_meter_uncertainty,
    build_effects,
    build_floor,
    compare_in_race,
    compare_with_baseline,
    estimate_costs,
    estimate_effects,
    estimate_race_costs,
    measure_repeatability,
)
from etui.sweep.blocks import Block, Visit
from etui.sweep.config import SweepDesign
from etui.sweep.race import RaceProgress, choose_best, follow, plan_next, rank_all
from etui.sweep.result import Accuracy, SettingResult, SweepResult, choose_claimed
from etui.units import accuracy_text, change_text, count_text

Answers = Mapping[str, Sequence[bool]]
"""Key of a setting -> whether its answer to each question of the suite is correct, in one order."""

_LEAST_CONFIRMED = 2
"""Fewest confirming blocks from which the figures are theirs: one block has no interval."""
_LONGEST_LIST = 4


@dataclass(frozen=True, slots=True)
class _StageFigures:
    """Figures of one stage, by the keys of the settings."""

    name: Literal["race", "confirm"]
    blocks: tuple[Block, ...]
    costs: Mapping[str, Mapping[str, Interval]]  # Figure of ``FIGURES`` -> key -> cost
    differences: Mapping[Name, LogDifference]  # To the baseline, not judged yet

    def count(self, key: str) -> int:
        """Count the blocks that a setting was measured in."""
        return sum(any(visit.setting == key for visit in block.visits) for block in self.blocks)


def analyse(
    design: SweepDesign,
    blocks: Sequence[Block],
    answers: Answers | None = None,
    measured_as: Mapping[str, str] | None = None,
) -> SweepResult:
    """Compute the result of the blocks measured so far.

    Figures of the baseline and the finalists come from the confirming blocks alone once there are
    two: the race has chosen the finalists by its figures, which are therefore too good. Figures of
    the other settings are those of the race. There are two families of tests: joules and seconds of
    the confirming blocks; and those of the race, with the effects and interactions of the axes.

    The frontier is that of the settings that are left. With accuracies, the best of each kind of
    numbers by the goal joins them, dropped or not: the race does not look at accuracy.
    ``measured_as`` is the key of a setting -> the key under which its answers are, where it
    differs.

    Raises EtuiError if the blocks are not of this design, or the baseline cannot run or be
    measured.
    """
    progress = follow(design, blocks)
    compared = progress.compared
    ordered = progress.design.settings  # another baseline comes first, if that in use collapsed
    keys = [setting.key for setting in ordered]
    baseline, seed = progress.baseline, design.seed
    race_level, level = design.levels
    noise = {
        name: replace(measure_repeatability(compared, baseline, FIGURES[name], seed), level=level)
        for name in COMPARED
    }
    accuracy = compare_accuracies(keys, answers or {}, measured_as or {}, seed)
    before = [block for block in compared if block.stage != "confirm"]
    race = _estimate_stage("race", compared, keys, noise, seed)
    confirm = _estimate_stage("confirm", compared, keys, noise, seed)
    stages = {key: confirm if confirm.count(key) >= _LEAST_CONFIRMED else race for key in keys}
    own_race, own_confirm = (
        {name: one for name, one in stage.differences.items() if stages[str(name[1])] is stage}
        for stage in (race, confirm)
    )
    claim_blocks = _count_claim_blocks(progress)
    least = {name: one.floor_of_blocks(claim_blocks) or 0.0 for name, one in noise.items()}
    own_race |= estimate_effects(ordered, before, noise)
    judged = judge(_raise_floors(own_race, least), race_level)
    judged |= judge(_raise_floors(own_confirm, least), level)
    effects, interactions = build_effects(ordered, judged)
    kept = progress.remaining
    others = _list_best_of_kinds(rank_all(design, blocks), accuracy) if accuracy else []
    candidates = _list_candidates(
        [*kept, *(key for key in others if key not in kept)], judged, accuracy
    )
    frontier = find_frontier(candidates) if progress.count("race") else ()
    drops = {drop.setting: drop for drop in progress.drops}
    settings = [
        SettingResult(
            setting=key,
            values=setting.values,
            stage=stages[key].name,
            blocks=stages[key].count(key),
            **{name: costs.get(key) for name, costs in stages[key].costs.items()},
            joules_difference=judged.get(("joules", key)),
            seconds_difference=judged.get(("seconds", key)),
            accuracy=accuracy.get(key),
            dropped_after=drops[key].block if key in drops and key in progress.able else None,
            drop_reason=drops[key].reason if key in drops else "",
            is_on_frontier=key in frontier,
        )
        for key, setting in zip(keys, ordered, strict=True)
    ]
    result = SweepResult(
        baseline=baseline,
        best=choose_best(design, blocks),
        goal=design.goal,
        is_complete=plan_next(progress) is None,
        floor=build_floor(noise, claim_blocks),
        settings=(settings[0], *sorted(settings[1:], key=_sort_by_joules)),
        effects=effects,
        interactions=interactions,
        blocks=len(blocks),
        visits=sum(len(block.visits) for block in blocks),
        repeated=tuple(line for block in blocks for line in block.repeated),
        notes=tuple(_list_notes(blocks, noise, accuracy, [k for k in frontier if k not in kept])),
        seconds=math.fsum(block.seconds for block in blocks),
        kind=find_weakest_kind(v.kind for b in blocks for v in b.visits if v.joules is not None),
    )
    if result.is_blind:
        return replace(result, best=None)
    return replace(result, best=choose_claimed(result)) if result.is_complete else result


def _estimate_stage(
    name: Literal["race", "confirm"],
    blocks: Sequence[Block],
    keys: Sequence[str],
    noise: Mapping[str, Repeatability],
    seed: int,
) -> _StageFigures:
    """Estimate the figures of a stage; the floor counts for the race, and comes before it."""
    is_race = name == "race"
    estimate, compare = estimate_costs, compare_with_baseline
    if is_race:
        estimate, compare = estimate_race_costs, compare_in_race
    used = [block for block in blocks if (block.stage != "confirm") == is_race]
    shown = [block for block in used if block.stage == name] or used
    costs = {
        figure: add_meter_uncertainty(figure, estimate(used, keys, of, seed), shown)
        for figure, of in FIGURES.items()
    }
    differences: dict[Name, LogDifference] = {
        (figure, key): one
        for figure in COMPARED
        for key, one in compare(used, keys, FIGURES[figure], noise[figure], seed).items()
    }
    return _StageFigures(name, tuple(shown), costs, differences)


def compare_accuracies(
    keys: Sequence[str],
    answers: Answers,
    measured_as: Mapping[str, str],
    seed: int,
) -> dict[str, Accuracy]:
    """Compute the accuracy of each setting that has answers, and its difference to the baseline.

    The p-values of McNemar's exact test are adjusted by Holm over the settings that were measured
    themselves; settings with the same answers count once. A setting with the baseline's answers has
    a difference of 0 without an interval, since it computes the same numbers. One with fewer
    answers than the baseline is compared on those. ``measured_as``: key -> key whose answers are
    used; a key that is missing uses its own.
    """
    sources = {key: source for key in keys if answers.get(source := measured_as.get(key, key))}
    reference = sources.get(keys[0]) if keys else None
    compared: dict[str, tuple[Interval, float]] = {}
    if reference is not None:
        raw: dict[str, tuple[Interval, float]] = {}
        for source in dict.fromkeys(sources.values()):
            if source != reference:
                pairs = list(zip(answers[source], answers[reference], strict=False))
                only = [sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)]
                raw[source] = _compare_answers(pairs, seed), mcnemar(*only)
        adjusted = holm([p for _, p in raw.values()])
        compared = {
            source: (change, p)
            for (source, (change, _)), p in zip(raw.items(), adjusted, strict=True)
        }
        compared[reference] = Interval(0.0, 0.0, 0.0, None), 1.0
    found: dict[str, Accuracy] = {}
    for key, source in sources.items():
        own = answers[source]
        change, p = compared.get(source, (None, None)) if key != keys[0] else (None, None)
        share = wilson(sum(own), len(own))
        found[key] = Accuracy(sum(own), len(own), share, change, p, measured_as=source)
    return found


def _compare_answers(pairs: Sequence[tuple[bool, bool]], seed: int) -> Interval:
    """Return the difference of two accuracies in percentage points, with its interval.

    Without a question that only one got right, resamples have no spread. The ends are then those of
    Wilson's interval for the share of such questions: so many that are unseen may exist.
    """
    changes = np.array([[float(own) - float(other)] for own, other in pairs])
    found = compute_interval(
        changes, resample_means(changes, seed), lambda means: means[:, 0] * 100
    )
    if changes.any() and found.low != found.high:
        return found
    discordant = int(np.abs(changes).sum())
    unseen = 100 * ((wilson(discordant, len(pairs)).high or 1.0) - discordant / len(pairs))
    return Interval(
        found.value, max(-100.0, found.value - unseen), min(100.0, found.value + unseen), "wilson"
    )


def _raise_floors(
    differences: Mapping[Name, LogDifference], least: Mapping[str, float]
) -> dict[Name, LogDifference]:
    """Raise floors to the stated one: that of an effect of many blocks can be lower."""
    return {
        name: one if one.floor is None else replace(one, floor=max(one.floor, least[name[0]]))
        for name, one in differences.items()
    }


def _count_claim_blocks(progress: RaceProgress) -> int:
    """Return the number of blocks behind the claims: of the confirmation, if one is planned."""
    design = progress.design
    if len(progress.remaining) == 1 and progress.is_race_over:
        return progress.count("race")
    if design.confirm_blocks >= _LEAST_CONFIRMED:
        return design.confirm_blocks
    return 2 * design.race_rounds


def _sort_by_joules(one: SettingResult) -> tuple[bool, float]:
    """Order by the difference in joules; settings without one follow, by their seconds."""
    if one.joules_difference is not None:
        return False, one.joules_difference.percent
    if one.seconds_difference is not None:
        return True, one.seconds_difference.percent
    return True, math.inf


def _list_best_of_kinds(ranked: Sequence[str], accuracy: Mapping[str, Accuracy]) -> list[str]:
    """List the best setting of each kind of numbers whose accuracy is known."""
    best: dict[str, str] = {}
    for key in ranked:
        if key in accuracy:
            best.setdefault(accuracy[key].measured_as, key)
    return list(best.values())


Candidate = tuple[float | None, float, float | None]
"""Joules and seconds of a setting in percent of the baseline, and its accuracy; None if unmeasured.
"""


def find_frontier(candidates: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Find the candidates that no other one dominates, in their order.

    One dominates another if it is at least as good in every figure and better in one; equal ones do
    not. A setting without a figure that others have is compared only with those that lack it too.
    """

    def dominates(one: Candidate, other: Candidate) -> bool:
        if [figure is None for figure in one] != [figure is None for figure in other]:
            return False
        own, its = (
            (joules or 0, seconds, -(share or 0)) for joules, seconds, share in (one, other)
        )
        return own != its and all(a <= b for a, b in zip(own, its, strict=True))

    return tuple(
        key
        for key, one in candidates.items()
        if not any(dominates(other, one) for other in candidates.values())
    )


def _list_candidates(
    keys: Sequence[str], judged: Mapping[Name, Difference], accuracy: Mapping[str, Accuracy]
) -> dict[str, Candidate]:
    """Collect the figures of settings, the baseline first; those without seconds are left out.

    An accuracy that differs from the baseline's by no more than noise (McNemar's test) counts as
    equal to it, so that a few lucky questions put no setting on the frontier.
    """
    base = accuracy.get(keys[0])
    is_measured = any(figure == "joules" and isinstance(key, str) for figure, key in judged)
    found: dict[str, Candidate] = {}
    for key in keys:
        share = None
        if (own := accuracy.get(key)) is not None:
            is_distinct = base is None or (own.p is not None and own.p < SIGNIFICANCE)
            share = own.share.value if base is None or is_distinct else base.share.value
        joules, seconds = judged.get(("joules", key)), judged.get(("seconds", key))
        if key == keys[0]:
            found[key] = (0.0 if is_measured else None, 0.0, share)
        elif seconds is not None:
            found[key] = (None if joules is None else joules.percent, seconds.percent, share)
    return found


def _list_notes(
    blocks: Sequence[Block],
    noise: Mapping[str, Repeatability],
    accuracy: Mapping[str, Accuracy],
    dropped: Sequence[str],
) -> Iterator[str]:
    """List what a reader of the figures should know, the most important first."""
    visits = [visit for block in blocks for visit in block.visits]
    yield from _note_kinds(visits)
    for name, own in noise.items():
        if own.p is not None and own.difference is not None and own.p < SIGNIFICANCE / 2:
            yield (
                "the second visit of the baseline differs from the first by "
                f"{change_text(to_percent(own.difference))} of the {name}: "
                "the detection floor is not below that"
            )
    shares = Counter(note for visit in visits for note in dict.fromkeys(visit.notes))
    shares["other processes used the measured devices"] = sum(visit.shared for visit in visits)
    for note, count in shares.items():
        if count:
            yield f"{note} (in {count} of {count_text(len(visits), 'visit')})"
    for key in dropped:
        yield (
            f"{key} is on the frontier as the best of its accuracy; it was dropped, so its joules "
            "and seconds are those of the race and were not confirmed"
        )
    yield from _note_accuracy(accuracy)


def _note_kinds(visits: Sequence[Visit]) -> Iterator[str]:
    kinds = Counter(visit.kind for visit in visits if visit.joules is not None)
    unmeasured = sum(visit.joules is None for visit in visits)
    if "estimate" in kinds:
        yield (
            "joules are an estimate from CPU time: differences show what the estimate sees "
            "(utilisation and time), not what the hardware draws"
        )
    if len(kinds) > 1:
        counts = ", ".join(
            f"{kind or 'unknown'} in {count_text(count, 'visit')}" for kind, count in kinds.items()
        )
        yield f"energy was determined in several ways, which do not compare: {counts}"
    if unmeasured and kinds:
        yield f"joules are unmeasured in {unmeasured} of {count_text(len(visits), 'visit')}"
    elif unmeasured:
        yield "joules are unmeasured: only seconds are compared"


def _note_accuracy(accuracy: Mapping[str, Accuracy]) -> Iterator[str]:
    shared: dict[str, list[str]] = {}
    for key, one in accuracy.items():
        if one.measured_as != key:
            shared.setdefault(one.measured_as, []).append(key)
        lost = one.difference_points
        if one.p is not None and one.p < SIGNIFICANCE and lost is not None and lost.value < 0:
            yield (
                f"{key} answers fewer questions right: {accuracy_text(one.share.value)}, "
                f"{abs(lost.value):.1f} points less than the baseline"
            )
    for source, keys in shared.items():
        names = ", ".join(keys[:_LONGEST_LIST])
        if len(keys) > _LONGEST_LIST:
            names += f" and {len(keys) - _LONGEST_LIST} more"
        yield f"accuracy of {names} is that of {source}, which computes the same numbers"
