"""``etui serve`` against llama.cpp's own server, with one to eight clients at a time.

Both servers have the same model, threads and context; each round asks one after the other, in turn,
with the same texts. ``--same-libraries`` runs the other server over the libraries of
llama-cpp-python, so that not even the compiler's settings differ.

    python -m benchmarks.serve_clients LLAMA_SERVER [MODEL.gguf] [--works stream,independent,...]
        [--threads N] [--rounds N] [--clients N] [--context N] [--same-libraries]
        [--flash-attention auto|on|off]

``--flash-attention`` is that of etui, whose ``auto`` is off on a CPU; that of llama-server is on.
The works are ``stream`` (one client), ``independent`` (prompts of some 200 tokens with nothing in
common), ``shared`` (a common prompt of some 1,000 tokens), and ``cpu`` (CPU of all processes of
either server a token with 1, 2, 4, 8 clients).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fake_serve import used_cpu_seconds
from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.http_sides import Server, ask_together, etui_server, llama_server
from benchmarks.serve import Setup, write_home
from etui.config.config import load_config
from etui.engine.library import default_threads, library_folder
from etui.models.spec import STARTER

WORKS = ("stream", "independent", "shared", "cpu")
OUTPUT_TOKENS = 100
PROMPT_WORDS, SHARED_WORDS = 150, 950
"""Some 200 and 1,000 tokens."""

GO_ON = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,"
"""A beginning that no model ends within the tokens of an answer: on either side all are drawn."""

_WORDS = (  # noqa: SIM905
    "the a of and to in harbour lamp rope whale storm map bell sail shell tide knot wind keeper "
    "stone wall paper ink light morning winter boat island bridge window stair visitor guard story "
    "old new small blue green quiet heavy was were came went found kept made told knew saw"
).split()


@dataclass(frozen=True, slots=True)
class Round:
    """What one server did in a round; seconds, and milliseconds of CPU."""

    token_seconds: float  # From the first request to the last token, for each token
    decode_seconds: float  # Mean of all clients' seconds for each token after the first one
    first_seconds: float  # Mean time to the first token
    last_first_seconds: float  # Time to the first token of the client that waits longest
    cpu_ms: float  # CPU of all processes of the server for each token


def write_text(words: int, seed: int) -> str:
    """Write words at random, which no other seed begins with."""
    source = random.Random(seed)
    return f"{seed}: " + " ".join(source.choice(_WORDS) for _ in range(words))


def write_independent(seed: int, clients: int) -> list[str]:
    """Return texts without a common beginning."""
    return [f"{write_text(PROMPT_WORDS, 100 * seed + i)}.\n\n{GO_ON}" for i in range(clients)]


def write_shared(seed: int, clients: int) -> list[str]:
    """Return texts with a common beginning that no earlier round had."""
    shared = write_text(SHARED_WORDS, seed)
    return [f"{shared}.\n\nStory {i}, of the {_WORDS[8 + i]}. {GO_ON}" for i in range(clients)]


def measure(server: Server, requests: Sequence[str]) -> Round:
    """Ask all at once."""
    before = used_cpu_seconds(server.pid)
    seconds, answers = ask_together(server, requests, OUTPUT_TOKENS)
    used = used_cpu_seconds(server.pid) - before
    tokens = sum(answer.tokens for answer in answers)
    firsts = [answer.first_seconds for answer in answers]
    decode = statistics.mean(1 / answer.tokens_per_second for answer in answers)
    return Round(
        seconds / tokens, decode, statistics.mean(firsts), max(firsts), 1000 * used / tokens
    )


def compare(
    name: str,
    sides: Sequence[Server],
    requests: Callable[[int], Sequence[str]],
    rounds: int,
    first_seed: int,
) -> Iterator[Figure]:
    """Ask both sides in turn; yield their ratios, and the values of each."""

    def ask(server: Server, seeds: Iterator[int]) -> Callable[[], Round]:
        return lambda: measure(server, requests(next(seeds)))

    own, other = (ask(each, iter(range(first_seed, first_seed + rounds))) for each in sides)
    pairs = in_turn(own, other, rounds)
    values = {
        "seconds a token": "token_seconds",
        "seconds a token after the first": "decode_seconds",
        "mean first token": "first_seconds",
        "last first token": "last_first_seconds",
        "CPU a token": "cpu_ms",
    }
    for what, field in values.items():
        both: list[tuple[float, float]] = [
            (getattr(mine, field), getattr(its, field)) for mine, its in pairs
        ]
        yield ratio_of(f"{name}, {what}, etui : llama-server", both)
        unit = "ms" if field == "cpu_ms" else "s"
        for side, column in zip(("etui", "llama-server"), zip(*both, strict=True), strict=True):
            yield median_of(f"{name}, {what}, {side}", column, unit, "absolute")


def run(options: argparse.Namespace) -> Iterator[Figure]:
    """Start both servers, and measure the works that are asked for."""
    if options.same_libraries:
        folder = library_folder(load_config().engines_dir)
        os.environ["LD_LIBRARY_PATH"] = str(folder)
    setup = Setup(options.model, options.threads, options.clients, options.llama_server)
    clients: int = options.clients
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_home(home, setup, options.context, options.flash_attention)
        sides = (
            stack.enter_context(etui_server(home, "bench", "--parallel", str(clients))),
            stack.enter_context(
                llama_server(
                    options.llama_server, setup.path, setup.threads, options.context, clients
                )
            ),
        )
        for server in sides:  # warm
            server.stream(write_independent(1, 1)[0], 8)
        seed = random.SystemRandom().randrange(1000, 1_000_000)
        works: dict[str, Any] = {
            "stream": [("one stream", lambda s: write_independent(s, 1))],
            "independent": [(f"{clients} clients", lambda s: write_independent(s, clients))],
            "shared": [(f"{clients} clients, shared", lambda s: write_shared(s, clients))],
            "cpu": [
                (f"{count} at a time", lambda s, count=count: write_independent(s, count))
                for count in (1, 2, 4, 8)
                if count <= clients
            ],
        }
        for work in options.works:
            for name, requests in works[work]:
                yield from compare(name, sides, requests, options.rounds, seed)
                seed += options.rounds


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("llama_server", type=Path)
    default = load_config().models_dir / f"{STARTER}.gguf"
    parser.add_argument("model", nargs="?", type=Path, default=default)
    parser.add_argument("--works", type=lambda text: text.split(","), default=list(WORKS))
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--same-libraries", action="store_true")
    for figure in run(parser.parse_args()):
        span = "" if figure.low is None else f"  [{figure.low:.3g}, {figure.high:.3g}]"
        print(f"{figure.name}: {figure.value:.3g} {figure.unit}{span}  n={figure.n}", flush=True)


if __name__ == "__main__":
    main()
