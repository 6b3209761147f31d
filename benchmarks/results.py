"""The figures of ``docs/results.md`` and the sentences with their numbers, from data in ``data/``.

    python -m benchmarks.results                      draws and writes all of them again
    python -m benchmarks.results --check              exit code 1: the page is not what the data say
    python -m benchmarks.results --take sweep=FILE    takes the output of a run into data/results

Routing is replayed over ``data/outcomes``, votes are read from ``data/seed``: no run is needed. The
others are changes against a way without the feature. ``--take`` keeps of the run's JSON only these
changes and what they are about, in ``data/results/NAME.json``:

    speculation   python -m benchmarks.speculation --only copy,prose --rounds 5 --json
    keep_warm     python -m benchmarks.idle --json
    sweep         etui sweep MODEL --json

Until a run of speculation is taken, its rows are those of the newest line of the history that has
them. A question without data says so on the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.history import FILE, read
from etui.errors import EtuiError
from etui.plots.figure import ARM_COLOURS, Figure, Point
from etui.stats.tests import Interval

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
FOLDER = ROOT / "data" / "results"
OUTCOMES = ROOT / "data" / "outcomes" / "four_models_val.csv"
SEED = ROOT / "data" / "seed" / "table.csv"
ARMS = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
"""The two arms that answered every question of ``OUTCOMES``."""
NO_ANSWER_SHARE = 0.02
"""Arms are not compared in accuracy if their shares without an answer differ by more."""

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one question."""

    lines: tuple[str, ...]  # Sentences for the page
    draw: Callable[[], str] | None = None  # Returns its figure as SVG; None without data


@dataclass(frozen=True, slots=True)
class Change:
    """One case with a feature, against the same case without it."""

    case: str
    group: str  # What changes, or what it is compared with; one colour of the figure
    percent: float  # Less than 0 is less
    low: float | None
    high: float | None

    @property
    def side(self) -> int:
        """-1 if it is less and 1 if it is more, beyond its interval; else 0."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def format(self) -> str:
        """Return the change and its interval."""
        ends = (self.low, self.high)
        known = [f"{end:+z.1f}" for end in ends if end is not None]
        return f"{self.percent:+z.1f} %" + (f" [{', '.join(known)}]" if len(known) == 2 else "")


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of one feature, as ``data/results`` keeps them."""

    about: str  # What was run, where, and what the intervals are
    axis: str  # Name of the horizontal axis
    rows: tuple[Change, ...]


def find_routing() -> Finding:
    """Replay two arms over their graded answers, with the joules of each answer."""
    from etui.learning.cross_fit import cross_fit
    from etui.learning.figure import replay_svg
    from etui.learning.judge import ReplayTable, judge
    from etui.learning.outcomes import read_table

    table, _ = read_table(OUTCOMES).of_arms(ARMS).keep_complete()
    assert table.cost is not None
    replayed = ReplayTable(table.graded, table.cost, "J", ("estimate",))
    document = judge(replayed, cross_fit(table.graded))
    return Finding(tuple(describe_routing(document)), partial(replay_svg, document))


def describe_routing(document: Document) -> Iterator[str]:
    """Say what a replay found of its best router, at the middle between its two arms."""
    arms = " and ".join(
        f"{name} ({100 * arm['accuracy']:.1f} % right for {arm['cost']:.1f} J)"
        for name, arm in document["arms"].items()
    )
    yield f"{document['n']:,} questions of MMLU (val) were answered by {arms}; joules: estimate."
    if document["apgr"] is None:
        yield "No arm is more accurate than the cheapest, so routing cannot pay here."
        return
    over = document["over_mixture"]
    found = Interval(over["value"], over["low"], over["high"], None)
    yield (
        f"**{_judge_gain(found, 'Routing')}**: a router that knows the subject of a question has "
        f"an APGR of {document['apgr']:.3f}, a random choice between the two arms "
        f"{document['mixture']['apgr']:.3f}; it gains {_format_ends(found, '+z.3f')}."
    )
    middle = next(each for each in document["energy"]["at_hull"] if each["kind"] == "middle")
    gain = {key: 100 * value for key, value in middle["difference"].items() if value is not None}
    points = Interval(gain["value"], gain.get("low"), gain.get("high"), None)
    yield (
        f"At {middle['cost']:.1f} J a question it is right on {100 * middle['accuracy']:.1f} %, "
        f"{_format_ends(points, '+z.1f')} points against a random choice for the same joules."
    )


