"""``etui serve`` against the engine in this process, and against the server of llama-cpp-python.

The first token over HTTP is compared with that of the same engine without HTTP, round by round,
with a prompt of its own each. Then one stream against the other server, and eight clients at a time
that share a system prompt; with ``--llama-server BINARY`` against llama.cpp's own server too. How
long a request waits behind the answer of a client that left is given in batches. Last the cost of
Python a token, and the memory and the turns of many requests, with an engine that
computes nothing.

    python -m benchmarks.serve [MODEL.gguf] [--threads N] [--tokens N] [--rounds N] [--clients N]
                               [--requests N] [--llama-server BINARY] [--json]
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.fake_serve import fake_server, used_bytes, used_cpu_seconds
from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.http_sides import (
    Server,
    Streamed,
    ask_many,
    ask_together,
    etui_server,
    llama_cpp_server,
    llama_server,
)
from benchmarks.sides import arguments, starter
from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.config.config import Config, load_config, make_home
from etui.events import Answer
from etui.models.spec import ModelSpec

CONTEXT_TOKENS = 4096
CLIENT_TOKENS = 100
FAKE_TOKENS = 200
AT_ONCE = 50
SYSTEM = (
    "You are the narrator of a small museum by the sea. Visitors ask about its rooms, and you "
    "answer at length: what hangs there, who made it, when it came to the house, what the light "
    "does to it in the morning, which stories the guards tell, and what a visitor should not miss. "
    "Speak plainly, name colours and materials, and never end before you have described at least "
    "five things. "
)
ROOMS = ("maps", "knots", "lamps", "storms", "ropes", "bells", "whales", "sails", "shells", "tides")
_round = count(1)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all measurements of a run have in common.

    Attributes:
        path: The model file.
        threads: Threads of every side.
        clients: Clients at a time.
        binary: llama.cpp's own server; None leaves it out.
    """

    path: Path
    threads: int
    clients: int = 8
    binary: Path | None = None


def ask_room(number: int) -> list[dict[str, str]]:
    """Return a conversation with the shared system prompt and a question of its own."""
    room = ROOMS[number % len(ROOMS)]
    return [
        {"role": "system", "content": SYSTEM},
        {
            "role": "user",
            "content": f"Visit {number}: tell me everything about the room of {room}.",
        },
    ]


def ask_new(number: int) -> list[dict[str, str]]:
    """Return a question that shares no prefix with earlier ones."""
    room = ROOMS[number % len(ROOMS)]
    return [{"role": "user", "content": f"{number} visitors ask: what is in the room of {room}?"}]


def write_home(
    folder: Path, setup: Setup, context_tokens: int = CONTEXT_TOKENS, flash_attention: str = "auto"
) -> Config:
    """Make a folder for etui, with the model as an entry named ``bench``."""
    (folder / "config.yaml").write_text(f"threads: {setup.threads}\n")
    (folder / "models.yaml").write_text(
        f"models:\n  bench:\n    size: any\n    context: {context_tokens}\n"
        f"    flash_attention: {json.dumps(flash_attention)}\n"
        f"    sources: [{{path: {json.dumps(str(setup.path.absolute()))}}}]\n"
    )
    config = replace(load_config(), home=folder, threads=setup.threads)
    make_home(config)
    return config


def measure_first_tokens(setup: Setup, rounds: int) -> list[tuple[float, float]]:
    """Return seconds to the first token over HTTP and in this process, round by round.

    The connection is kept open, as clients do.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = write_home(Path(folder), setup)
        spec = ModelSpec("bench", "", (), context=CONTEXT_TOKENS)
        with (
            etui_server(Path(folder), "bench") as server,
            closing(server.connect()) as connection,
            closing(LocalBackend(config)) as here,
        ):

            def over_http() -> float:
                return server.stream(ask_new(next(_round)), 4, connection).first_seconds

            def in_process() -> float:
                messages = tuple(Message("user", each["content"]) for each in ask_new(next(_round)))
                arm = Arm("direct", "bench", max_tokens=4)
                request = AnswerRequest(spec, setup.path, messages, arm)
                start, first = time.perf_counter(), None
                for event in here.answer(request):
                    if isinstance(event, Answer) and event.text and first is None:
                        first = time.perf_counter() - start
                assert first is not None
                return first

            in_turn(over_http, in_process, 3)  # warm
            return in_turn(over_http, in_process, rounds)


def measure_streams(
    own: Server, other: Server, tokens: int, rounds: int
) -> list[tuple[Streamed, Streamed]]:
    """Return one streamed answer of either server, round by round."""

    def ask(server: Server) -> Callable[[], Streamed]:
        return lambda: server.stream(ask_new(next(_round)), tokens)

    in_turn(ask(own), ask(other), 1)
    return in_turn(ask(own), ask(other), rounds)


def measure_clients(
    own: Server, other: Server, clients: int, rounds: int
) -> list[tuple[float, float]]:
    """Return tokens a second of all clients together for either server, round by round."""

    def ask(server: Server) -> Callable[[], float]:
        def all_clients() -> float:
            first = next(_round) * 100
            requests = [ask_room(first + i) for i in range(clients)]
            seconds, answers = ask_together(server, requests, CLIENT_TOKENS)
            tokens: int = sum(answer.tokens for answer in answers)
            return float(tokens / seconds)

        return all_clients

    for server in (own, other):
        server.stream(ask_room(0), 4)  # the shared prefix is in both caches
    return in_turn(ask(own), ask(other), rounds)


def measure_python(clients: int, tokens: int, rounds: int) -> list[float]:
    """Return milliseconds of CPU a token of server and engine process, without a model."""
    with fake_server(parallel=clients) as server:
        ask_together(server, [ask_room(i) for i in range(clients)], 20)
        found = []
        for _ in range(rounds):
            before = used_cpu_seconds(server.pid)
            _, answers = ask_together(server, [ask_room(i) for i in range(clients)], tokens)
            used = used_cpu_seconds(server.pid) - before
            found.append(1000 * used / sum(answer.tokens for answer in answers))
        return found


def measure_leaving(setup: Setup, rounds: int) -> list[float]:
    """Return how much later an answer begins right after a client left, in batches of one token.

    The engine computes one answer at a time, so the next one waits until the other has ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_home(Path(folder), setup)
        with etui_server(Path(folder), "bench") as server:
            server.stream(ask_new(next(_round)), 4)
            found = []
            for _ in range(rounds):
                alone = server.stream(ask_new(next(_round)), 32)
                server.leave(ask_new(next(_round)), 24)
                after = server.stream(ask_new(next(_round)), 4)
                waited = after.first_seconds - alone.first_seconds
                found.append(waited * alone.tokens_per_second)
            return found


