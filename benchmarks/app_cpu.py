"""CPU time that the app takes per token of an answer, in a real pseudo-terminal.

    python -m benchmarks.app_cpu [--text numbers|prose|code ...] [--speed N] [--seconds N]
                                 [--rounds N] [--earlier N] [--baseline PATH] [--json]

The app runs as always (meter, log, engine in a child process), but its engine computes nothing:
it writes a text at a fixed speed. All CPU time is then etui's own. It is counted from the fourth
second of an answer on: of the thread that draws, of the app's others, and of the child process.
With ``--baseline`` the etui of another checkout runs by turns with this one.

Where every core decodes, a second of CPU time of the app is a second in which a core of llama.cpp
waits, and the others wait for that one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from benchmarks.fake_serve import _build_gguf
from benchmarks.paced_app import ENGINE, POLICY
from benchmarks.paced_engine import TEXT, TOKENS_PER_SECOND
from benchmarks.terminal import Terminal

PROMPT = "Ask"
SETTLE_SECONDS = 4.0
"""The pace of drawing follows its cost; after this long it has settled."""

MODELS = "models:\n  fake:\n    size: nothing\n    sources: [{path: fake.gguf}]\n"
ONE_ARM = """version: 1
description: One arm.
arms:
  long: {model: fake, reasoning: direct, max_tokens: 8192}
rules: [{name: all, use: long}]
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one token costs etui.

    Attributes:
        drawing_us, others_us: CPU time of the app: of the thread that draws, and of all others.
        child_us: CPU time of the engine process, which also stands in for the decoding.
        wakeups: How often a thread of the app went to sleep.
        child_wakeups: The same for the engine process.
        terminal_bytes: Bytes written to the terminal.
    """

    drawing_us: float
    others_us: float
    child_us: float
    wakeups: float
    child_wakeups: float
    terminal_bytes: float

    @property
    def app_us(self) -> float:
        """CPU time of the app's process."""
        return self.drawing_us + self.others_us


@dataclass(frozen=True, slots=True)
class _Look:
    """Counts of an app and its engine process so far."""

    at: float
    drawing: float
    app: float
    child: float
    wakeups: int
    child_wakeups: int
    terminal_bytes: int


def measure(
    text: str, speed: float, seconds: float, checkout: Path | None = None, earlier: int = 0
) -> Cost:
    """Measure one answer.

    Args:
        text: What the engine writes; see :func:`benchmarks.paced_engine.build_text`.
        speed: Tokens per second.
        seconds: How long to count.
        checkout: Folder of another etui; None for this one.
        earlier: Answers of two seconds in the chat before it.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        (home / "fake.gguf").write_bytes(_build_gguf())
        (home / "models.yaml").write_text(MODELS)
        (home / "policies").mkdir()
        (home / "policies" / f"{POLICY}.yaml").write_text(ONE_ARM)
        os.environ |= {TEXT: text, TOKENS_PER_SECOND: str(speed)}
        here = Path(__file__).resolve().parent
        command = [sys.executable, str(here / "paced_app.py")]
        app = Terminal(command, home, checkout=checkout or here.parent)
        try:
            app.wait(PROMPT)
            time.sleep(SETTLE_SECONDS)
            for _ in range(earlier):
                app.wait("answering", app.send("go\r"))
                time.sleep(SETTLE_SECONDS / 2)
                app.send("\x1b")
                time.sleep(SETTLE_SECONDS / 4)
            app.wait("answering", app.send("go\r"))
            time.sleep(SETTLE_SECONDS)
            before = _look(app)
            time.sleep(seconds)
            after = _look(app)
        finally:
            app.close()
    tokens = (after.at - before.at) * speed
    micro = 1e6 / tokens
    drawing = (after.drawing - before.drawing) * micro
    return Cost(
        drawing_us=drawing,
        others_us=(after.app - before.app) * micro - drawing,
        child_us=(after.child - before.child) * micro,
        wakeups=(after.wakeups - before.wakeups) / tokens,
        child_wakeups=(after.child_wakeups - before.child_wakeups) / tokens,
        terminal_bytes=(after.terminal_bytes - before.terminal_bytes) / tokens,
    )


def _look(app: Terminal) -> _Look:
    children = psutil.Process(app.pid).children()
    (child,) = [each for each in children if ENGINE in " ".join(each.cmdline())]
    drawing, wakeups = _count_threads(app.pid, only_main=True)
    every, wakeups = _count_threads(app.pid)
    engine, child_wakeups = _count_threads(child.pid)
    return _Look(
        time.monotonic(), drawing, every, engine, wakeups, child_wakeups, app.written_bytes
    )


def _count_threads(pid: int, *, only_main: bool = False) -> tuple[float, int]:
    """Return the CPU seconds of the threads of a process, and how often they went to sleep."""
    seconds, slept = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if only_main and task.name != str(pid):
            continue
        seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
        status = (task / "status").read_text()
        line = next(each for each in status.splitlines() if each.startswith("voluntary"))
        slept += int(line.split()[1])
    return seconds, slept


def median_cost(costs: list[Cost]) -> Cost:
    """Return the median of every part."""
    parts = {f.name: statistics.median(getattr(c, f.name) for c in costs) for f in fields(Cost)}
    return Cost(**parts)


def format_cost(name: str, cost: Cost, speed: float) -> str:
    """Format one line of the table."""
    return (
        f"{name:18s} app {cost.app_us:5.0f} us/token = {1e-4 * cost.app_us * speed:4.1f} % of a"
        f" core (draws {cost.drawing_us:5.0f}, others {cost.others_us:4.0f}),"
        f" child {cost.child_us:4.0f} us; wakeups {cost.wakeups:.2f}, {cost.child_wakeups:.2f};"
        f" {cost.terminal_bytes:.1f} B to the terminal"
    )


def main() -> None:
    """Measure, and print one line for each text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", nargs="+", default=["numbers", "prose", "code"])
    parser.add_argument("--speed", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--earlier", type=int, default=0)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    sides: dict[str, Path | None] = {"here": None}
    if chosen.baseline is not None:
        sides["baseline"] = chosen.baseline
    for text in chosen.text:
        taken: dict[str, list[Cost]] = {name: [] for name in sides}
        for _ in range(chosen.rounds):
            for name, checkout in sides.items():
                taken[name].append(
                    measure(text, chosen.speed, chosen.seconds, checkout, chosen.earlier)
                )
        for name, costs in taken.items():
            cost = median_cost(costs)
            if chosen.json:
                print(
                    json.dumps({"text": text, "side": name, "app_us": cost.app_us, **asdict(cost)})
                )
            else:
                print(format_cost(f"{text}, {name}", cost, chosen.speed), flush=True)


if __name__ == "__main__":
    main()
