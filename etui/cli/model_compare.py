"""What ``etui models compare`` prints: a table of figures, paired differences, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etui import units
from etui.cli.output import table_lines
from etui.codec import to_document
from etui.text import join_lines

if TYPE_CHECKING:
    from etui.bench.cost import CostFigure
    from etui.bench.model_comparison import ModelComparison, ModelFigures
    from etui.stats.tests import Interval


def build_document(found: ModelComparison) -> dict[str, Any]:
    """Build the document of ``--json``; shares and p-values are from 0 to 1."""
    document: dict[str, Any] = to_document(found)
    for each in document["accuracies"]:
        del each["subjects"]
    return document


def format_comparison(found: ModelComparison) -> Iterator[str]:
    """Yield the table, a line for each difference, and the commands that measure the rest."""
    columns = [dict(_list_figures(model)) for model in found.models]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [[label, *(column.get(label, "–") for column in columns)] for label in labels]
    yield from table_lines(["", *(join_lines(model.name) for model in found.models)], rows)
    if found.run:
        yield f"accuracy and what follows it: {join_lines(found.run)}, the same questions"
    for one in found.contrasts:
        ratio = one.ratio
        shown = units.multiple_text(ratio.value, ratio.low, ratio.high)
        verdict = "" if one.shown else ": no difference shown"
        pairs = units.count_text(one.pairs, "length" if one.basis == "curves" else "question")
        names = f"{join_lines(one.second)} against {join_lines(one.first)}"
        yield f"{names}: {one.figure} {shown}{verdict} ({one.basis}, {pairs})"
    if found.accuracies:
        from etui.bench.compare import comparison_lines

        for comparison in found.accuracies:
            yield from comparison_lines(comparison, several=len(found.accuracies) > 1)[:3]
    for missing in found.missing:
        names = join_lines(", ".join(missing.models))
        yield f"missing: {names}: {missing.what}; run: {join_lines(missing.command)}"


def _list_figures(model: ModelFigures) -> Iterator[tuple[str, str]]:
    if model.quantisation:
        yield "quantisation", join_lines(model.quantisation)
    if model.parameters:
        yield "parameters", units.parameters_text(model.parameters).removesuffix(" parameters")
    if model.file_bytes:
        yield "on disk", units.bytes_text(model.file_bytes)
    if model.memory_bytes:
        yield "memory", f"about {units.bytes_text(model.memory_bytes)}"
    if model.speed_from:
        yield "speed from", "its curve" if model.speed_from == "curve" else "its last turns"
        yield "decode", units.speed_text(model.speed.decode_tokens_per_second)
        yield "decoded token", _joules_text(model.joules_per_token, "token", model.kind)
        yield "prefill", units.speed_text(model.speed.prefill_tokens_per_second)
        yield "prompt token", _joules_text(model.joules_per_prompt_token, "token", model.kind)
    if model.accuracy is not None:
        low, high = model.accuracy.low or 0.0, model.accuracy.high or 1.0
        share = units.accuracy_text(model.accuracy.value)
        yield "accuracy", f"{share} ({units.points_text(low, high)})"
        kind = None if model.cost is None else model.cost.kind
        each = None if model.cost is None else model.cost.per_question
        yield "question", _joules_text(each, "question", kind)
        if (per := model.correct_per_joule) is not None:
            about = units.ABOUT if kind == units.ESTIMATE else ""
            ends = ("?" if end is None else _per_kilojoule(end) for end in (per.low, per.high))
            yield "right per kJ", f"{about}{_per_kilojoule(per.value)} ({'-'.join(ends)})"


def _joules_text(found: Interval | CostFigure | None, unit: str, kind: str | None) -> str:
    if found is None:
        return units.UNMEASURED
    return units.per_text(found.value, unit, kind, found.half_width, spread=True)


def _per_kilojoule(value: float) -> str:
    return units.significant(1000 * value, 3)
