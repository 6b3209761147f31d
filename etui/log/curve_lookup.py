"""Look up the operating curve of a model, or the mean joules per token of its last turns."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from etui.arm import TokenCost
from etui.codec import from_document, to_document
from etui.curves.fit import TooFewPoints, TurnPoint, fit_curve
from etui.curves.operating_curve import (
    Conditions,
    OperatingCurve,
    list_differences,
    parse_conditions,
)
from etui.log.records import ReadRow, Row
from etui.units import count_text

if TYPE_CHECKING:
    from etui.log.queries import LogReader


AVERAGED_TURNS = 20
"""Number of a model's last turns to average."""

LOOKED_AT = 5 * AVERAGED_TURNS
"""Number of a model's last turns to choose from."""

BATCHED_SQL = "(coalesce(energy_attribution_method, 'exclusive') <> 'exclusive')"
"""Whether other requests were in the batches of a turn."""

SHARED_SQL = f"(energy_shared OR {BATCHED_SQL})"
"""Whether other programs used the hardware of a turn, or other requests were in its batches."""


FREE_OF_CACHES_SQL = """(
    length(cache) = 2 OR CASE WHEN json_valid(cache)
        THEN json_extract(cache, '$.restore_seconds') <= 0.02 * seconds_prefill END
)"""
"""Whether hardly any of the prefill went into bringing a KV cache back."""


# Votes share each read of the weights, so their tokens cost less than those of one sequence, and
# what drafted tokens cost depends on the text.
COSTS_SQL = f"""
    SELECT energy_phases_prefill, tokens_computed, energy_phases_decode, tokens_output, energy_kind,
        {SHARED_SQL}, {BATCHED_SQL}
    FROM turns INDEXED BY turns_with_cost
    WHERE model = ? AND model_sha256 IS ? AND reasoning <> 'vote' AND tokens_output > 0
        AND hops = '[]' AND speculation_method IS NULL
        AND energy_phases_decode > 0 AND energy_phases_prefill IS NOT NULL
        AND {FREE_OF_CACHES_SQL}
    ORDER BY created_at DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class TurnCost:
    """Measured joules and tokens of one turn, by phase, and how the energy is known.

    ``shared`` is true if other programs used the same hardware, so that it has joules of theirs, or
    if it is ``batched``: other requests were in its batches, and it did not pay for all of each.
    """

    prefill_joules: float
    computed_tokens: int
    decode_joules: float
    output_tokens: int
    kind: str | None
    shared: bool = False
    batched: bool = False


def mean_token_cost(turns: Sequence[TurnCost]) -> TokenCost | None:
    """Average the joules per token of turns, newest first, with the newest's kind of energy.

    Turns that shared the hardware count only if there are no others, and those that shared their
    batches only if there are none but those: their tokens cost less the more requests there were,
    and such a cost would divide the next batches wrongly. None without turns. A mean does not
    depend on the length of the context, so the cost has no term that grows with it.
    """
    alike = [turn for turn in turns if turn.kind == turns[0].kind]
    alone = [turn for turn in alike if not turn.batched] or alike
    alike = ([turn for turn in alone if not turn.shared] or alone)[:AVERAGED_TURNS]
    output = sum(turn.output_tokens for turn in alike)
    if not output:
        return None
    computed = sum(turn.computed_tokens for turn in alike)
    prefill = math.fsum(turn.prefill_joules for turn in alike)
    return TokenCost(
        joules_per_token=math.fsum(turn.decode_joules for turn in alike) / output,
        joules_per_prompt_token=prefill / computed if computed else 0.0,
        source=f"the mean of {count_text(len(alike), 'turn')}",
        batched=all(turn.batched for turn in alike),
    )


ROUGHER, WELL_ENOUGH = 2.0, 0.1
"""A calibration with this multiple of the error of an earlier one is not used, if the error is
above this one."""

_COMPARED = 8
"""Calibrations that are compared, the newest first."""

CURVES_SQL = """
    SELECT * FROM curves
    WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR model_sha256 IS ?2)
    ORDER BY created_at DESC, id DESC
