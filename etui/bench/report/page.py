"""The whole page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from etui import __version__, units
from etui.bench.analysis.accuracy import OUTCOMES
from etui.bench.analysis.summary import Summary, systems
from etui.bench.analysis.summary_text import protocol
from etui.bench.report import chart as plane
from etui.bench.report import power_chart as watts
from etui.bench.report import view
from etui.bench.report.questions_json import Texts, embedded, questions_json
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.text.codec import to_document
from etui.text.sanitize import sanitize

_HERE = "etui.bench.report"


def render_page(
    summary: Summary,
    run: RunConfig,
    samples: Sequence[Sample],
    texts: Texts | None = None,
) -> str:
    """``report.html``, which needs nothing beside it and asks no other machine for anything.

    Args:
        summary: What the run comes to.
        run: Its configuration.
        samples: In the order they were answered.
        texts: Subject and row -> the question, where the texts are at hand.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_HERE, "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    grouped = systems(samples, run)
    series: dict[str, list[Sample]] = {name: [] for name in grouped}
    for sample in samples:
        series[run.contender(sample.arm)].append(sample)
    steps = watts.all_steps({sanitize(name): inside for name, inside in series.items()})
    estimate = units.ESTIMATE in summary.kinds
    rows = view.subject_rows(summary)
    return environment.get_template("template.html").render(
        style=_resource("report.css"),
        script=_resource("report.js"),
        version=__version__,
        title=protocol(summary),
        summary=summary,
        run=run,
        models=[sanitize(model.name) for model in run.models],
        arms=view.arm_rows(summary, run),
        findings=view.findings(summary),
        mixture=view.mixture_sentence(summary),
        planes=[plane.plane(summary, size) for size in (plane.WIDE, plane.NARROW)],
        watts=[watts.watts_chart(steps, size, estimate) for size in (watts.WIDE, watts.NARROW)],
        outcomes=view.outcome_bars(summary),
        routes=view.route_bars(summary, run),
        route_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(run.arms)],
        phases=view.phase_bars(summary),
        tokens=view.token_bars(summary),
        groups=view.group_marks(summary),
        subjects=rows,
        marks=embedded(to_document([row.marks for row in rows])),
        questions=questions_json(grouped, texts),
        with_texts=texts is not None,
        legend=embedded({"arms": [sanitize(name) for name in grouped], "outcomes": OUTCOMES}),
        config=view.tree(run.to_json()),
        arm_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(grouped)],
        estimate=estimate,
        warnings=[sanitize(text) for text in summary.warnings],
    )


def _shown(value: Any) -> Any:
    """What a place in the template prints: plain text loses its control characters."""
    return sanitize(value) if type(value) is str else value


def _resource(name: str) -> Any:
    from markupsafe import Markup

    return Markup((files(_HERE) / name).read_text(encoding="utf-8"))
