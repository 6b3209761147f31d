"""The next start restores what a killed process has left."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.codec import to_document
from etui.config.config import Config
from etui.energy.power_limits.hold import decide, restore_left_over
from etui.energy.power_limits.journal import (
    Journal,
    JournalEntry,
    lock_journal,
    new_journal,
    read_journal,
    write_journal,
)
from etui.energy.power_limits.limits import PowerLimits
from etui.owner import read_boot_id, read_machine, read_pid_namespace, read_process_start
from tests.energy.power_limits.conftest import Open, StubbornFiles
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.support.power_limits import read_package, write_package

GPU = "gpu:GPU-fake-0"
COMMAND = "sudo nvidia-smi -i GPU-fake-0 -pl 350"
ENTRY = JournalEntry(GPU, "GPU 0", "limit", 350.0, 300.0, False, "etui", COMMAND)
PACKAGE = (
    JournalEntry("package:0", "CPU package 0", "long_term", 65.0, 40.0, False, "etui", "long"),
    JournalEntry("package:0", "CPU package 0", "short_term", 120.0, 40.0, False, "etui", "long"),
)


def leave(config: Config, *entries: JournalEntry, **changes: object) -> Journal:
    """Write the journal of a process that is gone."""
    journal = replace(new_journal(entries), process_start="1 ticks", **changes)
    write_journal(config.power_limits_file, journal)
    return journal


class Start:
    """The next start of etui, on a machine with the given limits."""

    def __init__(self, config: Config, open_limits: Open) -> None:
        self._config = config
        self._open_limits = open_limits
        self.nvml = FakeNvml(300_000)
        self.files = StubbornFiles()
        self.environ: dict[str, str] = {}

    def __call__(self) -> tuple[str, ...]:
        def reopen(config: Config, socket: str) -> PowerLimits:
            return self._open_limits(
                self.nvml, files=self.files, environ=self.environ, zeusd_socket=socket
            )

        return restore_left_over(self._config, open_limits=reopen)


@pytest.fixture
def start(config: Config, open_limits: Open) -> Start:
    return Start(config, open_limits)


def test_without_a_journal_nothing_is_opened(config):
    def refuse(config: Config, socket: str) -> PowerLimits:
        raise AssertionError

    assert restore_left_over(config, open_limits=refuse) == ()
    assert list(config.home.iterdir()) == []


def test_a_package_is_restored_whole(config, start, sysfs):
    folder = write_package(sysfs, long_watts=40, short_watts=40)
    leave(config, *PACKAGE)
    assert start() == (
        "restored the power limit of CPU package 0 to 65 W (an earlier sweep was killed)",
    )
    assert read_package(folder) == (65, 120)


def test_a_value_that_cannot_be_read_is_restored(config, start, sysfs):
    folder = write_package(sysfs, long_watts=40, short_watts=40)
    (folder / "constraint_0_power_limit_uw").write_text("")
    leave(config, *(replace(entry, is_pending=True) for entry in PACKAGE))
    assert len(start()) == 1
    assert read_package(folder) == (65, 120)


def test_a_limit_that_the_user_changed_is_left(config, start):
    start.nvml.limits = [400_000]
    leave(config, ENTRY)
    [line] = start()
    assert line.startswith("left the power limit of GPU 0 at 400 W: it is neither the 350 W found")
    assert start.nvml.limits == [400_000]
    assert not config.power_limits_file.exists()


def test_without_a_permission_the_journal_is_kept_with_the_command(config, start):
    start.nvml.denied = True
    before = leave(config, ENTRY)
    for _ in range(2):
        assert start() == (
            "cannot restore the power limit of GPU 0 to 350 W (an earlier sweep was killed): "
            f"permission denied; run: {COMMAND}",
        )
        assert read_journal(config.power_limits_file) == before
    start.nvml.denied = False
    assert len(start()) == 1
    assert start.nvml.limits == [350_000]


def test_only_what_is_not_restored_is_kept(config, start, sysfs):
    folder = write_package(sysfs, long_watts=40, short_watts=40)
    start.nvml.denied = True
    leave(config, ENTRY, *PACKAGE)
    lines = start()
    assert len(lines) == 2
    assert read_package(folder) == (65, 120)
    assert read_journal(config.power_limits_file).limits == (ENTRY,)


def test_a_device_that_is_gone_keeps_the_journal(config, start):
    leave(config, replace(ENTRY, scope="gpu:GPU-other"))
    line, hint = start()
    assert "the device is not found now" in line
    assert hint == f"if a device is gone for good, delete {config.power_limits_file}"
    assert config.power_limits_file.exists()


@pytest.mark.parametrize("silent", [True, False])
def test_a_restored_value_is_read_back(config, start, silent):
    start.nvml.silent = silent
    leave(config, ENTRY)
    [line] = start()
    assert ("it was set, but is not read back" in line) == silent
    assert config.power_limits_file.exists() == silent


def test_zeusd_is_found_again_without_the_environment(config, start, zeusd):
    start.nvml.denied = True
    daemon = zeusd(start.nvml)
    leave(config, replace(ENTRY, setter="zeusd"), zeusd_socket=str(daemon.socket_path))
    assert start() == ("restored the power limit of GPU 0 to 350 W (an earlier sweep was killed)",)
    assert start.nvml.limits == [350_000]


def test_a_live_process_is_left_alone(config, start):
    write_journal(config.power_limits_file, new_journal((ENTRY,)))
    assert start() == ()
    assert start.nvml.limits == [300_000]
    assert config.power_limits_file.exists()


def test_a_process_of_another_container_is_known_by_its_lock(config, start):
    leave(config, ENTRY, pid_namespace="pid:[1]")
    with lock_journal(config):
        assert start() == ()
        assert start.nvml.limits == [300_000]
    assert len(start()) == 1


@pytest.mark.parametrize("now", [350_000, 450_000, 275_000])  # the default is 450 W
def test_after_a_reboot_the_limit_is_set_unless_somebody_chose_another(config, start, now):
    start.nvml.limits = [now]
    leave(config, ENTRY, boot_id="another boot")
    [line] = start()
    said = {
        350_000: "the power limits are as before an earlier sweep",
        450_000: "restored the power limit of GPU 0 to 350 W",
        275_000: "left the power limit of GPU 0 at 275 W",
    }
    assert line.startswith(said[now])
    assert ("the machine was restarted during an earlier sweep" in line) == (now != 275_000)
    assert start.nvml.limits == [275_000 if now == 275_000 else 350_000]
    assert not config.power_limits_file.exists()


def test_a_journal_of_another_machine_is_left_alone(config, start):
    leave(config, ENTRY, boot_id="another boot", machine="the other one")
    [line] = start()
    assert "power limits of another machine (the other one)" in line
    assert start.nvml.limits == [300_000]
    assert config.power_limits_file.exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        b'{"version": 1}',
        b"[" * 100_000,
        json.dumps({"limits": [{"found_watts": "many"}]}).encode(),
        json.dumps(to_document(replace(new_journal((ENTRY,)), version=2))).encode(),
        json.dumps(to_document(new_journal((replace(ENTRY, found_watts=-1),)))).encode(),
    ],
)
def test_a_damaged_journal_is_moved_aside(config, start, damage):
    config.power_limits_file.write_bytes(damage)
    [line] = start()
    assert "is damaged" in line
    assert "power_limits.damaged.json" in line
    assert "etui doctor" in line
    assert "\n" not in line
    aside = config.home / "power_limits.damaged.json"
    assert aside.read_bytes() == damage
    assert not config.power_limits_file.exists()
    assert start() == ()


def test_texts_of_the_journal_cannot_reach_the_terminal(config, start):
    leave(config, replace(ENTRY, label="GPU \x1b[2J0"))
    [line] = start()
    assert "\x1b" not in line


def test_the_journal_and_its_folder_are_flushed(config, monkeypatch):
    flushed: list[bool] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    write_journal(config.power_limits_file, new_journal((ENTRY,)))
    assert flushed == [False, True], "the file before it takes its name, then the folder"


def test_an_interrupted_write_leaves_nothing_behind(config, start):
    leave(config, ENTRY)
    rest = config.home / ".power_limits.json.0badcafe.tmp"
    rest.write_text("{")
    start()
    assert not rest.exists()


@given(
    found=st.floats(1, 1000),
    was_set=st.one_of(st.none(), st.floats(1, 1000)),
    now=st.one_of(st.none(), st.floats(1, 1000)),
    pending=st.booleans(),
    rebooted=st.booleans(),
)
def test_only_a_value_of_somebody_else_is_left(found, was_set, now, pending, rebooted):
    entry = replace(ENTRY, found_watts=found, set_watts=was_set, is_pending=pending)
    decision = decide(entry, now, rebooted=rebooted)
    if now is not None and abs(now - found) <= 0.01:
        assert decision == "as_found"
    elif now is None or pending or rebooted:
        assert decision == "restore"
    else:
        own = was_set is not None and abs(now - was_set) <= 0.01
        assert decision == ("restore" if own else "changed")


def make_proc(tmp_path: Path, pid: int, stat: str) -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "stat").write_text("")
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(stat)
    return proc


@pytest.mark.parametrize(
    ("state", "name", "start_time"),
    [("S", "python", "777 ticks"), ("R", "a) b (c", "777 ticks"), ("Z", "python", "")],
)
def test_the_start_of_a_process_is_its_22nd_field(tmp_path, state, name, start_time):
    fields = " ".join(["0"] * 18 + ["777"] + ["0"] * 20)
    proc = make_proc(tmp_path, 42, f"42 ({name}) {state} {fields}\n")
    assert read_process_start(42, proc) == start_time
    assert read_process_start(43, proc) == ""


def test_systems_without_proc_have_ids_too(tmp_path):
    assert read_boot_id(tmp_path).startswith("boot at ")
    assert read_pid_namespace(tmp_path) == ""
    assert read_process_start(os.getpid(), tmp_path).endswith(" s")
    assert read_machine(tmp_path) != ""
    (tmp_path / "machine-id").write_text("abc\n")
    assert read_machine(tmp_path) == "abc"
