"""The whole app in a real pseudo-terminal, on the starter model: ask, watch, stop, quit."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pexpect = pytest.importorskip("pexpect")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals are a matter of POSIX", allow_module_level=True)

PATIENCE_SECONDS = 120
LOADED = r"98\.4 MB"
"""What the panel says once the model is in memory."""

LONG_QUESTION = "Write the numbers from 1 to 300, separated by commas."
F2, F3, F4, F5, F6 = "\x1bOQ", "\x1bOR", "\x1bOS", "\x1b[15~", "\x1b[17~"
"""What the keys send, as xterm does."""

POLICY = """\
version: 1
description: The starter answers.
models: {only: [smollm2-135m]}
arms: {quick: {model: only, reasoning: direct, max_tokens: 3}}
rules: [{name: everything, use: quick}]
"""
Spawn = Callable[..., "pexpect.spawn[bytes]"]


class Screen:
    """What the terminal was sent, and what it was left in."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def flush(self) -> None:
        pass

    def off_at_the_end(self, mode: str) -> bool:
        """Whether a private mode was switched on, and off after that."""
        on, off = f"\x1b[?{mode}h".encode(), f"\x1b[?{mode}l".encode()
        return 0 <= self.sent.rfind(on) < self.sent.rfind(off)

    def assert_clean(self) -> None:
        """The alternate screen was left, the mouse let go, the cursor shown, nothing spilled."""
        for mode in ("1049", "1000", "1003", "2004"):
            assert self.off_at_the_end(mode), mode
        assert self.sent.rfind(b"\x1b[?25h") > self.sent.rfind(b"\x1b[?25l")
        assert b"Traceback" not in self.sent


def leave(app: pexpect.spawn[bytes], screen: Screen) -> None:
    app.send("\x11")
    app.expect(pexpect.EOF)
    app.close()
    assert app.exitstatus == 0
    screen.assert_clean()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def spawn(screen: Screen, starter_model: Path, etui_home: Path) -> Iterator[Spawn]:
    """Starts ``etui`` in a terminal; whatever a test leaves running is ended."""
    started: list[pexpect.spawn[bytes]] = []

    def start(
        *arguments: str, size: tuple[int, int] = (36, 120), **variables: str
    ) -> pexpect.spawn[bytes]:
        environment = {
            **os.environ,
            "ETUI_HOME": str(etui_home),
            "ETUI_MODELS": str(starter_model.parent),
            "TERM": "xterm-256color",
            **variables,
        }
        # pytest-xdist sets the size of a terminal of its own.
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        child = pexpect.spawn(
            sys.executable,
            ["-m", "etui", *arguments],
            env=environment,
            dimensions=size,
            timeout=PATIENCE_SECONDS,
        )
        child.logfile_read = screen
        started.append(child)
        return child

    yield start
    for child in started:
        with suppress(pexpect.ExceptionPexpect):  # a test has waited for it already
            child.close(force=True)


def rows(home: Path) -> list[tuple[str, str, float | None]]:
    with closing(sqlite3.connect(home / "etui.db")) as database:
        return database.execute(
            "SELECT query, status, energy_joules FROM turns ORDER BY rowid"
        ).fetchall()


def test_ask_watch_stop_and_quit(spawn: Spawn, screen: Screen, etui_home: Path) -> None:
    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send("Hi there\r")
    app.expect("J/tok")
    app.expect("1 answer")
    app.send(f"{LONG_QUESTION}\r")
    app.expect("answering")
    app.send("\x1b")
    app.expect("stopped")
    leave(app, screen)
    assert "≈ estimated".encode() in screen.sent, "an empty sysfs leaves the labelled estimate"
    first, second = rows(etui_home)
    assert first[:2] == ("Hi there", "complete")
    assert second[:2] == (LONG_QUESTION, "stopped")
    assert all(joules is not None and joules > 0 for _query, _status, joules in (first, second))


