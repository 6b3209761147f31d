"""Threads that follow the load: etui's ``auto`` against fixed counts and ``Llama``, side by side.

One run measures a quiet machine, then one where another process spins on a core (started and ended
here), and then the way back. Sides take turns in short segments, each side first in turn. Every
side decodes greedily from the same prompt. Joules a token are those of the estimate channel, and of
simulated devices with known power: idle watts, and watts for each core that this process uses.

    python -m benchmarks.threads [--models NAME,NAME] [--rounds N] [--seconds S] [--json]
    python -m benchmarks.threads --serve [--models NAME]

The second form asks ``etui serve`` by one and by eight clients, with ``auto`` and with the most
threads in turn, and counts how often the threads of each answer changed.

GOMP_SPINCOUNT and OMP_WAIT_POLICY in the environment change how libgomp's threads wait.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from benchmarks.figures import Figure, Skipped, median_of, ratio_of
from benchmarks.http_sides import ask_together, etui_server
from benchmarks.sides import ignored_ends, make_llama
from etui.arm import Sampling
from etui.config.config import load_config
from etui.energy.recorder import Recorder
from etui.energy.sources.estimate import EstimateSource
from etui.engine.chat_prompt import ChatTemplate
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Library, default_threads
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model
from etui.engine.session import ModelFacts
from etui.engine.session_loader import CPU_BATCH_TOKENS
from etui.engine.template_process import TemplateProcess
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.models.spec import STARTER

PROMPT = "Once upon a time in a small village by the sea there lived"
CONTEXT_TOKENS = 1024
MOST_TOKENS = CONTEXT_TOKENS - 64
PREFILL_TOKENS = 2 * CPU_BATCH_TOKENS
SERVED_TOKENS = 100
MODELS = (STARTER, "qwen2.5-coder-1.5b")
SPINNING = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""
FULL_SPEED = 1.15
"""Full speed is back with the first of eight tokens that take at most this multiple together."""
SETTLING = 8

DEVICES = {"laptop": (3.0, 5.0), "desktop": (40.0, 12.0), "server": (90.0, 6.0)}
"""Simulated devices: idle watts, and watts for each busy core."""


@dataclass(frozen=True, slots=True)
class Token:
    """When a token was there, and the CPU time of this process by then; nanoseconds."""

    t_ns: int
    cpu_ns: int

    @classmethod
    def now(cls) -> Token:
        """Read both clocks."""
        return cls(time.monotonic_ns(), time.process_time_ns())


Decode: TypeAlias = Callable[[float], list[Token]]
"""A side: it decodes for some seconds and returns its tokens."""


@dataclass(slots=True)
class Side:
    """What one side did in all its segments."""

    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Median over the segments."""
        return statistics.median(self.rates)

    @property
    def joules_per_token(self) -> float | None:
        """Joules of the estimate channel; None if it missed a segment."""
        known = [joules for joules in self.joules if joules is not None]
        return sum(known) / self.tokens if len(known) == len(self.joules) else None

    def simulated_joules_per_token(self, idle_watts: float, core_watts: float) -> float:
        """Joules of a device with known power."""
        return (idle_watts * self.seconds + core_watts * self.cpu_seconds) / self.tokens


