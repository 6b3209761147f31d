"""Thinking and the answer it leads to, token by token, and whether to go on with it.

Thinking is never cut without a transition: if it is ended early, a bridge of words hands over to
the answer, whose tokens are reserved. A bare cut costs more accuracy than not thinking at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from etui.arm import Arm, EarlyExit, Sampling, TokenCost
from etui.engine.session import Sampled, Session, TokenSequence
from etui.events import Answer, Probe, Thought, TokenLogprob
from etui.multiple_choice import parse_options
from etui.reasoning.answer_plan import AnswerPlan
from etui.reasoning.choice_readout import LETTER_LEAD, LetterReading, letter_tokens, read_letters
from etui.reasoning.decoding import Decoded, Ending, Run, TokenLog, mean_probability
from etui.reasoning.extraction import extract
from etui.reasoning.prompts import Thinking, answer_ends
from etui.reasoning.tool_events import ChannelStream, opening_tags
from etui.units import count_text, energy_text, percent_text

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
        options = output.options
        if options.top_logprobs is not None:
            log = TokenLog(self._session, self.sequence, options.top_logprobs, self._index)
        own = (*self._session.facts.stop, *self._plan.ends)
        stream = None
        if options.stop and output.call_lead is not None:
            stream = ChannelStream(options.stop, own, output.call_lead + opening)
        return Run(
            limit,
            (*own, *options.stop),
            opening,
            self._plan.guard(),
            log,
            logs_end=options.echo,
            stream=stream,
        )


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
    """Return why thinking can end: the last probes give the same probable answer; None if not."""
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
    """Return why the next chunk exceeds the joules left for thinking; None if it does not."""
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
    most what is missing to certainty. The first of ``probed`` is from before the thinking;
    ``exchange`` is the joules that one percentage point of confidence is worth.
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

        The last ``drawn`` tokens of the sequence are not yet part of the thinking.
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
