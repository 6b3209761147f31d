"""Signals while power limits are changed: none ends the process before they are restored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")
_INTERRUPTING = ("SIGINT", *_ENDING)


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit where they would end the process at once."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if not _is_main_thread():
        yield
        return
    numbers = [n for n in _find_signals(_ENDING) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Let no signal interrupt the body; the first one that came is delivered after it."""
    came: list[int] = []
    if not _is_main_thread():
        yield
        return
    before = {
        number: handler
        for number in _find_signals(_INTERRUPTING)
        if (handler := signal.getsignal(number)) is not None
    }
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _find_signals(names: tuple[str, ...]) -> list[signal.Signals]:
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
