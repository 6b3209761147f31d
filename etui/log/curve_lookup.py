"""Look up the operating curve of a model: measured, or fitted to the turns in the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.curves.fit import TooFewPoints, TurnPoint, curve_of_points
from etui.curves.measured_under import Conditions, conditions_of, differences
from etui.curves.operating_curve import OperatingCurve
from etui.log.curve_rows import curve_record
from etui.log.records import CurveRecord

if TYPE_CHECKING:
    from etui.log.queries import LogReader


LEAST_TURNS = 20
"""Complete turns from which on the log makes a curve; so many newer ones make it anew."""


def find_curve(
    log: LogReader,
    model: str,
    sha256: str | None,
    now: Conditions,
    save: Callable[[CurveRecord], None] | None = None,
) -> OperatingCurve | None:
    """The newest calibration that holds now, else a curve of the log, else None.

    Args:
        save: Takes a curve that is fitted for this where the log has grown enough; None fits
            nothing, and takes what there is: a fit costs half a second that no answer waits for.
    """
    fitting = [curve for curve in log.curves(model, sha256) if holds(curve, now)]
    for curve in fitting:
        if curve.source == "calibration":
            return curve
    made = fitting[0] if fitting else None
    if save is None:
        return made
    turns = turns_here(log, model, sha256, now)
    if len(turns) < LEAST_TURNS or (made and _newer(turns, made) < LEAST_TURNS):
        return made
    try:
        curve = curve_of_log(turns, model, sha256, now)
    except TooFewPoints:
        return made
    save(curve_record(curve))
    return curve


def holds(curve: OperatingCurve, now: Conditions) -> bool:
    """Whether nothing that the curve depends on has changed."""
    return not differences(curve.conditions, now)


def turns_here(log: LogReader, model: str, sha256: str | None, now: Conditions) -> list[LoggedTurn]:
    """The model's last turns made under the same conditions, newest first.

    Turns that shared a GPU with other processes are left out, and so are those whose energy is
    known in another way than the newest's.
    """
    turns = logged_turns(log.select(POINTS_SQL, (model, sha256, TURNS)))
    alike = [
        turn
        for turn in turns
        if not turn.shared and not differences(conditions_of(turn.settings, turn.channels), now)
    ]
    return [turn for turn in alike if turn.kind == alike[0].kind]


def curve_of_log(
    turns: Sequence[LoggedTurn], model: str, sha256: str | None, now: Conditions
) -> OperatingCurve:
    """The curve of these turns.

    Raises:
        TooFewPoints: There are too few of different lengths; says how many there are.
    """
    if len(turns) < LEAST_TURNS:
        raise TooFewPoints("log", len(turns), LEAST_TURNS)
    points = [turn.point for turn in turns]
    channels = now.channels or turns[0].channels
    here = Conditions(now.machine, now.build, now.threads, channels, now.power_limit_watts)
    return curve_of_points(points, model, sha256, here, kind=turns[0].kind, source="log")


def _newer(turns: Sequence[LoggedTurn], curve: OperatingCurve) -> int:
    return sum(turn.created_at > curve.created_at for turn in turns)


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
