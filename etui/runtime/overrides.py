"""Apply command-line overrides to a decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from etui.arm import VOTE_TEMPERATURE, Arm, Reasoning, StopRuleName, Style
from etui.errors import UsageError
from etui.routing.decision import Decision

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user named; None leaves it to the policy, or to the arm's default.

    ``model`` spells an arm out and asks no policy; ``arm`` takes an arm of the policy without
    asking its rules; the rest changes the arm that was found. ``over_budget`` says yes ahead to a
    budget that would ask.
    """

    model: str | None = None
    policy: str | None = None
    arm: str | None = None
    reasoning: Reasoning | None = None
    think_tokens: int | None = None
    votes: int | None = None
    stop: StopRuleName | None = None
    style: Style | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    over_budget: bool = False


def apply_overrides(decision: Decision, overrides: Overrides) -> Decision:
    """The decision with its arms changed as the command line says.

    Overrides for a way of reasoning ask for one answer, so a cascade is then its first arm alone.
    """
    arm = _override_arm(decision.arm, overrides)
    _check_effect(arm, overrides)
    cascade = decision.cascade
    if cascade is None:
        return replace(decision, arm=arm)
    ways = (
        overrides.reasoning,
        overrides.think_tokens,
        overrides.votes,
        overrides.stop,
        overrides.style,
    )
    if any(way is not None for way in ways):
        alone = f"{arm.name} answers alone, as its way of reasoning was named"
        return replace(decision, arm=arm, cascade=None, notices=(*decision.notices, alone))
    arms = tuple(_override_arm(each, overrides) for each in cascade.arms)
    return replace(decision, arm=arm, cascade=replace(cascade, arms=arms))


def _override_arm(arm: Arm, overrides: Overrides) -> Arm:
    reasoning = overrides.reasoning or arm.reasoning
    temperature = _or(overrides.temperature, arm.sampling.temperature)
    if reasoning == "vote" and temperature == 0 and overrides.temperature is None:
        temperature = VOTE_TEMPERATURE
    return replace(
        arm,
        reasoning=reasoning,
        think_tokens=_or(overrides.think_tokens, arm.think_tokens),
        votes=_or(overrides.votes, arm.votes),
        stop=replace(arm.stop, rule=overrides.stop or arm.stop.rule),
        style=overrides.style or arm.style,
        max_tokens=_or(overrides.max_tokens, arm.max_tokens),
        sampling=replace(
            arm.sampling, temperature=temperature, seed=_or(overrides.seed, arm.sampling.seed)
        ),
    )


def _check_effect(arm: Arm, overrides: Overrides) -> None:
    """Refuse overrides that would change nothing.

    Raises:
        UsageError: Says which, and what to do instead.
    """
    if arm.reasoning == "direct" and _or(overrides.think_tokens, 0):
        raise UsageError(
            "--think-tokens has no effect on a direct answer",
            "add --reasoning cot, or leave it out",
        )
    if arm.reasoning != "vote" and (overrides.votes is not None or overrides.stop is not None):
        option = "--votes" if overrides.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect on a single answer ({arm.reasoning})",
            "add --reasoning vote, or leave it out",
        )
    if arm.reasoning == "vote" and arm.votes > 1 and arm.sampling.temperature == 0:
        raise UsageError(
            "votes drawn with --temperature 0 are all the same",
            f"raise it (without it votes are drawn with {VOTE_TEMPERATURE}), or use --votes 1",
        )


def _or(given: T | None, default: T) -> T:
    return default if given is None else given
