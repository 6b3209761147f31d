"""The result of the blocks that a sweep has measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.stats.bootstrap import compute_interval, resample_means
from etui.stats.small_samples import estimate_means
from etui.stats.tests import SIGNIFICANCE, Interval, holm, mcnemar, wilson
from etui.sweep._differences import (
    LogDifference,
    Repeatability,
    SweepRepeatability,
    add_meter_uncertainty,
    average_copies,
    build_effects,
    build_floor,
    build_interactions,
    compare_in_race,
    compare_with_baseline,
    decode_joules_per_token,
    drop_missing,
    estimate_costs,
    estimate_effects,
    estimate_race_costs,
    joules,
    judge,
    judge_together,
    measure_both,
    prefill_joules_per_token,
    read_logs,
    read_meter_uncertainty,
    seconds,
    to_percent,
)
from etui.sweep.blocks import Block, Figure, Visit
from etui.sweep.config import SweepDesign
from etui.sweep.race import (
    RaceProgress,
    choose_best,
    estimate_full_grid_seconds,
    follow,
    plan_next,
    rank_all,
)
from etui.sweep.result import (
    Accuracy,
    DetectionFloor,
    Difference,
    SettingResult,
    SweepResult,
    choose_claimed,
)
from etui.units import accuracy_text, change_text, count_text

_LONGEST_LIST = 4


def list_notes(
    blocks: Sequence[Block],
    noise: SweepRepeatability,
    accuracy: Mapping[str, Accuracy],
    indistinct: Sequence[tuple[str, str]],
    dropped: Sequence[str] = (),
) -> tuple[str, ...]:
    """List what a reader should know, the most important first.

    Args:
        accuracy: Empty without a suite.
        indistinct: Neighbours on the frontier that are equal in joules within noise.
        dropped: Settings on the frontier that were dropped in the race.
    """
    visits = [visit for block in blocks for visit in block.visits]
    return (
        *_note_kinds(visits),
        *_note_unequal_copies(noise.joules, "joules"),
        *_note_unequal_copies(noise.seconds, "seconds"),
        *_note_visits(visits),
        *_note_failures(blocks),
        *_note_indistinct(indistinct),
        *_note_dropped(dropped),
        *_note_accuracy(accuracy),
    )


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


def _note_unequal_copies(noise: Repeatability, name: str) -> Iterator[str]:
    """Note a difference between equal settings, which the design cannot explain."""
    if noise.p is None or noise.difference is None or noise.p >= SIGNIFICANCE / 2:
        return
    difference = change_text(to_percent(noise.difference))
    yield (
        f"the second visit of the baseline differs from the first by {difference} of the {name}: "
        "the detection floor is not below that"
    )


def _note_visits(visits: Sequence[Visit]) -> Iterator[str]:
    counts = Counter(note for visit in visits for note in dict.fromkeys(visit.notes))
    for note, count in counts.items():
        yield f"{note} ({_share_text(count, visits)})"
    shared = sum(visit.shared for visit in visits)
    if shared:
        yield f"other processes used the measured devices ({_share_text(shared, visits)})"


def _note_failures(blocks: Sequence[Block]) -> Iterator[str]:
    failures = {failure.setting: failure.why for block in blocks for failure in block.failures}
    for setting, why in failures.items():
        yield f"{setting} could not run: {why}"


def _note_indistinct(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for one, other in pairs:
        yield f"the joules of {one} and {other} are the same within noise"


def _note_dropped(keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        yield (
            f"{key} is on the frontier as the best of its accuracy; it was dropped, so its joules "
            "and seconds are those of the race and were not confirmed"
        )


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
        yield f"accuracy of {_join(keys)} is that of {source}, which computes the same numbers"


def _share_text(count: int, visits: Sequence[Visit]) -> str:
    return f"in {count} of {count_text(len(visits), 'visit')}"


def _join(keys: Sequence[str]) -> str:
    if len(keys) > _LONGEST_LIST:
        return f"{', '.join(keys[:_LONGEST_LIST])} and {len(keys) - _LONGEST_LIST} more"
    return ", ".join(keys)


@dataclass(frozen=True, slots=True)
class RelativeFigures:
    """Figures of a setting relative to the baseline."""

    joules: float | None  # Percent; None if unmeasured
    seconds: float
    accuracy: float | None  # Share of right answers; None without a suite


def find_frontier(candidates: Mapping[str, RelativeFigures]) -> tuple[str, ...]:
    """Find the candidates that no other one dominates.

    One dominates another if it is at least as good in every figure and better in one. A setting
    without a figure that others have is compared only with those that lack it too.

    Args:
        candidates: Key of the setting -> its figures.

    Returns:
        Keys in the order of the candidates. Equal candidates are all on the frontier.
    """
    return tuple(
        key
        for key, one in candidates.items()
        if not any(_dominates(other, one) for other in candidates.values())
    )


def choose_candidates(
    keys: Sequence[str],
    joules: Mapping[str, Difference],
    seconds: Mapping[str, Difference],
    accuracy: Mapping[str, Accuracy],
) -> dict[str, RelativeFigures]:
    """Collect the figures of the settings that were kept.

    An accuracy that differs from the baseline's by no more than noise (McNemar's test) counts as
    equal to it, so that a few lucky questions put no setting on the frontier.

    Args:
        keys: Keys of the settings that are left, the baseline first.
        joules: Differences to the baseline by joules.
        seconds: Differences to the baseline by seconds.
        accuracy: Empty without a suite.

    Returns:
        Key -> figures; a setting without seconds is left out.
    """
    baseline = keys[0]
    measured = bool(joules)
    found: dict[str, RelativeFigures] = {}
    for key in keys:
        if key == baseline:
            own: tuple[float | None, float] = (0.0 if measured else None, 0.0)
        elif key in seconds:
            own = (joules[key].percent if key in joules else None, seconds[key].percent)
        else:
            continue
        found[key] = RelativeFigures(*own, _distinct_accuracy(accuracy, key, baseline))
    return found


def find_indistinct(
    keys: Sequence[str], blocks: Sequence[Block], figure: Figure, seed: int
) -> tuple[tuple[str, str], ...]:
    """Find neighbours on the frontier whose figure is the same within noise.

    Args:
        keys: Keys of the settings on the frontier, in ascending order of the figure.
        figure: What is compared, within blocks.

    Returns:
        Pairs of neighbours whose 95 % interval contains 0; none with one block.
    """
    logs = average_copies(read_logs(blocks, keys, figure))
    pairs = list(pairwise(range(len(keys))))
    columns = [drop_missing(logs[:, other] - logs[:, one]) for one, other in pairs]
    measured = [at for at, column in enumerate(columns) if len(column) > 1]
    estimates = estimate_means([columns[at] for at in measured], seed)
    return tuple(
        (keys[pairs[at][0]], keys[pairs[at][1]])
        for at, one in zip(measured, estimates, strict=True)
        if one.low is not None and one.high is not None and one.low <= 0 <= one.high
    )


def _dominates(one: RelativeFigures, other: RelativeFigures) -> bool:
    """Test whether one candidate is at least as good in every figure and better in one."""
    if (one.joules is None) != (other.joules is None):
        return False
    if (one.accuracy is None) != (other.accuracy is None):
        return False
    pairs = [(one.seconds, other.seconds)]
    if one.joules is not None and other.joules is not None:
        pairs.append((one.joules, other.joules))
    if one.accuracy is not None and other.accuracy is not None:
        pairs.append((-one.accuracy, -other.accuracy))
    return all(own <= its for own, its in pairs) and any(own < its for own, its in pairs)


def _distinct_accuracy(accuracy: Mapping[str, Accuracy], key: str, baseline: str) -> float | None:
    own, reference = accuracy.get(key), accuracy.get(baseline)
    if own is None:
        return None
    if reference is None or (own.p is not None and own.p < SIGNIFICANCE):
        return own.share.value
    return reference.share.value


Name = tuple[str, str]
"""``joules`` or ``seconds``, and the key of a setting."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Figures of one stage, by the keys of the settings.

    Attributes:
        joules, seconds: Cost of one answer.
        prefill, decode: Joules per token.
    """

    name: Literal["race", "confirm"]
    blocks: tuple[Block, ...]
    joules: Mapping[str, Interval]
    seconds: Mapping[str, Interval]
    prefill: Mapping[str, Interval]
    decode: Mapping[str, Interval]
    differences: Mapping[Name, LogDifference]  # Differences to the baseline that are not judged yet

    def count(self, key: str) -> int:
        """Count the blocks that a setting was measured in."""
        return sum(any(visit.setting == key for visit in block.visits) for block in self.blocks)

    def choose(self, stages: Mapping[str, StageFigures]) -> dict[Name, LogDifference]:
        """Choose the differences of the settings whose figures come from this stage.

        Args:
            stages: Key of a setting -> the stage that its figures come from.
        """
        return {name: one for name, one in self.differences.items() if stages[name[1]] is self}


def estimate_race(
    blocks: Sequence[Block], keys: Sequence[str], noise: SweepRepeatability, seed: int
) -> StageFigures:
    """Estimate the figures of the race; before it they are the baseline's, in the floor."""
    before = [block for block in blocks if block.stage != "confirm"]
    return _collect(
        "race",
        [block for block in before if block.stage == "race"] or before,
        lambda figure: estimate_race_costs(before, keys, figure, seed),
        compare_in_race(before, keys, joules, noise.joules),
        compare_in_race(before, keys, seconds, noise.seconds),
    )


