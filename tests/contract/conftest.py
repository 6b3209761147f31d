"""The scenarios of all simulated machines, run once for all tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.cases import MACHINES, Case
from tests.contract.machine import Machine, Printed
from tests.energy.fake_nvml import compile_fake_nvml


@dataclass(frozen=True, slots=True)
class Played:
    """A machine after its scenario."""

    root: Path
    cases: tuple[Case, ...]
    printed: Mapping[str, Printed]


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Played]]:
    """Machine -> its folder and what its commands printed; all machines run at the same time."""
    library = compile_fake_nvml(tmp_path_factory.mktemp("nvml"))
    machines = {
        name: Machine(
            tmp_path_factory.mktemp(f"machine-{name}"), library, with_package=name == "meter"
        )
        for name in MACHINES
    }
    try:
        for name, machine in machines.items():
            machine.start(MACHINES[name])
        yield {
            name: Played(machine.root, MACHINES[name], machine.results())
            for name, machine in machines.items()
        }
    finally:
        for machine in machines.values():
            machine.stop()