def test_a_file_and_a_long_paste_go_with_a_question_and_a_wrong_command_does_not(
    spawn: Spawn, screen: Screen, etui_home: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("Paris is the capital of France.\n")
    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send("\x1b[200~Say hi.\rTo me.\r\nNow.\x1b[201~")
    app.expect("Now")
    app.send("\r")
    app.expect("1 answer")
    app.send("/sned\r")
    app.expect("begin with")
    app.send("\x15")
    app.send("Say yes.\x1b[200~" + "one line\r" * 40 + "\x1b[201~")
    app.expect("paste 1: 40 lines")
    app.send(f" @{notes} \r")
    app.expect("2 answers")
    leave(app, screen)
    assert "␍".encode() not in screen.sent, "lines are sent with line feeds"
    (first, *_), (query, status, _joules) = rows(etui_home)
    assert first == "Say hi.\nTo me.\nNow."
    lines = "one line\n" * 40
    assert query == (
        f"Say yes.[paste 1] @{notes}\n\nFile {notes}:\n```md\nParis is the capital of France.\n"
        f"```\n\nPaste 1:\n```text\n{lines}```"
    )
    assert status in ("complete", "truncated")


def test_every_screen_is_a_key_away_and_a_model_comes_and_goes(
    spawn: Spawn, screen: Screen, etui_home: Path
) -> None:
    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    for key, words in (
        (F3, "no answers in the log yet"),
        (F5, "No bench run yet"),
        (F6, "in memory"),
    ):
        app.send(key)
        app.expect(words)
    app.send("u")
    app.expect("unloaded smollm2-135m in")
    app.send("l")
    app.expect("[^n]loaded smollm2-135m in")
    app.send(F2)
    app.expect("for commands")
    leave(app, screen)
    with closing(sqlite3.connect(etui_home / "etui.db")) as database:
        assert database.execute("SELECT reason FROM unloads").fetchall() == [("asked",)]
        assert len(database.execute("SELECT * FROM loads").fetchall()) == 2


def test_a_policy_is_edited_saved_and_asked(spawn: Spawn, screen: Screen, etui_home: Path) -> None:
    policy = etui_home / "policies" / "mine.yaml"
    policy.parent.mkdir()
    policy.write_text(POLICY, encoding="utf-8")
    app = spawn("--policy", "mine")
    app.expect(LOADED)
    app.send(F4)
    app.expect("valid")
    app.send("\r")
    app.expect("List")  # the key that leads back from the editor
    app.send("# edited\r\x13")
    app.expect("saved as")
    app.send(F2)
    app.send("Hi there\r")
    app.expect("1 answer")
    leave(app, screen)
    assert policy.read_text(encoding="utf-8") == "# edited\n" + POLICY
    assert [row[:2] for row in rows(etui_home)] == [("Hi there", "truncated")]


@pytest.mark.parametrize("leave", ["ctrl+c", "SIGTERM"])
def test_leaving_in_the_middle_of_an_answer_saves_it(
    spawn: Spawn, screen: Screen, etui_home: Path, leave: str
) -> None:
    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send(f"{LONG_QUESTION}\r")
    app.expect("answering")
    if leave == "ctrl+c":
        app.send("\x03")
        app.expect("again quits")
        app.send("\x03")
    else:
        app.kill(signal.SIGTERM)
    app.expect(pexpect.EOF)
    app.close()
    assert app.exitstatus == 0
    screen.assert_clean()
    assert [row[:2] for row in rows(etui_home)] == [(LONG_QUESTION, "stopped")]


def test_a_terminal_that_is_closed_leaves_nothing_behind(spawn: Spawn, etui_home: Path) -> None:
    import psutil

    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send(f"{LONG_QUESTION}\r")
    app.expect("answering")
    process = psutil.Process(app.pid)
    family = [process, *process.children()]
    app.ptyproc.fileobj.close()
    _gone, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert alive == []
    ((query, status, joules),) = rows(etui_home)
    assert query == LONG_QUESTION
    assert status in ("stopped", "error"), "an engine too slow to stop is ended, and says so"
    assert joules is not None


def test_a_crash_of_the_engine_leaves_the_chat_running(
    spawn: Spawn, screen: Screen, etui_home: Path
) -> None:
    import psutil

    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send(f"{LONG_QUESTION}\r")
    app.expect("answering")
    (engine,) = [
        each
        for each in psutil.Process(app.pid).children()
        if "etui.backends.worker" in each.cmdline()
    ]
    engine.kill()
    app.expect("SIGKILL")
    app.send("Hi there\r")
    app.expect("2 answers")
    leave(app, screen)
    assert [row[1] for row in rows(etui_home)] == ["error", "complete"]


def test_a_suspended_app_leaves_the_terminal_and_comes_back(
    spawn: Spawn, screen: Screen, etui_home: Path
) -> None:
    import psutil

    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send(f"{LONG_QUESTION}\r")
    app.expect("answering")
    process = psutil.Process(app.pid)

    def suspend_and_go_on() -> None:
        app.kill(signal.SIGTSTP)
        app.expect(re.escape("\x1b[?1049l"))
        while process.status() != psutil.STATUS_STOPPED:
            pass
        app.kill(signal.SIGCONT)
        app.expect(re.escape("\x1b[?1049h"))

    suspend_and_go_on()
    app.send("\x1b")
    app.expect("stopped")
    app.send(F4)
    app.expect("The largest model")
    suspend_and_go_on()
    app.expect("The largest model")  # it is drawn again
    leave(app, screen)
    assert [row[1] for row in rows(etui_home)] == ["stopped"]


def test_a_terminal_without_unicode_is_drawn_in_ascii(spawn: Spawn, screen: Screen) -> None:
    app = spawn("--model", "smollm2-135m", LC_ALL="C")
    app.expect(LOADED)
    app.send("Hi there\r")
    app.expect("J/tok")
    app.send("\x11")
    app.expect(pexpect.EOF)
    assert screen.sent.isascii()
    assert b"> Hi there" in screen.sent


def test_ctrl_z_gives_the_shell_a_sane_terminal_and_fg_brings_the_app_back(
    spawn: Spawn, screen: Screen, starter_model: Path, etui_home: Path
) -> None:
    environment = {
        **os.environ,
        "ETUI_HOME": str(etui_home),
        "ETUI_MODELS": str(starter_model.parent),
        "TERM": "xterm-256color",
        "PS1": "READY> ",
    }
    for name in ("NO_COLOR", "COLUMNS", "LINES", "PROMPT_COMMAND"):
        environment.pop(name, None)
    shell = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "--noediting", "-i"],
        env=environment,
        dimensions=(36, 120),
        timeout=PATIENCE_SECONDS,
    )
    shell.logfile_read = screen
    try:
        shell.expect("READY> ")
        before = termios.tcgetattr(shell.fileno())
        shell.send(f"{sys.executable} -m etui --model smollm2-135m\r")
        shell.expect(LOADED)
        shell.send("typed before\x1a")
        shell.expect("Stopped")
        shell.expect("READY> ")
        screen.assert_clean()
        shell.send("stty -a | tr -d '\\n'; echo; echo the-shell-answers | tr a-z A-Z\r")
        shell.expect(r" icanon .* echo ")
        shell.expect("THE-SHELL-ANSWERS")
        shell.send("fg\r")
        shell.expect(re.escape("\x1b[?1049h"))
        shell.expect("typed before")
        shell.send("\x11")
        shell.expect("READY> ")
        screen.assert_clean()
        assert termios.tcgetattr(shell.fileno())[:4] == before[:4]
    finally:
        shell.close(force=True)


def test_continue_opens_the_last_chat_and_a_name_opens_another(
    spawn: Spawn, screen: Screen, etui_home: Path
) -> None:
    app = spawn("--model", "smollm2-135m")
    app.expect(LOADED)
    app.send("Hi there\r")
    app.expect("1 answer")
    app.send("\x11")
    app.expect(pexpect.EOF)
    for arguments in (("--continue",), ("chat", "Hi")):
        again = spawn(*arguments, *(("--model", "smollm2-135m") if arguments[0] == "chat" else ()))
        again.expect("Hi there")
        again.expect("1 answer")
        again.send("\x11")
        again.expect(pexpect.EOF)
        again.close()
        assert again.exitstatus == 0
    unknown = spawn("chat", "nothing like it")
    unknown.expect("no chat 'nothing like it'")
    unknown.expect(pexpect.EOF)
    unknown.close()
    assert unknown.exitstatus == 2
    screen.assert_clean()