def estimate_confirmation(
    blocks: Sequence[Block], keys: Sequence[str], noise: SweepRepeatability, seed: int
) -> StageFigures:
    """Estimate the figures of the confirming blocks."""
    chosen = [block for block in blocks if block.stage == "confirm"]
    return _collect(
        "confirm",
        chosen,
        lambda figure: estimate_costs(chosen, keys, figure, seed),
        compare_with_baseline(chosen, keys, joules, noise.joules, seed),
        compare_with_baseline(chosen, keys, seconds, noise.seconds, seed),
    )


def _collect(
    name: Literal["race", "confirm"],
    blocks: Sequence[Block],
    estimate: Callable[[Figure], dict[str, Interval]],
    by_joules: Mapping[str, LogDifference],
    by_seconds: Mapping[str, LogDifference],
) -> StageFigures:
    return StageFigures(
        name=name,
        blocks=tuple(blocks),
        joules=_add_meter(estimate(joules), blocks, ("prefill", "decode")),
        seconds=estimate(seconds),
        prefill=_add_meter(estimate(prefill_joules_per_token), blocks, ("prefill",)),
        decode=_add_meter(estimate(decode_joules_per_token), blocks, ("decode",)),
        differences={
            **{("joules", key): one for key, one in by_joules.items()},
            **{("seconds", key): one for key, one in by_seconds.items()},
        },
    )


