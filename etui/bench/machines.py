"""Configuration of a run on several machines: joined from theirs, and taken apart to resume it.

If machines share the questions, a run has the systems of its plan, and each answer names the
machine that gave it. If machines are compared, every machine answers every question, and a system
is an arm on a machine: ``smollm2-135m@m1``. Machines have numbers and not the names of their hosts,
so that a run can be published.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etui.bench.config import BenchMachine, RunConfig
from etui.bench.sample import Sample
from etui.energy.scopes import family
from etui.energy.types import Channel

UNNAMED_GPUS = frozenset({"NVIDIA GPU", "AMD GPU", "Intel GPU", "Apple GPU"})
"""Labels of GPUs of which the model is unknown."""
GPU_SCOPES = frozenset({"gpu", "module"})
_GIB = 1 << 30
_MODULES = ("nvidia", "amdgpu")


def describe_machine(config: RunConfig, key: str) -> BenchMachine:
    """Describe the machine of a run of one machine by the run's own fields."""
    devices = config.machine.get("devices")
    return BenchMachine(
        key=key,
        name=str(config.machine.get("name", "")),
        memory_bytes=int(config.machine.get("memory_bytes", 0)),
        threads=config.threads,
        models=config.models,
        versions=config.versions,
        energy=config.energy,
        idle=config.idle,
        devices=tuple(str(name) for name in devices) if devices else None,
    )


def list_machines(config: RunConfig) -> tuple[BenchMachine, ...]:
    """List the machines of a run; the only machine of a run has an empty key."""
    return (describe_machine(config, ""),) if config.machines is None else config.machines


def are_equal(one: BenchMachine, other: BenchMachine) -> bool:
    """Test whether two machines are so alike that their joules may be pooled.

    They have the same processor, number of CPUs, memory (to the GiB) and system, the same GPUs, the
    same versions of all programs, the same threads and settings of the models in memory, and the
    same kinds of power channels. A machine with a GPU or a processor of unknown model equals none.
    """
    return _is_known(one) and _is_known(other) and _signature(one) == _signature(other)


def explain_difference(machines: Sequence[BenchMachine]) -> str:
    """Name what separates machines that are not all equal: ``m1 and m2 differ in their GPUs``."""
    groups = group_equal(machines)
    firsts = [group[0] for group in groups]
    unknown = [machine.key for machine in firsts if not _is_known(machine)]
    signatures = [_signature(machine) for machine in firsts]
    names = [
        name for name in signatures[0] if any(s[name] != signatures[0][name] for s in signatures)
    ]
    keys = ["+".join(machine.key for machine in group) for group in groups]
    parts = []
    if names:
        parts.append(f"{join_words(keys)} differ in {join_words(names)}")
    if unknown:
        parts.append(f"the hardware of {join_words(unknown)} is not known")
    return ", and ".join(parts)


def join_words(words: Sequence[str]) -> str:
    """Join words: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def group_equal(machines: Iterable[BenchMachine]) -> tuple[tuple[BenchMachine, ...], ...]:
    """Group machines of which the joules may be pooled; groups and members keep their order."""
    groups: list[list[BenchMachine]] = []
    for machine in machines:
        for group in groups:
            if are_equal(group[0], machine):
                group.append(machine)
                break
        else:
            groups.append([machine])
    return tuple(tuple(group) for group in groups)


def name_devices(channels: Iterable[Channel], described: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the models of the GPUs of this machine, in the order of their channels."""
    labels = [c.label for c in channels if family(c.scope) in GPU_SCOPES]
    if not labels:
        return tuple(described)
    unnamed = [at for at, label in enumerate(labels) if label in UNNAMED_GPUS]
    if len(unnamed) == len(described):
        for at, name in zip(unnamed, described, strict=True):
            labels[at] = name
    return tuple(labels)


def read_gpu_driver(sysfs: Path) -> str | None:
    """Read the driver of the GPU, such as ``nvidia 550.54.15``; None if no driver is loaded.

    The version is that of the kernel if the driver is a part of it.
    """
    for module in _MODULES:
        folder = sysfs / "module" / module
        if not folder.is_dir():
            continue
        try:
            version = (folder / "version").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            version = ""
        return f"{module} {version or platform.release()}"
    return None


def list_scopes(energy: Mapping[str, Any]) -> list[str]:
    """List the scopes of a configuration's ``energy``: measured ones, then unmeasured ones."""
    return [*map(str, _channels(energy)), *_unmeasured(energy)]


def _is_known(machine: BenchMachine) -> bool:
    if not machine.name or machine.name.startswith("unknown processor"):
        return False
    devices = machine.devices or ()
    if any(name in UNNAMED_GPUS for name in devices):
        return False
    offloads = any(model.gpu_layers for model in machine.models)
    gpus = sum(family(scope) in GPU_SCOPES for scope in list_scopes(machine.energy))
    return len(devices) >= max(gpus, int(offloads))


def _signature(machine: BenchMachine) -> dict[str, Any]:
    """Return what separates machines, by a name for people."""
    kinds = sorted(
        (_kind_of_scope(scope), str(kind)) for scope, kind in _channels(machine.energy).items()
    )
    unmeasured = sorted(_kind_of_scope(scope) for scope in _unmeasured(machine.energy))
    versions = dict(machine.versions)
    return {
        "the processor or the system": machine.name,
        "the memory": round(machine.memory_bytes / _GIB),
        "the GPUs": sorted(machine.devices or ()),
        "the GPU's driver": versions.pop("gpu_driver", None),
        "the versions of programs": versions,
        "the threads": machine.threads,
        "the settings of models in memory": machine.models,
        "the power channels": (kinds, unmeasured),
    }


def _kind_of_scope(scope: str) -> str:
    """Return what a scope covers, without the number or the serial number that follows it."""
    word = family(scope)
    return scope if word == "estimate" else word


def _channels(energy: Mapping[str, Any]) -> Mapping[str, Any]:
    found = energy.get("channels")
    return found if isinstance(found, Mapping) else {}


def _unmeasured(energy: Mapping[str, Any]) -> list[str]:
    found = energy.get("unmeasured")
    return [str(scope) for scope in found] if isinstance(found, list | tuple) else []


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
    """Build the configuration of a run on several machines, from those by key, at least one."""
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
    """Decide which machine of a run each machine of its continuation is, by its name now.

    A machine takes the key of one that was equal to it; any other is new to the run and gets the
    next number. ``before`` are the machines of the run, none for a new run.
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
