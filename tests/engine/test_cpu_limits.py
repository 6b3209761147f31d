"""What a process may run on, read from a fake sysfs and procfs."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from etui.engine import cpu_limits, library
from etui.engine.cpu_limits import SpareCpu, count_cores, read_cpu_quota
from etui.engine.library import choose_threads, default_threads

SECOND = 1_000_000_000


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> frozenset[int]:
    """This process may run on four CPUs."""
    four = frozenset(range(4))
    monkeypatch.setattr(library, "cpu_affinity", lambda: four)
    return four


def write_topology(sysfs: Path, siblings: dict[int, str]) -> None:
    for cpu, text in siblings.items():
        write(sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{text}\n")


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("400000 200000\n", 2.0),
        ("0 100000\n", None),
        ("100000 0\n", None),
        ("-1 100000\n", None),
        ("nonsense\n", None),
        ("", None),
        ("\xff\xfe", None),
    ],
)
def test_a_quota(tmp_path, text, quota):
    write(tmp_path / "sys/fs/cgroup/cpu.max", text)
    assert read_cpu_quota(tmp_path / "sys", tmp_path / "proc") == quota


def test_the_lowest_quota_of_all_groups_above_holds(tmp_path):
    root = tmp_path / "sys/fs/cgroup"
    write(tmp_path / "proc/self/cgroup", "5:cpu:/old\n0::/user.slice/app\n")
    assert read_cpu_quota(tmp_path / "sys", tmp_path / "proc") is None
    write(root / "user.slice/app/cpu.max", "300000 100000")
    assert read_cpu_quota(tmp_path / "sys", tmp_path / "proc") == 3
    write(root / "user.slice/cpu.max", "200000 100000")
    assert read_cpu_quota(tmp_path / "sys", tmp_path / "proc") == 2


def test_a_group_outside_of_the_mount_leaves_its_root(tmp_path):
    write(tmp_path / "proc/self/cgroup", "0::/../../docker/abc\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000")
    assert read_cpu_quota(tmp_path / "sys", tmp_path / "proc") == 1


def test_siblings_are_one_core(tmp_path):
    write_topology(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert count_cores(tmp_path, {0, 1, 2, 3}) == 2
    assert count_cores(tmp_path, {0, 2}) == 1
    assert count_cores(tmp_path, {3}) == 1


def test_without_a_topology_the_cores_of_the_machine_count(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda *, logical: 8 if logical else 4)
    assert count_cores(tmp_path, range(8)) == 4
    assert count_cores(tmp_path, range(2)) == 2
    monkeypatch.setattr(psutil, "cpu_count", lambda *, logical: None)
    assert count_cores(tmp_path, range(8)) == 1


def test_auto_is_held_to_affinity_cores_and_quota(tmp_path, cpus):
    write_topology(tmp_path, {cpu: str(cpu) for cpu in cpus})
    assert default_threads(tmp_path) == 4
    write(tmp_path / "fs/cgroup/cpu.max", "250000 100000")
    assert default_threads(tmp_path) == 2
    write(tmp_path / "fs/cgroup/cpu.max", "50000 100000")
    assert default_threads(tmp_path) == 1
    write(tmp_path / "fs/cgroup/cpu.max", "99900000 100000")
    assert default_threads(tmp_path) == 4


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (3, 3), (4, 4), (999, 4)])
def test_a_number_is_held_to_the_cpus(tmp_path, cpus, threads, used):
    assert choose_threads(threads, tmp_path) == used


def test_affinity_below_the_cpu_count(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_limits.os, "sched_getaffinity", lambda pid: {5}, raising=False)
    write_topology(tmp_path, {5: "5"})
    assert default_threads(tmp_path) == 1
    assert choose_threads(8, tmp_path) == 1


def stat(*idle: tuple[int, int]) -> str:
    cpus = [f"cpu{i} 10 0 10 {ticks} {wait} 0 0 0 0 0" for i, (ticks, wait) in enumerate(idle)]
    return "\n".join(["cpu  999 0 999 9999 99 0 0 0 0 0", *cpus, "intr 1 2 3", "cpufreq 1"]) + "\n"


@pytest.fixture
def hundred_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _name: 100)


def test_idle_cpus_since_the_last_look(tmp_path, hundred_ticks):
    spare = SpareCpu({0, 1}, tmp_path)
    write(tmp_path / "stat", stat((1000, 50), (1000, 0), (1000, 0)))
    assert spare.look(SECOND) is None  # the first look
    write(tmp_path / "stat", stat((1015, 55), (1000, 0), (1020, 0)))
    assert spare.look(SECOND + 50_000_000) is None  # too early
    assert spare.look(SECOND + 200_000_000) == pytest.approx(1.0)  # the third CPU is not ours
    write(tmp_path / "stat", stat((1015, 55), (1000, 0), (1020, 0)))
    assert spare.look(SECOND + 400_000_000) == 0
    write(tmp_path / "stat", stat((9000, 55), (1000, 0), (1020, 0)))
    assert spare.look(SECOND * 60) is None  # says nothing about the present
    write(tmp_path / "stat", stat((9060, 55), (1000, 0), (1020, 0)))
    assert spare.look(SECOND * 62, longest_ns=None) == pytest.approx(0.3)
    write(tmp_path / "stat", stat((9900, 55), (1000, 0), (1020, 0)))
    assert spare.look(SECOND * 63) == 2  # never more than there are


def test_idle_time_from_psutil_without_procfs(tmp_path, monkeypatch):
    idle = iter([10.0, 10.5])
    monkeypatch.setattr(psutil, "cpu_times", lambda: type("Times", (), {"idle": next(idle)}))
    spare = SpareCpu({0, 1}, tmp_path)
    assert spare.look(SECOND) is None
    assert spare.look(SECOND * 3 // 2) == pytest.approx(1.0)


def test_every_cpu_counts_as_idle_where_idle_time_is_not_counted(tmp_path):
    write(tmp_path / "stat", "cpu0 a b c d e\n")
    spare = SpareCpu({0, 1}, tmp_path)
    assert spare.look(SECOND) == 2
    assert spare.look(SECOND + 1) is None
    assert spare.look(2 * SECOND) == 2
