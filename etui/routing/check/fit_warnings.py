"""Warnings about the fit of a policy: arms without one, and steps that it never accepts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from etui.errors import Problem
from etui.routing.compile import sort_rules
from etui.routing.places import find_weights
from etui.routing.schema.policy_file import PolicyFile
from etui.yaml.load import Located


@dataclass(frozen=True, slots=True)
class FitFacts:
    """What was fitted for a policy."""

    arms: Mapping[str, str | None] = field(default_factory=dict)
    """Fitted arm -> the weights that answered; None for any model."""
    agreed: Mapping[tuple[str, ...], tuple[float, bool]] = field(default_factory=dict)
    """Arms of a step -> the highest probability of an answer that they agree on, and whether that
    is known from their answers: else it is the least that it can be."""

    def covers(self, arm: str, weights: Collection[str]) -> bool:
        """Return whether an arm was fitted, with one of these weights."""
        return arm in self.arms and (self.arms[arm] is None or self.arms[arm] in weights)


def find_unfitted(
    located: Located[PolicyFile], fit: FitFacts | None, models: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield objectives whose accuracy is neither fitted nor stated, or that may have no answer.

    Args:
        fit: What was fitted; None skips this check.
    """
    file = located.model
    for index, rule in enumerate(file.rules):
        objective = rule.objective
        if objective is None:
            continue
        loc = ("rules", index, "objective")
        if fit is not None and (objective.accuracy or objective.maximize):
            prior = objective.prior or {}
            unknown = [
                arm
                for arm in rule.arms or ()
                if arm not in prior and not fit.covers(arm, list_weights(file, arm, models))
            ]
            if unknown:
                then = f"'{rule.otherwise}' answers" if rule.otherwise else "it cannot choose"
                yield located.problem(
                    loc,
                    f"no accuracy was fitted or stated for {', '.join(unknown)}, so "
                    + (
                        f"{then} until you run `etui policy fit`"
                        if len(unknown) == len(rule.arms or ())
                        else "they never qualify until you run `etui policy fit`"
                    ),
                    key=True,
                )
        if rule.otherwise is None and rule is sort_rules(file.rules)[-1]:
            yield located.problem(
                loc,
                f"rule '{rule.name}' is the last and has no `otherwise`: if no candidate "
                "qualifies, no arm answers",
                key=True,
            )


def find_misfits(
    located: Located[PolicyFile], fit: FitFacts | None, models: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield the arms that were fitted with another model, and steps that no fit ever accepts.

    Args:
        fit: What was fitted; None skips this check.
    """
    if fit is None:
        return
    file = located.model
    weights = {arm: list_weights(file, arm, models) for arm in file.arms}
    for arm in file.arms:
        if arm in fit.arms and not fit.covers(arm, weights[arm]):
            yield located.problem(
                ("arms", arm, "model"),
                f"the fit of arm '{arm}' is of {fit.arms[arm]}, so nothing is predicted for it "
                "until you run `etui policy fit`",
            )
    for index, rule in enumerate(file.rules):
        cascade = rule.cascade
        for at, step in enumerate(cascade.arms if cascade is not None else ()):
            if isinstance(step, str) or not all(fit.covers(a, weights[a]) for a in step.agree):
                continue
            assert cascade is not None
            required = cascade.accept_at if step.accept is None else step.accept
            at_most, known = fit.agreed.get(step.agree, (1.0, True))
            if at_most < required:
                share = f"{100 * at_most:.1f} % of the time"
                why = f"by the fit it is right {share} at most"
                fix = "lower `accept`, or remove the step"
                if not known:
                    why = f"the fit knows only right and wrong, and of that {share} is certain"
                    fix = "fit it from bench runs, which have the answers, or lower `accept`"
                yield located.problem(
                    ("rules", index, "cascade", "arms", at, "agree"),
                    f"an answer that {_join(step.agree)} agree on is never accepted: {why}, and "
                    f"{100 * required:g} % is required; {fix}",
                )


def _join(arms: Sequence[str]) -> str:
    """Name the arms of a step: ``quick and tiny``, ``the votes of thrice``."""
    return f"the votes of {arms[0]}" if len(arms) == 1 else " and ".join(arms)


def list_weights(file: PolicyFile, arm: str, models: Collection[str]) -> frozenset[str]:
    """List the models that may answer for an arm, entries of the same weights as one."""
    asked = file.arms[arm].model
    return frozenset(find_weights(models, name) for name in file.models.get(asked, (asked,)))