@contextmanager
def busy_core() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that spins on a core; it ends with this one, too."""
    process = subprocess.Popen([sys.executable, "-c", SPINNING])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Bench:
    """The sides on one model: etui with ``auto`` and with fixed counts, and ``Llama``.

    Fixed counts are two contexts of one model, and one ``Llama`` whose count is set.
    """

    def __init__(self, path: Path, library: Library, llama: Any) -> None:
        most = default_threads()
        self.most = most
        self._llama = llama
        self._api = library.api
        self._model = Model(library, path, 0)
        self._templates = TemplateProcess()
        self.auto = self._open(library, ThreadControl(ThreadLimits(most, most)))
        self.fixed = self._open(library, ThreadControl(ThreadLimits(most, most, adapt=False)))

    def _open(self, library: Library, control: ThreadControl) -> LlamaSession:
        options = ContextOptions(CONTEXT_TOKENS, self.most, batch_tokens=CPU_BATCH_TOKENS)
        context = Context(library, self._model, options, control)
        template = ChatTemplate(
            self._templates, "bench", None, self._model.bos_text, self._model.eos_text
        )
        facts = ModelFacts("bench", CONTEXT_TOKENS, ())
        return LlamaSession(self._model, context, facts, template)

    def free(self) -> None:
        """Free both contexts and the model."""
        self.fixed._context.free()
        self.auto.free()
        self._templates.close()

    def sides(self) -> dict[str, Decode]:
        """Return the sides by name."""
        counts = sorted({1, self.most})
        return {
            "etui auto": lambda seconds: self.decode(self.auto, seconds),
            **{f"etui {n}": lambda seconds, n=n: self._fixed(n, seconds) for n in counts},
            **{f"Llama {n}": lambda seconds, n=n: self._run_llama(n, seconds) for n in counts},
        }

    def decode(
        self, session: LlamaSession, seconds: float, ended: Callable[[], bool] = lambda: False
    ) -> list[Token]:
        """Decode for some seconds, and return the times of every token."""
        tokens: list[Token] = []
        end_ns = None
        sequence = session.open(session.tokenize(PROMPT, bos=True), Sampling(temperature=0))
        while end_ns is None or (tokens[-1].t_ns < end_ns and not ended()):
            if len(sequence.tokens) >= MOST_TOKENS:
                session.close(sequence, keep=False)
                sequence = session.open(session.tokenize(PROMPT, bos=True), Sampling(temperature=0))
            if session.step([sequence]).sampled:
                tokens.append(Token.now())
                end_ns = end_ns or tokens[0].t_ns + int(seconds * 1e9)
        session.close(sequence)
        return tokens

    def _fixed(self, threads: int, seconds: float) -> list[Token]:
        self._api.llama_set_n_threads(self.fixed._context.handle, threads, threads)
        return self.decode(self.fixed, seconds)

    def _run_llama(self, threads: int, seconds: float) -> list[Token]:
        self._api.llama_set_n_threads(self._llama._ctx.ctx, threads, threads)
        tokens: list[Token] = []
        chunks = self._llama.create_completion(
            PROMPT, max_tokens=MOST_TOKENS - 32, temperature=0, stream=True
        )
        for _ in chunks:
            tokens.append(Token.now())
            if tokens[-1].t_ns - tokens[0].t_ns > seconds * 1e9:
                break
        chunks.close()
        return tokens

    def prefill(self, threads: int | None) -> float:
        """Return the tokens per second of a prefill; None is ``auto``."""
        session = self.auto if threads is None else self.fixed
        if threads is not None:
            self._api.llama_set_n_threads(self.fixed._context.handle, threads, threads)
        tokens = [100 + i % 1000 for i in range(PREFILL_TOKENS)]
        session.forget()
        sequence = session.open(tokens, Sampling(temperature=0))
        start_ns = time.monotonic_ns()
        while sequence.pending:
            session.step([sequence], draw=False)
        seconds = (time.monotonic_ns() - start_ns) / 1e9
        session.close(sequence, keep=False)
        return PREFILL_TOKENS / seconds


def measure(
    sides: Mapping[str, Decode],
    rounds: int,
    seconds: float,
    recorder: Recorder | None = None,
) -> dict[str, Side]:
    """Let the sides take turns, each first in turn, and return what each did."""
    found = {name: Side() for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            tokens = sides[name](seconds)
            first, last = tokens[0], tokens[-1]
            side, span = found[name], (last.t_ns - first.t_ns) / 1e9
            side.tokens += len(tokens) - 1
            side.seconds += span
            side.cpu_seconds += (last.cpu_ns - first.cpu_ns) / 1e9
            side.rates.append((len(tokens) - 1) / span)
            if recorder is not None:
                recorder.settle(last.t_ns)
                side.joules.append(recorder.energy(first.t_ns, last.t_ns).joules)
    return found


def measure_way_back(bench: Bench, full_seconds: float, longest: float) -> float:
    """Return the seconds from the end of the spinning process to full speed.

    Args:
        bench: The sides, with a busy core for some time.
        full_seconds: Seconds a token at full speed.
        longest: When to give up, seconds.
    """
    freed_ns = 0
    with busy_core() as process:
        bench.decode(bench.auto, 1.5)

        def free_core() -> bool:
            nonlocal freed_ns
            if not freed_ns:
                process.kill()
                process.wait()
                freed_ns = time.monotonic_ns()
            return time.monotonic_ns() - freed_ns > longest * 1e9

        tokens = bench.decode(bench.auto, 600, free_core)
    times = [token.t_ns for token in tokens if token.t_ns >= freed_ns]
    return seconds_to_full_speed(times, freed_ns, full_seconds)


def seconds_to_full_speed(times: Sequence[int], freed_ns: int, full_seconds: float) -> float:
    """Return the seconds to the first token from which eight take as long as at full speed.

    Args:
        times: Time of each token, nanoseconds.
        freed_ns: When the core became free.
        full_seconds: Seconds a token at full speed.

    Returns:
        The seconds; infinity if full speed did not come back.
    """
    for i in range(len(times) - SETTLING):
        if times[i + SETTLING] - times[i] <= SETTLING * FULL_SPEED * full_seconds * 1e9:
            return max(0, times[i] - freed_ns) / 1e9
    return float("inf")


@contextmanager
def opened(path: Path) -> Iterator[Bench]:
    """Open the sides on a model's file."""
    with ExitStack() as stack:
        stack.enter_context(ignored_ends())
        folder = stack.enter_context(TemporaryDirectory())
        library = stack.enter_context(closing(Library(Path(folder))))
        llama = stack.enter_context(closing(make_llama(path, default_threads(), CONTEXT_TOKENS)))
        bench = Bench(path, library, llama)
        stack.callback(bench.free)
        yield bench


