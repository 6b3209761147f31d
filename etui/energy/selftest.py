"""Check that the meter is consistent: counter with integral, parts with whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from etui.energy.recorder import Recorder
from etui.energy.types import Kind

_PARTS = 8
_AGREE = 0.05
_NOTHING_MEASURED = "nothing can be measured on this machine; see `etui doctor`"


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
    checks = [_hardware(recorder), _additivity(recorder, start_ns, end_ns)]
    for channel in recorder.channels:
        checks.append(_coverage(recorder, channel.id, start_ns, end_ns))
        if channel.kind is Kind.COUNTER:
            checks.append(_agreement(recorder, channel.id, start_ns, end_ns))
            checks.append(_period(recorder, channel.id))
    return tuple(checks)


def any_failed(checks: Sequence[Check]) -> bool:
    """Return whether any check failed."""
    return any(check.passed is False for check in checks)


def _hardware(recorder: Recorder) -> Check:
    kinds = {channel.kind for channel in recorder.selection.summed}
    if not kinds:
        return Check("hardware", "", None, _NOTHING_MEASURED)
    if kinds == {Kind.ESTIMATE}:
        return Check("hardware", "", None, "only an estimate is available; see `etui doctor`")
    names = ", ".join(channel.id for channel in recorder.selection.summed)
    return Check("hardware", "", True, f"the total is {names}")


def _additivity(recorder: Recorder, start_ns: int, end_ns: int) -> Check:
    marks = [start_ns + (end_ns - start_ns) * i // _PARTS for i in range(_PARTS + 1)]
    parts = [recorder.energy(a, b).joules for a, b in pairwise(marks)]
    whole = recorder.energy(start_ns, end_ns).joules
    if whole is None:
        return Check("additivity", "", None, "nothing was measured")
    total = sum(joules for joules in parts if joules is not None)
    detail = f"{_PARTS} parts sum to {total:.6f} J of {whole:.6f} J"
    return Check("additivity", "", total == whole, detail)


def _coverage(recorder: Recorder, channel_id: str, start_ns: int, end_ns: int) -> Check:
    energy = recorder.energy(start_ns, end_ns)
    part = next((p for p in (*energy.channels, *energy.cross_checks) if p.id == channel_id), None)
    if part is None:
        return Check("coverage", channel_id, False, "no reading in the whole interval")
    detail = f"{100 * part.coverage:.1f} % of the interval was recorded"
    return Check("coverage", channel_id, part.coverage >= 0.99, detail)


def _agreement(recorder: Recorder, channel_id: str, start_ns: int, end_ns: int) -> Check:
    check = recorder.cross_check(channel_id, start_ns, end_ns)
    if check is None or not check.counter_joules:
        return Check("agreement", channel_id, None, "no power readings to compare with the counter")
    energy = recorder.energy(start_ns, end_ns)
    disagree = any(p.id == channel_id and "disagrees" in p.flags for p in energy.channels)
    detail = (
        f"counter {check.counter_joules:.2f} J, integrated power {check.integral_joules:.2f} J, "
        f"{100 * check.difference:+.1f} %"
    )
    good = abs(check.difference) <= _AGREE or not disagree
    return Check("agreement", channel_id, good, detail)


def _period(recorder: Recorder, channel_id: str) -> Check:
    period = recorder.period_s(channel_id)
    if period is None:
        return Check("period", channel_id, False, "the counter did not move")
    return Check("period", channel_id, True, f"refreshed every {1e3 * period:.3g} ms")
