"""The app in a real pseudo-terminal: first paint, key echo, what it costs the decode and a core.

First paint is timed from the shell to the prompt on the screen. Key echo is the time from a key to
its character on the terminal, while a fake engine streams 200 tokens a second into a code fence and
100 earlier turns are in the chat. Decode is the same greedy answer of the starter model by
``etui ask`` and in the app, by turns, as the log has it. At rest the CPU time of the app is that of
its process, the recorder's thread beside it. In the history, on a log of made turns, a key is timed
until the status line tells of the new order or of what was found, the table drawn before it.

    python -m benchmarks.tui [--rounds N] [--keys N] [--seconds N] [--turns N] [--only PART ...]
                             [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pexpect
import psutil

from benchmarks import log
from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.sides import starter
from etui.config.config import Config
from etui.config.load import load_config
from etui.energy.discovery import open_recorder
from etui.models.spec import STARTER

PROMPT = "Ask something"
WELCOME = "Every answer shows what it cost"
QUESTION = "Write the numbers from 1 to 300, separated by commas."
RARE = "".join(map(chr, [*range(0x410, 0x450), *range(0x3B1, 0x3C2), *range(0x531, 0x557)]))
"""Letters that nothing else on the screen has."""

BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("Ask something")
Bare().run()
"""
"""The least that Textual can show."""

PARTS = ("paint", "echo", "decode", "rest", "history")
PATIENCE_SECONDS = 120
SETTLE_SECONDS = 3.0

SORTS = ("joules, most", "joules per token, most", "seconds, longest", "tokens, most",
         "model, a", "rule, a", "time, newest")  # fmt: skip
SEARCHES = ("needle", "absent", "half", "common")
"""Words of the made turns: in five of them, in none, in every second, in each."""


class Terminal:
    """A program in a pseudo-terminal whose output is read all the time."""

    def __init__(self, command: list[str], home: Path, size: tuple[int, int] = (36, 120)) -> None:
        environment = {
            **os.environ,
            "ETUI_HOME": str(home),
            "ETUI_MODELS": str(load_config().models_dir),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }
        environment.pop("NO_COLOR", None)
        self._seen = bytearray()
        self._more = threading.Condition()
        self.started = time.perf_counter()
        self._app = pexpect.spawn(command[0], command[1:], env=environment, dimensions=size)
        self._app.delaybeforesend = None
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process number of the program."""
        return int(self._app.pid)

    def send(self, text: str) -> int:
        """Type something; returns how much was on the terminal before it."""
        with self._more:
            before = len(self._seen)
        self._app.send(text)
        return before

    def wait(self, text: str, after: int = 0) -> float:
        """Wait until the program has written something; returns when."""
        wanted = text.encode()
        deadline = time.perf_counter() + PATIENCE_SECONDS
        with self._more:
            while self._seen.find(wanted, max(0, after - len(wanted))) < 0:
                if not self._more.wait(deadline - time.perf_counter()):
                    raise SystemExit(f"{text!r} never came")
        return time.perf_counter()

    def close(self) -> None:
        """End the program."""
        self._app.close(force=True)

    def _read(self) -> None:
        while True:
            try:
                data = self._app.read_nonblocking(65536, None)
            except (pexpect.EOF, OSError, ValueError):
                return
            with self._more:
                self._seen += data
                self._more.notify_all()


@contextmanager
def terminal(*command: str) -> Iterator[Terminal]:
    """A program in a terminal, with a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        made = Terminal([sys.executable, *command], Path(home))
        try:
            yield made
        finally:
            made.close()


def quick() -> Iterator[Figure]:
    """First paint against a bare Textual app's, and key echo while streaming against at rest."""
    starter()
    etui, bare = ("-m", "etui", "--model", STARTER), ("-c", BARE)
    painted(*etui)  # fills the disk's cache
    pairs = in_turn(lambda: painted(*etui), lambda: painted(*bare), 4)
    yield ratio_of("first paint, etui : a bare Textual app", pairs)
    milliseconds = [1e3 * own for own, _ in pairs]
    yield median_of("first paint", milliseconds, "ms", "absolute")
    keys = 20
    with terminal("-m", "benchmarks.fake_chat") as app:
        _open_long_chat(app)
        at_rest = echoes(app, RARE[:keys])
        app.wait("answering", app.send("go\r"))
        time.sleep(SETTLE_SECONDS / 3)
        streaming = echoes(app, RARE[keys : 2 * keys])
    yield ratio_of(
        "key echo in a long chat, while an answer streams : at rest",
        list(zip(streaming, at_rest, strict=True)),
    )
    milliseconds = [1e3 * seconds for seconds in streaming]
    yield median_of("key echo while an answer streams", milliseconds, "ms", "absolute")


