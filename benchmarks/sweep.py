"""Whether a sweep finds the best setting of simulated machines, and what its claims are worth.

    python -m benchmarks.sweep [--sweeps 200] [--seed 0] [--goal joules] [--within 10] [--json]
    python -m benchmarks.sweep --contended [--sweeps 50]       simulated, beside a busy process
    python -m benchmarks.sweep --beside smollm2-135m [--sweeps 1]     real, beside a busy process

Each sweep runs on a machine of its own, with drawn costs of every setting and drawn noise: noisy
visits, a machine that warms up and wanders, outliers that are not noticed, disturbances that are,
and a coarse meter. It is run twice, with and without dropping settings that are worse beyond doubt.

``within 2 %`` is the share of sweeps whose choice costs at most 2 % more than the true best, and
``full`` the same without dropping. ``hold`` is the share of the claims (settings against the
baseline, effects of axes, interactions) whose stated interval contains the truth, and ``any`` that
of all stated intervals. ``false`` is the share of sweeps with a claim of the wrong sign; on the
``flat`` machine every claim is false, and so is every choice but the baseline. ``saved`` is the
mean share of the full grid's simulated time that dropping saves, ``half`` the share of sweeps in
which it is at least half.

Beside a busy process, threads wait for each other: a sweep has to end within 15 min with what it
knows, and to claim nothing that is false. ``--beside`` sweeps a model with its default axes while
another process spins, in an environment without OpenMP's settings of that wait. What is true is
not known there; a claim that another sweep contradicts is counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure
from etui.errors import Stopped
from etui.stats.differences import Difference
from etui.sweep.analysis import analyse
from etui.sweep.blocks import Block
from etui.sweep.config import BUSY_S, AxisName, Goal, Measure, SweepDesign, Value
from etui.sweep.race import choose_best, measure_blocks
from etui.sweep.result import SweepResult
from tests.support.sweep_rig import (
    MACHINES,
    SimulatedMachine,
    SimulatedRig,
    TrueCost,
    draw_contended_machine,
    draw_contention,
    draw_noise,
)

FLAT = "flat"
CLOSE = 0.02
AIMS = {"close": 0.95, "hold": 0.93, "false": 0.05, "saved": 0.5}
_SLACK_PERCENT = 1.0
"""A limit of the time cannot be kept more exactly than the time is measured: the choice may be this
much slower than the limit, and is compared with the best setting that is as much below it."""

Truth = Mapping[str, TrueCost]
Effect = tuple[AxisName, Value, Value]


@dataclass(frozen=True, slots=True)
class Stated:
    """A stated interval and the truth, percent."""

    truth: float
    low: float
    high: float
    is_claimed: bool

    @property
    def holds(self) -> bool:
        """Whether the interval contains the truth, within the rounding of floats."""
        return self.low - 1e-9 <= self.truth <= self.high + 1e-9

    @property
    def is_false(self) -> bool:
        """Whether the claim has the wrong sign, or there is no difference at all."""
        side = self.low + self.high
        return self.is_claimed and (abs(self.truth) < 1e-9 or self.truth * side < 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sweep.

    Attributes:
        settings: Number of combinations.
        excess, full_excess: How much more the choice costs than the true best, with and without
            dropping; infinite for one that is too slow.
        is_baseline: Whether the baseline was chosen.
        seconds, full_seconds: Simulated seconds.
        stated: Its intervals.
    """

    settings: int
    excess: float
    full_excess: float
    is_baseline: bool
    seconds: float
    full_seconds: float
    stated: tuple[Stated, ...]

    @property
    def saved(self) -> float:
        """Share of the full grid's time that is saved."""
        return 1 - self.seconds / self.full_seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """Sweeps of one kind of machine; see the module."""

    kind: str
    sweeps: int
    settings: float
    close: float
    full_close: float
    claims: int
    hold: float | None
    intervals: int
    any_hold: float | None
    false: float
    moved: float
    saved: float
    half: float

    @property
    def missed(self) -> tuple[str, ...]:
        """Aims that are missed."""
        aims = {"false": self.false <= AIMS["false"]}
        if self.kind != FLAT:
            aims["close"] = self.close >= AIMS["close"]
            aims["hold"] = self.hold is not None and self.hold >= AIMS["hold"]
            aims["saved"] = self.saved >= AIMS["saved"]
        return tuple(name for name, reached in aims.items() if not reached)


