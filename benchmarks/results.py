"""The figures of ``docs/results.md`` and the sentences with their numbers, from data in ``data/``.

    python -m benchmarks.results                      draws and writes all of them again
    python -m benchmarks.results --check              exit code 1: the page is not what the data say
    python -m benchmarks.results --take sweep=FILE    takes the output of a run into data/results

Routing is replayed over ``data/outcomes``, votes are judged from the answers in ``data/seed``: no
run is needed. The next three are changes against a way without the feature. ``--take`` keeps of the
run's JSON only these changes and what they are about, in ``data/results/NAME.json``:

    speculation   python -m benchmarks.speculation --only copy,prose --rounds 5 --json
    keep_warm     python -m benchmarks.idle --json
    sweep         etui sweep MODEL --json

Comparisons with lm-eval are the files ``data/results/lm_eval-*.json``, each the output of ``python
-m benchmarks.lm_eval_sides MODEL --json``. A question without data says so on the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.lm_eval_sides import KINDS, TIE_NATS
from etui.bench.machines import join_words
from etui.errors import EtuiError
from etui.plots.figure import ARM_COLOURS, Figure, Point

if TYPE_CHECKING:
    from etui.design.analysis import DesignAnalysis

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
FOLDER = ROOT / "data" / "results"
OUTCOMES = ROOT / "data" / "outcomes" / "four_models_val.csv"
SEED = ROOT / "data" / "seed"
ARMS = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
"""The two arms that answered every question of ``OUTCOMES``."""
NO_ANSWER_SHARE = 0.02
"""Arms are not compared in accuracy if their shares without an answer differ by more."""
NO_DATA = "*There are no data of this question in the repository yet.*"

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one question."""

    lines: tuple[str, ...]  # Sentences for the page
    draw: Callable[[], str] | None = None  # Returns its figure as SVG; None without data
    picture: str | None = None  # Path from the page of a figure that another command draws


@dataclass(frozen=True, slots=True)
class Change:
    """One case with a feature, against the same case without it."""

    case: str
    group: str  # What changes, or what it is compared with; one colour of the figure
    percent: float  # Less than 0 is less
    low: float | None
    high: float | None
    is_claimed: bool = True  # False: the run itself claims no difference here

    @property
    def side(self) -> int:
        """-1 if it is less and 1 if it is more, beyond its interval; else 0."""
        if not self.is_claimed or self.low is None or self.high is None:
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
    from etui.learning.figure import replay_svg
    from etui.learning.judge import ReplayTable, judge
    from etui.learning.outcomes import read_table
    from etui.learning.policy_replay import cross_fit

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
    yield (
        f"{document['n']:,} questions of MMLU (val) were answered by {arms}; guessing is right on "
        "25 %; joules: estimate."
    )
    if document["apgr"] is None:
        yield "No arm is more accurate than the cheapest, so routing cannot pay here."
        return
    over = document["over_mixture"]
    yield (
        f"**{_judge_gain(over, 'Routing')}**: a router that knows the subject of a question, "
        f"fitted on other questions, reaches {document['apgr']:.3f} of the larger model's gain, in "
        "the mean over all shares of the questions that may go to it (APGR); a random choice "
        f"reaches {document['mixture']['apgr']:.3f}. The difference is "
        f"{_format_spread(over, '+z.3f')}."
    )
    middle = next(each for each in document["energy"]["at_hull"] if each["kind"] == "middle")
    points = _format_spread(middle["difference"], "+z.1f", 100)
    saved = middle["saved"]
    fewer = "" if saved is None else (
        f" It takes {_format_spread(saved, 'z.0f', 100)} % fewer joules than a random choice that "
        "is right as often."
    )  # fmt: skip
    yield (
        f"At {middle['cost']:.1f} J a question it is right on {100 * middle['accuracy']:.1f} %, "
        f"{points} points against a random choice for the same joules.{fewer}"
    )


def find_votes() -> Finding:
    """Compare the arms of the seed design with votes with mixtures of those without."""
    from etui.bench.folder import read_run
    from etui.design.analysis import analyse
    from etui.design.load import design_of_run

    recorded = read_run(SEED)
    roles = design_of_run(recorded.config).models
    found = analyse(recorded.config, recorded.samples, {}, roles)
    lines = tuple(describe_votes(found, compare_votes(found)))
    return Finding(lines, picture="../data/seed/figures/accuracy_joules.svg")


