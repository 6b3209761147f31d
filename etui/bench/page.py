"""HTML report of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from etui import units
from etui.bench.accuracy import OUTCOMES, classify_outcome
from etui.bench.config import RunConfig
from etui.bench.cost import Cost, Figure
from etui.bench.precision import describe_precision
from etui.bench.report import chart, power_chart
from etui.bench.sample import Sample
from etui.bench.summary import Summary, drop_unpooled, group_by_system
from etui.bench.summary_text import (
    DASH,
    build_course_rows,
    count_lost,
    describe_chance,
    ends,
    half_width,
    interval_text,
    is_lopsided,
    joules_text,
    machine_text,
    missing_energy_text,
    protocol,
)
from etui.codec import to_document
from etui.datasets.mmlu import GROUPS, find_group
from etui.datasets.questions import Question
from etui.measure.page import Node, build_tree, embed_json, render_template
from etui.text import sanitize, shorten

_OUTCOMES = {
    "right": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "error": "failed",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: its name, CSS class, share of the track in percent, and text."""

    name: str
    class_: str
    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class StackedBar:
    """A stacked bar: the arm, its colour, the segments and the text at the end."""

    name: str
    colour: int
    segments: tuple[Segment, ...]
    text: str


@dataclass(frozen=True, slots=True)
class GroupMark:
    """A share with its interval in percent on a track of 0 to 100 %, and its text."""

    name: str
    colour: int
    value: float
    low: float
    high: float
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class ArmRow:
    """A row of the table of arms.

    ``energy`` explains missing joules and is empty if there are joules. ``clean`` is the accuracy
    on the questions that MMLU-Redux labelled as free of errors, ``strict`` that by the stricter
    reading of the grading rule.
    """

    name: str
    colour: int
    way: str
    micro: GroupMark
    interval: str
    macro: str
    questions: str
    energy: str
    per_question: str
    per_correct: str
    per_token: str
    watts: str
    seconds: str
    mass: str
    lost: str
    clean: str
    clean_title: str
    strict: str
    strict_title: str


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A subject with a mark for each arm; None for an arm without answers in it."""

    subject: str
    group: str
    questions: int
    marks: tuple[GroupMark | None, ...]


def arm_rows(summary: Summary, run: RunConfig) -> list[ArmRow]:
    """Build the table of arms, one row each."""
    rows = []
    for at, (name, arm) in enumerate(summary.arms.items()):
        accuracy, energy = arm.accuracy, arm.energy
        micro, mass = accuracy.micro, accuracy.letter_mass
        kind = None if energy is None else energy.kind
        watts = None if energy is None else energy.mean_watts
        clean = None if accuracy.labelled is None else accuracy.labelled.clean
        strict = accuracy.strict
        rows.append(
            ArmRow(
                name=sanitize(name),
                colour=at % 8,
                way=sanitize(_describe_arm(name, run)),
                micro=_mark(name, at, micro.value, *ends(micro)),
                interval=f"CI {interval_text(micro)}",
                macro=units.accuracy_text(accuracy.macro.value),
                questions=f"{accuracy.questions:,}",
                energy=missing_energy_text(arm) if energy is None else "",
                per_question=DASH if energy is None else joules_text(energy.per_question, kind),
                per_correct=DASH if energy is None else joules_text(energy.per_correct, kind),
                per_token=DASH if energy is None else joules_text(energy.per_output_token, kind),
                watts=units.watts_text(watts.value, kind) if watts else DASH,
                seconds=units.seconds_text(arm.seconds / accuracy.questions),
                mass=f"{mass.mean:.2f}" if mass else DASH,
                lost=units.percent_text(count_lost(accuracy) / accuracy.questions),
                clean=units.accuracy_text(clean.accuracy) if clean else DASH,
                clean_title=f"{interval_text(clean)}, n={clean.questions:,}" if clean else "",
                strict=units.accuracy_text(strict.accuracy) if strict else DASH,
                strict_title=f"CI {interval_text(strict)}" if strict else "",
            )
        )
    return rows


def findings(summary: Summary) -> list[tuple[str, str, str]]:
    """Build the key results, each as label, figure and note."""
    arms = summary.arms
    if not arms:
        return []
    found = []
    top = max(arms, key=lambda name: arms[name].accuracy.micro.value)
    micro = arms[top].accuracy.micro
    several = len(arms) > 1
    found.append(
        (
            "Most accurate" if several else "Accuracy",
            units.accuracy_text(micro.value),
            f"{sanitize(top) + ', ' if several else ''}95 % CI {interval_text(micro)}",
        )
    )
    costs = {name: arm.energy for name, arm in arms.items() if arm.energy is not None}
    per_correct = {name: cost.per_correct for name, cost in costs.items() if cost.per_correct}
    if per_correct:
        label = "Cheapest right answer" if several else "A right answer"
        found.append(_cheapest(label, per_correct, costs, several))
    if costs:
        label = "Cheapest question" if several else "A question"
        per_question = {name: cost.per_question for name, cost in costs.items()}
        found.append(_cheapest(label, per_question, costs, several))
        name, cost = next(iter(costs.items()))
        if not several and cost.mean_watts:
            text = units.watts_text(cost.mean_watts.value, cost.kind)
            found.append(("Mean power", text, f"over {units.seconds_text(arms[name].seconds)}"))
    else:
        by_machine = any(arm.machines for arm in arms.values())
        note = "the machines are not equal" if by_machine else "no readable power channel"
        found.append(("Energy", missing_energy_text(arms[top]), note))
    best = summary.oracle
    if best is not None:
        found.append(
            (
                "Oracle",
                units.accuracy_text(best.accuracy),
                "with the cheapest correct arm for each question",
            )
        )
    return found


def _cheapest(
    label: str, figures: Mapping[str, Figure], costs: Mapping[str, Cost], several: bool
) -> tuple[str, str, str]:
    name = min(figures, key=lambda name: figures[name].value)
    figure, kind = figures[name], costs[name].kind
    shown = kind if kind == units.ESTIMATE else None
    text = units.energy_text(figure.value, None, shown)
    half = half_width(figure)
    spread = "" if half is None else f"± {units.significant(half, 2)} J, "
    if figure.low is not None and figure.high is not None and is_lopsided(figure):
        low, high = (units.significant(end, 2) for end in (figure.low, figure.high))
        spread = f"{low}-{high} J, "
    return label, text, f"{sanitize(name) + ', ' if several else ''}{spread}{kind}"


def precision_lines(summary: Summary) -> list[str]:
    """Describe the precision of the run; empty if none was asked for."""
    if summary.precision is None:
        return []
    return [sanitize(line) for line in describe_precision(summary.precision)]


def mixture_sentence(summary: Summary) -> str:
    """Name the arms that are worse than a random mixture of others; empty if there are none."""
    on, arms = summary.hull, summary.arms
    off = [sanitize(name) for name in arms if name not in on]
    if not on or not off:
        return ""
    verb = "is" if len(off) == 1 else "are"
    if len(on) == 1:
        return (
            f"{_join_names(off)} {verb} below {sanitize(on[0])}, which costs less and gets at "
            "least as many answers right."
        )
    return (
        f"{_join_names(off)} {verb} below the line: choosing at random between "
        f"{_join_names([sanitize(name) for name in on])} gets more answers right for the same "
        "joules."
    )


def outcome_bars(summary: Summary) -> list[StackedBar]:
    """Build a bar of right, wrong and lost answers for each arm."""
    bars = []
    for at, (name, arm) in enumerate(summary.arms.items()):
        accuracy = arm.accuracy
        segments = tuple(
            Segment(
                _OUTCOMES[outcome],
                f"outcome-{outcome.replace('_', '-')}",
                100 * count / accuracy.questions,
                f"{count:,}",
            )
            for outcome, count in accuracy.outcomes.items()
            if count
        )
        bars.append(StackedBar(sanitize(name), at % 8, segments, f"{accuracy.questions:,}"))
    return bars


def route_bars(summary: Summary, run: RunConfig) -> list[StackedBar]:
    """Build a bar of the arms that answered in a policy run; empty for other runs."""
    bars = []
    arms = list(run.arms)
    for at, (name, arm) in enumerate(summary.arms.items()):
        routes, count = arm.routes, arm.accuracy.questions
        segments = tuple(
            Segment(
                sanitize(used),
                f"route arm-{arms.index(used) % 8}",
                100 * routes[used] / count,
                f"{sanitize(used)} {routes[used]:,}",
            )
            for used in arms
            if used in routes
        )
        if segments:
            bars.append(StackedBar(sanitize(name), at % 8, segments, f"{count:,}"))
    return bars


def phase_bars(summary: Summary) -> list[StackedBar]:
    """Build bars of prefill and decode joules per question on one scale; empty if unknown."""
    arms = summary.arms
    costs = {name: arm.energy for name, arm in arms.items() if arm.energy is not None}
    if len(costs) < len(arms) or any(cost.prefill_joules is None for cost in costs.values()):
        return []
    most = max((cost.per_question.value for cost in costs.values()), default=0) or 1.0
    bars = []
    for at, (name, cost) in enumerate(costs.items()):
        count = cost.questions
        phases = {"prefill": cost.prefill_joules, "decode": cost.decode_joules}
        shown = cost.kind if cost.kind == units.ESTIMATE else None
        segments = tuple(
            Segment(
                phase,
                f"phase-{phase}",
                100 * joules / count / most,
                units.energy_text(joules / count, None, shown),
            )
            for phase, joules in phases.items()
            if joules and joules > 0
        )
        text = joules_text(cost.per_question, cost.kind)
        bars.append(StackedBar(sanitize(name), at % 8, segments, text))
    return bars


def token_bars(summary: Summary) -> list[StackedBar]:
    """Build bars of tokens per question: reused, computed, thinking, answer; on one scale."""
    parts = []
    for name, arm in summary.arms.items():
        tokens, count = arm.tokens, arm.accuracy.questions
        parts.append(
            (
                name,
                {
                    "reused": tokens.cached / count,
                    "computed": (tokens.computed + tokens.prefix) / count,
                    "thinking": tokens.thinking / count,
                    "answer": (tokens.output - tokens.thinking) / count,
                },
            )
        )
    most = max((sum(means.values()) for _, means in parts), default=0) or 1.0
    return [
        StackedBar(
            sanitize(name),
            at % 8,
            tuple(
                Segment(part, f"tokens-{part}", 100 * mean / most, _mean_text(mean))
                for part, mean in means.items()
                if mean
            ),
            _mean_text(sum(means.values())),
        )
        for at, (name, means) in enumerate(parts)
    ]


def group_marks(summary: Summary) -> list[tuple[str, str, list[GroupMark]]]:
    """Build the groups of MMLU: name, number of questions, and a mark for every arm."""
    found = []
    for group in GROUPS:
        marks, count = [], 0
        for at, (name, arm) in enumerate(summary.arms.items()):
            share = arm.accuracy.groups.get(group)
            if share:
                count = share.questions
                marks.append(_mark(name, at, share.accuracy, *ends(share)))
        if marks:
            found.append((group, f"{count:,}", marks))
    return found


def subject_rows(summary: Summary) -> list[SubjectRow]:
    """Build a row for each subject, with a mark for each arm in the order of the arms."""
    arms = summary.arms
    names = sorted({subject for arm in arms.values() for subject in arm.accuracy.subjects})
    rows = []
    for subject in names:
        marks: list[GroupMark | None] = []
        count = 0
        for at, (name, arm) in enumerate(arms.items()):
            share = arm.accuracy.subjects.get(subject)
            if share is None:
                marks.append(None)
                continue
            count = max(count, share.questions)
            marks.append(_mark(name, at, share.accuracy, *ends(share)))
        rows.append(
            SubjectRow(
                subject=sanitize(subject).replace("_", " "),
                group=find_group(subject) or "",
                questions=count,
                marks=tuple(marks),
            )
        )
    return rows


def build_config_tree(run: RunConfig) -> Node:
    """Build the tree of a run's configuration: the name of its data, and not where that is.

    A page is passed on, and should not show the folders of this machine.
    """
    document = run.to_json()
    if run.data_path is not None:
        document["data_path"] = PurePath(run.data_path).name
    return build_tree(document)


def _describe_arm(name: str, run: RunConfig) -> str:
    """Describe an arm by its model and reasoning method, and a policy by its arms."""
    if run.routed:
        return "policy over " + ", ".join(run.arms)
    arm = run.arms.get(name, {})
    return " · ".join(str(arm[key]) for key in ("model", "reasoning") if arm.get(key))


def _mark(name: str, at: int, value: float, low: float, high: float) -> GroupMark:
    text = units.accuracy_text(value)
    title = f"{sanitize(name)}: {text} ({units.points_text(low, high)})"
    return GroupMark(sanitize(name), at % 8, 100 * value, 100 * low, 100 * high, text, title)


def _mean_text(mean: float) -> str:
    return units.significant(mean, 2) if mean < 10 else f"{mean:,.0f}"


def _join_names(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


_MOST_CHARACTERS = 4000

_MOST_LINES = 80


Texts = Mapping[tuple[str, int], Question]


def questions_json(grouped: Mapping[str, Sequence[Sample]], texts: Texts | None) -> Markup:
    """Build the questions by subject and row, for a ``script`` element.

    Each question is ``[subject, row, right letter, text, choices, answers]``. Each answer (one per
    arm, null if the arm has none) is ``[choice, outcome, joules, seconds, output tokens,
    probabilities, text, arms of the cascade, error]``. Arrays without keys keep the page small,
    since a run may have 14,042 questions.

    Args:
        texts: (subject, row) -> question; None leaves the texts out.
    """
    keys = sorted(
        {(sample.subject, sample.row) for inside in grouped.values() for sample in inside}
    )
    answers = [
        {(sample.subject, sample.row): sample for sample in inside} for inside in grouped.values()
    ]
    rows = []
    for subject, row in keys:
        samples = [inside.get((subject, row)) for inside in answers]
        question = texts.get((subject, row)) if texts else None
        right = next(sample.answer for sample in samples if sample is not None)
        rows.append(
            [
                sanitize(subject),
                row,
                right,
                _short(question.text) if question else None,
                [_short(choice) for choice in question.choices] if question else None,
                [None if sample is None else _answer(sample) for sample in samples],
            ]
        )
    return embed_json(rows)


def _answer(sample: Sample) -> list[Any]:
    probabilities = None
    if sample.logprobs:
        # Whole answers have tiny probabilities, so their shares of the sum are shown.
        alone = sample.letter_mass is None
        top = max(sample.logprobs.values()) if alone else 0.0
        shares = {letter: math.exp(value - top) for letter, value in sample.logprobs.items()}
        whole = sum(shares.values()) if alone else 1.0
        probabilities = [round(shares[letter] / whole, 4) for letter in sorted(shares)]
    return [
        sample.choice,
        OUTCOMES.index(classify_outcome(sample)),
        None if sample.joules is None else float(f"{sample.joules:.3g}"),
        float(f"{sample.seconds:.3g}"),
        sample.tokens.output,
        probabilities,
        _short(sample.text) or None,
        sanitize(" → ".join([*sample.hops, sample.arm])) if sample.hops or sample.rule else None,
        sanitize(sample.error) if sample.error else None,
    ]


def _short(text: str) -> str:
    kept, left_out = shorten(sanitize(text.strip()), _MOST_CHARACTERS, _MOST_LINES)
    return f"{kept} … ({left_out:,} more characters)" if left_out else kept


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


_PACKAGE = "etui.bench"


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
    rows = subject_rows(summary)
    return render_template(
        _PACKAGE,
        script="report.js",
        title=protocol(summary),
        summary=summary,
        chance=describe_chance(summary),
        run=run,
        models=[sanitize(model.name) for model in run.models],
        arms=arm_rows(summary, run),
        machines=machine_rows(summary),
        findings=findings(summary),
        mixture=mixture_sentence(summary),
        charts=[chart.draw_chart(summary, size) for size in (chart.WIDE, chart.NARROW)],
        power_charts=[
            power_chart.draw_power_chart(steps, size, estimate)
            for size in (power_chart.WIDE, power_chart.NARROW)
        ],
        outcomes=outcome_bars(summary),
        routes=route_bars(summary, run),
        route_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(run.arms)],
        phases=phase_bars(summary),
        courses=build_course_rows(summary) if summary.kinds - {None} else [],
        tokens=token_bars(summary),
        groups=group_marks(summary),
        subjects=rows,
        marks=embed_json(to_document([row.marks for row in rows])),
        questions=questions_json(grouped, texts),
        with_texts=texts is not None,
        legend=embed_json({"arms": [sanitize(name) for name in grouped], "outcomes": OUTCOMES}),
        config=build_config_tree(run),
        arm_keys=[(f"arm-{at % 8}", sanitize(name)) for at, name in enumerate(grouped)],
        estimate=estimate,
        precision=precision_lines(summary),
        warnings=[sanitize(text) for text in summary.warnings],
    )
