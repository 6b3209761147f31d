"""HTML report of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

from markupsafe import Markup

from etui import units
from etui.bench import summary_text
from etui.bench.accuracy import OUTCOMES, RightShare, classify_outcome
from etui.bench.config import RunConfig
from etui.bench.cost import Cost, CostFigure
from etui.bench.figures import draw_accuracy_joules, draw_power
from etui.bench.machines import join_words
from etui.bench.precision import describe_precision
from etui.bench.sample import Sample
from etui.bench.summary import ArmSummary, Summary, group_by_system
from etui.codec import to_document
from etui.datasets.mmlu import GROUPS, find_group
from etui.datasets.questions import Question
from etui.extras import has_extra
from etui.measure.page import ConfigNode, build_tree, embed_json, render_template
from etui.plots import figure as plots
from etui.plots.figure import NO_FIGURE
from etui.stats.tests import Interval
from etui.text import sanitize, shorten

_MOST_CHARACTERS = 4000
_MOST_LINES = 80
_OUTCOMES = {"no_answer": "no answer", "truncated": "cut off", "error": "failed"}
"""Outcome -> its words, where they differ."""
Texts = Mapping[tuple[str, int], Question]


class Segment(NamedTuple):
    """A part of a bar: its name, CSS class, value (in percent of the track once drawn), text."""

    name: str
    class_: str
    percent: float
    text: str


class StackedBar(NamedTuple):
    """A stacked bar: the arm, its colour, the segments and the text at the end."""

    name: str
    colour: int
    segments: list[Segment]
    text: str


@dataclass(frozen=True, slots=True)
class AccuracyMark:
    """A share with its interval in percent on a track of 0 to 100 %, and its text."""

    name: str
    colour: int
    value: float
    low: float
    high: float
    text: str
    title: str


def render_page(
    summary: Summary, run: RunConfig, samples: Sequence[Sample], texts: Texts | None = None
) -> str:
    """Render ``report.html``, a single file that loads nothing from the network or the disk.

    ``texts``: (subject, row) -> question; None if the texts are not available.
    """
    grouped = group_by_system(samples, run)
    subjects = _list_subjects(summary)
    return render_template(
        "etui.bench",
        script="report.js",
        title=summary_text.describe_answer(summary),
        protocol=summary_text.protocol(summary),
        summary=summary,
        run=run,
        arms=[(at % 8, name, arm) for at, (name, arm) in enumerate(summary.arms.items())],
        chance=summary_text.describe_chance(summary),
        findings=list_findings(summary),
        mixture=describe_mixture(summary),
        chart=_render(
            partial(draw_accuracy_joules, summary),
            f"Accuracy against joules per question: {', '.join(summary.arms)}",
        ),
        power=_render(
            partial(draw_power, summary, run, samples),
            f"Watts over time: {', '.join(summary.arms)}",
        ),
        outcomes=_stack_outcomes(summary),
        routes=_stack_routes(summary, run),
        phases=_stack_phases(summary),
        courses=summary_text.build_cost_over_time_rows(summary) if summary.kinds - {None} else [],
        tokens=_stack_tokens(summary),
        groups=_list_groups(summary),
        subjects=subjects,
        marks=embed_json(to_document([marks for _, _, _, marks in subjects])),
        questions=questions_json(grouped, texts),
        with_texts=texts is not None,
        legend=embed_json({"arms": [sanitize(name) for name in grouped], "outcomes": OUTCOMES}),
        config=build_config_tree(run),
        estimate=units.ESTIMATE in summary.kinds,
        precision=describe_precision(summary.precision) if summary.precision else [],
        units=units,
        text={**summary_text.TEXTS, "describe_arm": describe_arm, "mark": build_mark},
    )  # fmt: skip


def _render(draw: Callable[[], plots.Figure | None], name: str) -> Markup | None:
    if not has_extra("figures"):
        return NO_FIGURE
    figure = draw()
    return None if figure is None else figure.svg(sanitize(name))


def describe_arm(name: str, run: RunConfig) -> str:
    """Describe an arm by its model and reasoning method, and a policy by its arms."""
    if run.routed:
        return "policy over " + ", ".join(run.arms)
    arm = run.arms.get(name, {})
    return " · ".join(str(arm[key]) for key in ("model", "reasoning") if arm.get(key))


def build_mark(name: str, colour: int, figure: Interval | RightShare) -> AccuracyMark:
    """Build the mark of an accuracy."""
    value = figure.accuracy if isinstance(figure, RightShare) else figure.value
    low, high = summary_text.ends(figure)
    text = units.accuracy_text(value)
    title = f"{sanitize(name)}: {text} ({units.points_text(low, high)})"
    return AccuracyMark(sanitize(name), colour % 8, 100 * value, 100 * low, 100 * high, text, title)


def list_findings(summary: Summary) -> list[tuple[str, str, str]]:
    """List the key results, each as label, figure and note."""
    arms = summary.arms
    if not arms:
        return []
    top = max(arms, key=lambda name: arms[name].accuracy.micro.value)
    micro = arms[top].accuracy.micro
    several = len(arms) > 1
    named = f"{top}, " if several else ""
    label = "Most accurate" if several else "Accuracy"
    note = f"{named}95 % CI {summary_text.interval_text(micro)}"
    found = [(label, units.accuracy_text(micro.value), note)]
    costs = {name: arm.energy for name, arm in arms.items() if arm.energy is not None}
    per_correct = {name: cost.per_correct for name, cost in costs.items() if cost.per_correct}
    if per_correct:
        label = "Cheapest right answer" if several else "A right answer"
        found.append(_find_cheapest(label, per_correct, costs, several))
    if costs:
        label = "Cheapest question" if several else "A question"
        per_question = {name: cost.per_question for name, cost in costs.items()}
        found.append(_find_cheapest(label, per_question, costs, several))
        name, cost = next(iter(costs.items()))
        if not several and cost.mean_watts:
            text = units.watts_text(cost.mean_watts.value, cost.kind)
            found.append(("Mean power", text, f"over {units.seconds_text(arms[name].seconds)}"))
    else:
        by_machine = any(arm.machines for arm in arms.values())
        note = "the machines are not equal" if by_machine else "no readable power channel"
        found.append(("Energy", summary_text.missing_energy_text(arms[top]), note))
    if summary.oracle is not None:
        note = "with the cheapest correct arm for each question"
        found.append(("Oracle", units.accuracy_text(summary.oracle.accuracy), note))
    return found


def _find_cheapest(
    label: str, figures: Mapping[str, CostFigure], costs: Mapping[str, Cost], several: bool
) -> tuple[str, str, str]:
    name = min(figures, key=lambda name: figures[name].value)
    figure, kind = figures[name], costs[name].kind
    shown = kind if kind == units.ESTIMATE else None
    half = figure.half_width
    parts = [] if half is None else [f"± {units.significant(half, 2)} J"]
    if figure.low is not None and figure.high is not None and summary_text.is_lopsided(figure):
        low, high = (units.significant(end, 2) for end in (figure.low, figure.high))
        parts = [f"{low}-{high} J"]
    text = units.energy_text(figure.value, None, shown)
    # The mark of an estimate is enough: the page says once what it means.
    parts = [*([name] if several else []), *parts, *([kind] if kind and not shown else [])]
    return label, text, ", ".join(parts)


def describe_mixture(summary: Summary) -> str:
    """Name the arms that are worse than a random mixture of others; empty if there are none."""
    on = summary.hull
    off = [name for name in summary.arms if name not in on]
    if not on or not off:
        return ""
    below = f"{join_words(off)} {'is' if len(off) == 1 else 'are'} below"
    if len(on) == 1:
        return f"{below} {on[0]}, which costs less and gets at least as many answers right."
    return (
        f"{below} the line: choosing at random between {join_words(on)} gets more answers right "
        "for the same joules."
    )


def _stack(
    rows: Sequence[tuple[str, list[Segment], str]], most: float | None = None
) -> list[StackedBar]:
    """Stack segments, in percent of ``most``; None is the sum of each bar."""
    bars = []
    for at, (name, segments, text) in enumerate(rows):
        whole = most or sum(one.percent for one in segments) or 1.0
        scaled = [
            one._replace(percent=100 * one.percent / whole) for one in segments if one.percent > 0
        ]
        bars.append(StackedBar(name, at % 8, scaled, text))
    return bars


def _stack_counts(
    summary: Summary, build: Callable[[ArmSummary], list[Segment]]
) -> list[StackedBar]:
    arms = summary.arms.items()
    return _stack([(name, build(arm), f"{arm.accuracy.questions:,}") for name, arm in arms])


def _stack_outcomes(summary: Summary) -> list[StackedBar]:
    def build(arm: ArmSummary) -> list[Segment]:
        return [
            Segment(_OUTCOMES.get(each, each), f"outcome-{each.replace('_', '-')}", n, f"{n:,}")
            for each, n in arm.accuracy.outcomes.items()
        ]

    return _stack_counts(summary, build)


def _stack_routes(summary: Summary, run: RunConfig) -> list[StackedBar]:
    """Stack the arms that answered in a policy run; none in other runs."""

    def build(arm: ArmSummary) -> list[Segment]:
        counts = [(at, used, arm.routes.get(used, 0)) for at, used in enumerate(run.arms)]
        return [Segment(used, f"route arm-{at % 8}", n, f"{used} {n:,}") for at, used, n in counts]

    return [bar for bar in _stack_counts(summary, build) if bar.segments]


def _stack_phases(summary: Summary) -> list[StackedBar]:
    """Stack prefill and decode joules per question on one scale; empty if unknown."""
    costs = {name: arm.energy for name, arm in summary.arms.items() if arm.energy is not None}
    if len(costs) < len(summary.arms) or any(one.prefill_joules is None for one in costs.values()):
        return []
    rows = []
    for name, cost in costs.items():
        shown = cost.kind if cost.kind == units.ESTIMATE else None
        segments = []
        for phase, joules in (("prefill", cost.prefill_joules), ("decode", cost.decode_joules)):
            each = (joules or 0.0) / cost.questions
            text = units.energy_text(each, None, shown)
            segments.append(Segment(phase, f"phase-{phase}", each, text))
        rows.append((name, segments, summary_text.joules_text(cost.per_question, cost.kind)))
    most = max((cost.per_question.value for cost in costs.values()), default=0.0)
    return _stack(rows, most)


def _stack_tokens(summary: Summary) -> list[StackedBar]:
    """Stack tokens per question on one scale: reused, computed, thinking, answer."""
    rows = []
    for name, arm in summary.arms.items():
        tokens, count = arm.tokens, arm.accuracy.questions
        means = {
            "reused": tokens.cached / count,
            "computed": (tokens.computed + tokens.prefix) / count,
            "thinking": tokens.thinking / count,
            "answer": (tokens.output - tokens.thinking) / count,
        }
        segments = [
            Segment(part, f"tokens-{part}", mean, _mean_text(mean)) for part, mean in means.items()
        ]
        rows.append((name, segments, _mean_text(sum(means.values()))))
    most = max((sum(one.percent for one in parts) for _, parts, _ in rows), default=0.0)
    return _stack(rows, most)


def _mean_text(mean: float) -> str:
    return f"{mean:,.0f}" if mean >= 10 else units.significant(mean, 2)


def _list_groups(summary: Summary) -> list[tuple[str, int, list[AccuracyMark]]]:
    """List the groups of MMLU: name, number of questions, and a mark for every arm."""
    found = []
    for group in GROUPS:
        shares = [
            (at, name, share)
            for at, (name, arm) in enumerate(summary.arms.items())
            if (share := arm.accuracy.groups.get(group))
        ]
        if shares:
            marks = [build_mark(name, at, share) for at, name, share in shares]
            found.append((group, shares[-1][2].questions, marks))
    return found


def _list_subjects(summary: Summary) -> list[tuple[str, str, int, list[AccuracyMark | None]]]:
    """List the subjects: name, group, number of questions, and a mark or None for each arm."""
    found = []
    arms = summary.arms
    for subject in sorted({name for arm in arms.values() for name in arm.accuracy.subjects}):
        shares = [arm.accuracy.subjects.get(subject) for arm in arms.values()]
        marks = [
            None if share is None else build_mark(name, at, share)
            for at, (name, share) in enumerate(zip(arms, shares, strict=True))
        ]
        count = max(share.questions for share in shares if share is not None)
        found.append((subject.replace("_", " "), find_group(subject) or "", count, marks))
    return found


def build_config_tree(run: RunConfig) -> ConfigNode:
    """Build the tree of a run's configuration: the name of its data, and not where that is.

    A page is passed on, and should not show the folders of this machine.
    """
    document = run.to_json()
    if run.data_path is not None:
        document["data_path"] = PurePath(run.data_path).name
    return build_tree(document)


def questions_json(grouped: Mapping[str, Sequence[Sample]], texts: Texts | None) -> Markup:
    """Build the questions by subject and row, for a ``script`` element.

    Each question is ``[subject, row, right letter, text, choices, answers]``. Each answer (one per
    arm, null if the arm has none) is ``[choice, outcome, joules, seconds, output tokens,
    probabilities, text, arms of the cascade, error]``. Arrays without keys keep the page small,
    since a run may have 14,042 questions.

    ``texts``: (subject, row) -> question; None leaves the texts out.
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
