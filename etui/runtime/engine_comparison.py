"""Run two builds of llama.cpp in turn on the same model, and say what one gains over the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from etui.engine.builds import Build
from etui.errors import EngineFailed
from etui.runtime.engine_build import Report
from etui.runtime.gpu_run import Order
from etui.runtime.try_gpu import name_for_child, run_once
from etui.stats.distributions import t_quantile
from etui.stats.tests import CONFIDENCE

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder
    from etui.models.spec import ModelSpec
    from etui.runtime.try_gpu import Attempt

Figure = Literal["prefill_tokens_per_second", "decode_tokens_per_second",
                 "prefill_joules_per_token", "decode_joules_per_token"]  # fmt: skip
_FIGURES: tuple[Figure, ...] = get_args(Figure)


@dataclass(frozen=True, slots=True)
class Gain:
    """One figure of two builds, and the ratio of new to old with its interval at 95 %."""

    figure: Figure
    old: float  # Geometric mean of the old build's rounds
    new: float
    ratio: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes that both are equal."""
        return self.low > 1 or self.high < 1


@dataclass(frozen=True, slots=True)
class EngineComparison:
    """What `etui engine compare` found."""

    model: str
    old: str  # Name of a build
    new: str
    rounds: int
    kind: str | None  # How the joules were obtained; None if there are none
    gains: tuple[Gain, ...]  # Figures without a measurement are left out


def compare_builds(
    old: Build,
    new: Build,
    spec: ModelSpec,
    meter: Recorder,
    report: Report,
    rounds: int = 5,
) -> EngineComparison:
    """Run both builds in turn, each round in processes of their own; who begins alternates.

    The meter is started, and there are at least two rounds. EngineFailed names the build of a run
    that failed.
    """
    runs: tuple[list[Attempt], list[Attempt]] = ([], [])  # by side: a build may meet itself
    for at in range(rounds):
        for step, side in enumerate((0, 1) if at % 2 == 0 else (1, 0)):
            build = (old, new)[side]
            share = (2 * at + step) / (2 * rounds)
            report(f"round {at + 1} of {rounds}: {build.name}", share)
            order = Order(name_for_child(spec), "auto")
            attempt = run_once(order, meter, lambda _: None, variables=build.variables)
            if attempt.result is None:
                raise EngineFailed(f"{build.name} failed: {attempt.failure}", "etui engine status")
            runs[side].append(attempt)
    joules = [attempt.decode for attempts in runs for attempt in attempts]
    kinds = {one.kind for one in joules if one is not None and one.kind is not None}
    gains = [
        gain
        for figure in _FIGURES
        if (gain := compute_gain(figure, *(_read(figure, one) for one in runs))) is not None
    ]
    return EngineComparison(
        spec.name,
        old.name,
        new.name,
        rounds,
        kinds.pop() if len(kinds) == 1 else None,
        tuple(gains),
    )


def _read(figure: Figure, attempts: Sequence[Attempt]) -> list[float | None]:
    found: list[float | None] = []
    for attempt in attempts:
        assert attempt.result is not None
        phase = "prefill" if figure.startswith("prefill") else "decode"
        if figure.endswith("per_second"):
            found.append(getattr(attempt.result, phase).tokens_per_second)
        else:
            per_token = getattr(attempt, phase)
            found.append(None if per_token is None else per_token.joules)
    return found


def compute_gain(
    figure: Figure, old: Sequence[float | None], new: Sequence[float | None]
) -> Gain | None:
    """Compute the ratio of paired rounds, from the mean of its logarithm by Student's t.

    None if a round has no value above 0, or there are fewer than two rounds.
    """
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a and b and a > 0 and b > 0]
    if len(pairs) < max(2, len(old)):
        return None
    logs = [math.log(b / a) for a, b in pairs]
    mean = sum(logs) / len(logs)
    variance = sum((value - mean) ** 2 for value in logs) / (len(logs) - 1)
    half = t_quantile((1 - CONFIDENCE) / 2, len(logs) - 1) * math.sqrt(variance / len(logs))
    means = [math.exp(sum(map(math.log, side)) / len(logs)) for side in zip(*pairs, strict=True)]
    old_mean, new_mean = means
    ratio, low, high = (math.exp(value) for value in (mean, mean - half, mean + half))
    return Gain(figure, old_mean, new_mean, ratio, low, high)
