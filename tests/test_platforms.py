"""Windows and macOS, as far as Linux can simulate them: what Python lacks there is hidden."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from etui import atomic
from etui.cli.output import stop_signals
from etui.cli.policy_edit import split_command
from etui.cli.streams import is_broken_pipe, open_streams
from etui.config import machine
from etui.energy.sharing import GpuWatch
from etui.energy.sources.rapl import RaplSource
from etui.engine.trial import name_crash
from etui.errors import EtuiError
from etui.log import row_files
from etui.runtime import try_gpu
from etui.server.context import ServerSettings
from etui.server.run import open_sockets
from etui.tui.web import build_command

SYSTEMS = ("windows", "macos")
CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")


def run_on(system, folder, *words, **environ):
    """Run a command of etui, and all processes that it starts, without what a system lacks."""
    (folder / "sitecustomize.py").write_text(
        f"from tests.support.platforms import hide\nhide({system!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "etui", *words],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_is_imported(system):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.platforms", system],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 300


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_question_is_answered_and_logged(system, tiny_starter, tmp_path):
    models = {"ETUI_MODELS": str(tiny_starter.parent)}
    done = run_on(system, tmp_path, "ask", "Which letter?", **models)
    assert (done.returncode, done.stdout) == (0, "B.\n"), done.stderr
    assert "J (estimate)" in done.stderr
    done = run_on(system, tmp_path, "logs", "show", "last")
    assert "Which letter?" in done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_app_opens_answers_in_its_own_process_and_closes(system, tiny_starter, tmp_path):
    done = run_on(
        system,
        tmp_path,
        *("--model", "smollm2-135m"),
        ETUI_MODELS=str(tiny_starter.parent),
        TEXTUAL_DRIVER="textual.drivers.headless_driver:HeadlessDriver",
        TEXTUAL_PRESS="wait:1500,h,i,enter,wait:3000,ctrl+q",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_says_what_windows_does_not_have(tmp_path):
    done = run_on("windows", tmp_path, "doctor")
    assert done.returncode == 0, done.stderr
    assert "✓ estimate:cpu" in done.stdout


def test_counters_of_cpus_are_on_linux_only(windows, tmp_path):
    (probe,) = RaplSource(tmp_path).probe()
    assert (probe.why_not, probe.fix) == (
        "powercap, with the counters of CPUs (RAPL), is on Linux only",
        "",
    )


def test_a_unix_socket_is_refused_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(EtuiError, match="this system has no unix sockets"):
        open_sockets(ServerSettings(unix=str(tmp_path / "socket")))


def test_an_address_that_is_taken_is_named_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EtuiError) as caught:
            open_sockets(ServerSettings(port=port))
    assert caught.value.what == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_the_log_takes_back_kept_records_where_an_open_file_cannot_be_removed(config, monkeypatch):
    row = row_files.UnsavedRow("turns", {"id": 1})
    path = row_files.unsaved_file(config)
    row_files.append_rows(path, [row])
    monkeypatch.setattr(row_files, "fcntl", None)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "it is used by another process")

    monkeypatch.setattr(Path, "unlink", refuse)
    stored: list[row_files.UnsavedRow] = []
    for _ in range(2):
        assert row_files.drain_rows(config, stored.append, lambda: None) == 0
    assert stored == [row]
    assert path.read_bytes() == b""


@pytest.mark.parametrize("times", [2, 99])
def test_a_file_is_replaced_once_other_programs_have_closed_it(
    windows, tmp_path, monkeypatch, times
):
    left, replace = times, os.replace

    def refuse(old: Path, new: Path) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise PermissionError(13, "it is used by another process")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(atomic, "_PAUSES", (0.0,) * 4)
    (tmp_path / "a.txt").write_text("old")
    if times == 2:
        atomic.write_text(tmp_path / "a.txt", "new")
    else:
        with pytest.raises(PermissionError):
            atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == ("new" if times == 2 else "old")
    assert list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*.tmp")) == []


def test_a_closed_pipe_is_an_invalid_argument_on_windows(monkeypatch):
    error = OSError(errno.EINVAL, "Invalid argument")
    assert not is_broken_pipe(error)
    assert is_broken_pipe(BrokenPipeError())
    monkeypatch.setattr(sys, "platform", "win32")
    assert is_broken_pipe(error)
    assert not is_broken_pipe(OSError(errno.EINVAL, "Invalid argument", "a file"))


@pytest.mark.parametrize(
    ("chosen", "encoding"), [("", "utf-8"), ("cp1252", "cp1252")], ids=["by etui", "by the user"]
)
def test_a_pipe_gets_utf_8_instead_of_a_code_page(windows, monkeypatch, chosen, encoding):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if chosen:
        monkeypatch.setenv("PYTHONIOENCODING", chosen)
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert open_streams()
    assert out.encoding == encoding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"C:\bin\edit.exe -w", [r"C:\bin\edit.exe", "-w"]),
        (r'"C:\my bin\edit.exe" -w', [r"C:\my bin\edit.exe", "-w"]),
    ],
)
def test_the_editor_keeps_its_backslashes(windows, text, words):
    assert split_command(text) == words


@pytest.mark.parametrize(
    ("code", "name"),
    [
        *((0, ""), (1, ""), (-signal.SIGSEGV, "SIGSEGV"), (-99, "signal 99")),
        *((0xC0000005, "code 0XC0000005"), (0xC000013A, "")),
    ],
)
def test_crashes_of_every_system_are_told_from_refusals(code, name):
    assert name_crash(code) == name


def test_a_run_on_a_gpu_is_killed_without_groups_of_processes(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try_gpu._kill(process)
        assert process.wait(60) != 0


def test_ctrl_break_stops_a_measurement(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with pytest.raises(KeyboardInterrupt), stop_signals():
        signal.raise_signal(signal.SIGUSR1)


def test_programs_on_a_gpu_are_seen_without_proc(tmp_path):
    watch = GpuWatch(SimpleNamespace(), proc=tmp_path / "none")  # type: ignore[arg-type]
    assert watch._exists(os.getpid())
    assert not watch._exists(next(pid for pid in range(9**6, 9**7) if not psutil.pid_exists(pid)))


def test_apple_processors_have_names(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: "Apple M9 Max\n")
    assert machine.processor_name.__wrapped__() == "Apple M9 Max"
    monkeypatch.setattr(machine.platform, "processor", lambda: "arm")
    monkeypatch.setattr(subprocess, "check_output", _missing)
    assert machine.processor_name.__wrapped__() == "arm"


def _missing(*_: object, **__: object) -> str:
    raise FileNotFoundError(2, "sysctl")


def test_a_tab_of_the_browser_is_started_without_a_posix_shell(windows):
    assert build_command(None, "my model").endswith('-m etui --model "my model"')