def simulate(kind: str, number: int, seed: int, goal: Goal) -> Outcome:
    """Run a sweep on a drawn machine, with and without dropping settings."""
    rng = random.Random(f"{seed} {number} {kind}")
    machine = MACHINES[kind](rng)
    noise = draw_noise(rng)
    design = SweepDesign(machine.settings, goal, seed=number)
    rigs = [SimulatedRig(machine, noise, number) for _ in range(2)]
    blocks = measure(design, rigs[0])
    whole = replace(design, halving=False)
    result = analyse(design, blocks)
    full_best = choose_best(whole, measure(whole, rigs[1]))
    return Outcome(
        settings=len(machine.settings),
        excess=compute_excess(machine, result.best, goal),
        full_excess=compute_excess(machine, full_best, goal),
        is_baseline=result.best == result.baseline,
        seconds=rigs[0].now_s,
        full_seconds=rigs[1].now_s,
        stated=tuple(list_stated(result, {s.key: cost for s, cost in machine.costs.items()})),
    )


@dataclass(frozen=True, slots=True)
class Contended:
    """A sweep beside a busy process."""

    seconds: float
    result: SweepResult
    false: tuple[Stated, ...]  # Claims that are false


def simulate_contended(number: int, seed: int = 0) -> Contended:
    """Run a sweep on a drawn machine beside a busy process, until it ends or its time is over."""
    rng = random.Random(f"{seed} {number} contended")
    machine = draw_contended_machine(rng)
    rig = SimulatedRig(machine, draw_contention(rng), number)
    design = SweepDesign(machine.settings, seed=number).shorten()
    blocks: list[Block] = []

    def check(*_: object) -> None:
        if rig.now_s > BUSY_S:
            raise Stopped("the time is over")

    with suppress(Stopped):
        measured = measure_blocks(
            design, rig.visit, (), clock=rig.clock, sleep=rig.sleep, on_visit=check
        )
        for block in measured:
            blocks.append(block)
    result = analyse(design, blocks)
    stated = list_stated(result, {s.key: cost for s, cost in machine.costs.items()})
    return Contended(rig.now_s, result, tuple(one for one in stated if one.is_false))


def measure_beside(model: str, seed: int) -> tuple[float, int, dict[str, Any], str]:
    """Sweep a model beside a process that spins: seconds, exit code, document and table."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    env = {name: value for name, value in os.environ.items() if name not in unset}

    def sweep(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "etui", "sweep", *words]
        return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)

    with (
        TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", "while True: pass"], env=env) as other,
    ):
        place = str(Path(folder) / "sweep")
        try:
            start_s = time.monotonic()
            ended = sweep(model, "--force", "--json", "--seed", str(seed), "--out", place)
            seconds = time.monotonic() - start_s
        finally:
            other.kill()
        table = sweep("--show", place).stdout
    return seconds, ended.returncode, json.loads(ended.stdout or "{}"), table


def list_claims(document: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """List what a result claims: setting and figure -> difference to the baseline, percent."""
    return {
        (f"{one['setting']} against {document['baseline']}", figure): change["percent"]
        for one in document.get("settings", ())
        for figure in ("joules", "seconds")
        if (change := one[f"{figure}_difference"]) is not None and change["is_claimed"]
    }


def print_beside(model: str, sweeps: int, seed: int) -> None:
    """Sweep a model beside a busy process, and print what each sweep ends with."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(sweeps):
        seconds, code, document, table = measure_beside(model, seed + number)
        late = "" if seconds <= 900 else "  missed: 15 min"
        print(f"{seconds / 60:.1f} min, exit code {code}{late}\n{table}")
        for claim, percent in list_claims(document).items():
            found.setdefault(claim, []).append(percent)
            print(f"  claimed: {claim[0]}: {percent:+.1f} % {claim[1]}")
    against = [claim for claim, values in found.items() if min(values) < 0 < max(values)]
    print(f"{len(against)} claims that sweeps contradict each other in: {against}")


