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


def choose_style(arm: Arm, facts: ModelFacts) -> ThinkingStyle:
    """Choose the style for an arm and a model: ``auto`` is native if the model has think tags."""
    if arm.style == "auto" or (arm.style == "native" and facts.think_close is None):
        return "native" if facts.think_close is not None else "plain"
    return arm.style


def build_thinking(style: ThinkingStyle, facts: ModelFacts) -> Thinking:
    """Build the texts that open, end and cut the thinking of a model in a style."""
    if style == "native" and facts.think_open and facts.think_close:
        close = f"{facts.think_close}\n\n"
        return Thinking(
            style="native",
            marker=facts.think_close,
            opening=f"{facts.think_open}\n",
            hand_over=f"{_HAND_OVER_NATIVE}{close}",
            ended=f"\n{close}",
            probe=f"\n{close}{ANSWER_MARKER}",
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


def direct_prompt(prompt: str, facts: ModelFacts) -> str:
    """Complete the rendered prompt of a direct answer: empty thinking if the model always thinks.

    A template with a thinking switch writes the empty thinking itself.
    """
    if facts.think_open is None or facts.think_close is None or facts.thinking_switch is not None:
        return prompt
    opened = prompt.rstrip().endswith(facts.think_open)
    return f"{prompt}{'' if opened else facts.think_open}\n\n{facts.think_close}\n\n"
