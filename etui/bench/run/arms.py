"""The arms of a run: spelled out, or of a policy; into ``config.json`` and out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etui.arm import VOTE_TEMPERATURE, Arm, Reasoning, StopRuleName
from etui.bench.prompts.formats import Format
from etui.errors import UsageError
from etui.text.codec import from_document, to_document

if TYPE_CHECKING:
    from etui.routing.availability import Available
    from etui.routing.policy import Policy

ANSWER_TOKENS = 64
"""Tokens of an answer to a question with options, beside the thought."""


@dataclass(frozen=True, slots=True)
class ArmOverrides:
    """What the command line says of an arm; None leaves it as it is."""

    think_tokens: int | None = None
    votes: int | None = None
    stop: StopRuleName | None = None
    max_tokens: int | None = None
    temperature: float | None = None


def spelled_out(
    models: Sequence[str], reasonings: Sequence[Reasoning], wish: ArmOverrides, format_: Format
) -> dict[str, Arm]:
    """An arm for each model and each way of reasoning.

    Raises:
        UsageError: The wish has no effect on any of them.
    """
    ways: Sequence[Reasoning] = reasonings or (("cot",) if format_.name == "cot" else ("direct",))
    arms: dict[str, Arm] = {}
    for model in models:
        for way in ways:
            arm = changed(Arm("", model, way, max_tokens=ANSWER_TOKENS), wish)
            name = _name(arm, format_)
            arms[name] = replace(arm, name=name)
    _check_effect(arms.values(), wish)
    return arms


def of_policy(
    policy: Policy, names: Sequence[str], available: Available, wish: ArmOverrides
) -> dict[str, Arm]:
    """Arms of a policy by name, on the models that are here.

    Raises:
        UsageError: The policy has no such arm.
        ModelUnavailable: None of its models is on this machine.
    """
    from etui.routing.decide import decide_arm

    chosen = [decide_arm(policy, name, available=available).arm for name in dict.fromkeys(names)]
    arms = {arm.name: changed(arm, wish) for arm in chosen}
    _check_effect(arms.values(), wish)
    return arms


def all_of_policy(policy: Policy, available: Available) -> dict[str, Arm]:
    """Every arm of a policy that a model on this machine can serve."""
    from etui.routing.availability import as_test, served

    here = as_test(available)
    found = (served(plan, here) for plan in policy.arms.values())
    return {arm.name: arm for arm in found if arm is not None}


def changed(arm: Arm, wish: ArmOverrides) -> Arm:
    """The arm as the command line wants it; votes are never drawn greedily."""
    temperature = arm.sampling.temperature if wish.temperature is None else wish.temperature
    if arm.reasoning == "vote" and temperature == 0 and wish.temperature is None:
        temperature = VOTE_TEMPERATURE
    thinks, votes = arm.reasoning != "direct", arm.reasoning == "vote"
    return replace(
        arm,
        think_tokens=_or(wish.think_tokens if thinks else None, arm.think_tokens),
        votes=_or(wish.votes if votes else None, arm.votes),
        stop=replace(arm.stop, rule=wish.stop if wish.stop and votes else arm.stop.rule),
        max_tokens=_or(wish.max_tokens, arm.max_tokens),
        sampling=replace(arm.sampling, temperature=temperature),
    )


def check_format(arms: Mapping[str, Arm], format_: Format) -> None:
    """Refuse arms that a format does not ask in their own way.

    Raises:
        UsageError: Says which, and which format does.
    """
    for arm in arms.values():
        if not format_.generates and arm.reasoning != "direct":
            raise UsageError(
                f"format {format_.name} reads log-probabilities and generates nothing, and "
                f"{arm.name} reasons by {arm.reasoning}",
                "use --format chat or cot",
            )
        if format_.name == "cot" and arm.reasoning == "direct":
            raise UsageError(
                f"format cot thinks before it answers, and {arm.name} answers directly",
                "use --format chat, or --reasoning cot",
            )


def to_json(arm: Arm) -> dict[str, Any]:
    """All settings of an arm as plain JSON values."""
    document: dict[str, Any] = to_document(arm)
    return document


def parse_arm(document: object) -> Arm:
    """Make the arm that :func:`to_json` wrote.

    Raises:
        DocumentError: The document holds none.
    """
    return from_document(Arm, document)


def _name(arm: Arm, format_: Format) -> str:
    if not format_.generates:
        return arm.model
    match arm.reasoning:
        case "cot":
            return f"{arm.model} cot {arm.think_tokens}"
        case "vote":
            return f"{arm.model} vote {arm.votes}x{arm.think_tokens}"
        case _:
            return f"{arm.model} direct"


def _check_effect(arms: Iterable[Arm], wish: ArmOverrides) -> None:
    ways = {arm.reasoning for arm in arms}
    if wish.think_tokens is not None and ways == {"direct"}:
        raise UsageError(
            "--think-tokens has no effect on direct answers", "add --reasoning cot, or leave it out"
        )
    if (wish.votes is not None or wish.stop is not None) and "vote" not in ways:
        option = "--votes" if wish.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect without a vote", "add --reasoning vote, or leave it out"
        )


def _or(wished: int | None, otherwise: int) -> int:
    return otherwise if wished is None else wished