def paint(rounds: int) -> dict[str, Any]:
    """Seconds from the shell to the prompt; the first round fills the disk's cache."""
    taken = [painted("-m", "etui", "--model", STARTER) for _ in range(rounds + 1)]
    return {"paint_seconds": statistics.median(taken[1:]), "paint_worst_seconds": max(taken[1:])}


def painted(*command: str) -> float:
    """Seconds from the start of a program to its prompt on the terminal."""
    with terminal(*command) as app:
        return app.wait(PROMPT) - app.started


def echo(keys: int) -> dict[str, Any]:
    """Seconds from a key to its character, while an answer streams."""
    with terminal("-m", "benchmarks.fake_chat") as app:
        _open_long_chat(app)
        app.wait("answering", app.send("go\r"))
        time.sleep(SETTLE_SECONDS)
        ordered = sorted(echoes(app, RARE[:keys]))
    return {
        "echo_median_ms": 1e3 * statistics.median(ordered),
        "echo_p95_ms": 1e3 * ordered[int(0.95 * (len(ordered) - 1))],
        "echo_worst_ms": 1e3 * ordered[-1],
        "keys": len(ordered),
    }


def echoes(app: Terminal, letters: str) -> list[float]:
    """Seconds from each key to its character."""
    taken = []
    for letter in letters:
        sent = time.perf_counter()
        taken.append(app.wait(letter, app.send(letter)) - sent)
        time.sleep(0.13)  # in no step with the batches
    return taken


def _open_long_chat(app: Terminal) -> None:
    app.wait("Fake GPU")
    app.send("\x0f")  # Ctrl+O: the chats
    app.wait("A long chat")
    time.sleep(SETTLE_SECONDS / 3)  # the list has it chosen by now
    app.send("\r")
    app.wait("Question 99?")
    time.sleep(SETTLE_SECONDS)


def decode(rounds: int) -> dict[str, Any]:
    """Seconds a token by ``etui ask`` and in the app, each of the same answer, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        app = Terminal([sys.executable, "-m", "etui", "--model", STARTER], home)
        try:
            app.wait("loaded in")
            time.sleep(SETTLE_SECONDS)
            for number in range(1, rounds + 1):
                _ask(home)
                app.send(f"{QUESTION}\r")
                _wait_for_turns(home / "etui.db", 2 * number)
                time.sleep(SETTLE_SECONDS / 3)
                app.wait(WELCOME, app.send("\x0e"))  # Ctrl+N: nothing is remembered
        finally:
            app.close()
        with closing(sqlite3.connect(home / "etui.db")) as database:
            rows = database.execute(
                "SELECT chat_id IS NOT NULL, seconds_decode / tokens_output, tokens_output "
                "FROM turns WHERE status != 'stopped' ORDER BY created_at"
            ).fetchall()
    asked = [seconds for in_app, seconds, _ in rows if not in_app]
    shown = [seconds for in_app, seconds, _ in rows if in_app]
    return {
        "ask_ms_per_token": 1e3 * statistics.median(asked),
        "app_ms_per_token": 1e3 * statistics.median(shown),
        "decode_ratio": statistics.median(b / a for a, b in zip(asked, shown, strict=True)),
        "same_tokens": len({tokens for _, _, tokens in rows}) == 1,
    }


def _wait_for_turns(path: Path, turns: int) -> None:
    """Wait until so many turns are in the log."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    with closing(sqlite3.connect(path)) as database:
        while database.execute("SELECT count(*) FROM turns").fetchone()[0] < turns:
            if time.perf_counter() > deadline:
                raise SystemExit("the answer never reached the log")
            time.sleep(0.2)


def _ask(home: Path) -> None:
    """One answer of the command line."""
    subprocess.run(
        [sys.executable, "-m", "etui", "ask", "--model", STARTER, "--quiet", QUESTION],
        env={**os.environ, "ETUI_HOME": str(home), "ETUI_MODELS": str(load_config().models_dir)},
        check=True,
        capture_output=True,
    )


