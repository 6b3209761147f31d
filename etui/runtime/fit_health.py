"""Compare a policy's fit with the policy and with the labels of the log since then.

The fit of an arm predicts each question; the arm's rate alone predicts the same for all. Where the
squared error of the fit is greater, by a test that may be looked at after each label, and was
greater over the last labels too, the rate predicts until the policy is fitted again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.chat import Query
from etui.errors import LogUnavailable
from etui.learning.predictor import NEWEST, AccuracyPredictor, ArmHealth, compute_ceiling, judge_arm
from etui.routing.decision import Agreement
from etui.routing.library import FitFacts
from etui.routing.policy import CascadePlan, choose_served_arm, find_weights, list_priors
from etui.routing.text_measures import format_question
from etui.runtime.caches import read_log
from etui.units import count_text, percent_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.learning.fitted_file import FittedModel
    from etui.learning.labels import LogLabels
    from etui.log.queries import LogReader
    from etui.routing.policy import Policy
    from etui.runtime.caches import LogCache


NEWEST_LABELS = 500
"""Turns with the newest grades and audits, which a fit is compared with before each decision."""

FitTrace = dict[str, Any]
"""The JSON document of :func:`build_fit_document`."""


def build_notice(health: FitHealth, policy: str) -> str:
    """Build the notice about arms whose fit is set aside; empty without any."""
    if not health.set_aside:
        return ""
    names = ", ".join(arm.arm for arm in health.arms if arm.set_aside)
    return (
        f"the fit of {names} is worse than its rate on the labels since then, so the rate is used; "
        f"run: etui policy fit {policy} --log"
    )


def build_fit_document(health: FitHealth) -> FitTrace:
    """Build the JSON document of a fit's health; what is unknown is null."""
    return {
        "fitted_at": health.fitted_at,
        # A clock that was set back makes no negative age.
        "days": None if health.days is None else max(0.0, round(health.days, 1)),
        "questions": health.n,
        "source": list(health.source),
        "suites": list(health.suites),
        "arms": [
            {
                "arm": arm.arm,
                "model": health.models[arm.arm],
                "labels": arm.labels,
                "predicted": arm.predicted,
                "observed": arm.observed,
                "set_aside": arm.set_aside,
                "drifted": arm.drifted,
                "why": _format_state(arm),
            }
            for arm in health.arms
        ],
        "missing": list(health.missing),
        "changed": [asdict(each) | {"now": list(each.now)} for each in health.changed],
        "gone": list(health.gone),
        "alike": health.alike,
        "graded": health.graded,
        "steps": [
            {
                "arms": list(step.arms),
                "accept_at": step.accept_at,
                "agreed": None if step.odds is None else step.odds.agreed,
                "at_most": None if step.odds is None else step.odds.at_most,
                "n": None if step.odds is None else step.odds.n,
                "known": step.odds is not None and step.odds.known,
                "never_accepted": step.is_out_of_reach,
            }
            for step in health.steps
        ],
    }


def format_fit(fit: FitTrace) -> Iterator[str]:
    """Yield age, scope and state of a fit as lines."""
    origin = ", ".join(fit["source"])
    if fit["suites"]:
        origin = f"{', '.join(fit['suites'])} ({origin})"
    day = fit["fitted_at"][:10] or "unknown date"
    questions = count_text(fit["questions"], "question")
    yield f"fit of {day}{_format_age(fit['days'])}: {questions} of {origin}"
    if fit["arms"]:
        models = (f"{arm['arm']} ({arm['model'] or 'any model'})" for arm in fit["arms"])
        yield f"fitted: {', '.join(models)}"
    else:
        yield (
            "no arm of the policy is in this fit, so nothing is predicted; run `etui policy fit` "
            "again"
        )
    if fit["missing"]:
        yield f"not fitted: {', '.join(fit['missing'])}"
    yield from map(_format_changed, fit["changed"])
    if fit["gone"]:
        yield f"fitted arms that the policy no longer has, ignored: {', '.join(fit['gone'])}"
    if fit["alike"] is not None:
        yield f"{percent_text(fit['alike'])} of the newest questions are like those fitted"
    if fit["graded"] is None:
        yield "the log cannot be read, so what came since is unknown"
    elif fit["graded"] == 0:
        yield "no graded or audited turn since, so drift is not watched"
    else:
        more = " or more" if fit["graded"] >= NEWEST_LABELS else ""
        yield f"{count_text(fit['graded'], 'graded or audited turn')}{more} since"
    yield from (f"{arm['arm']}: {arm['why']}" for arm in fit["arms"] if arm["why"])
    yield from filter(None, map(_format_step, fit["steps"]))


