"""Turns of the log as points of an operating curve."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui.energy.curve_fit import TurnPoint

TURNS = 500
"""Last turns of a model that are looked at."""

# Votes share each read of the weights, looks into a thought cost tokens that nobody counts as
# output, and a cascade is several turns in one: none lies on the curve of one sequence.
POINTS_SQL = """
    SELECT tokens_computed, tokens_cached, tokens_output, energy_phases_prefill,
        energy_phases_decode, energy_joules, energy_uncertainty, seconds_prefill, seconds_decode,
        energy_kind, energy_channels, energy_shared, settings, created_at
    FROM turns
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND probes = '[]' AND hops = '[]'
        AND status IN ('complete', 'truncated') AND tokens_computed > 0
        AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL
    ORDER BY created_at DESC, id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class LoggedTurn:
    """One turn as a point, with what it was measured by.

    Attributes:
        created_at: ISO 8601, UTC.
        point: Tokens, joules and seconds.
        kind: How its energy is known.
        channels: Ids of the channels in its total.
        settings: What it kept of machine, build and threads.
        shared: Whether other processes used a GPU meanwhile.
    """

    created_at: str
    point: TurnPoint
    kind: str | None
    channels: tuple[str, ...]
    settings: dict[str, Any]
    shared: bool


def logged_turns(rows: Sequence[sqlite3.Row]) -> list[LoggedTurn]:
    """Rows of ``POINTS_SQL``, newest first."""
    return [
        LoggedTurn(
            created_at=row["created_at"],
            point=TurnPoint(
                computed_tokens=row["tokens_computed"],
                cached_tokens=row["tokens_cached"],
                output_tokens=row["tokens_output"],
                prefill_joules=row["energy_phases_prefill"],
                decode_joules=row["energy_phases_decode"],
                prefill_uncertainty=_part(row, "energy_phases_prefill"),
                decode_uncertainty=_part(row, "energy_phases_decode"),
                prefill_seconds=row["seconds_prefill"],
                decode_seconds=row["seconds_decode"],
            ),
            kind=row["energy_kind"],
            channels=tuple(json.loads(row["energy_channels"])),
            settings=json.loads(row["settings"]),
            shared=bool(row["energy_shared"]),
        )
        for row in rows
    ]


def _part(row: sqlite3.Row, phase: str) -> float | None:
    """The turn's uncertainty in a phase: its share of the joules, since the log keeps only one."""
    whole, uncertainty = row["energy_joules"], row["energy_uncertainty"]
    if uncertainty is None or not whole:
        return None
    return float(uncertainty * row[phase] / whole)
