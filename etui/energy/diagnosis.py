"""Find out what is wrong with a meter: checks of a recorded interval, and recorded readings.

The checks compare the parts of the interval with the whole, and a counter with integrated power.

Recorded readings are a file to attach to a bug report and to replay through the meter. Each line is
a JSON object. The first states the format, its version and the channels; the others are readings
``{"id", "t_ns", "joules", "watts", "updated_ns"}`` in the order of their arrival.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from etui.codec import from_document, to_document
from etui.energy.recorder import Recorder
from etui.energy.scopes import WALL
from etui.energy.types import BaseSource, Channel, ChannelEnergy, Energy, Kind, Reading
from etui.errors import InvalidFile

FORMAT = "etui-power-trace"
VERSION = 1
_PARTS = 8
_AGREE = 0.05


class TraceWriter:
    """Writes every reading of a recorder to a text file."""

    def __init__(self, file: IO[str], channels: Sequence[Channel], unmeasured: Sequence[str]):
        self._file = file
        header = {"format": FORMAT, "version": VERSION}
        self._line(header | {"channels": to_document(channels), "unmeasured": list(unmeasured)})
        self.readings = 0
        self.error: OSError | None = None

    def write(self, readings: Mapping[str, Reading]) -> None:
        """Write readings; meant to be added to ``Recorder.taps``.

        A failure is kept in ``error`` and ends the writing: the sampler's thread must go on.
        """
        try:
            for channel_id, reading in () if self.error is not None else readings.items():
                fields = to_document(reading).items()
                found = {
                    k: value for k, value in fields if value is not None and value is not False
                }
                self._line({"id": channel_id, **found})
                self.readings += 1
        except OSError as error:
            self.error = error

    def _line(self, document: dict[str, Any]) -> None:
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")


class TraceSource(BaseSource):
    """A source that replays recorded readings, one round per read."""

    def __init__(self, channels: Sequence[Channel], readings: Sequence[tuple[str, Reading]]):
        super().__init__(time.monotonic_ns)
        for channel in channels:
            self.add(channel)
        self._readings = list(readings)
        self._at = 0

    @property
    def next_ns(self) -> int | None:
        """Time of the next reading; None at the end."""
        return self._readings[self._at][1].t_ns if self._at < len(self._readings) else None

    def read(self) -> Mapping[str, Reading]:
        """Return the next readings, at most one per channel."""
        found: dict[str, Reading] = {}
        while self._at < len(self._readings):
            channel_id, reading = self._readings[self._at]
            if channel_id in found:
                break
            found[channel_id] = reading
            self._at += 1
        return found


def replay(path: Path) -> tuple[Recorder, int, int]:
    """Replay a whole trace into a recorder; return it with the times of the first and last reading.

    InvalidFile as in :func:`read_trace`.
    """
    channels, unmeasured, readings = read_trace(path)
    source = TraceSource(channels, readings)
    start_ns, end_ns = readings[0][1].t_ns, readings[-1][1].t_ns
    now, seconds = [start_ns], (end_ns - start_ns) / 1e9
    per_channel = len(readings) / max(len(channels), 1)
    recorder = Recorder(
        [source],
        hz=min(max(per_channel / max(seconds, 0.1), 1.0), 200.0),
        clock=lambda: now[0],
        unmeasured=unmeasured,
        estimate="always" if all(c.kind is Kind.ESTIMATE for c in channels) else "auto",
        keep_seconds=seconds + 60,
    )
    while (t_ns := source.next_ns) is not None:
        now[0] = max(now[0], t_ns)
        recorder.sample_now()
    return recorder, start_ns, end_ns


def read_trace(path: Path) -> tuple[list[Channel], list[str], list[tuple[str, Reading]]]:
    """Read the channels, unmeasured scopes and readings of a trace.

    InvalidFile if the file is not a trace, or a line of it is damaged.
    """
    fix = "record one with `etui power record FILE`"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path}:1:1: cannot be read as text: {error}", fix) from error
    header = _parse(path, 1, lines[0] if lines else "")
    if header.get("format") != FORMAT:
        raise InvalidFile(f"{path}:1:1: is not a power trace", fix)
    if header.get("version") != VERSION:
        version = header.get("version")
        what = f"{path}:1:1: has trace version {version}, but this etui reads version {VERSION}"
        raise InvalidFile(what, "read it with the version of etui that recorded it")
    try:
        channels = from_document(list[Channel], header.get("channels"))
    except ValueError as error:
        raise InvalidFile(f"{path}:1:1: has invalid channels: {error}", fix) from error
    known = {channel.id for channel in channels}
    readings = []
    for number, line in enumerate(lines[1:], start=2):
        found = _parse(path, number, line)
        if found.get("id") not in known or not isinstance(found.get("t_ns"), int):
            what = f"{path}:{number}:1: is not a reading of a channel of this trace"
            raise InvalidFile(what, fix)
        name = found.pop("id")
        try:
            readings.append((name, from_document(Reading, {"joules": None, **found})))
        except ValueError as error:
            raise InvalidFile(f"{path}:{number}:1: {error}", "remove the line") from error
    if not readings:
        raise InvalidFile(f"{path}:2:1: has no readings", fix)
    return channels, list(header.get("unmeasured", [])), readings


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        column = getattr(error, "colno", 1)
        raise InvalidFile(
            f"{path}:{number}:{column}: is not JSON", "remove the line, or record the trace again"
        ) from error
    if not isinstance(found, dict):
        raise InvalidFile(f"{path}:{number}:1: is not a JSON object", "record the trace again")
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str  # `additivity`, `agreement`, `coverage`, `period` or `hardware`
    channel: str  # Channel id; empty for the total
    passed: bool | None  # Whether the check passed; None when it cannot be made on this machine
    detail: str  # The result with its numbers, for people


def run_selftest(recorder: Recorder, start_ns: int, end_ns: int) -> tuple[Check, ...]:
    """Check an interval that was recorded and settled.

    A few seconds under load show more than idle ones.
    """
    energy = recorder.energy(start_ns, end_ns)
    checks = [_check_hardware(recorder), _check_additivity(recorder, energy)]
    for channel in recorder.channels:
        parts = (*energy.channels, *energy.cross_checks)
        checks.append(_check_coverage(channel.id, {part.id: part for part in parts}))
        if channel.kind is Kind.COUNTER and channel.scope != WALL:  # too slow for a short test
            checks.append(_check_agreement(recorder, channel.id, energy))
            period = recorder.period_s(channel.id)
            said = (
                f"refreshed every {1e3 * period:.3g} ms" if period else "the counter did not move"
            )
            checks.append(Check("period", channel.id, period is not None, said))
    return tuple(checks)


def any_failed(checks: Sequence[Check]) -> bool:
    """Return whether any check failed."""
    return any(check.passed is False for check in checks)


def _check_hardware(recorder: Recorder) -> Check:
    kinds = {channel.kind for channel in recorder.selection.summed}
    if not kinds:
        said = "nothing can be measured on this machine; see `etui doctor`"
        return Check("hardware", "", None, said)
    if kinds == {Kind.ESTIMATE}:
        return Check("hardware", "", None, "only an estimate is available; see `etui doctor`")
    names = ", ".join(channel.id for channel in recorder.selection.summed)
    return Check("hardware", "", True, f"the total is {names}")


def _check_additivity(recorder: Recorder, whole: Energy) -> Check:
    span_ns = whole.end_ns - whole.start_ns
    marks = [whole.start_ns + span_ns * i // _PARTS for i in range(_PARTS + 1)]
    parts = [recorder.energy(a, b).joules for a, b in pairwise(marks)]
    if whole.joules is None:
        return Check("additivity", "", None, "nothing was measured")
    total = sum(joules for joules in parts if joules is not None)
    detail = f"{_PARTS} parts sum to {total:.6f} J of {whole.joules:.6f} J"
    return Check("additivity", "", total == whole.joules, detail)


def _check_coverage(channel_id: str, parts: Mapping[str, ChannelEnergy]) -> Check:
    part = parts.get(channel_id)
    if part is None:
        return Check("coverage", channel_id, False, "no reading in the whole interval")
    detail = f"{100 * part.coverage:.1f} % of the interval was recorded"
    return Check("coverage", channel_id, part.coverage >= 0.99, detail)


def _check_agreement(recorder: Recorder, channel_id: str, energy: Energy) -> Check:
    check = recorder.cross_check(channel_id, energy.start_ns, energy.end_ns)
    if check is None or not check.counter_joules:
        return Check("agreement", channel_id, None, "no power readings to compare with the counter")
    disagree = any(p.id == channel_id and "disagrees" in p.flags for p in energy.channels)
    detail = (
        f"counter {check.counter_joules:.2f} J, integrated power {check.integral_joules:.2f} J, "
        f"{100 * check.difference:+.1f} %"
    )
    good = abs(check.difference) <= _AGREE or not disagree
    return Check("agreement", channel_id, good, detail)
