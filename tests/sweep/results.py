"""Results of sweeps made by hand, with their blocks and watts, for the tests of what is shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, PhaseCost, Stage, Visit, VisitPower
from etui.sweep.config import Axis, Goal, Setting, SweepConfig, SweepDesign, Value
from etui.sweep.result import (
    Accuracy,
    AxisEffect,
    DetectionFloor,
    Interaction,
    SettingResult,
    SweepResult,
)

SHA256 = "5f" * 32
PROVENANCE: Mapping[str, Any] = {
    "etui": "0.1.0",
    "llama_cpp_python": "0.3.36",
    "python": "3.11.9",
    "system": "Linux x86_64",
    "machine": "AMD Ryzen 7 7840U, 16 CPUs, Linux x86_64",
    "cpus": 16,
    "threads": 8,
    "threads_setting": "auto",
    "context_tokens": 4096,
    "sample_hz": 20.0,
}
FLOOR = DetectionFloor(1.3, 0.9, 0.21, -0.1, 4, 8)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All that a report is made of."""

    config: SweepConfig
    result: SweepResult
    blocks: tuple[Block, ...]
    power: tuple[VisitPower, ...]


def interval(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half, "bootstrap")


def difference(percent: float, half: float = 2.0, *, claimed: bool = True) -> Difference:
    p = 0.001 if claimed else 0.4
    return Difference(percent, percent - half, percent + half, p, 8, claimed)


def accuracy(points: float | None, half: float = 0.6, p: float = 1.0, key: str = "x") -> Accuracy:
    share = 0.612 + (points or 0.0) / 100
    change = None if points is None else Interval(points, points - half, points + half, "bootstrap")
    return Accuracy(
        correct=round(1140 * share),
        questions=1140,
        share=Interval(share, share - 0.028, share + 0.028, "wilson"),
        difference_points=change,
        p=None if points is None else p,
        measured_as=key,
    )


def setting_result(
    key: str,
    joules: float | None = 12.3,
    seconds: float = 4.2,
    percent: float | None = None,
    time_percent: float | None = None,
    *,
    claimed: bool = True,
    time_claimed: bool = True,
    measured: Accuracy | None = None,
    dropped: int | None = None,
    reason: str = "",
    frontier: bool = False,
) -> SettingResult:
    """One setting; ``percent`` None makes it the baseline."""
    per_token = None if joules is None else joules / 128
    return SettingResult(
        setting=key,
        values=values_of(key),
        stage="race" if dropped is not None else "confirm",
        blocks=3 if dropped is not None else 8,
        joules=None if joules is None else interval(joules, joules * 0.02),
        seconds=interval(seconds, seconds * 0.01),
        prefill_joules_per_token=None if per_token is None else interval(per_token / 9, 0.0003),
        decode_joules_per_token=None if per_token is None else interval(per_token, 0.004),
        joules_difference=None
        if percent is None or joules is None
        else difference(percent, claimed=claimed),
        seconds_difference=None
        if time_percent is None
        else difference(time_percent, 1.0, claimed=time_claimed),
        accuracy=measured,
        dropped_after=dropped,
        drop_reason=reason,
        is_on_frontier=frontier,
    )


def values_of(key: str) -> tuple[tuple[Any, Value], ...]:
    pairs = (part.split("=", 1) for part in key.split(" "))
    return tuple((name, int(value) if value.isdecimal() else value) for name, value in pairs)


def make_result(*settings: SettingResult, best: str | None = None, **fields: Any) -> SweepResult:
    """A result of these settings, the baseline first; the second is the best if not named."""
    chosen = best or settings[min(1, len(settings) - 1)].setting
    result = SweepResult(
        baseline=settings[0].setting,
        best=chosen,
        goal=Goal(),
        is_complete=True,
        floor=FLOOR,
        settings=settings,
        effects=(),
        interactions=(),
        blocks=14,
        visits=52,
        repeated=(),
        notes=(),
        seconds=1100.0,
        kind="counter",
    )
    return replace(result, **fields)


def make_config(result: SweepResult, **fields: Any) -> SweepConfig:
    names = [name for name, _ in result.settings[0].values]
    axes = tuple(
        Axis(
            name,
            tuple(
                dict.fromkeys(
                    value for one in result.settings for axis, value in one.values if axis == name
                )
            ),
        )
        for name in names
    )
    config = SweepConfig(
        id="20261125-190312-qwen2.5-1.5b-4f2a",
        created="2026-11-25T19:03:12+01:00",
        model="qwen2.5-coder-1.5b",
        model_sha256=SHA256,
        policy=None,
        arm=None,
        axes=axes,
        design=SweepDesign(tuple(Setting(one.values) for one in result.settings), result.goal),
        workload="chat",
        workload_sha256=SHA256,
        output_tokens=128,
        window_s=4.0,
        cool_down_s=2.0,
        cool_down_celsius=None,
        cap=None,
        suite="sample",
        questions=1140,
        suite_sha256=SHA256,
        channels=("rapl:package-0", "rapl:dram-0"),
        provenance=PROVENANCE,
    )
    return replace(config, **fields)


