"""Write the report of a design run: a page, Markdown, tables, and figures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui import __version__, units
from etui.atomic import write_text
from etui.bench.folder import Recorded, read_run
from etui.bench.page import build_config_tree
from etui.bench.summary_text import interval_text, joules_text
from etui.codec import DocumentError
from etui.design._figures import draw_figures, get_colour
from etui.design._tables import (
    Table,
    csv_files,
    tabulate_arms,
    tabulate_curves,
    tabulate_multiples,
    tabulate_routers,
    tabulate_spread,
)
from etui.design.analysis import DesignAnalysis, PartAnalysis, analyse
from etui.design.curve_visits import read_curve_points
from etui.errors import EtuiError, InvalidFile
from etui.measure.page import render_template
from etui.text import format_markdown_table, one_line, sanitize

if TYPE_CHECKING:
    from markupsafe import Markup

    from etui.bench.config import RunConfig
    from etui.plots.figure import Figure

PAGE = "report.html"
FIGURES = "figures"

_NOTHING_PAIRED = (
    "No question has been answered by every arm yet: the first block is unfinished. Resume the run "
    "with etui bench --resume; any complete block makes a report."
)

_PLANE_NOTE = (
    "The line is what a random choice between the arms at its ends reaches; an arm below it is not "
    "worth its joules on these questions."
)

_TABLE_NOTE = (
    "Intervals are at 95 %. J/token is the joules of a question divided by its thinking and answer "
    "tokens, the energy per token of arXiv 2603.20224; a direct answer has few tokens and the same "
    "prompt, so that its J/token is high. J/correct divides by right answers only."
)

_MULTIPLES_NOTE = (
    "Every arm against a direct answer on the same questions, resampled in pairs. A filled mark "
    "differs after correction for the other arms of its model; an empty one is not a claim."
)

_CURVES_NOTE = (
    "Points are means of repeated turns with 95 % intervals. The solid line is the fitted curve "
    "with the band of a single turn; the dashed line leaves out the terms of the context, so that "
    "the gap between both is the nonlinear part. Both axes of length are logarithmic."
)

_ROUTER_NOTE = (
    "Replayed over the answers of this run against the direct answer of the largest model. Routers "
    "are fitted on other questions than those they are judged on; intervals do not cover fitting "
    "them again. Both oracles know the outcomes and are bounds, not routers."
)

_INTERVALS_NOTE = (
    "Paired figures use the questions that every arm answered; blocks are balanced over subjects, "
    "so that any number of complete blocks is a stratified sample. Intervals are at 95 %, from "
    "4,000 resamples within subjects that draw all arms of a question together; differences of "
    "accuracies take the wider of that and an adjusted interval for paired shares (Bonett and "
    "Price 2012). Errors of counters are added to ratios; the scale error of an estimate cancels "
    "in them and is not added. A claim needs an interval that excludes no difference and, where "
    "there is a test, a p-value below 0.05 after Holm's correction for the other arms of the model."
)


def _answered_by_text(arms: int) -> str:
    """Return ``answered by its arm`` or ``answered by all 16 arms``."""
    return "answered by its arm" if arms == 1 else f"answered by all {arms:,} arms"


def write_design_report(folder: Path, to: Path, *, figures: bool = True) -> list[Path]:
    """Write the report of a design run; equal runs give equal files.

    Args:
        folder: The run folder, finished or not.
        to: Folder of the report, which is created; may be the run folder.
        figures: Whether to write the figures for papers, in ``to/figures``.

    Returns:
        Paths of the files, in the order in which they were written.

    Raises:
        UsageError: The folder is not a run folder.
        InvalidFile: A file of the run is unreadable or invalid.
        EtuiError: The report cannot be written.
    """
    recorded = read_run(folder)
    analysis, title = _analyse(recorded)
    extras = tabulate_spread(recorded.config, recorded.samples, analysis.layout)
    chance = 0.25 if analysis.config.chance is None else analysis.config.chance
    drawn = [draw_figures(part, chance) for part in analysis.parts]
    written: list[Path] = []
    saved: list[Path] = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        if figures:
            saved = _save_figures(to / FIGURES, drawn)
        texts = {
            PAGE: _render_page(analysis, drawn, title, extras),
            "report.md": _render_markdown(analysis, title, extras, [path.name for path in saved]),
            **csv_files(analysis),
        }
        for name, text in texts.items():
            write_text(to / name, text, errors="surrogatepass")
            written.append(to / name)
    except OSError as error:
        raise EtuiError(
            f"cannot write the report: {error.strerror or error}: {error.filename or to}",
            "choose a writable folder",
        ) from error
    return [*written, *saved]


def _analyse(recorded: Recorded) -> tuple[DesignAnalysis, str]:
    """Analyse a run; return the analysis and the title of the design."""
    config, folder = recorded.config, recorded.folder
    roles, title = _read_design(config)
    found = analyse(config, recorded.samples, lambda keys: read_curve_points(folder, keys), roles)
    return found, title


def _read_design(config: RunConfig) -> tuple[Mapping[str, str] | None, str]:
    """Return the roles and the title; a design of another etui still has its arms' models."""
    from etui.design.load import design_of_run

    if config.design is None:
        return None, config.run_id
    try:
        design = design_of_run(config)
    except (InvalidFile, DocumentError):
        return None, config.design.name
    return design.models, design.title


