"""Tables of a design run: texts for the page and the Markdown, full figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etui import units
from etui.bench.config import RunConfig
from etui.bench.cost import Cost, CostFigure, compute_costs_over_time, compute_percentiles
from etui.bench.sample import Sample
from etui.bench.summary import group_by_system
from etui.bench.summary_text import DASH, interval_text, joules_text
from etui.curves.fit import Share
from etui.design._arms import Against, ArmFigures, Multiple, find_multiple
from etui.design._paired import Layout
from etui.design._routing import BY_LENGTH, BY_SUBJECT, FRUGAL, MIXTURE, ORACLE
from etui.design.analysis import (
    DesignAnalysis,
    LengthMean,
    ModelCurve,
    PartAnalysis,
    multiple_text,
    points_text,
)
from etui.energy.energy_record import Distribution
from etui.stats.tests import Interval

_ROUNDING = 1e-9
"""Share of a mean below which its interval is rounding: an arm that always uses up its budget."""


_ROUTER_NAMES = {
    ORACLE: "the oracle",
    FRUGAL: "the frugal oracle",
    MIXTURE: "the best random mixture of arms",
    BY_SUBJECT: "a router by subject",
    BY_LENGTH: "a router by prompt length",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    header: tuple[str, ...]  # Names of the columns; the first one names the rows
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[int, ...] = ()  # Number of the colour of each row; empty without colours


def tabulate_arms(part: PartAnalysis) -> Table:
    """Tabulate the figures of every arm; a column without any figure is left out."""
    kind = part.kind
    mark = f" ({kind})" if kind == units.ESTIMATE else ""
    header = (
        "arm", "accuracy", f"J/token{mark}", f"J/question{mark}", f"J/correct{mark}",
        "output tokens", "time", "first token", "no answer",
    )  # fmt: skip
    rows = [_list_arm(one, kind) for one in part.arms]
    roles = list(part.paired.layout.roles)
    colours = tuple(roles.index(one.strategy.role) % 8 for one in part.arms)
    return replace(_drop_columns(header, rows, 2), colours=colours)


def _drop_columns(header: Sequence[str], rows: Sequence[Sequence[str]], kept: int) -> Table:
    """Build a table without the columns that have no figure, but for the first ones."""
    used = [at for at in range(len(header)) if at < kept or any(row[at] != DASH for row in rows)]
    return Table(
        tuple(header[at] for at in used), tuple(tuple(row[at] for at in used) for row in rows)
    )


def _list_arm(one: ArmFigures, kind: str | None) -> tuple[str, ...]:
    energy = one.energy
    joules = (
        (DASH, DASH if kind is None else units.UNMEASURED, DASH)
        if energy is None
        else tuple(
            joules_text(figure, kind).removesuffix(f" ({units.ESTIMATE})")
            for figure in (energy.per_output_token, energy.per_question, energy.per_correct)
        )
    )
    return (
        one.strategy.label,
        f"{units.accuracy_text(one.accuracy.value)} ({interval_text(one.accuracy)})",
        *joules,
        _mean_text(one.output_tokens),
        _seconds_text(one.seconds),
        DASH if one.ttft_seconds is None else _seconds_text(one.ttft_seconds),
        units.percent_text(one.lost / one.questions),
    )


def _mean_text(figure: Interval) -> str:
    half = _half(figure)
    if half is None or half == 0:
        return units.significant(figure.value, 3)
    return units.with_uncertainty(figure.value, half)


def _seconds_text(figure: Interval) -> str:
    half = _half(figure)
    text = units.seconds_text(figure.value)
    return text if not half else f"{text} ± {units.seconds_text(half)}"


def _half(figure: Interval) -> float | None:
    """Return the larger half of an interval; 0 where it is only the rounding of equal values."""
    if figure.low is None or figure.high is None:
        return None
    half = max(figure.value - figure.low, figure.high - figure.value)
    return half if half > _ROUNDING * abs(figure.value) else 0.0


def tabulate_multiples(part: PartAnalysis, against: Against) -> Table | None:
    """Tabulate every arm against a direct answer; None without any."""
    chosen = [one for one in part.multiples if one.against == against]
    if not chosen:
        return None
    header = (
        "arm", "against", "accuracy", "test", "joules", "J/correct",
        "J per additional right answer", "time",
    )  # fmt: skip
    rows = [_list_multiple(one, part.kind) for one in chosen]
    return _drop_columns(header, rows, 0)


def _list_multiple(one: Multiple, kind: str | None) -> tuple[str, ...]:
    def times(figure: Interval | None) -> str:
        return DASH if figure is None else multiple_text(figure)

    return (
        one.strategy.label,
        one.base.label,
        points_text(one.difference),
        units.p_value_text(one.p_holm),
        times(one.joules),
        times(one.per_correct),
        _each_text(one.per_additional, kind),
        times(one.seconds),
    )


def tabulate_routers(part: PartAnalysis) -> Table | None:
    """Tabulate what routers would have reached; None if nothing was replayed."""
    if not part.replay.routed:
        return None
    labels = {one.arm: one.label for one in part.paired.layout.strategies}
    rows = []
    for one in part.replay.routed:
        top = sorted(one.shares.items(), key=lambda item: (-item[1], item[0]))[:3]
        used = ", ".join(f"{labels[arm]} {units.percent_text(share)}" for arm, share in top)
        rows.append(
            (
                _ROUTER_NAMES[one.name],
                units.accuracy_text(one.accuracy),
                units.energy_text(one.joules_per_question, None, _mark(part.kind)),
                points_text(one.difference),
                _percent_text(one.saved.value, one.saved.low, one.saved.high, signed=True),
                DASH if one.lead is None else points_text(one.lead),
                used,
            )
        )
    header = (
        "chosen by", "accuracy", "J/question", "accuracy against it", "joules saved",
        "against a mixture", "mostly used",
    )  # fmt: skip
    return Table(header, tuple(rows))


def tabulate_curves(part: PartAnalysis) -> Table | None:
    """Tabulate the fitted curves and their nonlinear parts; None without a fit."""
    rows = []
    for curve in part.curves:
        for name, phase in (("prefill", curve.prefill), ("decode", curve.decode)):
            if phase is None:
                continue
            term = next((one for one in curve.terms if one.phase == name), None)
            shares = [] if term is None else [_share_text(s) for s in term.shares]
            rows.append(
                (
                    f"{curve.role} {name}",
                    units.energy_text(phase.e0, None, _mark(curve.kind)),
                    units.per_token_text(phase.slope, _mark(curve.kind)),
                    DASH if phase.r2 is None else f"{phase.r2:.4f}",
                    *(shares or [DASH, DASH]),
                    DASH if term is None else units.p_value_text(term.p),
                )
            )
    if not rows:
        return None
    header = (
        "curve", "constant", "per token", "R2", "context at 1,024", "context at 4,096", "test",
    )  # fmt: skip
    return Table(header, tuple(rows))


def _share_text(share: Share) -> str:
    """Format the share of the context with its interval."""
    text = _percent_text(share.value, share.low, share.high)
    return text if share.measured else f"{text} (extrapolated)"


def _percent_text(
    value: float, low: float | None, high: float | None, *, signed: bool = False
) -> str:
    ends = (None if end is None else 100 * end for end in (low, high))
    return units.change_text(100 * value, *ends, signed=signed)


def _each_text(figure: Interval | None, kind: str | None) -> str:
    """Format joules for each additional right answer; the upper end may be open."""
    if figure is None:
        return DASH
    shown = _mark(kind)
    if figure.low is not None and figure.high is not None:
        return units.energy_range_text(figure.value, figure.low, figure.high, shown)
    text = units.energy_text(figure.value, None, shown)
    if figure.low is None:
        return text
    bare = text.removesuffix(f" ({units.ESTIMATE})")
    return f"{bare}, at least {units.energy_text(figure.low, None, shown)}"


def _mark(kind: str | None) -> str | None:
    return kind if kind == units.ESTIMATE else None


def tabulate_spread(config: RunConfig, samples: Sequence[Sample], layout: Layout) -> Table | None:
    """Tabulate percentiles and steadiness of every arm; None if nothing is known of any.

    Joules are left out if the machines of the run are not equal.
    """
    grouped = group_by_system(samples, config)
    courses = compute_costs_over_time(samples, config)
    words = {True: "yes", False: "no", None: "not enough answers"}
    rows = []
    for strategy in layout.strategies:
        own = grouped.get(strategy.arm, [])
        kind = units.ESTIMATE if any(one.kind == units.ESTIMATE for one in own) else None
        found = compute_percentiles(own)
        states = [words[one.steady_state.is_steady] for one in courses.get(strategy.arm, ())]
        rows.append(
            (
                strategy.label,
                _joules_texts(found.joules_per_question, kind),
                _joules_texts(found.joules_per_output_token, kind),
                _seconds_texts(found.ttft_seconds),
                _seconds_texts(found.inter_token_seconds),
                ", ".join(dict.fromkeys(states)) or DASH,
            )
        )
    mark = f" ({units.ESTIMATE})" if any(one.kind == units.ESTIMATE for one in samples) else ""
    named = (f"J/question{mark}", f"J/token{mark}", "first token", "between tokens")
    header = ("arm", *(f"{name}, p50 / p90 / p95" for name in named), "steady")
    table = _drop_columns(header, rows, 1)
    return table if len(table.header) > 1 else None


def _joules_texts(found: Distribution | None, kind: str | None) -> str:
    if found is None:
        return DASH
    texts = [units.energy_text(each, None, kind) for each in (found.p50, found.p90, found.p95)]
    return " / ".join(text.removesuffix(f" ({units.ESTIMATE})") for text in texts)


def _seconds_texts(found: Distribution | None) -> str:
    if found is None:
        return DASH
    return " / ".join(units.seconds_text(each) for each in (found.p50, found.p90, found.p95))


Cell = str | int | float | None


def csv_files(analysis: DesignAnalysis) -> dict[str, str]:
    """Format ``table.csv`` and ``curves.csv``, with full figures.

    An empty cell is an unknown figure or an open end of an interval.
    """
    parts = analysis.parts
    return {
        "table.csv": _format(_TABLE, (row for part in parts for row in _list_arms(part))),
        "curves.csv": _format(_CURVES, (row for part in parts for row in _list_curves(part))),
    }


def _spread(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


_TABLE = (
    "machine", "arm", "role", "model", "reasoning", "questions", *_spread("accuracy"),
    "energy_kind", "measured_questions", *_spread("joules_per_output_token"),
    *_spread("joules_per_question"), *_spread("joules_per_correct"), *_spread("output_tokens"),
    *_spread("seconds"), *_spread("ttft_seconds"), "no_answer", "on_hull",
    *(
        column
        for against in ("direct", "large")
        for name in ("difference", "joules_multiple", "joules_per_additional")
        for column in _spread(f"{name}_against_{against}")
    ),
    "p_holm_against_direct", "p_holm_against_large",
)  # fmt: skip

_CURVES = (
    "machine", "role", "model", "energy_kind", "prompt_tokens", "output_tokens", "repeats",
    *_spread("prefill_joules"), *_spread("decode_joules"), *_spread("joules"),
    "joules_per_output_token", "fitted_joules", "linear_joules", "shared",
)  # fmt: skip


def _list_arms(part: PartAnalysis) -> Iterable[Sequence[Cell]]:
    for one in part.arms:
        strategy, energy = one.strategy, one.energy
        found = [find_multiple(part.multiples, strategy, which) for which in ("direct", "large")]
        yield (
            part.machine, strategy.arm, strategy.role, strategy.model, strategy.reasoning,
            one.questions, *_ends(one.accuracy),
            None if energy is None else energy.kind,
            0 if energy is None else energy.questions,
            *_list_energy(energy),
            *_ends(one.output_tokens), *_ends(one.seconds), *_ends(one.ttft_seconds),
            one.lost, _flag(one, part),
            *(cell for m in found for cell in _list_multiple_cells(m)),
            *(None if m is None else m.p_holm for m in found),
        )  # fmt: skip


def _list_energy(energy: Cost | None) -> Iterable[Cell]:
    if energy is None:
        return (None,) * 9
    figures = energy.per_output_token, energy.per_question, energy.per_correct
    return [cell for figure in figures for cell in _ends(figure)]


def _list_multiple_cells(one: Multiple | None) -> Iterable[Cell]:
    if one is None:
        return (None,) * 9
    return (*_ends(one.difference), *_ends(one.joules), *_ends(one.per_additional))


def _flag(one: ArmFigures, part: PartAnalysis) -> Cell:
    known = any(arm.on_hull for arm in part.arms)
    return int(one.on_hull) if known else None


def _list_curves(part: PartAnalysis) -> Iterable[Sequence[Cell]]:
    for curve in part.curves:
        for mean in curve.means:
            yield (
                part.machine, curve.role, curve.model, curve.kind, mean.computed, mean.output,
                mean.repeats, *mean.prefill, *mean.decode, *mean.total,
                mean.total[0] / mean.output, *_predict(curve, mean), int(mean.shared),
            )  # fmt: skip


def _predict(curve: ModelCurve, mean: LengthMean) -> tuple[Cell, Cell]:
    return (
        curve.joules(mean.computed, mean.output),
        curve.joules(mean.computed, mean.output, bend=False),
    )


def _ends(figure: Interval | CostFigure | None) -> tuple[Cell, Cell, Cell]:
    return (None,) * 3 if figure is None else (figure.value, figure.low, figure.high)


def _format(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return out.getvalue()
