"""How long the models of this machine are kept warm, from the log and the idle baselines.

A gap is the time from the end of an answer to the next question to the same model. Gaps are also
replayed under several keep-warm times: joules of idling and loads. The app is assumed to run during
all of them, and each model is counted as if it were the only one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from statistics import stdev
from typing import TYPE_CHECKING, Literal

from etui.energy.idle import (
    Baselines,
    CoolDown,
    IdleBaseline,
    describe_cool_down,
    load_baselines,
)
from etui.energy.keep_warm import (
    LEAST_SECONDS,
    KeepWarm,
    Measured,
    choose_keep_warm,
    compute_break_even,
    compute_gap_joules,
)
from etui.energy.sources.estimate import CHANNEL_ID
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


MOST_TURNS = 100_000
"""Number of the last turns of chats that are read."""


@dataclass(frozen=True, slots=True)
class ModelReplay:
    """The replay of one model."""

    idle: ModelIdle  # What is known of keeping it warm
    cost: IdleCost | None  # The numbers of the replay; None if one is unknown
    whole: IdleReplay | None  # All gaps of the window; None without a cost or a gap
    days: Mapping[str, IdleReplay]
    """Local day (``2026-11-25``) -> the gaps that begin on it; ``auto`` knows all before each."""
    missing: str = ""  # What is missing for a replay; empty if nothing is


def replay_idle_log(
    log: LogReader, config: Config, catalogue: Catalogue, since_seconds: float
) -> list[ModelReplay]:
    """Replay the gaps of each model that was used in chats.

    The window begins ``since_seconds`` after 1970; ``auto`` learns from earlier gaps too.
    """
    uses = read_uses(log, MOST_TURNS)
    used = {name for use in uses if use.end_seconds >= since_seconds for name in use.models}
    return [
        replay_model(idle, compute_gaps(uses, idle.model), since_seconds)
        for idle in read_all_idle(log, config, catalogue)
        if idle.model in used
    ]


def replay_model(idle: ModelIdle, gaps: Sequence[Gap], since_seconds: float) -> ModelReplay:
    """Replay the gaps of one model that begin in the window."""
    before = [gap.seconds for gap in gaps if gap.start_seconds < since_seconds]
    inside = [gap for gap in gaps if gap.start_seconds >= since_seconds]
    load, extra, cold = idle.load, idle.extra_watts, idle.cold_watts
    cost = None
    if load is not None and extra is not None and cold is not None:
        cost = IdleCost(load.joules, extra, cold)
    missing = _name_missing(idle, cost, inside)
    if cost is None or missing:
        return ModelReplay(idle, cost, None, {}, missing)
    seconds = [gap.seconds for gap in inside]
    chosen = choose_times(seconds, cost, before)
    days: dict[str, IdleReplay] = {}
    at = 0
    for date, group in groupby(inside, _find_date):
        end = at + len(list(group))
        days[date] = replay_gaps(seconds[at:end], cost, chosen[at:end])
        at = end
    return ModelReplay(idle, cost, replay_gaps(seconds, cost, chosen), days)


NOT_MEASURED = "not measured yet: "
"""Begins ``ModelReplay.missing`` where a measurement would enable the replay."""


def _name_missing(idle: ModelIdle, cost: IdleCost | None, gaps: Sequence[Gap]) -> str:
    if cost is None:
        wanted = (
            ("the joules of a load", idle.load is None),
            ("its idle power", idle.loaded_watts is None),
            ("the cold idle power", idle.cold_watts is None),
        )
        names = [name for name, is_missing in wanted if is_missing]
        return f"{NOT_MEASURED}{', '.join(names) or 'the idle power over the same channels'}"
    if cost.load_joules.value <= 0:
        return "its loads have no joules"
    if cost.extra_watts.value <= 0:
        return "idling costs nothing: with the model in memory the machine draws no more than cold"
    return "" if gaps else "no two questions in this time"


def _find_date(gap: Gap) -> str:
    return datetime.fromtimestamp(gap.start_seconds).astimezone().date().isoformat()


FIXED_SECONDS: Mapping[str, float] = {
    "1 min": 60.0,
    "5 min": 300.0,
    "15 min": 900.0,
    "60 min": 3600.0,
    "never": math.inf,
}
"""Name -> keep-warm time that is compared with the others."""


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What a model costs on this machine while it answers nothing."""

    load_joules: Measured
    extra_watts: Measured  # Idle watts with it in memory minus those without
    cold_watts: Measured  # Idle watts without it


