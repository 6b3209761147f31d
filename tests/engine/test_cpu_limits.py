"""What a process may run on, read from a fake sysfs and procfs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from etui.engine import cpu_limits, library
from etui.engine.cpu_limits import FreeCpus, count_cores, read_cpu_quota, read_process_ns
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


def free_cpus(proc_dir: Path, own_ns: list[int], **options: Any) -> FreeCpus:
    """What others leave of two CPUs; the CPU time of this process is the last of a list."""
    return FreeCpus({0, 1}, proc_dir, read_own_ns=lambda: own_ns[-1], **options)


def test_idle_time_and_what_this_process_uses_is_free(tmp_path, hundred_ticks):
    own_ns = [7 * SECOND]
    free = free_cpus(tmp_path, own_ns)
    write(tmp_path / "stat", stat((1000, 50), (1000, 0), (1000, 0)))
    assert free.look(SECOND) is None  # the first look
    write(tmp_path / "stat", stat((1015, 55), (1000, 0), (1020, 0)))
    own_ns.append(own_ns[-1] + SECOND // 10)
    assert free.look(SECOND + 50_000_000) is None  # too early
    assert free.look(SECOND + 200_000_000) == pytest.approx(1.5)  # the third CPU is not ours
    assert free.look(SECOND + 400_000_000) == 0
    write(tmp_path / "stat", stat((1315, 55), (1000, 0), (1020, 0)))
    assert free.look(SECOND * 11 + 400_000_000) == pytest.approx(0.3)  # a long batch
    write(tmp_path / "stat", stat((9000, 55), (1000, 0), (1020, 0)))
    free.begin(SECOND * 60)
    write(tmp_path / "stat", stat((9060, 55), (1000, 0), (1020, 0)))
    assert free.look(SECOND * 62) == pytest.approx(0.3)
    write(tmp_path / "stat", stat((9960, 55), (1000, 0), (1020, 0)))
    assert free.look(SECOND * 63) == 2  # never more than there are


def test_what_other_processes_of_etui_use_is_free(tmp_path, hundred_ticks, monkeypatch):
    used = {10: 5 * SECOND}
    monkeypatch.setattr(cpu_limits, "read_process_ns", used.get)
    free = free_cpus(tmp_path, [0], relatives=lambda: (10, 11, 12))
    write(tmp_path / "stat", stat((1000, 0), (1000, 0)))
    free.begin(SECOND)
    used[10] += SECOND // 4
    used[11] = SECOND // 4  # started meanwhile
    assert free.look(2 * SECOND) == pytest.approx(0.5)
    del used[10]  # it has ended
    assert free.look(3 * SECOND) == 0


def test_the_cpu_time_of_another_process():
    with subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.05: pass\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        while (used := read_process_ns(process.pid) or 0) < 50_000_000:
            assert process.poll() is None
        assert used < 60 * SECOND
        process.communicate(b"\n")
    assert read_process_ns(process.pid) is None
    assert read_process_ns(os.getpid()) == pytest.approx(time.process_time_ns(), rel=0.2)


def test_the_cpu_time_of_another_process_outside_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert read_process_ns(os.getpid()) == pytest.approx(time.process_time_ns(), rel=0.2)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert read_process_ns(process.pid) is None


@pytest.mark.parametrize(
    ("running", "free"), [("1", 2.0), ("2", 1.0), ("9", 0.2), ("x", 0.2), (None, 0.2)]
)
def test_programs_that_have_ended_before_an_answer_take_nothing(
    tmp_path, hundred_ticks, running, free
):
    write(tmp_path / "stat", stat((1000, 0), (1000, 0)))
    cpus = free_cpus(tmp_path, [0])
    assert cpus.look_after_rest(SECOND) is None
    tail = "" if running is None else f"procs_running {running}\nprocs_blocked 7\n"
    write(tmp_path / "stat", stat((1040, 0), (1000, 0)) + tail)
    assert cpus.look_after_rest(3 * SECOND) == pytest.approx(free)


def test_tasks_that_run_for_a_moment_only_take_no_core_after_a_rest(tmp_path):
    running = iter([9, 2, 1, 5])  # its own thread included

    def write_next(seconds: float = 0.0) -> None:
        tail = f"procs_running {next(running)}\n"
        write(tmp_path / "stat", stat((1040, 0), (1000, 0)) + tail)

    write(tmp_path / "stat", stat((1000, 0), (1000, 0)))
    cpus = free_cpus(tmp_path, [0], pause=write_next)
    assert cpus.look_after_rest(SECOND) is None
    write_next()
    assert cpus.look_after_rest(3 * SECOND) == 2
    assert next(running) == 5, "it goes on after a reading in which nothing else runs"


def test_idle_time_from_psutil_without_procfs(tmp_path, monkeypatch):
    idle = iter([10.0, 10.5])
    monkeypatch.setattr(psutil, "cpu_times", lambda: type("Times", (), {"idle": next(idle)}))
    free = free_cpus(tmp_path, [0])
    assert free.look(SECOND) is None
    assert free.look(SECOND * 3 // 2) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["cpu0 a b c d e\n", stat((0, 0), (0, 0))])
def test_what_threads_did_not_get_is_taken_where_idle_time_is_not_counted(
    tmp_path, hundred_ticks, text
):
    write(tmp_path / "stat", text)
    own_ns = [0]
    free = free_cpus(tmp_path, own_ns)
    assert free.look(SECOND) is None
    own_ns.append(SECOND)
    assert free.look(2 * SECOND, wanted_ns=SECOND) == 2
    own_ns.append(2 * SECOND)
    assert free.look(3 * SECOND, wanted_ns=1.8 * SECOND) == pytest.approx(1.2)
