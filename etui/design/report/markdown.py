"""The report of a design run as Markdown, readable on its own, with links to the figures."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from etui import __version__, units
from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.analysis.statement import Statement
from etui.design.report.tables import (
    Table,
    tabulate_arms,
    tabulate_curves,
    tabulate_groups,
    tabulate_multiples,
    tabulate_routers,
    tabulate_subjects,
)
from etui.design.report.wording import (
    CURVES_NOTE,
    GROUPS_NOTE,
    INTERVALS_NOTE,
    MULTIPLES_NOTE,
    NOTHING_PAIRED,
    PLANE_NOTE,
    ROUTER_NOTE,
    TABLE_NOTE,
    answered_by_text,
)
from etui.text import format_markdown_table, one_line


def render_markdown(
    analysis: DesignAnalysis, title: str, extras: Table | None, drawn: Collection[str]
) -> str:
    """Render the report.

    Args:
        extras: Percentiles and steadiness; None without them.
        drawn: Names of the drawn figures, which are in the folder ``figures``.
    """
    config, main = analysis.config, analysis.main
    parts = [
        f"# {_escape(title)}",
        f"**{_escape(main.verdict.headline)}.** "
        f"{units.count_text(len(main.paired), 'question')} of {config.questions:,} "
        f"{answered_by_text(len(analysis.layout.strategies))}; {config.suite}, "
        f"{config.split} split; run {_escape(config.run_id)}; etui {__version__}.",
    ]
    for number, part in enumerate(analysis.parts):
        if part.machine:
            parts.append(f"# {_escape(part.machine.capitalize())}")
        parts += _render_part(part, drawn, "" if number == 0 else f"_{number + 1}")
    if extras is not None:
        parts += ["## Spread and steadiness", _table(extras)]
    parts += ["## Limits", "\n".join(f"- {_escape(text)}" for text in analysis.limits)]
    parts += ["## Method", INTERVALS_NOTE]
    return "\n\n".join(parts) + "\n"


def _render_part(part: PartAnalysis, drawn: Collection[str], suffix: str) -> Iterator[str]:
    verdict = part.verdict
    yield "## Verdict"
    if not part.arms:
        yield NOTHING_PAIRED
    yield _list(verdict.summary)

    def figure(name: str, alt: str) -> Iterator[str]:
        if f"{name}{suffix}.svg" in drawn:
            yield f"![{alt}](figures/{name}{suffix}.svg)"

    if part.arms:
        yield "## Arms"
        yield from figure("accuracy_joules", "Accuracy against joules per question")
        yield PLANE_NOTE
        yield _table(tabulate_arms(part))
        yield TABLE_NOTE
        yield from figure("joules_per_correct", "Joules per right answer")
    direct, large = tabulate_multiples(part, "direct"), tabulate_multiples(part, "large")
    if direct or large:
        yield "## Multiples"
        yield MULTIPLES_NOTE
    if direct:
        yield "Against the direct answer of the same model:"
        yield from figure("multiples", "Multiples against the direct answer of the same model")
        yield _table(direct)
    if large:
        yield "Against the direct answer of the largest model:"
        yield from figure("multiples_large", "Multiples against the largest model's direct answer")
        yield _table(large)
    groups, subjects = tabulate_groups(part), tabulate_subjects(part)
    if part.subjects.rows:
        yield "## Where thinking pays"
        yield GROUPS_NOTE
        yield _list(verdict.about("band"))
    if groups:
        yield _table(groups)
    yield from figure("groups", "Thinking minus direct by group")
    yield from figure("subjects", "Thinking minus direct by subject")
    if subjects:
        yield _table(subjects)
    curves = tabulate_curves(part)
    if part.curves:
        yield "## Operating curves"
        yield _list(verdict.about("curve"))
        yield from figure("operating_curves", "Joules per token and joules over lengths")
        yield CURVES_NOTE
    if curves:
        yield _table(curves)
    routers = tabulate_routers(part)
    if routers:
        yield "## What a router would have saved"
        yield ROUTER_NOTE
        yield _list(verdict.about("router"))
        yield _table(routers)


def _list(statements: Collection[Statement]) -> str:
    return "\n".join(f"- {_escape(one.text)}" for one in statements)


def _table(table: Table) -> str:
    rows = [[_escape(cell) for cell in row] for row in table.rows]
    return format_markdown_table(rows, header=[_escape(cell) for cell in table.header], align="<>")


def _escape(text: str) -> str:
    """Put a text on one line that neither ends a cell nor begins HTML or a link."""
    safe = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return safe.replace("[", "\\[").replace("_", "\\_")
