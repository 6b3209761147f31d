"""Circuit breaker: a backend that fails again and again is left alone for a while. Pure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "open", "half-open"]

FAILURES_TO_OPEN = 3
OPEN_SECONDS = 30.0


class Circuit:
    """The breaker of one backend; safe from any thread.

    Closed, requests go through. After :data:`FAILURES_TO_OPEN` failures in a row it is open and
    nothing goes through, until :data:`OPEN_SECONDS` have passed: then one request is let through
    (half-open), whose result closes or opens it again.

    Args:
        open_seconds: How long it stays open.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        failures_to_open: int = FAILURES_TO_OPEN,
        open_seconds: float = OPEN_SECONDS,
    ) -> None:
        self._clock = clock
        self._most = failures_to_open
        self._open_seconds = open_seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def state(self) -> CircuitState:
        """The state now."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "half-open" if self._trying or self._left() <= 0.0 else "open"

    @property
    def lets_through(self) -> bool:
        """Whether :meth:`admit` would let a request through now; asking changes nothing."""
        with self._lock:
            return self._opened_at is None or (self._left() <= 0.0 and not self._trying)

    @property
    def seconds_left(self) -> float:
        """Seconds until a request is let through again; 0 if one is let through now."""
        with self._lock:
            return 0.0 if self._opened_at is None else max(0.0, self._left())

    def admit(self) -> bool:
        """Return whether a request may go through; in the half-open state only the first one.

        A request that was let through has to report its result, or call :meth:`release`.
        """
        with self._lock:
            if self._opened_at is None:
                return True
            if self._trying or self._left() > 0.0:
                return False
            self._trying = True
            return True

    def succeed(self) -> None:
        """Report that the backend has answered: the circuit closes."""
        with self._lock:
            self._failures, self._opened_at, self._trying = 0, None, False

    def fail(self) -> None:
        """Report that the backend could not be reached or broke off its answer."""
        with self._lock:
            self._failures += 1
            if self._trying or self._failures >= self._most:
                self._opened_at = self._clock()
            self._trying = False

    def release(self) -> None:
        """Report that a request ended without saying anything about the backend (a cancel)."""
        with self._lock:
            self._trying = False

    def _left(self) -> float:
        assert self._opened_at is not None
        return self._opened_at + self._open_seconds - self._clock()
