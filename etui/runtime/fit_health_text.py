"""The health of a fit as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

from etui.units import count_text, percent_text

if TYPE_CHECKING:
    from etui.routing.accuracy.drift import ArmHealth
    from etui.routing.limits import Agreement
    from etui.runtime.fit_health import FitHealth


class FittedArmTrace(TypedDict):
    """A fitted arm of the policy; see ``drift.ArmHealth``."""

    arm: str
    model: str | None
    labels: int
    predicted: float | None
    observed: float | None
    set_aside: bool
    drifted: bool
    why: str


class ChangedArmTrace(TypedDict):
    """An arm that answers in another way than it was fitted; see ``fit_health.ChangedArm``."""

    arm: str
    fitted: str
    now: list[str]
    is_predicted: bool


class StepTrace(TypedDict):
    """A step of several answers, and the share of agreed answers that is right; null if unknown.

    See ``prediction.PredictedAgreement``; ``never_accepted`` if ``at_most`` is below ``accept_at``.
    """

    arms: list[str]
    accept_at: float
    agreed: float | None
    at_most: float | None
    n: int | None
    known: bool
    never_accepted: bool


class FitTrace(TypedDict):
    """The health of a fit; see ``fit_health.FitHealth``. ``days`` is its age."""

    fitted_at: str
    days: float | None
    questions: int
    source: list[str]
    suites: list[str]
    arms: list[FittedArmTrace]
    missing: list[str]
    changed: list[ChangedArmTrace]
    gone: list[str]
    alike: float | None
    graded: int | None
    steps: list[StepTrace]


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
    """Build the JSON document of a fit's health."""
    return {
        "fitted_at": health.fitted_at,
        # A clock that was set back makes no negative age.
        "days": None if health.days is None else max(0.0, round(health.days, 1)),
        "questions": health.n,
        "source": list(health.source),
        "suites": list(health.suites),
        "arms": [_build_arm(arm, health.models[arm.arm]) for arm in health.arms],
        "missing": list(health.missing),
        "changed": [
            {
                "arm": each.arm,
                "fitted": each.fitted,
                "now": list(each.now),
                "is_predicted": each.is_predicted,
            }
            for each in health.changed
        ],
        "gone": list(health.gone),
        "alike": health.alike,
        "graded": health.graded,
        "steps": [_build_step(step) for step in health.steps],
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
        yield f"{count_text(fit['graded'], 'graded or audited turn')} since"
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


def _format_changed(changed: ChangedArmTrace) -> str:
    was = f"{changed['arm']} was fitted with {changed['fitted']} and is"
    now = " or ".join(changed["now"])
    if changed["is_predicted"]:
        return f"{was} {now} now: what is predicted is of the other method"
    return f"{was} {now} now: nothing is predicted for it"


def _format_state(arm: ArmHealth) -> str:
    """Format how the fit of an arm has done since; empty without labels."""
    if arm.predicted is None or arm.observed is None:
        return ""
    state = "set aside: worse than its rate" if arm.set_aside else ""
    state = state or ("drifted" if arm.drifted else "holds")
    rates = f"{percent_text(arm.observed)} right, {percent_text(arm.predicted)} predicted"
    return f"{state}; {rates}, {count_text(arm.labels, 'label')} since"


def _format_step(step: StepTrace) -> str:
    """Format what agreement is worth; empty if the arms were not fitted together."""
    if step["agreed"] is None:
        return ""
    arms, agreed, at_most = step["arms"], step["agreed"], step["at_most"]
    assert at_most is not None
    who = f"{' and '.join(arms)} agree" if len(arms) > 1 else f"the votes of {arms[0]} agree"
    right = f"right {'' if step['known'] else 'at least '}{_format_share(agreed)} of the time"
    if at_most > agreed:
        right += f", {_format_share(at_most)} at the best margins"
    never = ", so never accepted" if step["never_accepted"] else ""
    return f"{who}: {right}; {100 * step['accept_at']:g} % required{never}"


def _format_share(share: float) -> str:
    """Format with a decimal, so that a share just below what is required differs from it."""
    return f"{100 * share:.1f} %"


def _build_arm(arm: ArmHealth, model: str | None) -> FittedArmTrace:
    return {
        "arm": arm.arm,
        "model": model,
        "labels": arm.labels,
        "predicted": arm.predicted,
        "observed": arm.observed,
        "set_aside": arm.set_aside,
        "drifted": arm.drifted,
        "why": _format_state(arm),
    }


def _build_step(step: Agreement) -> StepTrace:
    odds = step.odds
    return {
        "arms": list(step.arms),
        "accept_at": step.accept_at,
        "agreed": None if odds is None else odds.agreed,
        "at_most": None if odds is None else odds.at_most,
        "n": None if odds is None else odds.n,
        "known": odds is not None and odds.known,
        "never_accepted": step.is_out_of_reach,
    }
