"""The rule of the race: which settings are worse beyond doubt, and how the rest are ranked.

After each round every setting is compared with the current best, and is dropped if it is beyond
doubt not better by 1.5 %. With such an indifference zone (Bechhofer, Ann. Math. Stat. 25, 1954) the
race also ends between settings that are nearly equal. A setting that is better by 1.5 % or more is
dropped by mistake in at most 5 % of sweeps: that probability is divided by the number of rounds
and by the number of settings that could beat it by luck (Bonferroni), so it holds however often and
between however many settings is compared. The differences between settings of a sweep are mostly
many times the noise, and the bound costs little: ``t`` is about 4 where 2 would be used for one
comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean, median, stdev

from etui.stats.distributions import t_quantile
from etui.stats.small_samples import hodges_lehmann
from etui.sweep.blocks import Block, Figure
from etui.sweep.config import Goal
from etui.units import change_text

Cell = tuple[str, int]  # Key and copy of a setting

MISTAKE = 0.05  # Most probability of dropping the true best setting, over the whole race
WORTH_PERCENT = 1.5
"""Least gain over the current best that is worth the time to prove it. A setting that beyond doubt
gains less is dropped; except with the probability above, the choice is within as much of the true
best."""
FINALISTS = 3  # Most settings, without the baseline, that are confirmed

_WORTH_LOG = math.log1p(WORTH_PERCENT / 100)
_FENCE = 3.5
"""Robust standard deviations beyond which a residual counts as an outlier, and is cut off."""
_LEAST_FOR_FENCE = 8
"""Fewest degrees of freedom at which the median of the residuals says what an outlier is."""
_NORMAL_MEDIAN = 0.6745  # Median of the absolute value of a standard normal variable
_LEAST_FOR_SLOPE = 4  # Fewest visits of a block from which a drift over the positions is removed
_LEAST_TO_TRIM = 5  # Fewest blocks of which the highest and the lowest are not taken as they are
_LEFT_OUT = 5
"""One block of so many, rounded up, is left out where a difference must hold without its worst."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Log ratio of two settings over their common blocks."""

    log_ratio: float
    """Hodges-Lehmann estimate (the median of the means of all pairs of blocks, each with itself
    too), which one disturbed block of five hardly moves."""
    error: float
    degrees: int  # Degrees of freedom of the error
    blocks: int  # Number of common blocks
    trimmed: float | None  # Without the blocks that speak most for a ratio above 0
    trimmed_error: float
    own_error: float
    """Standard error of a trimmed mean by the scatter of these blocks alone; infinite with one
    block."""
    own_degrees: int

    def margin(self, tail: float) -> float:
        """Return the half width that the truth is beyond, on one side, with a probability."""
        return t_quantile(tail, self.degrees) * self.error if self.degrees else math.inf

    def is_below_zero(self, tail: float) -> bool:
        """Return whether the ratio is below 0 beyond doubt, by the pooled and by its own noise.

        A setting may be noisier than the others: their noise alone would claim too much of it.
        """
        if not self.own_degrees or self.log_ratio + self.margin(tail) >= 0:
            return False
        return self.log_ratio + t_quantile(tail, self.own_degrees) * self.own_error < 0

    def exceeds(self, limit: float, tail: float) -> bool:
        """Return whether the ratio is above a limit (a log ratio) beyond doubt.

        It must be so by more than the noise, and still be likely without its worst blocks: one
        disturbed visit condemns no setting. ``tail`` is the probability of a false yes if the ratio
        is just at the limit.
        """
        if self.trimmed is None or self.log_ratio - limit <= self.margin(tail):
            return False
        return self.trimmed - limit > 2 * self.trimmed_error

    def describe(self) -> str:
        """Format the difference and its interval in percent: ``12 % [10, 14]``."""
        margin = self.margin(0.025)
        ends = (self.log_ratio, self.log_ratio - margin, self.log_ratio + margin)
        return change_text(*(100 * math.expm1(min(end, 50.0)) for end in ends), signed=False)


