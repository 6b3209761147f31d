"""Wall meters: plugs and sensors on the network that measure the whole machine.

- ``shelly`` (Gen2 and later): ``/rpc/Shelly.GetStatus``. Power in watts, energy in watt-hours; an
  output without ``apower`` is a relay that does not measure.
  https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Switch#status
- ``shelly-gen1``: ``/status``. ``meters`` count watt-minutes, ``emeters`` watt-hours; a relay that
  does not measure has a power, which is a setting, and no total.
- ``tasmota``: ``Status 8``, energy in kilowatt-hours. https://tasmota.github.io/docs/Commands
- ``home-assistant``: ``/api/states/ENTITY``. https://developers.home-assistant.io/docs/api/rest
- ``url``: a number in any JSON document.

A device is asked only for what config.yaml says, over one connection, without redirects. What is
no plain number, or 0 W (this machine runs, so that its plug cannot draw nothing), is not a reading.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from etui.config.backend_spec import WallMeterSpec, read_wall_key
from etui.energy.json_client import JsonClient, NoAnswer
from etui.energy.scopes import WALL
from etui.energy.types import Channel, ChannelProbe, Kind, Reading

if TYPE_CHECKING:
    import httpx2

_READ_SECONDS, _WHOLE_SECONDS = 3.0, 5.0
_SAMPLER_PERIOD_S = 2.5
"""The sampler reads a channel five times in the period that it declares: every 0.5 s."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
"""Time without a request after a failure, which doubles; a wrong key must not lock a device."""
_REBOOT_S, _REBOOT_SHARE = 3.0, 0.05
"""A device whose uptime is this much less than the time that passed was restarted."""
_MOST = 1e12
_JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}
_WATTS = {"W": 1.0, "kW": 1e3}
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?([eE][+-]?\d{1,2})?")
_SHELLY = (
    ("switch", "apower", "", "aenergy", "total"),
    ("pm1", "apower", "", "aenergy", "total"),
    ("em1", "act_power", "em1data", "", "total_act_energy"),
    ("em", "total_act_power", "emdata", "", "total_act"),
    ("cover", "apower", "", "aenergy", "total"),
)
"""Components with a meter: power, the component of the energy, its object and its key."""