def quick() -> Iterator[Figure]:
    """The starter model, two rounds of half a second, quiet and with a busy core."""
    path = load_config().models_dir / f"{STARTER}.gguf"
    if not path.is_file():
        raise Skipped(f"no {path.name} in {path.parent}; pull it with: etui models pull {STARTER}")
    if default_threads() < 2:
        raise Skipped("one thread is all that this process may run")
    with opened(path) as bench:
        sides, most = bench.sides(), f"Llama {bench.most}"
        measure(sides, 1, 0.2)
        quiet = measure(sides, 3, 0.5)
        yield seconds_ratio(f"quiet, seconds a token, auto : {most}", quiet, most)
        with busy_core():
            measure({"etui auto": sides["etui auto"]}, 1, 0.5)
            busy = measure(sides, 3, 0.5)
        if bench.most == 2:
            yield seconds_ratio("busy core, seconds a token, auto : Llama 1", busy, "Llama 1")
        yield seconds_ratio(f"busy core, seconds a token, auto : {most}", busy, most)
        back = measure_way_back(bench, 1 / quiet["etui auto"].tokens_per_second, 3)
        yield median_of("back to full speed", [back], "s", "absolute")


def seconds_ratio(name: str, sides: Mapping[str, Side], other: str) -> Figure:
    """Build the figure of etui's seconds a token with ``auto`` over those of another side."""
    pairs = zip(sides[other].rates, sides["etui auto"].rates, strict=True)
    return ratio_of(name, list(pairs))