def find_votes() -> Finding:
    """Read what votes and thinking cost and bring from the table of the seed design."""
    with SEED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["machine"] == rows[0]["machine"]]
    return Finding(tuple(describe_votes(rows)), partial(draw_votes, rows))


def describe_votes(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Compare the most votes of each model with its longest single chain of thought."""
    kinds = ", ".join(sorted({row["energy_kind"] for row in rows if row["energy_kind"]}))
    yield (
        f"{rows[0]['questions']} questions of MMLU were answered by every arm of the seed design; "
        f"joules: {kinds or 'unmeasured'}."
    )
    for role in dict.fromkeys(row["role"] for row in rows):
        own = [row for row in rows if row["role"] == role]
        votes, chains = (
            [row for row in own if row["reasoning"] == kind] for kind in ("vote", "cot")
        )
        if votes and chains:
            yield _compare_votes(max(votes, key=_find_size), max(chains, key=_find_size))


def _compare_votes(vote: Mapping[str, str], chain: Mapping[str, str]) -> str:
    count = _find_size(vote)
    joules = [_read(row, "joules_multiple_against_direct") for row in (vote, chain)]
    costs = [
        "unmeasured joules" if each is None else f"{_format_ends(each, '.1f')} times the joules"
        for each in joules
    ]
    head = (
        f"{vote['model']}: {count} votes take {costs[0]} of a direct answer, one chain of thought "
        f"({chain['arm']}) {costs[1]}"
    )
    shares = [int(row["no_answer"]) / int(row["questions"]) for row in (vote, chain)]
    if abs(shares[0] - shares[1]) > NO_ANSWER_SHARE:
        return (
            f"{head}. Their accuracy is not compared: {100 * shares[0]:.1f} and "
            f"{100 * shares[1]:.1f} % of the questions have no answer."
        )
    accuracies = [_read(row, "accuracy") for row in (vote, chain)]
    assert accuracies[0] is not None
    assert accuracies[1] is not None
    gain = subtract(accuracies[0], accuracies[1])
    points = Interval(
        100 * gain.value,
        None if gain.low is None else 100 * gain.low,
        None if gain.high is None else 100 * gain.high,
        None,
    )
    return (
        f"{head}. **{_judge_gain(gain, 'Voting')}**: {_format_ends(points, '+z.1f')} points "
        "against the chain (interval of unpaired shares, wider than a paired one)."
    )


def subtract(one: Interval, other: Interval) -> Interval:
    """Subtract two shares; the interval follows from theirs (Newcombe, Stat. Med. 17, 1998)."""
    if None in (one.low, one.high, other.low, other.high):
        return Interval(one.value - other.value, None, None, None)
    assert one.low is not None
    assert one.high is not None
    assert other.low is not None
    assert other.high is not None
    value = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Interval(value, value - down, value + up, None)


def _judge_gain(gain: Interval, what: str) -> str:
    if gain.low is None or gain.high is None:
        return f"{what} has no interval here"
    if gain.low > 0:
        return f"{what} pays here"
    return f"{what} does not pay here" if gain.high <= 0 else f"Whether {what.lower()} pays is open"


def _format_ends(figure: Interval, form: str) -> str:
    text = f"{figure.value:{form}}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{figure.low:{form}}, {figure.high:{form}}]"


def _find_size(row: Mapping[str, str]) -> int:
    """Return the votes or the budget of an arm, the number at the end of its name."""
    found = re.search(r"(\d+)$", row["arm"])
    return int(found[1]) if found else 0


def _read(row: Mapping[str, str], name: str) -> Interval | None:
    values = [row.get(f"{name}{end}") or None for end in ("", "_low", "_high")]
    value, low, high = (None if each is None else float(each) for each in values)
    return None if value is None else Interval(value, low, high, None)


def draw_votes(rows: Sequence[Mapping[str, str]]) -> str:
    """Draw accuracy against joules: direct answers, chains and votes, a line for each."""
    figure = Figure(7.2, 4.6)
    (panel,) = figure.panels
    for at, role in enumerate(dict.fromkeys(row["role"] for row in rows)):
        colour = ARM_COLOURS[at % len(ARM_COLOURS)]
        for kind, shape in (("direct", "s"), ("cot", "^"), ("vote", "o")):
            own = [r for r in rows if r["role"] == role and r["reasoning"] == kind]
            own = sorted((r for r in own if r["joules_per_question"]), key=_find_size)
            points = [_mark_arm(row, colour, shape, filled=kind != "cot") for row in own]
            if points:
                panel.points(points, f"{role}, {kind}")
                panel.line([p.x for p in points], [p.y for p in points], colour, dashed=True)
    panel.log()
    panel.name_axes("joules per question", "right answers, %", f"{rows[0]['questions']} questions")
    panel.legend(loc="lower right")
    return figure.document()


def _mark_arm(row: Mapping[str, str], colour: str, shape: str, *, filled: bool) -> Point:
    accuracy = _read(row, "accuracy")
    assert accuracy is not None
    low, high = (None if end is None else 100 * end for end in (accuracy.low, accuracy.high))
    size = _find_size(row)
    return Point(
        float(row["joules_per_question"]),
        100 * accuracy.value,
        y_ends=(low, high),
        colour=colour,
        label=str(size) if size else "",
        shape=shape,
        filled=filled,
    )


def take_speculation(document: Document) -> Changes:
    """Take the output of ``python -m benchmarks.speculation --json``."""
    rows = [
        Change(
            one["name"],
            "time",
            100 * (1 / one["speedup"] - 1),
            None if one["high"] is None else 100 * (1 / one["high"] - 1),
            None if one["low"] is None else 100 * (1 / one["low"] - 1),
        )
        for one in document["results"]
    ]
    pairs = min(one["rounds"] for one in document["results"])
    about = (
        "Each case is answered with speculation and without it by turns, the same tokens; "
        f"medians of {pairs} pairs or more, with intervals at 90 % (the range of fewer than five)."
    )
    return Changes(about, "change of the seconds a token, %", tuple(rows))


def read_history() -> Changes | None:
    """Read speculation of the newest line of the history that has it; None without one."""
    for record in reversed(read(FILE)):
        found = {
            name.removeprefix("speculation/"): figure
            for name, figure in record.figures.items()
            if name.startswith("speculation/seconds a token, ")
        }
        if found:
            rows = [
                Change(
                    name.removeprefix("seconds a token, ").removesuffix(" : off"),
                    "time",
                    100 * (figure.value - 1),
                    None if figure.low is None else 100 * (figure.low - 1),
                    None if figure.high is None else 100 * (figure.high - 1),
                )
                for name, figure in found.items()
            ]
            about = (
                f"The quick form of the benchmark ({record.date[:10]}, starter model, "
                f"{min(figure.n for figure in found.values())} pairs of 64 tokens, "
                f"{record.machine.cpu}): medians with intervals at 90 %."
            )
            return Changes(about, "change of the seconds a token, %", tuple(rows))
    return None


def take_keep_warm(document: Document) -> Changes:
    """Take the output of ``python -m benchmarks.idle --json``."""
    rows = [
        Change(
            f"{run['kind']}, {run['machine']}",
            name,
            100 * (one["value"] - 1),
            None if one["low"] is None else 100 * (one["low"] - 1),
            None if one["high"] is None else 100 * (one["high"] - 1),
        )
        for run in document["runs"]
        for name, one in run["against"].items()
    ]
    days = min(run["days"] for run in document["runs"])
    about = (
        "Simulated days of six kinds of users on machines of stated costs (joules of a load, watts "
        f"of a model in memory): joules above cold idle under `keep_warm: auto`, medians of {days} "
        "days or more with intervals at 90 %, against the way that is named."
    )
    return Changes(about, "change of the joules above cold idle, %", tuple(rows))


def take_sweep(document: Document) -> Changes:
    """Take the document of a sweep (``result.json``, or ``etui sweep --json``)."""
    rows = [
        Change(one["setting"], group, change["percent"], change["low"], change["high"])
        for one in document["settings"]
        for group in ("joules", "seconds")
        if (change := one[f"{group}_difference"]) and change["percent"] is not None
    ]
    ended = "" if document["is_complete"] else ", stopped before its end"
    about = (
        f"A sweep of {document['model']}{ended}: {document['blocks']} blocks, "
        f"{document['visits']} visits; joules: {document['kind'] or 'unmeasured'}; "
        f"against `{document['baseline']}`, with intervals at 95 %. "
        f"The sweep's own verdict: {document['verdict']}"
    )
    return Changes(about, "change against the settings in use, %", tuple(rows))


TAKERS: Mapping[str, Callable[[Document], Changes]] = {
    "speculation": take_speculation,
    "keep_warm": take_keep_warm,
    "sweep": take_sweep,
}
"""Question -> reads the JSON of its run."""


def read_changes(name: str) -> Changes | None:
    """Read the changes of ``data/results``; None if no run was taken."""
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        return read_history() if name == "speculation" else None
    document = json.loads(file.read_text(encoding="utf-8"))
    rows = tuple(Change(**row) for row in document["rows"])
    return Changes(document["about"], document["axis"], rows)


def find_changes(name: str) -> Finding:
    """Describe and draw the changes of one feature."""
    found = read_changes(name)
    if found is None or not found.rows:
        return Finding(("*There are no data of this question in the repository yet.*",))
    return Finding((found.about, *describe_changes(found.rows)), partial(draw_changes, found))


def describe_changes(rows: Sequence[Change]) -> Iterator[str]:
    """Count the changes of each group, and name the two ends."""
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        less, more = (sum(row.side == side for row in own) for side in (-1, 1))
        best, worst = min(own, key=_read_percent), max(own, key=_read_percent)
        yield (
            f"**{group.capitalize()}**: less in {less} of {len(own)} cases, more in {more}, no "
            f"difference shown in {len(own) - less - more}; "
            f"from {best.format()} ({best.case}) to {worst.format()} ({worst.case})."
        )


def _read_percent(row: Change) -> float:
    return row.percent


def draw_changes(found: Changes) -> str:
    """Draw a row for each case and a mark for each group."""
    cases = list(dict.fromkeys(row.case for row in found.rows))
    groups = list(dict.fromkeys(row.group for row in found.rows))
    figure = Figure(7.2, 1.2 + 0.34 * len(cases))
    (panel,) = figure.panels
    panel.name_rows(cases)
    panel.guide(x=0.0)
    for at, group in enumerate(groups):
        shift = 0.22 * (at - (len(groups) - 1) / 2)
        panel.points(
            [
                Point(
                    row.percent,
                    cases.index(row.case) + shift,
                    x_ends=(row.low, row.high),
                    colour=ARM_COLOURS[at % len(ARM_COLOURS)],
                    filled=row.side != 0,
                )
                for row in found.rows
                if row.group == group
            ],
            group,
        )
    panel.name_axes(found.axis, "", "filled: beyond its interval")
    if len(groups) > 1:
        panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(groups), borderpad=0)
    return figure.document()


QUESTIONS: Mapping[str, tuple[str, Callable[[], Finding]]] = {
    "routing": ("accuracy against joules of two arms and a router", find_routing),
    "votes": ("accuracy against joules of direct answers, thinking and votes", find_votes),
    **{
        name: (text, partial(find_changes, name))
        for name, text in {
            "speculation": "change of the time a token by speculation",
            "keep_warm": "change of the joules of a day by keep_warm: auto",
            "sweep": "change of joules and time by the settings of a sweep",
        }.items()
    },
}
"""Question -> what its figure shows, and how it is answered from the data."""


def fill_page(page: str, findings: Mapping[str, Finding]) -> str:
    """Put the findings between the two marks of each question."""
    for name, finding in findings.items():
        lines = [*finding.lines]
        if finding.draw is not None:
            lines.append(f"![{QUESTIONS[name][0]}](../data/results/{name}.svg)")
        begin, end = f"<!-- {name}: python -m benchmarks.results -->", f"<!-- end of {name} -->"
        if begin not in page or end not in page:
            raise SystemExit(f"{PAGE.name} has no marks of {name}")
        head, rest = page.split(begin, 1)
        page = "\n\n".join([head + begin, *lines, end + rest.split(end, 1)[1]])
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Take new runs, then write the figures and the page again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--take", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--check", action="store_true", help="write nothing")
    chosen = parser.parse_args(argv)
    for text in chosen.take:
        name, _, file = text.partition("=")
        if name not in TAKERS or not file:
            parser.error(f"--take {text}: use {', '.join(TAKERS)}, as in sweep=result.json")
        try:
            taken = TAKERS[name](json.loads(Path(file).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--take {text}: it is no output of such a run ({error!r})")
        FOLDER.mkdir(parents=True, exist_ok=True)
        written = json.dumps(asdict(taken), indent=1) + "\n"
        (FOLDER / f"{name}.json").write_text(written, encoding="utf-8")
    try:
        findings = {name: find() for name, (_, find) in QUESTIONS.items()}
    except EtuiError as error:
        sys.exit(f"{error.what}\n{error.fix}")
    page = PAGE.read_text(encoding="utf-8")
    filled = fill_page(page, findings)
    if chosen.check:
        return int(filled != page)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, finding in findings.items():
        if finding.draw is not None:
            (FOLDER / f"{name}.svg").write_text(finding.draw(), encoding="utf-8")
    PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
