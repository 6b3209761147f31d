"""The engine's own process against the engine in this one: the same answers, side by side.

Rounds alternate, each with a prompt of its own that neither side has in its cache; all times are
taken here, where an event arrives. Then the child alone: how long an answer still runs after a
cancel, while it decodes and at several moments of a prefill, and how long after ``kill -9`` in the
middle of an answer the next one begins. Joules a token stand beside each where anything measures.

    python -m benchmarks.child [MODEL.gguf] [--threads N] [--tokens N] [--rounds N] [--json]
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.sides import arguments, joules_per_token, starter
from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest, Cancel
from etui.backends.local import LocalBackend
from etui.backends.process import ProcessBackend
from etui.chat import Message
from etui.config.config import load_config, make_home
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.errors import EngineFailed
from etui.events import Answer, Finished, Loaded, Prefilling
from etui.models.spec import ModelSpec
from etui.units import per_token_text

CONTEXT_TOKENS = 2048
SPEC = ModelSpec("bench", "", (), context=CONTEXT_TOKENS)
STORY = "Tell a long story about a village by the sea, its harbour and the people who live there."
LONG = "a storm broke the fence and nine goats ran to the market " * 110
CANCELS = 6


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer as it arrived: seconds to the first token, seconds a token after it."""

    first_seconds: float
    token_seconds: float
    text: str
    tokens: int
    start_ns: int
    end_ns: int


def quick() -> Iterator[Figure]:
    """Five pairs of answers of 48 tokens of the starter model, three cancels, a kill."""
    path, config = starter(), load_config()
    make_home(config)
    with closing(LocalBackend(config)) as here, closing(ProcessBackend(config)) as child:
        pairs = pairs_of(here, child, path, tokens=48, rounds=5)
        yield ratio_of(
            "seconds a token, child : in this process",
            [(c.token_seconds, h.token_seconds) for h, c in pairs],
        )
        yield ratio_of(
            "first token, child : in this process",
            [(c.first_seconds, h.first_seconds) for h, c in pairs],
        )
        stops = [cancelled(child, request(path, STORY, 1500), Answer, 0.05) for _ in range(3)]
        milliseconds = [1000 * seconds for seconds, _ in stops]
        yield median_of("cancel while decoding", milliseconds, "ms", "absolute")
        seconds = [restarted(child, path)[1] for _ in range(2)]
        yield median_of("kill to the next answer's first token", seconds, "s", "absolute")


def main() -> None:
    """Run the rounds and print the table."""
    chosen = arguments(__doc__, tokens=96, rounds=6).parse_args()
    config = replace(load_config(), threads=chosen.threads)
    config.log_dir.mkdir(parents=True, exist_ok=True)
    with (
        open_recorder(config) as recorder,
        closing(LocalBackend(config)) as here,
        closing(ProcessBackend(config)) as child,
    ):
        report = {
            "model": chosen.model.stem,
            "threads": chosen.threads,
            "tokens": chosen.tokens,
            "rounds": chosen.rounds,
            **answers(here, child, recorder, chosen),
            **cancels(child, chosen.model),
            **restarts(child, chosen.model, chosen.rounds),
        }
    if chosen.json:
        print(json.dumps(report))
        return
    show(report)


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{report['model']}, {report['threads']} threads, {report['rounds']} rounds")
    for name, side in (("in this process", "here"), ("in the child", "child")):
        joules = per_token_text(report[f"{side}_joules_per_token"], report["kind"])
        print(
            f"  {name:16s} {report[f'{side}_ms_per_token']:7.2f} ms/token, "
            f"first token {report[f'{side}_first_ms']:7.1f} ms, {joules}"
        )
    print(f"  tokens/s, child : here           {report['ratio_tokens_per_second']:7.3f}")
    print(f"  first token, child : here        {report['ratio_first']:7.3f}")
    print(f"  same text                        {'yes' if report['same_text'] else 'NO':>7s}")
    print(
        f"  cancel while decoding            {report['cancel_decode_ms']:7.1f} ms, "
        f"at worst {report['cancel_decode_worst_ms']:.1f} ms  (to reach: < 200)"
    )
    print(
        f"  cancel while prefilling          {report['cancel_prefill_ms']:7.1f} ms, "
        f"at worst {report['cancel_prefill_worst_ms']:.1f} ms; "
        f"a batch takes {report['batch_ms']:.1f} ms"
    )
    print(
        f"  batches that still ended         {report['cancel_prefill_batches']:7d}     "
        "(to reach: at most the one under way)"
    )
    print(
        f"  killed, next answer's first event{report['restart_event_seconds']:7.2f} s, first token "
        f"{report['restart_token_seconds']:.2f} s  (to reach: < 2 s)"
    )


def request(path: Path, text: str, tokens: int) -> AnswerRequest:
    """A greedy answer of so many tokens at most."""
    arm = Arm("bench", "bench", max_tokens=tokens, sampling=Sampling(temperature=0))
    return AnswerRequest(SPEC, path, (Message("user", text),), arm)


