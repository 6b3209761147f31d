"""Plan an answer: its prompt, fitted into the context, and the tokens and the form of the rest."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from etui.arm import Arm
from etui.arm import ContextOverflow as OverflowRule
from etui.chat import DEFAULT_OUTPUT, Infill, Message
from etui.engine.session import Session
from etui.errors import ContextOverflow, InvalidRequest
from etui.reasoning.choice_readout import LetterBehind, plan_letter
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

SMALLEST_ANSWER_TOKENS = 16
"""Minimum room for an answer; a prompt that leaves less does not fit."""

MOST_TOKEN_CHARACTERS = 64
"""Characters of a token that no prompt has on average, were it of spaces alone."""

LIKELY_ANSWER_TOKENS = 64
"""Maximum reserve of room or joules for an answer: few answers use their whole budget."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits: its tokens, and the number of oldest messages dropped for that."""

    tokens: list[int]
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """Tokens of the context reserved for the thinking and the answer."""

    least: int  # Minimum for a usable answer
    whole: int  # Sum of the arm's budgets
    overflow: OverflowRule = "truncate_thought"
    """What is cut if not everything fits (``Arm.context_overflow``)."""

    def choose(self, is_shortest: bool) -> int:
        """Return what has to stay free; ``is_shortest`` if no turn is left to drop."""
        least = self.overflow == "truncate_thought" or (
            self.overflow == "drop_history" and is_shortest
        )
        return self.least if least else self.whole


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], str],
    session: Session,
    reserve: Reserve,
) -> FittedPrompt:
    """Drop the oldest turns until the prompt and the reserve fit; else ContextOverflow.

    What has to fit depends on ``reserve.overflow``: the least reserve with ``truncate_thought``;
    with ``drop_history`` the whole reserve as long as there are turns to drop, then the least one;
    with ``fail`` the whole reserve, and nothing is dropped.
    """
    context_tokens = session.facts.context_tokens

    def attempt(kept: Sequence[Message]) -> tuple[list[int], ContextOverflow | None]:
        is_shortest = reserve.overflow != "fail" and without_oldest(kept) is None
        free = reserve.choose(is_shortest)
        count = count_least_tokens(sum(map(_count_characters, kept)))
        tokens = []
        if count <= context_tokens:
            tokens = session.tokenize(render(kept), bos=True)
            count = len(tokens)
        fits = count + free <= context_tokens
        return tokens, None if fits else ContextOverflow(count, context_tokens, free)

    tokens, fault = attempt(tuple(messages))
    if fault is None:
        return FittedPrompt(tokens, 0)
    shorter = list(_shorten(messages)) if reserve.overflow != "fail" else []
    if shorter:
        tokens, fault = attempt(shorter[-1])
    if fault is not None:
        raise fault
    # Each is shorter than the one before it, so the first that fits is found by halving: a client
    # may send thousands of turns.
    low, high = 0, len(shorter) - 1
    while low < high:
        middle = (low + high) // 2
        tried, fault = attempt(shorter[middle])
        if fault is None:
            tokens, high = tried, middle
        else:
            low = middle + 1
    return FittedPrompt(tokens, len(messages) - len(shorter[high]))


def count_least_tokens(characters: int) -> int:
    """Count the tokens that a text has at least, without reading megabytes of it."""
    return characters // MOST_TOKEN_CHARACTERS


def _count_characters(message: Message) -> int:
    return len(message.content) + len(message.tool_calls)


