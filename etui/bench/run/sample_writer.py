"""Background writer of answers: a thread waits for the meter, so that the engine never does."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from etui.bench.run.work import Answered
from etui.bench.store.run_folder import RunFolder
from etui.bench.store.sample import Sample
from etui.bench.store.several_machines import MachineShare
from etui.turn.ports import Meter


class SampleWriter:
    """Measures, writes and shows answers in the order they were given.

    Answers are on the disk as soon as the meter has a reading after their end, some tens of
    milliseconds later, while the next question is being computed.

    Args:
        folder: Where the answers are written.
        meter: Provides the energy of an interval.
        show: Called with the samples after they are written, from the writer's thread.
        joules: Joules of earlier answers if the run is resumed.
        share: The machine's share of a run of several; None for a run of one machine.
    """

    def __init__(
        self,
        folder: RunFolder,
        meter: Meter,
        show: Callable[[Sequence[Sample]], None],
        joules: float = 0.0,
        share: MachineShare | None = None,
    ) -> None:
        self._folder = folder
        self._meter = meter
        self._show = show
        self._queue: SimpleQueue[Answered | threading.Event | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._joules = joules
        self._share = share
        self._thread = threading.Thread(target=self._work, name="etui-bench", daemon=True)
        self._thread.start()

    @property
    def joules(self) -> float:
        """Joules of all written answers, those before a resume included."""
        return self._joules

    def put(self, answered: Answered) -> None:
        """Queue answers for writing.

        Raises:
            EtuiError: Earlier answers could not be written.
        """
        self._check()
        self._queue.put(answered)

    def wait(self) -> None:
        """Wait until the answers put so far are written and shown.

        Raises:
            EtuiError: One of them could not be written.
        """
        written = threading.Event()
        self._queue.put(written)
        written.wait()
        self._check()

    def close(self) -> None:
        """Wait until all answers are written.

        Raises:
            EtuiError: An answer could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (answered := self._queue.get()) is not None:
            if isinstance(answered, threading.Event):
                answered.set()
            elif self._failure is None:
                try:
                    self._write(answered)
                except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                    self._failure = error

    def _write(self, answered: Answered) -> None:
        self._meter.settle(answered.end_ns)
        samples = answered.samples(self._meter.energy)
        if self._share is not None:
            samples = [self._share.place(sample) for sample in samples]
        self._folder.add_samples(samples)
        self._joules += math.fsum(s.joules for s in samples if s.joules is not None)
        self._show(samples)