@dataclass(frozen=True, slots=True)
class PairedLogs:
    """Logs of one figure by block and setting."""

    blocks: tuple[Mapping[Cell, float], ...]  # Of each measured visit, by block
    variance: float  # Of the log of the figure of one visit
    degrees: int  # Degrees of freedom of that estimate; 0 if nothing is known

    def compare(self, setting: str, reference: str) -> PairedDifference | None:
        """Compare two settings; None without a block in which both are measured.

        A setting with two copies in a block (the baseline) counts with their mean.
        """
        differences: list[float] = []
        weight = 0.0
        for block in self.blocks:
            own, other = (
                [block[key, copy] for copy in (0, 1) if (key, copy) in block]
                for key in (setting, reference)
            )
            if own and other:
                differences.append(fmean(own) - fmean(other))
                weight += 1 / len(own) + 1 / len(other)
        n = len(differences)
        if not n:
            return None
        kept = sorted(differences)[: n - math.ceil(n / _LEFT_OUT)]
        variance = self.variance * (weight / n)
        return PairedDifference(
            hodges_lehmann(differences),
            math.sqrt(variance / n),
            self.degrees,
            n,
            fmean(kept) if kept else None,
            math.sqrt(variance / len(kept)) if kept else math.inf,
            *_estimate_own_error(differences),
        )

    def log_ratio(self, setting: str, reference: str) -> float:
        """Return the log ratio of two settings; infinite if they are not comparable."""
        if setting == reference:
            return 0.0
        difference = self.compare(setting, reference)
        return math.inf if difference is None else difference.log_ratio

    def is_measured(self, setting: str) -> bool:
        """Return whether any visit of a setting has the figure."""
        return any(cell[0] == setting for block in self.blocks for cell in block)


def pair_logs(blocks: Sequence[Block], figure: Figure) -> PairedLogs:
    """Take the logs of a figure, where it is above 0, and estimate their noise."""
    logs = tuple(
        {
            (visit.setting, visit.copy): math.log(value)
            for visit in block.visits
            if (value := figure(visit)) is not None and value > 0
        }
        for block in blocks
    )
    return PairedLogs(logs, *_estimate_noise(blocks, logs))


def _estimate_noise(
    blocks: Sequence[Block], logs: Sequence[Mapping[Cell, float]]
) -> tuple[float, int]:
    """Estimate the variance of a visit from pairs of blocks of one stage in opposite orders.

    Within a pair, the differences of the same setting between both blocks hold no setting. Their
    median (the block) and, with enough visits, their slope over the positions (the drift) are
    removed; the rest is noise of two visits. Outliers are cut off at 3.5 robust standard
    deviations.
    """
    residuals: list[float] = []
    degrees = 0
    for at in _list_pairs(blocks):
        first, second = logs[at], logs[at + 1]
        visited = ((visit.setting, visit.copy) for visit in blocks[at].visits)
        cells = [cell for cell in visited if cell in first and cell in second]
        if blocks[at].stage == "floor":
            # Equal settings: the sum of both A/A differences holds neither setting nor drift.
            if len(cells) == 2:
                one, other = cells
                residuals.append(math.fsum(log[one] - log[other] for log in (first, second)) / 2)
                degrees += 1
            continue
        rest, own = _remove_line([first[cell] - second[cell] for cell in cells])
        residuals += [residual / math.sqrt(2) for residual in rest]
        degrees += own
    if not degrees:
        return 0.0, 0
    fence = _find_fence(residuals, degrees)
    squares = math.fsum(min(abs(residual), fence) ** 2 for residual in residuals)
    return squares / degrees, degrees


