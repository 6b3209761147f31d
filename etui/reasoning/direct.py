"""Direct answer: one prefill, then the answer, without thinking."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from etui.arm import Arm
from etui.chat import DEFAULT_OUTPUT, Message
from etui.engine.session import Session
from etui.errors import ContextOverflow, InvalidRequest
from etui.events import Answer, Event
from etui.reasoning.context_fit import (
    SMALLEST_ANSWER_TOKENS,
    FittedPrompt,
    Reserve,
    count_least_tokens,
    fit,
)
from etui.reasoning.decoding import (
    Control,
    Run,
    TokenLog,
    build_finished,
    decode,
    describe_ending,
    end_speculation,
    open_prompt,
    start_speculation,
)
from etui.reasoning.loop_guard import build_guard
from etui.reasoning.output import PLAIN, Output, check_continuation
from etui.reasoning.prompts import direct_prompt

_COMPARED_CHARACTERS = 48
"""Characters at the end of an answer by which its tokens are recognised."""

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
    begun = _go_on(messages, arm, session, output)
    prompt = begun.prompt
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
        run = Run(
            min(arm.max_tokens, facts.context_tokens - len(prompt.tokens)),
            (*facts.stop, *output.stop),
            begun.text + begun.gap,
            guard=build_guard(arm, messages[-1].content),
            log=log,
        )
        run.begin_with(begun.unfinished)
        if begun.gap:
            yield Answer(opened.first.at_ns, begun.gap, 0)
        reply = yield from decode(session, opened.sequence, opened.first, run, control)
        yield from end_speculation(session, opened.sequence, arm)
        status, why = describe_ending(reply, arm)
        why = "; ".join(part for part in (why, refused) if part)
        yield build_finished(opened, None, reply, status=status, why=why)
    finally:
        session.close(opened.sequence)


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt of an answer, and the text that an answer which goes on begins with."""

    prompt: FittedPrompt  # The prompt; of an answer that goes on, with its tokens so far
    text: str = ""  # The text so far; empty for a new answer
    gap: str = ""  # White space that the model wrote behind it, which no record has
    unfinished: bytes = b""  # Bytes of a character that the next token completes


def _go_on(messages: Sequence[Message], arm: Arm, session: Session, output: Output) -> Begun:
    """Build the prompt, with the very tokens of the answer that goes on if the engine has them."""
    if not output.continues or messages[-1].role != "assistant":
        return Begun(answer_prompt(messages, arm, session, output))
    text = messages[-1].content
    recalled = session.recall(output.continues)
    found = None if recalled is None else split_tail(recalled.tail, text)
    least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    if recalled is not None and found is not None:
        tokens = list(recalled.tokens)
        if len(tokens) + least <= session.facts.context_tokens:
            return Begun(FittedPrompt(tokens, 0), *found)
    check_continuation(DEFAULT_OUTPUT, session.facts)
    return Begun(answer_prompt(messages, arm, session, output), text)


def split_tail(tail: bytes, text: str) -> tuple[str, str, bytes] | None:
    """Find where a text ends in the bytes of the tokens that end with it.

    Args:
        text: The text so far, as it was recorded: stripped, and with U+FFFD for a character that
            was cut.

    Returns:
        The text without that mark, the white space behind it, and the bytes of the cut character;
        None if the tokens are not those of the text.
    """
    for kept in (text.rstrip(), text.rstrip().removesuffix("\ufffd")):
        end = kept[-_COMPARED_CHARACTERS:].encode(errors="replace")
        at = tail.rfind(end)
        if not end or at < 0:
            continue
        rest = tail[at + len(end) :]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        gap = decoder.decode(rest)
        if not gap.strip():
            return kept, gap, decoder.getstate()[0]
    return None


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
