"""Check the documents of another machine's meter before any of their numbers is used.

The other machine may be broken, of another version, or hostile: a number that cannot be true makes
the whole document invalid, and text is reduced to what a flag or the id of a channel can contain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui.energy.remote.failure import MeterFailed
from etui.energy.types import ChannelEnergy, Energy, Kind

MOST_WATTS = 1e6
"""Power above which a reading is not believed: a megawatt is more than a hall of machines."""

_MOST_NAMES = 256
_LARGEST_NS = 2**63 - 1
_FLAG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ID = re.compile(r"[\w][\w:.\-/ +]{0,95}")


@dataclass(frozen=True, slots=True)
class ClockDocument:
    """The answer of ``/meter/clock``: the other machine's monotonic clock, and its boot."""

    now_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """The answer of ``/meter``, as far as it is needed."""

    kinds: tuple[str, ...]
    """Kinds of its channels, best first; empty if it has none, or does not say."""
    running: int | None  # Requests at work there; None if the meter does not know
    loading: bool = False  # Whether a model is being loaded there; False if the meter does not say
    watts: float | None = None  # Watts now; None if unknown


def parse_clock(document: object) -> ClockDocument:
    """Parse the answer of ``/meter/clock``.

    Raises:
        MeterFailed: It is not valid.
    """
    values = _mapping(document)
    return ClockDocument(_nanoseconds(values.get("now_ns"), "now_ns"), _boot_id(values))


def parse_status(document: object) -> StatusDocument:
    """Parse the answer of ``/meter``.

    Raises:
        MeterFailed: It is not valid.
    """
    values = _mapping(document)
    running = values.get("running")
    if running is not None and (
        not isinstance(running, int) or isinstance(running, bool) or not 0 <= running < 10**6
    ):
        raise _invalid("running is not a number of requests")
    channels = values.get("channels")
    found: list[object] = []
    if isinstance(channels, Mapping):
        channels = list(channels.values())
    if isinstance(channels, Sequence) and not isinstance(channels, str):
        found = [c.get("kind") for c in channels[:_MOST_NAMES] if isinstance(c, Mapping)]
    kinds = tuple(kind.value for kind in Kind if kind.value in [*found, values.get("kind")])
    watts = values.get("watts")
    watts = _number(watts, "watts", MOST_WATTS) if isinstance(watts, int | float) else None
    return StatusDocument(kinds, running, bool(values.get("loading")), watts)


def parse_energy(document: object, start_ns: int, end_ns: int) -> tuple[Energy, str]:
    """Parse the answer of ``/meter/energy``.

    Args:
        start_ns: Start of the interval that was asked for, in the other machine's time.

    Returns:
        The energy in the other machine's time, and the id of its boot.

    Raises:
        MeterFailed: It is not valid, or of another interval.
    """
    values = _mapping(document)
    if (values.get("start_ns"), values.get("end_ns")) != (start_ns, end_ns):
        raise _invalid("the energy is that of another interval")
    seconds = (end_ns - start_ns) / 1e9
    most = MOST_WATTS * seconds
    boot_id = _boot_id(values)
    flags = _names(values.get("flags"), _FLAG, "flags")
    unmeasured = _names(values.get("unmeasured"), _ID, "unmeasured")
    joules = _optional(values, "joules", most)
    if joules is None:
        flags = tuple(dict.fromkeys((*flags, "unmeasured")))
        return Energy(
            start_ns, end_ns, None, None, None, 0.0, unmeasured=unmeasured, flags=flags
        ), boot_id
    uncertainty = _optional(values, "uncertainty", most)
    if uncertainty is None:
        raise _invalid("joules without an uncertainty")
    kind = _kind(values.get("kind"))
    energy = Energy(
        start_ns=start_ns,
        end_ns=end_ns,
        joules=joules,
        uncertainty=uncertainty,
        kind=kind,
        coverage=_number(values.get("coverage"), "coverage", 1.0),
        idle_watts=_optional(values, "idle_watts", MOST_WATTS),
        mean_watts=_optional(values, "mean_watts", MOST_WATTS),
        peak_watts=_optional(values, "peak_watts", MOST_WATTS),
        channels=_channels(values.get("channels"), kind, uncertainty, most),
        unmeasured=unmeasured,
        flags=flags,
        own_joules=_optional(values, "own_joules", most),
    )
    return energy, boot_id


def parse_power(document: object, points: int) -> tuple[float | None, ...] | None:
    """Parse ``power_watts`` of ``/meter/energy``: mean watts of equal slices; None if absent.

    Raises:
        MeterFailed: It is not valid.
    """
    watts = _mapping(document).get("power_watts")
    if watts is None:
        return None
    if not isinstance(watts, list) or len(watts) != points:
        raise _invalid(f"power_watts is not a list of {points} values")
    return tuple(None if one is None else _number(one, "power_watts", MOST_WATTS) for one in watts)


def _mapping(document: object) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise _invalid("it is not a JSON object")
    return document


def _optional(values: Mapping[str, Any], name: str, most: float) -> float | None:
    value = values.get(name)
    return None if value is None else _number(value, name, most)


def _number(value: object, name: str, most: float) -> float:
    """Return a finite number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"{name} is not a number")
    if not 0 <= value <= most:  # false for NaN
        raise _invalid(f"{name} is not possible")
    return float(value) + 0.0  # no negative zero


def _nanoseconds(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_NS:
        raise _invalid(f"{name} is not a time in nanoseconds")
    return value


def _boot_id(values: Mapping[str, Any]) -> str:
    boot_id = values.get("boot_id")
    if not isinstance(boot_id, str) or not _ID.fullmatch(boot_id):
        raise _invalid("there is no boot_id")
    return boot_id


def _kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        raise _invalid("the kind of its energy is unknown") from None


def _names(value: object, pattern: re.Pattern[str], name: str) -> tuple[str, ...]:
    """Return the names of a list that can be shown; others are dropped."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise _invalid(f"{name} is not a short list")
    return tuple(one for one in value if isinstance(one, str) and pattern.fullmatch(one))


def _channels(
    value: object, kind: Kind, uncertainty: float, most: float
) -> tuple[ChannelEnergy, ...]:
    """Parse joules by channel; the uncertainty of each is at most that of the total."""
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > _MOST_NAMES:
        raise _invalid("channels is not a short object")
    return tuple(
        ChannelEnergy(name, kind, _number(joules, "channels", most), uncertainty, 1.0, 0.0)
        for name, joules in value.items()
        if isinstance(name, str) and _ID.fullmatch(name)
    )


def _invalid(why: str) -> MeterFailed:
    return MeterFailed("meter-invalid", f"the remote meter gave an invalid document: {why}")
