"""The app in a real pseudo-terminal: first paint, key echo, what it costs the decode and a core.

    python -m benchmarks.tui [CASE ...] [--baseline PATH] [--rounds N] [--keys N] [--seconds N]
                             [--turns N] [--json]

Each case prints one line with its target, and one line of JSON; all run without a name.

- **paint**: from the shell to the prompt on the screen; with ``--baseline``, by turns with the etui
  of another checkout.
- **echo**: from a key to its character on the terminal, while a fake engine streams 200 tokens a
  second into a code fence, and 100 earlier turns are in the chat: the median of the p95 of five
  runs.
- **decode**: the same greedy answer of the starter model by ``etui ask`` and in the app, by turns,
  as the log has it.
- **panel**: CPU time of the app at rest with 12 channels of known watts and no meter of its own.
- **history**: on a log of made turns, a key is timed until the status line tells of the new order,
  or of what was found, the table drawn before it.
- **attach**: a file of 200 kB is named in the prompt of the starter model; until its tokens are
  counted there, keys go on to echo.
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
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import log
from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.sides import starter
from benchmarks.terminal import PATIENCE_SECONDS, Terminal, terminal
from etui.config.config import Config, load_config
from etui.models.spec import STARTER

PROMPT = "Ask"
"""The prompt begins so, in this etui and in earlier ones."""

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

CHANNELS = 12
FILE_BYTES = 200_000
COUNTED = r"[^0-9.\x88][0-9][0-9.,]*k tokens"
"""Tokens of thousands that a tokenizer counted: an estimate has a sign before it."""

SETTLE_SECONDS = 3.0

SORTS = ("joules, most", "joules per token, most", "seconds, longest", "tokens, most",
         "model, a", "rule, a", "time, newest")  # fmt: skip
SEARCHES = ("needle", "absent", "half", "common", "=+")
"""Words of the made turns: in five of them, in none, in every second, in each; and signs, for which
all texts are read."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a case measured.

    Attributes:
        case: Its name.
        line: The figures in words.
        target: What is to be reached.
        reached: Whether it is.
        figures: The figures.
    """

    case: str
    line: str
    target: str
    reached: bool
    figures: dict[str, Any]

    @property
    def text(self) -> str:
        """The figures and the target, in one line."""
        return f"{self.line}  (target {self.target}: {'reached' if self.reached else 'MISSED'})"

    @property
    def document(self) -> dict[str, Any]:
        """The figures and the target, for JSON."""
        return {
            "case": self.case, "target": self.target, "reached": self.reached, **self.figures
        }  # fmt: skip


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


def painted(*command: str, checkout: Path | None = None) -> float:
    """Seconds from the start of a program to its prompt on the terminal."""
    with terminal(*command, checkout=checkout) as app:
        return app.wait(PROMPT) - app.started


def paint(options: argparse.Namespace) -> Result:
    """Measure seconds from the shell to the prompt; the first round fills the disk's cache."""
    command = ("-m", "etui", "--model", STARTER)
    sides: list[Path | None] = [None]
    if options.baseline is not None:
        if not (options.baseline / "etui" / "tui").is_dir():
            raise SystemExit(f"{options.baseline} is no checkout of etui")
        sides.append(options.baseline)
    taken = [
        [painted(*command, checkout=side) for side in sides] for _ in range(options.rounds + 1)
    ][1:]
    own = statistics.median(row[0] for row in taken)
    figures: dict[str, Any] = {
        "paint_seconds": own, "paint_worst_seconds": max(row[0] for row in taken),
    }  # fmt: skip
    line = f"first paint {1e3 * own:.0f} ms, at worst {1e3 * figures['paint_worst_seconds']:.0f} ms"
    if len(sides) == 1:
        return Result("paint", line, "< 700 ms", own < 0.7, figures)
    before = statistics.median(row[1] for row in taken)
    share = statistics.median(row[0] / row[1] for row in taken)
    figures |= {"baseline_seconds": before, "paint_ratio": share}
    line += f", baseline {1e3 * before:.0f} ms, ratio {share:.3f}"
    return Result("paint", line, "ratio <= 0.90", share <= 0.9, figures)


