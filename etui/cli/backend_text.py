"""Remote backends as text: in the list of models, in ``models info`` and in ``doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from etui.text import join_lines
from etui.units import UNKNOWN, count_text, seconds_text, tokens_text

if TYPE_CHECKING:
    from etui.backends.remote.probe import RemoteStatus
    from etui.cli.model_facts import ModelFacts, ModelRow
    from etui.config.backend_spec import BackendSpec
    from etui.models.catalogue import Catalogue
    from etui.runtime.remote_models import BackendReport

_SHOWN = 8


def format_backends(found: Sequence[RemoteStatus], catalogue: Catalogue) -> Iterator[str]:
    """Yield a line for each backend: how fast it answered, what it is, and what it serves.

    Args:
        catalogue: The entries, whose names at the backends come first.
    """
    for status in found:
        if not status.reachable:
            yield f"backend {status.name}: not reached: {join_lines(status.problem)}"
            continue
        entries = {m.remote_name or m.name for m in catalogue if m.backend == status.name}
        names = sorted(status.models, key=lambda name: (name not in entries, name))
        facts = [
            f"answers in {seconds_text(status.latency_seconds)}" if status.latency_seconds else "",
            join_lines(status.server or ""),
            f"serves {list_names(names)}" if names else "",
            join_lines(status.problem),
        ]
        yield f"backend {status.name}: {', '.join(fact for fact in facts if fact)}"


def format_remote_facts(
    row: ModelRow, facts: ModelFacts, spec: BackendSpec, found: Mapping[str, RemoteStatus]
) -> Iterator[str]:
    """Yield the lines of ``models info`` for a model of a remote backend."""
    status = found.get(spec.name)
    served = {True: "yes", False: "no", None: UNKNOWN}[row.served]
    lines = [
        ("model", row.name),
        ("size", row.size),
        ("backend", f"{spec.name}, {spec.kind} at {spec.url}"),
        ("name there", row.remote_name or row.name),
        ("served", served),
        *([("problem", row.problem)] if row.problem else []),
        *([("same as", row.same_as)] if row.same_as else []),
        ("server", (status.server if status else None) or UNKNOWN),
        ("latency", seconds_text(status.latency_seconds if status else None)),
        ("meter", spec.meter or "none: its joules are not measured"),
        ("context used", tokens_text(facts.context)),
    ]
    if facts.thinking is not None:
        lines.append(("thinking", f"{facts.thinking.open} ... {facts.thinking.close}"))
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        yield f"{label:{width}}  {join_lines(text)}"


def format_report(report: BackendReport) -> Iterator[str]:
    """Yield what ``doctor`` says of a backend: one line about it, then one for each problem."""
    key = {True: "key accepted", False: "key refused", None: ""}[report.key_accepted]
    facts = [
        f"{report.kind} at {report.url}",
        join_lines(report.server or ""),
        f"answers in {seconds_text(report.latency_seconds)}" if report.latency_seconds else "",
        key,
        f"serves {count_text(len(report.models), 'model')}" if report.reachable else "",
    ]
    yield f"{report.name}: {', '.join(fact for fact in facts if fact)}"
    for problem in report.problems:
        yield join_lines(problem)
    if not report.entries:
        yield f"no model of models.yaml names it; add one with `backend: {report.name}`"


def list_names(names: Sequence[str]) -> str:
    """List names, and the number of those that are left out."""
    shown = ", ".join(join_lines(name) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown
