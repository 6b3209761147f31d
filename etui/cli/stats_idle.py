"""``etui stats --idle``: the joules of the logged days under several keep-warm times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.cli.model_status import ChannelIdle, Figure, build_figure, drop_infinite
from etui.runtime.idle_replay import IdleReplay, ModelReplay, ReplayedTime

if TYPE_CHECKING:
    from etui.config.config import Config

ASSUMPTIONS = (
    "the app ran from the first question to the last, and each model alone is in memory",
    "every load and every idle second costs what was measured last; prefilling a chat again after "
    "a load and the time that you wait are not counted",
    "auto knows only the gaps before each one; the best fixed time knows all of them",
)


@dataclass(frozen=True, slots=True)
class TimeDocument:
    """The gaps under one keep-warm time."""

    name: str
    seconds: float | None  # None for never and for `auto`
    loads: int
    warm_seconds: float
    joules: Figure  # Idle power and loads of all gaps
    extra_joules: Figure  # The same without the cold idle power, which no time can save


@dataclass(frozen=True, slots=True)
class DayDocument:
    """One day: ``auto`` against the best fixed time found in hindsight for that day.

    Attributes:
        ratio, extra_ratio: ``auto`` divided by it, with and without the cold idle power.
    """

    date: str
    gaps: int
    auto_joules: Figure
    best_fixed_joules: Figure
    best_seconds: float | None
    ratio: float | None
    extra_ratio: float | None


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """The replay of one model.

    Attributes:
        ratio, extra_ratio: As for a day, over all of them.
    """

    name: str
    missing: str  # What is missing for a replay; empty if nothing is
    load_joules: Figure
    extra_watts: Figure
    cold_watts: Figure
    channels: tuple[ChannelIdle, ...]  # Idle watts by device
    break_even_seconds: float | None  # T*; None if unknown or infinite
    gaps: int
    gap_seconds: float
    times: tuple[TimeDocument, ...]
    ratio: float | None
    extra_ratio: float | None
    days: tuple[DayDocument, ...]


@dataclass(frozen=True, slots=True)
class IdleDocument:
    """The document of ``etui stats --idle --json``."""

    days: int
    assumptions: tuple[str, ...]
    models: tuple[ModelDocument, ...]


def read_replays(config: Config, days: int) -> list[ModelReplay]:
    """Replay the last days of the log.

    Raises:
        EtuiError: models.yaml or the log cannot be read.
    """
    import time

    from etui.log.queries import LogReader
    from etui.models.catalogue import load_catalogue
    from etui.runtime.idle_replay import replay_idle_log

    with LogReader(config) as log:
        return replay_idle_log(log, config, load_catalogue(config), time.time() - days * 86_400)


def build_document(found: Sequence[ModelReplay], days: int) -> IdleDocument:
    """Build the document."""
    return IdleDocument(days, ASSUMPTIONS, tuple(_build_model(model) for model in found))


def format_replays(found: Sequence[ModelReplay], days: int) -> Iterator[str]:
    """Yield the lines of the report."""
    from etui.text import format_table, join_lines
    from etui.units import count_text, energy_text, seconds_text

    window = count_text(days, "day")
    if not found:
        yield f"no questions in chats in the last {window} (those of `etui ask` do not count)"
        return
    yield f"idling and loads of the last {window}, replayed"
    for model in found:
        name = join_lines(model.idle.model)
        if model.whole is None:
            yield f"{name}: no replay: {model.missing}"
            continue
        yield (
            f"{name}: {count_text(model.whole.gaps, 'gap')} between questions, "
            f"{seconds_text(model.whole.gap_seconds)}"
        )
        rows = [
            (
                time.name,
                _seconds_text(time),
                str(time.loads),
                seconds_text(time.warm_seconds),
                energy_text(time.joules.value, time.joules.uncertainty),
                energy_text(time.extra.value, time.extra.uncertainty),
            )
            for time in model.whole.times
        ]
        head = ("keep warm", "time", "loads", "warm", "joules", "above cold")
        yield from format_table(rows, header=head)
        ratio, extra = compute_ratios(model.whole)
        if ratio is not None and extra is not None:
            yield (
                f"auto: {ratio:.3f} x the joules of the best fixed time found in hindsight, "
                f"{extra:.3f} x of those above cold idle"
            )


def compute_ratios(replay: IdleReplay) -> tuple[float | None, float | None]:
    """Divide ``auto`` by the best fixed time: all joules, and those above cold idle."""
    auto, best = replay.get("auto"), replay.get("best fixed")
    pairs = ((auto.joules, best.joules), (auto.extra, best.extra))
    ratio, extra = (mine.value / least.value if least.value > 0 else None for mine, least in pairs)
    return ratio, extra


def _seconds_text(time: ReplayedTime) -> str:
    from etui.units import seconds_text

    if time.seconds is None:
        return "varies"
    return "-" if math.isinf(time.seconds) else seconds_text(time.seconds)


def _build_model(found: ModelReplay) -> ModelDocument:
    idle, whole, even = found.idle, found.whole, found.idle.choice.break_even
    ratio, extra = (None, None) if whole is None else compute_ratios(whole)
    return ModelDocument(
        name=idle.model,
        missing=found.missing,
        load_joules=build_figure(None if idle.load is None else idle.load.joules),
        extra_watts=build_figure(idle.extra_watts),
        cold_watts=build_figure(idle.cold_watts),
        channels=tuple(ChannelIdle(name, *watts) for name, watts in idle.channels.items()),
        break_even_seconds=None if even is None else drop_infinite(even.seconds),
        gaps=0 if whole is None else whole.gaps,
        gap_seconds=0.0 if whole is None else whole.gap_seconds,
        times=() if whole is None else tuple(_build_time(time) for time in whole.times),
        ratio=ratio,
        extra_ratio=extra,
        days=tuple(_build_day(day.date, day.replay) for day in found.days),
    )


def _build_time(time: ReplayedTime) -> TimeDocument:
    return TimeDocument(
        time.name,
        None if time.seconds is None else drop_infinite(time.seconds),
        time.loads,
        time.warm_seconds,
        build_figure(time.joules),
        build_figure(time.extra),
    )


def _build_day(date: str, replay: IdleReplay) -> DayDocument:
    auto, best = replay.get("auto"), replay.get("best fixed")
    ratio, extra = compute_ratios(replay)
    return DayDocument(
        date,
        replay.gaps,
        build_figure(auto.joules),
        build_figure(best.joules),
        None if best.seconds is None else drop_infinite(best.seconds),
        ratio,
        extra,
    )
