"""Thinking and the answer it leads to, driven token by token.

Thinking is never cut without a transition: if it is ended early, a bridge of words hands over to
the answer, whose tokens are reserved. A bare cut costs more accuracy than not thinking at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from etui.arm import Arm
from etui.engine.session import ModelFacts, Sampled, Session, TokenSequence
from etui.events import Answer, Thought, TokenLogprob
from etui.reasoning.context_fit import SMALLEST_ANSWER_TOKENS
from etui.reasoning.decoding import Decoded, Ending, Run, TokenLog
from etui.reasoning.loop_guard import LoopGuard, build_guard
from etui.reasoning.output import PLAIN, Output
from etui.reasoning.prompts import Thinking


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """Token budgets of the thinking and the answer."""

    thinking: Thinking | None  # Texts that make the model think; None answers directly
    think_tokens: int  # Maximum number of thinking tokens
    answer_tokens: int  # Maximum number of answer tokens
    hand_over: tuple[int, ...] = ()  # Tokens of `thinking.hand_over`
    guard: Callable[[], LoopGuard | None] = lambda: None
    """Builds the guard that ends the thinking or the answer if it repeats itself; None has none."""
    output: Output = PLAIN  # The form of the answer

    @property
    def tokens(self) -> int:
        """Maximum number of tokens after the prompt, hand-over included."""
        return self.think_tokens + len(self.hand_over) + self.answer_tokens


def build_plan(
    arm: Arm,
    facts: ModelFacts,
    prompt_tokens: int,
    thinking: Thinking,
    hand_over: list[int],
    question: str = "",
    output: Output = PLAIN,
) -> ThinkingPlan:
    """Build the plan for thinking that fits into the context together with its answer."""
    budget = thinking_budget(arm, facts.context_tokens, prompt_tokens, len(hand_over))
    room = facts.context_tokens - prompt_tokens - len(hand_over) - budget
    guard = partial(build_guard, arm, question)
    limit = min(arm.max_tokens, room)
    return ThinkingPlan(thinking, budget, limit, tuple(hand_over), guard, output)


def thinking_budget(
    arm: Arm, context_tokens: int, prompt_tokens: int, hand_over_tokens: int
) -> int:
    """Compute the thinking budget: the arm's, or what the context leaves besides the answer.

    The answer's reserve shrinks to the smallest useful answer before the thinking shrinks to 0.
    """
    room = context_tokens - prompt_tokens - hand_over_tokens
    with_whole_answer = room - arm.max_tokens
    with_short_answer = room - min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    room_for_thought = max(with_whole_answer, min(with_short_answer, room // 2))
    return max(0, min(arm.think_tokens, room_for_thought))


Part = Thought | Answer | TokenLogprob
"""An event of a run."""


class ThinkingRun:
    """Thinking and its answer on one sequence that ends with the prompt.

    The caller steps the sequence and passes each drawn token to ``take``; the run queues the bridge
    between thinking and answer itself. If the plan has a hand-over but no thinking tokens, the
    token drawn by the prefill must be rolled back first.

    Args:
        session: The loaded model.
        plan: The budgets and the form of the answer.
        index: Number of the answer, if several are drawn.

    Attributes:
        last_ns: Time of the last token.
    """

    def __init__(
        self,
        session: Session,
        sequence: TokenSequence,
        plan: ThinkingPlan,
        facts: ModelFacts,
        index: int = 0,
    ) -> None:
        self._index = index
        self.sequence = sequence
        self._session = session
        self._plan = plan
        self._facts = facts
        self._bridge_shown = ""
        self._adopted = ""
        self._thought: Run | None = None
        self._reply: Run | None = None
        self.last_ns = 0
        if plan.thinking is None:
            self._reply = self._start_reply("")
            return
        self._thought = Run(
            plan.think_tokens, (plan.thinking.marker, *facts.stop), guard=plan.guard()
        )
        if self._thought.ending is not None:
            self._queue_bridge(plan.thinking.hand_over, plan.hand_over)

    @property
    def thinking(self) -> bool:
        """Whether the next token belongs to the thinking."""
        return self._thought is not None and self._thought.ending is None

    @property
    def done(self) -> bool:
        """Whether thinking and answer have ended."""
        return self._reply is not None and self._reply.ending is not None

    @property
    def thinking_tokens(self) -> int:
        """Number of thinking tokens so far."""
        return self._thought.tokens if self._thought else 0

    @property
    def tokens(self) -> int:
        """Number of thinking and answer tokens so far."""
        return self.thinking_tokens + (self._reply.tokens if self._reply else 0)

    @property
    def thought(self) -> Decoded | None:
        """The completed thinking; None without any, or while it continues."""
        if self._thought is None or self._thought.ending is None:
            return None
        decoded = self._thought.decoded()
        return replace(decoded, text=decoded.text + self._bridge_shown)

    @property
    def reply(self) -> Decoded | None:
        """The completed answer; None if it was not started, or while it continues."""
        begun = self._reply is not None and (self._reply.tokens or self._reply.ending)
        if self._reply is None or not begun or not self.done:
            return None
        decoded = self._reply.decoded()
        return replace(decoded, text=self._adopted) if self._adopted else decoded

    def take(self, sampled: Sampled, at_ns: int) -> list[Part]:
        """Take the token that a step drew for the sequence and return the new text as events."""
        self.last_ns = at_ns
        if self._thought is not None and self._thought.ending is None:
            return self._take_thought(self._thought, sampled, at_ns)
        assert self._reply is not None
        events: list[Part] = []
        if self._reply.tokens == 0 and self._bridge_shown:
            events.append(Thought(at_ns, self._bridge_shown, 0))
        before = self._reply.tokens
        text = self._reply.take(sampled, at_ns)
        tokens = self._reply.tokens - before
        if text or tokens:
            events.append(Answer(at_ns, text, tokens))
        elif self._answered_while_thinking():
            assert self._thought is not None
            self._adopted = self._thought.decoded().text.strip()
            events.append(Answer(at_ns, self._adopted, 0))
        return [*events, *self._reply.logprobs(text)]

    def _answered_while_thinking(self) -> bool:
        """Return whether the thinking is the answer: the model ended it and adds nothing."""
        thought, reply = self._thought, self._reply
        return (
            thought is not None
            and reply is not None
            and reply.tokens == 0
            and reply.ending is Ending.TOKEN
            and thought.ending is Ending.TOKEN
            and bool(thought.decoded().text.strip())
        )

    def cut(self, ending: Ending, bridge: str) -> str:
        """End the thinking early, queue the bridge, and return the text that was held back."""
        assert self._thought is not None
        held = self._thought.end(ending)
        self._queue_bridge(bridge, tuple(self._session.tokenize(bridge)))
        return held

    def end_thinking(self, at_ns: int) -> list[Part]:
        """Hand over to the answer because the joules are spent, or end an unreserved answer."""
        if self._thought is not None and self._thought.ending is None:
            if self._thought.tokens == 0:
                return []
            assert self._plan.thinking is not None
            text = self.cut(Ending.BUDGET, self._plan.thinking.hand_over)
            return [Thought(at_ns, text, 0)] if text else []
        reserved = self._thought is not None and self._thought.decoded().ending is Ending.BUDGET
        if reserved or self._reply is None or self._reply.tokens == 0:
            return []
        return self._end_reply(self._reply, Ending.BUDGET, at_ns)

    def cancel(self, at_ns: int) -> list[Part]:
        """End the run because the user stopped it, and return the text that was held back."""
        if self._thought is not None and self._thought.ending is None:
            text = self._thought.end(Ending.CANCELLED)
            return [Thought(at_ns, text, 0)] if text else []
        if self._reply is None or self._reply.tokens == 0:
            self._reply = None  # it was not started
            return []
        return self._end_reply(self._reply, Ending.CANCELLED, at_ns)

    def _end_reply(self, reply: Run, ending: Ending, at_ns: int) -> list[Part]:
        text = reply.end(ending)
        return [Answer(at_ns, text, 0), *reply.logprobs(text)] if text else []

    def _take_thought(self, thought: Run, sampled: Sampled, at_ns: int) -> list[Part]:
        before = thought.tokens
        text = thought.take(sampled, at_ns)
        tokens = thought.tokens - before
        events: list[Part] = []
        if text or tokens:
            events.append(Thought(at_ns, text, tokens))
        if thought.ending is None:
            return events
        assert self._plan.thinking is not None
        decoded = thought.decoded()
        if decoded.stop == self._plan.thinking.marker:
            opening = self._open_answer(decoded)
            self._reply = self._start_reply(opening)
            return [*events, Answer(at_ns, opening, 0)] if opening else events
        if decoded.ending is Ending.REPEATS:
            # Without the loop in the context, the answer is less likely to continue it. A model
            # that cannot remove tokens keeps it.
            self._session.rollback(self.sequence, decoded.tokens - decoded.kept_tokens)
        if decoded.ending in (Ending.LIMIT, Ending.REPEATS):
            self._queue_bridge(self._plan.thinking.hand_over, self._plan.hand_over)
        else:
            ended = self._plan.thinking.ended
            self._queue_bridge(ended, tuple(self._session.tokenize(ended)))
        return events

    def _open_answer(self, decoded: Decoded) -> str:
        """Return the begin of the answer that the last token of the thinking has after its marker.

        A grammar reads whole tokens, so with one that token is replaced by its thinking alone.
        """
        opening = decoded.rest.lstrip()
        if not opening or self._plan.output.grammar is None:
            return opening
        if self._session.rollback(self.sequence, 1):
            assert self._plan.thinking is not None
            self._session.extend(self.sequence, self._session.tokenize(self._plan.thinking.marker))
        return ""

    def _queue_bridge(self, bridge: str, tokens: tuple[int, ...]) -> None:
        assert self._plan.thinking is not None
        self._session.extend(self.sequence, tokens)
        shown = bridge.partition(self._plan.thinking.marker)[0].rstrip()
        self._bridge_shown = shown if shown.strip() else ""
        self._reply = self._start_reply("")

    def _start_reply(self, opening: str) -> Run:
        room = self._facts.context_tokens - len(self.sequence.tokens)
        limit = min(self._plan.answer_tokens, room)
        output, log = self._plan.output, None
        if output.grammar is not None:
            self._session.constrain(self.sequence, output.grammar)
        if output.top_logprobs is not None:
            log = TokenLog(self._session, self.sequence, output.top_logprobs, self._index)
        stops = (*self._facts.stop, *output.stop)
        return Run(limit, stops, opening, self._plan.guard(), log)