def make_blocks(
    result: SweepResult, joules: Mapping[str, float | None], seconds: Mapping[str, float]
) -> tuple[Block, ...]:
    """Blocks in which the settings take part until they are dropped, with a little noise."""
    keys = [one.setting for one in result.settings]
    until = {one.setting: one.dropped_after for one in result.settings}
    failed = {one.setting for one in result.settings if one.drop_reason and not one.blocks}
    stages: list[Stage] = ["floor"] * 4 + ["race"] * 6 + ["confirm"] * 8
    kept = [key for key in keys if until[key] is None and key not in failed]
    now, found = 5_000_000_000, []
    for number, stage in enumerate(stages[: result.blocks]):
        if stage == "race":
            inside = [key for key in keys if key not in failed]
            inside = [key for key in inside if until[key] is None or number <= (until[key] or 0)]
        else:
            inside = [result.baseline] if stage == "floor" else kept
        order = [(key, 0) for key in inside]
        order.append((result.baseline, 1))
        visits = []
        for at, (key, copy) in enumerate(order if number % 2 else order[::-1]):
            wobble = 1 + 0.006 * math.sin(7.3 * number + 2.1 * at)
            time, energy = seconds[key] * wobble, joules[key]
            gross = None if energy is None else energy * (1 + 0.008 * math.cos(5 * number + at))
            span = round(6e9 * wobble)
            visits.append(
                Visit(
                    setting=key,
                    copy=copy,
                    answers=2,
                    prefill=phase(180.0, gross, 0.1, time * 0.2),
                    decode=phase(128.0, gross, 0.9, time * 0.8),
                    start_ns=now,
                    end_ns=now + span,
                    kind=result.kind,
                    mean_watts=None if gross is None else gross / time,
                )
            )
            now += span + 2_500_000_000
        found.append(Block(number, stage, tuple(visits), (), (), 9.0 * len(visits)))
    return tuple(found)


def phase(tokens: float, joules: float | None, share: float, seconds: float) -> PhaseCost:
    gross = None if joules is None else joules * share
    return PhaseCost(tokens, gross, None if gross is None else gross * 0.03, seconds)


def make_power(blocks: Sequence[Block]) -> tuple[VisitPower, ...]:
    return tuple(
        VisitPower(
            block.number,
            visit.setting,
            visit.copy,
            visit.start_ns,
            visit.end_ns,
            tuple(
                None
                if visit.mean_watts is None
                else visit.mean_watts * (1.15 if at < 12 else 0.97) * (1 + 0.03 * math.sin(at))
                for at in range(60)
            ),
        )
        for block in blocks
        for visit in block.visits
    )


def make_sweep(result: SweepResult, **fields: Any) -> Sweep:
    joules = {one.setting: one.joules.value if one.joules else None for one in result.settings}
    seconds = {one.setting: one.seconds.value if one.seconds else 1.0 for one in result.settings}
    blocks = make_blocks(result, joules, seconds)
    return Sweep(make_config(result, **fields), result, blocks, make_power(blocks))


def sixteen_settings() -> Sweep:
    """Three axes, drops, effects, an interaction and accuracy: what a good night gives."""
    grid = itertools.product((8, 4, 2, 1), ("f16", "q8_0"), ("off", "lookup"))
    rows = []
    for at, (threads, kv, speculate) in enumerate(grid):
        key = f"threads={threads} kv_type={kv} speculate={speculate}"
        factor = {8: 1.0, 4: 0.84, 2: 0.93, 1: 1.4}[threads] * (1.03 if kv == "q8_0" else 1.0)
        factor *= 0.91 if speculate == "lookup" else 1.0
        time = {8: 1.0, 4: 1.04, 2: 1.62, 1: 3.0}[threads] * (0.93 if speculate == "lookup" else 1)
        time *= 1.01 if kv == "q8_0" else 1.0
        dropped = {1: 5, 2: 7 if kv == "f16" else 5}.get(threads)
        if threads == 8 and at and kv == "q8_0":
            dropped = 7
        reason = ""
        if dropped is not None:
            more = round(100 * (factor / 0.7644 - 1), 1)
            best = "threads=4 kv_type=f16 speculate=lookup"
            reason = f"{more} % [{more - 2:.1f}, {more + 2:.1f}] more joules than {best}"
        percent, slower = 100 * (factor - 1), 100 * (time - 1)
        plain = f"threads=8 kv_type={kv} speculate=off"
        measured = (
            accuracy(None, key=plain) if kv == "f16" else accuracy(-0.4, 0.7, 0.31, key=plain)
        )
        rows.append(
            setting_result(
                key,
                12.3 * factor,
                4.2 * time,
                None if at == 0 else percent,
                None if at == 0 else slower,
                claimed=abs(percent) > 2,
                time_claimed=abs(slower) > 1,
                measured=measured if kv != "f16" or at == 0 else accuracy(0.0, 0.0, 1.0, key=plain),
                dropped=dropped,
                reason=reason,
                frontier=dropped is None and speculate == "lookup" and kv == "f16",
            )
        )
    first, rest = rows[0], sorted(rows[1:], key=lambda row: row.joules.value if row.joules else 0)
    effects = tuple(
        AxisEffect(axis, value, reference, joules, time)
        for axis, value, reference, joules, time in (
            ("threads", 4, 8, difference(-16.2, 0.9), difference(4.1, 0.8)),
            ("threads", 2, 8, difference(-7.1, 1.4), difference(62.0, 2.1)),
            ("threads", 1, 8, difference(40.3, 2.2), difference(200.0, 4.0)),
            ("kv_type", "q8_0", "f16", difference(2.9, 1.1), difference(0.8, 0.9, claimed=False)),
            ("speculate", "lookup", "off", difference(-9.0, 2.4), difference(-7.0, 1.6)),
        )
    )
    meet = Interaction(("threads", "speculate"), (1, "lookup"), (8, "off"), difference(3.1, 1.2))
    result = make_result(
        first,
        *rest,
        best="threads=4 kv_type=f16 speculate=lookup",
        effects=effects,
        interactions=(meet,),
        blocks=18,
        visits=164,
        repeated=("block 6: another process used 38 % of the CPU (cc1plus)",),
        notes=("the package was throttled by heat during 3 visits of threads=8",),
        seconds=1872.0,
    )
    return make_sweep(result)


