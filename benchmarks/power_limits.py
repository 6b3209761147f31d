"""Power limits that are not as found after kill -9 and the next start, on simulated devices.

    python -m benchmarks.power_limits [--kills 50] [--seed 0] [--device rapl|amdgpu|nvml] [--json]

For each kind of device: a process of its own takes a hold on the limits, sets random ones in a
loop, restores them and begins again. It is killed with SIGKILL at a random moment: after a random
number of its operations, and a random part of the next ones. Then etui is started (``etui power
--json``), and the limits must be as found, with no journal left. RAPL and amdgpu are files of a
simulated sysfs; NVML is the real pynvml over a driver library (tests/energy/fake_nvml.c) whose
limits are in a file. The table says how many kills hit a change in progress, and how many a limit
that was set; the others hit a process without a changed limit, where nothing is to be restored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks.figures import Figure, Skipped
from etui.config.config import find_folders
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limits import open_power_limits
from tests.support.power_limits import read_package, write_amd_gpu, write_package

Stage = Literal["no journal", "in a change", "set"]

CHECKOUT = Path(__file__).parent.parent
NVML_SOURCE = CHECKOUT / "tests" / "energy" / "fake_nvml.c"
MOST_OPERATIONS = 14
LONGEST_DELAY_S = 0.05
"""An operation flushes the journal twice, which takes 3 to 60 ms on a busy machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A simulated machine with one device.

    Attributes:
        kind: ``rapl``, ``amdgpu`` or ``nvml``.
        scope: Scope of the device.
        watts: Range of the limits to set.
        environment: Environment of the processes on it.
        home: Its ``ETUI_HOME``.
        read: Reads every limit of the device, watts.
        found: The limits at the beginning.
    """

    kind: str
    scope: str
    watts: tuple[float, float]
    environment: Mapping[str, str]
    home: Path
    read: Callable[[], tuple[float, ...]]
    found: tuple[float, ...]

    @property
    def journal(self) -> Path:
        """The journal of changed limits."""
        return self.home / "power_limits.json"


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what the next start made of it.

    Attributes:
        stage: What the process was doing.
        changed: Whether a limit was not as found.
        restored: Whether every limit is as found, and no journal is left.
        said: What the next start said.
    """

    stage: Stage
    changed: bool
    restored: bool
    said: str


def quick() -> Iterator[Figure]:
    """Six kills for each kind of device."""
    for kind in ("rapl", "amdgpu", "nvml"):
        kills = run_kills(kind, 6, seed=0)
        lost = sum(not kill.restored for kill in kills)
        yield Figure(f"{kind}: not as found", 100 * lost / len(kills), "%", n=len(kills))


def run_kills(kind: str, count: int, seed: int) -> list[Kill]:
    """Kill a process that changes limits, again and again, and start etui after each.

    Args:
        kind: ``rapl``, ``amdgpu`` or ``nvml``.
        count: Number of kills.
        seed: Seed of the moments and the limits.

    Raises:
        Skipped: The driver library of ``nvml`` cannot be compiled.
    """
    rng = random.Random(f"{kind} {seed}")
    with TemporaryDirectory(prefix="etui-limits-") as folder:
        machine = make_machine(kind, Path(folder))
        return [kill_and_restart(machine, rng) for _ in range(count)]


