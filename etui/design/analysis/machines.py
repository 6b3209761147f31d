"""Machines of a run whose joules may be pooled, and the questions that each group answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.store.machines import group_equal
from etui.design.analysis.paired import Key

if TYPE_CHECKING:
    from etui.bench.store.run_config import RunConfig
    from etui.bench.store.sample import Sample


@dataclass(frozen=True, slots=True)
class MachineGroup:
    """Equal machines."""

    name: str  # Name of the machine, with their number if there are several
    keys: tuple[str, ...]
    questions: frozenset[Key]  # Questions of which every answer comes from one of them


def group_machines(config: RunConfig, samples: Sequence[Sample]) -> tuple[MachineGroup, ...]:
    """Group the machines of a run; empty if all joules may be pooled."""
    groups = group_equal(config.machines or ())
    if len(groups) < 2:
        return ()
    of_key = {machine.key: at for at, group in enumerate(groups) for machine in group}
    answered: dict[Key, set[int | None]] = {}
    for sample in samples:
        seen = answered.setdefault((sample.subject, sample.row), set())
        seen.add(None if sample.machine is None else of_key.get(sample.machine))
    return tuple(
        MachineGroup(
            f"{len(group)} x {group[0].name}" if len(group) > 1 else group[0].name,
            tuple(machine.key for machine in group),
            frozenset(key for key, seen in answered.items() if seen == {at}),
        )
        for at, group in enumerate(groups)
    )
