"""What a ``with`` block has spent: the object behind :func:`etui.energy.measure`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Self

from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.energy.types import ChannelEnergy, Energy

_KEEP_SECONDS = 6 * 3600.0
"""Of a longer block only the last part is known; ``energy.coverage`` says how much."""


class _Meter:
    """One recorder for all blocks that are open in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        self._users = 0
        self._pid = 0

    def open(self) -> Recorder:
        with self._lock:
            if self._recorder is None or self._pid != os.getpid():  # a fork has no threads
                self._recorder = open_recorder(load_config(), keep_seconds=_KEEP_SECONDS)
                self._users, self._pid = 0, os.getpid()
                self._recorder.start()
            self._users += 1
            return self._recorder

    def close(self, recorder: Recorder) -> None:
        with self._lock:
            if recorder is not self._recorder:  # it is that of the process before a fork
                return
            self._users -= 1
            if not self._users:
                self._recorder = None
                recorder.close()


_METER = _Meter()  # State of the process: nested blocks and threads have no other place in common


class Spent:
    """What a block has spent; inside the block, what it has spent so far.

    A figure that was not measured is None, never 0.
    """

    def __init__(self) -> None:
        self._recorder: Recorder | None = None
        self._start_ns = 0
        self._energy: Energy | None = None

    def __enter__(self) -> Self:
        self._recorder = _METER.open()
        self._energy = None
        self._recorder.settle(time.monotonic_ns())
        self._start_ns = time.monotonic_ns()
        self._recorder.mark(self._start_ns)
        return self

    def __exit__(self, *_: object) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        try:
            end_ns = time.monotonic_ns()
            recorder.mark(end_ns)
            recorder.settle(end_ns)
            self._energy = recorder.energy(self._start_ns, end_ns)
        finally:
            _METER.close(recorder)

    @property
    def energy(self) -> Energy:
        """All that is known: kind, watts, coverage, flags, cross-checks and what is unmeasured.

        RuntimeError if the block has not begun.
        """
        if self._energy is not None:
            return self._energy
        if self._recorder is None:
            raise RuntimeError("the block has not begun: `with etui.energy.measure() as spent:`")
        return self._recorder.energy(self._start_ns, time.monotonic_ns())

    @property
    def joules(self) -> float | None:
        """Gross joules; None if nothing was measured."""
        return self.energy.joules

    @property
    def plus_minus(self) -> float | None:
        """Half width of the joules at 95 %."""
        return self.energy.uncertainty

    @property
    def net_joules(self) -> float | None:
        """Joules above the idle power that ``etui power idle`` has measured; None without it."""
        return self.energy.net_joules

    @property
    def seconds(self) -> float:
        """Length of the block."""
        return self.energy.seconds

    @property
    def channels(self) -> Mapping[str, ChannelEnergy]:
        """Channel id -> its part of the joules, with ``joules``, ``uncertainty`` and ``kind``."""
        return {part.id: part for part in self.energy.channels}

    def exceeds(self, joules: float) -> bool:
        """Return whether more was spent beyond the ±; False if nothing was measured."""
        spent = self.energy
        if spent.joules is None or spent.uncertainty is None:
            return False
        return spent.joules - spent.uncertainty > joules
