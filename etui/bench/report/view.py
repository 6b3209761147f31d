"""What the page shows, as plain values with their texts: the template only lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui import units
from etui.bench.groups import GROUPS, group_of
from etui.bench.summary_text import DASH, half_width, interval_text, joules_text, lopsided, lost
from etui.text.sanitize import sanitize

_OUTCOMES = {
    "right": "right",
    "wrong": "wrong",
    "no_answer": "no answer",
    "truncated": "cut off",
    "error": "failed",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: its name, its class in the style sheet, its share of the track, its text."""

    name: str
    class_: str
    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of parts: the arm, its colour, the parts and the text at its end."""

    name: str
    colour: int
    segments: tuple[Segment, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A share with its interval on a track of 0 to 100 %: per cents, and the text."""

    name: str
    colour: int
    value: float
    low: float
    high: float
    text: str
    title: str


def arm_rows(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of arms, one row each."""
    rows = []
    for at, (name, arm) in enumerate(summary["arms"].items()):
        accuracy, energy = arm["accuracy"], arm["energy"]
        micro, mass = accuracy["micro"], accuracy["letter_mass"]
        kind = energy and energy["kind"]
        watts = energy and energy["mean_watts"]
        labelled = accuracy["labelled"] or {}
        clean = labelled.get("clean")
        rows.append(
            {
                "name": sanitize(name),
                "colour": at % 8,
                "way": sanitize(_way(name, config)),
                "micro": _mark(name, at, micro["value"], micro["low"], micro["high"]),
                "interval": f"CI {interval_text(micro)}",
                "macro": units.accuracy_text(accuracy["macro"]["value"]),
                "questions": f"{accuracy['questions']:,}",
                "energy": units.UNMEASURED if energy is None else "",
                "per_question": joules_text(energy and energy["per_question"], kind),
                "per_correct": joules_text(energy and energy["per_correct"], kind),
                "per_token": joules_text(energy and energy["per_output_token"], kind),
                "watts": units.watts_text(watts["value"], kind) if watts else DASH,
                "seconds": units.seconds_text(arm["seconds"] / accuracy["questions"]),
                "mass": f"{mass['mean']:.2f}" if mass else DASH,
                "lost": units.percent_text(lost(accuracy) / accuracy["questions"]),
                "clean": units.accuracy_text(clean["accuracy"]) if clean else DASH,
                "clean_title": f"{interval_text(clean)}, n={clean['questions']:,}" if clean else "",
            }
        )
    return rows


def findings(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What stands out: a label, a figure, and a line on it."""
    arms = summary["arms"]
    if not arms:
        return []
    found = []
    top = max(arms, key=lambda name: arms[name]["accuracy"]["micro"]["value"])
    micro = arms[top]["accuracy"]["micro"]
    several = len(arms) > 1
    found.append(
        (
            "Most accurate" if several else "Accuracy",
            units.accuracy_text(micro["value"]),
            f"{sanitize(top) + ', ' if several else ''}95 % CI {interval_text(micro)}",
        )
    )
    costs = {name: arm["energy"] for name, arm in arms.items() if arm["energy"] is not None}
    priced = {name: cost for name, cost in costs.items() if cost["per_correct"] is not None}
    if priced:
        name = min(priced, key=lambda name: float(priced[name]["per_correct"]["value"]))
        label = "Cheapest right answer" if several else "A right answer"
        found.append(_cost_finding(label, name, priced, "per_correct", several))
    if costs:
        name = min(costs, key=lambda name: float(costs[name]["per_question"]["value"]))
        label = "Cheapest question" if several else "A question"
        found.append(_cost_finding(label, name, costs, "per_question", several))
        if not several and costs[name]["mean_watts"]:
            watts = costs[name]["mean_watts"]
            text = units.watts_text(watts["value"], costs[name]["kind"])
            found.append(("Mean power", text, f"over {units.seconds_text(arms[name]['seconds'])}"))
    else:
        found.append(("Energy", units.UNMEASURED, "no power channel was readable"))
    best = summary["oracle"]
    if best is not None:
        found.append(
            (
                "Oracle",
                units.accuracy_text(best["accuracy"]),
                "if the cheapest right arm were always known",
            )
        )
    return found


def _cost_finding(
    label: str, name: str, costs: Mapping[str, Any], key: str, several: bool
) -> tuple[str, str, str]:
    cost = costs[name]
    figure, kind = cost[key], cost["kind"]
    shown = kind if kind == units.ESTIMATE else None
    text = units.energy_text(figure["value"], None, shown)
    half = half_width(figure)
    spread = "" if half is None else f"± {units.significant(half, 2)} J, "
    if lopsided(figure):
        ends = (units.significant(figure[end], 2) for end in ("low", "high"))
        spread = f"{'-'.join(ends)} J, "
    return label, text, f"{sanitize(name) + ', ' if several else ''}{spread}{kind}"


def mixture_sentence(summary: Mapping[str, Any]) -> str:
    """Which arms a coin between two others beats at the same joules; empty if there is none."""
    on, arms = summary["hull"], summary["arms"]
    off = [sanitize(name) for name in arms if name not in on]
    if not on or not off:
        return ""
    verb, it = ("lies", "it") if len(off) == 1 else ("lie", "them")
    if len(on) == 1:
        return (
            f"{_and(off)} {verb} below {sanitize(on[0])}, which costs less and answers at least as "
            "much."
        )
    return (
        f"{_and(off)} {verb} below the line: choosing at random between "
        f"{_and([sanitize(name) for name in on])} answers more than {it} for the same joules."
    )


def outcome_bars(summary: Mapping[str, Any]) -> list[Bar]:
    """Right, wrong and lost answers of each arm."""
    bars = []
    for at, (name, arm) in enumerate(summary["arms"].items()):
        accuracy = arm["accuracy"]
        segments = tuple(
            Segment(
                _OUTCOMES[outcome],
                f"outcome-{outcome.replace('_', '-')}",
                100 * count / accuracy["questions"],
                f"{count:,}",
            )
            for outcome, count in accuracy["outcomes"].items()
            if count
        )
        bars.append(Bar(sanitize(name), at % 8, segments, f"{accuracy['questions']:,}"))
    return bars


def route_bars(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Bar]:
    """Of a policy's run: which arm gave the answers, by share; else empty."""
    bars = []
    arms = list(config["arms"])
    for at, (name, arm) in enumerate(summary["arms"].items()):
        routes, count = arm["routes"], arm["accuracy"]["questions"]
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
            bars.append(Bar(sanitize(name), at % 8, segments, f"{count:,}"))
    return bars


def phase_bars(summary: Mapping[str, Any]) -> list[Bar]:
    """Joules a question in prefill and decode, all on one scale; empty where phases are unknown."""
    arms = summary["arms"]
    costs = {name: arm["energy"] for name, arm in arms.items()}
    if any(cost is None or cost["prefill_joules"] is None for cost in costs.values()):
        return []
    most = max((cost["per_question"]["value"] for cost in costs.values()), default=0) or 1.0
    bars = []
    for at, (name, cost) in enumerate(costs.items()):
        count = cost["questions"]
        phases = {"prefill": cost["prefill_joules"], "decode": cost["decode_joules"]}
        shown = cost["kind"] if cost["kind"] == units.ESTIMATE else None
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
        text = joules_text(cost["per_question"], cost["kind"])
        bars.append(Bar(sanitize(name), at % 8, segments, text))
    return bars


def token_bars(summary: Mapping[str, Any]) -> list[Bar]:
    """Tokens a question: reused, computed, thought and answered, all on one scale."""
    parts = []
    for name, arm in summary["arms"].items():
        tokens, count = arm["tokens"], arm["accuracy"]["questions"]
        parts.append(
            (
                name,
                {
                    "reused": tokens["cached"] / count,
                    "computed": (tokens["computed"] + tokens["prefix"]) / count,
                    "thought": tokens["thinking"] / count,
                    "answer": (tokens["output"] - tokens["thinking"]) / count,
                },
            )
        )
    most = max((sum(means.values()) for _, means in parts), default=0) or 1.0
    return [
        Bar(
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


def group_marks(summary: Mapping[str, Any]) -> list[tuple[str, str, list[Mark]]]:
    """The groups of MMLU: name, number of questions, and a mark for every arm."""
    found = []
    for group in GROUPS:
        marks, count = [], 0
        for at, (name, arm) in enumerate(summary["arms"].items()):
            share = arm["accuracy"]["groups"].get(group)
            if share:
                count = share["questions"]
                marks.append(_mark(name, at, share["accuracy"], share["low"], share["high"]))
        if marks:
            found.append((group, f"{count:,}", marks))
    return found


def subject_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every subject with a mark for each arm, in the order of the arms."""
    arms: Mapping[str, Any] = summary["arms"]
    names = sorted({subject for arm in arms.values() for subject in arm["accuracy"]["subjects"]})
    rows = []
    for subject in names:
        marks: list[Mark | None] = []
        count = 0
        for at, (name, arm) in enumerate(arms.items()):
            share = arm["accuracy"]["subjects"].get(subject)
            if share is None:
                marks.append(None)
                continue
            count = max(count, share["questions"])
            marks.append(_mark(name, at, share["accuracy"], share["low"], share["high"]))
        rows.append(
            {
                "subject": sanitize(subject).replace("_", " "),
                "group": group_of(subject) or "",
                "questions": count,
                "marks": marks,
            }
        )
    return rows


def tree(value: Any, name: str = "") -> dict[str, Any]:
    """A configuration as names, texts and inner lists; long lists of numbers are folded."""
    if isinstance(value, Mapping):
        inner = [tree(item, str(key)) for key, item in value.items()]
        return {"name": sanitize(name), "items": inner, "text": f"{len(inner)} entries"}
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        inner = [tree(item, str(at + 1)) for at, item in enumerate(value)]
        return {"name": sanitize(name), "items": inner, "text": f"{len(inner)} entries"}
    if isinstance(value, list | tuple):
        text = ", ".join(str(item) for item in value)
    else:
        text = DASH if value is None else str(value)
    return {"name": sanitize(name), "items": None, "text": sanitize(text)}


def _way(name: str, config: Mapping[str, Any]) -> str:
    """The model and way of reasoning of an arm; of a policy, its arms."""
    if config["routed"]:
        return "policy over " + ", ".join(config["arms"])
    arm = config["arms"].get(name, {})
    return " · ".join(str(arm[key]) for key in ("model", "reasoning") if arm.get(key))


def _mark(name: str, at: int, value: float, low: float, high: float) -> Mark:
    text = units.accuracy_text(value)
    title = f"{sanitize(name)}: {text} ({units.points_text(low, high)})"
    return Mark(sanitize(name), at % 8, 100 * value, 100 * low, 100 * high, text, title)


def _mean_text(mean: float) -> str:
    return units.significant(mean, 2) if mean < 10 else f"{mean:,.0f}"


def _and(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