def compare_votes(found: DesignAnalysis) -> dict[str, Document]:
    """Compare each arm with votes with the best mixture of the others for no more joules.

    Returns:
        Label of the arm -> its comparison, as in the document of a replay. Only questions of which
        every arm has joules count.
    """
    from etui.learning.graded import Graded
    from etui.learning.judge import against_mixture

    paired = found.paired
    correct, joules = paired.correct[paired.measured] > 0, paired.joules[paired.measured]
    arms = paired.layout.strategies
    votes = [at for at, one in enumerate(arms) if one.reasoning == "vote"]
    others = [at for at in range(len(arms)) if at not in votes]
    keys = [key for key, kept in zip(paired.keys, paired.measured.tolist(), strict=True) if kept]
    if not (votes and others and keys):
        return {}
    graded = Graded(
        tuple(arms[at].label for at in others),
        tuple(subject for subject, _ in keys),
        tuple(row for _, row in keys),
        (),
        correct[:, others],
    )
    chosen = [(correct[:, at], joules[:, at]) for at in votes]
    compared = against_mixture(chosen, graded, joules[:, others], found.config.seed)
    return {arms[at].label: one for at, one in zip(votes, compared, strict=True)}


def describe_votes(found: DesignAnalysis, gains: Mapping[str, Document]) -> Iterator[str]:
    """Say whether votes are worth their joules, and what each arm with votes gains."""
    shares = [one.lost / one.questions for one in found.arms]
    if not gains or not shares:
        yield NO_DATA
        return
    config = found.config
    models = join_words([f"{model} ({role})" for role, model in found.layout.roles.items()])
    ends = dict.fromkeys(f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    yield (
        f"{len(found.paired)} questions of MMLU ({config.split}) were answered by all "
        f"{len(found.arms)} arms of the seed design with {models}, on {config.started_at[:10]} "
        f"({config.machine.get('name', 'unknown machine')}). {' to '.join(ends)} % of the "
        f"questions have no answer; joules: {found.kind or 'unmeasured'}."
    )
    if max(shares) - min(shares) > NO_ANSWER_SHARE + 1e-12:
        yield "The arms are not compared, since these shares differ by more than two points."
        return
    sides = {name: _find_side(one["difference"]) for name, one in gains.items()}
    above = [name for name, side in sides.items() if side > 0]
    below = sum(side < 0 for side in sides.values())
    head = "No votes are shown to pay here"
    if above:
        head = f"Votes pay here with {join_words(above)}"
    elif below == len(sides):
        head = "Votes do not pay here"
    yield (
        f"**{head}**: against the best random choice between the arms without votes for no more "
        f"joules, {len(above)} of {len(sides)} arms with votes get more right and {below} fewer; "
        f"of {len(sides) - len(above) - below} no difference is shown (intervals at 95 % for each "
        "arm)."
    )
    yield "\n".join(
        f"- {name}: {100 * one['accuracy']:.1f} % right for {one['cost']:.1f} J a question, "
        f"{_format_spread(one['difference'], '+z.1f', 100)} points"
        for name, one in gains.items()
    )


def _find_side(spread: Document) -> int:
    """Return 1 or -1 if a difference is above or below 0 beyond its interval, else 0."""
    low, high = spread["low"], spread["high"]
    return 1 if low is not None and low > 0 else -1 if high is not None and high < 0 else 0


def _judge_gain(gain: Document, what: str) -> str:
    side = _find_side(gain)
    if not side:
        return f"Whether {what.lower()} pays is open"
    return f"{what} pays here" if side > 0 else f"{what} does not pay here"


def _format_spread(spread: Document, form: str, scale: float = 1.0) -> str:
    """Format a value and its interval, as far as both ends are known."""
    text = f"{scale * spread['value']:{form}}"
    if spread["low"] is None or spread["high"] is None:
        return text
    return f"{text} [{scale * spread['low']:{form}}, {scale * spread['high']:{form}}]"


def take_speculation(document: Document) -> Changes:
    """Take the output of ``python -m benchmarks.speculation --json``."""
    results = document["results"]
    rows = [
        Change(
            one["name"],
            "time",
            100 * (1 / one["speedup"] - 1),
            None if one["high"] is None else 100 * (1 / one["high"] - 1),
            None if one["low"] is None else 100 * (1 / one["low"] - 1),
        )
        for one in results
    ]
    pairs, diverged = sum(one["rounds"] for one in results), sum(one["diverged"] for one in results)
    about = (
        "Each case is answered with speculation and without it by turns, greedy "
        f"({document['date']}, {document['machine']}): the time of a token after the first one, "
        f"medians of {min(one['rounds'] for one in results)} pairs or more with intervals at 90 % "
        "(of fewer than five pairs their range). "
    )
    about += (
        f"The two texts of {diverged} of {pairs} pairs part at a tie of two tokens."
        if diverged
        else f"The two texts of each of the {pairs} pairs are equal."
    )
    return Changes(about, "change of the seconds a token, %", tuple(rows))


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
        Change(
            one["setting"],
            group,
            change["percent"],
            change["low_percent"],
            change["high_percent"],
            change["is_claimed"],
        )
        for one in document["settings"]
        for group in ("joules", "seconds")
        if (change := one[f"{group}_difference"]) and change["percent"] is not None
    ]
    machine = document["provenance"].get("machine", "unknown machine")
    ended = "" if document["is_complete"] else ", stopped before its end"
    about = (
        f"A sweep of {document['model']}{ended} ({document['created'][:10]}, {machine}): "
        f"{document['blocks']} blocks, {document['visits']} visits; "
        f"joules: {document['kind'] or 'unmeasured'}; against `{document['baseline']}`, with "
        "intervals at 95 % for each setting. Less and more are what the sweep claims beyond its "
        f"noise; its verdict: {document['verdict']}. Its notes: {'; '.join(document['notes'])}."
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
        return None
    document = json.loads(file.read_text(encoding="utf-8"))
    rows = tuple(Change(**row) for row in document["rows"])
    return Changes(document["about"], document["axis"], rows)


def find_changes(name: str) -> Finding:
    """Describe and draw the changes of one feature."""
    found = read_changes(name)
    if found is None or not found.rows:
        return Finding((NO_DATA,))
    return Finding((found.about, *describe_changes(found.rows)), partial(draw_changes, found))


def describe_changes(rows: Sequence[Change]) -> Iterator[str]:
    """Count the changes of each group, and name the two ends."""
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        less, more = (sum(row.side == side for row in own) for side in (-1, 1))
        ordered = sorted(own, key=attrgetter("percent"))
        yield (
            f"**{group.capitalize()}**: less in {less} of {len(own)} cases, more in {more}, no "
            f"difference shown in {len(own) - less - more}; "
            f"from {ordered[0].format()} ({ordered[0].case}) to {ordered[-1].format()} "
            f"({ordered[-1].case})."
        )


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
    panel.name_axes(found.axis, "", "filled: a difference is shown")
    if len(groups) > 1:
        panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(groups), borderpad=0)
    return figure.document()


