"""The recorder as the panel sees it, with what else is known of the machine."""

from __future__ import annotations

from collections.abc import Sequence

from etui.energy.recorder import Recorder
from etui.energy.sources.nvml_watch import GpuState, GpuWatch
from etui.energy.types import ChannelPower, Energy
from etui.tui.backend import Vitals


class LiveMeter:
    """See :class:`etui.tui.backend.PowerMeter`."""

    def __init__(self, recorder: Recorder) -> None:
        import psutil

        self._recorder = recorder
        self._process = psutil.Process()
        self._looked = False

    def latest(self) -> Sequence[ChannelPower]:
        """The newest power of every channel."""
        return self._recorder.latest()

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Energy of an interval of the monotonic clock."""
        return self._recorder.energy(start_ns, end_ns)

    def vitals(self) -> Vitals:
        """Idle watts, GPU states, and the CPU time of this process since the last look."""
        percent = self._process.cpu_percent()
        share = percent / 100 if self._looked else None
        self._looked = True
        return Vitals(self._recorder.idle_by_channel, self._gpus(), share)

    def _gpus(self) -> tuple[GpuState, ...]:
        watch = self._recorder.watch
        return watch.states if isinstance(watch, GpuWatch) else ()
