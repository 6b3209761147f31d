"""Configuration of a run on several machines: joined from theirs, and taken apart to resume it.

If machines share the questions, a run has the systems of its plan, and each answer names the
machine that gave it. If machines are compared, every machine answers every question, and a system
is an arm on a machine: ``smollm2-135m@m1``. Machines have numbers and not the names of their hosts,
so that a run can be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from etui.bench.store.machines import are_equal, describe_machine
from etui.bench.store.run_config import BenchMachine, RunConfig
from etui.bench.store.sample import Sample

_AT = "@"


def name_system(system: str, machine: str) -> str:
    """Name a system on one machine of a comparison."""
    return f"{system}{_AT}{machine}"


def split_system(system: str) -> tuple[str, str]:
    """Split the name of a system of a comparison into the arm and the machine."""
    arm, _, machine = system.rpartition(_AT)
    return arm, machine


def is_comparison(config: RunConfig) -> bool:
    """Return whether a run compares machines: every arm is one on a machine."""
    keys = {machine.key for machine in config.machines or ()}
    return bool(config.arms) and all(split_system(name)[1] in keys for name in config.arms)


def join_machines(plan: RunConfig, found: Mapping[str, RunConfig], *, compare: bool) -> RunConfig:
    """Build the configuration of a run on several machines.

    Args:
        found: Key of the machine -> the configuration of the run there; one at least.
    """
    first = next(iter(found.values()))
    machines = tuple(describe_machine(config, key) for key, config in found.items())
    arms: Mapping[str, Mapping[str, object]] = first.arms
    if compare:
        arms = {
            name_system(name, machine.key): arm
            for name, arm in first.arms.items()
            for machine in machines
        }
    return replace(
        first,
        run_id=plan.run_id,
        started_at=plan.started_at,
        data_path=plan.data_path,
        arms=arms,
        machines=machines,
    )


def undo_join(config: RunConfig) -> RunConfig:
    """Return the configuration of the plan behind a run on several machines."""
    arms = config.arms
    if is_comparison(config):
        arms = {split_system(name)[0]: arm for name, arm in config.arms.items()}
    return replace(config, arms=arms, machines=None)


def assign_keys(
    before: Sequence[BenchMachine], found: Mapping[str, RunConfig]
) -> dict[str, BenchMachine]:
    """Decide which machine of a run each machine of its continuation is.

    A machine takes the key of one that was equal to it; any other is new to the run and gets the
    next number.

    Args:
        before: The machines of the run; none for a new run.
        found: Name of the machine now -> its configuration.

    Returns:
        Name of the machine now -> the machine in the run.
    """
    free = {machine.key: machine for machine in before}
    taken = set(free)
    assigned: dict[str, BenchMachine] = {}
    for name, config in found.items():
        machine = describe_machine(config, "")
        same = next((each for each in free.values() if is_same(each, machine)), None)
        if same is not None:
            assigned[name] = free.pop(same.key)
            continue
        number = 1
        while f"m{number}" in taken:
            number += 1
        taken.add(f"m{number}")
        assigned[name] = replace(machine, key=f"m{number}")
    return assigned


def is_same(one: BenchMachine, other: BenchMachine) -> bool:
    """Return whether a run can take two machines for one: equal, or alike in all that is known.

    The idle power is measured again each time, and an unknown processor equals itself.
    """
    return are_equal(one, other) or replace(one, key="", idle=None) == replace(
        other, key="", idle=None
    )


def add_machines(config: RunConfig, machines: Sequence[BenchMachine]) -> RunConfig:
    """Add machines that are new to a run; a run of one machine has no others."""
    known = {machine.key for machine in config.machines or ()}
    new = tuple(machine for machine in machines if machine.key not in known)
    return replace(config, machines=(*(config.machines or ()), *new)) if new else config


@dataclass(frozen=True, slots=True)
class MachineShare:
    """The answers of one machine in a run of several."""

    machine: str
    compare: bool

    def place(self, sample: Sample) -> Sample:
        """Return an answer of the machine as the run records it."""
        arm = name_system(sample.arm, self.machine) if self.compare else sample.arm
        return replace(sample, arm=arm, machine=self.machine)

    def select(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the answers that the machine need not give, with the arms of the plan."""
        if not self.compare:
            return list(samples)
        own = [sample for sample in samples if split_system(sample.arm)[1] == self.machine]
        return [replace(sample, arm=split_system(sample.arm)[0]) for sample in own]
