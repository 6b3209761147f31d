"""One thought and the answer it leads to, driven token by token.

A thought is never cut bare: when it is ended from outside, a bridge of words hands over to the
answer, whose tokens are reserved. Cutting bare costs more accuracy than not thinking at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from etui.arm import Arm
from etui.engine.session import ModelFacts, Sampled, Session, TokenSequence
from etui.events import Answer, Thought
from etui.reasoning.context_fit import SMALLEST_ANSWER_TOKENS
from etui.reasoning.decoding import Decoded, Ending, Run
from etui.reasoning.prompts import Thinking


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """What one thought and its answer may take.

    Attributes:
        thinking: How the model is made to think; None answers at once.
        think_tokens: The most tokens of the thought.
        answer_tokens: The most tokens of the answer.
        hand_over: Tokens of ``thinking.hand_over``.
    """

    thinking: Thinking | None
    think_tokens: int
    answer_tokens: int
    hand_over: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """The most tokens both may take behind the prompt."""
        return self.think_tokens + len(self.hand_over) + self.answer_tokens


def plan_for(
    arm: Arm, facts: ModelFacts, prompt_tokens: int, thinking: Thinking, hand_over: list[int]
) -> ThinkingPlan:
    """The plan of a thought that fits into the context together with its answer."""
    budget = thinking_budget(arm, facts.context_tokens, prompt_tokens, len(hand_over))
    room = facts.context_tokens - prompt_tokens - len(hand_over) - budget
    return ThinkingPlan(thinking, budget, min(arm.max_tokens, room), tuple(hand_over))


def thinking_budget(
    arm: Arm, context_tokens: int, prompt_tokens: int, hand_over_tokens: int
) -> int:
    """Tokens the thought may have: its budget, or what the context leaves beside the answer.

    An answer's reservation shrinks to the smallest useful one before the thought shrinks to none.
    """
    room = context_tokens - prompt_tokens - hand_over_tokens
    beside_whole_answer = room - arm.max_tokens
    beside_short_answer = room - min(arm.max_tokens, SMALLEST_ANSWER_TOKENS)
    room_for_thought = max(beside_whole_answer, min(beside_short_answer, room // 2))
    return max(0, min(arm.think_tokens, room_for_thought))


class ThinkingRun:
    """A thought and its answer on one sequence, which stands at the end of the prompt.

    Whoever drives it steps the sequence and hands each drawn token to ``take``; the trace queues
    the bridge between thought and answer itself. A token the prefill drew must be taken back
    first where the plan has no thought but a hand-over.

    Attributes:
        last_ns: When the last token was taken.
    """

    def __init__(
        self, session: Session, sequence: TokenSequence, plan: ThinkingPlan, facts: ModelFacts
    ) -> None:
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
            self._reply = self._reply_run("")
            return
        self._thought = Run(plan.think_tokens, (plan.thinking.marker, *facts.stop))
        if self._thought.ending is not None:
            self._cross(plan.thinking.hand_over, plan.hand_over)

    @property
    def thinking(self) -> bool:
        """The next token belongs to the thought."""
        return self._thought is not None and self._thought.ending is None

    @property
    def done(self) -> bool:
        """Thought and answer are over."""
        return self._reply is not None and self._reply.ending is not None

    @property
    def thinking_tokens(self) -> int:
        """Tokens of the thought so far."""
        return self._thought.tokens if self._thought else 0

    @property
    def tokens(self) -> int:
        """Tokens drawn so far, those of thought and answer."""
        return self.thinking_tokens + (self._reply.tokens if self._reply else 0)

    @property
    def thought(self) -> Decoded | None:
        """The thought as it came to be; None without one, or while it goes on."""
        if self._thought is None or self._thought.ending is None:
            return None
        decoded = self._thought.decoded()
        return replace(decoded, text=decoded.text + self._bridge_shown)

    @property
    def reply(self) -> Decoded | None:
        """The answer as it came to be; None if none was begun, or while it goes on."""
        begun = self._reply is not None and (self._reply.tokens or self._reply.ending)
        if self._reply is None or not begun or not self.done:
            return None
        decoded = self._reply.decoded()
        return replace(decoded, text=self._adopted) if self._adopted else decoded

    def take(self, sampled: Sampled, at_ns: int) -> list[Thought | Answer]:
        """Take the token that a step drew for the sequence; what is new to show."""
        self.last_ns = at_ns
        if self._thought is not None and self._thought.ending is None:
            return self._take_thought(self._thought, sampled, at_ns)
        assert self._reply is not None
        events: list[Thought | Answer] = []
        if self._reply.tokens == 0 and self._bridge_shown:
            events.append(Thought(at_ns, self._bridge_shown, 0))
        before = self._reply.tokens
        text = self._reply.take(sampled, at_ns)
        tokens = self._reply.tokens - before
        if text or tokens:
            events.append(Answer(at_ns, text, tokens))
        elif self._had_said_all():
            assert self._thought is not None
            self._adopted = self._thought.decoded().text.strip()
            events.append(Answer(at_ns, self._adopted, 0))
        return events

    def _had_said_all(self) -> bool:
        """The model ended its thought by itself and has nothing to add: the thought answers."""
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
        """End the thought from outside and queue the bridge; the text that was held back."""
        assert self._thought is not None
        held = self._thought.end(ending)
        self._cross(bridge, tuple(self._session.tokenize(bridge)))
        return held

    def hurry(self, at_ns: int) -> list[Thought | Answer]:
        """The joules are spent: hand over to the answer, or end it unless it was reserved."""
        if self._thought is not None and self._thought.ending is None:
            if self._thought.tokens == 0:
                return []
            assert self._plan.thinking is not None
            text = self.cut(Ending.BUDGET, self._plan.thinking.hand_over)
            return [Thought(at_ns, text, 0)] if text else []
        reserved = self._thought is not None and self._thought.decoded().ending is Ending.BUDGET
        if reserved or self._reply is None or self._reply.tokens == 0:
            return []
        text = self._reply.end(Ending.BUDGET)
        return [Answer(at_ns, text, 0)] if text else []

    def cancel(self, at_ns: int) -> list[Thought | Answer]:
        """The user stopped it; what was held back is shown."""
        if self._thought is not None and self._thought.ending is None:
            text = self._thought.end(Ending.CANCELLED)
            return [Thought(at_ns, text, 0)] if text else []
        if self._reply is None or self._reply.tokens == 0:
            self._reply = None  # it was not begun
            return []
        text = self._reply.end(Ending.CANCELLED)
        return [Answer(at_ns, text, 0)] if text else []

    def _take_thought(self, thought: Run, sampled: Sampled, at_ns: int) -> list[Thought | Answer]:
        before = thought.tokens
        text = thought.take(sampled, at_ns)
        tokens = thought.tokens - before
        events: list[Thought | Answer] = []
        if text or tokens:
            events.append(Thought(at_ns, text, tokens))
        if thought.ending is None:
            return events
        assert self._plan.thinking is not None
        decoded = thought.decoded()
        if decoded.stop == self._plan.thinking.marker:
            opening = decoded.rest.lstrip()
            self._reply = self._reply_run(opening)
            return [*events, Answer(at_ns, opening, 0)] if opening else events
        if decoded.ending is Ending.LIMIT:
            self._cross(self._plan.thinking.hand_over, self._plan.hand_over)
        else:
            ended = self._plan.thinking.ended
            self._cross(ended, tuple(self._session.tokenize(ended)))
        return events

    def _cross(self, bridge: str, tokens: tuple[int, ...]) -> None:
        assert self._plan.thinking is not None
        self._session.extend(self.sequence, tokens)
        shown = bridge.partition(self._plan.thinking.marker)[0].rstrip()
        self._bridge_shown = shown if shown.strip() else ""
        self._reply = self._reply_run("")

    def _reply_run(self, opening: str) -> Run:
        room = self._facts.context_tokens - len(self.sequence.tokens)
        return Run(min(self._plan.answer_tokens, room), self._facts.stop, opening)
