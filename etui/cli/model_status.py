"""The facts that ``etui models status`` prints: the cost of keeping each model warm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from etui.energy.idle import CoolState, describe_cool_down
from etui.runtime.keep_warm import ModelIdle, build_cool_down, find_last_cool_down, read_all_idle

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.keep_warm import Measured
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.turn.record import UnloadRecord


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number with its half width at 95 %; both None if unknown."""

    value: float | None
    uncertainty: float | None


@dataclass(frozen=True, slots=True)
class ChannelIdle:
    """Idle watts of one channel with the model in memory, and cold."""

    id: str
    loaded_watts: float
    cold_watts: float


@dataclass(frozen=True, slots=True)
class LastUnload:
    """A logged unload with the idle power around it."""

    created_at: str
    model: str
    reason: str
    before_watts: Figure
    after_watts: Figure
    cold_watts: Figure
    above_cold_watts: Figure
    state: CoolState  # `cold`, `above` or `unknown`
    text: str  # The same in words


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model in ``status``; see :class:`etui.runtime.keep_warm.ModelIdle`.

    Attributes:
        break_even_seconds, break_even_low, break_even_high: T*; None if unknown or infinite.
        auto_seconds, auto_basis, auto_why: What ``keep_warm: auto`` chooses.
    """

    name: str
    load_joules: Figure
    load_seconds: float | None
    load_kind: str | None
    loads: int
    loaded_idle_watts: Figure
    cold_idle_watts: Figure
    loaded_idle_kind: str | None
    cold_idle_kind: str | None
    extra_watts: Figure
    channels: tuple[ChannelIdle, ...]
    break_even_seconds: float | None
    break_even_low: float | None
    break_even_high: float | None
    gaps: int
    keep_warm: float | Literal["auto", "always"]
    keep_seconds: float | None  # The time in effect; None keeps the model until memory is needed
    auto_seconds: float | None
    auto_basis: str
    auto_why: str
    last_unload: LastUnload | None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Whether the machine went back to cold after the last unload."""

    last_unload: LastUnload
    loaded_since: bool  # Whether a model was loaded after it


@dataclass(frozen=True, slots=True)
class Status:
    """The document of ``etui models status --json``."""

    keep_warm: float | Literal["auto", "always"]
    device: DeviceStatus | None
    models: tuple[ModelStatus, ...]


def read_status(
    log: LogReader, config: Config, catalogue: Catalogue
) -> tuple[Status, Sequence[ModelIdle]]:
    """Read the status of all models of which something is known.

    Returns:
        The document, and the same as values.
    """
    known = [idle for idle in read_all_idle(log, config, catalogue) if idle.is_known]
    last = find_last_cool_down(log)
    device = None if last is None else DeviceStatus(build_last_unload(last[0]), last[1])
    return Status(config.keep_warm, device, tuple(build_status(idle) for idle in known)), known


def build_status(idle: ModelIdle) -> ModelStatus:
    """Build the document of one model."""
    load, even, last = idle.load, idle.choice.break_even, idle.last_unload
    return ModelStatus(
        name=idle.model,
        load_joules=build_figure(None if load is None else load.joules),
        load_seconds=None if load is None else load.seconds,
        load_kind=None if load is None else load.kind,
        loads=0 if load is None else load.loads,
        loaded_idle_watts=build_figure(idle.loaded_watts),
        cold_idle_watts=build_figure(idle.cold_watts),
        loaded_idle_kind=idle.loaded_kind,
        cold_idle_kind=idle.cold_kind,
        extra_watts=build_figure(idle.extra_watts),
        channels=tuple(ChannelIdle(name, *watts) for name, watts in idle.channels.items()),
        break_even_seconds=None if even is None else drop_infinite(even.seconds),
        break_even_low=None if even is None else drop_infinite(even.low),
        break_even_high=None if even is None else drop_infinite(even.high),
        gaps=len(idle.gaps),
        keep_warm=idle.setting,
        keep_seconds=idle.keep_seconds,
        auto_seconds=idle.choice.seconds,
        auto_basis=idle.choice.basis,
        auto_why=idle.choice.why,
        last_unload=None if last is None else build_last_unload(last),
    )


def build_last_unload(unload: UnloadRecord) -> LastUnload:
    """Build the document of an unload."""
    found = build_cool_down(unload)
    return LastUnload(
        unload.created_at,
        unload.model,
        unload.reason,
        build_figure(found.before),
        build_figure(found.after),
        build_figure(found.cold),
        build_figure(found.above_cold),
        found.state,
        describe_cool_down(found),
    )


def build_figure(found: Measured | None) -> Figure:
    """Build the figure of a measured number; of None, one without a value."""
    return Figure(None, None) if found is None else Figure(found.value, found.uncertainty)


def drop_infinite(value: float) -> float | None:
    """Return a number as JSON can hold it: None if it is infinite."""
    return value if math.isfinite(value) else None
