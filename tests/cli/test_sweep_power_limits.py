"""``etui sweep`` with power limits as a whole: a real model, a simulated package, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from etui.sweep.folder import is_finished, list_sweeps, read_sweep
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import read_package, write_package

ROOT = Path(__file__).parents[2]
HOLD = """
import select, sys
from etui.cli.main import run
from etui.energy.power_limits.hold import LimitHold
apply = LimitHold.apply
def hold(self, scope, watts):
    found = apply(self, scope, watts)
    if watts == 40:
        print("held", file=sys.stderr, flush=True)
        # Not one long read: a signal that comes just before it would wait for its end.
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
    return found
LimitHold.apply = hold
sys.exit(run(sys.argv[1:]))
"""
"""Runs a command, and lets it wait for a line of standard input with the limit of 40 W set."""
SWEEP = (
    *(sys.executable, "-c", HOLD, "sweep", "tiny", "--axis", "power_limit=40"),
    *("--cap", "set", "--goal", "time", "--blocks", "2", "--rounds", "1", "--window", "0.02"),
    *("--cool-down", "0", "--output-tokens", "4", "--force", "--jsonl"),
)
FOUND = (65.0, 120.0)


@pytest.fixture
def package(config):
    config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(config.models_dir / "tiny.gguf")
    folder = write_package(config.sysfs_dir, long_watts=FOUND[0], short_watts=FOUND[1])
    (folder / "energy_uj").unlink()  # it would stand still: the time alone is compared
    config.config_file.write_text("threads: 1\n")  # two wait for each other on a busy machine
    return folder


@contextmanager
def start_sweep(package):
    """Start a sweep, and wait until the limit is another one."""
    process = subprocess.Popen(
        SWEEP,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            said: list[str] = []
            while (line := process.stderr.readline()) != "held\n":
                assert line, (said, process.stdout.read())
                said.append(line)
            assert read_package(package) == (40.0, 40.0)
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_limits_are_restored_after_a_kill(config, package):
    with start_sweep(package) as process:
        process.kill()
        assert process.stderr.read().endswith(  # it ends with the guard
            "etui: restored the power limit of CPU package 0 to 65 W (an earlier sweep was "
            "killed)\n"
        )
    check_restored(config, package)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_limits_are_restored_however_a_sweep_ends(config, package):
    with start_sweep(package) as process:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate("\n")
    assert process.returncode == 3
    assert "restored the power limit of CPU package 0 to 65 W (the sweep has ended)" in rest
    check_restored(config, package)

    with start_sweep(package) as process:
        process.stdout.close()  # as when the app that follows it is killed
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait() == 1
    check_restored(config, package)


def check_restored(config, package):
    assert read_package(package) == FOUND
    assert not config.power_limits_file.exists()
    (folder,) = list_sweeps(config)
    assert not is_finished(folder)
    for block in read_sweep(folder).blocks:
        for visit in block.visits:
            assert visit.setting == f"power_limit={visit.power_limit_watts:g}"
