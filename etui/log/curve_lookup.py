"""Look up the operating curve of a model: measured, or fitted to the turns in the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etui.curves.fit import TooFewPoints, TurnPoint, fit_curve
from etui.curves.measured_under import Conditions, list_differences, parse_conditions
from etui.curves.operating_curve import OperatingCurve
from etui.log.curve_rows import build_curve_record
from etui.log.records import CurveRecord
from etui.log.token_cost import SHARED_SQL

if TYPE_CHECKING:
    from etui.log.queries import LogReader


LEAST_TURNS = 20
"""Complete turns that the log needs to fit a curve, and newer turns after which it refits."""


def find_curve(
    log: LogReader,
    model: str,
    sha256: str | None,
    now: Conditions,
    save: Callable[[CurveRecord], None] | None = None,
) -> OperatingCurve | None:
    """Find the newest calibration that is still valid, or a curve of the log, or None.

    Args:
        log: Where curves and turns are read.
        sha256: SHA-256 of its file; None if it is not known.
        save: Takes a curve that is fitted here because the log has grown enough. With None nothing
            is fitted: a fit takes half a second, and no answer should wait for it.
    """
    valid = [curve for curve in log.curves(model, sha256) if is_valid(curve, now)]
    for curve in valid:
        if curve.source == "calibration":
            return curve
    latest = valid[0] if valid else None
    if save is None:
        return latest
    turns = select_comparable_turns(log, model, sha256, now)
    if len(turns) < LEAST_TURNS or (latest and _count_newer(turns, latest) < LEAST_TURNS):
        return latest
    try:
        curve = fit_logged_turns(turns, model, sha256, now)
    except TooFewPoints:
        return latest
    save(build_curve_record(curve))
    return curve


def is_valid(curve: OperatingCurve, now: Conditions) -> bool:
    """Return whether nothing that the curve depends on has changed."""
    return not list_differences(curve.conditions, now)


def select_comparable_turns(
    log: LogReader, model: str, sha256: str | None, now: Conditions
) -> list[LoggedTurn]:
    """Read the model's last turns made under the same conditions, newest first.

    Excludes turns that shared a GPU with other processes or batches with other requests, and those
    whose energy is of another kind than that of the newest.
    """
    turns = parse_logged_turns(log.select(POINTS_SQL, (model, sha256, TURNS)))
    alike = [
        turn
        for turn in turns
        if not turn.shared
        and not list_differences(parse_conditions(turn.settings, turn.channels), now)
    ]
    return [turn for turn in alike if turn.kind == alike[0].kind]


def fit_logged_turns(
    turns: Sequence[LoggedTurn], model: str, sha256: str | None, now: Conditions
) -> OperatingCurve:
    """Fit a curve to turns.

    Raises:
        TooFewPoints: There are too few turns of different lengths; the message has their number.
    """
    if len(turns) < LEAST_TURNS:
        raise TooFewPoints("log", len(turns), LEAST_TURNS)
    points = [turn.point for turn in turns]
    channels = now.channels or turns[0].channels
    conditions = replace(now, channels=channels)
    return fit_curve(points, model, sha256, conditions, kind=turns[0].kind, source="log")


def _count_newer(turns: Sequence[LoggedTurn], curve: OperatingCurve) -> int:
    return sum(turn.created_at > curve.created_at for turn in turns)


TURNS = 500
"""Number of a model's last turns to read."""


# Excluded, because they are not on the curve of a single sequence: votes share each read of the
# weights, probes of the thinking cost tokens that are not counted as output, a cascade is several
# turns in one, and another machine may have loaded its model meanwhile.
_POINTS_SQL = f"""
    SELECT tokens_computed, tokens_cached, tokens_output, energy_phases_prefill,
        energy_phases_decode, energy_joules, energy_uncertainty, seconds_prefill, seconds_decode,
        energy_kind, energy_channels, {SHARED_SQL} AS shared, settings, created_at
    FROM turns
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND probes = '[]' AND hops = '[]'
        AND {{speculation}}
        AND status IN ('complete', 'truncated') AND tokens_computed > 0
        AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL
        AND energy_flags NOT LIKE '%"load"%'
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

# A batch that verifies drafts gives several tokens for one read of the weights, and how many of
# them depends on the text.
POINTS_SQL = _POINTS_SQL.format(speculation="speculation_method IS NULL")
"""Turns without drafted tokens, which are points of an operating curve."""

SPECULATED_SQL = _POINTS_SQL.format(
    speculation="coalesce(json_extract(settings, '$.speculate'), 'off') <> 'off'"
)
"""Turns of arms that speculate, whether or not anything was drafted."""


@dataclass(frozen=True, slots=True)
class LoggedTurn:
    """One turn as a point of a curve, with the conditions of its measurement."""

    created_at: str  # ISO 8601, UTC
    point: TurnPoint  # Tokens, joules and seconds
    kind: str | None  # How its energy is known
    channels: tuple[str, ...]  # Ids of the channels in its total
    settings: dict[str, Any]  # Recorded machine, build and threads
    shared: bool
    """Whether other processes used a GPU at the same time, or other requests were in its batches.
    """


def parse_logged_turns(rows: Sequence[sqlite3.Row]) -> list[LoggedTurn]:
    """Parse rows of ``POINTS_SQL``, newest first."""
    return [
        LoggedTurn(
            created_at=row["created_at"],
            point=TurnPoint(
                computed_tokens=row["tokens_computed"],
                cached_tokens=row["tokens_cached"],
                output_tokens=row["tokens_output"],
                prefill_joules=row["energy_phases_prefill"],
                decode_joules=row["energy_phases_decode"],
                prefill_uncertainty=_share_uncertainty(row, "energy_phases_prefill"),
                decode_uncertainty=_share_uncertainty(row, "energy_phases_decode"),
                prefill_seconds=row["seconds_prefill"],
                decode_seconds=row["seconds_decode"],
            ),
            kind=row["energy_kind"],
            channels=tuple(json.loads(row["energy_channels"])),
            settings=json.loads(row["settings"]),
            shared=bool(row["shared"]),
        )
        for row in rows
    ]


def _share_uncertainty(row: sqlite3.Row, phase: str) -> float | None:
    """Split the turn's uncertainty by the phase's share of its joules; the log has only one."""
    whole, uncertainty = row["energy_joules"], row["energy_uncertainty"]
    if uncertainty is None or not whole:
        return None
    return float(uncertainty * row[phase] / whole)