def echo(options: argparse.Namespace) -> Result:
    """Measure the time from a key to its character, while an answer streams."""
    runs = []
    for _ in range(options.rounds):
        with terminal("-m", "benchmarks.fake_chat") as app:
            _open_long_chat(app)
            app.wait("answering", app.send("go\r"))
            time.sleep(SETTLE_SECONDS)
            runs.append(sorted(1e3 * taken for taken in echoes(app, RARE[: options.keys])))
    p95 = [row[int(0.95 * (len(row) - 1))] for row in runs]
    middle = statistics.median(statistics.median(row) for row in runs)
    worst = max(row[-1] for row in runs)
    figures = {
        "echo_p95_ms": statistics.median(p95), "echo_p95_ms_of_runs": p95,
        "echo_median_ms": middle, "echo_worst_ms": worst, "keys": len(runs[0]),
    }  # fmt: skip
    line = (
        f"key echo p95 {figures['echo_p95_ms']:.1f} ms (median of {len(runs)} runs of "
        f"{len(runs[0])} keys), median {middle:.1f} ms, at worst {worst:.0f} ms"
    )
    return Result("echo", line, "p95 < 50 ms", statistics.median(p95) < 50, figures)


def echoes(app: Terminal, letters: str) -> list[float]:
    """Seconds from each key to its character."""
    taken = []
    for letter in letters:
        sent = time.perf_counter()
        taken.append(app.wait(letter, app.send(letter)) - sent)
        time.sleep(0.13)  # in no step with the batches
    return taken


def _open_long_chat(app: Terminal) -> None:
    app.wait(PROMPT)
    time.sleep(SETTLE_SECONDS / 3)
    app.send("\x0f")  # Ctrl+O: the chats
    app.wait("A long chat")
    time.sleep(SETTLE_SECONDS / 3)  # the list has it chosen by now
    app.send("\r")
    app.wait("Question 99?")
    time.sleep(SETTLE_SECONDS)


def decode(options: argparse.Namespace) -> Result:
    """Measure tokens a second by ``etui ask`` and in the app, each of the same answer, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        app = Terminal([sys.executable, "-m", "etui", "--model", STARTER], home)
        try:
            app.wait(PROMPT)
            time.sleep(2 * SETTLE_SECONDS)  # the model is in memory
            for number in range(1, options.rounds + 1):
                _ask(home)
                app.send(f"{QUESTION}\r")
                _wait_for_turns(home / "etui.db", 2 * number)
                time.sleep(SETTLE_SECONDS / 3)
                app.send("\x0e")  # Ctrl+N: nothing is remembered
                time.sleep(SETTLE_SECONDS / 3)
        finally:
            app.close()
        with closing(sqlite3.connect(home / "etui.db")) as database:
            rows = database.execute(
                "SELECT chat_id IS NOT NULL, seconds_decode / tokens_output, tokens_output "
                "FROM turns WHERE status != 'stopped' ORDER BY created_at"
            ).fetchall()
    asked = [seconds for in_app, seconds, _ in rows if not in_app]
    shown = [seconds for in_app, seconds, _ in rows if in_app]
    share = statistics.median(a / b for a, b in zip(asked, shown, strict=True))
    figures = {
        "ask_ms_per_token": 1e3 * statistics.median(asked),
        "app_ms_per_token": 1e3 * statistics.median(shown),
        "decode_ratio": share,
        "same_tokens": len({tokens for _, _, tokens in rows}) == 1,
    }
    line = (
        f"decode, tokens a second of app : ask {share:.3f} ({figures['app_ms_per_token']:.2f} : "
        f"{figures['ask_ms_per_token']:.2f} ms a token, "
        f"{'the same' if figures['same_tokens'] else 'DIFFERENT'} tokens)"
    )
    return Result("decode", line, ">= 0.98", share >= 0.98, figures)


def _wait_for_turns(path: Path, turns: int) -> None:
    """Wait until so many turns are in the log."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    with closing(sqlite3.connect(path)) as database:
        while database.execute("SELECT count(*) FROM turns").fetchone()[0] < turns:
            if time.perf_counter() > deadline:
                raise SystemExit("the answer never reached the log")
            time.sleep(0.2)


def _ask(home: Path) -> None:
    """One answer of the command line; exit status 4 says that a repetition was cut."""
    ended = subprocess.run(
        [sys.executable, "-m", "etui", "ask", "--model", STARTER, "--quiet", QUESTION],
        env={**os.environ, "ETUI_HOME": str(home), "ETUI_MODELS": str(load_config().models_dir)},
        check=False,
        capture_output=True,
    )
    if ended.returncode not in (0, 4):
        raise SystemExit(ended.stderr.decode())


