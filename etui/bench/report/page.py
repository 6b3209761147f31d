"""HTML report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from etui import __version__, units
from etui.bench.analysis.accuracy import OUTCOMES
from etui.bench.analysis.course_text import build_course_rows
from etui.bench.analysis.machines import drop_unpooled
from etui.bench.analysis.summary import Summary, group_by_system
from etui.bench.analysis.summary_text import describe_chance, protocol
from etui.bench.report import chart, power_chart, view
from etui.bench.report.machine_rows import machine_rows
from etui.bench.report.questions_json import Texts, embed_json, questions_json
from etui.bench.report.render import read_resource, render_template
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.text.codec import to_document
from etui.text.sanitize import sanitize

_PACKAGE = "etui.bench.report"


def render_page(
    summary: Summary,
    run: RunConfig,
    samples: Sequence[Sample],
    texts: Texts | None = None,
) -> str:
    """Render ``report.html``, a single file that loads nothing from the network or the disk.

    Args:
        texts: (subject, row) -> question; None if the texts are not available.
    """
    grouped = group_by_system(samples, run)
    series: dict[str, list[Sample]] = {name: [] for name in grouped}
    for sample in drop_unpooled(samples, run):
        series[run.contender(sample.arm)].append(sample)
    steps = power_chart.compute_all_steps(
        {sanitize(name): inside for name, inside in series.items()}
    )
    estimate = units.ESTIMATE in summary.kinds
    rows = view.subject_rows(summary)
    return render_template(
        _PACKAGE,
        style=read_resource(_PACKAGE, "report.css"),
        script=read_resource(_PACKAGE, "theme.js") + read_resource(_PACKAGE, "report.js"),
        version=__version__,
        title=protocol(summary),
        summary=summary,
        chance=describe_chance(summary),
        run=run,
        models=[sanitize(model.name) for model in run.models],
        arms=view.arm_rows(summary, run),
        machines=machine_rows(summary),
        findings=view.findings(summary),
        mixture=view.mixture_sentence(summary),
        charts=[chart.draw_chart(summary, size) for size in (chart.WIDE, chart.NARROW)],
        power_charts=[
            power_chart.draw_power_chart(steps, size, estimate)
            for size in (power_chart.WIDE, power_chart.NARROW)
        ],
        outcomes=view.outcome_bars(summary),
        routes=view.route_bars(summary, run),
        route_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(run.arms)],
        phases=view.phase_bars(summary),
        courses=build_course_rows(summary) if summary.kinds - {None} else [],
        tokens=view.token_bars(summary),
        groups=view.group_marks(summary),
        subjects=rows,
        marks=embed_json(to_document([row.marks for row in rows])),
        questions=questions_json(grouped, texts),
        with_texts=texts is not None,
        legend=embed_json({"arms": [sanitize(name) for name in grouped], "outcomes": OUTCOMES}),
        config=view.build_config_tree(run),
        arm_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(grouped)],
        estimate=estimate,
        precision=view.precision_lines(summary),
        warnings=[sanitize(text) for text in summary.warnings],
    )
