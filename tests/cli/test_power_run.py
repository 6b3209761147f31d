"""``etui power run`` and ``etui power compare`` as a user runs them."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import suppress

import pytest

from etui.cli.power_run import _format_comparison, _make_runs, _Results
from etui.energy import command as commands
from etui.energy.command import Foreground, measure_command
from etui.energy.recorder import Recorder
from etui.measure.commands import Comparison
from etui.stats.differences import Difference
from tests.cli.conftest import check
from tests.support.command import run_here
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import constant

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

COUNTS = """
import os, select, signal, sys
seen = []
for name in ("INT", "TERM", "HUP", "USR1", "WINCH", "CONT"):
    signal.signal(getattr(signal, "SIG" + name), lambda number, frame: report(number))
def report(number):
    seen.append(number)
    print(signal.Signals(number).name, flush=True)
print("ready", flush=True)
while True:  # a signal that comes just before a read does not end it
    if select.select([0], [], [], 0.05)[0] and os.read(0, 99).strip() in (b"end", b""):
        break
print("seen", len(seen), flush=True)
sys.exit(7)
"""
"""Prints each signal, and ends with 7 when it reads ``end``."""

DAEMON = """
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(read)
        while os.times().user < 0.3:
            pass
        os.write(write, b"x")
        os._exit(0)
    os._exit(0)
