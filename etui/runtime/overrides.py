"""The options of a user and the effort of a client, applied to a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, TypeVar

from etui.arm import VOTE_TEMPERATURE, Arm, Reasoning, Speculate, StopRuleName, Style
from etui.errors import InvalidRequest, UsageError
from etui.routing.decision import EFFORTS, Decision
from etui.text import suggest

THINK_TOKENS: Final[Mapping[str, int]] = MappingProxyType(
    dict(zip(EFFORTS, (0, 64, 128, 256, 512, 1024, 2048), strict=True))
)
"""The ladder: thinking tokens of each effort, where the policy has no table of its own."""

_REASONING = ("reasoning", "think_tokens", "votes", "stop", "style")
"""Options that ask for a single answer."""

_SAMPLED = ("top_p", "top_k", "min_p", "repeat_penalty", "repeat_last_n", "presence_penalty")
"""Options that replace a value of the arm's sampling as they are."""

T = TypeVar("T")


def check_effort(effort: str) -> str:
    """Return an effort that exists; InvalidRequest names the nearest of one that does not."""
    if effort in THINK_TOKENS:
        return effort
    raise InvalidRequest(
        f"unknown reasoning effort {effort!r}",
        suggest(effort.lower(), THINK_TOKENS) or f"use one of: {', '.join(THINK_TOKENS)}",
        param="reasoning_effort",
    )


def apply_effort(decision: Decision, effort: str) -> Decision:
    """Return a decision whose arm thinks as much as an effort asks for.

    The model stays the one that was chosen. ``none`` answers directly, with one answer. The other
    efforts think up to the tokens of the ladder: a direct arm becomes one that thinks, votes think
    as much each, and a chosen letter is decoded as a text. A cascade is reduced to its first arm,
    because the effort, not the confidence, says how much to spend. The arm that answers if a model
    cannot be loaded stays as it is.
    """
    arm, tokens = decision.arm, THINK_TOKENS[effort]
    changed = _answer_directly(arm) if tokens == 0 else _think(arm, tokens)
    depth = "without thinking" if tokens == 0 else f"up to {tokens} thinking tokens"
    why = f"{decision.why}; reasoning_effort {effort}: {depth}"
    if decision.cascade is None:
        return replace(decision, arm=changed, why=why)
    notice = f"only {arm.name} answers, not the cascade: a reasoning effort was given"
    return replace(
        decision, arm=changed, why=why, cascade=None, notices=(*decision.notices, notice)
    )


def _answer_directly(arm: Arm) -> Arm:
    if arm.reasoning == "direct":
        return arm
    sampling, origin = arm.sampling, arm.sampling_from
    if origin.temperature == "vote":  # only votes need to differ
        sampling = replace(sampling, temperature=Arm("", "").sampling.temperature)
        origin = replace(origin, temperature="default")
    return replace(
        arm, reasoning="direct", style="auto", early_exit=None, exchange=None,
        sampling=sampling, sampling_from=origin,
    )  # fmt: skip


def _think(arm: Arm, tokens: int) -> Arm:
    if arm.reasoning == "direct":
        return replace(arm, reasoning="cot", think_tokens=tokens, readout="text")
    return replace(arm, think_tokens=tokens)


def asks_for_reasoning(overrides: Overrides) -> bool:
    """Return whether options say how much to think, so that an effort does not."""
    return overrides.reasoning is not None or overrides.think_tokens is not None


