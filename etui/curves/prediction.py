"""Predict whether a model fits and what a token costs here: pure arithmetic, with basis and ±.

A decode reads the active weights once for each token, and the KV cache of the tokens before it, so
its seconds grow in a straight line with these bytes. A prefill multiplies each active weight with
each token. The machine's own measurements set the line; the more of them, the narrower the ±.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from etui import units
from etui.engine.offload import needs
from etui.models.cache_size import cache_size
from etui.models.gguf import Gguf
from etui.models.recommend import Fit, estimate_need_bytes, find_fit
from etui.models.spec import ModelSpec

if TYPE_CHECKING:
    from etui.curves.operating_curve import OperatingCurve, Speed

CONTEXT_TOKENS = 512
"""Context in which a token is priced: a question with a short answer."""

Source = Literal["curve", "log", "other models", "other model", "memory", "power range", ""]
"""Where a number comes from; empty if it is unknown."""

_SEVERAL_SHARE, _ONE_SHARE, _MEMORY_SHARE = 0.25, 0.3, 0.5
"""Least ± of a speed from several measured models, from one, and from the speed of the memory,
which kernels and caches use more and less well. Chosen so that they hold the deviations of four
models with one and two threads (``benchmarks/predictions.py``)."""
_REACHED_SHARE, _OWN_BYTES = 0.8, 200_000_000
"""Share of the speed of the memory that a decode reaches, and what a token takes beside its bytes,
as bytes that are read meanwhile: fitted to models of 98 MB to 1.1 GB on a machine of two CPUs
(``benchmarks/predictions.py``)."""
_DOUBLING_SHARE = 0.1
"""What each doubling of bytes beyond the measured models adds to the ±."""
_WATTS_SHARE, _LIMIT_SHARE = 0.15, 0.4
"""± of the watts of another model, and of the power limit: an estimate has the latter as well."""
_UNITS = {"M": 10**6, "B": 10**9}


@dataclass(frozen=True, slots=True)
class ModelWork:
    """What the tokens of a model take."""

    read_bytes: int  # Read for each decoded token: weights without idle experts, and the KV cache
    parameters: int | None = None  # Active ones; None before the header is there


def work_of_header(gguf: Gguf, kv_type: str, context_tokens: int = CONTEXT_TOKENS) -> ModelWork:
    """Compute the work of a decode behind so many tokens from the header of a file."""
    size = cache_size(gguf, kv_type)
    cache = 0 if size is None else size.read_bytes(context_tokens)
    return ModelWork(gguf.active_bytes + cache, gguf.active_parameters)


def work_of_entry(
    spec: ModelSpec, file_bytes: int | None, context_tokens: int = CONTEXT_TOKENS
) -> ModelWork | None:
    """Compute the work from an entry, before the header is there; None for an unknown size.

    If its ``size`` says how many parameters are active or effective, their share is read.
    """
    if not file_bytes:
        return None
    whole, active = _read_parameters(spec.size)
    share = active / whole if whole and active and active < whole else 1.0
    cache = (spec.kv_bytes_per_token or 0) * context_tokens
    return ModelWork(int(file_bytes * share) + cache, active or whole)


def _read_parameters(size: str) -> tuple[int | None, int | None]:
    """Read ``35B parameters, 3B active``: all and the active ones; None for what is not said."""
    pattern = r"\b(\d+(?:\.\d+)?)([MB]) (parameters|active|effective)"
    found = {
        word: int(float(number) * _UNITS[unit]) for number, unit, word in re.findall(pattern, size)
    }
    return found.get("parameters"), found.get("active", found.get("effective"))


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """The speed of one model, as it was measured on this machine."""

    name: str
    work: ModelWork
    tokens_per_second: float
    watts: float | None = None  # Mean gross watts of its decode; None if unknown
    on_gpu: bool = False  # Whether its weights are in the memory of a GPU
    prefill_tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of a machine, to predict models that were never loaded."""

    memory_bytes_per_second: float | None = None
    """Reading speed of the memory, measured while nothing else ran; None if unknown."""
    limit_watts: float | None = None
    """Sum of the power limits of everything but GPUs; None if one is unknown."""
    measured: tuple[MeasuredModel, ...] = ()  # Models whose decode was measured here
    memory_busy: bool = False  # Whether it is unknown because other programs ran
    ram_bytes: float | None = None  # Free memory; None if unknown
    gpu_bytes: float | None = None
    """Free memory of the GPU with the most; None without one that llama.cpp can use."""


@dataclass(frozen=True, slots=True)
class DecodeForecast:
    """Speed and energy of the decode of a model, its prompts apart; None where unknown."""

    tokens_per_second: float | None = None  # See `etui.units.decode_speed`
    joules_per_token: float | None = None  # Gross joules per decoded token
    speed_source: Source = ""
    joules_source: Source = ""
    like: str = ""  # The measured model from which they were scaled; empty for none
    speed_share: float | None = None  # ± of the speed as a share of it; None if it was measured
    joules_share: float | None = None  # ± of the joules as a share of them
    prefill_tokens_per_second: float | None = None
    """Of its own, or by the operations per second of the measured model nearest in size."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Where a model fits as a whole on this machine, and what its decode takes there."""

    need_bytes: int | None = None  # Memory with its whole context; None for an unknown size
    fit: Fit = "unknown"
    forecast: DecodeForecast = field(default_factory=DecodeForecast)

    @property
    def fits(self) -> bool | None:
        """Whether it fits at all; None if that is unknown."""
        return None if self.fit == "unknown" else self.fit != "too large"

    @property
    def is_measured(self) -> bool:
        """Whether its own decode was measured here."""
        return self.forecast.speed_source in ("curve", "log")


