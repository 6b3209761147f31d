"""Chain of thought with a budget: think, hand over, answer.

A thought is never cut bare: at the end of its budget a sentence hands over to the answer, whose
tokens are reserved. Cutting bare costs more accuracy than not thinking at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from etui.arm import Arm
from etui.engine.events import Answer, Event, Thought
from etui.engine.session import Session, TokenSequence
from etui.query import Message
from etui.reasoning.control import Control
from etui.reasoning.decoding import Decoded, Ending, Primed, decode, feed
from etui.reasoning.fitting import SMALLEST_ANSWER_TOKENS, fit
from etui.reasoning.opening import finished, how_reply_ended, open_prompt
from etui.reasoning.prompts import (
    Thinking,
    thinking_for,
    thought_prompt,
    thought_style,
    with_instruction,
)

_STOPPED = "stopped while thinking"


def chain_of_thought(
    messages: Sequence[Message], arm: Arm, session: Session, control: Control
) -> Iterator[Event]:
    """Think within ``arm.think_tokens``, then answer within ``arm.max_tokens``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    facts = session.facts
    thinking = thinking_for(thought_style(arm, facts), facts)
    hand_over = session.tokenize(thinking.hand_over)

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, thinking=thinking.style == "native")
        return thought_prompt(rendered, thinking)

    reserve = len(hand_over) + min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    prompt = fit(with_instruction(messages, thinking.style), render, session, reserve)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns)
    sequence = opened.sequence
    try:
        if opened.first is None:
            yield finished(
                opened, None, None, status="stopped", why="stopped while the prompt was computed"
            )
            return
        budget = thought_budget(arm, facts.context_tokens, len(prompt.tokens), len(hand_over))
        if budget == 0 and not opened.first.next.ends:
            session.rollback(sequence, 1)  # the drawn token would be a thought
        thought = yield from decode(
            session,
            sequence,
            opened.first,
            kind=Thought,
            limit=budget,
            stops=(thinking.marker, *facts.stop),
            control=control,
        )
        bridge = "" if thought.stop == thinking.marker else _bridge(thought, thinking)
        following = None
        if thought.ending is not Ending.CANCELLED:
            following = _cross(bridge, sequence, session, control)
        if following is None:
            yield finished(opened, thought, None, status="stopped", why=_STOPPED)
            return
        shown = bridge.partition(thinking.marker)[0].rstrip()
        if shown.strip():
            yield Thought(following.at_ns, shown, 0)
            thought = replace(thought, text=thought.text + shown)
        reply = yield from decode(
            session,
            sequence,
            following,
            kind=Answer,
            limit=min(arm.max_tokens, facts.context_tokens - len(sequence.tokens)),
            stops=facts.stop,
            control=control,
            frugal=thought.ending is not Ending.BUDGET,  # its answer is reserved
            opening=thought.rest.lstrip() if not bridge else "",
        )
        status, why = how_reply_ended(reply, arm)
        if thought.ending is Ending.BUDGET and status == "complete":
            status = "budget"
        yield finished(
            opened, thought, reply, status=status, why=why or _why_cut(thought, budget, arm)
        )
    finally:
        session.close(sequence)


def thought_budget(arm: Arm, context_tokens: int, prompt_tokens: int, hand_over_tokens: int) -> int:
    """Tokens the thought may have: its budget, or what the context leaves beside the answer.

    An answer's reservation shrinks to the smallest useful one before the thought shrinks to none.
    """
    room = context_tokens - prompt_tokens - hand_over_tokens
    beside_whole_answer = room - arm.max_tokens
    beside_short_answer = room - min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    room_for_thought = max(beside_whole_answer, min(beside_short_answer, room // 2))
    return max(0, min(arm.think_tokens, room_for_thought))


def _bridge(thought: Decoded, thinking: Thinking) -> str:
    """The text that leads to the answer when the model wrote no marker itself."""
    cut = thought.ending in (Ending.LIMIT, Ending.BUDGET)
    return thinking.hand_over if cut else thinking.ended


def _cross(
    bridge: str, sequence: TokenSequence, session: Session, control: Control
) -> Primed | None:
    """Compute the bridge, or only the marker's last token where the model wrote it itself."""
    if bridge:
        session.extend(sequence, session.tokenize(bridge))
    return feed(session, sequence, control)


def _why_cut(thought: Decoded, budget: int, arm: Arm) -> str:
    match thought.ending:
        case Ending.LIMIT:
            limit = "the context" if budget < arm.think_tokens else "the think budget"
        case Ending.BUDGET:
            limit = "the energy budget"
        case _:
            return ""
    return f"{limit} ended the thought after {thought.tokens} tokens"
