"""Speculation against decoding without it: copied code, prose, a draft model, batches by rows.

Each pair asks one session the same question, once with `off` and once with speculation, by turns,
so that whatever else the machine does hits both. Time runs from the first token to the last. The
two texts are compared: where they part, the gap of the two logits says how near the tie was.

    python -m benchmarks.speculation [--models A,B] [--tokens N] [--rounds N] [--threads N] [--json]

The copy is asked of qwen2.5-coder-1.5b, the prose of every model on disk, and qwen2.5-coder-0.5b
drafts for 1.5b; models that are not there are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Figure, in_turn, median_interval, ratio_of
from benchmarks.sides import TimedSession, ignored_ends, make_session, starter
from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.config.config import load_config
from etui.config.machine import machine_name
from etui.engine.context import Context
from etui.engine.library import Library, default_threads
from etui.engine.model import Model
from etui.engine.speculation.draft_model import DraftModel, check_same_vocabulary
from etui.events import Verified
from etui.models.spec import STARTER

COPIER, SMALL = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"
MODELS = (STARTER, "gemma-3-270m", SMALL, COPIER)
CONTEXT_TOKENS = 2048
GREEDY = Sampling(temperature=0)
PROSE = "Tell me a story about a lighthouse keeper and a storm."
ROWS = (1, 2, 4, 8, 16)
COPY_TOKENS = 900
"""More than the function has: the model ends its answer itself."""

FUNCTION = '''def summarise_readings(readings, limit, unit="W"):
    """Summarise power readings of a device.

    Args:
        readings: Pairs of seconds and value, oldest first.
        limit: Values above this one count as peaks.
        unit: Unit of the values, for the text.

    Returns:
        A dictionary with the number of readings, their mean and peak, and a line of text.
    """
    if not readings:
        return {"count": 0, "mean": None, "peak": None, "text": "no readings"}
    total = 0.0
    peak = None
    peaks = 0
    gaps = []
    last_seconds = None
    for seconds, value in readings:
        if value is None:
            continue
        total += value
        if peak is None or value > peak:
            peak = value
        if value > limit:
            peaks += 1
        if last_seconds is not None:
            gaps.append(seconds - last_seconds)
        last_seconds = seconds
    count = sum(1 for _, value in readings if value is not None)
    if count == 0:
        return {"count": 0, "mean": None, "peak": None, "text": "no values"}
    mean = total / count
    longest_gap = max(gaps) if gaps else 0.0
    shortest_gap = min(gaps) if gaps else 0.0
    spread = 0.0
    for _, value in readings:
        if value is not None:
            spread += (value - mean) ** 2
    deviation = (spread / count) ** 0.5
    if deviation > mean:
        steadiness = "unsteady"
    elif deviation > mean / 4:
        steadiness = "variable"
    else:
        steadiness = "steady"
    text = f"{count} readings, mean {mean:.1f} {unit}, peak {peak:.1f} {unit}"
    if peaks:
        text += f", {peaks} above {limit:.1f} {unit}"
    if longest_gap > 2 * shortest_gap:
        text += f", longest gap {longest_gap:.1f} s"
    return {
        "count": count,
        "mean": mean,
        "peak": peak,
        "peaks": peaks,
        "deviation": deviation,
        "steadiness": steadiness,
        "text": text,
    }
'''

COPY = (
    "Repeat this function with the argument `limit` renamed to `threshold`, and change nothing "
    f"else. Answer with the code only.\n\n```python\n{FUNCTION}```"
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: its tokens, the seconds from the first to the last, and its verifications."""

    tokens: tuple[int, ...]
    seconds: float
    verified: tuple[Verified, ...]

    @property
    def token_seconds(self) -> float:
        """Seconds a token."""
        return self.seconds / max(1, len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class Result:
    """Pairs of one question.

    Attributes:
        name: Question, method and model.
        tokens: Tokens of an answer.
        off_tokens_per_second, tokens_per_second: Medians.
        speedup: Median over the pairs of the two speeds.
        low, high: Its interval; None with one pair.
        drafted, accepted, batches: Of the last answer with speculation.
        rounds: Number of pairs.
        diverged: Pairs of which the texts part.
        logit_gap: Largest gap of the logits where they part: 0 is a tie; None if none does.
    """

    name: str
    tokens: int
    off_tokens_per_second: float
    tokens_per_second: float
    speedup: float
    low: float | None
    high: float | None
    drafted: int
    accepted: int
    batches: int
    rounds: int
    diverged: int
    logit_gap: float | None


def quick() -> Iterator[Figure]:
    """The starter: a list that goes on as it began, and prose; a few short pairs each."""
    with ignored_ends(), opened(starter(), default_threads()) as session:
        cases: tuple[tuple[str, str, Speculate], ...] = (
            ("a repeated list, auto", "Repeat: " + "red, green, blue, white; " * 12, "auto"),
            ("prose, auto", PROSE, "auto"),
        )
        for name, question, method in cases:
            prompt = prompt_of(session, question)
            ask(session, prompt, 8, method)
            pairs = pairs_of(session, prompt, 64, method, 5)
            yield ratio_of(
                f"seconds a token, {name} : off",
                [(own.token_seconds, off.token_seconds) for own, off in pairs],
            )


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer in prose")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="copy,prose,draft,rows")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    folder = load_config().models_dir
    paths = {name: folder / f"{name}.gguf" for name in chosen.models.split(",")}
    there = {name: path for name, path in paths.items() if path.is_file()}
    for name in sorted(paths.keys() - there.keys()):
        print(f"no {name} in {folder}: left out", file=sys.stderr)
    if not there:
        raise SystemExit(1)
    results, rows = measure(there, chosen)
    if chosen.json:
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine_name()}
        print(json.dumps({**about, "results": [asdict(one) for one in results], "rows": rows}))
        return
    for result in results:
        gap = "" if result.logit_gap is None else f", logit gap {result.logit_gap:.3f}"
        print(
            f"  {result.name:38s} {result.tokens:4d} tokens"
            f"  off {result.off_tokens_per_second:6.1f}"
            f"  with {result.tokens_per_second:6.1f} tokens/s  x {result.speedup:5.3f}"
            f"  accepted {result.accepted}/{result.drafted} in {result.batches} batches"
            f"  diverged {result.diverged}/{result.rounds}{gap}"
        )
    print("  to reach: copy, lookup >= 1.5; prose, auto >= 0.97")
    for name, costs in rows.items():
        line = "  ".join(f"{count}: {cost:.2f}" for count, cost in costs.items())
        print(f"  batch by rows, {name}: {line}")


