"""Resolve how an arm samples: what it states itself, then what its model asks for."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from etui.arm import Arm, SamplingOrigin
from etui.models.spec import ModelSampling

LEAST_VOTE_TEMPERATURE = 0.5
"""Lowest temperature of a vote that a model may ask for: the lowest of those in Wang et al.,
"Self-Consistency Improves Chain of Thought Reasoning in Language Models" (2022)."""

_OPEN: tuple[SamplingOrigin, ...] = ("default", "vote")


def has_open_sampling(arm: Arm) -> bool:
    """Return whether the model may replace a value of the arm's sampling."""
    return any(origin in _OPEN for origin in asdict(arm.sampling_from).values())


def resolve_sampling(
    arm: Arm, asked: ModelSampling | None, origin: Literal["models.yaml", "gguf"], *, tags: bool
) -> Arm:
    """Replace the open values of an arm's sampling by those that its model asks for.

    A model that asks for less than ``LEAST_VOTE_TEMPERATURE`` does not set that of a vote: votes
    drawn nearly greedily are equal, cost joules and decide nothing.

    Args:
        arm: The arm; values that the policy or an option states are kept.
        asked: What the model asks for; None leaves the defaults.
        origin: Where ``asked`` comes from.
        tags: Whether the model has think tags. One that has thinks only in the native style: the
            ``plain`` and ``draft`` styles switch its own thinking off.

    Returns:
        The arm with concrete values and the origin of each.
    """
    if asked is None:
        return arm
    found: dict[str, tuple[float, SamplingOrigin]] = {
        name: (value, origin) for name, value in _given(asked).items()
    }
    if asked.thinking is not None and _thinks(arm, tags):
        thinking = _given(asked.thinking).items()
        found |= {name: (value, "models.yaml thinking") for name, value in thinking}
    origins = asdict(arm.sampling_from)
    values: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for name, (value, source) in found.items():
        votes = arm.reasoning == "vote" and arm.votes > 1
        too_cool = votes and name == "temperature" and value < LEAST_VOTE_TEMPERATURE
        if origins[name] in _OPEN and not too_cool:
            values[name], sources[name] = value, source
    return replace(
        arm,
        sampling=replace(arm.sampling, **values),
        sampling_from=replace(arm.sampling_from, **sources),
    )


def _given(asked: ModelSampling) -> dict[str, float]:
    values = asdict(asked)
    del values["thinking"]
    return {name: value for name, value in values.items() if value is not None}


def _thinks(arm: Arm, tags: bool) -> bool:
    """Return whether the model thinks in this arm, as :mod:`etui.reasoning.prompts` chooses it."""
    if arm.reasoning == "direct" or not arm.think_tokens:
        return False
    return arm.style in ("auto", "native") or not tags
