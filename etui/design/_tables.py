"""Tables of a design run: texts for the page and the Markdown, full figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etui import units
from etui.bench.cost import Cost, CostFigure
from etui.bench.summary_text import DASH, interval_text, joules_text
from etui.curves.fit import Share
from etui.design._arms import ArmFigures, Multiple, find_multiple
from etui.design._verdict import Shares, each_text, multiple_text, points_text
from etui.design.analysis import DesignAnalysis, LengthMean, ModelCurve
from etui.stats.tests import Interval

_ROUNDING = 1e-9
"""Share of a mean below which its interval is rounding: an arm that always uses up its budget."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    header: tuple[str, ...]  # Names of the columns; the first one names the rows
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[int, ...] = ()  # Number of the colour of each row; empty without colours


def tabulate_arms(run: DesignAnalysis) -> Table:
    """Tabulate the figures of every arm; a column without any figure is left out."""
    kind = run.kind
    mark = f" ({kind})" if kind == units.ESTIMATE else ""
    header = (
        "arm", "accuracy", f"J/token{mark}", f"J/question{mark}", f"J/correct{mark}",
        "output tokens", "time", "first token", "no answer",
    )  # fmt: skip
    rows = [_list_arm(one, kind) for one in run.arms]
    roles = list(run.paired.layout.roles)
    colours = tuple(roles.index(one.strategy.role) % 8 for one in run.arms)
    return replace(_drop_columns(header, rows, 2), colours=colours)


def _drop_columns(header: Sequence[str], rows: Sequence[Sequence[str]], kept: int) -> Table:
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
    return units.seconds_text(figure.value, _half(figure))


def _half(figure: Interval) -> float | None:
    """Return the larger half of an interval; 0 where it is only the rounding of equal values."""
    half = figure.half_width
    return 0.0 if half is not None and half <= _ROUNDING * abs(figure.value) else half


def tabulate_multiples(run: DesignAnalysis) -> Table | None:
    """Tabulate every arm against the direct answers; None without any."""
    if not run.multiples:
        return None
    header = (
        "arm", "against", "accuracy", "test", "joules", "J/correct",
        "J per additional right answer", "time",
    )  # fmt: skip
    shares = Shares(run.arms)
    return _drop_columns(header, [_list_multiple(m, shares, run.kind) for m in run.multiples], 2)


def _list_multiple(one: Multiple, shares: Shares, kind: str | None) -> tuple[str, ...]:
    alike, additional = shares.are_alike(one), one.per_additional

    def times(figure: Interval | None) -> str:
        return DASH if figure is None else multiple_text(figure)

    return (
        one.strategy.label,
        one.base.label,
        points_text(one.difference) if alike else "not compared",
        units.p_value_text(one.p_holm) if alike else DASH,
        times(one.joules),
        times(one.per_correct) if alike else DASH,
        each_text(additional, kind) if alike and additional is not None else DASH,
        times(one.seconds),
    )


def tabulate_readouts(run: DesignAnalysis) -> Table | None:
    """Tabulate what the letter behind the answers is worth; None if none was read."""
    rows = [
        (
            one.strategy.label,
            *(f"{units.accuracy_text(each.value)} ({interval_text(each)})"
              for each in (one.read, one.stated)),
            units.percent_text(one.silent),
            points_text(one.difference),
            units.p_value_text(one.p_holm),
        )
        for one in run.readouts
    ]  # fmt: skip
    header = (
        "arm", "letter behind the answer", "letter stated in the text", "none stated",
        "difference", "test",
    )  # fmt: skip
    return Table(header, tuple(rows)) if rows else None


def tabulate_curves(run: DesignAnalysis) -> Table | None:
    """Tabulate the fitted curves and their nonlinear parts; None without a fit."""
    rows = []
    for curve in run.curves:
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
    ends = (None if end is None else 100 * end for end in (share.low, share.high))
    text = units.change_text(100 * share.value, *ends, signed=False)
    return text if share.measured else f"{text} (extrapolated)"


def _mark(kind: str | None) -> str | None:
    return kind if kind == units.ESTIMATE else None


Cell = str | int | float | None


def csv_files(runs: Sequence[DesignAnalysis]) -> dict[str, str]:
    """Format ``table.csv`` and ``curves.csv``, with full figures.

    An empty cell is an unknown figure or an open end of an interval.
    """
    return {
        "table.csv": _format(_TABLE, (row for run in runs for row in _list_arms(run))),
        "curves.csv": _format(_CURVES, (row for run in runs for row in _list_curves(run))),
    }


def _spread(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


_TABLE = (
    "machine", "arm", "role", "model", "reasoning", "questions", *_spread("accuracy"),
    "energy_kind", "measured_questions", *_spread("joules_per_output_token"),
    *_spread("joules_per_question"), *_spread("joules_per_correct"), *_spread("output_tokens"),
    *_spread("seconds"), *_spread("ttft_seconds"), "no_answer", "on_hull",
    *_spread("stated_accuracy"), "none_stated",
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


def _list_arms(run: DesignAnalysis) -> Iterable[Sequence[Cell]]:
    for one in run.arms:
        strategy, energy = one.strategy, one.energy
        found = [find_multiple(run.multiples, strategy, which) for which in ("direct", "large")]
        yield (
            run.machine, strategy.arm, strategy.role, strategy.model, strategy.reasoning,
            one.questions, *_ends(one.accuracy),
            None if energy is None else energy.kind,
            0 if energy is None else energy.questions,
            *_list_energy(energy),
            *_ends(one.output_tokens), *_ends(one.seconds), *_ends(one.ttft_seconds),
            one.lost, _flag(one, run), *_list_readout(one, run),
            *(cell for m in found for cell in _list_multiple_cells(m)),
            *(None if m is None else m.p_holm for m in found),
        )  # fmt: skip


def _list_readout(one: ArmFigures, run: DesignAnalysis) -> Iterable[Cell]:
    found = next((each for each in run.readouts if each.strategy == one.strategy), None)
    return (None,) * 4 if found is None else (*_ends(found.stated), found.silent)


def _list_energy(energy: Cost | None) -> Iterable[Cell]:
    if energy is None:
        return (None,) * 9
    figures = energy.per_output_token, energy.per_question, energy.per_correct
    return [cell for figure in figures for cell in _ends(figure)]


def _list_multiple_cells(one: Multiple | None) -> Iterable[Cell]:
    if one is None:
        return (None,) * 9
    return (*_ends(one.difference), *_ends(one.joules), *_ends(one.per_additional))


def _flag(one: ArmFigures, run: DesignAnalysis) -> Cell:
    known = any(arm.on_hull for arm in run.arms)
    return int(one.on_hull) if known else None


def _list_curves(run: DesignAnalysis) -> Iterable[Sequence[Cell]]:
    for curve in run.curves:
        for mean in curve.means:
            yield (
                run.machine, curve.role, curve.model, curve.kind, mean.computed, mean.output,
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