def _add_meter(
    figures: Mapping[str, Interval], blocks: Sequence[Block], phases: Sequence[str]
) -> dict[str, Interval]:
    return {
        key: add_meter_uncertainty(figure, read_meter_uncertainty(blocks, key, phases))
        for key, figure in figures.items()
    }


def compare_accuracies(
    keys: Sequence[str],
    answers: Mapping[str, Sequence[bool]],
    measured_as: Mapping[str, str],
    seed: int,
) -> dict[str, Accuracy]:
    """Compute the accuracy of each setting, and its difference to the baseline.

    The p-values of McNemar's exact test are adjusted by Holm over the settings that were measured
    themselves; settings with the same answers count once. A setting with the baseline's answers has
    a difference of 0 without an interval, since it computes the same numbers.

    Args:
        answers: Key of a measured setting -> whether each answer is correct, in one order. With
            fewer answers than the baseline's, both are compared on those.
        measured_as: Key -> key whose answers are used; a key that is missing uses its own.

    Returns:
        Key -> accuracy, without the settings that have no answers.
    """
    sources = {key: source for key in keys if answers.get(source := measured_as.get(key, key))}
    reference = sources.get(keys[0]) if keys else None
    distinct = [source for source in dict.fromkeys(sources.values()) if source != reference]
    p_values: dict[str, float] = {}
    differences: dict[str, Interval] = {}
    if reference is not None:
        for source in distinct:
            pairs = list(zip(answers[source], answers[reference], strict=False))
            differences[source] = _difference(pairs, seed)
        raw = [_mcnemar(answers[source], answers[reference]) for source in distinct]
        p_values = dict(zip(distinct, holm(raw), strict=True))
        differences[reference] = Interval(0.0, 0.0, 0.0, None)
        p_values[reference] = 1.0
    found: dict[str, Accuracy] = {}
    for key, source in sources.items():
        own = answers[source]
        correct = sum(own)
        is_baseline = key == keys[0]
        found[key] = Accuracy(
            correct=correct,
            questions=len(own),
            share=wilson(correct, len(own)),
            difference_points=None if is_baseline else differences.get(source),
            p=None if is_baseline else p_values.get(source),
            measured_as=source,
        )
    return found