@dataclass(frozen=True, slots=True)
class Overrides:
    """The user's options; None leaves a value to the policy or to the arm's default.

    ``model`` defines an arm without any policy; ``arm`` names an arm of the policy and skips its
    rules; the other options change the chosen arm. ``over_budget`` answers yes in advance to a
    budget that would ask. ``lenient`` leaves out what votes cannot have (a temperature of 0, with
    which they would be identical) instead of refusing it, for clients that do not know the arm.
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
    speculate: Speculate | None = None
    loop_guard: bool | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    lenient: bool = False


def apply_overrides(decision: Decision, overrides: Overrides) -> Decision:
    """Return a decision with its arms changed by the overrides; UsageError if one has no effect.

    Options for reasoning ask for a single answer, so they reduce a cascade to its first arm. They
    leave the arm that answers if a model cannot be loaded as it is; the other options change it.
    """
    arm = _override_arm(decision.arm, overrides)
    _check_effect(arm, overrides)
    instead = decision.fallbacks.load_failed
    if instead is not None:
        none: dict[str, Any] = dict.fromkeys(_REASONING)
        plain = replace(overrides, **none)
        if overrides.speculate == "draft":  # its model may have none, and its answer would fail too
            plain = replace(plain, speculate=None)
        fallbacks = replace(decision.fallbacks, load_failed=_override_arm(instead, plain))
        decision = replace(decision, fallbacks=fallbacks)
    cascade = decision.cascade
    if cascade is None:
        return replace(decision, arm=arm)
    if any(getattr(overrides, name) is not None for name in _REASONING):
        notice = f"only {arm.name} answers, not the cascade: a reasoning option was given"
        return replace(decision, arm=arm, cascade=None, notices=(*decision.notices, notice))
    arms = tuple(_override_arm(each, overrides) for each in cascade.arms)
    return replace(decision, arm=arm, cascade=replace(cascade, arms=arms))


def set_loop_guard(decision: Decision, default: bool) -> Decision:
    """Return a decision whose arms say whether they have a loop guard: by default as given."""

    def with_guard(arm: Arm) -> Arm:
        return replace(arm, loop_guard=default) if arm.loop_guard is None else arm

    cascade, instead = decision.cascade, decision.fallbacks.load_failed
    if cascade is not None:
        cascade = replace(cascade, arms=tuple(map(with_guard, cascade.arms)))
    if instead is not None:
        instead = with_guard(instead)
    return replace(
        decision,
        arm=with_guard(decision.arm),
        cascade=cascade,
        fallbacks=replace(decision.fallbacks, load_failed=instead),
    )


def _override_arm(arm: Arm, overrides: Overrides) -> Arm:
    reasoning = overrides.reasoning or arm.reasoning
    if overrides.lenient and reasoning == "vote" and overrides.temperature == 0:
        overrides = replace(overrides, temperature=None)
    temperature = _or(overrides.temperature, arm.sampling.temperature)
    origin = arm.sampling_from.temperature if overrides.temperature is None else "option"
    if reasoning == "vote" and temperature == 0 and overrides.temperature is None:
        temperature, origin = VOTE_TEMPERATURE, "vote"
    given = {name: getattr(overrides, name) for name in _SAMPLED}
    stated = {name: value for name, value in given.items() if value is not None}
    origins: dict[str, Any] = dict.fromkeys(stated, "option")
    return replace(
        arm,
        reasoning=reasoning,
        think_tokens=_or(overrides.think_tokens, arm.think_tokens),
        votes=_or(overrides.votes, arm.votes),
        stop=replace(arm.stop, rule=overrides.stop or arm.stop.rule),
        style=overrides.style or arm.style,
        max_tokens=_or(overrides.max_tokens, arm.max_tokens),
        loop_guard=_or(overrides.loop_guard, arm.loop_guard),
        sampling=replace(
            arm.sampling,
            temperature=temperature,
            seed=_or(overrides.seed, arm.sampling.seed),
            frequency_penalty=_or(overrides.frequency_penalty, arm.sampling.frequency_penalty),
            **stated,
        ),
        speculate="off" if reasoning == "vote" else overrides.speculate or arm.speculate,
        sampling_from=replace(arm.sampling_from, temperature=origin, **origins),
    )


def _check_effect(arm: Arm, overrides: Overrides) -> None:
    """Refuse overrides that would change nothing."""
    if arm.reasoning == "direct" and _or(overrides.think_tokens, 0):
        raise UsageError(
            "--think-tokens has no effect on a direct answer",
            "add --reasoning cot, or remove it",
        )
    if arm.reasoning != "vote" and (overrides.votes is not None or overrides.stop is not None):
        option = "--votes" if overrides.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect on a single answer ({arm.reasoning})",
            "add --reasoning vote, or remove it",
        )
    if arm.reasoning == "vote" and overrides.speculate not in (None, "off"):
        raise UsageError(
            "--speculate and votes exclude each other: votes share each batch already",
            "remove --speculate, or add --reasoning direct or cot",
        )
    if arm.reasoning == "vote" and arm.votes > 1 and arm.sampling.temperature == 0:
        raise UsageError(
            "votes sampled with --temperature 0 are all the same",
            f"raise it (the default for votes is {VOTE_TEMPERATURE}), or use --votes 1",
        )


def _or(given: T | None, default: T) -> T:
    return default if given is None else given