os.wait()
os.close(write)
os.read(read, 1)
"""
"""Starts a daemon as daemons are started, and waits until it has used 0.3 s of CPU time."""


@pytest.fixture
def start(etui_home):
    """Start ``etui power run`` in a process of its own."""

    def begin(*words, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        args = [sys.executable, "-m", "etui", "power", "run", *words]
        # A shell starts what runs in the background with SIGINT ignored.
        heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(args, **pipes | {"preexec_fn": heed} | options)

    return begin


@pytest.fixture
def here(etui_home):
    return lambda *args, code=0: check(run_here("power", *args), code)


@pytest.fixture
def report(here, tmp_path):
    """The report of a run that ends with a code, as a document."""

    def read(*words, code=0):
        file = tmp_path / "report.json"
        here("run", "--json", "--output", str(file), *words, code=code)
        return json.loads(file.read_text())

    return read


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "exit 3"), 3),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        (("no-such-command-here",), 127),
        (("/",), 126),
    ],
)
def test_the_exit_code_is_that_of_a_shell(here, words, code):
    here("run", "--", *words, code=code)


def test_a_script_without_a_first_line_runs_in_sh(here, tmp_path):
    script = tmp_path / "script"
    script.write_text('exit "$1"\n')
    script.chmod(0o755)
    here("run", "--", str(script), "5", code=5)


def test_input_output_and_open_files_are_the_commands(start):
    read, write = os.pipe()
    data = bytes(range(256)) * 40
    copy = "import shutil, sys, os; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    words = (sys.executable, "-c", f"{copy}; os.write({write}, b'more')")
    with start("--", *words, pass_fds=[write]) as process:
        os.close(write)
        out, err = process.communicate(data, timeout=60)
    assert out == data
    assert os.read(read, 10) == b"more"
    os.close(read)
    assert b"total over" in err
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_command_has_the_signals_that_etui_was_started_with(start):
    words = ("--", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731 as nohup does
    with start(*words, preexec_fn=ignore) as process:
        out, err = process.communicate(timeout=60)
    blocked, ignored = (int(line.split()[1], 16) for line in out.decode().splitlines())
    assert blocked == 0, err
    assert ignored >> (signal.SIGHUP - 1) & 1
    assert not ignored >> (signal.SIGPIPE - 1) & 1  # Python ignores it, for itself alone


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_to_etui_reaches_the_command_once(start, name):
    with start("--", sys.executable, "-u", "-c", COUNTS) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline().decode() == f"{name}\n"
        out, _ = process.communicate(b"end\n", timeout=60)
    assert out == b"seen 1\n"
    assert process.returncode == 7


class Terminal:
    """A bash with job control in a terminal of its own."""

    def __init__(self, env):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, **env})
        self.text = ""

    def write(self, text):
        os.write(self.file, text.encode())

    def wait_for(self, text):
        """Read until a text, and forget everything before its end."""
        while text not in self.text:
            ready, _, _ = select.select([self.file], [], [], 60)
            assert ready, f"no {text!r} in {self.text!r}"
            self.text += os.read(self.file, 4096).decode(errors="replace")
        before, _, self.text = self.text.partition(text)
        return before

    def close(self):
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.file)


@pytest.fixture
def terminal(etui_home, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    (tmp_path / "counts.py").write_text(COUNTS)
    found = Terminal({"PS1": "PROMPT> ", "TERM": "dumb"})
    found.wait_for("PROMPT> ")
    yield found
    found.close()


def test_job_control_is_that_of_the_command_itself(terminal, tmp_path):
    words = f"{sys.executable} -m etui power run -- {sys.executable} -u {tmp_path}/counts.py"
    terminal.write(f"{words}; echo code $?\n")
    terminal.wait_for("ready")
    terminal.write("\x03")  # Ctrl-C
    terminal.wait_for("SIGINT")
    fcntl.ioctl(terminal.file, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
    terminal.wait_for("SIGWINCH")
    terminal.write("\x1a")  # Ctrl-Z
    terminal.wait_for("Stopped")
    terminal.write("fg\n")
    terminal.wait_for("SIGCONT")
    terminal.write("end\n")
    # The terminal's signals come once; bash continues the command and etui, which says it too.
    assert terminal.wait_for("total over").partition("seen ")[2].strip()[0] in "34"


def test_a_daemon_that_left_the_session_is_counted(report):
    (run,) = report("--", sys.executable, "-c", DAEMON)["commands"][0]["runs"]
    if sys.platform == "linux":
        assert run["cpu_seconds"] >= 0.3
    assert run["exit_code"] == 0


def test_what_runs_on_is_reported_and_not_waited_for(start):
    read, write = os.pipe()
    script = (
        f"import os\nif not os.fork():\n  [os.close(n) for n in range(3)]\n  os.read({read}, 1)"
    )
    with start("--", sys.executable, "-c", script, pass_fds=[read]) as process:
        os.close(read)
        _, err = process.communicate(timeout=60)
    os.close(write)
    assert b"1 process of the command still running" in err


def test_a_failure_ends_the_repeats_unless_it_is_ignored(report):
    document = report("--repeat", "3", "--", "sh", "-c", "exit 4", code=4)
    assert document["commands"][0]["runs"] == []
    assert "--ignore-failure" in document["stopped"]
    document = report("--repeat", "3", "--ignore-failure", "--", "sh", "-c", "exit 4")
    assert [run["exit_code"] for run in document["commands"][0]["runs"]] == [4, 4, 4]
    assert document["stopped"] is None


def test_pairs_are_compared(report):
    document = report("--repeat", "3", "--warm-up", "0", "--against", "sleep 0.01", "sleep", "0.2")
    long, short = ([run["seconds"] for run in each["runs"]] for each in document["commands"])
    assert min(long) >= 0.2
    ratio = math.prod(short) / math.prod(long)
    percent = document["comparison"]["seconds"]["percent"]
    assert percent == pytest.approx(100 * (ratio ** (1 / 3) - 1), abs=0.1)
    assert document["comparison"]["seconds_floor_percent"] > 0
    assert [len(each["runs"]) for each in document["commands"]] == [3, 3]
    assert document["meter_cpu_seconds"] > 0


def test_the_difference_is_a_sentence(here):
    done = here("run", "--repeat", "2", "--against", "true", "--", "sleep", "0.2")
    claims = "less time than sleep 0.2", "more time than sleep 0.2", "the time of sleep 0.2"
    assert any(each in done.stderr for each in (*claims, "no difference in time"))
    assert "2 pairs in random order" in done.stderr
    assert done.stdout == ""


FAR = Difference(1937.2, 1862.0, 2016.3, 0.001, 10, True)
NEAR = Difference(12.1, 11.2, 13.3, 0.001, 10, True)
FEWER = Difference(-71.2, -72.4, -70.1, 0.001, 10, True)


@pytest.mark.parametrize(
    ("joules", "seconds", "text"),
    [
        (
            FAR,
            NEAR,
            "b takes ≈20.4x [19.6, 21.2] the joules of a and 12 % [11, 13] more time than a",
        ),
        (FAR, FAR, "b takes ≈20.4x [19.6, 21.2] the joules and 20.4x [19.6, 21.2] the time of a"),
        (FEWER, NEAR, "b takes ≈71 % [70, 72] fewer joules and 12 % [11, 13] more time than a"),
        (None, FAR, "b takes 20.4x [19.6, 21.2] the time of a; joules unmeasured"),
    ],
)
def test_a_difference_above_300_percent_is_a_multiple(joules, seconds, text):
    comparison = Comparison(10, joules, seconds, None, None)
    assert list(_format_comparison(("a", "b"), comparison, "estimate")) == [text]


@pytest.mark.parametrize("text", ["", "'open"])
def test_another_command_that_cannot_be_read_is_refused(here, text):
    assert "--against" in here("run", "--against", text, "--", "true", code=2).stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_command(here, tmp_path):
    made = tmp_path / "made"
    here("run", "--output", str(tmp_path / "none" / "x"), "--", "touch", str(made), code=1)
    assert not made.exists()


def play(watts=50.0):
    clock = FakeClock()
    device = FakeDevice(constant(watts, 60), clock, SENSORS["counter 20 ms"], scope="package:0")
    recorder = Recorder([device], clock=clock, sleep=clock.advance)
    recorder.set_idle({"package:0": 10.0})
    return recorder, clock


class Played:
    """A foreground whose commands take two seconds."""

    interrupted = 0

    def __init__(self, recorder, clock, codes):
        self.recorder, self.clock, self.codes = recorder, clock, list(codes)

    def run(self, words):
        import random

        sample(self.recorder, self.clock, 2.0, random.Random(0))
        code = self.codes.pop(0)
        if code < 0:
            self.interrupted = -code
        return abs(code)


def test_the_own_part_is_the_share_of_cpu_time_above_idle(monkeypatch):
    recorder, clock = play()
    cpus, used = iter([(0.0, 0.0), (4.0, 8.0)]), iter([(1.0, 0), (2.0, 0)])
    monkeypatch.setattr(commands, "read_cpu_seconds", lambda: next(cpus))
    monkeypatch.setattr(commands, "read_descendants_seconds", lambda: next(used))
    foreground = Played(recorder, clock, [0])
    run = measure_command(["make"], recorder, foreground, clock)  # type: ignore[arg-type]
    assert run.shared
    assert run.cpu_share == pytest.approx(0.25)
    assert run.energy.joules == pytest.approx(50 * run.energy.seconds, rel=0.05)
    assert run.own_joules == pytest.approx(0.25 * 40 * run.energy.seconds, rel=0.05)


def test_a_signal_ends_the_repeats_and_keeps_whole_runs():
    recorder, clock = play()
    results = _Results([["make"]], runs=[[]])
    foreground = Played(recorder, clock, [0, 0, -signal.SIGINT, 0])
    _make_runs(results, recorder, foreground, (4, 0), False)  # type: ignore[arg-type]
    assert len(results.runs[0]) == 2
    assert "SIGINT" in results.stopped
    assert results.exit_code in (2, 130)


def test_signals_are_as_before_after_the_foreground():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Foreground() as foreground:
        assert foreground.run(["true"]) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_signal_that_comes_while_the_command_starts_reaches_it(monkeypatch):
    start, wait_signal, taken = Foreground._start, commands._wait_signal, threading.Event()

    def start_late(foreground, words):
        child = start(foreground, words)
        signal.pthread_kill(foreground._relay.ident, signal.SIGUSR2)
        assert taken.wait(60)
        return child

    def take(watched):
        found = wait_signal(watched)
        taken.set()
        return found

    monkeypatch.setattr(Foreground, "_start", start_late)
    monkeypatch.setattr(commands, "_wait_signal", take)
    monkeypatch.setattr(commands, "is_own_process", lambda pid: False)
    with Foreground() as foreground:
        assert foreground.run(["sleep", "600"]) == 128 + signal.SIGUSR2


def test_nothing_to_compare_is_said(here):
    assert "no two channels" in here("compare", "--seconds", "0.2").stdout
    assert json.loads(here("compare", "--seconds", "0.2", "--json").stdout)["pairs"] == []