def format_briefly(fit: FitTrace) -> str:
    """Format age and what is amiss in a few words: ``fit 12 days ago, quick set aside``."""
    aside = [arm["arm"] for arm in fit["arms"] if arm["set_aside"]]
    other = [each["arm"] for each in fit["changed"] if not each["is_predicted"]]
    parts = [f"fit{_format_age(fit['days']).removeprefix(',') or ' of unknown age'}"]
    parts += [f"{', '.join(aside)} set aside"] if aside else []
    parts += [f"{', '.join(other)} with another model"] if other else []
    parts += [] if fit["arms"] else ["of other arms"]
    return ", ".join(parts)


def is_amiss(fit: FitTrace) -> bool:
    """Return whether a fit does not say what its policy asks of it: it is time for a new one."""
    return (
        not fit["arms"]
        or any(arm["set_aside"] for arm in fit["arms"])
        or any(not each["is_predicted"] for each in fit["changed"])
        or any(step["never_accepted"] for step in fit["steps"])
    )


def list_never_accepted(fit: FitTrace) -> list[str]:
    """List the steps of several answers that the fit never accepts, as lines."""
    return [_format_step(step) for step in fit["steps"] if step["never_accepted"]]


def _format_age(days: float | None) -> str:
    """Format ``, 12 days ago``; within a day, ``, today``."""
    if days is None:
        return ""
    return ", today" if days < 1 else f", {count_text(int(days), 'day')} ago"


def _format_changed(changed: FitTrace) -> str:
    what = "nothing is predicted for it"
    if changed["is_predicted"]:
        what = "what is predicted is of the other method"
    now = " or ".join(changed["now"])
    return f"{changed['arm']} was fitted with {changed['fitted']} and is {now} now: {what}"


def _format_state(arm: ArmHealth) -> str:
    """Format how the fit of an arm has done since; empty without labels."""
    if arm.predicted is None or arm.observed is None:
        return ""
    state = "set aside: worse than its rate" if arm.set_aside else ""
    state = state or ("drifted" if arm.drifted else "holds")
    rates = f"{percent_text(arm.observed)} right, {percent_text(arm.predicted)} predicted"
    return f"{state}; {rates}, {count_text(arm.labels, 'label')} since"


def _format_step(step: FitTrace) -> str:
    """Format what agreement is worth; empty if the arms were not fitted together."""
    if step["agreed"] is None:
        return ""
    arms, agreed, at_most = step["arms"], step["agreed"], step["at_most"]
    who = f"{' and '.join(arms)} agree" if len(arms) > 1 else f"the votes of {arms[0]} agree"
    right = f"right {'' if step['known'] else 'at least '}{_format_share(agreed)} of the time"
    if at_most > agreed:
        right += f", {_format_share(at_most)} at the best margins"
    never = ", so never accepted" if step["never_accepted"] else ""
    return f"{who}: {right}; {100 * step['accept_at']:g} % required{never}"


def _format_share(share: float) -> str:
    """Format with a decimal, so that a share just below what is required differs from it."""
    return f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True)
class ChangedArm:
    """An arm that answers in another way than it was fitted."""

    arm: str
    fitted: str  # The model that was fitted, or the reasoning method
    now: tuple[str, ...]  # The models that may answer, or the method now
    is_predicted: bool  # Whether the fit still predicts for it: only its method differs


