"""Whatever ends a hold, the limits found at the beginning are restored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.config.config import Config
from etui.energy.power_limits.hold import LimitHold, release_own, restore_left_over
from etui.energy.power_limits.journal import (
    JournalEntry,
    new_journal,
    read_journal,
    write_journal,
)
from etui.energy.power_limits.limits import PowerLimits
from etui.errors import EtuiError, Stopped
from tests.energy.power_limits.conftest import StubbornFiles
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.support.power_limits import read_package, write_amd_gpu, write_package

GPU = "gpu:GPU-fake-0"


def read_entries(config: Config) -> dict[str, Any]:
    """Knob -> entry of the journal."""
    document = json.loads(config.power_limits_file.read_text())
    return {entry["knob"]: entry for entry in document["limits"]}


def test_the_journal_is_complete_before_the_first_change(open_limits, config, sysfs):
    write_package(sysfs)
    seen: list[dict[str, Any]] = []

    class Watching(StubbornFiles):
        def write(self, path: Path, microwatts: int) -> None:
            seen.append(read_entries(config))
            super().write(path, microwatts)

    with LimitHold(config, open_limits(files=Watching())) as hold:
        assert not config.power_limits_file.exists(), "nothing was changed yet"
        hold.apply("package:0", 40)
        first = seen[0]
        assert {knob: entry["found_watts"] for knob, entry in first.items()} == {
            "long_term": 65.0,
            "short_term": 120.0,
        }
        assert all(entry["is_pending"] for entry in first.values())
        after = read_entries(config)
        assert [entry["set_watts"] for entry in after.values()] == [40.0, 40.0]
        assert not any(entry["is_pending"] for entry in after.values())
        journal = read_journal(config.power_limits_file)
        assert journal.pid == os.getpid()
        assert journal.process_start
        assert journal.boot_id
        assert after["long_term"]["command"].startswith("echo 65000000 | sudo tee ")
        assert "echo 120000000 | sudo tee " in after["long_term"]["command"]


def test_several_devices_are_restored(open_limits, config, sysfs):
    package, card = write_package(sysfs), write_amd_gpu(sysfs)
    nvml = FakeNvml(350_000, 320_000)
    said: list[str] = []
    with LimitHold(config, open_limits(nvml, root=True), say=said.append) as hold:
        hold.apply(GPU, 300)
        hold.apply("gpu:GPU-fake-1", 200)
        hold.apply("gpu:0000:03:00.0", 120)
        hold.apply("package:0", 30)
        hold.apply(GPU, 200)
    assert nvml.limits == [350_000, 320_000]
    assert read_package(package) == (65, 120)
    assert int((card / "power1_cap").read_text()) == 250_000_000
    assert not config.power_limits_file.exists()
    assert said == [
        "restored the power limit of GPU 0 to 350 W (the sweep has ended)",
        "restored the power limit of GPU 1 to 320 W (the sweep has ended)",
        "restored the power limit of AMD GPU 0000:03:00.0 to 250 W (the sweep has ended)",
        "restored the power limit of CPU package 0 to 65 W (the sweep has ended)",
    ]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_or_ctrl_c_in_the_middle_of_a_change_restores(open_limits, config, error):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    nvml = FakeNvml(350_000)
    limits, set_limit = open_limits(nvml, root=True), nvml.set_limit

    def interrupt(handle: int, limit: int) -> None:
        set_limit(handle, limit)
        nvml.set_limit = set_limit
        raise error

    nvml.set_limit = interrupt
    with pytest.raises(error), LimitHold(config, limits) as hold:
        hold.apply(GPU, 300)
    assert nvml.limits == [350_000]
    assert not config.power_limits_file.exists()
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt, also where the tests run with it ignored (a job in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_during_the_restoring_waits_for_its_end(open_limits, config):
    nvml = FakeNvml(350_000, 320_000)
    limits = open_limits(nvml, root=True)
    set_limit = nvml.set_limit

    def interrupt(handle: int, limit: int) -> None:
        if limit == 350_000:
            os.kill(os.getpid(), signal.SIGINT)
        set_limit(handle, limit)

    said: list[str] = []

    def end() -> None:
        with LimitHold(config, limits, say=said.append) as hold:
            hold.apply(GPU, 300)
            hold.apply("gpu:GPU-fake-1", 300)
            nvml.set_limit = interrupt

    with pytest.raises(KeyboardInterrupt):
        end()
    assert nvml.limits == [350_000, 320_000]
    assert not config.power_limits_file.exists()
    assert [line.split(" (")[0] for line in said] == [
        "restored the power limit of GPU 0 to 350 W",
        "restored the power limit of GPU 1 to 320 W",
    ]


CHILD = """
import select
import signal
import sys
from etui.config.config import load_config
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limits import open_power_limits
# The test may run where they are ignored (nohup, a job in the background), and so would they here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
config = load_config()
with open_power_limits(config, {}) as limits:
    with LimitHold(config, limits, say=lambda line: print(line, flush=True)) as hold:
        hold.apply("package:0", 40)
        print("ready", flush=True)
        # Python handles a signal between two calls: one that comes just before a read would wait
        # for the read to end.
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_program_with_its_limits_restored(config, sysfs, number, code):
    folder = write_package(sysfs)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "ready\n"
        assert read_package(folder) == (40, 40)
        child.send_signal(number)
        rest = child.stdout.read()
    assert child.returncode == (-number if code is None else code)
    assert rest == "restored the power limit of CPU package 0 to 65 W (the sweep has ended)\n"
    assert read_package(folder) == (65, 120)
    assert not config.power_limits_file.exists()


