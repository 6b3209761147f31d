"""What connections that hold a large body half sent cost ``etui serve``, and its other clients.

500 connections each send 7.9 of 8 MB and wait. The figures are the memory of the server above its
idle state while they hold, and some seconds after they have left, and the longest wait of another
client with a small question meanwhile. Then refused questions of 7.8 MB are asked: the figure is by
how much the log grows.

python -m benchmarks.bodies --connections 500
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx2

from benchmarks.fake_serve import fake_server, used_bytes
from benchmarks.figures import Figure
from benchmarks.http_sides import Server

_SIZE = 8_000_000
_SENT = 7_900_000
_MEBIBYTE = 2**20
_ATTACKERS = 16
_QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "Which planet is red?"}]}


@dataclass(frozen=True, slots=True)
class Held:
    """What an attack cost."""

    most_bytes: int  # Most memory above idle while the connections were open
    left_bytes: int  # Memory above idle some time after they were closed
    wait_seconds: float  # Longest wait of another client
    asked: int  # Questions of that client
    failed: int  # Those of them that were not answered
    refused: int  # Connections that got a response
    cut: int  # Connections that were closed without one


class _Other(threading.Thread):
    """Another client, which asks small questions one after the other."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        self._stop_asking = threading.Event()
        self.waits: list[float] = []
        self.failed = 0

    def run(self) -> None:
        with httpx2.Client(timeout=120) as client:
            while not self._stop_asking.wait(0.05):
                began = time.perf_counter()
                try:
                    status = client.post(self._url, json=_QUESTION | {"max_tokens": 2}).status_code
                except httpx2.HTTPError:
                    status = 0
                self.failed += status != 200
                self.waits.append(time.perf_counter() - began)

    def end(self) -> None:
        self._stop_asking.set()
        self.join()


def _hold(port: int, body: bytes) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {_SIZE}\r\n\r\n"
    )
    with suppress(OSError):  # refused meanwhile
        opened.sendall(head.encode() + body)
    return opened


def measure_held(connections: int, hold_seconds: float, rest_seconds: float) -> Held:
    """Hold connections with bodies half sent, and measure what that costs."""
    body = b'{"model": "fake", "prompt": "' + b"x" * (_SENT - 29)
    with fake_server(parallel=4) as server:
        client = _Other(server)
        client.start()
        time.sleep(2.0)
        pid = server.pid
        idle = used_bytes(pid)
        client.waits.clear()
        client.failed = 0
        opened: list[socket.socket] = []

        def attack(share: int) -> None:
            for _ in range(share):
                with suppress(OSError):
                    opened.append(_hold(server.port, body))

        shares = [len(range(index, connections, _ATTACKERS)) for index in range(_ATTACKERS)]
        threads = [threading.Thread(target=attack, args=(n,), daemon=True) for n in shares]
        most, until = idle, time.monotonic() + hold_seconds
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or time.monotonic() < until:
            most = max(most, used_bytes(pid))
            time.sleep(0.1)
        ends = [_find_end(each) for each in opened]
        for each in opened:
            each.close()
        time.sleep(rest_seconds)
        left = used_bytes(pid)
        client.end()
    return Held(
        most_bytes=most - idle,
        left_bytes=left - idle,
        wait_seconds=max(client.waits),
        asked=len(client.waits),
        failed=client.failed,
        refused=ends.count("refused"),
        cut=ends.count("cut"),
    )


def _find_end(opened: socket.socket) -> str:
    opened.settimeout(0.0)
    try:
        return "refused" if opened.recv(1) else "cut"
    except BlockingIOError:
        return "held"
    except OSError:
        return "cut"


def measure_log(refusals: int) -> int:
    """Ask questions that no model has the context for; return the bytes by which the log grows."""

    with fake_server(parallel=1) as server, httpx2.Client(timeout=120) as client:
        home = server.home
        assert home is not None

        def size() -> int:
            return sum(file.stat().st_size for file in home.glob("etui.db*"))

        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        client.post(url, json=_QUESTION | {"max_tokens": 2})
        time.sleep(2.0)
        before = size()
        text = ("These words are more than any context can hold. " * 170_000)[:7_800_000]
        refused = _QUESTION | {"messages": [{"role": "user", "content": text}]}
        content = json.dumps(refused).encode()
        headers = {"Content-Type": "application/json"}
        for _ in range(refusals):
            client.post(url, content=content, headers=headers)
        time.sleep(2.0)
        return size() - before


def quick() -> Iterator[Figure]:
    """Measure fewer connections and refusals."""
    held = measure_held(60, 2.0, 2.0)
    yield Figure("60 held bodies, above idle", held.most_bytes / _MEBIBYTE, "MiB", "absolute")
    yield Figure("60 held bodies, another client's wait", held.wait_seconds, "s", "absolute")
    grown = measure_log(5) / _MEBIBYTE
    yield Figure("growth of the log by 5 refusals of 7.8 MB", grown, "MiB", "absolute")


def main() -> None:
    """Print the figures of an attack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--connections", type=int, default=500, metavar="N")
    parser.add_argument("--hold", type=float, default=20.0, metavar="S")
    parser.add_argument("--rest", type=float, default=20.0, metavar="S")
    parser.add_argument("--refusals", type=int, default=72, metavar="N")
    options = parser.parse_args()
    if options.connections:
        held = measure_held(options.connections, options.hold, options.rest)
        print(f"{options.connections} connections, each with 7.9 of 8 MB")
        print(f"  {held.refused} refused, {held.cut} closed without a response")
        print(f"  memory above idle: {held.most_bytes / 1e6:.0f} MB at most")
        print(f"  {options.rest:g} s after they left: {held.left_bytes / 1e6:.0f} MB")
        wait, asked = held.wait_seconds, held.asked
        print(f"  another client: {wait:.2f} s at most of {asked} questions, {held.failed} failed")
    if options.refusals:
        grown = measure_log(options.refusals)
        print(f"{options.refusals} refusals of 7.8 MB: the log grows by {grown / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