def _mcnemar(own: Sequence[bool], other: Sequence[bool]) -> float:
    pairs = list(zip(own, other, strict=False))
    return mcnemar(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def _difference(pairs: Sequence[tuple[bool, bool]], seed: int) -> Interval:
    """Return the difference of two accuracies in percentage points, with its interval.

    Without a question that only one got right, resamples have no spread. The ends are then those of
    Wilson's interval for the share of such questions: so many that are unseen may exist.
    """
    import numpy as np

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


T = TypeVar("T", bound=tuple[str, Any])

Answers = Mapping[str, Sequence[bool]]
"""Key of a setting -> whether its answer to each question of the suite is correct, in one order."""

_ALMOST_NOTHING = -99.999_999
"""Least difference in per cent whose logarithm is taken."""

_LEAST_CONFIRMED = 2
"""Fewest confirming blocks from which the figures are theirs: one block has no interval."""

_KINDS = frozenset(kind.value for kind in Kind)


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

    Args:
        blocks: Complete blocks, in order.
        answers: Answers of the suite, by setting; None without a suite.
        measured_as: Key of a setting -> the key under which its answers are, where it differs.

    Raises:
        EtuiError: The blocks are not of this design, or the baseline cannot run or be measured.
    """
    progress = follow(design, blocks)
    keys = [setting.key for setting in design.settings]
    baseline, seed = progress.baseline, design.seed
    noise = measure_both(blocks, baseline, seed)
    accuracy = compare_accuracies(keys, answers or {}, measured_as or {}, seed)
    race = estimate_race(blocks, keys, noise, seed)
    confirm = estimate_confirmation(blocks, keys, noise, seed)
    stages = {key: confirm if _is_confirmed(confirm, key) else race for key in keys}
    before = [block for block in blocks if block.stage != "confirm"]
    judged_race, effects = judge_together(
        race.choose(stages), estimate_effects(design.settings, before, noise)
    )
    floor = build_floor(noise, _count_claim_blocks(progress))
    effects = _keep_to_floor(effects, floor)
    judged = _keep_to_floor(judged_race | judge(confirm.choose(stages)), floor)
    joules_differences = _pick(judged, "joules", keys)
    seconds_differences = _pick(judged, "seconds", keys)
    kept = progress.remaining
    others = _list_best_of_kinds(rank_all(design, blocks), accuracy) if accuracy else []
    candidates = choose_candidates(
        [*kept, *(key for key in others if key not in kept)],
        joules_differences,
        seconds_differences,
        accuracy,
    )
    frontier = find_frontier(candidates) if progress.count("race") else ()
    by_joules = sorted(frontier, key=lambda key: candidates[key].joules or 0.0)
    behind = confirm if _is_confirmed(confirm, baseline) else race
    indistinct = find_indistinct(by_joules, behind.blocks, joules, seed)
    drops = {drop.setting: drop for drop in progress.drops}
    settings = [
        SettingResult(
            setting=setting.key,
            values=setting.values,
            stage=stages[setting.key].name,
            blocks=stages[setting.key].count(setting.key),
            joules=stages[setting.key].joules.get(setting.key),
            seconds=stages[setting.key].seconds.get(setting.key),
            prefill_joules_per_token=stages[setting.key].prefill.get(setting.key),
            decode_joules_per_token=stages[setting.key].decode.get(setting.key),
            joules_difference=joules_differences.get(setting.key),
            seconds_difference=seconds_differences.get(setting.key),
            accuracy=accuracy.get(setting.key),
            dropped_after=drops[setting.key].block
            if setting.key in drops and setting.key in progress.able
            else None,
            drop_reason=drops[setting.key].reason if setting.key in drops else "",
            is_on_frontier=setting.key in frontier,
        )
        for setting in design.settings
    ]
    result = SweepResult(
        baseline=baseline,
        best=choose_best(design, blocks),
        goal=design.goal,
        is_complete=plan_next(progress) is None,
        floor=floor,
        settings=(settings[0], *sorted(settings[1:], key=_sort_by_joules)),
        effects=build_effects(design.settings, effects),
        interactions=build_interactions(design.settings, effects),
        blocks=len(blocks),
        visits=sum(len(block.visits) for block in blocks),
        repeated=tuple(line for block in blocks for line in block.repeated),
        notes=list_notes(
            blocks, noise, accuracy, indistinct, [key for key in frontier if key not in kept]
        ),
        seconds=math.fsum(block.seconds for block in blocks),
        full_grid_seconds=estimate_full_grid_seconds(design, blocks),
        kind=_find_weakest_kind(blocks),
    )
    return replace(result, best=choose_claimed(result)) if result.is_complete else result


def _find_weakest_kind(blocks: Sequence[Block]) -> str | None:
    """Return the least certain kind of the visits' joules; None if they are unmeasured."""
    visits = [visit for block in blocks for visit in block.visits if visit.joules is not None]
    found = weakest(Kind(visit.kind) for visit in visits if visit.kind in _KINDS)
    return None if found is None else found.value


def _list_best_of_kinds(ranked: Sequence[str], accuracy: Mapping[str, Accuracy]) -> list[str]:
    """List the best setting of each kind of numbers whose accuracy is known."""
    best: dict[str, str] = {}
    for key in ranked:
        if key in accuracy:
            best.setdefault(accuracy[key].measured_as, key)
    return list(best.values())


def _keep_to_floor(
    differences: Mapping[T, Difference], floor: DetectionFloor | None
) -> dict[T, Difference]:
    """Withdraw claims below the floor that is stated.

    Every difference has a floor by its own blocks. That of an effect of many blocks can be lower
    than the stated one, which is promised to hold for all claims.
    """
    if floor is None:
        return dict(differences)
    least = {"joules": floor.joules_percent, "seconds": floor.seconds_percent}

    def is_shown(name: T, one: Difference) -> bool:
        percent = least[name[0]]
        if percent is None:
            return True
        size = abs(math.log1p(max(one.percent, _ALMOST_NOTHING) / 100))
        return size >= math.log1p(percent / 100)

    return {
        name: one if is_shown(name, one) else replace(one, is_claimed=False)
        for name, one in differences.items()
    }


def _pick(
    judged: Mapping[Name, Difference], figure: str, keys: Sequence[str]
) -> dict[str, Difference]:
    """Pick the differences of settings by a figure."""
    return {key: judged[figure, key] for key in keys if (figure, key) in judged}


def _is_confirmed(confirm: StageFigures, key: str) -> bool:
    return confirm.count(key) >= _LEAST_CONFIRMED


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