def measure(
    there: dict[str, Path], chosen: argparse.Namespace
) -> tuple[list[Result], dict[str, dict[int, float]]]:
    """All pairs and the costs of batches, one model in memory at a time, and its draft."""
    parts = set(chosen.only.split(","))
    results: list[Result] = []
    rows: dict[str, dict[int, float]] = {}
    for name, path in there.items():
        if "copy" in parts and (name == COPIER or COPIER not in there):
            with opened(path, chosen.threads) as session:
                prompt = prompt_of(session, COPY)
                copied: tuple[Speculate, ...] = ("lookup", "auto")
                for method in copied:
                    label = f"copy, {method}, {name}"
                    results.append(
                        result_of(session, label, prompt, COPY_TOKENS, method, chosen.rounds)
                    )
        with ignored_ends(), opened(path, chosen.threads) as session:
            if "prose" in parts:
                prompt = prompt_of(session, PROSE)
                results.append(
                    result_of(
                        session,
                        f"prose, auto, {name}",
                        prompt,
                        chosen.tokens,
                        "auto",
                        chosen.rounds,
                    )
                )
            if "rows" in parts:
                rows[name] = cost_by_rows(session)
            if "draft" in parts and name == COPIER and SMALL in there:
                add_draft(session, there[SMALL])
                prompt = prompt_of(session, PROSE)
                drafted: tuple[Speculate, ...] = ("draft", "auto")
                for method in drafted:
                    label = f"prose, {method} with {SMALL}, {name}"
                    results.append(
                        result_of(session, label, prompt, chosen.tokens, method, chosen.rounds)
                    )
    return results, rows


@contextmanager
def opened(path: Path, threads: int) -> Iterator[TimedSession]:
    """Open a session and free it."""
    session = make_session(path, threads, CONTEXT_TOKENS)
    try:
        yield session
    finally:
        session.free()


def prompt_of(session: TimedSession, question: str) -> list[int]:
    """Tokens of the rendered question."""
    return session.tokenize(session.render([Message("user", question)]), bos=True)


