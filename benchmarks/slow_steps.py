"""How long one client's expensive request makes another client, and ``/health``, wait.

``etui serve`` runs with the starter model. For each kind of request, patterns and schemas that are
expensive to read or to keep and chats of megabytes, a second client asks for four tokens right
after it was sent, while ``/health`` is asked every 50 ms. The figure is the longest of three
rounds, beside that of a harmless request with the same limit of tokens.

    python -m benchmarks.slow_steps [MODEL.gguf] [--parallel N] [--rounds N] [--only TEXT]
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.http_sides import Server, etui_server
from benchmarks.serve import Setup, write_home
from benchmarks.sides import arguments
from tests.support.hostile_schemas import SCHEMAS

TOKENS = 16
CHAT_CHARACTERS = 6_500_000
HEALTH_SECONDS = 0.05
_HARMLESS = "harmless"


@dataclass(frozen=True, slots=True)
class Waits:
    """What a request of some kind made others wait, in seconds."""

    own: float  # Until it was answered
    status: int  # Of its answer
    other: float  # Until the second client had its answer
    health: float  # Longest of `/health`


def list_bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the requests, a harmless one first."""
    ask = [{"role": "user", "content": "Write JSON."}]
    schemas = {_HARMLESS: {"type": "string", "pattern": "^[a-z]{1,40}$"}, **SCHEMAS}
    for name, schema in schemas.items():
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        yield name, {"messages": ask, "response_format": form}
    options = "A) x\nB) y\n"
    text = options * (CHAT_CHARACTERS // len(options))
    yield "options of megabytes", {"messages": [{"role": "user", "content": text}]}
    turns = [{"role": "user", "content": text[: CHAT_CHARACTERS // 400]} for _ in range(400)]
    yield "options in 400 messages", {"messages": turns}
    tags = "<|im_start|> \ufdd0é { % ' " * (CHAT_CHARACTERS // 32)
    yield "special tokens of megabytes", {"messages": [{"role": "user", "content": tags}]}
    history = [{"role": "user", "content": tags}, *ask]
    yield "special tokens before the question", {"messages": history}


def post(server: Server, body: dict[str, Any], tokens: int = TOKENS) -> int:
    """Ask for an answer, and return the status."""
    with closing(server.connect()) as connection:
        headers = {"Content-Type": "application/json"}
        document = {"model": server.model, "temperature": 0, "max_tokens": tokens, **body}
        connection.request("POST", "/v1/chat/completions", json.dumps(document), headers)
        response = connection.getresponse()
        response.read()
        return response.status


def measure(server: Server, body: dict[str, Any]) -> Waits:
    """Send a request, and measure what others wait until it is answered."""
    found: list[tuple[float, int]] = []
    healths: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        began = time.perf_counter()
        status = post(server, body)
        found.append((time.perf_counter() - began, status))

    def look() -> None:
        while not ended.wait(HEALTH_SECONDS):
            began = time.perf_counter()
            with closing(server.connect()) as connection:
                connection.request("GET", "/health")
                connection.getresponse().read()
            healths.append(time.perf_counter() - began)

    threads = [threading.Thread(target=each) for each in (look, ask)]
    for thread in threads:
        thread.start()
    time.sleep(2 * HEALTH_SECONDS)  # it has been sent
    began = time.perf_counter()
    post(server, {"messages": [{"role": "user", "content": "Hi"}]}, 4)
    other = time.perf_counter() - began
    threads[1].join()
    ended.set()
    threads[0].join()
    return Waits(*found[0], other, max(healths))


def main() -> None:
    """Print the waits of each kind."""
    parser = arguments(__doc__, tokens=TOKENS, rounds=3)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    setup = Setup(options.model, options.threads)
    row = "{:36} {:>6} {:>8} {:>8} {:>8}".format
    print(row("request", "status", "own s", "other s", "health s"))
    worst = {"other": 0.0, "health": 0.0}
    harmless = 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_home(Path(folder), setup)
        with etui_server(Path(folder), "bench", "--parallel", str(options.parallel)) as server:
            post(server, next(list_bodies())[1])  # model and vocabulary are read
            for name, body in list_bodies():
                if options.only not in name and name != _HARMLESS:
                    continue
                rounds = [measure(server, body) for _ in range(options.rounds)]
                own, other, health = (
                    max(getattr(each, key) for each in rounds) for key in ("own", "other", "health")
                )
                harmless = other if name == _HARMLESS else harmless
                worst = {
                    "other": max(worst["other"], other),
                    "health": max(worst["health"], health),
                }
                numbers = (f"{each:.2f}" for each in (own, other, health))
                print(row(name, rounds[-1].status, *numbers), flush=True)
    print(f"longest wait of another client {worst['other']:.2f} s, ", end="")
    print(f"beside a harmless request {harmless:.2f} s; of /health {worst['health']:.2f} s")


if __name__ == "__main__":
    main()
