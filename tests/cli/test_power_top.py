"""``etui power top``: a table, JSON lines, and the screen in a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from etui.log.writer import TurnWriter
from etui.text import format_utc
from tests.cli.conftest import check
from tests.fixtures.turns import TURN

DEADLINE_SECONDS = 120.0
ALT_SCREEN_ON, ALT_SCREEN_OFF = b"\x1b[?1049h", b"\x1b[?1049l"


def run(environ, *words, code=0):
    words = [sys.executable, "-m", "etui", "power", "top", *words]
    done = subprocess.run(
        words, env=environ, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    return check(done, code)


def log_turn(config):
    energy = replace(TURN.energy, joules=3600.0, kind="counter", peak_watts=231.0)
    with TurnWriter(config) as writer:
        writer.save_turn(replace(
            TURN, turn_id="now", chat_id=None, created_at=format_utc(datetime.now(UTC)),
            model="qwen3-4b", energy=energy, hops=(),
        ))  # fmt: skip


def test_a_pipe_gets_one_table(many_channels, config):
    log_turn(config)
    config.config_file.write_text("price_per_kwh: 0.5\ncurrency: EUR\n")
    done = run(many_channels)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["channel", "watts", "use", "temp", "clock"]
    assert [line.split()[0] for line in lines[1:12]] == [
        "Total", *(f"GPU{n}" for n in range(8)), "CPU", "RAM",
    ]  # fmt: skip
    assert re.search(r"GPU3 +\d+/450 W +40 % +61 °C +1.98 GHz", done.stdout)
    assert re.search(r"today +3,600 +1.00 +1 +< 0.01 EUR", done.stdout)
    assert "qwen3-4b" in done.stdout
    assert "231 W" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_has_every_channel_and_null_for_what_is_unknown(many_channels, config):
    log_turn(config)
    done = run(many_channels, "--json")
    document = json.loads(done.stdout)
    channels = {channel["name"]: channel for channel in document["channels"]}
    assert list(channels) == [*(f"GPU{n}" for n in range(8)), "CPU", "RAM"]
    assert channels["GPU1"]["utilisation"] == 0.2
    assert channels["GPU1"]["limit_watts"] == 450
    assert channels["GPU1"]["own_watts"] is None  # nobody uses it
    assert channels["GPU1"]["memory_total_bytes"] is None
    assert channels["CPU"]["temperature_celsius"] == 58
    assert channels["RAM"]["utilisation"] is None
    spent = document["spent"]
    assert spent["periods"]["year"]["joules"] == 3600
    assert "price" not in spent["periods"]["year"]
    assert spent["models"][0]["model"] == "qwen3-4b"
    assert spent["days"][-1]["peak_watts"] == 231
    assert spent["days"][0]["joules"] is None
    assert document["problem"] == ""


def test_lines_go_on_until_ctrl_c(many_channels):
    with subprocess.Popen(
        [sys.executable, "-m", "etui", "power", "top", "--jsonl", "-n", "0.2"],
        env=many_channels,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert documents[0]["time"] < documents[2]["time"]


def test_a_broken_log_and_no_channel_say_what_to_do(many_channels, config, tmp_path):
    config.database.parent.mkdir(parents=True, exist_ok=True)
    config.database.write_bytes(b"not a database" * 100)
    config.config_file.write_text("estimate: never\n")
    environ = {**many_channels, "ETUI_SYSFS": str(tmp_path / "none"), "FAKE_NVML_INIT": "9"}
    done = run(environ, "--once")
    assert "unmeasured: no power sensor can be read; `etui doctor` shows why" in done.stdout
    assert "move it away" in done.stdout
    document = json.loads(run(environ, "--json").stdout)
    assert document["spent"] is document["total_watts"] is None
    assert "move it away" in document["problem"]


def test_an_interval_of_nothing_is_refused(many_channels):
    done = run(many_channels, "-n", "0", code=2)
    assert "-n" in done.stderr or "interval" in done.stderr


class Terminal:
    """``etui power top`` in a terminal of its own."""

    def __init__(self, environ, rows=36, columns=120):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        # pytest-xdist sets the size of a terminal of its own.
        own = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "etui", "power", "top", "-n", "0.3"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**own, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.output = b""

    def read_until(self, text):
        """Read until the text was written; fails after a long while."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.output.decode(errors="replace"):
            assert time.monotonic() < deadline, f"{text!r} never came"
            self._read(0.2)

    def end(self):
        """Read the rest, and return the exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it never ended"
            self._read(0.1)
        self._read(0.1)
        self.after = termios.tcgetattr(self.slave)
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode

    def _read(self, seconds):
        while select.select([self.master], [], [], seconds)[0]:
            with suppress(OSError):
                self.output += os.read(self.master, 1 << 16)
                return
            return


@pytest.mark.parametrize("way", ["ctrl-c", "q", "sigint", "sigterm"])
def test_a_terminal_gets_the_screen_and_is_restored(many_channels, config, way):
    log_turn(config)
    terminal = Terminal(many_channels)
    terminal.read_until("GPU7")
    terminal.read_until("qwen3-4b")
    assert ALT_SCREEN_ON in terminal.output
    if way == "ctrl-c":
        os.write(terminal.master, b"\x03")
    elif way == "q":
        os.write(terminal.master, b"q")
    else:
        terminal.process.send_signal(signal.SIGINT if way == "sigint" else signal.SIGTERM)
    assert terminal.end() == 0
    assert terminal.output.rfind(ALT_SCREEN_OFF) > terminal.output.rfind(ALT_SCREEN_ON)
    assert terminal.after == terminal.before
    assert b"Traceback" not in terminal.output


def test_a_terminal_gets_a_table_with_once(many_channels):
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "etui", "power", "top", "--once"],
        stdin=slave,
        stdout=slave,
        env=many_channels,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    os.close(slave)
    shown = b""
    with suppress(OSError):
        while chunk := os.read(master, 1 << 16):
            shown += chunk
    os.close(master)
    assert done.returncode == 0
    assert b"GPU7" in shown
    assert ALT_SCREEN_ON not in shown
