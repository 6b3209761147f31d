"""Joules of replayed days under keep_warm: auto : the best fixed time found in hindsight.

    python -m benchmarks.idle [--days 14] [--learn 7] [--seeds 3] [--cold 10] [--json]

Synthetic days of several kinds, and machines of several costs: joules of a load, and watts that a
model in memory draws above cold idle. ``auto`` has seen the gaps of some days before (``--learn``),
and of each replayed day only those before each gap. The best fixed time knows all gaps of the day.

Four ratios for each kind and machine: of the joules of a day (cold idle power, idling and loads),
the median and the worst day; and of the joules above cold idle, which no time can save, the median
day and all days together, whose best fixed time is one for all. ``T*`` and ``first`` are the
joules above cold idle of all days under T*, and of ``auto`` without anything learned before.
``--json`` also has those of a day under ``auto`` against a model that is unloaded after each
answer, and against one that stays in memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.figures import Figure, median_of
from etui.energy.keep_warm import Measured
from etui.runtime.keep_warm import IdleCost, IdleReplay, choose_times, replay_gaps
from tests.support.idle_days import DAYS, draw_gaps, flatten

AIM = 1.1
COLD_WATTS = 10.0
OTHERS = ("unload after each answer", "never unload")

MACHINES: Mapping[str, tuple[float, float]] = {
    "60 J, 35 W": (60.0, 35.0),
    "1.5 kJ, 41 W": (1500.0, 41.0),
    "4 kJ, 20 W": (4000.0, 20.0),
    "9 kJ, 8 W": (9000.0, 8.0),
}
"""Name -> joules of a load, watts above cold; T* is 1.7 s, 37 s, 200 s and 19 minutes."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Ratios of one kind of day on one machine; see the module."""

    days: int
    day_median: float
    day_worst: float
    extra_median: float
    extra_all: float
    t_star: float
    first: float
    against: Mapping[str, Figure]
    """Other way -> joules above cold idle of a day under ``auto`` : under it."""

    @property
    def passed(self) -> bool:
        """Whether every ratio that the aim is set for is within it."""
        return max(self.day_worst, self.extra_all) <= AIM


def compare(
    kind: str, machine: str, days: int, learn: int, seeds: int, cold_watts: float = COLD_WATTS
) -> Compared:
    """Replay days of one kind on one machine."""
    load, watts = MACHINES[machine]
    cost = IdleCost(
        Measured(load, 0.05 * load), Measured(watts, 0.05 * watts), Measured(cold_watts, 0.3)
    )
    day: list[float] = []
    extra: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in OTHERS}
    sums: dict[str, float] = dict.fromkeys(("auto", "best fixed", "T*", "first"), 0.0)
    for seed in range(seeds):
        drawn = draw_gaps(DAYS[kind], learn + days, seed)
        known, replayed = flatten(drawn[:learn]), drawn[learn:]
        gaps = flatten(replayed)
        chosen = choose_times(gaps, cost, known)
        at = 0
        for one in replayed:
            if one:
                found = replay_gaps(one, cost, chosen[at : at + len(one)])
                auto, best = found.get("auto"), found.get("best fixed")
                day.append(auto.joules.value / best.joules.value)
                extra.append(auto.extra.value / best.extra.value)
                unloaded, kept = len(one) * load, found.get("never").extra.value
                for name, joules in zip(OTHERS, (unloaded, kept), strict=True):
                    others[name].append(auto.extra.value / joules)
            at += len(one)
        whole = replay_gaps(gaps, cost, chosen)
        for name in ("auto", "best fixed", "T*"):
            sums[name] += whole.get(name).extra.value
        sums["first"] += _sum_of_auto(replay_gaps(gaps, cost, choose_times(gaps, cost)))
    best_sum = sums["best fixed"]
    return Compared(
        len(day),
        median(day),
        max(day),
        median(extra),
        sums["auto"] / best_sum,
        sums["T*"] / best_sum,
        sums["first"] / best_sum,
        {name: median_of(f"auto : {name}", ratios) for name, ratios in others.items()},
    )


def _sum_of_auto(replay: IdleReplay) -> float:
    return replay.get("auto").extra.value


def quick() -> Iterator[Figure]:
    """A week of each kind on two machines, after a week."""
    for kind in DAYS:
        for machine in ("1.5 kJ, 41 W", "4 kJ, 20 W"):
            found = compare(kind, machine, days=7, learn=7, seeds=1)
            label = f"{kind} days, load {machine} above cold"
            yield Figure(
                f"joules of a day under auto : best fixed, {label}",
                found.day_median,
                n=found.days,
                high=found.day_worst,
            )
            yield Figure(
                f"joules above cold idle, auto : best fixed of a week, {label}",
                found.extra_all,
                n=found.days,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=14, help="replayed days")
    parser.add_argument("--learn", type=int, default=7, help="days before them")
    parser.add_argument("--seeds", type=int, default=3, help="users of each kind")
    parser.add_argument("--cold", type=float, default=COLD_WATTS, help="cold idle watts")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    found = {
        (kind, machine): compare(
            kind, machine, chosen.days, chosen.learn, chosen.seeds, chosen.cold
        )
        for kind in DAYS
        for machine in MACHINES
    }
    passed = all(one.passed for one in found.values())
    if chosen.json:
        runs = [
            {"kind": kind, "machine": machine, **asdict(one), "passed": one.passed}
            for (kind, machine), one in found.items()
        ]
        print(json.dumps({"aim": AIM, "passed": passed, "runs": runs}, indent=2))
        return
    head = ("day", "worst day", "above cold", "all days", "T*", "first")
    print("auto : best fixed time in hindsight (aim: worst day and all days <= 1.1)")
    print(f"{'days':<10}{'load, above cold':<18}" + "".join(f"{name:>12}" for name in head))
    for (kind, machine), one in found.items():
        values = (
            one.day_median, one.day_worst, one.extra_median, one.extra_all, one.t_star, one.first,
        )  # fmt: skip
        mark = "" if one.passed else "  missed"
        print(f"{kind:<10}{machine:<18}" + "".join(f"{v:>12.3f}" for v in values) + mark)
    print("aim reached" if passed else "aim missed")


if __name__ == "__main__":
    main()
