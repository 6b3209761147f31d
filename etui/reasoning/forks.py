"""Several answers after one prefill: forks of its prompt, decoded in one batch.

Majority votes and a client that asks for several answers use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import CacheFull, EtuiError
from etui.events import Answer, Batch, Thought, TokenLogprob
from etui.reasoning.context_fit import LIKELY_ANSWER_TOKENS, FittedPrompt
from etui.reasoning.cot import thinking_prompt
from etui.reasoning.decoding import Opened
from etui.reasoning.direct import answer_prompt
from etui.reasoning.loop_guard import build_guard
from etui.reasoning.output import Output
from etui.reasoning.prompts import build_thinking, choose_style
from etui.reasoning.thinking_run import ThinkingPlan, ThinkingRun, build_plan


def plan_forks(
    messages: Sequence[Message], arm: Arm, session: Session, output: Output
) -> tuple[FittedPrompt, ThinkingPlan]:
    """Build the prompt that several answers share, and the plan of each.

    Raises:
        ContextOverflow: The question alone does not fit into the context.
    """
    facts = session.facts
    question = messages[-1].content
    if arm.reasoning != "direct" and arm.think_tokens:
        thinking = build_thinking(choose_style(arm, facts), facts)
        hand_over = session.tokenize(thinking.hand_over)
        prompt = thinking_prompt(messages, arm, session, thinking, len(hand_over), output)
        own = build_plan(arm, facts, len(prompt.tokens), thinking, hand_over, question, output)
        return prompt, own
    prompt = answer_prompt(messages, arm, session, output)
    room = facts.context_tokens - len(prompt.tokens)
    guard = partial(build_guard, arm, question)
    return prompt, ThinkingPlan(None, 0, min(arm.max_tokens, room), guard=guard, output=output)


@dataclass(slots=True)
class Fork:
    """An answer that is being decoded."""

    index: int  # Its number, from 0; its seed is the arm's plus this
    run: ThinkingRun
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of its tokens, if the client asks for them."""


class Forks:
    """The answers to one question on one session, as many in a batch as fit into the cache.

    Args:
        opened: The prompt after its prefill; its last token is queued.

    Attributes:
        waiting: Numbers of the answers that have not begun.
        live: Those that are being decoded.
        tokens: Tokens of all answers so far, by kind.
        first_ns: Time of the first token; None without one.
        thinking_end_ns, end_ns: End of the last batch with thinking, and of the last of all.
    """

    def __init__(
        self, count: int, arm: Arm, session: Session, plan: ThinkingPlan, opened: Opened
    ) -> None:
        self._arm = arm
        self._session = session
        self._plan = plan
        self._base = opened.sequence
        self._base_tokens = len(self._base.tokens) - self._base.pending
        self._batches_end_ns = opened.end_ns
        self.waiting = deque(range(count))
        self.live: list[Fork] = []
        self.tokens: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        self.first_ns: int | None = None
        self.thinking_end_ns = self.end_ns = opened.end_ns

    def begin(self) -> bool:
        """Begin the next answer; return False if none waits, or there is no room for it now.

        One that waits for room is not changed by it: a smaller batch draws the same text.

        Raises:
            InvalidRequest: The grammar is too large.
        """
        if not self.waiting or len(self.live) >= self._arm.batch:
            return False
        if self.live and not self._has_room():
            return False
        index = self.waiting.popleft()
        sampling = self._arm.sampling
        seeded = replace(sampling, seed=(sampling.seed + index) % 2**32)
        sequence = self._session.fork(self._base, seeded)
        try:
            run = ThinkingRun(self._session, sequence, self._plan, self._session.facts, index)
        except EtuiError:  # the grammar is refused
            self._session.close(sequence, keep=False)
            raise
        self.live.append(Fork(index, run))
        return True

    def _has_room(self) -> bool:
        if self._session.free_sequences < 1:
            return False
        each = self._plan.think_tokens + len(self._plan.hand_over) + 1
        each += min(self._plan.answer_tokens, LIKELY_ANSWER_TOKENS)
        promised = sum(max(0, each - self._computed(fork.run)) for fork in self.live)
        return self._session.free_tokens - promised >= each

    def _computed(self, run: ThinkingRun) -> int:
        return len(run.sequence.tokens) - run.sequence.pending - self._base_tokens

    def step(self) -> Iterator[Batch | Thought | Answer]:
        """Decode one batch; yield its shares, and the numbers of its tokens by kind.

        Raises:
            CacheFull: There is no room even for a single answer.
            EngineFailed: The batch failed.
        """
        try:
            step = self._session.step([fork.run.sequence for fork in self.live])
        except CacheFull:  # an answer took more room than was reserved for it
            if len(self.live) < 2:
                raise
            last = self.live[-1]
            self.end(last)
            self.waiting.appendleft(last.index)  # its seed draws the same text later
            return
        live = {fork.run.sequence.id: fork for fork in self.live}
        shares = tuple((live[id_].index, tokens) for id_, tokens in step.computed.items())
        if shares:
            yield Batch(self._batches_end_ns, step.end_ns, shares)
            self._batches_end_ns = step.end_ns
        new: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        for sampled in step.sampled:
            fork = live[sampled.sequence_id]
            was_thinking = fork.run.thinking
            for event in fork.run.take(sampled, step.end_ns):
                if isinstance(event, TokenLogprob):
                    fork.logprobs.append(event)
                else:
                    new[type(event)] += event.tokens
            if was_thinking:
                self.thinking_end_ns = step.end_ns
        self.end_ns = step.end_ns
        for kind, tokens in new.items():
            self.tokens[kind] += tokens
            if tokens:
                self.first_ns = self.first_ns or step.end_ns
                yield kind(step.end_ns, "", tokens)

    def end(self, fork: Fork) -> None:
        """Take a fork out of the batch, and free its cache."""
        self.live.remove(fork)
        self._session.close(fork.run.sequence, keep=False)
