"""The power limits of a sweep: one value for all swept devices, restored at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.energy.power_limits.types import AppliedLimit, CapRequest
from etui.errors import EtuiError
from etui.sweep.machine.cap_control import CapControl

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.sweep.axes.machine_facts import MachineFacts
    from etui.sweep.sweep_config import CapMode

Ask = Callable[[CapRequest], None]
"""Asks the user to set a limit, and returns when the user says that it is set."""


@contextmanager
def open_cap(
    mode: CapMode | None,
    facts: MachineFacts,
    config: Config,
    ask: Ask,
    note: Callable[[str], None],
) -> Iterator[CapControl]:
    """Hold the power limits of the swept devices; at the end they are as found.

    Args:
        mode: Who sets them; None leaves them alone.
        ask: Asks the user to set a limit.

    Raises:
        EtuiError: Another etui holds power limits, or they changed since the facts were read: the
            baseline would not be what was found.
    """
    if mode is None:
        yield CapControl()
        return
    with open_power_limits(config) as limits:
        scopes = list_swept_scopes(limits, facts)
        with LimitHold(config, limits, ask=ask if mode == "user" else None, say=note) as hold:
            _refuse_other_limits(limits, scopes, facts)
            yield CapControl(
                partial(_apply_to_all, hold, scopes), partial(read_enforced, limits, scopes)
            )


def list_swept_scopes(limits: PowerLimits, facts: MachineFacts) -> tuple[str, ...]:
    """List the devices whose power limit is swept: the GPUs if the model uses them, else CPUs."""
    kind = "gpu" if facts.uses_gpu else "package"
    return tuple(limit.scope for limit in limits.read() if limit.scope.partition(":")[0] == kind)


def _refuse_other_limits(limits: PowerLimits, scopes: Sequence[str], facts: MachineFacts) -> None:
    if facts.power is None:
        return
    now = tuple(limit.watts for limit in limits.read() if limit.scope in scopes)
    if now != facts.power.current:
        raise EtuiError(
            f"the power limit of {', '.join(facts.power.labels)} changed while the sweep was "
            "prepared",
            "run the same command again",
        )


def _apply_to_all(hold: LimitHold, scopes: tuple[str, ...], watts: float) -> AppliedLimit:
    """Set one limit on several devices, and report it as one; a refusal comes first."""
    applied = hold.apply_each(scopes, watts)
    notes = dict.fromkeys(one.note for one in applied if one.note)
    first = min(applied, key=lambda one: not one.is_refused)
    return replace(first, scope=" ".join(scopes), requested=watts, note="; ".join(notes))


def read_enforced(limits: PowerLimits, scopes: Sequence[str]) -> float | None:
    """Read the limit in force, the lowest of the devices; None if one is unknown."""
    found = [limit for limit in limits.read() if limit.scope in scopes]
    watts = [
        limit.watts if limit.enforced_watts is None else limit.enforced_watts for limit in found
    ]
    known = [each for each in watts if each is not None]
    return min(known) if known and len(known) == len(watts) else None
