"""Decide whether a failed request is sent again: only if the server surely has not begun it.

A request that the server may have begun is never sent again, since both tries would cost energy and
money, and only one of them would be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

FailureKind = Literal[
    "unreachable", "status", "silent", "broken", "format", "redirect", "error event"
]
"""What happened.

``unreachable``: no connection; ``status``: an error instead of an answer; ``silent``: no byte for
too long; ``broken``: the connection ended before the answer; ``format``: the answer is not in the
dialect; ``redirect``: sent elsewhere; ``error event``: the server reports an error in its stream.
"""

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 20.0
_BUSY = (429, 503)
_NOT_BEGUN = (*_BUSY, 400, 401, 403, 404, 405, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed."""

    kind: FailureKind
    what: str  # The same in words, without the name of the backend
    began: bool = False  # Whether a byte of the answer had arrived
    status: int | None = None  # Status of the HTTP response; None without one
    retry_after: float | None = None
    """Seconds that the server asks to wait; None if it does not say."""

    @property
    def untouched(self) -> bool:
        """Whether the server surely has not begun to compute the answer."""
        if self.began:
            return False
        if self.kind in ("unreachable", "redirect"):
            return True
        return self.kind == "status" and self.status in _NOT_BEGUN

    @property
    def counts(self) -> bool:
        """Whether it says that the backend does not work, which opens the circuit in the end.

        A refusal of this request alone, and a full queue, come from a backend that works.
        """
        return self.kind != "status" or (self.status or 0) >= 500


def find_wait(failure: Failure, tries: int, retries: int) -> float | None:
    """Return the seconds to wait before a request is sent again; None if it must not be.

    Args:
        failure: Why the last try failed.
        tries: Number of tries so far, at least 1.
        retries: Most tries after the first.
    """
    if tries > retries or not failure.untouched:
        return None
    if failure.kind != "unreachable" and failure.status not in _BUSY:
        return None
    if failure.status in _BUSY and failure.retry_after is not None:
        return failure.retry_after if failure.retry_after <= LONGEST_WAIT_SECONDS else None
    return min(FIRST_WAIT_SECONDS * 2.0 ** (tries - 1), LONGEST_WAIT_SECONDS)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Parse a ``Retry-After`` header: seconds, or a date; None if it is neither.

    Args:
        value: The header; None if it is missing.
        now: The time now, with a time zone; None reads the clock.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
