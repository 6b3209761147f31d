"""Accuracy of settings on the questions of a suite, against the baseline on the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etui.stats.bootstrap import compute_interval, resample_means
from etui.stats.tests import Interval, holm, mcnemar, wilson
from etui.sweep.result import Accuracy


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
