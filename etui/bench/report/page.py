"""HTML report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui import units
from etui.bench.analysis.accuracy import OUTCOMES
from etui.bench.analysis.course_text import build_course_rows
from etui.bench.analysis.machines import drop_unpooled
from etui.bench.analysis.summary import Summary, group_by_system
from etui.bench.analysis.summary_text import (
    DASH,
    describe_chance,
    joules_text,
    machine_text,
    protocol,
)
from etui.bench.report import chart, power_chart, view
from etui.bench.report.questions_json import Texts, questions_json
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.codec import to_document
from etui.measure.page import embed_json, render_template
from etui.text import sanitize


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A row of the table of machines; ``energy`` explains missing joules, else it is empty."""

    arm: str
    colour: int
    key: str
    machine: str
    questions: str
    energy: str
    per_question: str
    per_correct: str
    watts: str
    seconds: str


def machine_rows(summary: Summary) -> list[MachineRow]:
    """Build the table of machines, a row for each arm and machine; empty with one machine."""
    rows = []
    for at, (name, arm) in enumerate(summary.arms.items()):
        for key, machine in (arm.machines or {}).items():
            energy = machine.energy
            kind = None if energy is None else energy.kind
            watts = None if energy is None else energy.mean_watts
            rows.append(
                MachineRow(
                    arm=sanitize(name),
                    colour=at % 8,
                    key=sanitize(key),
                    machine=sanitize(machine_text(machine)),
                    questions=f"{machine.questions:,}",
                    energy=units.UNMEASURED if energy is None else "",
                    per_question=DASH if energy is None else joules_text(energy.per_question, kind),
                    per_correct=DASH if energy is None else joules_text(energy.per_correct, kind),
                    watts=units.watts_text(watts.value, kind) if watts else DASH,
                    seconds=units.seconds_text(machine.seconds / machine.questions),
                )
            )
    return rows


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
        script="report.js",
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
