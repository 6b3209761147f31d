"""The tables of the report as CSV, with full figures: one line for each arm, band or length."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from etui.bench.cost import Cost, Figure
from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.analysis.arm_figures import ArmFigures
from etui.design.analysis.multiples import Multiple, find_multiple
from etui.design.analysis.operating_curves import LengthMean, ModelCurve
from etui.stats.tests import Interval

Cell = str | int | float | None


def csv_files(analysis: DesignAnalysis) -> dict[str, str]:
    """Format ``table.csv``, ``subjects.csv`` and ``curves.csv``.

    An empty cell is an unknown figure or an open end of an interval.

    Returns:
        File name -> text.
    """
    parts = analysis.parts
    return {
        "table.csv": _format(_TABLE, (row for part in parts for row in _list_arms(part))),
        "subjects.csv": _format(_SUBJECTS, (row for part in parts for row in _list_bands(part))),
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

_SUBJECTS = (
    "machine", "band", "what", "group", "arm", "questions", "direct", "thinking", "only_direct",
    "only_thinking", *_spread("difference"), "p_value", "p_holm",
    *_spread("joules_per_additional"), "effect",
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
            *(cell for m in found for cell in _list_multiple(m)),
            *(None if m is None else m.p_holm for m in found),
        )  # fmt: skip


def _list_energy(energy: Cost | None) -> Iterable[Cell]:
    if energy is None:
        return (None,) * 9
    figures = energy.per_output_token, energy.per_question, energy.per_correct
    return [cell for figure in figures for cell in _ends(figure)]


def _list_multiple(one: Multiple | None) -> Iterable[Cell]:
    if one is None:
        return (None,) * 9
    return (*_ends(one.difference), *_ends(one.joules), *_ends(one.per_additional))


def _flag(one: ArmFigures, part: PartAnalysis) -> Cell:
    known = any(arm.on_hull for arm in part.arms)
    return int(one.on_hull) if known else None


def _list_bands(part: PartAnalysis) -> Iterable[Sequence[Cell]]:
    for bands in (part.groups, part.subjects):
        for row in bands.rows:
            yield (
                part.machine, row.band, bands.what, row.group, row.strategy.arm, row.questions,
                row.direct, row.thinking, row.only_direct, row.only_thinking,
                *_ends(row.difference), row.p_value, row.p_holm, *_ends(row.per_additional),
                row.effect,
            )  # fmt: skip


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


def _ends(figure: Interval | Figure | None) -> tuple[Cell, Cell, Cell]:
    return (None,) * 3 if figure is None else (figure.value, figure.low, figure.high)


def _format(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return out.getvalue()
