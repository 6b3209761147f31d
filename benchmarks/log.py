"""How fast the log is with many turns: writing, opening, sorting, searching, totals, export.

    python -m benchmarks.log [--turns 100000] [--json]

The database is made in a temporary folder; times are the best of five, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import accumulate
from pathlib import Path

from benchmarks.figures import Figure, in_turn, ratio_of, seconds_of, timed_in_turn
from etui.config.config import Config
from etui.log.chat_queries import list_chats
from etui.log.daily_energy import read_daily_energy
from etui.log.export import write_csv, write_json_lines
from etui.log.filters import Sort, TurnFilter
from etui.log.model_usage import read_model_usage
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.turn.record import Seconds, Tokens, TurnEnergy, TurnRecord

_TARGET_MS = 150.0
_OPEN = """
import sys, time
start = time.perf_counter()
from etui.config.config import load_config
from etui.log.writer import TurnWriter
with TurnWriter(load_config()) as writer:
    writer.ready()
print((time.perf_counter() - start) * 1e3)
assert "sqlite_utils" not in sys.modules
"""


@cache
def _weights(words: int) -> list[int]:
    """Sum up the weights of words, of which the first are the most frequent."""
    return list(accumulate(range(words, 0, -1)))


def made_turn(number: int, draw: random.Random, words: list[str]) -> TurnRecord:
    """A turn with plausible numbers, a question of 12 words and an answer of 60."""
    output = draw.randrange(1, 600)
    joules = draw.lognormvariate(3.0, 1.0) if draw.random() > 0.02 else None
    text = " ".join(draw.choices(words, cum_weights=_weights(len(words)), k=60))
    half = "half " if number % 2 else ""
    rare = "needle " if number % 20_000 == 77 else ""
    when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=120 * number)
    return TurnRecord(
        turn_id=f"{draw.getrandbits(48):012x}",
        created_at=when.isoformat(timespec="milliseconds"),
        chat_id=f"chat{number // 25}",
        query=f"common {half}{rare}" + text[:80],
        system=None,
        answer=text,
        thinking="",
        status="complete" if draw.random() > 0.05 else "stopped",
        error=None,
        model=f"model-{number % 4}",
        model_sha256=None,
        arm="quick",
        reasoning="direct",
        policy="balanced",
        rule="seldom" if number % 1000 == 0 else f"rule-{number % 5}",
        why="rule-0: nothing else matched",
        tokens=Tokens(200, 150, 50, 0, output),
        seconds=Seconds(0.0, 0.2, output / 40, 0.2 + output / 40, 0.21),
        energy=TurnEnergy(
            joules=joules,
            uncertainty=joules and joules * 0.05,
            net_joules=joules and joules * 0.7,
            idle_watts=20.0,
            kind=None if joules is None else "counter",
            coverage=1.0,
            mean_watts=80.0,
            peak_watts=120.0,
            joules_per_token=joules and joules / output,
            phases={"load": 0.0, "prefill": joules and joules * 0.1, "decode": joules},
            thinking_joules=None,
            channels={"gpu:0": joules} if joules else {},
            unmeasured=(),
            flags=(),
            start_ns=number * 10**9,
            end_ns=number * 10**9 + 10**9,
        ),
    )


def best_ms(call: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some calls, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def fill(config: Config, turns: int) -> float:
    """Write made turns; returns turns a second."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(5000)]
    start = time.perf_counter()
    with TurnWriter(config) as writer:
        for number in range(turns):
            writer.save_turn(made_turn(number, draw, words))
            if number % 5000 == 0:
                writer.flush()
    return turns / (time.perf_counter() - start)


