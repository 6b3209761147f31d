"""What ``etui models search`` prints, and ``info`` of a repository of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from etui.cli.model_facts import PREDICTED, align, cut, predicted_cells
from etui.cli.output import table_lines
from etui.text import count_cells, join_lines
from etui.units import UNKNOWN, bytes_text, parameters_text, tokens_text

if TYPE_CHECKING:
    from etui.models.repository import Repository
    from etui.runtime.search_models import PricedRepository, SearchResult


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
    """Yield a line for each quantisation, and why its facts are not known."""
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
    """Yield what the memory, the speeds and the joules rest on, each once."""
    from etui.curves.prediction import joules_basis, speed_basis

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
