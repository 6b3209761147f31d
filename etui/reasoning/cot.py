"""Decide during a chain of thought whether to go on: early exit and regulated depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm, EarlyExit, Sampling, TokenCost
from etui.engine.session import Sampled, Session, TokenSequence
from etui.events import Probe, Thought
from etui.multiple_choice import parse_options
from etui.reasoning.answer_plan import AnswerPlan
from etui.reasoning.choice_readout import letter_tokens, read_letters
from etui.reasoning.decoding import Ending, Run, mean_probability
from etui.reasoning.extraction import extract
from etui.reasoning.prompts import Thinking, answer_ends
from etui.reasoning.thinking_run import ThinkingRun
from etui.units import count_text, energy_text, percent_text

CHUNK_TOKENS = 48
"""Thinking tokens between two decisions, unless the arm sets a number."""

_GAINS = 2
"""Number of past gains in confidence that predict the next one: a single one is mostly noise."""


@dataclass(frozen=True, slots=True)
class ProbedAnswer:
    """Result of a probe: the answer that would be given now, and its probability (0..1)."""

    key: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class JoulesSpent:
    """The joule limit of an answer, and the inputs to estimate what it has spent."""

    price: TokenCost | None  # Energy cost of tokens; None if unknown
    max_joules: float | None  # Maximum joules of the answer; None is no limit
    prompt_tokens: int  # Number of computed prompt tokens
    answer_tokens: int


def chunk_tokens(arm: Arm) -> int:
    """Return the number of thinking tokens between two decisions of an arm."""
    return arm.early_exit.every if arm.early_exit is not None else CHUNK_TOKENS


def check_confidence(probed: Sequence[ProbedAnswer], rule: EarlyExit) -> str | None:
    """Return why thinking can end; None if it has to continue.

    It can end when the last ``rule.stable`` probes give the same answer, each with a probability of
    at least ``rule.min_p``.
    """
    last = probed[-rule.stable :]
    if len(last) < rule.stable or last[-1].key is None:
        return None
    if any(answer.key != last[-1].key or answer.probability < rule.min_p for answer in last):
        return None
    times = f" in {rule.stable} consecutive probes" if rule.stable > 1 else ""
    return f"the answer was {percent_text(last[-1].probability)} certain{times}"


def check_joules(
    spending: JoulesSpent, context_tokens: int, thought_tokens: int, chunk: int
) -> str | None:
    """Return why the next chunk exceeds the joules left for thinking; None if it does not.

    Args:
        spending: The limit of the answer, and what it has spent on the prompt.
    """
    price, limit = spending.price, spending.max_joules
    if price is None or limit is None:
        return None
    begun = context_tokens - thought_tokens
    spent = price.joules_per_prompt_token * spending.prompt_tokens
    spent += price.decode_joules(begun, thought_tokens)
    answer = price.decode_joules(context_tokens + chunk, spending.answer_tokens)
    left = limit - spent - answer
    cost = price.decode_joules(context_tokens, chunk)
    if cost <= left:
        return None
    return (
        f"{count_text(chunk, 'more token')} would cost {_format_estimate(cost)}, but only "
        f"{_format_estimate(max(0.0, left))} of {energy_text(limit)} is left for thinking"
    )


def check_gain(
    probed: Sequence[ProbedAnswer],
    price: TokenCost | None,
    exchange: float,
    context_tokens: int,
    chunk: int,
) -> str | None:
    """Return why the next chunk costs more than its expected gain is worth; None if it does not.

    The expected gain in confidence is the mean of the last two gains, but at least 0 and at
    most what is missing to certainty.

    Args:
        probed: Probes so far, one before the thinking and one after each chunk.
        exchange: Joules that one percentage point of confidence is worth.
    """
    if price is None or len(probed) <= _GAINS:
        return None
    now, before = probed[-1].probability, probed[-1 - _GAINS].probability
    gain = 100.0 * min(1.0 - now, max(0.0, (now - before) / _GAINS))
    cost = price.decode_joules(context_tokens, chunk)
    if cost <= exchange * gain:
        return None
    return (
        f"{count_text(chunk, 'more token')} would cost {_format_estimate(cost)} for "
        f"{percent_text(gain / 100.0)} more confidence, worth {_format_estimate(exchange * gain)}"
    )


def _format_estimate(joules: float) -> str:
    return energy_text(joules, kind="estimate").removesuffix(" (estimate)")


_TEXT_TOKENS = 20
"""Maximum number of tokens that a probe decodes of an answer in words."""


class Prober:
    """Probe the answer that the thinking so far leads to, on a fork of its sequence.

    The fork shares the cache and is closed at once, so that a probe does not change the thinking.
    With options, the letters are read after one batch and nothing is decoded.
    """

    def __init__(
        self,
        session: Session,
        sequence: TokenSequence,
        question: str,
        thinking: Thinking,
        *,
        number: bool = False,
    ) -> None:
        self._session = session
        self._sequence = sequence
        self._question = question
        self._options = () if number else parse_options(question)
        self._number = number
        self._letters = letter_tokens(session, self._options) if self._options else None
        self._bridge = session.tokenize(thinking.probe)

    def probe(self, thinking_tokens: int, *, drawn: int = 0) -> tuple[ProbedAnswer, Probe] | None:
        """Probe the current answer; None if the cache has no room for a probe.

        Args:
            drawn: Tokens at the sequence's end that are drawn but not yet part of the thinking.
        """
        session, context_tokens = self._session, self._session.facts.context_tokens
        room = context_tokens - len(self._sequence.tokens) - len(self._bridge)
        needed = 1 + len(self._bridge) + (0 if self._letters else _TEXT_TOKENS)
        if room < 1 or session.free_sequences < 1 or session.free_tokens < needed:
            return None
        copy = session.fork(self._sequence, Sampling(temperature=0.0))
        try:
            session.rollback(copy, drawn)
            session.extend(copy, self._bridge)
            tokens = copy.pending
            sampled, at_ns = self._step_until_drawn(copy)
            if self._letters is not None:
                reading = read_letters(session, copy, self._letters)
                answer = ProbedAnswer(*reading.best)
                return answer, Probe(at_ns, thinking_tokens, reading.probabilities, tokens)
            ends = answer_ends(session.facts, native=True)
            run = Run(min(_TEXT_TOKENS, room), ("\n", *session.facts.stop, *ends))
            while run.ending is None:
                run.take(sampled, at_ns)
                if run.ending is None:
                    sampled, at_ns = self._step_until_drawn(copy)
        finally:
            session.close(copy, keep=False)
        reply = run.decoded()
        cut = reply.ending is Ending.LIMIT
        found = extract(
            reply.text, self._question, self._options, truncated=cut, number=self._number
        )
        answer = ProbedAnswer(found.key, mean_probability(reply) or 0.0)
        probabilities = ((found.key or reply.text.strip(), answer.probability),)
        return answer, Probe(at_ns, thinking_tokens, probabilities, tokens + reply.tokens)

    def _step_until_drawn(self, copy: TokenSequence) -> tuple[Sampled, int]:
        while True:
            step = self._session.step([copy])
            if step.sampled:
                return step.sampled[0], step.end_ns


class Regulator:
    """Decide after each chunk of thinking whether to continue."""

    def __init__(self, arm: Arm, plan: AnswerPlan, spending: JoulesSpent, prober: Prober) -> None:
        self.why = ""
        self._arm = arm
        self._plan = plan
        self._spending = spending
        self._prober = prober
        self._chunk = chunk_tokens(arm)
        self._probed: list[ProbedAnswer] = []
        self._weighs_gain = arm.exchange is not None and spending.price is not None
        self._probes = arm.early_exit is not None or self._weighs_gain
        self._on = self._probes or (arm.max_joules is not None and spending.price is not None)

    def limit_plan(self, context_tokens: int) -> AnswerPlan:
        """Return the plan, without thinking if the joules do not suffice for its first chunk."""
        chunk = min(self._chunk, self._plan.think_tokens)
        reason = check_joules(self._spending, context_tokens, 0, chunk) if chunk else None
        if reason is not None:
            self.why = f"regulated depth: no thinking, because {reason} ({self._source()})"
            self._plan = replace(self._plan, think_tokens=0)
        return self._plan

    def due(self, thinking_tokens: int) -> bool:
        """Return whether a chunk ends with this thinking token."""
        return self._on and thinking_tokens > 0 and thinking_tokens % self._chunk == 0

    def probe_first(self, *, drawn: int) -> Iterator[Probe]:
        """Probe before the thinking, if its gain will be compared with its cost."""
        if self._weighs_gain and self._plan.think_tokens:
            yield from self._probe(0, drawn=drawn)

    def decide(self, trace: ThinkingRun) -> Iterator[Probe | Thought]:
        """Probe, and end the thinking of the run if the next chunk should not be started."""
        assert self._plan.thinking is not None
        tokens, context_tokens = trace.thinking_tokens, len(trace.sequence.tokens)
        chunk = min(self._chunk, self._plan.think_tokens - tokens)
        reason = check_joules(self._spending, context_tokens, tokens, chunk)
        ending, bridge = Ending.DEPTH, self._plan.thinking.hand_over
        if reason is not None:
            reason = f"{reason} ({self._source()})"
        elif self._probes:
            yield from self._probe(tokens)
            bridge = self._plan.thinking.probe
            if self._arm.early_exit is not None:
                reason = check_confidence(self._probed, self._arm.early_exit)
            if reason is not None:
                ending = Ending.CONFIDENT
            elif self._arm.exchange is not None:
                reason = check_gain(
                    self._probed, self._spending.price, self._arm.exchange, context_tokens, chunk
                )
                reason = reason and f"{reason} ({self._source()})"
        if reason is None:
            return
        name = "early exit" if ending is Ending.CONFIDENT else "regulated depth"
        self.why = f"{name} after {tokens} thinking tokens: {reason}"
        held = trace.cut(ending, bridge)
        if held:
            yield Thought(trace.last_ns, held, 0)

    def _probe(self, tokens: int, *, drawn: int = 0) -> Iterator[Probe]:
        result = self._prober.probe(tokens, drawn=drawn)
        if result is None:
            self._probed.clear()  # after a gap, probes are not consecutive
            return
        self._probed.append(result[0])
        yield result[1]

    def _source(self) -> str:
        price = self._spending.price
        source = price.source if price is not None and price.source else "given"
        return f"token cost: {source}"
