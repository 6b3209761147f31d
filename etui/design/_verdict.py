"""Say what thinking and voting buy per joule, and when the larger model wins.

The wording follows rules. A difference is claimed only if its interval excludes 0 and its p-value
is below 0.05 after Holm's correction for the arms of the model. Otherwise the largest difference
that the intervals allow is stated. Two arms are not compared if their shares of questions without
an answer differ by more than :data:`UNLIKE`: that would compare readouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from etui import units
from etui.bench.machines import join_words
from etui.design._arms import Against, ArmFigures, Multiple, excludes
from etui.design._paired import Layout
from etui.stats.tests import SIGNIFICANCE, Interval, count_questions_needed

UNLIKE = 0.02
"""Largest difference between the shares of questions without an answer of two arms compared."""

_POINTS = 0.03
"""The difference, as a share, for which the needed number of questions is stated."""

_NAMES = {"cot": "thinking", "vote": "voting"}


def points_text(figure: Interval) -> str:
    """Format a difference of shares as points: ``+4.1 points [-2.0, 10.1]``."""
    ends = (None if end is None else 100 * end for end in (figure.low, figure.high))
    return units.points_change_text(100 * figure.value, *ends)


def multiple_text(figure: Interval) -> str:
    """Format a ratio with its interval: ``6.1x [5.2, 7.3]``."""
    return units.multiple_text(figure.value, figure.low, figure.high)


def each_text(figure: Interval, kind: str | None) -> str:
    """Format joules for each additional right answer; the upper end may be open."""
    shown = kind if kind == units.ESTIMATE else None
    if figure.low is not None and figure.high is not None:
        return units.energy_range_text(figure.value, figure.low, figure.high, shown)
    text = units.energy_text(figure.value, None, shown)
    if figure.low is None:
        return text
    bare = text.removesuffix(f" ({units.ESTIMATE})")
    return f"{bare}, at least {units.energy_text(figure.low, None, shown)}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence of the answer."""

    outcome: str
    """``gain``, ``loss``, ``no difference``, ``not compared`` or ``unknown``; of a comparison of
    models ``models``."""
    text: str  # The sentence
    brief: str  # Its finding, as a clause of the headline; of `no difference` its subject
    most: float = 0.0  # Of `no difference`: the largest one that the intervals allow, in points
    joules: float | None = None  # Of `no difference`: multiple of the joules of a direct answer


@dataclass(frozen=True, slots=True)
class Shares:
    """Share of questions without an answer of each arm; decides which arms are compared."""

    arms: Sequence[ArmFigures]

    def of(self, arm: str) -> float:
        """Return the share of an arm."""
        return next(one.lost / one.questions for one in self.arms if one.strategy.arm == arm)

    def are_alike(self, one: Multiple) -> bool:
        """Return whether the two arms of a comparison may be compared."""
        difference = self.of(one.strategy.arm) - self.of(one.base.arm)
        return abs(difference) <= UNLIKE + 1e-12

    def refuse(self, unlike: Sequence[Multiple]) -> str:
        """Say which arms are not compared, and why."""
        base = unlike[0].base
        listed = join_words(
            [
                f"{one.strategy.label} ({units.percent_text(self.of(one.strategy.arm))})"
                for one in unlike
            ]
        )
        return (
            f"Not compared with {base.label}, of which {units.percent_text(self.of(base.arm))} of "
            f"the questions have no answer: {listed}. More than two points apart, the comparison "
            "would be one of readouts."
        )


def get_side(one: Multiple) -> int:
    """Return 1 if an arm is shown to get more right than its base, -1 if fewer, else 0."""
    return excludes(one.difference, 0.0) if one.p_holm < SIGNIFICANCE else 0


def judge(
    layout: Layout,
    arms: Sequence[ArmFigures],
    multiples: Sequence[Multiple],
    kind: str | None,
) -> tuple[Statement, ...]:
    """State what each way of reasoning buys with each model, and when the largest one wins."""
    shares, found = Shares(arms), []
    for role in layout.roles:
        ways = dict.fromkeys(one.reasoning for one in layout.of_role(role) if one.thinks)
        for way in ways:
            inside = [one for one in _select(multiples, "direct", role) if _way(one) == way]
            name = f"{_NAMES.get(way, way)} with {role}"
            found.append(_judge_way(name, role, inside, layout, shares, kind))
    for role in layout.roles:
        inside = _select(multiples, "large", role)
        if inside:
            found.append(_judge_model(role, inside, shares))
    return tuple(found)


def _select(multiples: Sequence[Multiple], against: Against, role: str) -> list[Multiple]:
    return [one for one in multiples if one.against == against and one.strategy.role == role]


def _way(one: Multiple) -> str:
    return one.strategy.reasoning