def predict(
    spec: ModelSpec,
    gguf: Gguf | None,
    machine: MachineFacts,
    curve: OperatingCurve | None = None,
    past: Speed | None = None,
    *,
    most_context: int | None = None,
) -> Prediction:
    """Predict a model of this machine, or one that could be pulled.

    Without the start of its file, ``gguf``, the entry decides. ``curve`` is its newest one of this
    machine, ``past`` the speed of its last turns, and ``most_context`` a limit on its context.
    """
    if spec.backend is not None:
        return Prediction()
    if gguf is None:
        need, work = estimate_need_bytes(spec, most_context), work_of_entry(spec, spec.file_bytes)
    else:
        context = usable_context(spec, gguf, most_context)
        need = needs(gguf, context, spec.kv_type).total_bytes
        work = work_of_header(gguf, spec.kv_type)
    fit = find_fit(need, machine.ram_bytes, machine.gpu_bytes)
    forecast = forecast_decode(work, machine, curve, past, on_gpu=fit == "gpu")
    return Prediction(need, fit, forecast)


def usable_context(spec: ModelSpec, gguf: Gguf, most_context: int | None) -> int:
    """Return the tokens of a context: those of the entry, if the model and a limit allow them."""
    return min(limit for limit in (spec.context, gguf.context_tokens, most_context) if limit)


def measured_from(
    name: str,
    work: ModelWork | None,
    curve: OperatingCurve | None,
    machine: str,
    past: Speed | None = None,
    *,
    on_gpu: bool = False,
) -> MeasuredModel | None:
    """Return the model as its curve on a machine, or else its answers there, measured it.

    ``past`` is the speed of its answers while nothing else ran
    (:func:`etui.log.past_answers.read_quiet_speed`), with its weights ``on_gpu`` or not.
    """
    own = None
    if curve is not None and curve.conditions.machine == machine:
        own, on_gpu = curve.speed, bool(curve.gpu_layers)
    if own is None or own.decode_tokens_per_second is None:
        own = past
    if own is None or work is None or own.decode_tokens_per_second is None:
        return None
    return MeasuredModel(
        name,
        work,
        own.decode_tokens_per_second,
        own.decode_watts,
        on_gpu=on_gpu,
        prefill_tokens_per_second=own.prefill_tokens_per_second,
    )


def forecast_decode(
    work: ModelWork | None,
    machine: MachineFacts,
    curve: OperatingCurve | None = None,
    past: Speed | None = None,
    *,
    on_gpu: bool = False,
) -> DecodeForecast:
    """Predict the decode of a model.

    Its own curve comes first, then its last turns in the log, ``past``
    (:func:`etui.log.past_answers.read_speed`), then the models that were measured in the same kind
    of memory, then the speed of the memory with the power limit. Nothing is guessed for a GPU on
    which nothing was measured.
    """
    there = [one for one in machine.measured if one.on_gpu == on_gpu and one.work.read_bytes > 0]
    like = _find_nearest(work, there)
    speed = joules = speed_share = joules_share = None
    speed_source: Source = ""
    joules_source: Source = ""
    used_like = False
    own = curve.speed if curve is not None and curve.speed.decode_tokens_per_second else past
    if own is not None and own.decode_tokens_per_second:
        speed, speed_source = own.decode_tokens_per_second, "log" if own is past else "curve"
    elif work is not None and like is not None:
        speed, speed_share, used_like = _scale_speed(work, like, there)
        speed_source = "other model" if used_like else "other models"
    elif work is not None and machine.memory_bytes_per_second is not None and not on_gpu:
        speed, speed_source = machine.memory_bytes_per_second / _time_bytes(work), "memory"
        speed_share = _MEMORY_SHARE
    if curve is not None:
        joules, joules_source = curve.decode.slope + curve.decode.bend * CONTEXT_TOKENS, "curve"
    elif past is not None and past.decode_watts is not None and past.decode_tokens_per_second:
        joules, joules_source = past.decode_watts / past.decode_tokens_per_second, "log"
    elif speed and like is not None and like.watts is not None:
        joules, joules_source, used_like = like.watts / speed, "other model", True
        joules_share = math.hypot(speed_share or 0.0, _WATTS_SHARE)
    elif speed and machine.limit_watts is not None and not on_gpu:
        joules, joules_source = machine.limit_watts / speed, "power range"
        joules_share = math.hypot(speed_share or 0.0, _LIMIT_SHARE)
    return DecodeForecast(
        speed,
        joules,
        speed_source,
        joules_source,
        like.name if used_like and like is not None else "",
        speed_share,
        joules_share,
        _predict_prefill(work, like, own),
    )


