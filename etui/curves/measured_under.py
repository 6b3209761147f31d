"""The conditions of an operating curve: the machine, the build and the settings it is valid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAME_LIMIT = 0.01
"""Power limits within this share are equal: drivers round them."""

_MODEL_SETTINGS = {
    "kv_type": "KV cache of type",
    "flash_attention": "flash attention",
    "batch_tokens": "tokens of a batch",
}
"""Settings of a model, and how they are named."""

_PLACEMENT = {"gpu_layers": "layers on the GPU", "split": "split over GPUs"}
"""Settings that are compared only where a sweep chose them, and how they are named."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything besides the model that joules per token depend on.

    Attributes:
        kv_type, flash_attention: Type of the KV cache and of the attention, as configured; None
            if unknown.
    """

    machine: str  # Processor, number of CPUs and system, for people
    build: str  # Version of the engine
    threads: int  # Most threads of the engine; with `prefill_threads`, those of decode
    channels: tuple[str, ...] = ()  # Ids of the power channels in a total; empty where not known
    power_limit_watts: float | None = None
    """Sum of the limits of those channels; None if one has none."""
    prefill_threads: int | None = None
    """Most threads of prefill, where they differ from ``threads``."""
    kv_type: str | None = None
    flash_attention: str | None = None
    batch_tokens: str | None = None
    """Most tokens of a batch, as configured: a number or ``auto``; None if unknown."""
    tuned: tuple[tuple[str, str], ...] = ()
    """Settings of the model that a sweep chose, and their values; the others are those of
    models.yaml."""


def parse_conditions(
    settings: Mapping[str, Any], channels: tuple[str, ...], power_limit_watts: float | None = None
) -> Conditions:
    """Read the conditions from a turn's ``settings``.

    A machine, a build and threads that an older etui did not record differ from every known value.
    The settings of a model that it did not record are unknown, which is not a difference: they were
    those of models.yaml. Those of a turn on a remote backend are the backend and its version.
    """
    if settings.get("backend"):
        # A server on another machine: threads and settings of this one have no effect there.
        host = settings.get("backend_host") or "unknown"
        return Conditions(
            machine=f"{settings['backend']} ({host})",
            build=f"server {settings.get('backend_server') or 'unknown'}",
            threads=0,
            channels=channels,
        )
    batch = settings.get("batch_tokens_setting")
    tuned = settings.get("tuned") or {}
    return Conditions(
        machine=settings.get("machine") or "unknown",
        build=f"llama-cpp-python {settings.get('llama_cpp_python') or 'unknown'}",
        threads=settings.get("threads") or 0,
        channels=channels,
        power_limit_watts=power_limit_watts,
        prefill_threads=settings.get("prefill_limit"),
        kv_type=settings.get("kv_type"),
        flash_attention=settings.get("flash_attention"),
        batch_tokens=None if batch is None else str(batch),
        tuned=tuple((key, str(value)) for key, value in tuned.get("values", {}).items()),
    )


def list_differences(then: Conditions, now: Conditions) -> tuple[str, ...]:
    """List what has changed, each in a few words; empty while the curve is still valid.

    A value that is not known on one side is not a difference, unless a sweep has chosen it since.
    """
    found = []
    if then.machine != now.machine:
        found.append(f"another machine ({then.machine})")
    if then.build != now.build:
        found.append(f"another build ({then.build})")
    if then.threads != now.threads:
        found.append(f"{then.threads} threads, now {now.threads}")
    prefill = then.prefill_threads or then.threads, now.prefill_threads or now.threads
    if prefill[0] != prefill[1] and prefill != (then.threads, now.threads):
        found.append(f"{prefill[0]} prefill threads, now {prefill[1]}")
    tuned = dict(now.tuned)
    for name, words in _MODEL_SETTINGS.items():
        old, new = getattr(then, name), getattr(now, name)
        if old is not None and new is not None and old != new:
            found.append(f"{words} {old}, now {new}")
        elif old is None and name in tuned:
            found.append(f"{words} unknown, now {new}")
    for name, words in _PLACEMENT.items():
        was, is_now = (dict(one.tuned).get(name, "as in models.yaml") for one in (then, now))
        if was != is_now:
            found.append(f"{words} {was}, now {is_now}")
    if then.channels and now.channels and set(then.channels) != set(now.channels):
        found.append(f"other power channels ({', '.join(sorted(then.channels))})")
    before, after = then.power_limit_watts, now.power_limit_watts
    if before is not None and after is not None and abs(before - after) > _SAME_LIMIT * before:
        found.append(f"power limit {before:.0f} W, now {after:.0f} W")
    return tuple(found)
