"""Plan an answer: its prompt, fitted into the context, and the tokens and the form of the rest."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from etui.arm import Arm
from etui.chat import DEFAULT_OUTPUT, Message
from etui.engine.session import Session
from etui.errors import ContextOverflow, InvalidRequest
from etui.reasoning.choice_readout import LetterBehind, plan_letter
from etui.reasoning.context_fit import (
    LIKELY_ANSWER_TOKENS,
    SMALLEST_ANSWER_TOKENS,
    FittedPrompt,
    Reserve,
    count_least_tokens,
    fit,
)
from etui.reasoning.infill import build_infill
from etui.reasoning.loop_guard import LoopGuard, build_guard
from etui.reasoning.output import PLAIN, Output, check_continuation
from etui.reasoning.prompts import (
    Thinking,
    answer_ends,
    build_thinking,
    choose_style,
    direct_prompt,
    open_thinking,
    with_instruction,
)

_COMPARED_CHARACTERS = 48
"""Characters at the end of an answer by which its tokens are recognised."""

_FIRST_PRIVATE = "\U00100000"
"""The first of the private characters that a rendered text has in place of special tokens."""


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """The prompt of an answer, and the limits and the form of what follows it."""

    prompt: FittedPrompt  # Of an answer that goes on, with its tokens so far
    answer_tokens: int  # Maximum number of answer tokens
    output: Output = PLAIN  # The form of the answer
    ends: tuple[str, ...] = ()  # Strings of the model's format that end the answer
    thinking: Thinking | None = None  # Texts that make the model think; None answers directly
    think_tokens: int = 0  # Maximum number of thinking tokens
    hand_over: tuple[int, ...] = ()  # Tokens of `thinking.hand_over`
    letter: LetterBehind | None = None  # Read behind the answer; None leaves it to its text
    guard: Callable[[], LoopGuard | None] = lambda: None
    """Builds the guard that ends the thinking or the answer if it repeats itself; None has none."""
    text: str = ""  # The text so far of an answer that goes on; empty for a new one
    gap: str = ""  # White space that the model wrote behind it, which no record has
    unfinished: bytes = b""  # Bytes of a character that the next token completes
    start_ns: int = field(default_factory=time.monotonic_ns)  # Start of the work on the answer


def plan_answer(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output = PLAIN
) -> AnswerPlan:
    """Plan the answer of an arm to the last message, with or without thinking.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        InvalidRequest: The chat template has no place for the tools.
    """
    start_ns, facts = time.monotonic_ns(), session.facts
    guard = partial(build_guard, arm, messages[-1].content)
    letter = None
    if arm.readout == "letter" and not output.is_formed:
        letter = plan_letter(session, messages[-1].content)
    behind = 0 if letter is None else letter.most_tokens
    if arm.reasoning == "direct" or (arm.reasoning == "vote" and not arm.think_tokens):
        prompt, text, gap, unfinished = _go_on(messages, arm, session, output, behind)
        return AnswerPlan(
            prompt,
            min(arm.max_tokens, facts.context_tokens - behind - len(prompt.tokens)),
            output,
            () if output.raw else answer_ends(facts, native=False, call_lead=output.call_lead),
            letter=letter,
            guard=guard,
            text=text,
            gap=gap,
            unfinished=unfinished,
            start_ns=start_ns,
        )
    thinking = build_thinking(choose_style(arm, facts), facts, output.call_lead)
    native = thinking.style == "native"
    ends = answer_ends(facts, native=native, call_lead=output.call_lead)
    hand_over = tuple(session.tokenize(thinking.hand_over))

    def render(kept: Sequence[Message]) -> str:
        think_tokens = max(1, arm.think_tokens) if native else 0
        rendered = session.render(kept, think_tokens=think_tokens, tools=output.tools)
        if not native:
            return direct_prompt(rendered, facts, output.call_lead)
        return open_thinking(rendered, thinking)

    least = len(hand_over) + min(arm.max_tokens, SMALLEST_ANSWER_TOKENS) + behind
    whole = len(hand_over) + arm.think_tokens + arm.max_tokens + behind
    asked = with_instruction(messages, thinking.style)
    prompt = fit(asked, render, session, Reserve(least, whole, arm.context_overflow))
    room = facts.context_tokens - len(prompt.tokens) - len(hand_over) - behind
    budget = thinking_budget(arm, room)
    limit = min(arm.max_tokens, room - budget)
    return AnswerPlan(
        prompt, limit, output, ends, thinking, budget, hand_over, letter, guard, start_ns=start_ns
    )


def thinking_budget(arm: Arm, room: int) -> int:
    """Compute the thinking budget: the arm's, or what the context leaves besides the answer.

    The answer's reserve shrinks to the smallest useful answer before the thinking shrinks to 0.

    Args:
        room: Tokens of the context after the prompt and the hand-over.
    """
    with_whole_answer = room - arm.max_tokens
    with_short_answer = room - min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    room_for_thought = max(with_whole_answer, min(with_short_answer, room // 2))
    return max(0, min(arm.think_tokens, room_for_thought))


def _go_on(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output, behind: int
) -> tuple[FittedPrompt, str, str, bytes]:
    """Build the prompt, with the very tokens of the answer that goes on if the engine has them."""
    if not output.continues or messages[-1].role != "assistant":
        return answer_prompt(messages, arm, session, output, behind), "", "", b""
    text = messages[-1].content
    recalled = session.recall(output.continues)
    found = None if recalled is None else split_tail(recalled.tail, text)
    if recalled is not None and found is not None:
        least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
        if len(recalled.tokens) + least <= session.facts.context_tokens:
            return FittedPrompt(list(recalled.tokens), 0), *found
    check_continuation(DEFAULT_OUTPUT, session.facts)
    return answer_prompt(messages, arm, session, output), text, "", b""


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
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        gap = decoder.decode(tail[at + len(end) :])
        if not gap.strip():
            return kept, gap, decoder.getstate()[0]
    return None


def answer_prompt(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    output: Output = PLAIN,
    behind: int = 0,
) -> FittedPrompt:
    """Build the prompt of an answer without thinking, fitted into the context.

    ``behind``: tokens that are computed behind the answer.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
        InvalidRequest: The chat template has no place for the tools.
    """
    if output.raw:
        return _raw_prompt(messages[-1].content, output, session, arm.max_tokens)

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, think_tokens=0, tools=output.tools)
        continues = kept[-1].role == "assistant"
        return rendered if continues else direct_prompt(rendered, session.facts, output.call_lead)

    least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS) + behind
    reserve = Reserve(least, arm.max_tokens + behind, arm.context_overflow)
    return fit(messages, render, session, reserve)


def _raw_prompt(text: str, output: Output, session: Session, most: int) -> FittedPrompt:
    """Build the prompt of a raw completion, from which nothing can be left out.

    Special tokens in its text are read, as llama-server does: the whole prompt is the client's, so
    there is no template that it could break out of, and prompts to fill in the middle need them.
    """
    context_tokens, least = session.facts.context_tokens, min(most, SMALLEST_ANSWER_TOKENS)
    if output.infill is not None:
        room = min(most, LIKELY_ANSWER_TOKENS)
        return FittedPrompt(build_infill(output.infill, session, room), 0)
    count = count_least_tokens(len(text))
    found = list(output.prompt_tokens)
    if not found and count <= context_tokens:
        # Private characters replace special tokens in rendered texts; a raw text is not rendered,
        # so its own private characters are read as they are.
        special = not any(char >= _FIRST_PRIVATE for char in text)
        found = session.tokenize(text, bos=True, special=special)
        if not found:
            raise InvalidRequest("the prompt is empty", "send a text, or token ids", "prompt")
    count = max(count, len(found))
    if count > context_tokens or len(found) + least > context_tokens:
        raise ContextOverflow(count, context_tokens, least)
    return FittedPrompt(found, 0)
