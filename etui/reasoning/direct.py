"""Direct answer: one prefill, then the answer, without thinking."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.events import Event
from etui.reasoning.context_fit import SMALLEST_ANSWER_TOKENS, FittedPrompt, Reserve, fit
from etui.reasoning.control import Control
from etui.reasoning.decoding import (
    Run,
    build_finished,
    decode,
    describe_ending,
    end_speculation,
    open_prompt,
    start_speculation,
)
from etui.reasoning.loop_guard import build_guard
from etui.reasoning.prompts import direct_prompt


def direct(
    messages: Sequence[Message], arm: Arm, session: Session, control: Control
) -> Iterator[Event]:
    """Answer without thinking; models that can think are switched to not thinking.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    facts = session.facts
    prompt = answer_prompt(messages, arm, session)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns)
    try:
        if opened.first is None:
            yield build_finished(
                opened, None, None, status="stopped", why="stopped while computing the prompt"
            )
            return
        refused = start_speculation(session, opened.sequence, arm)
        reply = yield from decode(
            session,
            opened.sequence,
            opened.first,
            Run(
                min(arm.max_tokens, facts.context_tokens - len(prompt.tokens)),
                facts.stop,
                guard=build_guard(arm, messages[-1].content),
            ),
            control,
        )
        yield from end_speculation(session, opened.sequence, arm)
        status, why = describe_ending(reply, arm)
        why = "; ".join(part for part in (why, refused) if part)
        yield build_finished(opened, None, reply, status=status, why=why)
    finally:
        session.close(opened.sequence)


def answer_prompt(messages: Sequence[Message], arm: Arm, session: Session) -> FittedPrompt:
    """Build the prompt of an answer without thinking, fitted into the context.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """

    def render(kept: Sequence[Message]) -> str:
        return direct_prompt(session.render(kept, thinking=False), session.facts)

    least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    return fit(messages, render, session, Reserve(least, arm.max_tokens, arm.context_overflow))
