"""Fit how likely an answer is right that several arms agree on, and how likely where they differ.

With the answers of a table, agreement is known for each question. A table of right and wrong knows
it only where an arm is right: arms that are all right agree, arms of which only some are right
differ, and arms that are all wrong may have given one wrong answer or several. For such a table
the rates are bounds: the least that an agreed answer, or one of several different ones, can be
right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from etui.routing.accuracy.confidence import fit_curve
from etui.routing.accuracy.fitted_file import AgreementHead, ConfidenceCurve, Share
from etui.routing.accuracy.predictor import wilson_low
from etui.routing.accuracy.table import ArmFacts, Graded

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

MOST_PAIRED_ARMS = 6
"""Number of arms above which a fit without a policy leaves out the agreement of each two."""
_ONE_SIDED = 0.975
"""Confidence of each end of an interval at 95 %."""
_WHOLE = 1.0 - 1e-9
"""Share of the votes from which all of them agree."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Which questions several arms agree on."""

    agree: Flags  # They gave the same answer, shape (questions,)
    differ: Flags
    """They gave different answers, or one gave none. Neither is set where it is unknown."""

    @property
    def known(self) -> bool:
        """Whether agreement is known for every question."""
        return bool((self.agree | self.differ).all())


def find_agreed(graded: Graded, arms: Sequence[str]) -> Agreed:
    """Find the questions on which arms of a table agree.

    A single arm agrees with itself where all of its votes are for one answer.
    """
    import numpy as np

    columns = [graded.arms.index(arm) for arm in arms]
    agree: Flags
    if len(columns) == 1:
        if graded.confidence is None:
            unknown = np.zeros(len(graded), dtype=bool)
            return Agreed(unknown, unknown)
        agree = np.asarray(graded.confidence[:, columns[0]] >= _WHOLE, dtype=bool)
        return Agreed(agree, np.logical_not(agree))
    if graded.answers is not None:
        given = graded.answers[:, columns]
        agree = np.asarray((given[:, :1] == given).all(axis=1) & (given[:, 0] >= 0), dtype=bool)
        return Agreed(agree, np.logical_not(agree))
    right = graded.correct[:, columns]
    agree = np.asarray(right.all(axis=1), dtype=bool)
    return Agreed(agree, np.asarray(right.any(axis=1), dtype=bool) & np.logical_not(agree))


def choose_agreements(
    graded: Graded, stated: Sequence[tuple[str, ...]] | None
) -> Iterator[tuple[str, ...]]:
    """Yield the sets of arms to fit: those of a policy that the table has, or each two arms.

    Args:
        stated: The sets that a policy names; None for a fit without a policy.
    """
    if stated is None:
        if len(graded.arms) <= MOST_PAIRED_ARMS:
            yield from combinations(graded.arms, 2)
        return
    yield from (arms for arms in stated if set(arms) <= set(graded.arms))


def fit_agreement(graded: Graded, arms: tuple[str, ...], folds: Whole) -> AgreementHead | None:
    """Fit one set of arms; None if it is not known for any question whether they agree.

    Args:
        folds: Fold of each question, for the calibration error of the curve.
    """
    import numpy as np

    if graded.weights is not None:  # labels that are known for certain, as for a curve
        columns = [graded.arms.index(arm) for arm in arms]
        certain: Flags = np.asarray((graded.weights[:, columns] >= 1).all(axis=1), dtype=bool)
        graded, folds = graded.take(certain), folds[certain]
    found = find_agreed(graded, arms)
    if not found.agree.any() and not found.differ.any():
        return None
    right = graded.correct[:, [graded.arms.index(arm) for arm in arms]]
    unknown = ~(found.agree | found.differ)
    facts = [graded.facts.get(arm, ArmFacts()) for arm in arms]
    return AgreementHead(
        arms=arms,
        models=tuple(each.model for each in facts),
        n=len(graded),
        known=found.known,
        agreed=_compute_share(right[:, 0] & found.agree, found.agree | unknown),
        apart=tuple(
            _compute_share(right[:, at] & found.differ, found.differ | unknown)
            for at in range(len(arms))
        ),
        curve=_fit_curve(graded, arms, found.agree, folds) if found.known else None,
    )


def _compute_share(right: Flags, of: Flags) -> Share:
    """Compute a share with its interval at 95 %; without any question it is unknown: 0 to 1."""
    n = int(of.sum())
    if n == 0:
        return Share(p=0.5, low=0.0, high=1.0, n=0)
    count = int(right.sum())
    low = wilson_low(count / n, n, _ONE_SIDED)
    high = 1 - wilson_low(1 - count / n, n, _ONE_SIDED)
    # Towards one half by one answer each way, so that few answers are never certain.
    return Share(p=(count + 1) / (n + 2), low=low, high=high, n=n)


def _fit_curve(
    graded: Graded, arms: tuple[str, ...], agree: Flags, folds: Whole
) -> ConfidenceCurve | None:
    """Fit the curve of the agreed answers over the mean margin of the arms, else confidence."""
    if len(arms) == 1:
        return None  # votes that all agree have one margin
    columns = [graded.arms.index(arm) for arm in arms]
    sources: tuple[tuple[Literal["margin", "confidence"], Floats | None], ...] = (
        ("margin", graded.margin),
        ("confidence", graded.confidence),
    )
    for of, values in sources:
        if values is None:
            continue
        raw: Any = values[:, columns].mean(axis=1)[agree]
        curve = fit_curve(of, raw, graded.correct[agree][:, columns[0]], folds[agree])
        if curve is not None:
            return curve
    return None
