"""``etui sweep`` with power limits as a whole: a real model, a simulated package, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from etui.sweep.folder import is_finished, list_sweeps, read_sweep
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import read_package, write_package

ROOT = Path(__file__).parents[2]
ETUI = (sys.executable, "-m", "etui")
SWEEP = (
    *(*ETUI, "sweep", "tiny", "--axis", "power_limit=40", "--cap", "set", "--goal", "time"),
    *("--blocks", "2", "--rounds", "1", "--window", "0.02", "--cool-down", "0"),
    *("--output-tokens", "4", "--force", "--jsonl"),
)
FOUND = (65.0, 120.0)


@pytest.fixture
def package(config):
    config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(config.models_dir / "tiny.gguf")
    folder = write_package(config.sysfs_dir, long_watts=FOUND[0], short_watts=FOUND[1])
    (folder / "energy_uj").unlink()  # it would stand still: the time alone is compared
    return folder


@contextmanager
def start_sweep():
    process = subprocess.Popen(
        SWEEP,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_limit(process, package):
    """Wait until the detection floor is measured, then until the limit is another one."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] in ("begun", "block") and event.get("blocks", event.get("block")) >= 4:
            break
    while read_limits(package) != (40.0, 40.0):
        assert process.poll() is None, "the sweep has ended"
        time.sleep(0.001)  # it shares its CPU with the sweep


def read_limits(package):
    """Read the limits; none while a file is being written."""
    try:
        return read_package(package)
    except ValueError:
        return ()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_limits_are_restored_after_a_kill(config, package):
    with start_sweep() as process:
        wait_for_limit(process, package)
        process.kill()
        assert process.stderr.read().endswith(  # it ends with the guard
            "etui: restored the power limit of CPU package 0 to 65 W (an earlier sweep was "
            "killed)\n"
        )
    check_restored(config, package)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_limits_are_restored_however_a_sweep_ends(config, package):
    with start_sweep() as process:
        wait_for_limit(process, package)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate()
    assert process.returncode == 3
    assert "restored the power limit of CPU package 0 to 65 W (the sweep has ended)" in rest
    check_restored(config, package)

    with start_sweep() as process:
        wait_for_limit(process, package)
        process.stdout.close()  # as when the app that follows it is killed
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
