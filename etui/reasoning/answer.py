"""Answer a conversation with the reasoning method of an arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from etui.arm import Arm, TokenCost
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import UsageError
from etui.events import Event
from etui.reasoning.choice_readout import choices
from etui.reasoning.control import Control
from etui.reasoning.cot import chain_of_thought
from etui.reasoning.direct import direct
from etui.reasoning.vote import vote


def answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None = None,
) -> Iterator[Event]:
    """Answer the last message of a conversation.

    Args:
        messages: The conversation, the question last.
        arm: How to answer; its model is the session's.
        session: The loaded model.
        control: Polled between tokens and between prefill batches.
        price: Energy cost of tokens, which limits the thinking; None if unknown.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        UsageError: The reasoning method of the arm is unknown.
    """
    match arm.reasoning:
        case "direct" if arm.readout == "choices":
            yield from choices(messages, arm, session, control)
        case "direct":
            yield from direct(messages, arm, session, control)
        case "cot":
            yield from chain_of_thought(messages, arm, session, control, price)
        case "vote":
            yield from vote(messages, arm, session, control)
        case other:
            raise UsageError(
                f"arm {arm.name!r} has the reasoning method {other!r}, which etui does not support",
                "use direct, cot or vote",
            )