def measure(config: Config, repeats: int = 5) -> dict[str, float]:
    """Name -> milliseconds of everything the history screen asks for, the best of some calls."""

    def best(call: Callable[[], object]) -> float:
        return best_ms(call, repeats)

    results: dict[str, float] = {}
    with LogReader(config) as log:
        for sort in Sort:
            for descending in (True, False):
                name = f"sort by {sort}{'' if descending else ', ascending'}"
                results[name] = best(
                    lambda s=sort, d=descending: log.list_turns(sort=s, descending=d, limit=100)
                )
        filters = {
            "model": TurnFilter(model="model-1"),
            "rule that is seldom": TurnFilter(rule="seldom"),
            "status": TurnFilter(status="stopped"),
            "search: in every turn": TurnFilter(search="common"),
            "search: in half of them": TurnFilter(search="half"),
            "search: in five": TurnFilter(search="needle"),
            "search: in none": TurnFilter(search="absent"),
            "search: one letter": TurnFilter(search="a"),
            "search: three words": TurnFilter(search="common half a"),
            "search and model": TurnFilter(search="half", model="model-1"),
            "search for signs": TurnFilter(search="=+"),
        }
        for name, wanted in filters.items():
            for sort in (Sort.TIME, Sort.JOULES):
                results[f"{name}, by {sort}"] = best(
                    lambda f=wanted, s=sort: log.list_turns(f, sort=s, limit=100)
                )
            results[f"{name}, count"] = best(lambda f=wanted: log.count_turns(f))
        results["the last page by joules"] = best(
            lambda: log.list_turns(sort=Sort.JOULES, limit=100, offset=log.count_turns() - 100)
        )
        for by in ("model", "rule", "day"):
            results[f"totals by {by}"] = best(lambda b=by: log.totals(b))
        results["a year by day and model"] = best(
            lambda: read_daily_energy(log, date(2026, 1, 1), date(2026, 12, 31))
        )
        results["usage by model and file"] = best(lambda: read_model_usage(log))
        turn = log.list_turns(limit=1)[0].turn_id
        results["one turn"] = best(lambda: log.get_turn(turn[:8]))
        results["chats"] = best(lambda: list_chats(log, limit=100))
    return results


def export_seconds(config: Config) -> dict[str, float]:
    """Format -> seconds of ``etui logs export`` of every turn, without starting Python."""
    seconds = {}
    for form, write in (("jsonl", write_json_lines), ("csv", write_csv)):
        with LogReader(config) as log, open(os.devnull, "w", encoding="utf-8", newline="") as file:
            seconds[form] = seconds_of(lambda w=write, f=file, o=log: w(o.turns(), f))
    return seconds


def cold_open_ms(config: Config) -> float:
    """From ``import`` to an open writer in a new process, in milliseconds."""
    return min(float(_python(_OPEN, config)) for _ in range(5))


def _python(code: str, config: Config) -> str:
    """What a program prints in a process of its own."""
    environment = {"ETUI_HOME": str(config.home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


QUICK_TURNS = (5_000, 500)


def quick() -> Iterator[Figure]:
    """Logs of 5,000 and of 500 turns: what ten times the turns cost, and a cold open."""
    with tempfile.TemporaryDirectory() as folder:
        large, small = (
            Config(home=Path(folder) / str(turns), models_dir=Path(folder) / "models")
            for turns in QUICK_TURNS
        )
        rate = fill(large, QUICK_TURNS[0])
        fill(small, QUICK_TURNS[1])
        yield Figure("write a turn", 1e3 / rate, "ms", "absolute", QUICK_TURNS[0])
        rounds = in_turn(lambda: measure(large, 1), lambda: measure(small, 1), 5)
        for what, pick in (("median", statistics.median), ("slowest", max)):
            yield ratio_of(
                f"{what} query of the history, 5,000 : 500 turns",
                [(pick(ours.values()), pick(theirs.values())) for ours, theirs in rounds],
            )
        pairs = timed_in_turn(lambda: export_seconds(large), lambda: export_seconds(small), 5)
        yield ratio_of("export as JSON lines and CSV, 5,000 : 500 turns", pairs)
        pairs = timed_in_turn(
            lambda: _python(_OPEN, large), lambda: _python("import sqlite3, json", large), 5
        )
        yield ratio_of("cold process that opens the log : one that imports sqlite3", pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--home", type=Path, help="keep the database here, or reuse it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        config = Config(home=home, models_dir=home / "models")
        rate = None if config.database.exists() else fill(config, options.turns)
        times = measure(config)
        opened = cold_open_ms(config)
        exported = export_seconds(config)
        size = config.database.stat().st_size
    slowest = max(times, key=lambda name: times[name])
    if options.json:
        document = {
            "turns": options.turns,
            "written_per_second": rate,
            "database_bytes": size,
            "cold_open_ms": opened,
            "export_seconds": exported,
            "times_ms": times,
            "target_ms": _TARGET_MS,
            "slowest": slowest,
        }
        print(json.dumps(document, indent=2))
        return
    for name, milliseconds in times.items():
        print(f"{milliseconds:9.1f} ms  {name}")
    print(f"{opened:9.1f} ms  import, open for writing and close, in a new process")
    for form, seconds in exported.items():
        print(f"{seconds:9.2f} s   export every turn as {form}")
    print(f"slowest {times[slowest]:.1f} ms ({slowest}), target {_TARGET_MS:.0f} ms")
    if rate is not None:
        print(f"{rate:,.0f} turns written a second; {size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
