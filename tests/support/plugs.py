"""Stand-in plugs: devices at the wall with a known power, in the time of a fake clock.

A plug answers in the dialect of its type, over loopback or without a network. Its power and
counter follow a curve with a refresh, a lag and a resolution, and faults can be added to it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2

from etui.config.backend_spec import WallMeterSpec, WallMeterType
from etui.energy.sources.wall import WallSource
from tests.support.power_curves import WattCurve, steps

SECOND = 1_000_000_000
KEY = "correct-horse"
Reply = tuple[int, dict[str, str], bytes]
Span = tuple[float, float]


@dataclass
class Plug:
    """A device, whose time is that of ``now_ns``; times of faults are in seconds."""

    type: WallMeterType = "shelly"
    curve: WattCurve = field(default_factory=lambda: WattCurve(((0.0, 100.0),)))
    refresh_s: float = 1.0
    lag_s: float = 0.3
    step_watts: float = 0.1
    step_joules: float = 3.6
    output: int = 0
    unit: str = "W"  # Of Home Assistant and of a URL
    latency_s: float = 0.02
    key: str | None = None
    frozen: tuple[Span, ...] = ()  # Times at which nothing is refreshed, but everything answers
    hung: tuple[Span, ...] = ()  # The same, and what passes then is never counted
    stopped: tuple[Span, ...] = ()  # Times at which it counts nothing, and does not answer
    silent: tuple[Span, ...] = ()  # Times at which it does not answer, but counts
    unstamped: bool = False  # Whether Home Assistant does not say when it was refreshed
    change: Callable[[float, Any], Any] = lambda now_s, document: document
    """Changes a document before it is sent: (seconds, document) -> document or bytes or reply."""
    now_ns: int = 1000 * SECOND
    begin_ns: int = 1000 * SECOND
    asked: list[str] = field(default_factory=list)
    nonce: str = "4d1f0a"

    @property
    def now_s(self) -> float:
        return (self.now_ns - self.begin_ns) / SECOND

    def clock(self) -> int:
        return self.now_ns

    def spec(self, url: str = "http://plug.test", **changes: Any) -> WallMeterSpec:
        values: dict[str, Any] = {"output": self.output, "accuracy_percent": 0.0}
        if self.type == "home-assistant":
            values["entity"] = "sensor.desk"
        if self.type == "url":
            values |= {"path": "data.0.value", "unit": self.unit}
            url += "/reading?of=desk"
        if self.key is not None:
            values["key_env"] = "PLUG_KEY"
        return WallMeterSpec(**{"name": "desk", "type": self.type, "url": url, **values, **changes})

    def source(self, **changes: Any) -> WallSource:
        """Return a source that asks this plug without a network."""
        environ = {"PLUG_KEY": KEY}
        transport = httpx2.MockTransport(self.handle)
        return WallSource(self.spec(**changes), self.clock, environ, transport)

    def joules(self, from_s: float, to_s: float) -> float:
        """Return the truth."""
        return self.curve.between(from_s, to_s)

    def read(self) -> tuple[float, float]:
        """Return what the device knows now: watts, and the counter in joules."""
        now_s = self._last_alive(self.now_s)
        at_s = math.floor(now_s / self.refresh_s) * self.refresh_s - self.lag_s
        watts = self.curve.between(at_s - self.refresh_s, at_s) / self.refresh_s
        uncounted = (span for span in (*self.stopped, *self.hung) if span[0] < at_s)
        lost = sum(self.joules(start, min(end, at_s)) for start, end in uncounted)
        joules = 7_200_000.0 + self.joules(-10.0, at_s) - lost
        return _floor(watts, self.step_watts), _floor(joules, self.step_joules)

    def uptime(self) -> float:
        ended = [end for _, end in self.stopped if end <= self.now_s]
        return math.floor(self.now_s - ended[-1]) if ended else 50_000.0 + math.floor(self.now_s)

    def _last_alive(self, now_s: float) -> float:
        for start, end in (*self.frozen, *self.hung):
            if start <= now_s < end:
                return start
        return now_s

    def document(self) -> Any:
        watts, joules = self.read()
        at, wh = self.output, joules / 3600
        if self.type == "shelly":
            part = {"id": at, "output": True, "apower": watts, "aenergy": {"total": round(wh, 6)}}
            return {f"switch:{at}": part, "sys": {"uptime": self.uptime()}, "wifi": {}}
        if self.type == "shelly-gen1":
            meter = {"power": watts, "is_valid": True, "total": joules / 60}
            return {"meters": [meter] * (at + 1), "uptime": self.uptime()}
        if self.type == "tasmota":
            energy = {"Power": watts, "Total": round(joules / 3.6e6, 8)}
            return {"StatusSNS": {"Time": "2026-11-30T12:00:00", "ENERGY": energy}}
        number = {"W": watts, "kW": watts / 1e3, "Wh": wh, "kWh": wh / 1e3, "J": joules}[self.unit]
        if self.type == "url":
            return {"data": [{"value": number}]}
        state = {"entity_id": "sensor.desk", "state": f"{number:.6f}"}
        if not self.unstamped:
            minutes, seconds = divmod(self._last_alive(self.now_s) // self.refresh_s, 60)
            state["last_reported"] = (
                f"2026-11-30T{int(minutes) // 60:02}:{int(minutes) % 60:02}:{int(seconds):02}+00:00"
            )
        return {**state, "attributes": {"unit_of_measurement": self.unit}}

    def reply(self, target: str, headers: dict[str, str]) -> Reply | None:
        """Answer a request; None for no answer at all."""
        self.asked.append(target)
        self.now_ns += int(self.latency_s * SECOND)
        if any(a <= self.now_s < b for a, b in (*self.stopped, *self.silent)):
            return None
        refused = self._check_key(target, headers)
        if refused is not None:
            return refused
        paths = {"shelly": "/rpc/Shelly.GetStatus", "shelly-gen1": "/status", "tasmota": "/cm",
                 "home-assistant": "/api/states/sensor.desk", "url": "/reading"}  # fmt: skip
        if urlsplit(target).path != paths[self.type]:
            return 404, {}, b"not found"
        found = self.change(self.now_s, self.document())
        if isinstance(found, tuple):
            return found
        return 200, {}, found if isinstance(found, bytes) else json.dumps(found).encode()

    def _check_key(self, target: str, headers: dict[str, str]) -> Reply | None:
        if self.key is None:
            return None
        given, query = headers.get("authorization", ""), dict(parse_qsl(urlsplit(target).query))
        if self.type == "shelly":
            fields = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
            expected = _digest(self.key, target, fields) if fields else None
            if expected is not None and fields.get("response") == expected:
                return None
            how = f'Digest qop="auth", realm="plug", nonce="{self.nonce}", algorithm=SHA-256'
            return 401, {"WWW-Authenticate": how}, b""
        if self.type == "shelly-gen1":
            good = given == httpx2.BasicAuth("admin", self.key)._auth_header
        elif self.type == "tasmota":
            good = query.get("user") == "admin" and query.get("password") == self.key
            if not good:  # as before 8.2.3
                return 200, {}, b'{"WARNING":"Need user=<username>&password=<password>"}'
        else:
            good = given == f"Bearer {self.key}"
        return None if good else (401, {}, b"")

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        target = request.url.raw_path.decode()
        found = self.reply(target, {k.lower(): v for k, v in request.headers.items()})
        if found is None:
            raise httpx2.ConnectTimeout("no answer", request=request)
        return httpx2.Response(found[0], headers=found[1], content=iter([found[2]]))


def _digest(key: str, target: str, fields: dict[str, str]) -> str:
    """Compute the response of RFC 7616."""

    def of(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    first, second = of(f"admin:{fields['realm']}:{key}"), of(f"GET:{target}")
    middle = f"{fields['nonce']}:{fields['nc']}:{fields['cnonce']}:{fields['qop']}"
    return of(f"{first}:{middle}:{second}")


def _floor(value: float, step: float) -> float:
    return math.floor(value / step + 1e-9) * step


@contextmanager
def serve_plug(plug: Plug) -> Iterator[str]:
    """Serve a plug over loopback; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {k.lower(): v for k, v in self.headers.items()}
            found = plug.reply(self.path, headers)
            if found is None:
                self.close_connection = True
                return
            status, extra, body = found
            self.send_response(status)
            for name, value in {**extra, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LOAD = steps([(60, 60.0), (45, 240.0), (30, 90.0), (20, 310.0), (85, 60.0)])
BUSY = WattCurve(
    tuple((t / 2, 120 + 80 * math.sin(t / 9) + 15 * math.sin(t * 1.7)) for t in range(480))
)


def _replace_unit(at_s: float, unit: str, factor: float) -> Callable[[float, Any], Any]:
    def change(now_s: float, document: Any) -> Any:
        if now_s >= at_s:
            document["attributes"]["unit_of_measurement"] = unit
            document["state"] = f"{float(document['state']) * factor:.6f}"
        return document

    return change


def _between(start_s: float, end_s: float, other: Any) -> Callable[[float, Any], Any]:
    """Send something else in a time."""

    def change(now_s: float, document: Any) -> Any:
        made = other(document) if callable(other) else other
        return made if start_s <= now_s < end_s else document

    return change


def _set(key: str, value: Any) -> Callable[[Any], Any]:
    """Change a field of the output of a Shelly."""

    def change(document: Any) -> Any:
        return {**document, "switch:0": {**document["switch:0"], key: value}}

    return change


def _count_back(document: Any) -> Any:
    total = document["switch:0"]["aenergy"]["total"]
    return _set("aenergy", {"total": total - 1990.0})(document)


def _count_twice(document: Any) -> Any:
    total = document["switch:0"]["aenergy"]["total"]
    return _set("aenergy", {"total": 2000.0 + 2 * (total - 2000.0)})(document)


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HOME: Any = {"type": "home-assistant"}
PLUGS: dict[str, Plug] = {
    "shelly": Plug(),
    "shelly, 5 s": Plug(refresh_s=5.0, lag_s=2.0),
    "shelly, 10 s late": Plug(refresh_s=1.0, lag_s=9.0),
    "shelly, whole watts": Plug(step_watts=1.0, step_joules=3600.0),
    "shelly, busy": Plug(curve=BUSY),
    "shelly, slow network": Plug(latency_s=1.4),
    "shelly, slow and 2 s": Plug(curve=BUSY, latency_s=0.8, refresh_s=2.0),
    "gen1": Plug("shelly-gen1", refresh_s=1.0, step_watts=0.01, step_joules=60.0),
    "gen1, busy": Plug("shelly-gen1", curve=BUSY, step_joules=60.0),
    "tasmota": Plug("tasmota", step_watts=1.0, step_joules=3600.0),
    "tasmota, fine": Plug("tasmota", step_watts=1.0, step_joules=36.0, curve=BUSY),
    "home assistant": Plug(**HOME, refresh_s=5.0, lag_s=1.0),
    "home assistant, kW": Plug(**HOME, unit="kW", refresh_s=2.0),
    "home assistant, counter": Plug(**HOME, unit="kWh", refresh_s=10.0, step_joules=3600.0),
    "home assistant, fine counter": Plug(**HOME, unit="Wh", refresh_s=2.0, step_joules=36.0),
    "home assistant, no stamps": Plug(**HOME, unstamped=True, curve=BUSY),
    "url": Plug("url"),
    "url, counter": Plug("url", unit="J", step_joules=1.0),
    "reboot": Plug(stopped=((70.0, 82.0),)),
    "two reboots": Plug(stopped=((65.0, 75.0), (150.0, 153.0)), curve=BUSY),
    "reboot of gen1": Plug("shelly-gen1", stopped=((70.0, 90.0),), step_joules=60.0),
    "reboot without uptime": Plug("tasmota", stopped=((70.0, 90.0),), step_joules=36.0),
    "reboot of a counter": Plug(**HOME, unit="Wh", stopped=((70.0, 90.0),), step_joules=36.0),
    "dropout": Plug(silent=((80.0, 110.0),)),
    "many dropouts": Plug(silent=tuple((t, t + 1.2) for t in range(20, 230, 9)), curve=BUSY),
    "dropout without uptime": Plug("url", silent=((70.0, 100.0),)),
    "stale": Plug(frozen=((58.0, 130.0),)),
    "stale power": Plug("url", frozen=((58.0, 130.0),), curve=BUSY),
    "stale for ever": Plug(frozen=((58.0, 900.0),), curve=BUSY),
    "hung meter": Plug(hung=((58.0, 130.0),)),
    "hung sensor": Plug(**HOME, hung=((58.0, 130.0),), refresh_s=2.0, curve=BUSY),
    "watts to kilowatts": Plug(**HOME, change=_replace_unit(100.0, "kW", 1e-3), refresh_s=2.0),
    "watts to watt-hours": Plug(**HOME, change=_replace_unit(100.0, "Wh", 20.0), refresh_s=2.0),
    "unknown unit": Plug(**HOME, change=_replace_unit(100.0, "VA", 1.0), refresh_s=2.0),
    "unavailable": Plug(
        **HOME, change=_between(80, 120, lambda d: {**d, "state": "unavailable"}), refresh_s=2.0
    ),
    "0 W in between": Plug(change=_between(80, 120, _set("apower", 0))),
    "NaN": Plug(change=_between(80, 120, b'{"switch:0": {"apower": NaN}}')),
    "infinite": Plug(change=_between(80, 120, b'{"switch:0": {"apower": 1e999}}')),
    "text for a number": Plug(change=_between(80, 120, _set("apower", "130.5"))),
    "boolean for a number": Plug(change=_between(80, 120, _set("apower", True))),
    "negative": Plug(change=_between(80, 120, _set("apower", -130.0))),
    "far too large": Plug(change=_between(80, 120, _set("apower", 1e9))),
    "deep JSON": Plug(change=_between(80, 100, DEEP)),
    "huge JSON": Plug(change=_between(80, 100, b"[" + b"1," * 200_000 + b"1]")),
    "huge number": Plug(change=_between(80, 100, b'{"switch:0":{"apower":' + b"9" * 9_000 + b"}}")),
    "list for an object": Plug(change=_between(80, 120, [1, 2])),
    "object for a number": Plug(change=_between(80, 120, _set("aenergy", {"total": {}}))),
    "no text at all": Plug(change=_between(80, 120, b"\xff\xfe\x00")),
    "empty": Plug(change=_between(80, 120, b"")),
    "redirect": Plug(change=_between(80, 120, (302, {"Location": "http://elsewhere/"}, b""))),
    "server error": Plug(change=_between(80, 120, (500, {}, b"{}"))),
    "compressed": Plug(change=_between(80, 120, (200, {"Content-Encoding": "gzip"}, b"{}"))),
    "counter going back": Plug(change=_between(100, 900, _count_back)),
    "counter going back for a moment": Plug(change=_between(100, 103, _count_back)),
    "counter of twice the energy": Plug(change=_between(0, 900, _count_twice)),
    "relay takes the meter's place": Plug(
        change=_between(80, 120, {"switch:0": {"id": 0, "output": True}})
    ),
}  # fmt: skip
"""Plugs with and without faults, by name."""
