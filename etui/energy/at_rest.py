"""Whether the machine is at rest, so that its power is the model's or that of an idle machine."""

from __future__ import annotations

from etui.energy.recorder import Recorder

BUSY_SHARE = 0.2
"""Utilisation of all CPUs above which other programs count as running."""


def find_other_use(
    recorder: Recorder, start_ns: int, end_ns: int, cpu_share: float | None = None
) -> str:
    """Find other programs that used the machine while etui was idle.

    Args:
        recorder: A recorder that ran in the interval.
        start_ns: Start of the interval.
        end_ns: End of the interval.
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
