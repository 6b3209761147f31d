"""Chain of thought with a budget: think, hand over, answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from etui.arm import Arm, TokenCost
from etui.chat import Message
from etui.engine.session import Sampled, Session
from etui.events import Event
from etui.reasoning.context_fit import (
    LIKELY_ANSWER_TOKENS,
    SMALLEST_ANSWER_TOKENS,
    FittedPrompt,
    Reserve,
    fit,
)
from etui.reasoning.control import BUDGET, Control
from etui.reasoning.decoding import (
    Decoded,
    Ending,
    build_finished,
    describe_ending,
    describe_repetition,
    end_speculation,
    open_prompt,
    start_speculation,
)
from etui.reasoning.depth import JoulesSpent
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.prompts import (
    Thinking,
    build_thinking,
    choose_style,
    open_thinking,
    with_instruction,
)
from etui.reasoning.regulator import Prober, Regulator
from etui.reasoning.thinking_run import ThinkingRun, build_plan


def chain_of_thought(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None = None,
    output: Output = PLAIN,
) -> Iterator[Event]:
    """Think within ``arm.think_tokens``, then answer within ``arm.max_tokens``.

    Thinking ends before its budget is used up if ``arm.early_exit``, ``arm.max_joules`` or
    ``arm.exchange`` require it (:mod:`etui.reasoning.depth`).

    Yields:
        The events of the answer; the last is ``Finished``.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    start_ns = time.monotonic_ns()
    facts = session.facts
    thinking = build_thinking(choose_style(arm, facts), facts)
    hand_over = session.tokenize(thinking.hand_over)
    prompt = thinking_prompt(messages, arm, session, thinking, len(hand_over), output)
    opened = yield from open_prompt(prompt, arm, session, control, start_ns)
    sequence = opened.sequence
    try:
        if opened.first is None:
            yield build_finished(
                opened, None, None, status="stopped", why="stopped while computing the prompt"
            )
            return
        question = messages[-1].content
        plan = build_plan(arm, facts, len(prompt.tokens), thinking, hand_over, question, output)
        spending = JoulesSpent(
            price,
            arm.max_joules,
            len(prompt.tokens) - sequence.cached,
            min(plan.answer_tokens, LIKELY_ANSWER_TOKENS),
        )
        prober = Prober(session, sequence, question, thinking, number=output.number)
        regulator = Regulator(arm, plan, spending, prober)
        plan = regulator.limit_plan(len(prompt.tokens))
        sampled: tuple[Sampled, ...] = (opened.first.next,)
        at_ns = opened.first.at_ns
        if plan.think_tokens == 0:
            if not sampled[0].ends:
                session.rollback(sequence, 1)  # the drawn token would be thinking
            sampled = ()
        # Drafted tokens have no row of logits of their own.
        logged = output.top_logprobs is not None
        refused = "" if logged else start_speculation(session, sequence, arm)
        run = ThinkingRun(session, sequence, plan, facts)
        if sampled and not sampled[0].ends:
            yield from regulator.probe_first(drawn=1)
        while True:
            for token in sampled:
                yield from run.take(token, at_ns)
            if run.done:
                break
            if control.cancelled():
                yield from run.cancel(at_ns)
                break
            if control.spent():
                yield from run.hurry(at_ns)
                if run.done:
                    break
            if run.thinking and regulator.due(run.thinking_tokens):
                yield from regulator.decide(run)
            step = session.step([sequence])
            yield from step.verified
            sampled, at_ns = step.sampled, step.end_ns
        yield from end_speculation(session, sequence, arm)
        thought, reply = run.thought, run.reply
        if reply is None:
            yield build_finished(
                opened, thought, None, status="stopped", why="stopped while thinking"
            )
            return
        status, why = describe_ending(reply, arm)
        if thought is not None and thought.ending is Ending.BUDGET and status == "complete":
            status = "budget"
        why = why or regulator.why or _explain_cut(thought, plan.think_tokens, arm)
        why = "; ".join(part for part in (why, refused) if part)
        yield build_finished(opened, thought, reply, status=status, why=why)
    finally:
        session.close(sequence)


def thinking_prompt(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    thinking: Thinking,
    hand_over_tokens: int,
    output: Output = PLAIN,
) -> FittedPrompt:
    """Build the prompt that opens the thinking, fitted into the context.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, thinking=thinking.style == "native", tools=output.tools)
        return open_thinking(rendered, thinking)

    least = hand_over_tokens + min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    whole = hand_over_tokens + arm.think_tokens + arm.max_tokens
    asked = with_instruction(messages, thinking.style)
    return fit(asked, render, session, Reserve(least, whole, arm.context_overflow))


def _explain_cut(thought: Decoded | None, budget: int, arm: Arm) -> str:
    if thought is None:
        return ""
    match thought.ending:
        case Ending.LIMIT:
            limit = "the context" if budget < arm.think_tokens else "the thinking budget"
        case Ending.BUDGET:
            limit = BUDGET
        case Ending.REPEATS if thought.repetition is not None:
            return f"the thinking {describe_repetition(thought.repetition, thought.tokens)}"
        case _:
            return ""
    return f"{limit} ended the thinking after {thought.tokens} tokens"