def report_model(name: str, path: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one model and return its report."""
    with opened(path) as bench, Recorder([EstimateSource()]) as recorder:
        sides = bench.sides()
        measure(sides, 1, 0.2)  # warms all up
        quiet = measure(sides, rounds, seconds, recorder)
        counts = (None, *sorted({1, bench.most}))
        prefill = {"quiet": {str(n or "auto"): bench.prefill(n) for n in counts}}
        full = 1 / quiet["etui auto"].tokens_per_second
        with busy_core():
            start_ns = time.monotonic_ns()
            bench.auto.threads.take_changes()
            bench.decode(bench.auto, 2)
            changes = bench.auto.threads.take_changes()
            reaction = (changes[0].t_ns - start_ns) / 1e9 if changes else None
            busy = measure(sides, rounds, seconds, recorder)
            prefill["busy"] = {str(n or "auto"): bench.prefill(n) for n in counts}
        back = [measure_way_back(bench, full, 4) for _ in range(3)]
    return {
        "model": name,
        "threads": bench.most,
        "quiet": summarise(quiet),
        "busy": summarise(busy),
        "prefill_tokens_per_second": prefill,
        "reaction_seconds": reaction,
        "full_speed_seconds": back,
        "checks": check(quiet, busy, back, bench.most),
    }


def summarise(sides: Mapping[str, Side]) -> dict[str, Any]:
    """Summarise the sides: speed, cores used, joules a token."""
    return {
        name: {
            "tokens_per_second": side.tokens_per_second,
            "cores": side.cpu_seconds / side.seconds,
            "joules_per_token": side.joules_per_token,
            **{
                f"{device}_joules_per_token": side.simulated_joules_per_token(*watts)
                for device, watts in DEVICES.items()
            },
        }
        for name, side in sides.items()
    }


def check(
    quiet: Mapping[str, Side], busy: Mapping[str, Side], back: Sequence[float], most: int
) -> list[tuple[str, float, str]]:
    """Compare with what is to be reached: the work, its figure, and the bound."""
    auto, fixed = quiet["etui auto"], [quiet["etui 1"], quiet[f"etui {most}"]]
    rate = busy["etui auto"].tokens_per_second
    rows = [
        (
            f"quiet, tokens/s, auto : Llama {most}",
            auto.tokens_per_second / quiet[f"Llama {most}"].tokens_per_second,
            ">= 0.99",
        ),
        (
            "busy core, tokens/s, auto : Llama 1",
            rate / busy["Llama 1"].tokens_per_second,
            ">= 0.9",
        ),
        (
            f"busy core, tokens/s, auto : Llama {most}",
            rate / busy[f"Llama {most}"].tokens_per_second,
            ">= 2",
        ),
        ("busy core freed, seconds to full speed", max(back), "<= 2"),
    ]
    joules = [side.joules_per_token for side in (auto, *fixed)]
    known = [each for each in joules if each is not None]
    if len(known) == len(joules):
        rows.append(("J/token, estimate, auto : best fixed", known[0] / min(known[1:]), "<= 1.03"))
    for device, watts in DEVICES.items():
        own, *others = [side.simulated_joules_per_token(*watts) for side in (auto, *fixed)]
        rows.append(
            (f"J/token, simulated {device}, auto : best fixed", own / min(others), "<= 1.03")
        )
    return rows


@dataclass(frozen=True, slots=True)
class ServedSide:
    """Answers of ``etui serve`` to several clients at the same time."""

    seconds: float  # Until the last answer has ended
    first_seconds: float  # Mean time to the first token
    tokens: int
    changes: tuple[list[dict[str, Any]], ...]  # Of the thread counts, in each answer


@contextmanager
def served(path: Path, threads: str) -> Iterator[Callable[[int], ServedSide]]:
    """Run ``etui serve`` with a setting of ``threads``; ask it by some clients at a time."""
    with TemporaryDirectory() as name:
        home, logged = Path(name), 0
        (home / "config.yaml").write_text(f"threads: {threads}\n")
        (home / "models.yaml").write_text(
            f"models:\n  bench:\n    size: any\n    context: {4 * CONTEXT_TOKENS}\n"
            f"    sources: [{{path: {json.dumps(str(path.absolute()))}}}]\n"
        )
        with etui_server(home, "bench", "--parallel", "8") as server:

            def ask(clients: int) -> ServedSide:
                nonlocal logged
                prompts = [
                    [{"role": "user", "content": f"{logged + i}: " + " ".join([PROMPT] * 12)}]
                    for i in range(clients)
                ]
                seconds, answers = ask_together(server, prompts, SERVED_TOKENS)
                # A turn is written after its answer was sent.
                while len(changes := _read_changes(home, logged)) < clients:
                    time.sleep(0.05)
                logged += clients
                return ServedSide(
                    seconds,
                    statistics.mean(answer.first_seconds for answer in answers),
                    sum(answer.tokens for answer in answers),
                    changes,
                )

            yield ask


def _read_changes(home: Path, skipped: int) -> tuple[list[dict[str, Any]], ...]:
    """Read the changes in each answer from the log, without the first ones."""
    with closing(sqlite3.connect(home / "etui.db")) as log:
        rows = log.execute(
            "SELECT settings FROM turns ORDER BY id LIMIT -1 OFFSET ?", (skipped,)
        ).fetchall()
    return tuple(json.loads(settings)["thread_changes"] for (settings,) in rows)


def report_served(name: str, path: Path, rounds: int) -> None:
    """Measure ``etui serve`` with ``auto`` and with the most threads, and print it."""
    with ExitStack() as stack:
        settings = ("auto", str(default_threads()))
        sides = {each: stack.enter_context(served(path, each)) for each in settings}
        for ask in sides.values():
            ask(1)
        print(f"{name}, etui serve, {SERVED_TOKENS} tokens for each client")
        for clients in (1, 8):
            for number in range(rounds):
                for each in (settings, settings[::-1])[number % 2]:
                    side = sides[each](clients)
                    print(
                        f"  clients {clients}, threads {each:4s} {side.seconds:7.2f} s, first "
                        f"{side.first_seconds:6.2f} s, {side.tokens / side.seconds:6.1f} tokens/s"
                        f", changes {', '.join(str(len(each)) for each in side.changes)}"
                    )
                    for change in max(side.changes, key=len):
                        print(
                            f"    {change['seconds']:6.2f} s: {change['decode_threads']} and "
                            f"{change['prefill_threads']} threads, {change['why']}"
                        )


def main() -> None:
    """Measure the models that are there, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true")
    chosen = parser.parse_args()
    reports = []
    for name in chosen.models.split(","):
        path = load_config().models_dir / f"{name}.gguf"
        if not path.is_file():
            print(f"{name}: no {path}", file=sys.stderr)
            continue
        if chosen.serve:
            report_served(name, path, chosen.rounds)
            continue
        slower = 1 + (path.stat().st_size > 5e8)  # as many tokens in a segment
        report = report_model(name, path, chosen.rounds, chosen.seconds * slower)
        reports.append(report)
        if not chosen.json:
            print_report(report)
    if chosen.json and not chosen.serve:
        waits = {key: os.environ.get(key) for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        print(json.dumps({"waits": waits, "models": reports}))


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report of a model."""
    print(f"{report['model']}, at most {report['threads']} threads")
    for load in ("quiet", "busy"):
        print(f"  {load:12s}{'tokens/s':>10s}{'cores':>8s}{'J/token':>10s}", end="")
        print("".join(f"{device:>10s}" for device in DEVICES))
        for name, side in report[load].items():
            own = side["joules_per_token"]
            joules = "-" if own is None else f"{own:.4f}"
            print(
                f"  {name:12s}{side['tokens_per_second']:10.1f}{side['cores']:8.2f}{joules:>10s}"
                + "".join(f"{side[f'{device}_joules_per_token']:10.4f}" for device in DEVICES)
            )
        prefill = report["prefill_tokens_per_second"][load]
        print("  prefill, tokens/s: " + ", ".join(f"{k} {v:.0f}" for k, v in prefill.items()))
    reaction = report["reaction_seconds"]
    print(f"  reaction to the busy core: {'none' if reaction is None else f'{reaction:.2f} s'}")
    print("  back to full speed: " + ", ".join(f"{s:.2f} s" for s in report["full_speed_seconds"]))
    for name, figure, bound in report["checks"]:
        print(f"  {name:48s}{figure:8.3f}  (to reach: {bound})")


if __name__ == "__main__":
    main()
