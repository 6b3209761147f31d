"""The flags that end one of several answers: in the queue, in a load, or in a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable


class AnswerControl:
    """Fulfils :class:`etui.reasoning.control.Control`; safe from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._spent = threading.Event()
        self._wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """End the answer within one batch, and wake it if it waits."""
        self._cancelled.set()
        if (wake := self._wake) is not None:
            wake()

    def hurry(self) -> None:
        """End the thinking of the answer, because its joules are spent."""
        self._spent.set()

    def cancelled(self) -> bool:
        """Return whether the answer was cancelled."""
        return self._cancelled.is_set()

    def spent(self) -> bool:
        """Return whether the answer has spent its joules."""
        return self._spent.is_set()

    def wake_by(self, wake: Callable[[], None]) -> None:
        """Set how the answer is woken where it waits now; at once if it was cancelled before."""
        self._wake = wake
        if self._cancelled.is_set():
            wake()
