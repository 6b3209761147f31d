"""What an operating curve holds for: the machine, the build and the settings it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAME_LIMIT = 0.01
"""A power limit is the same within this share: drivers round it."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything that joules per token depend on, the model aside.

    Attributes:
        machine: Processor, its CPUs and the system, in words.
        build: Version of the engine.
        threads: Threads of the engine.
        channels: Ids of the power channels in a total; empty where not known.
        power_limit_watts: Limits of those channels together; None where one has none.
    """

    machine: str
    build: str
    threads: int
    channels: tuple[str, ...] = ()
    power_limit_watts: float | None = None


def conditions_of(
    settings: Mapping[str, Any], channels: tuple[str, ...], power_limit_watts: float | None = None
) -> Conditions:
    """The conditions that a turn's ``settings`` hold.

    What a turn of an older etui did not keep is ``unknown``, which is like nothing else.
    """
    return Conditions(
        machine=settings.get("machine") or "unknown",
        build=f"llama-cpp-python {settings.get('llama_cpp_python') or 'unknown'}",
        threads=settings.get("threads") or 0,
        channels=channels,
        power_limit_watts=power_limit_watts,
    )


def differences(then: Conditions, now: Conditions) -> tuple[str, ...]:
    """What has changed, each in a few words; empty where the curve still holds.

    What is not known on either side is no difference.
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
