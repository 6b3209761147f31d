"""The direct answer: one prefill, then the answer, no thought."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.events import Event
from etui.reasoning.context_fit import SMALLEST_ANSWER_TOKENS, FittedPrompt, Reserve, fit
from etui.reasoning.control import Control
from etui.reasoning.decoding import Run, decode, finished, how_reply_ended, open_prompt
from etui.reasoning.prompts import direct_prompt


def direct(
    messages: Sequence[Message], arm: Arm, session: Session, control: Control
) -> Iterator[Event]:
    """Answer without a thought; a model that can think is told not to.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    facts = session.facts
    prompt = answer_prompt(messages, arm, session)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns)
    try:
        if opened.first is None:
            yield finished(
                opened, None, None, status="stopped", why="stopped while the prompt was computed"
            )
            return
        reply = yield from decode(
            session,
            opened.sequence,
            opened.first,
            Run(min(arm.max_tokens, facts.context_tokens - len(prompt.tokens)), facts.stop),
            control,
        )
        status, why = how_reply_ended(reply, arm)
        yield finished(opened, None, reply, status=status, why=why)
    finally:
        session.close(opened.sequence)


def answer_prompt(messages: Sequence[Message], arm: Arm, session: Session) -> FittedPrompt:
    """The prompt of an answer without a thought, fitted into the context.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """

    def render(kept: Sequence[Message]) -> str:
        return direct_prompt(session.render(kept, thinking=False), session.facts)

    least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    return fit(messages, render, session, Reserve(least, arm.max_tokens, arm.context_overflow))
