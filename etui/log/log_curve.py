"""The operating curve that holds here: a calibration, or one fitted to the turns in the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from etui.energy.conditions import Conditions, conditions_of, differences
from etui.energy.curve import OperatingCurve
from etui.energy.curve_fit import TooFewPoints
from etui.energy.curve_points import curve_of_points
from etui.log.curves import curve_record
from etui.log.log_points import POINTS_SQL, TURNS, LoggedTurn, logged_turns
from etui.log.records import CurveRecord

if TYPE_CHECKING:
    from etui.log.queries import LogReader

LEAST_TURNS = 20
"""Complete turns from which on the log makes a curve; so many newer ones make it anew."""


def curve_here(
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
