"""Direct answer: one prefill, then the answer, without thinking."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import ContextOverflow, InvalidRequest
from etui.events import Event
from etui.reasoning.context_fit import (
    SMALLEST_ANSWER_TOKENS,
    FittedPrompt,
    Reserve,
    count_least_tokens,
    fit,
)
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
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.prompts import direct_prompt
from etui.reasoning.token_log import TokenLog

_STAND_IN = "\U00100000"
"""The first of the private characters that a rendered text has in place of special tokens."""


def direct(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    output: Output = PLAIN,
) -> Iterator[Event]:
    """Answer without thinking; models that can think are switched to not thinking.

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    facts = session.facts
    prompt = answer_prompt(messages, arm, session, output)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns, grammar=output.grammar)
    try:
        if opened.first is None:
            yield build_finished(
                opened, None, None, status="stopped", why="stopped while computing the prompt"
            )
            return
        refused, log = "", None
        if output.top_logprobs is None:  # drafted tokens have no row of logits of their own
            refused = start_speculation(session, opened.sequence, arm)
        else:
            log = TokenLog(session, opened.sequence, output.top_logprobs)
        reply = yield from decode(
            session,
            opened.sequence,
            opened.first,
            Run(
                min(arm.max_tokens, facts.context_tokens - len(prompt.tokens)),
                (*facts.stop, *output.stop),
                guard=build_guard(arm, messages[-1].content),
                log=log,
            ),
            control,
        )
        yield from end_speculation(session, opened.sequence, arm)
        status, why = describe_ending(reply, arm)
        why = "; ".join(part for part in (why, refused) if part)
        yield build_finished(opened, None, reply, status=status, why=why)
    finally:
        session.close(opened.sequence)


def answer_prompt(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output = PLAIN
) -> FittedPrompt:
    """Build the prompt of an answer without thinking, fitted into the context.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        InvalidRequest: The chat template has no place for the tools.
    """
    least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    if output.raw:
        return _raw_prompt(messages[-1].content, output.prompt_tokens, session, least)

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, thinking=False, tools=output.tools)
        continues = kept[-1].role == "assistant"
        return rendered if continues else direct_prompt(rendered, session.facts)

    return fit(messages, render, session, Reserve(least, arm.max_tokens, arm.context_overflow))


def _raw_prompt(text: str, tokens: Sequence[int], session: Session, least: int) -> FittedPrompt:
    """Build the prompt of a raw completion, from which nothing can be left out.

    Special tokens in its text are read, as llama-server does: the whole prompt is the client's, so
    there is no template that it could break out of, and prompts to fill in the middle need them.
    """
    context_tokens = session.facts.context_tokens
    count = count_least_tokens(len(text))
    if count > context_tokens:
        raise ContextOverflow(count, context_tokens, least)
    found = list(tokens)
    if not found:
        # Stand-ins for special tokens are private characters; a raw text has none, so its own
        # private characters are read as they are.
        special = not any(char >= _STAND_IN for char in text)
        found = session.tokenize(text, bos=True, special=special)
    if not found:
        raise InvalidRequest("the prompt is empty", "send a text, or token ids", "prompt")
    if len(found) + least > context_tokens:
        raise ContextOverflow(len(found), context_tokens, least)
    return FittedPrompt(found, 0)
