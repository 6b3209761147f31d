"""A simulated machine: a GPU, perhaps a CPU package, small models, and folders of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.cases import Case
from tests.contract.tiny_model import write_tiny_model

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
INPUTS = HERE / "inputs"
OLD_RUN = HERE / "old_run"
PACKAGE_WATTS = 65
CURVE = "0:120,1:120"
CPU_NAME = os.environ.get("CONTRACT_CPU", "Simulated 4-Core Processor")
"""``.ci/run`` names another one: no golden file may hold it."""


@dataclass(frozen=True, slots=True)
class Printed:
    """What one command line printed, and its exit code (a traceback where it has none)."""

    code: int | str
    out: str
    err: str
    seconds: float


@dataclass(slots=True)
class Machine:
    """One ETUI_HOME on a simulated machine; runs a scenario in a process of its own.

    Attributes:
        root: Folder of everything; the working directory of the commands.
        driver_library: Folder of the fake NVIDIA driver library.
        with_package: Whether the CPU package has an energy counter. A thread of Python advances it,
            too unevenly for answers that take milliseconds.
    """

    root: Path
    driver_library: Path
    with_package: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def result_file(self) -> Path:
        return self.root / "results.json"

    def start(self, steps: Sequence[Case]) -> None:
        """Make the folders and begin the scenario."""
        self._make_folders()
        counter = self._make_package() if self.with_package else None
        cpuinfo = self.root / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: {CPU_NAME}\n", encoding="utf-8")
        scenario = self.root / "scenario.json"
        document = {
            "folder": str(self.root),
            "package": counter and str(counter),
            "cpuinfo": str(cpuinfo),
            "steps": [self._step(step) for step in steps],
        }
        scenario.write_text(json.dumps(document), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "driver.py"), str(scenario), str(self.result_file)],
            env=self._environment(),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def results(self) -> dict[str, Printed]:
        """Wait for the end of the scenario."""
        assert self._process is not None
        output, _ = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, output.decode(errors="replace")
        found: Mapping[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        return {name: Printed(**printed) for name, printed in found.items()}

    def stop(self) -> None:
        """End a scenario that still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _make_folders(self) -> None:
        for name in ("home/policies", "home/designs", "home/models", "home/elsewhere", "sysfs"):
            (self.root / name).mkdir(parents=True)
        for letter in "BC":
            write_tiny_model(self.home / "elsewhere" / f"tiny-{letter.lower()}.gguf", letter)
        write_tiny_model(self.home / "models" / "found.gguf", "D")
        shutil.copy(INPUTS / "config.yaml", self.home)
        shutil.copy(INPUTS / "newer.yaml", self.root)
        shutil.copy(INPUTS / "models.yaml", self.home)
        shutil.copy(INPUTS / "policy.yaml", self.home / "policies" / "mine.yaml")
        shutil.copy(INPUTS / "study.yaml", self.home / "designs")
        shutil.copy(INPUTS / "trial.yaml", self.home / "policies")
        shutil.copy(INPUTS / "broken.yaml", self.root)
        shutil.copy(INPUTS / "outcomes.csv", self.root)
        for name in ("old-run", "changed-run"):
            shutil.copytree(OLD_RUN, self.root / name)
        config = self.root / "changed-run" / "config.json"
        config.write_text(config.read_text(encoding="utf-8").replace('"shots": 1', '"shots": 2'))
        shutil.copytree(CHECKOUT / "etui" / "datasets" / "sample", self.root / "data")

    def _make_package(self) -> Path:
        zone = self.root / "sysfs" / "class" / "powercap" / "intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "energy_uj").write_text(f"{1_000_000_000:015d}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        (zone / "constraint_0_power_limit_uw").write_text(f"{PACKAGE_WATTS * 1_000_000}\n")
        return zone / "energy_uj"

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ETUI_", "FAKE_NVML"))}
        return {
            **kept,
            "ETUI_HOME": str(self.home),
            "ETUI_SYSFS": str(self.root / "sysfs"),
            "LD_LIBRARY_PATH": str(self.driver_library),
            "FAKE_NVML_CURVE": CURVE,
            "PYTHONPATH": str(CHECKOUT),
            "NO_COLOR": "1",
            "COLUMNS": "80",
        }

    def _step(self, case: Case) -> dict[str, Any]:
        step = asdict(case)
        step["args"] = [part.format(root=self.root) for part in case.args]
        return step