def _judge_way(
    name: str,
    role: str,
    inside: Sequence[Multiple],
    layout: Layout,
    shares: Shares,
    kind: str | None,
) -> Statement:
    title = name.capitalize()
    if not inside:
        why = "no question has been answered by every arm"
        if layout.direct_of(role) is None:
            why = "no arm of it answers directly"
        return Statement("unknown", f"What {name} buys is unknown: {why}.", f"{name} is not judged")
    alike = [one for one in inside if shares.are_alike(one)]
    unlike = [one for one in inside if one not in alike]
    refused = f" {shares.refuse(unlike)}" if unlike else ""
    if not alike:
        text = f"{title} is not compared.{refused}"
        return Statement("not compared", text, f"{name} is not compared, as the readouts differ")
    best = max(alike, key=lambda one: one.difference.value)
    gained, way = points_text(best.difference), best.strategy.way
    cost = "; joules are unmeasured"
    if best.joules is not None:
        cost = f" for {multiple_text(best.joules)} the joules of {best.base.label}"
        if best.per_correct is not None:
            cost += f" ({multiple_text(best.per_correct)} for each right answer)"
    side = get_side(best)
    if side > 0:
        each = ""
        if best.per_additional is not None:
            each = f"; each further right answer takes {each_text(best.per_additional, kind)}"
        brief = f"{name} gets more right ({way}: {gained}{cost.partition(' (')[0]})"
        text = f"{title} gets more right: {way} is at {gained}{cost}{each}.{refused}"
        return Statement("gain", text, brief)
    if side < 0:
        text = f"{title} gets fewer right: even {way} is at {gained}{cost}.{refused}"
        return Statement("loss", text, f"{name} gets fewer right ({way}: {gained})")
    most = _bound(alike)
    needed = count_questions_needed(best.deviation, _POINTS, len(inside))
    more = ""
    if needed > best.questions:
        more = f" About {needed:,} questions would show a difference of 3 points."
    text = (
        f"{title} shows no difference above {most:.0f} points: its best arm, {way}, is at "
        f"{gained}{cost}.{more}{refused}"
    )
    joules = None if best.joules is None else best.joules.value
    return Statement("no difference", text, name, most, joules)


def _bound(inside: Iterable[Multiple]) -> float:
    """Return the largest difference, in points, that the intervals of some arms allow."""
    ends = [(one.difference.low, one.difference.high) for one in inside]
    return max(100 * max(abs(low or 0.0), abs(high or 0.0)) for low, high in ends)


_WINS, _TRADES, _OPEN, _LOSES = "wins", "trades", "open", "loses"

_RESULTS = {
    (-1, 1): (_WINS, "wins against {arms} (fewer right for {times} its joules)"),
    (-1, 0): (_WINS, "wins against {arms} (fewer right for {times} its joules)"),
    (-1, -1): (_TRADES, "gets more right than {arms} (at {times} its joules)"),
    (0, 1): (_WINS, "wins against {arms} ({times} its joules for at most {more} points more)"),
    (0, 0): (_OPEN, "shows no difference above {most} points from {arms} (at {times} its joules)"),
    (0, -1): (_OPEN, "shows no difference above {most} points from the cheaper {arms} "
                     "(at {times} its joules)"),
    (1, 1): (_TRADES, "gets fewer right than {arms} (at {times} its joules)"),
    (1, 0): (_LOSES, "loses to {arms} (more right for {times} its joules)"),
    (1, -1): (_LOSES, "loses to {arms} (more right for {times} its joules)"),
}  # fmt: skip
"""Whether arms get more right than the direct answer of the largest model, and whether they take
more joules (1, -1, or 0 if neither is shown) -> its result, and the words for it."""


def _judge_model(role: str, inside: Sequence[Multiple], shares: Shares) -> Statement:
    """Say against which arms of a smaller model the direct answer of the largest one wins."""
    alike = [one for one in inside if shares.are_alike(one)]
    unlike = [one for one in inside if one not in alike]
    groups: dict[tuple[int, int], list[Multiple]] = {}
    for one in alike:
        groups.setdefault((get_side(one), excludes(one.joules, 1.0)), []).append(one)
    base = inside[0].base.label
    clauses: dict[str, list[str]] = {}
    for key, (result, words) in _RESULTS.items():
        if key in groups:
            clauses.setdefault(result, []).append(_fill(words, role, groups[key]))
    shown = [c for result in (_WINS, _TRADES, _LOSES) for c in clauses.get(result, ())]
    said = [*shown, *clauses.get(_OPEN, ())]
    if not alike:
        brief = f"{base} is not compared with {role}, as the readouts differ"
    else:
        brief = f"{base} {join_words(shown or said)}"
    text = f"{base.capitalize()} {'; it '.join(said)}." if said else ""
    refused = shares.refuse(unlike) if unlike else ""
    return Statement("models", " ".join(filter(None, (text, refused))), brief)


def _fill(words: str, role: str, group: Sequence[Multiple]) -> str:
    known = [one.joules for one in group if one.joules is not None]
    if not known:
        times = "an unmeasured multiple of"
    elif len(known) == 1:
        times = multiple_text(known[0])
    else:
        times = _range_text([one.value for one in known])
    ways = join_words([one.strategy.way for one in group])
    more = max(100 * max(one.difference.high or 0.0, 0.0) for one in group)
    return words.format(
        arms=f"{role} {ways}", times=times, most=f"{_bound(group):.0f}", more=f"{more:.0f}"
    )


def write_headline(statements: Sequence[Statement]) -> str:
    """Write the answer in one sentence, without its full stop."""
    if not any(one.outcome != "models" for one in statements):
        statements = [Statement("", "", "no arm of this run thinks"), *statements]
    level = [one for one in statements if one.outcome == "no difference"]
    rest = [one for one in statements if one not in level]
    clauses = [one.brief for one in sorted(rest, key=lambda one: one.outcome != "gain")]
    if level:
        verb = "show" if len(level) > 1 else "shows"
        most = f"{max(one.most for one in level):.0f}"
        known = [one.joules for one in level if one.joules is not None]
        times = f" for {_range_text(known)} the joules of a direct answer" if known else ""
        names = join_words([one.brief for one in level])
        at = sum(one.outcome == "gain" for one in statements)
        clauses.insert(at, f"{names} {verb} no difference above {most} points{times}")
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:]


def _range_text(multiples: Sequence[float]) -> str:
    low, high = (units.multiple_text(end) for end in (min(multiples), max(multiples)))
    return low if low == high else f"{low} to {high}"