def measure_memory(requests: int, at_once: int) -> tuple[float, int]:
    """Return the megabytes that many requests leave behind, and the number of lost turns.

    The first tenth of the requests warms caches up; memory is measured after it and at the end. A
    client has its answer before the log has the turn, so turns are counted once the server has
    ended, which writes all.
    """
    warm = requests // 10
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with fake_server(parallel=8, queue=at_once, home=home) as server:
            answered = ask_many(server, warm, at_once, 4)
            before = used_bytes(server.pid)
            answered += ask_many(server, requests - warm, at_once, 4)
            grown = (used_bytes(server.pid) - before) / 1e6
        with closing(sqlite3.connect(home / "etui.db")) as log:
            saved: int = log.execute("SELECT count(*) FROM turns").fetchone()[0]
        return grown, requests - min(answered, saved)


def quick() -> Iterator[Figure]:
    """Six first tokens, two streams, one round of eight clients, a thousand tokens of Python."""
    setup = Setup(starter(), load_config().threads or 2)
    pairs = measure_first_tokens(setup, 6)
    yield median_of("first token, over HTTP - in process", _milliseconds(pairs), "ms", "absolute")
    yield from _compare(setup, tokens=48, rounds=2, client_rounds=1)
    costs = measure_python(8, 100, 1)
    yield median_of("CPU a token without a model", costs, "ms", "absolute")
    _, lost = measure_memory(200, 20)
    yield Figure("lost turns of 200 requests, 20 at a time", lost, "turns", "absolute", 200)


def _milliseconds(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [1000 * (over_http - in_process) for over_http, in_process in pairs]


def _compare(setup: Setup, *, tokens: int, rounds: int, client_rounds: int) -> Iterator[Figure]:
    """Compare streams and clients with each peer in turn; only two servers run at a time."""
    peers: list[tuple[str, Callable[[], Any]]] = [
        (
            "llama_cpp.server",
            lambda: llama_cpp_server(setup.path, setup.threads, CONTEXT_TOKENS),
        )
    ]
    if (binary := setup.binary) is not None:
        peers.append(
            (
                "llama-server",
                lambda: llama_server(
                    binary, setup.path, setup.threads, CONTEXT_TOKENS, setup.clients
                ),
            )
        )
    for name, open_peer in peers:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            write_home(Path(folder), setup)
            own = stack.enter_context(
                etui_server(Path(folder), "bench", "--parallel", str(setup.clients))
            )
            other = stack.enter_context(open_peer())
            streams = measure_streams(own, other, tokens, rounds)
            yield ratio_of(
                f"seconds a token of one stream, etui : {name}",
                [(1 / mine.tokens_per_second, 1 / its.tokens_per_second) for mine, its in streams],
            )
            totals = measure_clients(own, other, setup.clients, client_rounds)
            yield ratio_of(
                f"seconds a token of {setup.clients} clients, etui : {name}",
                [(1 / mine, 1 / its) for mine, its in totals],
            )


def main() -> None:
    """Measure, and print the figures."""
    parser = arguments(__doc__, tokens=200, rounds=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--llama-server", type=Path, default=None)
    options = parser.parse_args()
    setup = Setup(options.model, options.threads, options.clients, options.llama_server)
    figures: list[Figure] = []
    pairs = _milliseconds(measure_first_tokens(setup, options.rounds))
    figures.append(
        median_of("first token, over HTTP - in process, median", pairs, "ms", "absolute")
    )
    worst = statistics.quantiles(pairs, n=20)[-1]
    figures.append(Figure("the same, 95th percentile", worst, "ms", "absolute", len(pairs)))
    figures += _compare(
        setup, tokens=options.tokens, rounds=max(3, options.rounds // 4), client_rounds=3
    )
    batches = measure_leaving(setup, options.rounds)
    figures.append(median_of("wait behind a client that left", batches, "batches", "absolute"))
    costs = measure_python(options.clients, FAKE_TOKENS, 5)
    figures.append(median_of("CPU a token without a model", costs, "ms", "absolute"))
    grown, lost = measure_memory(options.requests, AT_ONCE)
    name = f"{options.requests} requests, {AT_ONCE} at a time"
    figures.append(Figure(f"memory after {name}", grown, "MB", "absolute"))
    figures.append(Figure(f"lost turns of {name}", lost, "turns", "absolute"))
    for figure in figures:
        if options.json:
            print(json.dumps({name: getattr(figure, name) for name in Figure.__slots__}))
        else:
            low, high = figure.low, figure.high
            span = f"  [{low:.3g}, {high:.3g}]" if low is not None and high is not None else ""
            print(f"{figure.name}: {figure.value:.3g} {figure.unit}{span}  n={figure.n}")


if __name__ == "__main__":
    main()