def _estimate_own_error(values: Sequence[float]) -> tuple[float, int]:
    """Return the standard error of a trimmed mean and its degrees of freedom.

    From five values, an eighth (at least one) is trimmed at either end; the error is that of the
    winsorized values (Tukey and McLaughlin, Sankhya A 25, 1963).
    """
    n = len(values)
    cut = max(1, n // 8) if n >= _LEAST_TO_TRIM else 0
    if n < 2:
        return math.inf, 0
    ordered = sorted(values)
    low, high = ordered[cut], ordered[n - 1 - cut]
    spread = stdev(min(max(value, low), high) for value in ordered)
    return spread * math.sqrt(n) / (n - 2 * cut), n - 2 * cut - 1


def _list_pairs(blocks: Sequence[Block]) -> list[int]:
    """List the index of the first block of each pair of opposite orders."""
    found: list[int] = []
    for at, (first, second) in enumerate(pairwise(blocks)):
        if first.stage == second.stage and (not found or found[-1] < at - 1):
            found.append(at)
    return found


def _find_fence(residuals: Sequence[float], degrees: int) -> float:
    """Return the size at which residuals are cut off; infinite if there are too few to know."""
    spread = median(map(abs, residuals)) / _NORMAL_MEDIAN
    if degrees < _LEAST_FOR_FENCE or not spread:
        return math.inf
    # Removing lines has shrunk the residuals by this much.
    return _FENCE * spread * math.sqrt(len(residuals) / degrees)


def _remove_line(values: Sequence[float]) -> tuple[list[float], int]:
    """Remove the median, and the slope over the index where there are enough values.

    Medians leave an outlier in its place: a mean would spread it over all residuals. The slope is
    the median of those of all pairs (Sen, JASA 63, 1968).
    """
    n = len(values)
    if n < 2:
        return [], 0
    slope, degrees = 0.0, n - 1
    if n >= _LEAST_FOR_SLOPE:
        pairs = combinations(enumerate(values), 2)
        slope, degrees = median((b - a) / (j - i) for (i, a), (j, b) in pairs), n - 2
    level = [value - slope * at for at, value in enumerate(values)]
    middle = median(level)
    return [value - middle for value in level], degrees


@dataclass(frozen=True, slots=True)
class Standings:
    """What the blocks say of the settings that are left."""

    goal: Goal
    keys: tuple[str, ...]  # Keys of all settings that can run, the baseline first
    remaining: tuple[str, ...]  # Keys of the settings that are left, the baseline first
    costs: PairedLogs  # Logs of the goal's figure
    seconds: PairedLogs

    @property
    def baseline(self) -> str:
        """Key of the baseline."""
        return self.keys[0]

    @property
    def fastest(self) -> str:
        """The setting with the least seconds, dropped or not: limits are relative to it."""
        return min(self.keys, key=lambda key: self.seconds.log_ratio(key, self.baseline))

    @property
    def most_slower(self) -> float:
        """Log ratio to the fastest setting that the goal allows; infinite without a limit."""
        limit = self.goal.within_percent
        return math.inf if limit is None else math.log1p(limit / 100)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The settings that are left without a figure of the goal in any block."""
        return tuple(key for key in self.remaining if not self.costs.is_measured(key))

    def rank(self) -> list[str]:
        """Order the settings that are left by the goal, the best first.

        With a limit of the time, those within it come first; those above it follow by their time.
        """
        if self.goal.within_percent is None:
            return sorted(self.remaining, key=self._cost)
        fastest, most = self.fastest, self.most_slower

        def order(key: str) -> tuple[bool, float]:
            slower = self.seconds.log_ratio(key, fastest)
            return slower > most, slower if slower > most else self._cost(key)

        return sorted(self.remaining, key=order)

    def find_worse(self, tail: float) -> dict[str, str]:
        """Find the settings that are worse than the current best, or hardly better, beyond doubt.

        With a limit of the time, a setting is dropped if it is slower than allowed beyond doubt, or
        if it is costlier than one that is allowed beyond doubt. Those that may be the fastest are
        kept, since the limit is relative to it. The baseline is always kept. ``tail`` is the
        probability of a mistake in one comparison.
        """
        if self.goal.within_percent is None:
            return self._find_costlier(self.rank()[0], self.remaining, tail)
        fastest, most = self.fastest, self.most_slower
        worse: dict[str, str] = {}
        allowed = [fastest]
        judged: list[str] = []
        for key in self.remaining:
            slower = self.seconds.compare(key, fastest)
            if key == fastest or slower is None:
                continue
            if slower.log_ratio + slower.margin(tail) <= most:
                allowed.append(key)
            elif key != self.baseline and slower.exceeds(most, tail):
                worse[key] = self._describe_slower(slower)
                continue
            if slower.exceeds(-_WORTH_LOG, tail):
                judged.append(key)
        return worse | self._find_costlier(min(allowed, key=self._cost), judged, tail)

    def describe_rank(self, setting: str, best: str) -> str:
        """Write why a setting is not among the finalists, though it is not worse beyond doubt."""
        text = f"not among the {FINALISTS} finalists of the race"
        slower = self.seconds.compare(setting, self.fastest)
        if slower is not None and slower.log_ratio > self.most_slower:
            return f"{text}: {self._describe_slower(slower)}"
        costs = self.costs.compare(setting, best)
        return text if costs is None else f"{text}: {self._describe_more(costs, best)}"

    def _cost(self, key: str) -> float:
        return self.costs.log_ratio(key, self.baseline)

    def _find_costlier(self, best: str, among: Sequence[str], tail: float) -> dict[str, str]:
        worse = {}
        for key in among:
            costs = self.costs.compare(key, best) if key not in (best, self.baseline) else None
            if costs is not None and costs.exceeds(-_WORTH_LOG, tail):
                worse[key] = self._describe_more(costs, best)
        return worse

    def _describe_slower(self, slower: PairedDifference) -> str:
        limit = self.goal.within_percent
        return f"{slower.describe()} slower than {self.fastest}, {limit:g} % is allowed"

    def _describe_more(self, costs: PairedDifference, reference: str) -> str:
        return f"{costs.describe()} more {self.goal.measure} than {reference}"