def kill_and_restart(machine: Machine, rng: random.Random) -> Kill:
    """Start the process, kill it at a random moment, start etui, and look."""
    command = [sys.executable, "-m", "benchmarks.power_limits", "--child", machine.scope]
    command += ["--seed", str(rng.randrange(1 << 30))]
    command += ["--watts", *map(str, machine.watts)]
    child = subprocess.Popen(
        command, env=machine.environment, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        for _ in range(rng.randrange(MOST_OPERATIONS)):
            if not child.stdout.readline():
                raise RuntimeError("the process that changes limits has ended")
        until = time.perf_counter() + rng.uniform(0, LONGEST_DELAY_S)
        while time.perf_counter() < until:
            pass
        child.kill()
        child.stdout.read()
    stage = find_stage(machine)
    changed = read_or_none(machine) != machine.found
    started = subprocess.run(
        [sys.executable, "-m", "etui", "power", "--json", "--seconds", "0.1"],
        env=machine.environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    json.loads(started.stdout)
    restored = read_or_none(machine) == machine.found and not machine.journal.exists()
    return Kill(stage, changed, restored, started.stderr.strip())


def find_stage(machine: Machine) -> Stage:
    """Read from the journal what the process was doing."""
    if not machine.journal.exists():
        return "no journal"
    entries = json.loads(machine.journal.read_text(encoding="utf-8"))["limits"]
    return "in a change" if any(entry["is_pending"] for entry in entries) else "set"


def read_or_none(machine: Machine) -> tuple[float, ...] | None:
    """Read the limits; None where a write was cut off in the middle."""
    try:
        return machine.read()
    except ValueError:
        return None


def make_machine(kind: str, folder: Path) -> Machine:
    """Make a machine with one device.

    Raises:
        Skipped: The driver library of ``nvml`` cannot be compiled.
    """
    home, sysfs = folder / "home", folder / "sysfs"
    home.mkdir()
    sysfs.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ETUI_", "ZEUSD_", "FAKE_"))}
    environment = {
        **kept,
        "ETUI_HOME": str(home),
        "ETUI_SYSFS": str(sysfs),
        "PYTHONPATH": str(CHECKOUT),
    }
    if kind == "rapl":
        package = write_package(sysfs)
        read = lambda: read_package(package)  # noqa: E731
        return Machine(kind, "package:0", (15, 125), environment, home, read, read())
    if kind == "amdgpu":
        cap = write_amd_gpu(sysfs) / "power1_cap"
        read = lambda: (int(cap.read_text(encoding="ascii")) / 1e6,)  # noqa: E731
        return Machine(kind, "gpu:0000:03:00.0", (100, 300), environment, home, read, read())
    compile_nvml(folder)
    limits = folder / "limits"
    limits.write_text("350000\n", encoding="ascii")
    environment |= {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML_LIMITS": str(limits)}
    read = lambda: (int(limits.read_text(encoding="ascii")) / 1e3,)  # noqa: E731
    return Machine(kind, "gpu:GPU-fake-0", (100, 450), environment, home, read, read())


def compile_nvml(folder: Path) -> None:
    """Put the simulated driver library into a folder.

    Raises:
        Skipped: There is no C compiler, or no Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise Skipped("the simulated driver library needs a C compiler on Linux")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(NVML_SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True)


def change_limits(scope: str, low: float, high: float, seed: int) -> None:
    """Hold the limits, set random ones, restore them and begin again, without an end.

    Prints a line after every operation.
    """
    rng = random.Random(seed)
    config = find_folders()
    with open_power_limits(config, {}, root=True) as limits:
        while True:
            with LimitHold(config, limits) as hold:
                for _ in range(rng.randrange(1, 5)):
                    applied = hold.apply(scope, round(rng.uniform(low, high)))
                    assert not applied.is_refused, applied
                    print("set", flush=True)
            print("restored", flush=True)


def format_kills(kind: str, kills: Sequence[Kill]) -> str:
    """Format the kills of one kind of device as one line."""
    restored = sum(kill.restored for kill in kills)
    stages = {stage: sum(kill.stage == stage for kill in kills) for stage in ("in a change", "set")}
    changed = sum(kill.changed for kill in kills)
    said = sum("restored the power limit" in kill.said for kill in kills)
    return (
        f"{kind:<8}{restored} of {len(kills)} as found; killed in a change "
        f"{stages['in a change']}, with a limit set {stages['set']}; limits to restore {changed}, "
        f"said {said}"
    )


def main() -> int:
    """Run the full form, or be the process that is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("rapl", "amdgpu", "nvml"), action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", metavar="SCOPE", help=argparse.SUPPRESS)
    parser.add_argument("--watts", type=float, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        low, high = given.watts
        change_limits(given.child, low, high, given.seed)
    kinds = given.device or ["rapl", "amdgpu", "nvml"]
    found = {}
    for kind in kinds:
        found[kind] = run_kills(kind, given.kills, given.seed)
        if not given.json:
            print(format_kills(kind, found[kind]), flush=True)
    if given.json:
        print(json.dumps({kind: [asdict(kill) for kill in kills] for kind, kills in found.items()}))
    return int(any(not kill.restored for kills in found.values() for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
