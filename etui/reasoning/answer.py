"""Answer a conversation with the reasoning method of an arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.engine.session import Session
from etui.errors import UsageError
from etui.events import Event, Finished
from etui.reasoning.choice_readout import choices
from etui.reasoning.control import Control
from etui.reasoning.cot import chain_of_thought
from etui.reasoning.direct import direct
from etui.reasoning.output import PLAIN, Output, adapt_arm, build_output, is_plain
from etui.reasoning.several import several
from etui.reasoning.tool_events import separate_calls
from etui.reasoning.vote import vote


def answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None = None,
    options: OutputOptions = DEFAULT_OUTPUT,
) -> Iterator[Event]:
    """Answer the last message of a conversation.

    Args:
        arm: How to answer; its model is the session's.
        session: The loaded model.
        control: Polled between tokens and between prefill batches.
        price: Energy cost of tokens, which limits the thinking; None if unknown.
        options: What is asked of the form of the answer. An arm that cannot keep to it answers
            directly, and ``Finished.why`` says so.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        InvalidRequest: The model cannot answer in the form asked for.
        UsageError: The reasoning method of the arm is unknown.
    """
    if is_plain(options, messages):
        yield from _answer(messages, arm, session, control, price, PLAIN)
        return
    arm, note = adapt_arm(arm, options, session.facts, messages)
    output = build_output(options, arm, session.facts, messages)
    if options.count > 1:
        events = several(messages, arm, session, control, output, options.count)
    else:
        events = _answer(messages, arm, session, control, price, output)
        if output.tool_format:
            events = separate_calls(events, output)
    for event in events:
        if note and isinstance(event, Finished):
            event = replace(event, why="; ".join(part for part in (note, event.why) if part))
        yield event


def _answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None,
    output: Output,
) -> Iterator[Event]:
    match arm.reasoning:
        case "direct" if arm.readout == "choices":
            yield from choices(messages, arm, session, control, output)
        case "direct":
            yield from direct(messages, arm, session, control, output)
        case "cot":
            yield from chain_of_thought(messages, arm, session, control, price, output)
        case "vote":
            yield from vote(messages, arm, session, control, output)
        case other:
            raise UsageError(
                f"arm {arm.name!r} has the reasoning method {other!r}, which etui does not support",
                "use direct, cot or vote",
            )