def _shorten(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    kept = without_oldest(messages)
    while kept is not None:
        yield kept
        kept = without_oldest(kept)


def without_oldest(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """Drop the oldest turn of a conversation; None if only the last one is left.

    A turn is a question and everything up to the next one; the system prompt is always kept. So are
    the calls and results of tools after the last question, which mean nothing without each other.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    questions = [i for i, message in enumerate(messages) if message.role == "user"]
    last = questions[-1] if questions else len(messages) - 1
    if last <= first:
        return None
    end = first + 1
    while end < last and messages[end].role != "user":
        end += 1
    return (*messages[:first], *messages[end:])


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

    ContextOverflow if the question alone does not fit, InvalidRequest without a place for the
    tools.
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
            answer_ends(facts, native=False, call_lead=output.call_lead)
            if not output.options.raw
            else (),
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
    """Compute the thinking budget: the arm's, or what the answer leaves of the ``room`` for both.

    The answer's reserve shrinks to the smallest useful answer before the thinking shrinks to 0.
    """
    with_whole_answer = room - arm.max_tokens
    with_short_answer = room - min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    room_for_thought = max(with_whole_answer, min(with_short_answer, room // 2))
    return max(0, min(arm.think_tokens, room_for_thought))


def _go_on(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output, behind: int
) -> tuple[FittedPrompt, str, str, bytes]:
    """Build the prompt, with the very tokens of the answer that goes on if the engine has them."""
    if not output.options.continues or messages[-1].role != "assistant":
        return answer_prompt(messages, arm, session, output, behind), "", "", b""
    text = messages[-1].content
    recalled = session.recall(output.options.continues)
    found = None if recalled is None else split_tail(recalled.tail, text)
    if recalled is not None and found is not None:
        least = min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
        if len(recalled.tokens) + least <= session.facts.context_tokens:
            return FittedPrompt(list(recalled.tokens), 0), *found
    check_continuation(DEFAULT_OUTPUT, session.facts)
    return answer_prompt(messages, arm, session, output), text, "", b""


def split_tail(tail: bytes, text: str) -> tuple[str, str, bytes] | None:
    """Find where a text ends in the bytes of the tokens that end with it.

    The text is as it was recorded: stripped, and with U+FFFD for a character that was cut. Returns
    it without that mark, the white space behind it, and the bytes of the cut character; None if the
    tokens are not those of the text.
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

    ``behind`` tokens are computed behind the answer. Raises as :func:`plan_answer`.
    """
    if output.options.raw:
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

    Special tokens in its text are read, as llama-server does: the whole prompt is the client's.
    """
    context_tokens, least = session.facts.context_tokens, min(most, SMALLEST_ANSWER_TOKENS)
    if output.options.infill is not None:
        room = min(most, LIKELY_ANSWER_TOKENS)
        return FittedPrompt(build_infill(output.options.infill, session, room), 0)
    count = count_least_tokens(len(text))
    found = list(output.options.prompt_tokens)
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


WINDOW_TOKENS = 2048
"""Most tokens around the gap, three quarters of them before it."""

_PROJECT, _FILE, _NO_NAME = "myproject\n", "filename\n", "tmp"
_SNIPPET = "\n\n--- snippet ---\n\n"


def build_infill(infill: Infill, session: Session, answer_tokens: int) -> list[int]:
    """Build the tokens of a prompt; InvalidRequest if the model was not trained for that.

    ``answer_tokens`` are kept free for what the model writes.
    """
    facts, fill = session.facts, session.facts.fill
    if fill is None:
        raise InvalidRequest(
            f"{facts.name} has no tokens to fill in the middle of a text",
            "choose a model that has them, such as qwen2.5-coder, or send the prompt without it",
            "suffix",
        )

    def read(text: str) -> list[int]:
        return session.tokenize(text, special=False) if text else []

    room = facts.context_tokens - answer_tokens - 4  # the tokens around the texts
    window = max(0, min(WINDOW_TOKENS, room))
    begin = session.tokenize(infill.prompt) if infill.prompt else []
    before, behind = 3 * (window // 4), max(0, window // 4 - 2 - len(begin))
    prefix = read(infill.prefix[-before * MOST_TOKEN_CHARACTERS :])[-before:] if before else []
    suffix = read(infill.suffix[: behind * MOST_TOKEN_CHARACTERS])[:behind]
    tokens = [*session.tokenize("", bos=True), fill.prefix, *prefix, *begin]
    tokens += [fill.suffix, *suffix, fill.middle]
    if infill.files is None:
        return tokens
    others: list[int] = [] if fill.project is None else [fill.project, *read(_PROJECT)]
    for name, text in infill.files:
        kept = text[: facts.context_tokens * MOST_TOKEN_CHARACTERS]
        if fill.file is None:
            others += read(_SNIPPET) + read(kept)
        else:
            others += [fill.file, *read(f"{name or _NO_NAME}\n"), *read(kept)]
    if fill.file is not None:
        others += [fill.file, *read(_FILE)]
    return others[max(0, len(others) - max(0, room - len(tokens))) :] + tokens