@dataclass(frozen=True, slots=True)
class ReplayedTime:
    """The gaps under one keep-warm time."""

    name: str  # Name of the time: a fixed one, `T*`, `auto`, `best fixed`
    seconds: float | None
    """The time; infinite for never, None if it changed from gap to gap (``auto``)."""
    loads: int  # Number of loads at the end of a gap
    warm_seconds: float  # Seconds for which the model idled in memory
    extra: Measured  # Joules above cold idle: idling with the model, and the loads
    joules: Measured  # The same with the cold idle power of all gaps


@dataclass(frozen=True, slots=True)
class IdleReplay:
    """All times over the same gaps."""

    gaps: int
    gap_seconds: float
    times: tuple[ReplayedTime, ...]
    """The fixed times, ``T*``, ``auto`` and ``best fixed``, in this order."""

    def get(self, name: str) -> ReplayedTime:
        """Return the time of a name."""
        return next(time for time in self.times if time.name == name)


def replay_gaps(gaps: Sequence[float], cost: IdleCost, chosen: Sequence[float]) -> IdleReplay:
    """Replay gaps, oldest first, under the fixed times, T*, ``auto``, and the best fixed time.

    ``chosen`` has the times of ``auto``, see :func:`choose_times`.
    """
    load, watts = cost.load_joules.value, cost.extra_watts.value
    even = max(compute_break_even(cost.load_joules, cost.extra_watts).seconds, LEAST_SECONDS)
    fixed = {**FIXED_SECONDS, "T*": even}
    best = find_best_fixed(gaps, load, watts)
    times = [
        *((name, seconds, [seconds] * len(gaps)) for name, seconds in fixed.items()),
        ("auto", None, chosen),
        ("best fixed", best, [best] * len(gaps)),
    ]
    return IdleReplay(
        len(gaps),
        math.fsum(gaps),
        tuple(_replay(name, seconds, gaps, keeps, cost) for name, seconds, keeps in times),
    )


def choose_times(
    gaps: Sequence[float], cost: IdleCost, before: Sequence[float] = ()
) -> list[float]:
    """Choose the seconds of each gap as ``auto`` would, from earlier gaps only; infinite: kept."""
    known = list(before)
    chosen: list[float] = []
    for gap in gaps:
        keep = choose_keep_warm(known, cost.load_joules, cost.extra_watts).seconds
        chosen.append(math.inf if keep is None else keep)
        known.append(gap)
    return chosen


def find_best_fixed(gaps: Sequence[float], load_joules: float, extra_watts: float) -> float:
    """Find the fixed time with the least joules, knowing all gaps.

    It is the shortest one or ends with a gap: any time between two gaps only adds idling, and one
    beyond the longest gap equals never.
    """
    best = LEAST_SECONDS
    best_joules = math.fsum(compute_gap_joules(gap, best, load_joules, extra_watts) for gap in gaps)
    shorter_joules, ordered = 0.0, sorted(gaps)
    for index, gap in enumerate(ordered):
        shorter_joules += gap * extra_watts
        longer = len(ordered) - index - 1
        joules = shorter_joules + longer * (gap * extra_watts + load_joules)
        if gap > LEAST_SECONDS and joules < best_joules:
            best, best_joules = gap, joules
    return best


def _replay(
    name: str, seconds: float | None, gaps: Sequence[float], keeps: Sequence[float], cost: IdleCost
) -> ReplayedTime:
    pairs = list(zip(gaps, keeps, strict=True))
    loads = sum(gap > keep for gap, keep in pairs)
    warm = math.fsum(min(gap, keep) for gap, keep in pairs)
    parts = (loads, cost.load_joules), (warm, cost.extra_watts)
    joules = _sum(*parts, (math.fsum(gaps), cost.cold_watts))
    return ReplayedTime(name, seconds, loads, warm, _sum(*parts), joules)


def _sum(*parts: tuple[float, Measured]) -> Measured:
    """Add up measured numbers times counts or seconds; their errors are independent."""
    value = math.fsum(count * part.value for count, part in parts)
    errors = [part.uncertainty for _, part in parts]
    if any(error is None for error in errors):
        return Measured(value)
    spread = [count * (part.uncertainty or 0.0) for count, part in parts]
    return Measured(value, math.hypot(*spread))


