"""Weighs the candidate arms of an objective by what they are expected to spend and to get right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from etui.arm import Arm
from etui.chat import Query
from etui.routing.availability import named, served, stand_in
from etui.routing.limits import Candidate
from etui.routing.policy import ArmPlan, Objective
from etui.routing.prediction import PredictedAccuracy, PredictedJoules, Predictor


@dataclass(frozen=True, slots=True)
class Weighed:
    """What came of an objective.

    Attributes:
        winner: The candidate that answers; None where none qualifies.
        candidates: All of them, cheapest first, those of unknown joules last.
        margin_joules: What the runner-up would cost more; None without one, or where it is not
            known. Negative where the winner is kept, or more accurate, in spite of its joules.
        why: Why it won, or what kept all of them from it.
        unfitted: What was needed and is known of no candidate: ``accuracy`` or ``joules``.
    """

    winner: Candidate | None
    candidates: tuple[Candidate, ...]
    margin_joules: float | None
    why: str
    unfitted: str | None


def weigh(
    objective: Objective,
    arms: Mapping[str, ArmPlan],
    query: Query,
    here: Callable[[str], bool],
    *,
    outlook: Predictor | None,
    resident: str | None,
) -> Weighed:
    """The candidate that serves an objective best on this query.

    Args:
        objective: What is wanted.
        arms: Arms of the policy by name.
        query: What was asked.
        here: Which models are on this machine.
        outlook: What the arms are expected to spend and to get right; None knows nothing.
        resident: The model that is in memory, None where it is not known or none is.
    """
    ready = {name: arm for name in objective.arms if (arm := served(arms[name], here))}
    able = [_candidate(objective, arm, query, outlook) for arm in ready.values()]
    absent = [_absent(arms[name]) for name in objective.arms if name not in ready]
    candidates = (*sorted(able, key=_cost), *absent)
    ranked = sorted((c for c in able if c.failed is None), key=_rank_of(objective))
    if not ranked:
        why = _none_qualifies(candidates)
        return Weighed(None, candidates, None, why, _unfitted(objective, able))
    best = ranked[0]
    winner = _kept(objective, ranked, resident)
    runner_up = best if winner is not best else next(iter(ranked[1:]), None)
    margin = None
    if runner_up is not None and winner.joules is not None and runner_up.joules is not None:
        margin = runner_up.joules.total - winner.joules.total
    why = _reason(objective, winner, runner_up, margin, kept=winner is not best)
    why += stand_in(arms[winner.arm.name], winner.arm)
    return Weighed(winner, candidates, margin, why, None)


def _absent(plan: ArmPlan) -> Candidate:
    return Candidate(plan.arm, None, None, f"{named(plan.models)} not on this machine")


def _candidate(
    objective: Objective, arm: Arm, query: Query, outlook: Predictor | None
) -> Candidate:
    accuracy = _accuracy(objective, arm, query, outlook)
    hopeless = accuracy is None and _needs_accuracy(objective)
    # Joules are read from the log; where nothing was fitted they would decide nothing.
    joules = outlook.joules(arm, query) if outlook is not None and not hopeless else None
    return Candidate(arm, joules, accuracy, _failed(objective, joules, accuracy))


def _accuracy(
    objective: Objective, arm: Arm, query: Query, outlook: Predictor | None
) -> PredictedAccuracy | None:
    """What was fitted; else the prior the rule states, which nobody measured."""
    known = outlook.accuracy(arm, query, objective.confidence) if outlook is not None else None
    prior = objective.prior.get(arm.name)
    if prior is not None and (known is None or known.n == 0):
        return PredictedAccuracy(prior, prior, objective.confidence, 0, "prior")
    return known


def _failed(
    objective: Objective, joules: PredictedJoules | None, accuracy: PredictedAccuracy | None
) -> str | None:
    """The first thing a candidate does not meet, in words; None if it qualifies."""
    floor = objective.accuracy_at_least
    if accuracy is None and _needs_accuracy(objective):
        return "its accuracy was not fitted"
    if floor is not None and accuracy is not None and accuracy.low < floor:
        return f"right with at least {accuracy.low:.2f}, {floor:g} is asked for"
    if joules is None and _needs_joules(objective):
        return "its joules are not known"
    most = objective.joules_at_most
    if most is not None and joules is not None and joules.total > most:
        return f"{joules.total:.3g} J, {most:g} J are the most"
    slowest = objective.seconds_at_most
    if slowest is not None:
        if joules is None or joules.seconds is None:
            return "its seconds are not known"
        if joules.seconds > slowest:
            return f"{joules.seconds:.3g} s, {slowest:g} s are the most"
    return None


def _needs_accuracy(objective: Objective) -> bool:
    return objective.goal == "accuracy" or objective.accuracy_at_least is not None


def _needs_joules(objective: Objective) -> bool:
    """Whether its choice goes by joules; a bound of seconds says so itself."""
    bound = objective.joules_at_most is not None or objective.exchange is not None
    return bound or objective.goal == "joules"


def _cost(candidate: Candidate) -> float:
    return candidate.joules.total if candidate.joules is not None else inf


def _rank_of(objective: Objective) -> Callable[[Candidate], tuple[float, float]]:
    """The order of those that qualify, best first."""

    def likely_wrong(candidate: Candidate) -> float:
        return -candidate.accuracy.p if candidate.accuracy is not None else 0.0

    if objective.goal == "joules":
        return lambda candidate: (_cost(candidate), likely_wrong(candidate))
    exchange = objective.exchange
    if exchange is not None:
        # What is spent and what is missed, both in joules: the Lagrangian of accuracy and energy.
        return lambda candidate: (
            _cost(candidate) + 100 * exchange * likely_wrong(candidate),
            _cost(candidate),
        )
    return lambda candidate: (likely_wrong(candidate), _cost(candidate))


def _kept(objective: Objective, ranked: list[Candidate], resident: str | None) -> Candidate:
    """The best; or that of the model in memory, where changing it would not save the margin."""
    best = ranked[0]
    if not objective.switch_margin_joules or resident is None or best.arm.model == resident:
        return best
    staying = next((c for c in ranked if c.arm.model == resident), None)
    if staying is None or _cost(staying) - _cost(best) > objective.switch_margin_joules:
        return best
    return staying


def _reason(
    objective: Objective,
    winner: Candidate,
    runner_up: Candidate | None,
    margin: float | None,
    *,
    kept: bool,
) -> str:
    """``quick is the cheapest that is right with 0.62 (21 J, large would take 34 J more)``."""
    name, joules, accuracy = winner.arm.name, winner.joules, winner.accuracy
    floor = objective.accuracy_at_least
    facts = [f"{joules.total:.3g} J"] if joules is not None else []
    if kept and runner_up is not None and margin is not None:
        saved = f"would save {-margin:.2g} J" if margin < 0 else "would save nothing"
        text = f"{name} is kept, {winner.arm.model} is in memory"
        facts.append(f"{runner_up.arm.name} {saved}")
        return f"{text} ({', '.join(facts)}){_of_prior(accuracy)}"
    if objective.goal == "accuracy":
        assert accuracy is not None
        text = f"{name} is the likeliest right, with {accuracy.p:.2f}"
        if objective.joules_at_most is not None:
            text += f", within {objective.joules_at_most:g} J"
        if objective.exchange is not None:
            text = f"{name} is right with {accuracy.p:.2f}"
            text += f", the best at {objective.exchange:g} J a percentage point"
        if runner_up is not None and runner_up.accuracy is not None:
            facts.append(f"{runner_up.arm.name} {runner_up.accuracy.p:.2f}")
    else:
        text = f"{name} is the cheapest"
        if floor is not None:
            text += f" that is right with {floor:g}"
        if runner_up is not None and margin is not None:
            facts.append(f"{runner_up.arm.name} would take {margin:.2g} J more")
        elif len(objective.arms) > 1:
            facts.append("no other qualifies")
    return (
        f"{text} ({', '.join(facts)}){_of_prior(accuracy)}" if facts else text + _of_prior(accuracy)
    )


def _of_prior(accuracy: PredictedAccuracy | None) -> str:
    prior = accuracy is not None and accuracy.n == 0
    return "; by the stated prior, nothing was fitted" if prior else ""


def _none_qualifies(candidates: tuple[Candidate, ...]) -> str:
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        reasons.setdefault(candidate.failed or "", []).append(candidate.arm.name)
    told = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "no arm qualifies: " + "; ".join(told)


def _unfitted(objective: Objective, able: list[Candidate]) -> str | None:
    """What the objective needs and is known of none that could answer."""
    if able and _needs_accuracy(objective) and all(c.accuracy is None for c in able):
        return "accuracy"
    needs_joules = _needs_joules(objective) or objective.seconds_at_most is not None
    return "joules" if able and needs_joules and all(c.joules is None for c in able) else None
