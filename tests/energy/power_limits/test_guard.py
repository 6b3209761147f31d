"""A process that has changed power limits is killed: its guard restores them at once.

The guard has the standard error of what it watches, which therefore ends when the guard does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.energy.power_limits import _guard
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.journal import (
    JournalEntry,
    lock_journal,
    new_journal,
    write_journal,
)
from tests.energy.fake_nvml import compile_fake_nvml
from tests.support.power_limits import read_package, write_amd_gpu, write_package

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills by signals")

HOLD = """
import sys
from etui.config.config import find_folders
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limits import open_power_limits

config = find_folders()
with open_power_limits(config, {}, root=True) as limits:
    with LimitHold(config, limits, guarded=True) as hold:
        for scope, watts in zip(sys.argv[1::2], sys.argv[2::2]):
            assert not hold.apply(scope, float(watts)).is_refused
        print("set", flush=True)
        sys.stdin.readline()
"""


def change(config: Config, *limits: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process, in a group of its own, that changes limits; return when it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *limits],
        env={
            **os.environ,
            "ETUI_HOME": str(config.home),
            "ETUI_SYSFS": str(config.sysfs_dir),
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "set\n", process.communicate()[1]
    return process


def kill(process: subprocess.Popen[str]) -> str:
    """Kill the whole group, and return what the guard says when it has ended."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=60)[1]


def test_after_a_kill_of_the_group_all_is_as_found(config):
    package, card = write_package(config.sysfs_dir), write_amd_gpu(config.sysfs_dir)
    process = change(config, "package:0", "40", "gpu:0000:03:00.0", "120")
    assert read_package(package) == (40, 40)
    said = kill(process)
    assert "etui: restored the power limit of CPU package 0 to 65 W" in said
    assert "etui: restored the power limit of AMD GPU 0000:03:00.0 to 250 W" in said
    assert read_package(package) == (65, 120)
    assert int((card / "power1_cap").read_text()) == 250_000_000
    assert not config.power_limits_file.exists()


def test_a_gpu_of_nvidia_is_as_found_too(config, tmp_path):
    library, limits = compile_fake_nvml(tmp_path), tmp_path / "limits"
    limits.write_text("350000\n")
    environment = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_LIMITS": str(limits)}
    process = change(config, "gpu:GPU-fake-0", "200", **environment)
    assert limits.read_text().strip() == "200000"
    said = kill(process)
    assert "restored the power limit of GPU 0 to 350 W" in said
    assert limits.read_text().strip() == "350000"


def test_a_normal_end_ends_the_guard_without_a_word(config):
    package = write_package(config.sysfs_dir)
    _, said = change(config, "package:0", "40").communicate("\n", timeout=60)
    assert said == ""
    assert read_package(package) == (65, 120)


@pytest.mark.parametrize("is_locked", [True, False], ids=["locked", "alive"])
def test_limits_that_another_etui_holds_are_left(config, monkeypatch, is_locked):
    package = write_package(config.sysfs_dir, long_watts=40.0)
    entry = JournalEntry("package:0", "CPU package 0", "long_term", 65.0, 40.0, False, "etui", "")
    journal = new_journal((entry,))
    if is_locked:
        journal = replace(journal, process_start="1 ticks")
    write_journal(config.power_limits_file, journal)
    monkeypatch.setattr(_guard, "_MOST_SECONDS", 0.1)
    if is_locked:
        with lock_journal(config):
            _guard.restore(str(config.home), str(config.sysfs_dir))
    else:
        _guard.restore(str(config.home), str(config.sysfs_dir))
    assert read_package(package) == (40, 120)
    assert config.power_limits_file.exists()


def test_a_guard_that_cannot_start_is_said_and_no_reason_to_stop(config, open_limits, monkeypatch):
    write_package(config.sysfs_dir)
    monkeypatch.setattr(sys, "executable", str(Path("/nowhere")))
    said: list[str] = []
    with LimitHold(config, open_limits(), say=said.append, guarded=True) as hold:
        assert not hold.apply("package:0", 40).is_refused
    assert said[0].startswith("only the next start of etui would restore them")