@dataclass(frozen=True, slots=True)
class FitHealth:
    """A fit, its age, its scope, and how it has done since."""

    fitted_at: str  # When it was fitted, ISO 8601
    days: float | None
    n: int  # Number of graded questions
    source: tuple[str, ...]  # Where they come from: runs, a table, the log
    suites: tuple[str, ...]  # The suites of the runs; empty if unknown
    models: Mapping[str, str | None]
    """Fitted arm of the policy -> the model that was fitted; None for any."""
    alike: float | None
    """Share of the newest logged questions of which half the words were in fitted questions; None
    without a log."""
    missing: tuple[str, ...]  # Arms of the policy that were not fitted
    changed: tuple[ChangedArm, ...]  # Arms that have another model, or another reasoning method
    gone: tuple[str, ...]  # Fitted arms that the policy no longer has
    graded: int | None
    """Number of graded or audited turns since, up to ``NEWEST_LABELS``; None if the log cannot be
    read."""
    arms: tuple[ArmHealth, ...]  # The fitted arms of the policy
    steps: tuple[Agreement, ...]
    """Steps of several answers of the policy, with what the fit says of them."""

    @property
    def set_aside(self) -> frozenset[str]:
        """Names of the arms whose fit is set aside."""
        return frozenset(arm.arm for arm in self.arms if arm.set_aside)


def list_models_now(
    policy: Policy, is_available: Callable[[str], bool] | None = None
) -> dict[str, tuple[str, ...]]:
    """List the models that may answer for each arm: the one here, or all where none is known."""
    found = {}
    for name, plan in policy.arms.items():
        arm = None if is_available is None else choose_served_arm(plan, is_available)
        found[name] = plan.models if arm is None else (arm.model,)
    return found


def list_fit_facts(fit: FittedModel | None, models: Collection[str]) -> FitFacts:
    """List what was fitted for a policy, for its check; nothing without a fit."""
    if fit is None:
        return FitFacts()
    weights = {
        name: None if head.model is None else find_weights(models, head.model)
        for name, head in fit.arms.items()
    }
    agreed = {head.arms: (compute_ceiling(head), head.known) for head in fit.agreements}
    return FitFacts(weights, agreed)


def measure_health(
    model: FittedModel,
    policy: Policy,
    labels: LogLabels | None,
    newest: Sequence[str] = (),
    *,
    now: datetime | None = None,
    models: Mapping[str, Sequence[str]] | None = None,
) -> FitHealth:
    """Compare a fit with its policy and with labels; those of before, or other models, are ignored.

    Args:
        labels: The labels of the log; None if it cannot be read.
        models: Arm -> models that may answer for it here; None takes those of the policy.
    """
    heads = AccuracyPredictor(model)
    fitted_at = _parse_time(model.provenance.fitted_at)
    changed = tuple(_find_changed(model, policy, models or list_models_now(policy)))
    graded, pairs = _pair_labels(heads, policy, labels, fitted_at)
    now = now or datetime.now(UTC)
    return FitHealth(
        fitted_at=model.provenance.fitted_at,
        days=None if fitted_at is None else (now - fitted_at).total_seconds() / 86_400,
        n=model.provenance.n,
        source=tuple(model.provenance.source),
        suites=tuple(model.provenance.suites),
        models={name: head.model for name, head in model.arms.items() if name in policy.arms},
        alike=_measure_scope(heads, newest),
        missing=tuple(name for name in policy.arms if name not in model.arms),
        changed=changed,
        gone=tuple(name for name in model.arms if name not in policy.arms),
        graded=graded,
        arms=tuple(judge_arm(name, model.arms[name].rate, pairs[name]) for name in pairs),
        steps=tuple(_predict_steps(heads, policy, changed)),
    )


def read_health(
    config: Config,
    policy: Policy,
    model: FittedModel,
    is_available: Callable[[str], bool] | None = None,
    kept: LogCache | None = None,
) -> FitHealth:
    """Read the log and compare a policy's fit with it, as far as the log can be read."""
    models = list_models_now(policy, is_available)

    def read(log: LogReader) -> FitHealth:
        from etui.learning.labels import collect_labels
        from etui.log.labels import read_labelled

        labels = collect_labels(
            read_labelled(log, NEWEST_LABELS),
            policy.name,
            {name: head.rate for name, head in model.arms.items()},
            tuple(policy.arms),
            priors=list_priors(policy),
            by_question=False,
        )
        newest = [turn.query for turn in log.list_turns(limit=NEWEST)]
        return measure_health(model, policy, labels, newest, models=models)

    # What it depends on besides the log: the arms, and the steps of several answers.
    arms = tuple((name, plan.models, plan.arm.reasoning) for name, plan in policy.arms.items())
    ends = tuple(rule.then for rule in policy.rules if isinstance(rule.then, CascadePlan))
    fitted_at = model.provenance.fitted_at
    try:
        key = ("fit", policy.name, arms, tuple(models.items()), ends, fitted_at)
        return read_log(config, kept, key, read)
    except LogUnavailable:
        return measure_health(model, policy, None, models=models)


