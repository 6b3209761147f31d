"""How long the models of this machine are kept warm, from the log and the idle baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from etui.energy.idle import (
    Baselines,
    CoolDown,
    IdleBaseline,
    describe_cool_down,
    load_baselines,
)
from etui.energy.keep_warm import KeepWarm, Measured, choose_keep_warm
from etui.energy.sources.estimate import CHANNEL_ID
from etui.log.gaps import LoadCost, Use, compute_gaps, read_load_cost, read_uses
from etui.text import local_time
from etui.turn.record import UnloadRecord
from etui.units import (
    ESTIMATE,
    UNKNOWN,
    energy_text,
    seconds_text,
    short_watts_text,
    significant,
    watts_text,
)

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

UNTIL_NEEDED = "until memory is needed"


def load_text(idle: ModelIdle) -> str:
    """Describe a load: ``300 ± 12 J, 2.1 s``; ``unknown`` without one in the log."""
    load = idle.load
    if load is None:
        return UNKNOWN
    joules = energy_text(load.joules.value, load.joules.uncertainty, load.kind)
    return f"{joules}, {seconds_text(load.seconds)}"


def power_text(watts: Measured | None, kind: str | None = None) -> str:
    """Describe a power: ``45.0 ± 0.3 W``; ``unknown`` if it was not measured."""
    if watts is None:
        return UNKNOWN
    return watts_text(watts.value, kind, watts.uncertainty)


def break_even_text(idle: ModelIdle) -> str:
    """Describe T* with its interval: ``8.6 s (8.1-9.2 s)``, ``5 min 00 s (at least 2 min)``."""
    even = idle.choice.break_even
    if even is None:
        return UNKNOWN
    if math.isinf(even.seconds):
        return "never"
    if math.isinf(even.high):
        return f"{seconds_text(even.seconds)} (at least {seconds_text(even.low)})"
    ends = (even.low, even.high)
    if even.high < 60:
        low, high = (significant(end, 3) for end in ends)
        return f"{seconds_text(even.seconds)} ({low}-{high} s)"
    return f"{seconds_text(even.seconds)} ({' to '.join(seconds_text(end) for end in ends)})"


def keep_text(idle: ModelIdle) -> str:
    """Describe the time in effect: ``auto: 42 s``, ``always``, ``600 s``."""
    if idle.setting == "always":
        return "always"
    if idle.setting != "auto":
        return seconds_text(idle.setting)
    seconds = idle.choice.seconds
    return f"auto: {UNTIL_NEEDED if seconds is None else seconds_text(seconds)}"


def unload_text(unload: UnloadRecord) -> str:
    """Describe the power around an unload: ``45.0 W before, 10.1 W after: as without a model``."""
    found = build_cool_down(unload)
    parts = [
        f"{short_watts_text(watts.value, unload.kind)} {when}"
        for watts, when in ((found.before, "idle before"), (found.after, "after"))
        if watts is not None
    ]
    state = describe_cool_down(found)
    if found.state == "unknown":
        state = f"idle power without a model {state}"
    return f"{', '.join(parts)}: {state}" if parts else state


def dated_unload_text(unload: UnloadRecord | None) -> str:
    """Describe a model's last unload with its time; ``none`` without one."""
    if unload is None:
        return "none"
    return f"{local_time(unload.created_at)[5:16]}, {unload_text(unload)}"


_UNLOADS = 500
"""Number of newest unloads searched for the last one of each model."""

Setting = float | Literal["auto", "always"]


@dataclass(frozen=True, slots=True)
class ModelIdle:
    """What is known of keeping one model warm on this machine.

    Attributes:
        loaded_kind, cold_kind: ``estimate`` if the idle power is that of the CPU estimate
            alone.
    """

    model: str
    load: LoadCost | None  # Cost of loading it; None if no load with joules is in the log
    loaded_watts: Measured | None  # Idle power with it in memory; None if not measured
    cold_watts: Measured | None  # Idle power without any model; None if not measured
    extra_watts: Measured | None  # The difference; None unless both cover the same channels
    channels: dict[str, tuple[float, float]]
    """Channel id -> idle watts (with the model, cold) of the channels of both."""
    gaps: tuple[float, ...]  # Seconds between its questions in the log, oldest first
    choice: KeepWarm  # What `keep_warm: auto` chooses
    setting: Setting  # The `keep_warm` of config.yaml
    last_unload: UnloadRecord | None = None  # Its last unload; None without one
    loaded_kind: str | None = None
    cold_kind: str | None = None

    @property
    def keep_seconds(self) -> float | None:
        """How long the model is kept after its last answer; None until memory is needed."""
        if self.setting == "auto":
            return self.choice.seconds
        return None if self.setting == "always" else self.setting

    @property
    def is_known(self) -> bool:
        """Whether anything was measured or logged."""
        return any((self.load, self.loaded_watts, self.gaps, self.last_unload))