def test_two_holds_at_once_are_refused(open_limits, config):
    nvml = FakeNvml(350_000)
    with LimitHold(config, open_limits(nvml, root=True)) as hold:
        hold.apply(GPU, 300)
        second = LimitHold(config, open_limits(nvml, root=True))
        with pytest.raises(EtuiError, match="another etui on this machine changes power limits"):
            second.__enter__()
        assert restore_left_over(config) == (), "a hold of a live process is left alone"
        assert nvml.limits == [300_000]
    with LimitHold(config, open_limits(nvml, root=True)):
        pass


def test_a_fault_of_one_device_does_not_stop_the_others(open_limits, config):
    nvml = FakeNvml(350_000, 320_000)
    limits = open_limits(nvml, root=True)
    set_limit = nvml.set_limit
    said: list[str] = []

    def fail(handle: int, limit: int) -> None:
        if limit == 350_000:
            raise ZeroDivisionError("a fault")
        set_limit(handle, limit)

    with LimitHold(config, limits, say=said.append) as hold:
        hold.apply(GPU, 300)
        hold.apply("gpu:GPU-fake-1", 300)
        nvml.set_limit = fail
    assert nvml.limits == [300_000, 320_000]
    assert "cannot restore the power limit of GPU 0 to 350 W" in said[0]
    assert "a fault" in said[0]
    assert said[1].startswith("restored the power limit of GPU 1 to 320 W")
    assert config.power_limits_file.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets are Linux's")
def test_two_homes_of_one_machine_share_its_limits(open_limits, config, tmp_path):
    nvml = FakeNvml(300_000)
    other = replace(config, home=tmp_path / "other")
    entry = JournalEntry(GPU, "GPU 0", "limit", 350.0, 300.0, False, "etui", "")
    killed = replace(new_journal((entry,)), process_start="1 ticks")
    write_journal(config.power_limits_file, killed)

    def start() -> tuple[str, ...]:
        return restore_left_over(config, open_limits=lambda *_: open_limits(nvml))

    with LimitHold(other, open_limits(nvml, root=True)) as hold:
        hold.apply(GPU, 200)
        assert start() == (), "what the other home has set is not taken for a user's"
        config.power_limits_file.unlink()
        second = LimitHold(config, open_limits(nvml, root=True))
        with pytest.raises(EtuiError, match="another etui on this machine changes power limits"):
            second.__enter__()
        write_journal(config.power_limits_file, killed)
    assert nvml.limits == [300_000]
    assert len(start()) == 1
    assert nvml.limits == [350_000]


def test_a_limit_that_was_not_restored_bars_a_new_hold(open_limits, config):
    nvml = FakeNvml(350_000)
    said: list[str] = []
    with LimitHold(config, open_limits(nvml, root=True), say=said.append) as hold:
        hold.apply(GPU, 300)
        nvml.denied = True
    assert nvml.limits == [300_000]
    assert "permission denied; run: sudo nvidia-smi -i GPU-fake-0 -pl 350" in said[0]
    assert "the next start of etui tries again" in said[1]
    again = LimitHold(config, open_limits(nvml, root=True))
    with pytest.raises(EtuiError, match="of an earlier sweep are not restored yet"):
        again.__enter__()


def test_a_journal_that_cannot_be_written_changes_nothing(open_limits, config, monkeypatch):
    nvml = FakeNvml(350_000)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etui.energy.power_limits.hold.write_journal", full)
    with LimitHold(config, open_limits(nvml, root=True)) as hold:
        with pytest.raises(EtuiError, match="No space left on device"):
            hold.apply(GPU, 300)
        assert nvml.limits == [350_000]


def test_a_limit_that_cannot_be_read_is_not_changed(open_limits, config, sysfs):
    folder = write_package(sysfs)
    limits = open_limits()
    (folder / "constraint_1_power_limit_uw").write_text("")
    unreadable = pytest.raises(EtuiError, match=r"cannot be read \(short_term\)")
    with LimitHold(config, limits) as hold, unreadable:
        hold.apply("package:0", 40)
    assert (folder / "constraint_0_power_limit_uw").read_text() == "65000000\n"
    assert not config.power_limits_file.exists()


@pytest.mark.parametrize("ends_by", ["the user stops", "an error"])
def test_a_user_who_is_not_asked_at_the_end_gets_the_command(open_limits, config, ends_by):
    nvml = FakeNvml(350_000, denied=True)
    said: list[str] = []
    asked: list[float] = []

    def ask(request: Any) -> None:
        asked.append(request.watts)
        if request.watts == 350:
            raise Stopped("stopped")
        nvml.limits[0] = round(request.watts * 1000)

    with (
        pytest.raises(KeyboardInterrupt) if ends_by == "an error" else nullcontext(),
        LimitHold(config, open_limits(nvml), ask=ask, say=said.append) as hold,
    ):
        hold.apply(GPU, 300)
        if ends_by == "an error":
            raise KeyboardInterrupt
    assert asked == ([300] if ends_by == "an error" else [300, 350])
    assert "run: sudo nvidia-smi -i GPU-fake-0 -pl 350" in said[0]
    assert config.power_limits_file.exists()


def test_a_process_that_must_end_at_once_restores_its_own_hold(open_limits, config, sysfs):
    folder = write_package(sysfs)

    def reopen(config: Config, socket: str) -> PowerLimits:
        return open_limits()

    assert release_own(config) == ()
    with LimitHold(config, open_limits()) as hold:
        hold.apply("package:0", 40)
        [line] = release_own(config, open_limits=reopen)
        assert "restored the power limit of CPU package 0 to 65 W" in line
        assert read_package(folder) == (65, 120)
        hold.apply("package:0", 50)
        assert config.power_limits_file.exists(), "the hold goes on and is safe again"
    assert read_package(folder) == (65, 120)