def _find_nearest(
    work: ModelWork | None, measured: Sequence[MeasuredModel]
) -> MeasuredModel | None:
    """Return the measured model whose bytes are nearest, as a ratio; None if there is none."""
    if work is None or work.read_bytes <= 0:
        return None
    read_bytes = work.read_bytes
    return min(
        measured,
        key=lambda model: (abs(math.log(model.work.read_bytes / read_bytes)), model.name),
        default=None,
    )


def _time_bytes(work: ModelWork) -> float:
    """Return the bytes that the memory could read in the time of a token."""
    return work.read_bytes / _REACHED_SHARE + _OWN_BYTES


def _scale_speed(
    work: ModelWork, like: MeasuredModel, measured: Sequence[MeasuredModel]
) -> tuple[float, float, bool]:
    """Predict tokens per second, with its ± as a share, and whether one model is its basis."""
    speeds = [one.tokens_per_second * _time_bytes(one.work) for one in measured]
    mean = statistics.geometric_mean(speeds)
    share = max(_SEVERAL_SHARE, 2 * max(abs(speed / mean - 1) for speed in speeds))
    if len({one.work.read_bytes for one in measured}) < 2 or share > _ONE_SHARE:
        # The only one, or the models differ in more than their bytes.
        scaled = like.tokens_per_second * _time_bytes(like.work) / _time_bytes(work)
        return scaled, max(share, _ONE_SHARE), True
    sizes = [one.work.read_bytes for one in measured]
    beyond = max(1.0, work.read_bytes / max(sizes), min(sizes) / work.read_bytes)
    return mean / _time_bytes(work), share + _DOUBLING_SHARE * math.log2(beyond), False


def _predict_prefill(
    work: ModelWork | None, like: MeasuredModel | None, own: Speed | None
) -> float | None:
    if own is not None and own.prefill_tokens_per_second:
        return own.prefill_tokens_per_second
    if work is None or not work.parameters or like is None or not like.work.parameters:
        return None
    speed = like.prefill_tokens_per_second
    return None if speed is None else speed * like.work.parameters / work.parameters


_OWN_BASIS: dict[Source, str] = {
    "curve": "measured by its curve",
    "log": "decode of its last turns here",
}


def speed_text(forecast: DecodeForecast, machine: MachineFacts, *, on_gpu: bool) -> str:
    """Write the tokens per second with their ± and basis, or why they are unknown."""
    basis = speed_basis(forecast, machine, on_gpu=on_gpu)
    return _figure_text(forecast.tokens_per_second, "tok/s", forecast.speed_share, basis)


def speed_basis(forecast: DecodeForecast, machine: MachineFacts, *, on_gpu: bool) -> str:
    """Write what the tokens per second rest on, or why they are unknown."""
    match forecast.speed_source:
        case "curve" | "log" as own:
            return _OWN_BASIS[own]
        case "":
            if on_gpu:
                return "no model was measured on this GPU yet"
            return f"the speed of the memory is {unmeasured_text(machine)}"
        case "other model":
            return f"scaled by size from {forecast.like}"
        case "other models":
            count = sum(one.on_gpu == on_gpu for one in machine.measured)
            return f"by the bytes of {units.count_text(count, 'model')} measured here"
        case _:
            speed = units.bytes_text(machine.memory_bytes_per_second)
            return f"estimated from memory bandwidth ({speed}/s)"


def joules_text(forecast: DecodeForecast, machine: MachineFacts) -> str:
    """Write the joules of a decoded token with their ± and basis, or why they are unknown."""
    unit, basis = "J per decoded token", joules_basis(forecast, machine)
    return _figure_text(forecast.joules_per_token, unit, forecast.joules_share, basis)


def joules_basis(forecast: DecodeForecast, machine: MachineFacts) -> str:
    """Write what the joules of a decoded token are based on, or why they are unknown."""
    match forecast.joules_source:
        case "curve" | "log" as own:
            return _OWN_BASIS[own]
        case "":
            return "no power meter to predict it from"
        case "other model":
            return f"with the watts of {forecast.like}"
        case _:
            return f"at the power limit ({units.limit_text(machine.limit_watts)})"


def unmeasured_text(machine: MachineFacts) -> str:
    """Write why the speed of the memory is unknown."""
    return f"not measured yet{' (the machine was busy)' if machine.memory_busy else ''}"


def _figure_text(value: float | None, unit: str, share: float | None, basis: str) -> str:
    if value is None:
        return f"unknown {unit}: {basis}"
    text = f"{units.significant(value, 2)} {unit}"
    if share is not None:
        text = f"{units.ABOUT}{text} ± {100 * share:.0f} %"
    return f"{text}: {basis}"


def value_cell(value: float | None, share: float | None) -> str:
    """Write a number of a forecast for a table: ``33``, ``≈18 ±25%``, or ``not measured``."""
    if value is None:
        return "not measured"
    text = units.significant(value, 2)
    return text if share is None else f"{units.ABOUT}{text} ±{100 * share:.0f}%"
