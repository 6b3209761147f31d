"""The status of ``etui serve`` while it runs: a line in the terminal, or lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from etui.codec import to_document
from etui.runtime.serve_facts import ServeFacts, build_facts, format_books, format_facts
from etui.text import sanitize

if TYPE_CHECKING:
    from threading import Event

    from etui.runtime.turn_request import PoolStatus

_BUSY_SECONDS = 0.5
_IDLE_SECONDS = 2.0
"""A look every two seconds costs no power that a meter shows."""
_WATTS_NOISE = 0.03
"""Relative change of power that is not worth drawing the line again."""
_COLUMNS = 80
_CLEAR = "\r\x1b[K"


class StatusLine:
    """Shows the status of a server until it ends.

    Args:
        stream: Where it is written; one that takes control sequences if ``is_tty``.
        is_tty: Whether the line is drawn again in place; else there is a line per change of phase.
        address: URL of the API, shown with it.
        quiet: Write nothing.
        jsonl: Write a JSON document per change instead.
        columns: Returns the width of the terminal; None asks the stream.
    """

    def __init__(
        self,
        stream: TextIO,
        is_tty: bool,
        *,
        address: str = "",
        quiet: bool = False,
        jsonl: bool = False,
        columns: Callable[[], int] | None = None,
    ) -> None:
        self._stream = stream
        self._in_place = is_tty and not jsonl
        self._address = address
        self._quiet = quiet
        self._jsonl = jsonl
        self._columns = columns or (lambda: _read_columns(stream))
        self._shown: ServeFacts | None = None

    def run(self, pool_status: Callable[[], PoolStatus], stop: Event) -> None:
        """Show the status until ``stop`` is set; return at once with ``quiet``.

        A stream that was closed ends it too, and the server goes on.
        """
        if self._quiet:
            return
        try:
            while not stop.is_set():
                facts = build_facts(pool_status(), self._address)
                self.show(facts)
                stop.wait(_BUSY_SECONDS if facts.is_busy else _IDLE_SECONDS)
            self._show_end(build_facts(pool_status(), self._address))
        except (OSError, ValueError):
            return

    def show(self, facts: ServeFacts) -> None:
        """Show the facts, if they have changed enough since they were last shown."""
        if self._shown is not None and not self._is_news(self._shown, facts):
            return
        self._shown = facts
        if self._jsonl:
            self._write_json("status", facts)
        elif self._in_place:
            text = sanitize(format_facts(facts))
            self._write(_CLEAR + text[: max(self._columns() - 1, 1)])
        else:
            self._write(f"{sanitize(f'{facts.phase}: {format_facts(facts)}')}\n")

    def _is_news(self, before: ServeFacts, now: ServeFacts) -> bool:
        if not (self._jsonl or self._in_place):
            return before.phase != now.phase
        return _count(before) != _count(now) or _differ(before.watts, now.watts)

    def _show_end(self, facts: ServeFacts) -> None:
        if self._jsonl:
            self._write_json("end", facts)
        else:
            self._write(f"{_CLEAR if self._in_place else ''}{sanitize(format_books(facts))}\n")

    def _write_json(self, event: str, facts: ServeFacts) -> None:
        self._write(json.dumps({"event": event, **to_document(facts)}) + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _count(facts: ServeFacts) -> tuple[object, ...]:
    """Return the facts whose every change is shown."""
    ends = (facts.finished, facts.failed, facts.cancelled)
    return (facts.running, facts.queued, *ends, facts.residents, facts.loading, facts.accepting)


def _differ(before: float | None, now: float | None) -> bool:
    """Return whether two powers differ by more than their noise."""
    if before is None or now is None:
        return before is not now
    return abs(now - before) > _WATTS_NOISE * max(abs(before), 1.0)


def _read_columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except (OSError, ValueError, AttributeError):
        return _COLUMNS
