"""The gaps between the questions to a model, and the joules of its loads, from the log."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import stdev
from typing import TYPE_CHECKING

from etui.energy.keep_warm import Measured

if TYPE_CHECKING:
    from etui.log.queries import LogReader

RECENT_TURNS = 2000
"""Number of the last turns of chats whose gaps are read."""
_LOADS = 10

# A question of `etui ask` ends with its process: only the turns of chats keep a model warm.
_USES_SQL = """
    SELECT id, created_at, model, seconds_load, seconds_total
    FROM turns INDEXED BY turns_of_chats
    WHERE chat_id IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT ?
"""

# The hops come after the texts in a row, so they are read only where there are any.
_HOPS_SQL = """
    SELECT id, hops FROM turns INDEXED BY turns_with_hops
    WHERE hops <> '[]' ORDER BY created_at DESC LIMIT ?
"""
_LOADS_SQL = """
    SELECT joules, uncertainty, seconds, kind FROM loads
    WHERE model = ? AND (model_sha256 IS ? OR ? IS NULL) AND joules IS NOT NULL
    ORDER BY created_at DESC, id DESC LIMIT ?
"""
_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Quantiles of Student's t at 95 %, for 2 to 10 values."""


@dataclass(frozen=True, slots=True)
class Use:
    """One turn of a chat.

    Attributes:
        start_seconds, end_seconds: Its beginning and end, in seconds since 1970.
    """

    models: frozenset[str]
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two questions to the same model."""

    start_seconds: float  # End of the answer before it, in seconds since 1970
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadCost:
    """What loading a model takes."""

    joules: Measured
    """Mean gross joules of its last loads, the start of the engine's process included."""
    seconds: float  # Mean seconds
    loads: int
    kind: str | None  # How their energy was determined


def read_uses(log: LogReader, limit: int = RECENT_TURNS) -> list[Use]:
    """Read the last turns of chats, oldest first; one without a valid time is left out."""
    hops = {
        row["id"]: [hop["model"] for hop in json.loads(row["hops"])]
        for row in log.select(_HOPS_SQL, (limit,))
    }
    uses: list[Use] = []
    for row in reversed(log.select(_USES_SQL, (limit,))):
        try:
            start = datetime.fromisoformat(row["created_at"]).timestamp()
        except ValueError:
            continue
        models = frozenset((row["model"], *hops.get(row["id"], ())))
        uses.append(Use(models, start, start + row["seconds_load"] + row["seconds_total"]))
    return uses


def compute_gaps(uses: Sequence[Use], model: str) -> list[Gap]:
    """Compute the gaps between the uses of a model, oldest first.

    A question that was sent during the answer before it waited for it, which is a gap of 0.
    """
    gaps: list[Gap] = []
    end: float | None = None
    for use in uses:
        if model in use.models:
            if end is not None:
                gaps.append(Gap(end, max(0.0, use.start_seconds - end)))
            end = use.end_seconds
    return gaps


def read_load_cost(log: LogReader, model: str, sha256: str | None) -> LoadCost | None:
    """Average the last loads of a model, of the same kind as the newest; None without any.

    The half width combines that of the meter, which all loads may share, with the spread of the
    loads (Student's t). Of a single load, the spread is not known.

    Args:
        sha256: SHA-256 of its file; None takes the loads of any file.
    """
    rows = log.select(_LOADS_SQL, (model, sha256, sha256, _LOADS))
    rows = [row for row in rows if row["kind"] == rows[0]["kind"]]
    if not rows:
        return None
    joules = [row["joules"] for row in rows]
    meter = math.fsum(row["uncertainty"] or 0.0 for row in rows) / len(rows)
    spread = 0.0
    if len(rows) > 1:
        spread = _T_95[len(rows) - 2] * stdev(joules) / math.sqrt(len(rows))
    mean = math.fsum(joules) / len(rows)
    seconds = math.fsum(row["seconds"] for row in rows) / len(rows)
    return LoadCost(Measured(mean, math.hypot(meter, spread)), seconds, len(rows), rows[0]["kind"])
