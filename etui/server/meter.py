"""``GET /meter``, ``/meter/clock`` and ``/meter/energy``: the meter for other machines.

The routes work on a recorder alone, so that ``etui power serve`` needs no model. Another machine
asks for the energy of an interval of *this* machine's monotonic clock, whose offset it measures
with ``/meter/clock``. An interval that is not on record is refused, never guessed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.energy.documents import energy_document
from etui.energy.remote.clock import read_boot_id
from etui.energy.scopes import weakest
from etui.server.errors import ApiError, invalid

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.energy.recorder import Recorder
    from etui.energy.types import ChannelPower
    from etui.server.context import ServerContext

_AHEAD_NS = 500_000_000
"""How far in the future an interval may end: the error of a clock offset, not a wait."""
_RECENT_NS = 5_000_000_000
_MOST_NS = 2**63 - 1
_MOST_POINTS = 600
_PARAMETERS = ("start_ns", "end_ns", "boot_id", "points")
_NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class MeterSource:
    """A running meter, and what other machines need to know of it."""

    recorder: Recorder
    running: Callable[[], int | None] = lambda: None
    """Returns the number of requests at work on this machine; None if it is not known."""
    loading: Callable[[], bool] = lambda: False  # Returns whether a model is being loaded
    clock: Callable[[], int] = time.monotonic_ns
    """The monotonic clock of the recorder, in nanoseconds."""
    boot_id: str = field(default_factory=read_boot_id)
    """Id of this boot: times of different boots cannot be compared."""
    started_ns: int = field(default_factory=time.monotonic_ns)

    def clock_document(self) -> dict[str, Any]:
        """Build the document of ``/meter/clock``; the clock is read last."""
        watts = sum_watts(self.recorder.latest())
        known = {"boot_id": self.boot_id, "started_ns": self.started_ns, "watts": watts}
        return {**known, "now_ns": self.clock()}

    def document(self) -> dict[str, Any]:
        """Build the document of ``/meter``."""
        rows = self.recorder.latest()
        now_ns = self.clock()
        recorded_since_ns = self.recorder.recorded_since_ns
        # The time since the last reading is not missing: its reading is still to come.
        read_ns = min((row.t_ns for row in rows if row.in_total and row.t_ns), default=now_ns)
        since_ns = max(now_ns - _RECENT_NS, recorded_since_ns or 0)
        recent = self.recorder.energy(since_ns, max(read_ns, since_ns))
        kind = weakest(row.channel.kind for row in rows if row.in_total and row.watts is not None)
        return {
            "watts": sum_watts(rows),
            "kind": None if kind is None else kind.value,
            "coverage": recent.coverage,
            "covers_machine": self.recorder.selection.covers_machine,
            "idle_watts": self.recorder.idle_watts,
            "joules_since_start": self.recorder.joules_since_start,
            "channels": [_build_channel(row) for row in rows],
            "unmeasured": list(self.recorder.unmeasured),
            "running": self.running(),
            "loading": self.loading(),
            "boot_id": self.boot_id,
            "started_ns": self.started_ns,
            "recorded_since_ns": recorded_since_ns,
            "now_ns": now_ns,
        }

    def check_interval(self, start_ns: int, end_ns: int, boot_id: str | None) -> None:
        """ApiError if an interval is not one of this boot, in the future, or not on record."""
        if boot_id is not None and boot_id != self.boot_id:
            text = f"this machine was restarted; its boot_id is {self.boot_id} now"
            raise ApiError(409, text, "boot_changed", "boot_id")
        if end_ns < start_ns:
            raise invalid("end_ns is before start_ns; swap them", "end_ns")
        now_ns = self.clock()
        if end_ns > now_ns + _AHEAD_NS:
            raise invalid(f"end_ns is in the future: the clock is at {now_ns}", "end_ns")
        since_ns = self.recorder.recorded_since_ns
        if since_ns is not None and start_ns < since_ns:
            text = f"the record begins at {since_ns}, after start_ns"
            raise ApiError(410, text, "no_longer_recorded", "start_ns")

    def measure(self, start_ns: int, end_ns: int, points: int | None = None) -> dict[str, Any]:
        """Wait up to a second until an interval has settled, and build its document.

        With ``points`` it has the mean watts of so many equal slices.
        """
        settled = self.recorder.settle(end_ns)
        energy = self.recorder.energy(start_ns, end_ns)
        document = {**energy_document(energy), "boot_id": self.boot_id, "settled": settled}
        if points is not None:
            curve = self.recorder.power_curve(start_ns, end_ns, points)
            document["power_watts"] = [watts for _, watts in curve] or [None] * points
        return document


def sum_watts(rows: tuple[ChannelPower, ...]) -> float | None:
    """Sum the power of the channels of the total; None if one of them is not known now."""
    watts = [row.watts for row in rows if row.in_total]
    known = [value for value in watts if value is not None]
    return sum(known) if known and len(known) == len(watts) else None


def source_of(context: ServerContext) -> Callable[[], MeterSource]:
    """Return what opens the meter of ``etui serve``, at its first use."""
    pool, started_ns = context.pool, time.monotonic_ns()

    @cache
    def open_source() -> MeterSource:
        return MeterSource(
            context.runtime.meter,
            lambda: pool.status().running,
            lambda: pool.status().loading is not None,
            started_ns=started_ns,
        )

    return open_source


def build_routes(open_source: Callable[[], MeterSource]) -> list[Route]:
    """Build the routes of a meter; ``open_source`` returns the same one each time."""

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(open_source().document), headers=_NO_STORE)

    async def tell_time(request: Request) -> JSONResponse:
        return JSONResponse(open_source().clock_document(), headers=_NO_STORE)

    async def measure(request: Request) -> JSONResponse:
        source = open_source()
        values = _read_parameters(request)
        start_ns, end_ns = (_read_whole(values, name, _MOST_NS) for name in ("start_ns", "end_ns"))
        points = None
        if "points" in values:
            points = max(1, _read_whole(values, "points", _MOST_POINTS))
        source.check_interval(start_ns, end_ns, values.get("boot_id"))
        ahead_ns = end_ns - source.clock()
        if ahead_ns > 0:
            await asyncio.sleep(ahead_ns / 1e9)
        document = await run_in_threadpool(source.measure, start_ns, end_ns, points)
        return JSONResponse(document, headers=_NO_STORE)

    return [
        Route("/meter", show),
        Route("/meter/clock", tell_time),
        Route("/meter/energy", measure),
    ]


def _build_channel(row: ChannelPower) -> dict[str, Any]:
    channel = row.channel
    return {
        "id": channel.id,
        "scope": channel.scope,
        "label": channel.label,
        "kind": channel.kind.value,
        "in_total": row.in_total,
        "limit_watts": channel.limit_watts,
        "watts": row.watts,
        "joules_since_start": row.joules_since_start,
    }


def _read_parameters(request: Request) -> dict[str, str]:
    given = request.query_params.multi_items()
    values = dict(given)
    for name in values:
        if name not in _PARAMETERS:
            raise invalid(f"there is no parameter {name[:40]!r}; remove it", name[:40])
    if len(values) != len(given):
        raise invalid("a parameter is given twice; give it once")
    return values


def _read_whole(values: dict[str, str], name: str, most: int) -> int:
    text = values.get(name)
    if text is None:
        raise invalid(f"{name} is missing; times are those of /meter/clock", name)
    digits = text.isascii() and text.isdigit() and len(text) <= 19
    if not digits or int(text) > most:
        raise invalid(f"{name} must be a whole number from 0 to {most}", name)
    return int(text)