def print_contended(sweeps: int, seed: int) -> None:
    """Simulate sweeps beside a busy process, and print how they end."""
    outcomes = [simulate_contended(number, seed) for number in range(sweeps)]
    longest = max(one.seconds for one in outcomes)
    changes = [
        change
        for one in outcomes
        for setting in one.result.settings
        for change in (setting.joules_difference, setting.seconds_difference)
    ]
    print(f"{sweeps} simulated sweeps beside a busy process, seed {seed}")
    print(f"with a false claim: {sum(bool(one.false) for one in outcomes)}")
    print(f"longest: {longest / 60:.1f} min")
    print(f"complete: {sum(one.result.is_complete for one in outcomes)}")
    print(f"claims against the baseline: {sum(c is not None and c.is_claimed for c in changes)}")
    print(f"floor of joules above 100 %: {sum(one.result.is_blind for one in outcomes)}")


def measure(design: SweepDesign, rig: SimulatedRig) -> list[Block]:
    """Run a sweep to its end."""
    return list(measure_blocks(design, rig.visit, (), clock=rig.clock, sleep=rig.sleep))


def compute_excess(machine: SimulatedMachine, chosen: str | None, goal: Goal) -> float:
    """Return how much more a choice costs than the true best, as a share."""
    if chosen is None:
        return math.inf
    if goal.within_percent is None:
        best = machine.figure(machine.find_best(goal), goal)
        return machine.figure(chosen, goal) / best - 1
    strict = replace(goal, within_percent=max(0.0, goal.within_percent - _SLACK_PERCENT))
    loose = replace(goal, within_percent=goal.within_percent + _SLACK_PERCENT)
    return machine.figure(chosen, loose) / machine.figure(machine.find_best(strict), strict) - 1


def list_stated(result: SweepResult, truth: Truth) -> Iterator[Stated]:
    """List every interval of a result with its truth."""
    base = truth[result.baseline]
    logs = {
        "joules": {key: math.log(cost.joules) for key, cost in truth.items()},
        "seconds": {key: math.log(cost.seconds) for key, cost in truth.items()},
    }
    for one in result.settings:
        cost = truth[one.setting]
        yield from _state(one.joules_difference, math.log(cost.joules / base.joules))
        yield from _state(one.seconds_difference, math.log(cost.seconds / base.seconds))
    values = {one.setting: dict(one.values) for one in result.settings}
    for effect in result.effects:
        wanted = (effect.axis, effect.value, effect.reference)
        yield from _state(effect.joules, average_effect(values, logs["joules"], wanted))
        yield from _state(effect.seconds, average_effect(values, logs["seconds"], wanted))
    for both in result.interactions:
        (one_axis, other_axis), (one_value, other_value) = both.axes, both.values
        parts = {
            value: average_effect(
                {key: own for key, own in values.items() if own.get(other_axis) == value},
                logs["joules"],
                (one_axis, one_value, both.references[0]),
            )
            for value in (other_value, both.references[1])
        }
        yield from _state(both.joules, parts[other_value] - parts[both.references[1]])


def average_effect(
    values: Mapping[str, Mapping[AxisName, Value]], logs: Mapping[str, float], effect: Effect
) -> float:
    """Return the true log ratio of two values of an axis, averaged over the other axes."""
    axis, value, reference = effect
    by_value = [
        fmean(logs[key] for key, own in values.items() if own.get(axis) == wanted)
        for wanted in (value, reference)
    ]
    return by_value[0] - by_value[1]


def _state(difference: Difference | None, truth_log: float) -> Iterator[Stated]:
    if difference is None or difference.low is None or difference.high is None:
        return
    yield Stated(
        100 * math.expm1(truth_log), difference.low, difference.high, difference.is_claimed
    )


def summarize(kind: str, outcomes: Sequence[Outcome]) -> Summary:
    """Summarize the sweeps of one kind of machine."""
    stated = [one for outcome in outcomes for one in outcome.stated]
    claims = [one for one in stated if one.is_claimed]
    return Summary(
        kind=kind,
        sweeps=len(outcomes),
        settings=fmean(one.settings for one in outcomes),
        close=fmean(one.excess <= CLOSE for one in outcomes),
        full_close=fmean(one.full_excess <= CLOSE for one in outcomes),
        claims=len(claims),
        hold=fmean(one.holds for one in claims) if claims else None,
        intervals=len(stated),
        any_hold=fmean(one.holds for one in stated) if stated else None,
        false=fmean(
            any(one.is_false for one in outcome.stated)
            or (kind == FLAT and not outcome.is_baseline)
            for outcome in outcomes
        ),
        moved=fmean(not one.is_baseline for one in outcomes),
        saved=fmean(one.saved for one in outcomes),
        half=fmean(one.saved >= AIMS["saved"] for one in outcomes),
    )


