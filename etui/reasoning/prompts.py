"""Texts that reasoning adds to a conversation: instructions, hand-overs and markers.

The instruction comes last, after the question, so that all reasoning methods share the prefix up to
the question in the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import ModelFacts

ThinkingStyle = Literal["plain", "draft", "native"]

ANSWER_MARKER = "Answer:"
"""Ends the thinking of a model without think tags; the answer follows on the same line."""

_INSTRUCTIONS: dict[ThinkingStyle, str] = {
    "plain": (
        "Think it through step by step first, in short sentences. "
        f'Then write "{ANSWER_MARKER}" on a line of its own, followed by your final answer.'
    ),
    "draft": (
        "Think first in a terse draft: one line for each step, a handful of words or symbols each. "
        f'Then write "{ANSWER_MARKER}" on a line of its own, followed by your final answer.'
    ),
}

_LETTER_INSTRUCTION = "Answer with the letter of the right option alone."
_HAND_OVER_PLAIN = f"\n\nThat is enough thinking; here is the result.\n{ANSWER_MARKER}"
_HAND_OVER_ENDED = f"\n\n{ANSWER_MARKER}"
_HAND_OVER_NATIVE = "\n\nThe budget for thinking is used up, so I answer with what I have now.\n"


@dataclass(frozen=True, slots=True)
class Thinking:
    """The texts that make one model think."""

    style: ThinkingStyle
    marker: str  # Text that ends the thinking (the closing tag, or `Answer:`)
    opening: str  # Text appended to the prompt to open native thinking
    hand_over: str  # Text that ends the thinking when its budget is used up
    ended: str  # Text that leads to the answer if the model stopped while thinking
    probe: str  # Text that leads directly to the first word of the answer, for a probe
    answer: str = ""  # Text that etui adds where the model itself ends the thinking


def choose_style(arm: Arm, facts: ModelFacts) -> ThinkingStyle:
    """Choose the style for an arm and a model: ``auto`` is native if the model has think tags."""
    thinks = facts.format.thought is not None
    if arm.style == "auto" or (arm.style == "native" and not thinks):
        return "native" if thinks else "plain"
    return arm.style


def build_thinking(
    style: ThinkingStyle, facts: ModelFacts, call_lead: str | None = None
) -> Thinking:
    """Build the texts that open, end and cut the thinking of a model in a style.

    Where calls are messages of their own, ``call_lead`` begins the header of one, or is empty if
    the model writes it.
    """
    thought = facts.format.thought
    if style == "native" and thought is not None:
        answer, writes = thought.answer, thought.writes_answer
        if call_lead is not None:
            answer, writes = thought.turn + call_lead, bool(call_lead)
        close = thought.close + answer
        return Thinking(
            style="native",
            marker=thought.close,
            opening=thought.open,
            hand_over=f"{_HAND_OVER_NATIVE}{close}",
            ended=f"\n{close}",
            probe=f"\n{thought.close}{thought.answer}{ANSWER_MARKER}",
            answer=answer if writes else "",
        )
    return Thinking(style, ANSWER_MARKER, "", _HAND_OVER_PLAIN, _HAND_OVER_ENDED, _HAND_OVER_ENDED)


def with_instruction(messages: Sequence[Message], style: ThinkingStyle) -> tuple[Message, ...]:
    """Append the instruction to think to the question; native thinking needs none."""
    instruction = _INSTRUCTIONS.get(style)
    return tuple(messages) if instruction is None else _append_instruction(messages, instruction)


def with_letter_instruction(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Append the instruction to answer with a letter to the question."""
    return _append_instruction(messages, _LETTER_INSTRUCTION)


def _append_instruction(messages: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    last = messages[-1]
    return (*messages[:-1], replace(last, content=f"{last.content}\n\n{instruction}"))


def open_thinking(prompt: str, thinking: Thinking) -> str:
    """Open the thinking in a rendered prompt, unless the template has opened it already."""
    if not thinking.opening or prompt.rstrip().endswith(thinking.opening.strip()):
        return prompt
    return prompt + thinking.opening


def direct_prompt(prompt: str, facts: ModelFacts, call_lead: str | None = None) -> str:
    """Complete the rendered prompt of a direct answer: empty thinking if the model always thinks.

    A template with a thinking switch writes the empty thinking itself. Where calls are messages of
    their own, ``call_lead`` begins the header of one.
    """
    thought = facts.format.thought
    if call_lead is not None:
        return prompt + call_lead
    if thought is None:
        return prompt
    begun, opening = prompt.rstrip(), thought.open.strip()
    if begun.endswith(opening):  # the template opens the thinking, whatever its switch says
        return begun.removesuffix(opening) + thought.empty
    return prompt + thought.empty if facts.format.always_thinks else prompt


def answer_ends(
    facts: ModelFacts, *, native: bool, call_lead: str | None = None
) -> tuple[str, ...]:
    """Return the strings of the model's format that end an answer, after native thinking or not."""
    thought = facts.format.thought
    if thought is None or call_lead is not None or not (native or facts.format.always_thinks):
        return ()
    return thought.ends