def read_model_idle(
    log: LogReader,
    config: Config,
    model: str,
    spec: ModelSpec | None,
    *,
    baselines: Baselines | None = None,
    uses: Sequence[Use] | None = None,
    last_unload: UnloadRecord | None = None,
) -> ModelIdle:
    """Read what is known of keeping a model warm, and choose its time.

    Args:
        spec: Its entry, for the hash of its file; None takes the loads of any file.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    from etui.models.files import content_sha256

    sha256 = None if spec is None else content_sha256(spec, config)
    if sha256 is None and spec is not None and spec.adapters:
        sha256 = ""  # of no load: those of any file may be of other adapters
    known = load_baselines(config) if baselines is None else baselines
    gaps = compute_gaps(read_uses(log) if uses is None else uses, model)
    load = read_load_cost(log, model, sha256)
    loaded, extra, cold = known.loaded.get(model), known.extra_watts(model), known.cold
    seconds = tuple(gap.seconds for gap in gaps)
    return ModelIdle(
        model=model,
        load=load,
        loaded_watts=None if loaded is None else loaded.total,
        cold_watts=None if cold is None else cold.total,
        extra_watts=extra,
        channels={
            name: (watts, cold.watts[name])
            for name, watts in (loaded.watts if loaded is not None else {}).items()
            if cold is not None and name in cold.watts
        },
        gaps=seconds,
        choice=choose_keep_warm(seconds, load.joules if load is not None else None, extra),
        setting=config.keep_warm,
        last_unload=last_unload,
        loaded_kind=_find_kind(loaded),
        cold_kind=_find_kind(cold),
    )


def _find_kind(baseline: IdleBaseline | None) -> str | None:
    """Return ``estimate`` for a baseline without a measured channel."""
    return ESTIMATE if baseline is not None and set(baseline.watts) == {CHANNEL_ID} else None


def build_cool_down(unload: UnloadRecord) -> CoolDown:
    """Build the comparison of idle powers around a logged unload."""

    def join(watts: float | None, uncertainty: float | None) -> Measured | None:
        return None if watts is None else Measured(watts, uncertainty)

    return CoolDown(
        join(unload.idle_before_watts, unload.idle_before_uncertainty),
        join(unload.idle_after_watts, unload.idle_after_uncertainty),
        join(unload.idle_cold_watts, unload.idle_cold_uncertainty),
    )


def read_all_idle(log: LogReader, config: Config, catalogue: Catalogue) -> list[ModelIdle]:
    """Read what is known of keeping each model warm, in the order of the catalogue.

    Models of the log that have no entry any more come last.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    baselines, uses = load_baselines(config), read_uses(log)
    last: dict[str, UnloadRecord] = {}
    for unload in log.unloads(_UNLOADS):  # newest first
        last.setdefault(unload.model, unload)
    used = {name for use in uses for name in use.models}
    specs: dict[str, ModelSpec | None] = {spec.name: spec for spec in catalogue}
    specs |= dict.fromkeys(sorted({*used, *last, *baselines.loaded} - set(specs)))
    return [
        read_model_idle(
            log, config, name, spec, baselines=baselines, uses=uses, last_unload=last.get(name)
        )
        for name, spec in specs.items()
    ]


def find_last_cool_down(log: LogReader) -> tuple[UnloadRecord, bool] | None:
    """Find the unload after which the engine's process ended last.

    Returns:
        The unload, and whether a model was loaded since; None without an unload.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    unload = next(iter(log.unloads(1)), None)
    if unload is None:
        return None
    load = next(iter(log.loads(1)), None)
    return unload, load is not None and load.created_at > unload.created_at