def _find_weights(policy: Policy, arm: str, model: str) -> str:
    """Return the name of a model's weights, where an arm may have it from several places."""
    plan = policy.arms.get(arm)
    return model if plan is None else plan.find_place(model).weights


def _find_changed(
    model: FittedModel, policy: Policy, models: Mapping[str, Sequence[str]]
) -> list[ChangedArm]:
    found = []
    for name, plan in policy.arms.items():
        head = model.arms.get(name)
        if head is None:
            continue
        now = tuple(models.get(name, plan.models))
        weights = {_find_weights(policy, name, each) for each in now}
        if head.model is not None and _find_weights(policy, name, head.model) not in weights:
            found.append(ChangedArm(name, head.model, now, is_predicted=False))
        elif head.reasoning not in (None, plan.arm.reasoning):
            method = (plan.arm.reasoning,)
            found.append(ChangedArm(name, str(head.reasoning), method, is_predicted=True))
    return found


def _pair_labels(
    heads: AccuracyPredictor,
    policy: Policy,
    labels: LogLabels | None,
    fitted_at: datetime | None,
) -> tuple[int | None, dict[str, list[tuple[float, float]]]]:
    """Return the number of labelled turns since the fit, and (predicted, label) of each arm."""
    fitted = heads.model.arms
    pairs: dict[str, list[tuple[float, float]]] = {a: [] for a in fitted if a in policy.arms}
    if labels is None:
        return None, pairs
    of_fit = set()  # arms whose labels are of the model that was fitted
    for name in pairs.keys() & labels.facts.keys():
        answered, known = labels.facts[name].model, fitted[name].model
        if (
            answered is None
            or known is None
            or _find_weights(policy, name, answered) == _find_weights(policy, name, known)
        ):
            of_fit.add(name)
    graded = 0
    for each, created_at in zip(labels.questions, labels.created_at, strict=True):
        at = _parse_time(created_at)
        if fitted_at is None or at is None or at <= fitted_at:
            continue
        graded += 1
        query = Query(format_question(each.question))
        for name, label in each.labels.items():
            if name in of_fit:
                predicted = heads.accuracy(Arm(name, fitted[name].model or ""), query, 0.9)
                if predicted is not None:
                    pairs[name].append((predicted.p, label.p))
    return graded, pairs


def _predict_steps(
    heads: AccuracyPredictor, policy: Policy, changed: Sequence[ChangedArm]
) -> list[Agreement]:
    """Return the steps of several answers, each set of arms and bound once, with their odds."""
    unpredicted = {each.arm for each in changed if not each.is_predicted}
    plans = [rule.then for rule in policy.rules if isinstance(rule.then, CascadePlan)]
    found = []
    for step in dict.fromkeys(step for plan in plans for step in plan.agreements):
        heads_of = [head for head in heads.model.agreements if head.arms == step.arms]
        odds = None
        if heads_of and unpredicted.isdisjoint(step.arms):
            named = zip(step.arms, heads_of[0].models, strict=True)
            odds = heads.agreement([Arm(name, model or "") for name, model in named])
        found.append(replace(step, odds=odds))
    return found


def _measure_scope(heads: AccuracyPredictor, newest: Sequence[str]) -> float | None:
    if not newest:
        return None
    unseen = max(heads.model.idf)
    alike = 0
    for text in newest:
        words = heads.prepare_inputs(text).words
        seen = sum(heads.model.idf[bucket] < unseen for bucket in words)
        alike += bool(words) and seen >= len(words) / 2
    return alike / len(newest)


def _parse_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
