"""Arms of a run, from the command line or from a policy, and their form in ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etui.arm import (
    VOTE_TEMPERATURE,
    Arm,
    Reasoning,
    Sampling,
    SamplingFrom,
    Speculate,
    StopRuleName,
)
from etui.bench.config import RunConfig
from etui.bench.formats import Format
from etui.codec import DocumentError, from_document, to_document
from etui.errors import InvalidFile, UsageError
from etui.routing.decide import decide_arm
from etui.routing.decision import Decision
from etui.routing.policy import Available, Policy, build_availability_test, choose_served_arm

ANSWER_TOKENS = 64  # Most answer tokens for a question with options, without the thinking


@dataclass(frozen=True, slots=True)
class ArmOverrides:
    """Settings of the command line that override those of an arm; None leaves a setting as is."""

    think_tokens: int | None = None
    votes: int | None = None
    stop: StopRuleName | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    loop_guard: bool | None = None


def build_arms(
    models: Sequence[str],
    reasonings: Sequence[Reasoning],
    overrides: ArmOverrides,
    format_: Format,
    *,
    answer_tokens: int = ANSWER_TOKENS,
) -> dict[str, Arm]:
    """Build an arm for each pair of a model and a reasoning method, or that of the format."""
    ways: Sequence[Reasoning] = reasonings or (("cot",) if format_.name == "cot" else ("direct",))
    arms: dict[str, Arm] = {}
    for model in models:
        for way in ways:
            arm = apply_overrides(Arm("", model, way, max_tokens=answer_tokens), overrides)
            name = _name(arm, format_)
            arms[name] = replace(arm, name=name)
    _check_effect(arms.values(), overrides)
    return arms


def speculate_arms(arms: Mapping[str, Arm], methods: Sequence[Speculate]) -> dict[str, Arm]:
    """Set the speculation of arms; with several methods, each arm becomes one for each of them.

    Votes are never speculated and stay as they are.
    """
    if not methods:
        return dict(arms)
    if all(arm.reasoning == "vote" for arm in arms.values()) and set(methods) != {"off"}:
        raise UsageError(
            "--speculate and votes exclude each other: votes share each batch already",
            "add --reasoning direct or cot, or remove the option",
        )
    made: dict[str, Arm] = {}
    for name, arm in arms.items():
        if arm.reasoning == "vote":
            made[name] = arm
            continue
        for method in methods:
            own = name if len(methods) == 1 else f"{name} {method}"
            made[own] = replace(arm, name=own, speculate=method)
    return made


def choose_policy_arms(
    policy: Policy, names: Sequence[str], available: Available, overrides: ArmOverrides
) -> dict[str, Arm]:
    """Choose arms of a policy by name, on models that are available."""
    chosen = [decide_arm(policy, name, available=available).arm for name in dict.fromkeys(names)]
    arms = {arm.name: apply_overrides(close_sampling(arm), overrides) for arm in chosen}
    _check_effect(arms.values(), overrides)
    return arms


def list_policy_arms(policy: Policy, available: Available) -> dict[str, Arm]:
    """Return every arm of a policy that a model on this machine can serve."""
    is_available = build_availability_test(available)
    found = (choose_served_arm(plan, is_available) for plan in policy.arms.values())
    return {arm.name: close_sampling(arm) for arm in found if arm is not None}


def close_sampling(arm: Arm) -> Arm:
    """Keep the sampling that the arm has, so that its model is not asked for another.

    Answers of a run stay greedy by default, so that a run can be repeated and its arms compared.
    """
    return replace(arm, sampling_from=SamplingFrom())


def close_decision(decision: Decision) -> Decision:
    """Apply :func:`close_sampling` to every arm of a decision."""
    cascade, fallbacks = decision.cascade, decision.fallbacks
    if cascade is not None:
        cascade = replace(cascade, arms=tuple(close_sampling(arm) for arm in cascade.arms))
    if fallbacks.load_failed is not None:
        fallbacks = replace(fallbacks, load_failed=close_sampling(fallbacks.load_failed))
    arm = close_sampling(decision.arm)
    return replace(decision, arm=arm, cascade=cascade, fallbacks=fallbacks)


def apply_overrides(arm: Arm, overrides: ArmOverrides) -> Arm:
    """Apply the overrides to an arm; votes are never sampled greedily by default."""
    temperature = (
        arm.sampling.temperature if overrides.temperature is None else overrides.temperature
    )
    if arm.reasoning == "vote" and temperature == 0 and overrides.temperature is None:
        temperature = VOTE_TEMPERATURE
    thinks, votes = arm.reasoning != "direct", arm.reasoning == "vote"
    return replace(
        arm,
        think_tokens=_default(overrides.think_tokens if thinks else None, arm.think_tokens),
        votes=_default(overrides.votes if votes else None, arm.votes),
        stop=replace(arm.stop, rule=overrides.stop if overrides.stop and votes else arm.stop.rule),
        max_tokens=_default(overrides.max_tokens, arm.max_tokens),
        loop_guard=arm.loop_guard if overrides.loop_guard is None else overrides.loop_guard,
        sampling=replace(arm.sampling, temperature=temperature),
    )


def check_format(arms: Mapping[str, Arm], format_: Format) -> None:
    """Check that a format fits the reasoning method of every arm, or name one that does."""
    for arm in arms.values():
        if not format_.generates and arm.reasoning != "direct":
            raise UsageError(
                f"format {format_.name} only reads log-probabilities, but {arm.name} uses "
                f"{arm.reasoning} reasoning",
                "use --format chat or cot",
            )
        if format_.raw and (arm.reasoning != "direct" or arm.readout == "choices"):
            way = arm.reasoning if arm.reasoning != "direct" else "the readout of letters"
            raise UsageError(
                f"format {format_.name} is a text that the model continues, in which {way} has no "
                f"place, but {arm.name} uses it",
                "use --format chat or cot, or --reasoning direct",
            )
        if format_.name == "cot" and arm.reasoning == "direct":
            raise UsageError(
                f"format cot needs reasoning, but {arm.name} answers directly",
                "use --format chat, or --reasoning cot",
            )


def to_json(arm: Arm) -> dict[str, Any]:
    """Return all settings of an arm as plain JSON values.

    Later additions appear only where they are used, so that an older run keeps its hash and
    resumes. Without ``loop_guard`` the guard is off in a bench.
    """
    document: dict[str, Any] = to_document(arm)
    if arm.speculate == "off":
        del document["speculate"]
    if arm.sampling_from == SamplingFrom():
        del document["sampling_from"]
    for name in (
        "repeat_penalty",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
    ):
        if getattr(arm.sampling, name) == getattr(Sampling(), name):
            del document["sampling"][name]
    if arm.loop_guard is None:
        del document["loop_guard"]
    return document


def parse_arm(document: object) -> Arm:
    """Parse the document that :func:`to_json` returns; DocumentError if it is not an arm."""
    return from_document(Arm, document)


def parse_arms(run: RunConfig) -> dict[str, Arm]:
    """Parse the arms of a run; InvalidFile if its ``config.json`` has one that is none."""
    try:
        return {name: parse_arm(document) for name, document in run.arms.items()}
    except DocumentError as error:
        what = f"config.json of run {run.run_id} has an arm that cannot be read: {error}"
        raise InvalidFile(what, "start a new run") from error


def _name(arm: Arm, format_: Format) -> str:
    if not format_.generates or format_.raw:
        return arm.model
    match arm.reasoning:
        case "cot":
            return f"{arm.model} cot {arm.think_tokens}"
        case "vote":
            return f"{arm.model} vote {arm.votes}x{arm.think_tokens}"
        case _:
            return f"{arm.model} direct"


def _check_effect(arms: Iterable[Arm], overrides: ArmOverrides) -> None:
    ways = {arm.reasoning for arm in arms}
    if overrides.think_tokens is not None and ways == {"direct"}:
        raise UsageError(
            "--think-tokens has no effect on direct answers",
            "add --reasoning cot, or remove the option",
        )
    if (overrides.votes is not None or overrides.stop is not None) and "vote" not in ways:
        option = "--votes" if overrides.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect without a vote", "add --reasoning vote, or remove the option"
        )


def _default(value: int | None, default: int) -> int:
    return default if value is None else value
