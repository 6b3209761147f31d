"""HTML report of a sweep: ``report.html`` of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etui import __version__, units
from etui.atomic import write_text
from etui.bench.report.render import read_resource, render_template
from etui.bench.report.view import build_tree
from etui.sweep.blocks import Block
from etui.sweep.report import frontier_chart, power_chart, view
from etui.sweep.report.conditions import (
    build_command,
    build_conditions,
    describe_conditions,
)
from etui.sweep.report.power_chart import VisitWatts
from etui.sweep.report.roles import list_shown_roles
from etui.sweep.report.sentences import floor_sentence, time_sentence
from etui.sweep.report.verdict import format_verdict
from etui.sweep.result import SweepResult
from etui.sweep.sweep_config import SweepConfig
from etui.text.codec import to_document
from etui.text.tables import one_line

_PACKAGE = "etui.sweep.report"
_BENCH = "etui.bench.report"


def write_report(
    path: Path,
    config: SweepConfig,
    result: SweepResult,
    blocks: Sequence[Block],
    power: Sequence[VisitWatts],
) -> None:
    """Write the report of a sweep, which may be unfinished.

    Args:
        path: The file; its folder exists.
        power: Watts of its visits, in the order in which they were measured.

    Raises:
        OSError: The file cannot be written; an earlier report is kept.
    """
    page = render_report(config, result, blocks, power)
    write_text(path, page, errors="replace")


def render_report(
    config: SweepConfig,
    result: SweepResult,
    blocks: Sequence[Block],
    power: Sequence[VisitWatts],
) -> str:
    """Render the page, a single file that loads nothing from the network or the disk.

    Args: see :func:`write_report`.
    """
    return render_template(
        _PACKAGE,
        style=read_resource(_BENCH, "report.css") + read_resource(_PACKAGE, "sweep.css"),
        script=read_resource(_BENCH, "theme.js") + read_resource(_PACKAGE, "sort.js"),
        version=__version__,
        model=one_line(config.model),
        created=one_line(config.created[:10]),
        sweep_id=one_line(config.id),
        goal=_describe_goal(result),
        verdict=format_verdict(result),
        is_complete=result.is_complete,
        settings=len(result.settings),
        visits=units.count_text(result.visits, "visit"),
        blocks=units.count_text(result.blocks, "block"),
        workload=one_line(config.workload),
        findings=view.build_findings(result),
        notes=[
            *map(one_line, result.notes),
            *(f"repeated: {one_line(text)}" for text in result.repeated),
        ],
        roles=list_shown_roles(result),
        frontiers=[
            frontier_chart.draw_frontier(result, size)
            for size in (frontier_chart.WIDE, frontier_chart.NARROW)
        ],
        has_frontier=sum(one.is_on_frontier for one in result.settings) > 1,
        has_accuracy=any(one.accuracy is not None for one in result.settings),
        effects=view.build_effect_rows(result),
        floor=floor_sentence(result),
        duration=time_sentence(result),
        drops=view.build_drop_rows(result),
        powers=[
            power_chart.draw_power(result, power, size)
            for size in (power_chart.WIDE, power_chart.NARROW)
        ],
        headings=view.list_headings(result),
        rows=view.build_rows(result),
        conditions=describe_conditions(
            build_conditions(config, result, blocks), one_line(config.model)
        ),
        command=build_command(config),
        config=build_tree(to_document(config)),
        estimate=result.kind == units.ESTIMATE,
    )


def _describe_goal(result: SweepResult) -> str:
    goal = result.goal
    text = {"joules": "fewest joules", "time": "least time"}.get(
        goal.measure, "least product of joules and seconds"
    )
    if goal.within_percent is not None:
        limit = units.change_text(goal.within_percent, signed=False)
        text += f" at most {limit} slower than the fastest"
    return text