def _save_figures(folder: Path, parts: list[dict[str, Figure]]) -> list[Path]:
    """Save the figures; those of the second and further parts end in ``_2`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        path
        for number, figures in enumerate(parts, 1)
        for name, figure in figures.items()
        for path in figure.save(folder / (name if number == 1 else f"{name}_{number}"))
    ]


def _render_page(
    analysis: DesignAnalysis, drawn: list[dict[str, Figure]], title: str, extras: Table | None
) -> str:
    """Render the page, a single file that loads nothing and has no texts of questions."""
    config, main, layout = analysis.config, analysis.main, analysis.layout
    colours = {role: f"arm-{get_colour(layout, role)}" for role in layout.roles}
    return render_template(
        "etui.design",
        style="design.css",
        title=title,
        design=config.design.name if config.design is not None else "",
        started=config.started_at[:10],
        run_id=config.run_id,
        headline=main.headline,
        questions=units.count_text(len(main.paired), "question"),
        planned=f"{config.questions:,}",
        suite=f"{config.suite}, {config.split} split",
        answered_by=_answered_by_text(len(layout.strategies)),
        models=[(colours[role], role, model) for role, model in layout.roles.items()],
        is_complete=analysis.is_complete,
        findings=_list_findings(main),
        parts=[
            _build_part(part, figures) for part, figures in zip(analysis.parts, drawn, strict=True)
        ],
        extras=extras,
        limits=analysis.limits,
        notes={
            "nothing": _NOTHING_PAIRED,
            "plane": _PLANE_NOTE,
            "table": _TABLE_NOTE,
            "multiples": _MULTIPLES_NOTE,
            "curves": _CURVES_NOTE,
            "routers": _ROUTER_NOTE,
            "intervals": _INTERVALS_NOTE,
        },
        config=build_config_tree(config),
    )


_OUTCOMES = {"more right": "good", "fewer right": "bad"}

_ALT = {
    "accuracy_joules": "Accuracy against joules per question",
    "joules_per_correct": "Joules per right answer",
    "multiples": "Multiples against the direct answer of the same model",
    "multiples_large": "Multiples against the direct answer of the largest model",
    "operating_curves": "Joules per token and joules over lengths",
}


def _build_part(part: PartAnalysis, figures: Mapping[str, Figure]) -> dict[str, Any]:
    charts: dict[str, Markup] = {name: one.svg(_ALT[name]) for name, one in figures.items()}
    return {
        "machine": sanitize(part.machine),
        "is_empty": not part.arms,
        "statements": [
            (one.outcome, _OUTCOMES.get(one.outcome, "open"), one.text) for one in part.statements
        ],
        "arms": tabulate_arms(part) if part.arms else None,
        "charts": charts,
        "multiples": [
            (_ALT[name], charts[name], table)
            for name, table in (
                ("multiples", tabulate_multiples(part, "direct")),
                ("multiples_large", tabulate_multiples(part, "large")),
            )
            if name in charts
        ],
        "curve_errors": [f"{one.model}: {one.error}" for one in part.curves if one.error],
        "curve_table": tabulate_curves(part),
        "routers": tabulate_routers(part),
    }


def _list_findings(part: PartAnalysis) -> list[tuple[str, str, str]]:
    """List label, figure and note of the key figures: the best and the cheapest arm, questions."""
    if not part.arms:
        return []
    top = max(part.arms, key=lambda one: one.accuracy.value)
    found: list[tuple[str, str, str]] = [
        (
            "Most accurate",
            units.accuracy_text(top.accuracy.value),
            f"{top.strategy.label}, 95 % CI {interval_text(top.accuracy)}",
        )
    ]
    kind = part.kind if part.kind == units.ESTIMATE else None
    priced = [
        (one.strategy.label, one.energy.per_correct)
        for one in part.arms
        if one.energy is not None and one.energy.per_correct is not None
    ]
    if priced:
        label, cheapest = min(priced, key=lambda pair: pair[1].value)
        found.append(
            ("Cheapest right answer", units.energy_text(cheapest.value, None, kind),
             f"{label}, {joules_text(cheapest, None)}")
        )  # fmt: skip
        label, highest = max(priced, key=lambda pair: pair[1].value)
        found.append(
            ("Most expensive one", units.energy_text(highest.value, None, kind),
             f"{label}, {units.multiple_text(highest.value / cheapest.value)} the cheapest")
        )  # fmt: skip
    else:
        found.append(("Energy", units.UNMEASURED, "no readable power channel"))
    count = len(part.paired)
    dropped = part.paired.questions_dropped
    note = f"{units.count_text(dropped, 'question')} left out" if dropped else "all paired"
    found.append(("Questions", f"{count:,}", note))
    return found


def _render_markdown(
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
        f"**{_escape(main.headline)}.** "
        f"{units.count_text(len(main.paired), 'question')} of {config.questions:,} "
        f"{_answered_by_text(len(analysis.layout.strategies))}; {config.suite}, "
        f"{config.split} split; run {_escape(config.run_id)}; etui {__version__}.",
    ]
    for number, part in enumerate(analysis.parts):
        if part.machine:
            parts.append(f"# {_escape(part.machine.capitalize())}")
        parts += _render_markdown_part(part, drawn, "" if number == 0 else f"_{number + 1}")
    if extras is not None:
        parts += ["## Spread and steadiness", _table(extras)]
    parts += ["## Limits", "\n".join(f"- {_escape(text)}" for text in analysis.limits)]
    parts += ["## Method", _INTERVALS_NOTE]
    return "\n\n".join(parts) + "\n"


def _render_markdown_part(part: PartAnalysis, drawn: Collection[str], suffix: str) -> Iterator[str]:
    yield "## Finding"
    if not part.arms:
        yield _NOTHING_PAIRED
    yield "\n".join(f"- {_escape(one.text)}" for one in part.statements)

    def figure(name: str, alt: str) -> Iterator[str]:
        if f"{name}{suffix}.svg" in drawn:
            yield f"![{alt}](figures/{name}{suffix}.svg)"

    if part.arms:
        yield "## Arms"
        yield from figure("accuracy_joules", "Accuracy against joules per question")
        yield _PLANE_NOTE
        yield _table(tabulate_arms(part))
        yield _TABLE_NOTE
        yield from figure("joules_per_correct", "Joules per right answer")
    direct, large = tabulate_multiples(part, "direct"), tabulate_multiples(part, "large")
    if direct or large:
        yield "## Multiples"
        yield _MULTIPLES_NOTE
    if direct:
        yield "Against the direct answer of the same model:"
        yield from figure("multiples", "Multiples against the direct answer of the same model")
        yield _table(direct)
    if large:
        yield "Against the direct answer of the largest model:"
        yield from figure("multiples_large", "Multiples against the largest model's direct answer")
        yield _table(large)
    curves = tabulate_curves(part)
    if part.curves:
        yield "## Operating curves"
        yield from figure("operating_curves", "Joules per token and joules over lengths")
        yield _CURVES_NOTE
    if curves:
        yield _table(curves)
    yield from (
        f"There is no curve of {c.model}: {_escape(c.error)}." for c in part.curves if c.error
    )
    routers = tabulate_routers(part)
    if routers:
        yield "## What a router would have saved"
        yield _ROUTER_NOTE
        yield _table(routers)


def _table(table: Table) -> str:
    rows = [[_escape(cell) for cell in row] for row in table.rows]
    return format_markdown_table(rows, header=[_escape(cell) for cell in table.header], align="<>")


def _escape(text: str) -> str:
    """Put a text on one line that neither ends a cell nor begins HTML or a link."""
    safe = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return safe.replace("[", "\\[").replace("_", "\\_")
