"""Operating curves follow the log: after an answer, never before one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from etui.errors import LogUnavailable

if TYPE_CHECKING:
    from etui.config import Config
    from etui.log.records import CurveRecord, TurnRecord


def refit_curve(record: TurnRecord, config: Config, save: Callable[[CurveRecord], None]) -> None:
    """Make the curve of a turn's model anew where enough turns have come since it was made.

    Mostly a look into the log; a fit, once in twenty turns, takes as long as importing scipy. A
    log that cannot be read has been told of by whoever writes it.
    """
    if record.hops or record.status not in ("complete", "truncated"):
        return
    from etui.log.log_curve import curve_here
    from etui.log.queries import LogReader
    from etui.provenance import conditions

    try:
        with LogReader(config) as log:
            curve_here(log, record.model, record.model_sha256, conditions(config), save)
    except LogUnavailable:
        return