"""
_COEFFICIENTS = {
    "prefill": {"e0": "e0", "slope": "a", "bend": "a2"},
    "decode": {"e0": "e0", "slope": "b", "bend": "c"},
}
"""Phase -> field of its curve -> name of the coefficient in the formula."""
_SETTINGS_AFTER = ("prefill_threads", "kv_type", "flash_attention", "batch_tokens", "tuned")


def build_curve_row(curve: OperatingCurve) -> Row:
    """Build the row of a curve, which is its JSON document too.

    The coefficients are ``e0``, ``a`` and ``a2`` of prefill and ``e0``, ``b`` and ``c`` of decode,
    in joules and joules per token.
    """
    document, conditions = to_document(curve), to_document(curve.conditions)
    coefficients = {
        f"{phase}_{short}": document[phase].pop(name)
        for phase, names in _COEFFICIENTS.items()
        for name, short in names.items()
    }
    residuals = ("prefill", "decode", "meter_share", "held_out_mape", "points")
    return {
        **{name: document[name] for name in ("curve_id", "created_at", "model", "model_sha256")},
        **{name: conditions[name] for name in ("machine", "build", "power_limit_watts")},
        "kind": curve.kind,
        "source": curve.source,
        "n": curve.n,
        "r2_prefill": curve.prefill.r2,
        "r2_decode": curve.decode.r2,
        "coefficients": coefficients,
        "residuals": {name: document[name] for name in residuals},
        "settings": {
            **{name: conditions[name] for name in ("threads", "channels")},
            **{name: document[name] for name in ("gpu_layers", "idle_watts", "speed")},
            **{name: conditions[name] for name in _SETTINGS_AFTER},
        },
    }


def parse_curve(row: ReadRow) -> OperatingCurve | None:
    """Parse the curve of a row; None if this version of etui cannot read it.

    An unreadable curve only means a new calibration; it must never prevent an answer.
    """
    try:
        coefficients, residuals, settings = (
            json.loads(row[name]) for name in ("coefficients", "residuals", "settings")
        )
        phases = {
            phase: residuals[phase]
            | {name: coefficients[f"{phase}_{short}"] for name, short in names.items()}
            for phase, names in _COEFFICIENTS.items()
        }
        plain = ("curve_id", "created_at", "model", "model_sha256", "kind", "source")
        where = {name: row[name] for name in ("machine", "build", "power_limit_watts")}
        document = {
            **{name: row[name] for name in plain},
            "conditions": settings | where,
            **{name: settings[name] for name in ("idle_watts", "speed", "gpu_layers")},
            **{name: residuals[name] for name in ("meter_share", "held_out_mape", "points")},
            **phases,
        }
        return from_document(OperatingCurve, document, extra="ignore")
    except (ValueError, KeyError, TypeError):
        return None


LEAST_TURNS = 20
"""Complete turns that the log needs to fit a curve, and newer turns after which it refits."""


def find_curve(
    log: LogReader,
    model: str,
    sha256: str | None,
    now: Conditions,
    save: Callable[[OperatingCurve], object] | None = None,
) -> OperatingCurve | None:
    """Find the calibration that is in use, or a curve of the log, or None.

    It is the newest one that is valid, unless an earlier one predicts far better.

    Args:
        save: Takes a curve that is fitted here because the log has grown enough. With None nothing
            is fitted: a fit takes half a second, and no answer should wait for it.
    """
    rows = log.select(CURVES_SQL, (model, sha256))
    measured = _list_valid([row for row in rows if row["source"] == "calibration"], now)
    if (in_use := choose_calibration(list(islice(measured, _COMPARED)))) is not None:
        return in_use
    latest = next(_list_valid(rows, now), None)
    since = "" if latest is None else latest.created_at
    if save is None or log.select(_COUNT_NEWER_SQL, (model, sha256, since))[0][0] < LEAST_TURNS:
        return latest
    turns = select_comparable_turns(log, model, sha256, now)
    newer = [turn for turn in turns if latest is None or turn.created_at > latest.created_at]
    if len(newer) < LEAST_TURNS:
        return latest
    try:
        curve = fit_logged_turns(turns, model, sha256, now)
    except TooFewPoints:
        return latest
    save(curve)
    return curve


def choose_calibration(newest_first: Sequence[OperatingCurve]) -> OperatingCurve | None:
    """Choose the newest calibration that is not much rougher than an earlier one.

    A quick one after a thorough one, or one on a busy machine, would make all forecasts worse.
    """
    errors = [curve.held_out_mape for curve in newest_first if curve.held_out_mape is not None]
    most = max(ROUGHER * min(errors), WELL_ENOUGH) if errors else math.inf
    for curve in newest_first:
        if curve.held_out_mape is None or curve.held_out_mape <= most:
            return curve
    return None


def _list_valid(rows: Sequence[ReadRow], now: Conditions) -> Iterator[OperatingCurve]:
    """Yield the curves that are valid under some conditions; each takes a while to parse."""
    for curve in map(parse_curve, rows):
        if curve is not None and not list_differences(curve.conditions, now):
            yield curve


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


TURNS = 500
"""Number of a model's last turns to read."""


