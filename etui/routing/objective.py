"""Choose the candidate of an objective by expected joules and accuracy.

An arm that several machines serve is one candidate at each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from etui import units
from etui.arm import Arm
from etui.chat import Query
from etui.routing.decision import Candidate, PredictedAccuracy, PredictedJoules, Predictor
from etui.routing.policy import (
    THIS_MACHINE,
    ArmPlan,
    Objective,
    format_absent,
    format_places_absent,
    format_substitute,
    list_served_places,
)


@dataclass(frozen=True, slots=True)
class ObjectiveResult:
    """The outcome of an objective."""

    winner: Candidate | None  # The candidate that answers; None if none qualifies
    candidates: tuple[Candidate, ...]
    """All candidates, cheapest first, those with unknown joules last."""
    margin_joules: float | None
    """Joules that the runner-up would cost more; None without a runner-up, or if unknown. Negative
    if the winner was chosen although it costs more, because its model is in memory or it is more
    accurate."""
    why: str  # Why the winner was chosen, or why no candidate qualifies
    unfitted: str | None
    """The prediction that is needed but missing for every candidate: ``accuracy`` or ``joules``;
    None if there is none."""


def weigh(
    objective: Objective,
    arms: Mapping[str, ArmPlan],
    query: Query,
    is_available: Callable[[str], bool],
    *,
    predictor: Predictor | None,
    resident: str | None,
) -> ObjectiveResult:
    """Choose the candidate that meets an objective best; ``resident`` is the model in memory."""
    able: list[Candidate] = []
    absent: list[Candidate] = []
    spread: set[str] = set()
    for name in objective.arms:
        plan = arms[name]
        served = list_served_places(plan, is_available)
        for arm in served:
            backend = plan.find_place(arm.model).backend
            able.append(_build_candidate(objective, arm, backend, query, predictor))
        missing = _build_missing_places(plan, served)
        absent += missing
        if len(served) + len(missing) > 1:
            spread.add(name)
    candidates = (*sorted(able, key=_joules_or_inf), *absent)
    qualified = [c for c in able if c.failed is None]
    if not qualified:
        why = _format_none_qualifies(candidates)
        return ObjectiveResult(None, candidates, None, why, _find_unfitted(objective, able))
    ranked = sorted(qualified, key=_build_rank_key(objective))
    best = ranked[0]
    winner = _prefer_resident(objective, ranked, resident)
    runner_up = best if winner is not best else next(iter(ranked[1:]), None)
    margin = None
    if runner_up is not None and winner.joules is not None and runner_up.joules is not None:
        margin = runner_up.joules.total - winner.joules.total
    name_of = partial(_name_candidate, spread=spread)
    why = _format_reason(objective, winner, runner_up, margin, name_of, kept=winner is not best)
    plan = arms[winner.arm.name]
    if plan.find_place(winner.arm.model).weights != plan.find_place(plan.models[0]).weights:
        why += format_substitute(plan, winner.arm)
    return ObjectiveResult(winner, candidates, margin, why, None)


def _build_missing_places(plan: ArmPlan, served: Sequence[Arm]) -> list[Candidate]:
    """Build the candidates that cannot answer now: the arm, or its places other than the served."""
    if not served:
        backend = plan.find_place(plan.arm.model).backend
        return [Candidate(plan.arm, None, None, format_absent(plan), backend)]
    weights = plan.find_place(served[0].model).weights
    return [
        Candidate(arm, None, None, format_places_absent((place,)), place.backend)
        for arm, place in zip(plan.arms, plan.places, strict=bool(plan.places))
        if place.weights == weights and arm not in served
    ]


def _build_candidate(
    objective: Objective, arm: Arm, backend: str | None, query: Query, predictor: Predictor | None
) -> Candidate:
    accuracy = _predict_accuracy(objective, arm, query, predictor)
    hopeless = accuracy is None and _needs_accuracy(objective)
    # Predicting joules reads the log, and a candidate without an accuracy cannot win anyway.
    asked = None if hopeless else predictor
    joules = asked.joules(arm, query) if asked is not None else None
    seconds = joules.seconds if joules is not None else None
    if joules is None and asked is not None and objective.seconds_at_most is not None:
        seconds = asked.duration(arm, query)
    failed = _find_failure(objective, joules, accuracy, seconds)
    return Candidate(arm, joules, accuracy, failed, backend, seconds)


def _predict_accuracy(
    objective: Objective, arm: Arm, query: Query, predictor: Predictor | None
) -> PredictedAccuracy | None:
    known = predictor.accuracy(arm, query, objective.confidence) if predictor is not None else None
    prior = objective.prior.get(arm.name)
    if prior is not None and (known is None or known.n == 0):
        return PredictedAccuracy(prior, prior, objective.confidence, 0, "prior")
    return known


def _find_failure(
    objective: Objective,
    joules: PredictedJoules | None,
    accuracy: PredictedAccuracy | None,
    seconds: float | None,
) -> str | None:
    floor = objective.accuracy_at_least
    if accuracy is None and _needs_accuracy(objective):
        return "no accuracy was fitted"
    if floor is not None and accuracy is not None and accuracy.low < floor:
        return f"accuracy bound {accuracy.low:.2f} is below {floor:g}"
    if joules is None and _needs_joules(objective):
        return "its joules are unknown"
    most = objective.joules_at_most
    if most is not None and joules is not None and joules.total > most:
        return f"{units.about_joules(joules.total)} exceeds the limit of {most:g} J"
    slowest = objective.seconds_at_most
    if slowest is not None:
        if seconds is None:
            return "its duration is unknown"
        if seconds > slowest:
            return f"{seconds:.3g} s exceeds the limit of {slowest:g} s"
    return None


def _needs_accuracy(objective: Objective) -> bool:
    return objective.goal == "accuracy" or objective.accuracy_at_least is not None


def _needs_joules(objective: Objective) -> bool:
    bound = objective.joules_at_most is not None or objective.exchange is not None
    return bound or objective.goal == "joules"


def _joules_or_inf(candidate: Candidate) -> float:
    return candidate.joules.total if candidate.joules is not None else inf


def _build_rank_key(objective: Objective) -> Callable[[Candidate], tuple[float, float]]:

    def likely_wrong(candidate: Candidate) -> float:
        return -candidate.accuracy.p if candidate.accuracy is not None else 0.0

    if objective.goal == "joules":
        return lambda candidate: (_joules_or_inf(candidate), likely_wrong(candidate))
    exchange = objective.exchange
    if exchange is not None:
        # The energy plus the inaccuracy valued in joules: the Lagrangian of accuracy and energy.
        return lambda candidate: (
            _joules_or_inf(candidate) + 100 * exchange * likely_wrong(candidate),
            _joules_or_inf(candidate),
        )
    return lambda candidate: (likely_wrong(candidate), _joules_or_inf(candidate))


def _prefer_resident(
    objective: Objective, ranked: list[Candidate], resident: str | None
) -> Candidate:
    """Return the best candidate, or the one in memory if a switch would not save the margin."""
    best = ranked[0]
    if not objective.switch_margin_joules or resident is None or best.arm.model == resident:
        return best
    loaded = next((c for c in ranked if c.arm.model == resident), None)
    if (
        loaded is None
        or _joules_or_inf(loaded) - _joules_or_inf(best) > objective.switch_margin_joules
    ):
        return best
    return loaded


def _format_reason(
    objective: Objective,
    winner: Candidate,
    runner_up: Candidate | None,
    margin: float | None,
    name_of: Callable[[Candidate], str],
    *,
    kept: bool,
) -> str:
    """Format: ``quick is the cheapest arm with accuracy >= 0.62 (no other arm qualifies)``."""
    name, joules, accuracy = name_of(winner), winner.joules, winner.accuracy
    floor = objective.accuracy_at_least
    facts = [units.about_joules(joules.total)] if joules is not None else []
    if kept and runner_up is not None and margin is not None:
        saved = f"would save {units.about_joules(-margin)}" if margin < 0 else "would save nothing"
        text = f"{name} is kept because {winner.arm.model} is in memory"
        facts.append(f"{name_of(runner_up)} {saved}")
        return f"{text} ({', '.join(facts)}){_format_prior_note(accuracy)}"
    if objective.goal == "accuracy":
        assert accuracy is not None
        text = f"{name} has the highest accuracy"
        if objective.joules_at_most is not None:
            text += f" within {objective.joules_at_most:g} J"
        text += f": {accuracy.p:.2f}"
        if objective.exchange is not None:
            text = f"{name} has accuracy {accuracy.p:.2f}"
            text += f", the best at {objective.exchange:g} J per percentage point"
        if runner_up is not None and runner_up.accuracy is not None:
            facts.append(f"{name_of(runner_up)} {runner_up.accuracy.p:.2f}")
    else:
        text = f"{name} is the cheapest arm"
        if floor is not None:
            text += f" with accuracy >= {floor:g}"
        if runner_up is not None and margin is not None:
            facts.append(f"{name_of(runner_up)} would take {units.about_joules(margin)} more")
        elif len(objective.arms) > 1:
            facts.append("no other arm qualifies")
        elif name != winner.arm.name:
            facts.append("no other place qualifies")
    if facts:
        text += f" ({', '.join(facts)})"
    return text + _format_prior_note(accuracy)


def _name_candidate(candidate: Candidate, spread: Collection[str]) -> str:
    name = candidate.arm.name
    return f"{name} on {candidate.backend or THIS_MACHINE}" if name in spread else name


def _format_prior_note(accuracy: PredictedAccuracy | None) -> str:
    prior = accuracy is not None and accuracy.n == 0
    return "; based on the stated prior, no accuracy was fitted" if prior else ""


def _format_none_qualifies(candidates: tuple[Candidate, ...]) -> str:
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        reasons.setdefault(candidate.failed or "", []).append(candidate.arm.name)
    parts = [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    return "no arm qualifies: " + "; ".join(parts)


def _find_unfitted(objective: Objective, able: list[Candidate]) -> str | None:
    if able and _needs_accuracy(objective) and all(c.accuracy is None for c in able):
        return "accuracy"
    if not able or any(c.joules is not None for c in able):
        return None
    unknown_seconds = objective.seconds_at_most is not None and all(c.seconds is None for c in able)
    return "joules" if _needs_joules(objective) or unknown_seconds else None