class NoData(Exception):
    """The answer has no reading; ``fix`` says what to do."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class WallSample:
    """What an answer says; None where the device does not say it."""

    watts: float | None
    joules: float | None
    what: str  # Component and unit: a change of it breaks the record
    uptime_s: float | None = None
    stamp_us: int | None = None  # When the sensor was last refreshed, by the server's clock


class WallSource:
    """One wall meter. Nothing is asked before the first read, so that a start never waits for it.

    ``problem`` says why the last read gave nothing, and ``fix`` what to do; empty after a good one.
    """

    def __init__(
        self,
        spec: WallMeterSpec,
        clock: Callable[[], int] = time.monotonic_ns,
        environ: Mapping[str, str] = os.environ,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.spec = spec
        is_power = spec.type == "url" and spec.unit in _WATTS
        self.channel = Channel(
            id=f"{WALL}:{spec.name}",
            scope=WALL,
            kind=Kind.INTEGRATED if is_power else Kind.COUNTER,
            limit_watts=spec.limit_watts,
            label=f"{spec.name}, at the wall",
            period_s=_SAMPLER_PERIOD_S,
            relative_error=spec.accuracy_percent / 100,
        )
        self.channels = (self.channel,)
        self.problem = "not read yet"
        self.fix = ""
        self._clock = clock
        self._environ = environ
        self._transport = transport
        self._client: JsonClient | None = None
        self._query: dict[str, str] = {}
        self._failures = 0
        self._not_before_ns: int | None = None
        self._last: tuple[int, WallSample] | None = None
        self._is_broken = False  # Whether the record is interrupted since the last reading

    def probe(self) -> tuple[ChannelProbe, ...]:
        """Report the last read."""
        good = not self.problem
        return (ChannelProbe(self.channel.id, True, good, self.problem, self.fix),)

    def read(self) -> Mapping[str, Reading]:
        """Ask the device; an empty reading where it gives none, or is not asked after failures."""
        begin_ns = self._clock()
        if self._not_before_ns is not None and begin_ns < self._not_before_ns:
            return {self.channel.id: Reading(begin_ns, None)}
        try:
            reading = self._ask(begin_ns)
        except NoData as error:
            self.problem, self.fix = str(error), error.fix
        except NoAnswer as error:
            self.problem = f"its answer {error}" if error.invalid else f"no answer: {error}"
            self.fix = f"check the address {self.spec.url} in config.yaml"
        except Exception as error:  # noqa: BLE001  a device may answer anything: a failed read
            self.problem, self.fix = f"its answer cannot be read: {type(error).__name__}", ""
        else:
            self._failures, self._not_before_ns = 0, None
            return {self.channel.id: reading}
        self._is_broken = True
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._failures, 9), _LONGEST_PAUSE_S)
        self._failures += 1
        now_ns = self._clock()
        self._not_before_ns = now_ns + int(pause_s * 1e9)
        return {self.channel.id: Reading(now_ns, None)}

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def _ask(self, begin_ns: int) -> Reading:
        spec = self.spec
        client = self._client = self._client or self._open()
        path, parse = _TYPES[spec.type]
        answer = client.get(spec.url + path.format(quote(spec.entity, safe="._")), self._query)
        end_ns = self._clock()
        if answer.status != 200:
            raise _refuse_status(answer.status, spec)
        sample = parse(answer.parse(), spec)
        half_ns = (end_ns - begin_ns) // 2
        t_ns, before = begin_ns + half_ns, self._last
        self._last = t_ns, sample
        if before is not None and before[1].what != sample.what:
            raise NoData(f"it changed from {before[1].what} to {sample.what}")
        restarted = self._is_broken
        if before is not None and sample.uptime_s is not None and before[1].uptime_s is not None:
            passed_s = (t_ns - before[0]) / 1e9
            late_s = before[1].uptime_s + passed_s - sample.uptime_s
            restarted = late_s > max(_REBOOT_S, _REBOOT_SHARE * passed_s)
        self._is_broken = False
        self.problem = self.fix = ""
        watts = sample.watts
        if watts == 0:
            watts = None
            self.problem = "it reads 0 W, and this machine runs"
            self.fix = "plug the machine into this output, or set `output:` to the one it uses"
            if sample.joules is None:
                raise NoData(self.problem, self.fix)
        return Reading(
            t_ns, sample.joules, watts, sample.stamp_us, half_ns=half_ns, restarted=restarted
        )

    def _open(self) -> JsonClient:
        import httpx2

        spec = self.spec
        key, problem = read_wall_key(spec, self._environ)
        if problem:
            raise NoData(problem, f"see `wall_meters: {spec.name}` in config.yaml")
        headers: dict[str, str] = {}
        auth: httpx2.Auth | None = None
        self._query = {"cmnd": "Status 8"} if spec.type == "tasmota" else {}
        if key is None:
            pass
        elif spec.type == "shelly":
            auth = httpx2.DigestAuth(spec.user, key)
        elif spec.type == "shelly-gen1":
            auth = httpx2.BasicAuth(spec.user, key)
        elif spec.type == "tasmota":
            self._query = {"user": spec.user, "password": key, **self._query}
        else:
            headers["Authorization"] = f"Bearer {key}"
        return JsonClient(
            headers,
            read_seconds=_READ_SECONDS,
            whole_seconds=_WHOLE_SECONDS,
            auth=auth,
            transport=self._transport,
            clock_ns=self._clock,
        )


def check_wall_meters(
    meters: Mapping[str, WallMeterSpec],
    open_source: Callable[[WallMeterSpec], WallSource] = WallSource,
) -> tuple[ChannelProbe, ...]:
    """Read every meter once, all at the same time, and report what was read, or why not."""
    from concurrent.futures import ThreadPoolExecutor

    if not meters:
        return ()

    def check(spec: WallMeterSpec) -> ChannelProbe:
        source = open_source(spec)
        reading = source.read()[source.channel.id]
        source.close()
        [probe] = source.probe()
        if not probe.readable:
            return probe
        parts = [] if reading.watts is None else [f"{reading.watts:.6g} W"]
        parts += [] if reading.joules is None else ["counts energy"]
        return ChannelProbe(probe.id, True, True, f"reads {' and '.join(parts)}; a cross-check")

    with ThreadPoolExecutor(min(len(meters), 16)) as pool:
        return tuple(pool.map(check, meters.values()))


def _refuse_status(status: int, spec: WallMeterSpec) -> NoData:
    if status in (401, 403):
        has_key = spec.key_env or spec.key_file
        why = "the password or token is wrong" if has_key else "it needs a password or token"
        return NoData(why, "set key_env or key_file of the meter in config.yaml")
    if 300 <= status < 400:
        return NoData("it redirects, and redirects are not followed", "set its final url")
    fix = "check type, url and entity of the meter" if status == 404 else ""
    return NoData(f"it refused the request (HTTP {status})", fix)


def _parse_shelly(document: Any, spec: WallMeterSpec) -> WallSample:
    status = _expect_object(document, "its answer")
    for family, power, other, inner, total in _SHELLY:
        name = f"{family}:{spec.output}"
        part = status.get(name)
        if not isinstance(part, dict) or power not in part:
            continue
        errors = part.get("errors")
        for error in errors if isinstance(errors, list) else ():
            if str(error).startswith(("power_meter", "out_of_range")):
                raise NoData(f"{name} reports the error {str(error)[:60]}")
        energy = status.get(f"{other}:{spec.output}") if other else part
        energy = energy.get(inner) if inner and isinstance(energy, dict) else energy
        return WallSample(
            _read_number(part[power], f"{name}.{power}"),
            _read_joules(energy, total, f"energy of {name}", _JOULES["Wh"]),
            name,
            _read_uptime(status.get("sys")),
        )
    if f"switch:{spec.output}" in status:
        why = f"output {spec.output} is a relay without a meter"
        raise NoData(why, "use a device with power metering (PM), or another output")
    raise NoData(f"it has no output {spec.output} with a meter", "set `output:` of the meter")


def _parse_gen1(document: Any, spec: WallMeterSpec) -> WallSample:
    status = _expect_object(document, "its answer")
    for name, factor in (("emeters", _JOULES["Wh"]), ("meters", 60.0)):
        found = status.get(name)
        if not isinstance(found, list) or len(found) <= spec.output:
            continue
        part = _expect_object(found[spec.output], f"{name}[{spec.output}]")
        if "total" not in part:
            why = f"output {spec.output} is a relay without a meter: it has a power, but no total"
            raise NoData(why, "use a device with power metering (PM)")
        if part.get("is_valid") is not True:
            raise NoData("the device says that its reading is not valid")
        watts = _read_number(part.get("power"), "power")
        joules = _read_joules(part, "total", "total", factor)
        return WallSample(watts, joules, f"{name}[{spec.output}]", _read_uptime(status))
    raise NoData(f"it has no meter {spec.output}", "set `output:` of the meter")


def _parse_tasmota(document: Any, spec: WallMeterSpec) -> WallSample:
    answer = _expect_object(document, "its answer")
    if "WARNING" in answer:  # with HTTP 200 in versions before 8.2.3
        raise NoData("it needs a password, or it is wrong", "set key_env or key_file")
    energy = _expect_object(answer.get("StatusSNS"), "StatusSNS").get("ENERGY")
    if not isinstance(energy, dict):
        raise NoData("it has no energy sensor", "use a plug with power metering")
    power, total = energy.get("Power"), energy.get("Total")
    if isinstance(power, list):
        if len(power) <= spec.output:
            raise NoData(f"it has no output {spec.output}", "set `output:` of the meter")
        power = power[spec.output]
        # A single total counts all outputs together.
        total = total[spec.output] if isinstance(total, list) and len(total) > spec.output else None
    elif spec.output:
        raise NoData(f"it has no output {spec.output}", "set `output: 0` of the meter")
    joules = None if total is None else _read_number(total, "Total") * _JOULES["kWh"]
    return WallSample(_read_number(power, "Power"), joules, "ENERGY")


def _parse_home_assistant(document: Any, spec: WallMeterSpec) -> WallSample:
    state = _expect_object(document, "its answer")
    if state.get("entity_id") != spec.entity:
        raise NoData("the answer is that of another entity")
    value, attributes = state.get("state"), state.get("attributes")
    unit = attributes.get("unit_of_measurement") if isinstance(attributes, dict) else None
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        shown = repr(value[:40]) if isinstance(value, str) else _describe(value)
        raise NoData(f"{spec.entity} is {shown}, not a number", "see the sensor in Home Assistant")
    stamp_us = None
    refreshed = state.get("last_reported") or state.get("last_updated")
    with suppress(ValueError, TypeError, OverflowError):
        stamp_us = int(datetime.fromisoformat(str(refreshed)).timestamp() * 1e6)
    return _build_sample(_read_number(float(value), "state"), unit, stamp_us)


def _parse_url(document: Any, spec: WallMeterSpec) -> WallSample:
    found = document
    for key in spec.path.split("."):
        if isinstance(found, list) and key.isascii() and key.isdigit() and len(key) < 6:
            found = found[int(key)] if int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            raise NoData(f"its answer has nothing at {spec.path}", "correct `path:` of the meter")
    return _build_sample(_read_number(found, spec.path), spec.unit)


def _build_sample(number: float, unit: object, stamp_us: int | None = None) -> WallSample:
    if unit in _WATTS:
        return WallSample(number * _WATTS[str(unit)], None, str(unit), stamp_us=stamp_us)
    if unit in _JOULES:
        return WallSample(None, number * _JOULES[str(unit)], str(unit), stamp_us=stamp_us)
    raise NoData("its unit is none of W, kW, Wh and kWh", "choose a sensor of power or energy")


_TYPES: dict[str, tuple[str, Callable[[Any, WallMeterSpec], WallSample]]] = {
    "shelly": ("/rpc/Shelly.GetStatus", _parse_shelly),
    "shelly-gen1": ("/status", _parse_gen1),
    "tasmota": ("/cm", _parse_tasmota),
    "home-assistant": ("/api/states/{}", _parse_home_assistant),
    "url": ("", _parse_url),
}
"""Type of a meter -> the path to ask for, with the entity, and what reads the answer."""


def _expect_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NoData(f"{what} is {_describe(value)}, not an object", "check `type:` of the meter")
    return value


def _read_number(value: Any, what: str) -> float:
    """Read a plain number from 0; a boolean or a text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoData(f"{what} is {_describe(value)}, not a number")
    if value < 0:
        raise NoData(f"{what} is negative", "turn the clamp round, if it has one")
    if not value <= _MOST:  # an infinite one too
        raise NoData(f"{what} is too large")
    return float(value)


def _read_joules(part: Any, key: str, what: str, factor: float) -> float | None:
    """Read a counter; None without one."""
    found = part.get(key) if isinstance(part, dict) else None
    return None if found is None else _read_number(found, what) * factor


def _read_uptime(part: Any) -> float | None:
    with suppress(NoData):
        return _read_number(_expect_object(part, "").get("uptime"), "uptime")
    return None


def _describe(value: Any) -> str:
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return "missing" if value is None else names.get(type(value), "a number")