def find_lm_eval() -> Finding:
    """Read the comparisons of the answers of etui with those of lm-eval."""
    files = sorted(FOLDER.glob("lm_eval-*.json"))
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return Finding(tuple(describe_sides(one) for one in documents) or (NO_DATA,))


def describe_sides(document: Document) -> str:
    """Say how many answers are equal, and of what kind the others are."""
    share, bench, other = (
        f"{_format_spread(document[name], '.1f', 100)} %"
        for name in ("share", "bench_right", "lm_eval_right")
    )
    kinds = [f"{count} x {KINDS[kind]}" for kind, count in document["kinds"].items()]
    apart = document["questions"] - document["equal"]
    return (
        f"{document['model']}, {document['questions']} questions of MMLU, {document['shots']} "
        f"worked examples: **the same letter in {document['equal']}**, {share}; right: "
        f"`etui bench` {bench}, lm-eval {other}. The log-probabilities of all letters "
        f"are within {TIE_NATS} nats in {document['near']}, and {document['largest_nats']:.2f} "
        "nats apart at most." + (f" The other {apart}: {'; '.join(kinds)}." if kinds else "")
    )


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
    "lm_eval": ("", find_lm_eval),
}
"""Question -> what its figure shows, and how it is answered from the data."""


def fill_page(page: str, findings: Mapping[str, Finding]) -> str:
    """Put the findings between the two marks of each question."""
    for name, finding in findings.items():
        lines = [*finding.lines]
        picture = finding.picture
        if finding.draw is not None:
            picture = f"../data/results/{name}.svg"
        if picture is not None:
            lines.append(f"![{QUESTIONS[name][0]}]({picture})")
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
