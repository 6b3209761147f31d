"""Think in chunks: after each one, probe the answer and decide whether to continue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from etui.arm import Arm, Sampling
from etui.engine.session import Sampled, Session, TokenSequence
from etui.events import Probe, Thought
from etui.multiple_choice import parse_options
from etui.reasoning.decoding import Ending, Run, mean_probability
from etui.reasoning.depth import (
    JoulesSpent,
    Look,
    check_confidence,
    check_gain,
    check_joules,
    chunk_tokens,
)
from etui.reasoning.extraction import extract
from etui.reasoning.option_logits import letter_tokens, read_letters
from etui.reasoning.prompts import Thinking
from etui.reasoning.thinking_run import ThinkingPlan, ThinkingRun

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

    def look(self, thinking_tokens: int, *, drawn: int = 0) -> tuple[Look, Probe] | None:
        """Probe the current answer; None if the cache has no room for a probe.

        Args:
            thinking_tokens: Thinking tokens so far.
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
                look = Look(*reading.best)
                return look, Probe(at_ns, thinking_tokens, reading.probabilities, tokens)
            run = Run(min(_TEXT_TOKENS, room), ("\n", *session.facts.stop))
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
        look = Look(found.key, mean_probability(reply) or 0.0)
        probabilities = ((found.key or reply.text.strip(), look.probability),)
        return look, Probe(at_ns, thinking_tokens, probabilities, tokens + reply.tokens)

    def _step_until_drawn(self, copy: TokenSequence) -> tuple[Sampled, int]:
        while True:
            step = self._session.step([copy])
            if step.sampled:
                return step.sampled[0], step.end_ns


class Regulator:
    """Decide after each chunk of thinking whether to continue.

    Attributes:
        why: Why it ended the thinking; empty until then.
    """

    def __init__(self, arm: Arm, plan: ThinkingPlan, spending: JoulesSpent, prober: Prober) -> None:
        self.why = ""
        self._arm = arm
        self._plan = plan
        self._spending = spending
        self._prober = prober
        self._chunk = chunk_tokens(arm)
        self._looks: list[Look] = []
        self._weighs_gain = arm.exchange is not None and spending.price is not None
        self._looking = arm.early_exit is not None or self._weighs_gain
        self._on = self._looking or (arm.max_joules is not None and spending.price is not None)

    def limit_plan(self, context_tokens: int) -> ThinkingPlan:
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
            yield from self._look(0, drawn=drawn)

    def decide(self, trace: ThinkingRun) -> Iterator[Probe | Thought]:
        """Probe, and end the thinking of the run if the next chunk should not be started."""
        assert self._plan.thinking is not None
        tokens, context_tokens = trace.thinking_tokens, len(trace.sequence.tokens)
        chunk = min(self._chunk, self._plan.think_tokens - tokens)
        reason = check_joules(self._spending, context_tokens, tokens, chunk)
        ending, bridge = Ending.DEPTH, self._plan.thinking.hand_over
        if reason is not None:
            reason = f"{reason} ({self._source()})"
        elif self._looking:
            yield from self._look(tokens)
            bridge = self._plan.thinking.probe
            if self._arm.early_exit is not None:
                reason = check_confidence(self._looks, self._arm.early_exit)
            if reason is not None:
                ending = Ending.CONFIDENT
            elif self._arm.exchange is not None:
                reason = check_gain(
                    self._looks, self._spending.price, self._arm.exchange, context_tokens, chunk
                )
                reason = reason and f"{reason} ({self._source()})"
        if reason is None:
            return
        name = "early exit" if ending is Ending.CONFIDENT else "regulated depth"
        self.why = f"{name} after {tokens} thinking tokens: {reason}"
        held = trace.cut(ending, bridge)
        if held:
            yield Thought(trace.last_ns, held, 0)

    def _look(self, tokens: int, *, drawn: int = 0) -> Iterator[Probe]:
        result = self._prober.look(tokens, drawn=drawn)
        if result is None:
            self._looks.clear()  # after a gap, probes are not consecutive
            return
        self._looks.append(result[0])
        yield result[1]

    def _source(self) -> str:
        price = self._spending.price
        source = price.source if price is not None and price.source else "given"
        return f"token cost: {source}"