def ask(session: TimedSession, prompt: list[int], tokens: int, method: Speculate) -> Answered:
    """Answer once; the prompt stays in the cache for the next time."""
    sequence = session.open(prompt, GREEDY)
    drawn: list[int] = []
    verified: list[Verified] = []
    step = session.step([sequence])
    while not step.sampled:
        step = session.step([sequence])
    session.speculate(sequence, method)
    drawn.append(step.sampled[0].token)
    start = time.perf_counter()
    while len(drawn) < tokens and not step.sampled[0].ends:
        step = session.step([sequence])
        drawn.append(step.sampled[0].token)
        verified += step.verified
    seconds = time.perf_counter() - start
    verified += session.settle(sequence)
    session.close(sequence)
    return Answered(tuple(drawn), seconds, tuple(verified))


def pairs_of(
    session: TimedSession, prompt: list[int], tokens: int, method: Speculate, rounds: int
) -> list[tuple[Answered, Answered]]:
    """Pairs with speculation and without, by turns."""
    return in_turn(
        lambda: ask(session, prompt, tokens, method),
        lambda: ask(session, prompt, tokens, "off"),
        rounds,
    )


def result_of(
    session: TimedSession,
    name: str,
    prompt: list[int],
    tokens: int,
    method: Speculate,
    rounds: int,
) -> Result:
    """Measure the pairs of one question."""
    ask(session, prompt, 8, "off")  # the prompt is in the cache
    pairs = pairs_of(session, prompt, tokens, method, rounds)
    gaps = [
        gap_at(session, prompt, own.tokens, off.tokens)
        for own, off in pairs
        if own.tokens != off.tokens
    ]
    last = pairs[-1][0]
    speedups = [off.token_seconds / own.token_seconds for own, off in pairs]
    low, high = median_interval(speedups)
    return Result(
        name=name,
        tokens=len(last.tokens),
        off_tokens_per_second=1 / statistics.median(off.token_seconds for _, off in pairs),
        tokens_per_second=1 / statistics.median(own.token_seconds for own, _ in pairs),
        speedup=statistics.median(speedups),
        low=low,
        high=high,
        drafted=sum(batch.drafted for batch in last.verified),
        accepted=sum(batch.accepted for batch in last.verified),
        batches=len(last.verified),
        rounds=rounds,
        diverged=len(gaps),
        logit_gap=max(gaps, default=None),
    )


def gap_at(
    session: TimedSession, prompt: list[int], first: Sequence[int], second: Sequence[int]
) -> float:
    """Gap in nats of the two tokens where two answers part, computed row by row."""
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)) - 1,
    )
    sequence = session.open([*prompt, *first[:shared]], GREEDY)
    try:
        step = session.step([sequence], draw=False)
        while sequence.pending:
            step = session.step([sequence], draw=False)
        del step
        own, other = session.logprobs(sequence, [first[shared], second[shared]])
        return abs(own - other)
    finally:
        session.close(sequence, keep=False)


def cost_by_rows(session: TimedSession, rounds: int = 6) -> dict[int, float]:
    """Median time of a batch of so many rows with all logits, relative to one row, by turns."""
    context = session._context
    prompt = prompt_of(session, PROSE)
    sequence = session.open(prompt, GREEDY)
    while not session.step([sequence]).sampled:
        pass
    at = len(sequence.tokens) - 1
    times: dict[int, list[float]] = {count: [] for count in ROWS}
    for _ in range(rounds):
        for count in ROWS:
            context.batch.clear()
            context.batch.add(sequence.slot, prompt[:1] * count, at, with_logits=True)
            context.batch.want_logits(count)
            start = time.perf_counter()
            context.decode()
            times[count].append(time.perf_counter() - start)
            context.remove(sequence.slot, at)
    session.close(sequence, keep=False)
    return {
        count: statistics.median(a / b for a, b in zip(taken, times[1], strict=True))
        for count, taken in times.items()
    }


def add_draft(session: TimedSession, path: Path) -> None:
    """Let another model draft for the session's, as the residency does."""
    library = Library(load_config().log_dir)
    model = Model(library, path)
    check_same_vocabulary(session.vocabulary, "the model", model, path.stem)
    options = replace(session.options, sequences=1, donors=0, verify_rows=1)
    share = model.size_bytes / session.vocabulary.size_bytes
    context = Context(library, model, options)
    session.speculator.add(DraftModel(model, context, session.vocabulary.vocabulary, share))


if __name__ == "__main__":
    main()