def timed(answerer: LocalBackend | ProcessBackend, asked: AnswerRequest) -> Timed:
    """Run one answer to its end."""
    start_ns = time.monotonic_ns()
    at, end = [], None
    for event in answerer.answer(asked):
        if isinstance(event, Loaded):
            start_ns = time.monotonic_ns()  # only the first answer loads
        if isinstance(event, Answer) and event.tokens:
            at.append((time.monotonic_ns(), event.tokens))
        end = event
    assert isinstance(end, Finished)
    first_ns, last_ns = at[0][0], at[-1][0]
    decoded = sum(tokens for _, tokens in at[1:])
    seconds = (last_ns - first_ns) / 1e9 / max(1, decoded)
    return Timed(
        (first_ns - start_ns) / 1e9, seconds, end.answer, end.output_tokens, start_ns, last_ns
    )


def pairs_of(
    here: LocalBackend, child: ProcessBackend, path: Path, *, tokens: int, rounds: int
) -> list[tuple[Timed, Timed]]:
    """The same answers in this process and in the child, each side first in turn."""
    for side in (here, child):
        timed(side, request(path, STORY, 4))  # loads and warms up

    def asker(side: LocalBackend | ProcessBackend) -> Callable[[], Timed]:
        numbers = count(1)  # neither side has a prompt of this number in its cache
        return lambda: timed(side, request(path, f"{next(numbers)}. {STORY}", tokens))

    return in_turn(asker(here), asker(child), rounds)


def answers(
    here: LocalBackend, child: ProcessBackend, recorder: Recorder, chosen: Any
) -> dict[str, Any]:
    """The same answers on both sides, each side first in turn."""
    pairs = pairs_of(here, child, chosen.model, tokens=chosen.tokens, rounds=chosen.rounds)
    report: dict[str, Any] = {}
    for name, rounds in zip(("here", "child"), zip(*pairs, strict=True), strict=True):
        report[f"{name}_ms_per_token"] = 1000 * statistics.median(t.token_seconds for t in rounds)
        report[f"{name}_first_ms"] = 1000 * statistics.median(t.first_seconds for t in rounds)
        report[f"{name}_joules_per_token"], report["kind"] = joules_per_token(
            recorder, [(t.start_ns, t.end_ns) for t in rounds], sum(t.tokens for t in rounds)
        )
    report["ratio_tokens_per_second"] = statistics.median(
        h.token_seconds / c.token_seconds for h, c in pairs
    )
    report["ratio_first"] = statistics.median(c.first_seconds / h.first_seconds for h, c in pairs)
    report["same_text"] = all(h.text == c.text for h, c in pairs)
    return report


def cancels(child: ProcessBackend, path: Path) -> dict[str, Any]:
    """Seconds from a cancel to the end of the answer."""
    decoding = [
        cancelled(child, request(path, STORY, 1500), Answer, 0.05 + 0.01 * i)
        for i in range(CANCELS)
    ]
    whole = request(path, f"whole {LONG}", 1)
    ends = [event.t_ns for event in child.answer(whole) if isinstance(event, Prefilling)]
    batch_seconds = statistics.median(b - a for a, b in pairwise(ends)) / 1e9
    prefilling = [
        cancelled(child, request(path, f"{i} {LONG}", 1), Prefilling, batch_seconds * i / CANCELS)
        for i in range(CANCELS)
    ]
    return {
        "cancel_decode_ms": 1000 * statistics.median(seconds for seconds, _ in decoding),
        "cancel_decode_worst_ms": 1000 * max(seconds for seconds, _ in decoding),
        "batch_ms": 1000 * batch_seconds,
        "cancel_prefill_ms": 1000 * statistics.median(seconds for seconds, _ in prefilling),
        "cancel_prefill_worst_ms": 1000 * max(seconds for seconds, _ in prefilling),
        "cancel_prefill_batches": max(batches for _, batches in prefilling),
    }


def cancelled(
    child: ProcessBackend, asked: AnswerRequest, after: type[Any], wait_seconds: float
) -> tuple[float, int]:
    """Cancel so long after the first event of a kind; seconds and prefill batches until the end."""
    cancel_ns, batches, cancel = None, 0, Cancel()
    for event in child.answer(asked, cancel):
        if cancel_ns is None and isinstance(event, after):
            time.sleep(wait_seconds)
            cancel_ns = time.monotonic_ns()
            cancel.cancel()
        elif cancel_ns is not None and isinstance(event, Prefilling) and event.t_ns > cancel_ns:
            batches += 1
    assert isinstance(event, Finished)
    assert cancel_ns is not None
    if event.status != "stopped":
        raise SystemExit("the answer ended before it was cancelled; use a slower model")
    return (time.monotonic_ns() - cancel_ns) / 1e9, batches


def restarts(child: ProcessBackend, path: Path, rounds: int) -> dict[str, float]:
    """Seconds from a kill to the next answer's first event, and to its first token."""
    pairs = [restarted(child, path) for _ in range(rounds)]
    return {
        "restart_event_seconds": statistics.median(event for event, _ in pairs),
        "restart_token_seconds": statistics.median(token for _, token in pairs),
    }


def restarted(child: ProcessBackend, path: Path) -> tuple[float, float]:
    """One kill in the middle of an answer, and the answer after it."""
    killed: list[float] = []
    try:
        for event in child.answer(request(path, STORY, 1500)):
            if isinstance(event, Answer) and not killed and child.pid is not None:
                killed.append(time.perf_counter())
                os.kill(child.pid, signal.SIGKILL)
    except EngineFailed:
        pass
    first: float | None = None
    for event in child.answer(request(path, STORY, 2)):
        first = first or time.perf_counter()
        if isinstance(event, Answer):
            break
    assert first is not None
    return first - killed[0], time.perf_counter() - killed[0]


if __name__ == "__main__":
    main()
