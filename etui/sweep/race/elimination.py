"""The rule of the race: which settings are worse beyond doubt, and how the rest are ranked.

After each round every setting is compared with the current best, and is dropped if it is beyond
doubt not better by 1.5 %. With such an indifference zone (Bechhofer, Ann. Math. Stat. 25, 1954) the
race also ends between settings that are nearly equal. A setting that is better by 1.5 % or more is
dropped by mistake in at most 5 % of sweeps: that probability is divided by the number of rounds
(looks) and by the number of settings that could beat it by luck (Bonferroni), so it holds however
often and between however many settings is looked. The differences between settings of a sweep are
mostly many times the noise, and the bound costs little: ``t`` is about 4 where 2 would be used for
one look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.sweep.blocks import Block
from etui.sweep.goal import Goal, Measure
from etui.sweep.race.contrast import Contrast, PairedLogs, pair_logs
from etui.units import change_text

MISTAKE = 0.05
"""Most probability of dropping the true best setting, over the whole race."""
WORTH_PERCENT = 1.5
"""Least gain over the current best that is worth the time to prove it. A setting that beyond doubt
gains less is dropped; except with the probability above, the choice is within as much of the true
best."""
FINALISTS = 3
"""Most settings, without the baseline, that are confirmed."""

_WORTH_LOG = math.log1p(WORTH_PERCENT / 100)
_MORE: dict[Measure, str] = {
    "joules": "more joules than",
    "time": "more time than",
    "joules*time": "more joules*time than",
}


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


def read_standings(
    goal: Goal, keys: Sequence[str], remaining: Sequence[str], blocks: Sequence[Block]
) -> Standings:
    """Take the figures of all settings from the blocks.

    Args:
        keys: Keys of all settings that can run, the baseline first.
        remaining: Those that are left.
    """
    costs = pair_logs(blocks, goal.cost)
    seconds = pair_logs(blocks, lambda visit: visit.seconds)
    return Standings(goal, tuple(keys), tuple(remaining), costs, seconds)


def find_unmeasured(standings: Standings) -> tuple[str, ...]:
    """List the settings without a figure of the goal in any block."""
    return tuple(key for key in standings.remaining if not standings.costs.is_measured(key))


def find_worse(standings: Standings, tail: float) -> dict[str, str]:
    """Find the settings that are worse than the current best, or hardly better, beyond doubt.

    With a limit of the time, a setting is dropped if it is slower than allowed beyond doubt, or if
    it is costlier than one that is allowed beyond doubt. Those that may be the fastest are kept,
    since the limit is relative to it. The baseline is always kept.

    Args:
        tail: Probability of a mistake in one comparison.

    Returns:
        Key of the setting -> reason.
    """
    limit = standings.goal.within_percent
    if limit is None:
        best = rank(standings)[0]
        return _find_costlier(standings, best, standings.remaining, tail)
    fastest = find_fastest(standings)
    allowed_log = math.log1p(limit / 100)
    worse: dict[str, str] = {}
    allowed = [fastest]
    judged: list[str] = []
    for key in standings.remaining:
        contrast = standings.seconds.contrast(key, fastest)
        if key == fastest or contrast is None:
            continue
        if contrast.exceeds(-_WORTH_LOG, tail):
            judged.append(key)
        if contrast.log_ratio + contrast.margin(tail) <= allowed_log:
            allowed.append(key)
        elif key != standings.baseline and contrast.exceeds(allowed_log, tail):
            worse[key] = _describe_slower(contrast, fastest, limit)
    best = min(allowed, key=lambda key: _cost(standings, key))
    judged = [key for key in judged if key not in worse]
    return worse | _find_costlier(standings, best, judged, tail)


def rank(standings: Standings) -> list[str]:
    """Order the settings that are left by the goal, the best first.

    With a limit of the time, those within it come first; those above it follow by their time.
    """
    limit = standings.goal.within_percent
    if limit is None:
        return sorted(standings.remaining, key=lambda key: _cost(standings, key))
    fastest = find_fastest(standings)

    def order(key: str) -> tuple[bool, float]:
        slower = compare_seconds(standings, key, fastest)
        too_slow = slower > math.log1p(limit / 100)
        return too_slow, slower if too_slow else _cost(standings, key)

    return sorted(standings.remaining, key=order)


def find_fastest(standings: Standings) -> str:
    """Return the setting with the least seconds, dropped or not: limits are relative to it."""
    return min(standings.keys, key=lambda key: compare_seconds(standings, key, standings.baseline))


def compare_seconds(standings: Standings, setting: str, reference: str) -> float:
    """Return the log ratio of the seconds of two settings; infinite if they are not comparable."""
    return _log_ratio(standings.seconds, setting, reference)


def describe_rank(standings: Standings, setting: str, best: str) -> str:
    """Write why a setting is not among the finalists, though it is not worse beyond doubt."""
    text = f"not among the best {FINALISTS} after the race"
    limit = standings.goal.within_percent
    if limit is not None:
        fastest = find_fastest(standings)
        slower = standings.seconds.contrast(setting, fastest)
        if slower is not None and slower.log_ratio > math.log1p(limit / 100):
            return f"{text}: {_describe_slower(slower, fastest, limit)}"
    contrast = standings.costs.contrast(setting, best)
    return text if contrast is None else f"{text}: {_describe_more(contrast, standings.goal, best)}"


def _describe_slower(contrast: Contrast, fastest: str, limit: float) -> str:
    difference = change_text(*contrast.percent(), signed=False)
    return f"{difference} slower than {fastest}, {limit:g} % is allowed"


def _describe_more(contrast: Contrast, goal: Goal, reference: str) -> str:
    return f"{change_text(*contrast.percent(), signed=False)} {_MORE[goal.measure]} {reference}"


def _find_costlier(
    standings: Standings, best: str, among: Sequence[str], tail: float
) -> dict[str, str]:
    worse = {}
    for key in among:
        if key in (best, standings.baseline):
            continue
        contrast = standings.costs.contrast(key, best)
        if contrast is not None and contrast.exceeds(-_WORTH_LOG, tail):
            worse[key] = _describe_more(contrast, standings.goal, best)
    return worse


def _cost(standings: Standings, setting: str) -> float:
    return _log_ratio(standings.costs, setting, standings.baseline)


def _log_ratio(logs: PairedLogs, setting: str, reference: str) -> float:
    if setting == reference:
        return 0.0
    contrast = logs.contrast(setting, reference)
    return math.inf if contrast is None else contrast.log_ratio
