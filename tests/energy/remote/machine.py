"""A made-up other machine: a clock of its own, a known power, a meter without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import httpx2

from etui.energy.remote.client import MeterClient
from etui.energy.remote.meter import RemoteMeter

SECOND = 1_000_000_000
HOURS = 7 * 3600 * SECOND


@dataclass
class Machine:
    """Another machine, whose time passes only with the delays of requests and by ``wait``."""

    now_ns: int = 100 * SECOND  # Monotonic clock of *this* machine; the truth of all times
    offset_ns: int = HOURS  # Clock of the other machine minus that of this one, at `now_ns` 0
    drift: float = 0.0  # Seconds that the other clock gains per second
    delays: Iterator[tuple[int, int]] = field(default_factory=lambda: repeat((200_000, 200_000)))
    """(way there, way back) of each request in turn, nanoseconds."""
    watts: Callable[[float], float] = lambda t: 40.0  # Power at a time of this machine
    running: Iterator[int | None] = field(default_factory=lambda: repeat(None))
    """Requests at work there, at each look in turn."""
    change: Callable[[str, dict[str, Any]], Any] = lambda path, document: document
    """Changes a document before it is sent: (path, document) -> document or response."""
    boot_id: str = "boot-1"
    recorded_since_ns: int = 0
    uncertainty: float = 0.5
    power_points: bool = True
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[httpx2.Headers] = field(default_factory=list)

    def clock(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> int:
        self.now_ns += int(seconds * SECOND)
        return self.now_ns

    def remote(self, t_ns: int) -> int:
        """Time of this machine -> time of the other."""
        return t_ns + self.offset_ns + int(self.drift * t_ns)

    def local(self, t_ns: int) -> float:
        """Time of the other machine -> time of this one."""
        return (t_ns - self.offset_ns) / (1 + self.drift)

    def joules(self, start_ns: float, end_ns: float) -> float:
        """The truth: joules of an interval of this machine's time, in steps of a millisecond."""
        steps = max(1, math.ceil((end_ns - start_ns) / 1e6))
        width = (end_ns - start_ns) / steps
        middles = (start_ns + (i + 0.5) * width for i in range(steps))
        return math.fsum(self.watts(t / 1e9) * width / 1e9 for t in middles)

    def client(self, key: str | None = None, url: str = "http://desk:9911") -> MeterClient:
        transport = httpx2.MockTransport(self._answer)
        return MeterClient(url, key, transport=transport, clock_ns=self.clock)

    def meter(self, **options: Any) -> RemoteMeter:
        options = {"watch": False, "clock_ns": self.clock, **options}
        return RemoteMeter(self.client(), "desk", **options)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        there_ns, back_ns = next(self.delays)
        query = dict(request.url.params)
        self.asked.append((request.url.path, query))
        self.headers.append(request.headers)
        self.now_ns += there_ns
        response = self._respond(request.url.path, query)
        self.now_ns += back_ns
        # A body that is not yet read, as one of a network.
        return httpx2.Response(
            response.status_code, headers=response.headers, content=iter([response.read()])
        )

    def _respond(self, path: str, query: dict[str, str]) -> httpx2.Response:
        if path == "/meter/energy":
            start_ns, end_ns = int(query["start_ns"]), int(query["end_ns"])
            if query.get("boot_id", self.boot_id) != self.boot_id:
                return httpx2.Response(409, json={"error": {"code": "boot_changed"}})
            if start_ns < self.recorded_since_ns:
                return httpx2.Response(410, json={"error": {"code": "no_longer_recorded"}})
            if "points" in query and not self.power_points:
                return httpx2.Response(400, json={"error": {"param": "points"}})
            document = self._measure(start_ns, end_ns, int(query.get("points", 0)))
        elif path == "/meter/clock":
            document = {"now_ns": self.remote(self.now_ns), "boot_id": self.boot_id}
        else:
            document = {"kind": "counter", "channels": [], "running": next(self.running)}
        changed = self.change(path, document)
        if isinstance(changed, httpx2.Response):
            return changed
        return httpx2.Response(200, json=changed)

    def _measure(self, start_ns: int, end_ns: int, points: int) -> dict[str, Any]:
        start, end = self.local(start_ns), self.local(end_ns)
        joules = self.joules(start, end)
        seconds = (end - start) / 1e9
        edges = [start + (end - start) * i / 200 for i in range(201)]
        document = {
            "joules": joules,
            "uncertainty": self.uncertainty,
            "net_joules": None,
            "idle_watts": 12.0,
            "kind": "counter",
            "coverage": 1.0,
            "mean_watts": joules / seconds if seconds else None,
            "peak_watts": max(self.watts(t / 1e9) for t in edges),
            "channels": {"gpu:GPU-1": joules},
            "unmeasured": ["dram:0"],
            "flags": ["coarse", "shared"],
            "shared": True,
            "own_joules": 0.1,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "boot_id": self.boot_id,
        }
        if points:
            document["power_watts"] = [joules / seconds] * points
        return document