def two_settings() -> Sweep:
    result = make_result(
        setting_result("threads=2", frontier=True),
        setting_result("threads=1", 10.1, 4.4, -18.0, 4.0, frontier=True),
        blocks=12,
        visits=28,
    )
    return make_sweep(result, suite=None, questions=0)


def incomplete() -> Sweep:
    result = make_result(
        setting_result("threads=2"),
        setting_result("threads=1", 10.1, 4.4, -4.0, 4.0, claimed=False, time_claimed=False),
        setting_result("threads=4", 14.1, 4.1, 14.0, -1.0, dropped=5, reason="14 % more joules"),
        best="threads=2",
        is_complete=False,
        blocks=6,
        visits=16,
    )
    return make_sweep(result, suite=None, questions=0)


def not_begun() -> Sweep:
    keys = ("threads=2", "threads=1")
    rows = [replace(setting_result(key, None), seconds=None, blocks=0) for key in keys]
    result = make_result(
        *rows, is_complete=False, floor=None, blocks=0, visits=0, seconds=0.0, kind=None
    )
    return make_sweep(replace(result, best=None))


def unmeasured() -> Sweep:
    result = make_result(
        setting_result("threads=2", None),
        setting_result("threads=1", None, 4.4, 4.0, 4.0),
        setting_result("threads=4", None, 3.4, 4.0, -19.0),
        best="threads=2",
        floor=DetectionFloor(None, 0.9, None, -0.1, 4, 8),
        kind=None,
        notes=("no power channel of this machine can be read",),
    )
    return make_sweep(result, suite=None, questions=0, channels=())


def sixty_settings() -> Sweep:
    """Sixty settings with long names, one of which could not run."""
    rows = []
    models = [
        f"a-rather-long-model-name-{size}-instruct-q{bits}_k_m"
        for size in ("0.5b", "1.5b", "3b")
        for bits in (3, 4, 5, 6, 8)
    ]
    grid = itertools.product(models, (4, 8), ("f16", "q8_0"))
    for at, (model, threads, kv) in enumerate(grid):
        key = f"model={model} threads={threads} kv_type={kv} flash_attention=on batch_tokens=512"
        factor = 1 + 0.31 * math.sin(at * 1.7) + at / 60
        time = 1 + 0.2 * math.cos(at * 2.3) + at / 80
        dropped = None if at < 4 else (5 if at % 3 else 7)
        rows.append(
            setting_result(
                key,
                20 * factor,
                6 * time,
                None if at == 0 else 100 * (factor - 1),
                None if at == 0 else 100 * (time - 1),
                dropped=dropped,
                reason="" if dropped is None else f"{100 * factor:.1f} % more joules than {key}",
                frontier=at in (0, 2),
            )
        )
    rows[-1] = replace(
        rows[-1],
        joules=None, seconds=None, prefill_joules_per_token=None, decode_joules_per_token=None,
        joules_difference=None, seconds_difference=None, blocks=0, dropped_after=None,
        drop_reason="not enough memory for 3.1 GB of KV cache",
    )  # fmt: skip
    best = min(rows[:4], key=lambda row: row.joules.value if row.joules else 0.0)
    first, rest = rows[0], sorted(rows[1:], key=lambda row: row.joules.value if row.joules else 1e9)
    result = make_result(
        first,
        *rest,
        best=best.setting,
        blocks=18,
        visits=600,
        seconds=9000.0,
    )
    return make_sweep(result, suite=None, questions=0)


ALL = (sixteen_settings, two_settings, incomplete, not_begun, unmeasured, sixty_settings)
