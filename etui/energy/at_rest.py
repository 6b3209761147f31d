"""Whether the machine is at rest, so that its power is the model's or that of an idle machine."""

from __future__ import annotations

import time
from collections.abc import Callable

from etui.energy.recorder import Recorder
from etui.errors import EtuiError

BUSY_SHARE = 0.2
"""Utilisation of all CPUs above which other programs count as running."""

_LOOK_S = 1.0


def find_other_use(
    recorder: Recorder, start_ns: int, end_ns: int, cpu_share: float | None = None
) -> str:
    """Find other programs that used the machine while etui was idle.

    Args:
        recorder: A recorder that ran in the interval.
        cpu_share: Utilisation of all CPUs, 0..1; None takes what the recorder has recorded.

    Returns:
        What was used, as text; empty if the machine was at rest.
    """
    watch = recorder.watch
    scopes = [channel.scope for channel in recorder.selection.summed]
    if watch and any(watch.share(scope, start_ns, end_ns).shared for scope in scopes):
        return "other processes use a GPU"
    if cpu_share is None and recorder.cpu_watch is not None:
        cpu_share = recorder.cpu_watch.busy_share(start_ns, end_ns)
    if cpu_share is not None and cpu_share > BUSY_SHARE:
        return f"the CPUs are busy ({cpu_share:.0%})"
    return ""


def refuse_busy(
    recorder: Recorder, *, force: bool, note: Callable[[str], object], consequence: str
) -> None:
    """Refuse a busy machine, because its other joules would be counted as the model's.

    It looks for a second, in which etui itself must be idle.

    Args:
        force: Measure anyway, and note what runs.
        consequence: What it means for the result: ``the curve will be too high``.

    Raises:
        EtuiError: Other programs use the machine.
    """
    import psutil

    start_ns = time.monotonic_ns()
    cpu_share = psutil.cpu_percent(interval=_LOOK_S) / 100
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    what = find_other_use(recorder, start_ns, end_ns, cpu_share)
    if not what:
        return
    if not force:
        raise EtuiError(
            f"the machine is not idle: {what}",
            "end the other programs, or measure anyway with --force",
        )
    note(f"the machine is not idle: {what}; {consequence}")