# Excluded, because they are not on the curve of a single sequence: votes share each read of the
# weights, probes of the thinking cost tokens that are not counted as output, a cascade is several
# turns in one, another machine may have loaded its model meanwhile, bringing a KV cache back is no
# work of the model, and texts that were embedded (without output) had a context of their own.
_ALONE_SQL = f"""
    reasoning <> 'vote' AND probes = '[]' AND hops = '[]'
        AND status IN ('complete', 'truncated') AND tokens_computed > 0 AND tokens_output > 0
        AND energy_phases_prefill IS NOT NULL AND energy_phases_decode IS NOT NULL
        AND instr(energy_flags, '"load"') = 0 AND {FREE_OF_CACHES_SQL}
"""

# The first five are the first fields of a TurnPoint.
_POINTS_SQL = f"""
    SELECT tokens_computed, tokens_cached, tokens_output, energy_phases_prefill,
        energy_phases_decode, energy_joules, energy_uncertainty, seconds_prefill, seconds_decode,
        energy_kind, energy_channels, {SHARED_SQL} AS shared, settings, created_at
    FROM turns INDEXED BY {{index}}
    WHERE model = ? AND model_sha256 IS ? AND {{speculation}} AND {_ALONE_SQL}
    ORDER BY created_at DESC, id DESC LIMIT ?
"""

# A batch that verifies drafts gives several tokens for one read of the weights, and how many of
# them depends on the text.
_UNDRAFTED_SQL = "speculation_method IS NULL"
POINTS_SQL = _POINTS_SQL.format(index="turns_as_points", speculation=_UNDRAFTED_SQL)
"""Turns without drafted tokens, which are points of an operating curve."""
_COUNT_NEWER_SQL = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM turns INDEXED BY turns_as_points
        WHERE model = ? AND model_sha256 IS ? AND created_at > ? AND {_UNDRAFTED_SQL}
            AND {_ALONE_SQL} LIMIT {LEAST_TURNS}
    )
"""
SPECULATED_SQL = _POINTS_SQL.format(
    index="turns_speculated",
    speculation="""coalesce(
        CASE WHEN json_valid(settings) THEN json_extract(settings, '$.speculate') END, 'off'
    ) <> 'off'""",
)
"""Turns of arms that speculate, whether or not anything was drafted."""


@dataclass(frozen=True, slots=True)
class LoggedTurn:
    """One turn as a point of a curve, with the conditions of its measurement."""

    created_at: str
    point: TurnPoint
    kind: str | None  # How its energy is known
    channels: tuple[str, ...]  # Ids of the channels in its total
    settings: dict[str, Any]  # Recorded machine, build and threads
    shared: bool  # Whether others used a GPU at the same time, or its batches


def parse_logged_turns(rows: Sequence[sqlite3.Row]) -> list[LoggedTurn]:
    """Parse rows of ``POINTS_SQL``, newest first."""
    found = []
    for row in rows:
        point = TurnPoint(
            *(row[0], row[1], row[2], row[3], row[4]),
            prefill_uncertainty=_share_uncertainty(row, "energy_phases_prefill"),
            decode_uncertainty=_share_uncertainty(row, "energy_phases_decode"),
            prefill_seconds=row["seconds_prefill"],
            decode_seconds=row["seconds_decode"],
        )
        channels, settings = json.loads(row["energy_channels"]), json.loads(row["settings"])
        kind, shared = row["energy_kind"], bool(row["shared"])
        found.append(LoggedTurn(row["created_at"], point, kind, tuple(channels), settings, shared))
    return found


def _share_uncertainty(row: sqlite3.Row, phase: str) -> float | None:
    """Split the turn's uncertainty by the phase's share of its joules; the log has only one."""
    whole, uncertainty = row["energy_joules"], row["energy_uncertainty"]
    if uncertainty is None or not whole:
        return None
    return float(uncertainty * row[phase] / whole)
