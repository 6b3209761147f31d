"""Which steps of single requests run now, for a watchdog on another thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Literal

Step = Literal["text", "grammar", "mask"]
"""Rendering or tokenizing a prompt, building a grammar, drawing a token that it allows."""


class StepClock:
    """Notes when steps begin and end; may be used from several threads."""

    def __init__(self) -> None:
        self._began: dict[int, tuple[int, Step]] = {}
        self._numbers = count()

    @contextmanager
    def time(self, step: Step) -> Iterator[None]:
        """Note a step of one request for as long as the body runs."""
        number = next(self._numbers)
        self._began[number] = time.monotonic_ns(), step
        try:
            yield
        finally:
            del self._began[number]

    def longest(self) -> tuple[Step, float] | None:
        """Return the step that runs for longest, and its seconds; None if none runs."""
        began = min(self._began.copy().values(), default=None)
        return None if began is None else (began[1], (time.monotonic_ns() - began[0]) / 1e9)