RECENT_TURNS = 2000
"""Number of the last turns of chats whose gaps are read."""

_LOADS = 10


# A question of `etui ask` ends with its process: only the turns of chats keep a model warm.
_USES_SQL = """
    SELECT id, created_at, model, seconds_load, seconds_total
    FROM turns INDEXED BY turns_of_chats
    WHERE chat_id IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT ?
"""


# The hops come after the texts in a row, so they are read only where there are any.
_HOPS_SQL = """
    SELECT id, hops FROM turns INDEXED BY turns_with_hops
    WHERE hops <> '[]' ORDER BY created_at DESC LIMIT ?
"""

_LOADS_SQL = """
    SELECT joules, uncertainty, seconds, kind FROM loads
    WHERE model = ? AND (model_sha256 IS ? OR ? IS NULL) AND joules IS NOT NULL
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Quantiles of Student's t at 95 %, for 2 to 10 values."""


@dataclass(frozen=True, slots=True)
class Use:
    """One turn of a chat, with its beginning and end in seconds since 1970."""

    models: frozenset[str]
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two questions to the same model."""

    start_seconds: float  # End of the answer before it, in seconds since 1970
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadCost:
    """What loading a model takes."""

    joules: Measured
    """Mean gross joules of its last loads, the start of the engine's process included."""
    seconds: float  # Mean seconds
    loads: int
    kind: str | None  # How their energy was determined


def read_uses(log: LogReader, limit: int = RECENT_TURNS) -> list[Use]:
    """Read the last turns of chats, oldest first; one without a valid time is left out."""
    hops = {
        row["id"]: [hop["model"] for hop in json.loads(row["hops"])]
        for row in log.select(_HOPS_SQL, (limit,))
    }
    uses: list[Use] = []
    for row in reversed(log.select(_USES_SQL, (limit,))):
        try:
            start = datetime.fromisoformat(row["created_at"]).timestamp()
        except ValueError:
            continue
        models = frozenset((row["model"], *hops.get(row["id"], ())))
        uses.append(Use(models, start, start + row["seconds_load"] + row["seconds_total"]))
    return uses


def compute_gaps(uses: Sequence[Use], model: str) -> list[Gap]:
    """Compute the gaps between the uses of a model, oldest first.

    A question that was sent during the answer before it waited for it, which is a gap of 0.
    """
    gaps: list[Gap] = []
    end: float | None = None
    for use in uses:
        if model in use.models:
            if end is not None:
                gaps.append(Gap(end, max(0.0, use.start_seconds - end)))
            end = use.end_seconds
    return gaps


def read_load_cost(log: LogReader, model: str, sha256: str | None) -> LoadCost | None:
    """Average the last loads of a model, of the same kind as the newest; None without any.

    The half width combines that of the meter, which all loads may share, with the spread of the
    loads (Student's t). Of a single load, the spread is not known. Without a sha256, the loads of
    any file count.
    """
    rows = log.select(_LOADS_SQL, (model, sha256, sha256, _LOADS))
    rows = [row for row in rows if row["kind"] == rows[0]["kind"]]
    if not rows:
        return None
    joules = [row["joules"] for row in rows]
    meter = math.fsum(row["uncertainty"] or 0.0 for row in rows) / len(rows)
    spread = 0.0
    if len(rows) > 1:
        spread = _T_95[len(rows) - 2] * stdev(joules) / math.sqrt(len(rows))
    mean = math.fsum(joules) / len(rows)
    seconds = math.fsum(row["seconds"] for row in rows) / len(rows)
    return LoadCost(Measured(mean, math.hypot(meter, spread)), seconds, len(rows), rows[0]["kind"])


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

    The kinds are ``estimate`` if an idle power is that of the CPU estimate alone.
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

    Its entry says the hash of its file; without one, the loads of any file count.
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
    """Read what is known of keeping each model warm: those of the catalogue, then of the log."""
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
    """Find the unload after which the engine's process ended last, and whether a load followed."""
    unload = next(iter(log.unloads(1)), None)
    if unload is None:
        return None
    load = next(iter(log.loads(1)), None)
    return unload, load is not None and load.created_at > unload.created_at