def panel(options: argparse.Namespace) -> Result:
    """Measure the share of one core that the app takes at rest with 12 channels."""
    with terminal("-m", "benchmarks.fake_chat", "--channels", str(CHANNELS)) as app:
        app.wait(PROMPT)
        time.sleep(2 * SETTLE_SECONDS)
        share = _share(app.pid, options.seconds)
    line = f"panel with {CHANNELS} channels {100 * share:.1f} % of a core (the whole app at rest)"
    return Result("panel", line, "< 3 %", share < 0.03, {"panel_share": share})


def _share(pid: int, seconds: float) -> float:
    """CPU time of a process over a while, as a share of one core."""
    process = psutil.Process(pid)
    before, began = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return float(spent / (time.perf_counter() - began))


def history(options: argparse.Namespace) -> Result:
    """Measure the time from a key in the history to what it asked for, on a log of made turns."""
    turns = options.turns
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        config = Config(home=home, models_dir=home / "models")
        if not config.database.exists():
            log.fill(config, turns)
        app = Terminal([sys.executable, "-m", "etui", "--model", STARTER], home)
        try:
            app.wait(PROMPT)
            time.sleep(SETTLE_SECONDS)
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
    slow_sort, slow_search = (
        max(sorts, key=sorts.__getitem__),
        max(searches, key=searches.__getitem__),
    )
    line = (
        f"history of {turns:,} turns: sort {sorts[slow_sort]:.0f} ms at worst ({slow_sort}), "
        f"search {searches[slow_search]:.0f} ms at worst ({slow_search})"
    )
    reached = max(*sorts.values(), *searches.values()) < 150
    figures = {"turns": turns, "sort_ms": sorts, "search_ms": searches}
    return Result("history", line, "both < 150 ms", reached, figures)


def attach(options: argparse.Namespace) -> Result:
    """Measure how long a file takes to be attached and counted, and the keys meanwhile."""
    taken, waits = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            home = Path(folder)
            (home / "big.txt").write_text("The joule is the unit of energy. " * (FILE_BYTES // 33))
            app = Terminal([sys.executable, "-m", "etui", "--model", STARTER], home)
            try:
                app.wait(PROMPT)
                time.sleep(2 * SETTLE_SECONDS)  # the model is in memory
                app.send("@big.tx")
                time.sleep(SETTLE_SECONDS / 3)
                before = app.send("t ")
                sent = time.perf_counter()
                for letter in RARE[: options.keys]:
                    key = time.perf_counter()
                    waits.append(1e3 * (app.wait(letter, app.send(letter)) - key))
                    if app.has(COUNTED, before):
                        break
                taken.append(1e3 * (app.wait_for(COUNTED, before) - sent))
            finally:
                app.close()
    middle, worst = statistics.median(taken), max(waits)
    line = (
        f"a file of {FILE_BYTES // 1000} kB attached and counted in {middle:.0f} ms, "
        f"keys meanwhile {worst:.0f} ms at worst"
    )
    figures = {"attach_ms": middle, "attach_ms_of_runs": taken, "echo_worst_ms": worst}
    return Result("attach", line, "< 300 ms, keys < 50 ms", middle < 300 and worst < 50, figures)


def _until(app: Terminal, key: str, text: str) -> float:
    """Milliseconds from a key to a text on the terminal."""
    sent = time.perf_counter()
    return 1e3 * (app.wait(text, app.send(key)) - sent)


CASES: dict[str, Callable[[argparse.Namespace], Result]] = {
    "paint": paint,
    "echo": echo,
    "decode": decode,
    "panel": panel,
    "history": history,
    "attach": attach,
}


def main() -> None:
    """Run the cases, one line and one JSON document each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--baseline", type=Path, help="checkout of an older etui, for paint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=100, help=f"at most {len(RARE)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the panel at rest")
    parser.add_argument("--turns", type=int, default=100_000, help="in the history")
    parser.add_argument("--home", type=Path, help="keep the log of the history here, or reuse it")
    parser.add_argument("--json", action="store_true", help="print only the JSON documents")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    for name in options.cases or CASES:
        result = CASES[name](options)
        if not options.json:
            print(result.text, flush=True)
        print(json.dumps(result.document), flush=True)


if __name__ == "__main__":
    main()
