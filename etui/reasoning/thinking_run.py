"""Thinking and the answer it leads to, driven token by token.

Thinking is never cut without a transition: if it is ended early, a bridge of words hands over to
the answer, whose tokens are reserved. A bare cut costs more accuracy than not thinking at all.
"""

from __future__ import annotations

from dataclasses import replace

from etui.engine.session import Sampled, Session, TokenSequence
from etui.events import Answer, Probe, Thought, TokenLogprob
from etui.reasoning.answer_plan import AnswerPlan
from etui.reasoning.choice_readout import LETTER_LEAD, LetterReading, read_letters
from etui.reasoning.decoding import Decoded, Ending, Run, TokenLog
from etui.reasoning.tool_events import ChannelStream, opening_tags

Part = Thought | Answer | TokenLogprob | Probe
"""An event of a run."""


class ThinkingRun:
    """Thinking and its answer on one sequence that ends with the prompt.

    The caller steps the sequence and passes each drawn token to ``take``; the run queues the bridge
    between thinking and answer itself. If the plan has a hand-over but no thinking tokens, the
    token drawn by the prefill must be rolled back first. A grammar is set where an answer follows
    thinking; the caller sets it for an answer that begins with the run.
    """

    def __init__(
        self, session: Session, sequence: TokenSequence, plan: AnswerPlan, index: int = 0
    ) -> None:
        self._index = index
        self.sequence = sequence
        self._session = session
        self._plan = plan
        self._bridge_shown = ""
        self._adopted = ""
        self._thought: Run | None = None
        self._reply: Run | None = None
        self._call_tags: tuple[str, ...] = ()
        self._reads_letter = False
        self._letter: LetterReading | None = None
        self.last_ns = 0
        if plan.thinking is None:
            self._reply = self._build_reply(plan.answer_tokens, plan.text + plan.gap)
            self._reply.begin_with(plan.unfinished)
            return
        calls = opening_tags(plan.output.tool_format) if plan.thinking.style == "native" else ()
        self._call_tags = () if plan.output.grammar is not None else calls
        stops = (plan.thinking.marker, *self._call_tags, *session.facts.stop)
        self._thought = Run(plan.think_tokens, stops, guard=plan.guard())
        if self._thought.ending is not None:
            self._queue_bridge(plan.thinking.hand_over, plan.hand_over)

    @property
    def thinking(self) -> bool:
        """Whether the next token belongs to the thinking."""
        return self._thought is not None and self._thought.ending is None

    @property
    def done(self) -> bool:
        """Whether thinking and answer have ended, and the letter behind them is read."""
        return self._answered and not self._reads_letter

    @property
    def _answered(self) -> bool:
        return self._reply is not None and self._reply.ending is not None

    @property
    def thinking_tokens(self) -> int:
        """Number of thinking tokens so far."""
        return self._thought.tokens if self._thought else 0

    @property
    def tokens(self) -> int:
        """Number of thinking and answer tokens so far."""
        reply = self._reply.tokens if self._reply else 0
        return self.thinking_tokens + reply + (self._letter is not None)

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
        if self._adopted:
            decoded = replace(decoded, text=self._adopted)
        if self._letter is None:
            return decoded
        return replace(
            decoded,
            text=f"{decoded.text}{self._letter_text}",
            tokens=decoded.tokens + 1,
            first_ns=decoded.first_ns or self.last_ns,
            last_ns=self.last_ns,
            letter=self._letter,
        )

    @property
    def _letter_text(self) -> str:
        return "" if self._letter is None else f"{LETTER_LEAD} {self._letter.best[0]}"

    def take(self, sampled: Sampled, at_ns: int) -> list[Part]:
        """Take the token that a step drew for the sequence and return the new text as events."""
        self.last_ns = at_ns
        if self._reads_letter:
            return self._read_letter(at_ns)
        events = self._take(sampled, at_ns)
        self._ask_for_letter()
        return events

    def _take(self, sampled: Sampled, at_ns: int) -> list[Part]:
        thought, reply = self._thought, self._reply
        if thought is not None and thought.ending is None:
            return self._take_thought(thought, sampled, at_ns)
        assert reply is not None
        events: list[Part] = []
        before = reply.tokens
        if before == 0 and self._bridge_shown:
            events.append(Thought(at_ns, self._bridge_shown, 0))
        text = reply.take(sampled, at_ns)
        tokens = reply.tokens - before
        if text or tokens:
            events.append(Answer(at_ns, text, tokens))
        elif thought is not None and reply.tokens == 0:
            # The model ended the thinking and adds nothing: it is the answer.
            if reply.ending is thought.ending is Ending.TOKEN:
                self._adopted = thought.decoded().text.strip()
            if self._adopted:
                events.append(Answer(at_ns, self._adopted, 0))
        return [*events, *reply.logprobs(text)]

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
        if reserved or self._reply is None or self._reply.tokens == 0 or self._answered:
            return []
        events = self._end_reply(self._reply, Ending.BUDGET, at_ns)
        self._ask_for_letter()
        return events

    def cancel(self, at_ns: int) -> list[Part]:
        """End the run because the user stopped it, and return the text that was held back."""
        if self._thought is not None and self._thought.ending is None:
            text = self._thought.end(Ending.CANCELLED)
            return [Thought(at_ns, text, 0)] if text else []
        self._reads_letter = False
        if self._reply is None or self._reply.tokens == 0:
            self._reply = None  # it was not started
            return []
        return self._end_reply(self._reply, Ending.CANCELLED, at_ns)

    def _end_reply(self, reply: Run, ending: Ending, at_ns: int) -> list[Part]:
        text = reply.end(ending)
        return [Answer(at_ns, text, 0), *reply.logprobs(text)] if text else []

    def _ask_for_letter(self) -> None:
        if self._plan.letter is not None and self._answered and not self._reads_letter:
            self._session.extend(self.sequence, self._plan.letter.lead)
            self._reads_letter = True

    def _read_letter(self, at_ns: int) -> list[Part]:
        """Read the letter in place of the token that the step drew."""
        assert self._plan.letter is not None
        letter = read_letters(self._session, self.sequence, self._plan.letter.tokens)
        self._letter, self._reads_letter = letter, False
        lead = len(self._plan.letter.lead)
        return [
            Probe(at_ns, self.thinking_tokens, letter.probabilities, lead),
            Answer(at_ns, self._letter_text, 1),
        ]

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
        if decoded.stop == self._plan.thinking.marker or decoded.stop in self._call_tags:
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

        A grammar reads whole tokens, and a text of the model's format comes before the answer, so
        with either that token is replaced by its marker alone.
        """
        assert self._plan.thinking is not None
        if decoded.stop in self._call_tags:  # the model calls a tool without ending its thinking
            return f"{decoded.stop}{decoded.rest}"
        opening, answer = decoded.rest.lstrip(), self._plan.thinking.answer
        if self._plan.output.grammar is None and not answer:
            return opening
        if opening and self._session.rollback(self.sequence, 1):
            self._session.extend(self.sequence, self._session.tokenize(self._plan.thinking.marker))
        if answer:
            self._session.extend(self.sequence, self._session.tokenize(answer))
        return ""

    def _queue_bridge(self, bridge: str, tokens: tuple[int, ...]) -> None:
        assert self._plan.thinking is not None
        self._session.extend(self.sequence, tokens)
        shown = bridge.partition(self._plan.thinking.marker)[0].rstrip()
        self._bridge_shown = shown if shown.strip() else ""
        self._reply = self._start_reply("")

    def _start_reply(self, opening: str) -> Run:
        if self._plan.output.grammar is not None:
            self._session.constrain(self.sequence, self._plan.output.grammar)
        room = self._session.facts.context_tokens - len(self.sequence.tokens)
        if self._plan.letter is not None:
            room -= self._plan.letter.most_tokens
        return self._build_reply(min(self._plan.answer_tokens, room), opening)

    def _build_reply(self, limit: int, opening: str) -> Run:
        output, log = self._plan.output, None
        if output.top_logprobs is not None:
            log = TokenLog(self._session, self.sequence, output.top_logprobs, self._index)
        own = (*self._session.facts.stop, *self._plan.ends)
        stream = None
        if output.stop and output.call_lead is not None:
            stream = ChannelStream(output.stop, own, output.call_lead + opening)
        return Run(
            limit,
            (*own, *output.stop),
            opening,
            self._plan.guard(),
            log,
            logs_end=output.echo,
            stream=stream,
        )
