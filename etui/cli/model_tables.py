"""What ``etui models`` prints of a search, of a repository of the hub, and of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from etui import units
from etui.cli.model_facts import PREDICTED, align, cut, predicted_cells
from etui.cli.output import table_lines
from etui.codec import to_document
from etui.curves.prediction import joules_basis, speed_basis
from etui.text import count_cells, join_lines
from etui.units import UNKNOWN, bytes_text, parameters_text, tokens_text

if TYPE_CHECKING:
    from etui.bench.cost import CostFigure
    from etui.bench.model_comparison import ModelComparison, ModelFigures
    from etui.models.repository import Repository
    from etui.runtime.search_models import PricedRepository, SearchResult
    from etui.stats.tests import Interval


def format_repository(
    repository: Repository, priced: SearchResult, width: int | None
) -> Iterator[str]:
    """Yield the facts of a repository of the hub, and what each quantisation costs here."""
    facts = [
        repository.architecture,
        parameters_text(repository.parameters) if repository.parameters else "",
        f"trained for {tokens_text(repository.context_tokens)}"
        if repository.context_tokens
        else "",
    ]
    downloads = repository.downloads
    yield from align([
        ("repository", repository.name),
        ("licence", repository.licence or "not stated"),
        ("downloads", f"{downloads:,} in 30 days" if downloads is not None else UNKNOWN),
        *([("gated", "its terms have to be accepted first")] if repository.gated else []),
        *([("model", ", ".join(fact for fact in facts if fact))] if any(facts) else []),
        *(("beside", f"{file.name}: reads pictures or sound (`mmproj` of an entry)")
          for file in repository.projectors),
        *(("beside", f"{file.name}: drafts tokens") for file in repository.drafts),
    ])  # fmt: skip
    yield ""
    yield from _format_quantisations(priced.repositories[0], width)
    yield from _format_basis(priced, width)


def format_search(found: SearchResult, width: int | None) -> Iterator[str]:
    """Yield what a search found: the quantisations of each repository, then what is here."""
    for repository in found.repositories:
        yield join_lines(repository.name)
        yield from fold(", ".join(_list_repository_facts(repository)), width, "  ")
        yield from _format_quantisations(repository, width)
    if found.local:
        yield "here or in the catalogue:"
        cells = [
            [model.name, bytes_text(model.size_bytes), "yes" if model.on_disk else "no",
             *predicted_cells(model.prediction.fit, model.prediction.forecast)]
            for model in found.local
        ]  # fmt: skip
        head = ["NAME", "SIZE", "ON DISK", *PREDICTED]
        yield from _narrow(head, cells, width, ("SIZE", "ON DISK"))
        yield ""
    yield from _format_basis(found, width)


def _format_quantisations(repository: PricedRepository, width: int | None) -> Iterator[str]:
    if repository.problem:
        yield from fold(repository.problem, width, "  ")
    head = ["  QUANTISATION", "SIZE", "MEMORY", *PREDICTED, ""]
    cells = [
        [f"{'*' if each.is_default else ' '} {each.label}", bytes_text(each.size_bytes),
         bytes_text(each.prediction.need_bytes),
         *predicted_cells(each.prediction.fit, each.prediction.forecast),
         f"lacks {each.missing[0]}" if each.missing else "on disk" if each.on_disk else ""]
        for each in repository.quantisations
    ]  # fmt: skip
    if cells:
        yield from _narrow(head, cells, width, ("SIZE",))
    yield ""


def _list_repository_facts(repository: PricedRepository) -> Iterator[str]:
    if repository.parameters:
        active = repository.active_parameters or 0
        share = 0 < active < repository.parameters
        more = f", {parameters_text(active).split()[0]} active" if share else ""
        yield f"{parameters_text(repository.parameters)}{more}"
    yield f"licence {repository.licence or 'not stated'}"
    downloads = repository.downloads
    yield f"{downloads:,} downloads in 30 days" if downloads is not None else "downloads unknown"
    if repository.gated:
        yield "gated"


def _format_basis(found: SearchResult, width: int | None) -> Iterator[str]:
    shown = [each.prediction for one in found.repositories for each in one.quantisations]
    shown += [model.prediction for model in found.local]
    if not shown:
        return
    contexts = {each.context_tokens for each in found.repositories}
    if contexts:
        rough = [each.name for each in found.repositories if not each.has_header]
        texts = f"MEMORY: with a context of {tokens_text(max(contexts))}"
        texts += f"; a rough estimate of {', '.join(rough)}" if rough else ""
        yield from fold(texts, width)
    for title, bases in (
        ("TOK/S", [speed_basis(one.forecast, found.machine, on_gpu=one.fit == "gpu")
                   for one in shown]),
        ("J/TOKEN", [joules_basis(one.forecast, found.machine) for one in shown]),
    ):  # fmt: skip
        yield from fold(f"{title}, of decode: {'; '.join(dict.fromkeys(bases))}", width)


def fold(text: str, width: int | None, indent: str = "") -> Iterator[str]:
    """Yield a text in lines of at most so many cells; None yields it as one line."""
    if width is None:
        yield indent + join_lines(text)
    else:
        yield from wrap(
            join_lines(text), width, initial_indent=indent, subsequent_indent=indent,
            break_on_hyphens=False,
        )  # fmt: skip


def _narrow(
    head: Sequence[str], cells: Sequence[Sequence[str]], width: int | None, spare: Sequence[str]
) -> list[str]:
    """Format a table, without as many of the ``spare`` columns as it takes to fit."""
    lines: list[str] = []
    for count in range(len(spare) + 1):
        at = [at for at, title in enumerate(head) if title not in spare[:count]]
        lines = table_lines([head[i] for i in at], [[line[i] for i in at] for line in cells])
        if width is None or max(map(count_cells, lines)) <= width:
            break
    return cut(lines, width)


def build_comparison(found: ModelComparison) -> dict[str, Any]:
    """Build the document of ``etui models compare``; shares and p-values are from 0 to 1."""
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
        yield "parameters", parameters_text(model.parameters).removesuffix(" parameters")
    if model.file_bytes:
        yield "on disk", bytes_text(model.file_bytes)
    if model.memory_bytes:
        yield "memory", f"about {bytes_text(model.memory_bytes)}"
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