def rest(seconds: float) -> dict[str, Any]:
    """Shares of one core at rest: the app, the app in quiet mode, and the recorder alone."""
    with terminal("-m", "etui", "--model", STARTER) as app:
        app.wait("loaded in")
        time.sleep(2 * SETTLE_SECONDS)
        usual = _share(app.pid, seconds)
        app.send("\x1b[19~")  # F8: quiet mode
        time.sleep(SETTLE_SECONDS)
        quiet = _share(app.pid, seconds)
    with open_recorder(load_config()):
        time.sleep(SETTLE_SECONDS)
        alone = _share(os.getpid(), seconds)
    return {
        "rest_share": usual,
        "quiet_share": quiet,
        "recorder_share": alone,
        "panel_share": max(0.0, usual - alone),
    }


def _share(pid: int, seconds: float) -> float:
    """CPU time of a process over a while, as a share of one core."""
    process = psutil.Process(pid)
    before, began = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return float(spent / (time.perf_counter() - began))


def history(turns: int) -> dict[str, Any]:
    """Seconds from a key in the history to what it asked for, on a log of so many turns."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        log.fill(Config(home=home, models_dir=home / "models"), turns)
        app = Terminal([sys.executable, "-m", "etui", "--model", STARTER], home)
        try:
            app.wait("loaded in")
            app.wait("newest first", app.send("\x1bOR"))  # F3
            time.sleep(SETTLE_SECONDS)
            sorts = {name: _until(app, "s", f"by {name} first") for name in SORTS}
            searches = {}
            for word in SEARCHES:
                app.send("/")
                time.sleep(SETTLE_SECONDS / 3)
                app.send(word[:-1])
                time.sleep(SETTLE_SECONDS)
                searches[word] = _until(app, word[-1], f'with "{word}"')
                app.wait("newest first", app.send("\x1b"))
                time.sleep(SETTLE_SECONDS / 3)
        finally:
            app.close()
    return {"turns": turns, "sort_ms": sorts, "search_ms": searches}


def _until(app: Terminal, key: str, text: str) -> float:
    """Milliseconds from a key to a text on the terminal."""
    sent = time.perf_counter()
    return 1e3 * (app.wait(text, app.send(key)) - sent)


def show(report: dict[str, Any]) -> None:
    """Print what was measured."""
    if "paint_seconds" in report:
        print(
            f"first paint                  {1e3 * report['paint_seconds']:7.0f} ms, at worst "
            f"{1e3 * report['paint_worst_seconds']:.0f} ms  (to reach: < 700)"
        )
    if "echo_p95_ms" in report:
        print(
            f"key echo, p95 of {report['keys']:<4d}        {report['echo_p95_ms']:7.1f} ms, median "
            f"{report['echo_median_ms']:.1f} ms, at worst {report['echo_worst_ms']:.1f} ms  "
            "(to reach: < 50)"
        )
    if "decode_ratio" in report:
        print(
            f"decode, app : ask            {report['decode_ratio']:7.3f}     "
            f"({report['app_ms_per_token']:.2f} : {report['ask_ms_per_token']:.2f} ms/token)  "
            "(to reach: <= 1.03)"
        )
        print(f"  same number of tokens      {'yes' if report['same_tokens'] else 'NO':>7s}")
    if "panel_share" in report:
        print(
            f"at rest, one core            {100 * report['rest_share']:7.1f} %, quiet mode "
            f"{100 * report['quiet_share']:.1f} %, the recorder alone "
            f"{100 * report['recorder_share']:.1f} %"
        )
        print(
            f"  the panel                  {100 * report['panel_share']:7.1f} %   (to reach: < 3)"
        )
    if "sort_ms" in report:
        for what in ("sort", "search"):
            times = report[f"{what}_ms"]
            slowest = max(times, key=lambda name: times[name])
            print(
                f"{what} of {report['turns']:,} turns".ljust(29)
                + f"{times[slowest]:7.0f} ms at worst ({slowest}), median "
                f"{statistics.median(times.values()):.0f} ms  (to reach: < 150)"
            )


def main() -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=100_000, help="in the history")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    report: dict[str, Any] = {}
    if "paint" in chosen.only:
        report |= paint(chosen.rounds)
    if "echo" in chosen.only:
        report |= echo(chosen.keys)
    if "decode" in chosen.only:
        report |= decode(chosen.rounds)
    if "rest" in chosen.only:
        report |= rest(chosen.seconds)
    if "history" in chosen.only:
        report |= history(chosen.turns)
    if chosen.json:
        print(json.dumps(report))
        return
    show(report)


if __name__ == "__main__":
    main()
