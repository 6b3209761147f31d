"""Turns of many clients in a pool: nothing lost, memory flat, and how long a decision takes.

    python -m benchmarks.turn_pool [--turns 10000] [--clients 50] [--parallel 8] [--json]

The engine is scripted: it answers with ten tokens at once. Everything else is real: the queue, the
decision, the shared meter, the record and the log. Each client has one turn at a time. Memory is
the resident size after the last turn minus that after the first fifth, when every cache is full.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure
from etui.backends.base import AnswerRequest, Cancel
from etui.chat import Query
from etui.config.config import Config, load_config, shipped_dir
from etui.energy.idle import IdleTracker
from etui.energy.recorder import Recorder
from etui.events import (
    Answer,
    BatchShare,
    Event,
    Finished,
    Loaded,
    Prefilled,
    Residence,
    SharedBatch,
    Unloaded,
)
from etui.log.queries import LogReader
from etui.models.files import FileRecord, read_state, write_record
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime
from etui.runtime.turn_pool import TurnPool
from etui.runtime.turn_request import PoolEvent, TurnFailed, TurnRequest
from etui.turn.events import TurnFinished
from etui.turn.record import ClientRecord

MODEL = "scripted"
POLICY = "mine"
TOKENS = 10
WAIT_SECONDS = 600.0


class ScriptedEngine:
    """Answers with a few tokens at once, and reports a batch for each answer."""

    pid: int | None = 1

    def __init__(self) -> None:
        self.on_unloaded: Callable[[Unloaded], None] | None = None
        self.long_step = None
        self.on_batch: Callable[[SharedBatch], None] | None = None
        self._lock = threading.Lock()
        self._number = 0
        self._end_ns = time.monotonic_ns()
        self._loaded = False

    def begin(self) -> tuple[int, bool]:
        """Return the number of a new answer, and whether the model was in memory."""
        with self._lock:
            self._number += 1
            loaded, self._loaded = self._loaded, True
            return self._number, loaded

    def compute(self, number: int) -> None:
        """Report a batch that follows the one before it without a gap."""
        with self._lock:
            start_ns, self._end_ns = self._end_ns, time.monotonic_ns()
            batch = SharedBatch(MODEL, start_ns, self._end_ns, (BatchShare(number, 5, TOKENS),))
            if self.on_batch is not None:
                self.on_batch(batch)

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        """Yield the events of an answer, which ends at once."""
        number, loaded = self.begin()
        assert cancel is not None
        cancel.numbers = (*cancel.numbers, number)
        start = time.monotonic_ns()
        if not loaded:
            yield Loaded(MODEL, start, start, 0, 1000)
        yield Prefilled(start, start, 5, 0, 5)
        for _ in range(TOKENS):
            yield Answer(time.monotonic_ns(), "word ", 1)
        self.compute(number)
        end, text = time.monotonic_ns(), "word " * TOKENS
        yield Finished(
            start, start, start, end, start, "complete", "", text, "", 5, 0, 5, 0, TOKENS
        )

    def load(self, model: object, path: Path, draft: object = None) -> Iterator[Residence]:
        """Load nothing."""
        return iter(())

    def unload(self, model: str) -> Iterator[Residence]:
        """Unload nothing."""
        return iter(())

    def keep_warm(self, model: str, seconds: float | None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def open_pool(parallel: int) -> Iterator[tuple[TurnPool, Config]]:
    """Open a pool over the scripted engine, with a log in a folder of its own."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        config = replace(load_config(), home=home, models_dir=home / "models", model=None)
        config.models_dir.mkdir()
        file = config.models_dir / f"{MODEL}.gguf"
        file.write_bytes(b"no model: the engine is scripted")
        record = FileRecord.of(file, read_state(file), "0" * 64)
        write_record(MODEL, config.models_dir, record)
        config.policies_dir.mkdir()
        balanced = (shipped_dir() / "policies" / "balanced.yaml").read_text("utf-8")
        own = balanced.replace("smollm2-135m", MODEL)  # the last choice of every role
        (config.policies_dir / f"{POLICY}.yaml").write_text(own, "utf-8")
        engine = ScriptedEngine()
        runtime: Runtime[Any] = Runtime(config, lambda _: engine)
        runtime.recorder = Recorder([])
        with runtime:
            tracker = IdleTracker(runtime.recorder, config)
            pool = TurnPool(runtime, parallel=parallel, queue_limit=10_000, idle_tracker=tracker)
            yield pool, config
            pool.close(WAIT_SECONDS)


