"""Turn the reasoning effort that a client asks for into the depth of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from etui.arm import Arm
from etui.errors import InvalidRequest
from etui.routing.decision import Decision
from etui.routing.limits import EFFORTS
from etui.text.suggest import suggest

THINK_TOKENS: Final[Mapping[str, int]] = MappingProxyType(
    dict(zip(EFFORTS, (0, 64, 128, 256, 512, 1024, 2048), strict=True))
)
"""The ladder: thinking tokens of each effort, where the policy has no table of its own."""


def check_effort(effort: str) -> str:
    """Return an effort that exists.

    Raises:
        InvalidRequest: There is none of this name; the fix names the nearest.
    """
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
