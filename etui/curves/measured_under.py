"""The conditions of an operating curve: the machine, the build and the settings it is valid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAME_LIMIT = 0.01
"""Power limits within this share are equal: drivers round them."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything besides the model that joules per token depend on.

    Attributes:
        machine: Processor, number of CPUs and system, for people.
        build: Version of the engine.
        threads: Threads of the engine.
        channels: Ids of the power channels in a total; empty where not known.
        power_limit_watts: Sum of the limits of those channels; None if one has none.
    """

    machine: str
    build: str
    threads: int
    channels: tuple[str, ...] = ()
    power_limit_watts: float | None = None


def parse_conditions(
    settings: Mapping[str, Any], channels: tuple[str, ...], power_limit_watts: float | None = None
) -> Conditions:
    """Read the conditions from a turn's ``settings``.

    Values that an older etui did not record are ``unknown``, and differ from every known value.
    """
    return Conditions(
        machine=settings.get("machine") or "unknown",
        build=f"llama-cpp-python {settings.get('llama_cpp_python') or 'unknown'}",
        threads=settings.get("threads") or 0,
        channels=channels,
        power_limit_watts=power_limit_watts,
    )


def list_differences(then: Conditions, now: Conditions) -> tuple[str, ...]:
    """List what has changed, each in a few words; empty while the curve is still valid.

    A value that is not known on one side is not a difference.
    """
    found = []
    if then.machine != now.machine:
        found.append(f"another machine ({then.machine})")
    if then.build != now.build:
        found.append(f"another build ({then.build})")
    if then.threads != now.threads:
        found.append(f"{then.threads} threads, now {now.threads}")
    if then.channels and now.channels and set(then.channels) != set(now.channels):
        found.append(f"other power channels ({', '.join(sorted(then.channels))})")
    before, after = then.power_limit_watts, now.power_limit_watts
    if before is not None and after is not None and abs(before - after) > _SAME_LIMIT * before:
        found.append(f"power limit {before:.0f} W, now {after:.0f} W")
    return tuple(found)
