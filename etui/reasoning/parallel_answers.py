"""Several answers after one prefill: forks of its prompt, decoded in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypedDict

from etui.arm import Arm
from etui.chat import Message
from etui.engine.session import Session
from etui.errors import CacheFull, EtuiError
from etui.events import Answer, Batch, Thought, TokenLogprob, Vote
from etui.reasoning.context_fit import LIKELY_ANSWER_TOKENS, FittedPrompt
from etui.reasoning.cot import thinking_prompt
from etui.reasoning.decoding import Opened, describe_loops
from etui.reasoning.direct import answer_prompt
from etui.reasoning.loop_guard import build_guard
from etui.reasoning.output import Output
from etui.reasoning.prompts import build_thinking, choose_style
from etui.reasoning.thinking_run import ThinkingPlan, ThinkingRun, build_plan


def plan_answers(
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
class ParallelAnswer:
    """An answer that is being decoded."""

    index: int  # Its number, from 0; its seed is the arm's plus this
    run: ThinkingRun
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Log-probabilities of its tokens, if the client asks for them."""

    def build_vote(self, t_ns: int) -> Vote:
        """Build the event with its text so far; its weight is 0 until it is counted."""
        thought, reply = self.run.thought, self.run.reply
        runs = [run for run in (thought, reply) if run is not None]
        return Vote(
            t_ns=t_ns,
            index=self.index,
            answer=reply.text.strip() if reply else "",
            thinking=thought.text.strip() if thought else "",
            tokens=self.run.tokens,
            weight=0.0,
            status="abandoned",
            ended=describe_loops(thought, reply),
            raw_answer=reply.whole.strip() if reply else "",
            raw_thinking=thought.whole.strip() if thought else "",
            saved_tokens=sum(run.saved_tokens for run in runs),
        )


class _Totals(TypedDict):
    thinking_end_ns: int
    end_ns: int
    first_token_ns: int | None
    thinking_tokens: int
    output_tokens: int


class ParallelAnswers:
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
        self.live: list[ParallelAnswer] = []
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
        self.live.append(ParallelAnswer(index, run))
        return True

    def _has_room(self) -> bool:
        if self._session.free_sequences < 1:
            return False
        most = self._plan.think_tokens + len(self._plan.hand_over) + 1
        most += min(self._plan.answer_tokens, LIKELY_ANSWER_TOKENS)
        promised = sum(max(0, most - self._computed(each.run)) for each in self.live)
        return self._session.free_tokens - promised >= most

    def _computed(self, run: ThinkingRun) -> int:
        return len(run.sequence.tokens) - run.sequence.pending - self._base_tokens

    def step(self) -> Iterator[Batch | Thought | Answer]:
        """Decode one batch; yield its shares, and the numbers of its tokens by kind.

        Raises:
            CacheFull: There is no room even for a single answer.
            EngineFailed: The batch failed.
        """
        try:
            step = self._session.step([each.run.sequence for each in self.live])
        except CacheFull:  # an answer took more room than was reserved for it
            if len(self.live) < 2:
                raise
            last = self.live[-1]
            self.end(last)
            self.waiting.appendleft(last.index)  # its seed draws the same text later
            return
        live = {each.run.sequence.id: each for each in self.live}
        shares = tuple((live[id_].index, tokens) for id_, tokens in step.computed.items())
        if shares:
            yield Batch(self._batches_end_ns, step.end_ns, shares)
            self._batches_end_ns = step.end_ns
        new: dict[type[Thought] | type[Answer], int] = {Thought: 0, Answer: 0}
        for sampled in step.sampled:
            each = live[sampled.sequence_id]
            was_thinking = each.run.thinking
            for event in each.run.take(sampled, step.end_ns):
                if isinstance(event, TokenLogprob):
                    each.logprobs.append(event)
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

    def totals(self) -> _Totals:
        """Return the times and tokens of all answers, as fields of ``Finished``."""
        thinking, answer = self.tokens[Thought], self.tokens[Answer]
        return _Totals(
            thinking_end_ns=self.thinking_end_ns,
            end_ns=self.end_ns,
            first_token_ns=self.first_ns,
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
        )

    def end(self, one: ParallelAnswer) -> None:
        """Take an answer out of the batch, and free its cache."""
        self.live.remove(one)
        self._session.close(one.run.sequence, keep=False)