class Client:
    """Asks one question after another, each as soon as the one before has ended."""

    def __init__(self, pool: TurnPool, overrides: Overrides, turns: Iterator[int]) -> None:
        self._pool = pool
        self._overrides = overrides
        self._turns = turns
        self.ids: list[str] = []
        self.failed = 0
        self.done = threading.Event()

    def ask(self) -> None:
        """Ask the next question; ``done`` is set after the last one."""
        number = next(self._turns, None)
        if number is None:
            self.done.set()
            return
        request = TurnRequest(
            Query(f"Question {number}?"), self._overrides, ClientRecord("/benchmark")
        )
        self.ids.append(self._pool.submit(request, self._hear).turn_id)

    def _hear(self, event: PoolEvent) -> None:
        if isinstance(event, TurnFailed):
            self.failed += 1
        if isinstance(event, TurnFinished | TurnFailed):
            self.ask()


def run_turns(pool: TurnPool, turns: int, clients: int) -> tuple[set[str], int, float]:
    """Run turns of many clients; return their ids, the failures, and the seconds they took."""
    numbers = iter(range(turns))
    asking = [Client(pool, Overrides(model=MODEL), numbers) for _ in range(clients)]
    began = time.perf_counter()
    for client in asking:
        client.ask()
    for client in asking:
        if not client.done.wait(WAIT_SECONDS):
            raise TimeoutError("a turn did not end")
    seconds = time.perf_counter() - began
    return {id_ for c in asking for id_ in c.ids}, sum(c.failed for c in asking), seconds


def measure(turns: int, clients: int, parallel: int) -> dict[str, float]:
    """Run the turns, and return the figures by name."""
    import psutil

    process = psutil.Process()
    with open_pool(parallel) as (pool, config):
        first, failed, _ = run_turns(pool, turns // 5, clients)
        pool._runtime.writer.flush()
        before = process.memory_info().rss
        rest, more_failed, seconds = run_turns(pool, turns - turns // 5, clients)
        pool._runtime.writer.flush()
        after = process.memory_info().rss
        with LogReader(config) as log:
            saved = {row[0] for row in log.select("SELECT turn_id FROM turns")}
        by_model = [time_decision(pool, Overrides(model=MODEL), n) for n in range(200)]
        by_policy = [time_decision(pool, Overrides(policy=POLICY), n) for n in range(200)]
    return {
        "turns": turns,
        "failed": failed + more_failed,
        "lost": len((first | rest) - saved),
        "ms_per_turn": 1e3 * seconds / max(1, len(rest)),
        "growth_mb": (after - before) / 1e6,
        "decide_model_ms": statistics.median(by_model),
        "decide_policy_ms": statistics.median(by_policy),
    }


def time_decision(pool: TurnPool, overrides: Overrides, number: int) -> float:
    """Return the milliseconds of a decision."""
    request = TurnRequest(Query(f"What is the capital of country {number}?"), overrides)
    began = time.perf_counter()
    pool.decide(request)
    return 1e3 * (time.perf_counter() - began)


def quick() -> Iterator[Figure]:
    """Measure the short form: 1,500 turns, 50 at a time."""
    found = measure(1500, 50, 8)
    yield Figure("turns lost or failed of 1,500", found["lost"] + found["failed"], "", "absolute")
    yield Figure("memory per 1,000 turns", found["growth_mb"] / 1.2, "MB", "absolute")
    yield Figure("a turn without its engine", found["ms_per_turn"], "ms", "absolute")
    yield Figure("decision for a model", found["decide_model_ms"], "ms", "absolute")
    yield Figure("decision by a policy", found["decide_policy_ms"], "ms", "absolute")


def main() -> None:
    """Run the turns and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000, help="number of turns")
    parser.add_argument(
        "--clients", type=int, default=50, help="turns at a time, most of them queued"
    )
    parser.add_argument("--parallel", type=int, default=8, help="turns that run at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    found = measure(options.turns, options.clients, options.parallel)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.turns:,} turns of {options.clients} clients, {options.parallel} at a time")
    print(f"  lost {found['lost']:g}, failed {found['failed']:g}")
    print(f"  memory after the first fifth: {found['growth_mb']:+.1f} MB")
    print(f"  {found['ms_per_turn']:.2f} ms a turn without its engine")
    print(f"  a decision: {found['decide_model_ms']:.3f} ms for a model,", end=" ")
    print(f"{found['decide_policy_ms']:.3f} ms by a policy")


if __name__ == "__main__":
    main()