def quick() -> Iterator[Figure]:
    """Ten sweeps of each kind of machine."""
    by_kind = {kind: [simulate(kind, n, 0, Goal()) for n in range(10)] for kind in MACHINES}
    for kind, outcomes in by_kind.items():
        if kind == FLAT:
            false = summarize(kind, outcomes).false
            yield Figure("sweeps of equal settings with a false claim", 100 * false, "%", n=10)
            continue
        excess = sorted(one.excess for one in outcomes)
        yield Figure(
            f"joules of the choice : the true best, worst sweep, {kind}", 1 + excess[-1], n=10
        )
        yield Figure(
            f"seconds of a sweep : the full grid, {kind}",
            1 - fmean(one.saved for one in outcomes),
            n=10,
        )
    stated = [one for outcomes in by_kind.values() for each in outcomes for one in each.stated]
    claims = [one for one in stated if one.is_claimed]
    missed = fmean(not one.holds for one in claims)
    yield Figure("claims whose interval misses the truth", 100 * missed, "%", n=len(claims))


def format_summaries(summaries: Sequence[Summary]) -> list[str]:
    """Format the table."""
    heads = (
        "settings",
        "within 2 %",
        "full",
        "claims",
        "hold",
        "any",
        "false",
        "saved",
        "half",
    )
    lines = [f"{'machine':<12}" + "".join(f"{head:>11}" for head in heads)]
    for one in summaries:
        shares = (
            one.close, one.full_close, None, one.hold, one.any_hold, one.false, one.saved, one.half,
        )  # fmt: skip
        cells = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        cells[2] = str(one.claims)
        missed = f"  missed: {', '.join(one.missed)}" if one.missed else ""
        row = f"{one.kind:<12}{one.settings:>11.1f}" + "".join(f"{cell:>11}" for cell in cells)
        lines.append(row + missed)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", type=int, help="sweeps of each kind of machine")
    parser.add_argument("--seed", type=int, default=0, help="seed of the machines and the noise")
    measures: tuple[Measure, ...] = ("joules", "time", "joules*time")
    parser.add_argument("--goal", choices=measures, default="joules", help="what is minimized")
    parser.add_argument("--within", type=float, help="limit of the time, percent of the fastest")
    parser.add_argument("--kinds", nargs="+", choices=list(MACHINES), default=list(MACHINES))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--contended", action="store_true", help="simulate a busy process")
    parser.add_argument("--beside", metavar="MODEL", help="sweep it beside a busy process")
    chosen = parser.parse_args()
    if chosen.beside is not None:
        print_beside(chosen.beside, chosen.sweeps or 1, chosen.seed)
        return
    chosen.sweeps = chosen.sweeps or (50 if chosen.contended else 200)
    if chosen.contended:
        print_contended(chosen.sweeps, chosen.seed)
        return
    goal = Goal(chosen.goal, chosen.within)
    summaries = [
        summarize(
            kind, [simulate(kind, number, chosen.seed, goal) for number in range(chosen.sweeps)]
        )
        for kind in chosen.kinds
    ]
    if chosen.json:
        runs = [{**asdict(one), "missed": list(one.missed)} for one in summaries]
        print(json.dumps({"aims": AIMS, "goal": asdict(goal), "runs": runs}, indent=2))
        return
    limit = "" if goal.within_percent is None else f", within {goal.within_percent:g} % of the time"
    print(f"{chosen.sweeps} sweeps of each machine, seed {chosen.seed}, goal {goal.measure}{limit}")
    print("aims: within 2 % >= 95 %, hold >= 93 %, false <= 5 %, saved >= 50 %")
    print("\n".join(format_summaries(summaries)))


if __name__ == "__main__":
    main()
