"""Bring what depends on the log up to date after turns, in the background."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from etui.errors import LogUnavailable

if TYPE_CHECKING:
    from etui.runtime.between_turns import BetweenTurns
    from etui.runtime.cooling import CallLater
    from etui.runtime.open import Runtime
    from etui.runtime.pool.errands import Errands
    from etui.turn.record import TurnRecord

REFRESH_SECONDS = 1.0
"""How long after a turn the facts of the log are read again, once for all turns meanwhile.

It takes some milliseconds, for which the next requests would wait."""


class LogRefresh:
    """Reads the facts of the log again, and fits the curves of models that have new turns.

    Args:
        between: Chooses how long models stay in memory, from the log too.
        errands: Where the work is done.
        call_later: Calls a function after some seconds.
    """

    def __init__(
        self,
        runtime: Runtime[Any],
        between: BetweenTurns,
        errands: Errands,
        call_later: CallLater,
    ) -> None:
        self._runtime = runtime
        self._writer = runtime.writer
        self._between = between
        self._errands = errands
        self._call_later = call_later
        self._lock = threading.Lock()
        self._unrefreshed: dict[str, TurnRecord] = {}
        self._waits = False
        self._failure: LogUnavailable | None = None

    def note(self, record: TurnRecord) -> None:
        """Note a turn whose model may need another curve at the next refresh."""
        with self._lock:
            self._unrefreshed[record.model] = record

    def soon(self) -> None:
        """Refresh after :data:`REFRESH_SECONDS`, unless that is to happen already."""
        with self._lock:
            if self._waits:
                return
            self._waits = True
        self._call_later(REFRESH_SECONDS, lambda: self._errands.add(self._refresh))

    def finish(self) -> None:
        """Write what the log lacks.

        Raises:
            LogUnavailable: Something could not be written, now or before; the message says where it
                was saved.
        """
        self._writer.flush()
        if self._failure is not None:
            raise self._failure

    def _refresh(self) -> None:
        from etui.runtime.serving import refit_curve

        with self._lock:
            records, self._unrefreshed = tuple(self._unrefreshed.values()), {}
            self._waits = False
        try:
            self._writer.flush()
        except LogUnavailable as failure:  # the writer has reported it; closing does again
            self._failure = failure
        for record in records:
            refit_curve(record, self._runtime.config, self._writer.save_curve)
        self._runtime.log_cache.renew()
        self._between.update_keep_warm()
