"""Answer a conversation with the reasoning method of an arm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from etui.arm import Arm, TokenCost
from etui.chat import DEFAULT_OUTPUT, Message, OutputOptions
from etui.engine.session import Sampled, Session
from etui.errors import UsageError
from etui.events import Answer, Event, Probe
from etui.multiple_choice import Option, parse_options
from etui.reasoning.answer_plan import LIKELY_ANSWER_TOKENS, AnswerPlan, Reserve, fit, plan_answer
from etui.reasoning.choice_readout import LetterTokens, format_option, letter_tokens, read_letters
from etui.reasoning.cot import JoulesSpent, Prober, Regulator, ThinkingRun
from etui.reasoning.decoding import (
    BUDGET,
    Control,
    Decoded,
    Ending,
    Opened,
    build_finished,
    describe_ending,
    describe_repetition,
    end_speculation,
    run_prompt,
    start_speculation,
)
from etui.reasoning.output import Output, adapt_arm, build_output, resolve_biases
from etui.reasoning.parallel_answers import draw_answers
from etui.reasoning.prompts import ANSWER_MARKER, direct_prompt, with_letter_instruction
from etui.reasoning.tool_events import separate_calls
from etui.units import percent_text

_LOW_MASS = 0.5
"""Probability of all letters together below which the answer is doubted."""


def answer(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None = None,
    options: OutputOptions = DEFAULT_OUTPUT,
) -> Iterator[Event]:
    """Yield the events of the answer to the last message; the last one is ``Finished``.

    ``price``, the cost of tokens, limits the thinking. An arm that cannot keep to the form that the
    options ask for answers directly, and ``Finished.why`` says so.

    ContextOverflow if the question alone does not fit, InvalidRequest if the model cannot answer in
    that form, UsageError for an unknown reasoning method.
    """
    arm, note = adapt_arm(arm, options, session.facts, messages)
    output = build_output(options, arm, session.facts, messages)
    output = replace(output, note="; ".join(filter(None, (note, output.note))))
    if options.logit_bias:
        biases = tuple(resolve_biases(options.logit_bias, session))
        arm = replace(arm, sampling=replace(arm.sampling, logit_bias=biases))
    if arm.reasoning not in ("direct", "cot", "vote"):
        raise UsageError(
            f"arm {arm.name!r} has the reasoning method {arm.reasoning!r}, which etui does not "
            "support",
            "use direct, cot or vote",
        )
    if options.count > 1 or arm.reasoning == "vote":
        return draw_answers(messages, arm, session, control, output, options.count)
    if arm.readout == "choices" and arm.reasoning == "direct":
        return _choose_option(messages, arm, session, control, output)
    events = _answer_once(messages, arm, session, control, price, output)
    return separate_calls(events, output) if output.tool_format else events


def _answer_once(
    messages: Sequence[Message],
    arm: Arm,
    session: Session,
    control: Control,
    price: TokenCost | None,
    output: Output,
) -> Iterator[Event]:
    """Think within its budget if the arm thinks, then answer within ``arm.max_tokens``."""
    plan = plan_answer(messages, arm, session, output)

    def decode(opened: Opened, first: Sampled) -> Iterator[Event]:
        regulator = _build_regulator(opened, arm, session, price, messages[-1].content)
        own = plan if regulator is None else regulator.limit_plan(len(plan.prompt.tokens))
        yield from _decode(opened, first, own, arm, session, control, regulator)

    yield from run_prompt(plan, arm, session, control, decode)


def _build_regulator(
    opened: Opened, arm: Arm, session: Session, price: TokenCost | None, question: str
) -> Regulator | None:
    plan = opened.plan
    if plan.thinking is None:
        return None
    spending = JoulesSpent(
        price,
        arm.max_joules,
        len(plan.prompt.tokens) - opened.sequence.cached,
        min(plan.answer_tokens, LIKELY_ANSWER_TOKENS),
    )
    number = plan.output.options.number
    prober = Prober(session, opened.sequence, question, plan.thinking, number=number)
    return Regulator(arm, plan, spending, prober)


def _decode(
    opened: Opened,
    first: Sampled,
    plan: AnswerPlan,
    arm: Arm,
    session: Session,
    control: Control,
    regulator: Regulator | None,
) -> Iterator[Event]:
    sequence = opened.sequence
    sampled: tuple[Sampled, ...] = (first,)
    at_ns = opened.end_ns
    begins = plan.answer_tokens if plan.thinking is None else plan.think_tokens
    if begins == 0:
        if not first.ends:
            session.rollback(sequence, 1)  # the drawn token would be thinking, or one too many
        sampled = ()
    # Drafted tokens have no row of logits of their own.
    logged = plan.output.options.top_logprobs is not None
    refused = "" if logged else start_speculation(session, sequence, arm)
    run = ThinkingRun(session, sequence, plan)
    if plan.gap:
        yield Answer(at_ns, plan.gap, 0)
    if regulator is not None and sampled and not first.ends:
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
            yield from run.end_thinking(at_ns)
            if run.done:
                break
        if regulator is not None and run.thinking and regulator.due(run.thinking_tokens):
            yield from regulator.decide(run)
        step = session.step([sequence])
        yield from step.verified
        sampled, at_ns = step.sampled, step.end_ns  # none, while a cache is computed again
    yield from end_speculation(session, sequence, arm)
    thought, reply = run.thought, run.reply
    if reply is None:
        why = "stopped while thinking"
        yield build_finished(opened, thought, None, status="stopped", why=why)
        return
    status, why = describe_ending(reply, arm)
    if thought is not None and thought.ending is Ending.BUDGET and status == "complete":
        status = "budget"
    regulated = regulator.why if regulator is not None else ""
    why = why or regulated or _explain_cut(thought, plan.think_tokens, arm)
    why = "; ".join(part for part in (why, refused) if part)
    yield build_finished(opened, thought, reply, status=status, why=why)


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


def _choose_option(
    messages: Sequence[Message], arm: Arm, session: Session, control: Control, output: Output
) -> Iterator[Event]:
    """Answer a multiple choice right after prefill, by the softmax over the option letters."""
    start_ns = time.monotonic_ns()
    options = parse_options(messages[-1].content)
    tokens = letter_tokens(session, options) if options else None
    if tokens is None:
        why = "the question has no options"
        if options:
            why = "some option letters are not a single token of this model"
        noted = replace(output, note=f"{why}, so the answer was decoded")
        yield from _answer_once(messages, arm, session, control, None, noted)
        return

    def render(kept: Sequence[Message]) -> str:
        rendered = session.render(kept, think_tokens=0)
        return direct_prompt(rendered, session.facts) + ANSWER_MARKER

    reserve = Reserve(1, 1, arm.context_overflow)
    prompt = fit(with_letter_instruction(messages), render, session, reserve)
    plan = AnswerPlan(prompt, 0, output, start_ns=start_ns)
    decode = partial(_read_option, session, options, tokens)
    yield from run_prompt(plan, arm, session, control, decode)


def _read_option(
    session: Session, options: Sequence[Option], tokens: LetterTokens, opened: Opened, _: Sampled
) -> Iterator[Event]:
    reading = read_letters(session, opened.sequence, tokens)
    letter, probability = reading.best
    text = format_option(letter, options)
    yield Probe(opened.end_ns, 0, reading.probabilities)
    yield Answer(opened.end_ns, text, 0)
    doubt = ""
    if reading.mass < _LOW_MASS:
        share = percent_text(reading.mass)
        doubt = f"the option letters have only {share} of the probability of the next token"
    yield replace(
        build_finished(opened, None, None, status="complete", why=doubt),
        answer=text,
        confidence=probability,
        margin=reading.margin,
    )
