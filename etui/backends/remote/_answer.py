"""Answer a request over a remote server: direct, thinking within a budget, or the letters.

The events have times of this machine's monotonic clock. What ends the prefill is the server's own
timing where it reports one, or else the first token.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from etui.backends.base import AnswerRequest
from etui.backends.remote._client import CUT_OFF, Failure, RemoteClient, RequestFailed
from etui.backends.remote._dialects import Dialect
from etui.backends.remote._reply import (
    Reply,
    ThinkingSplitter,
    build_finished,
    describe_end,
    describe_notes,
    estimate_prompt_tokens,
    known_prompt,
)
from etui.backends.remote._stream_parts import Asked, StreamPart
from etui.chat import Message
from etui.engine.chat_formats import choose_format
from etui.engine.session import ModelFacts
from etui.events import (
    Answer,
    Event,
    Finished,
    Prefilled,
    Prefilling,
    Probe,
    Status,
    TokenLogprob,
)
from etui.models.spec import ModelSpec
from etui.multiple_choice import Option, parse_options
from etui.reasoning.choice_readout import LetterReading, format_option
from etui.reasoning.decoding import BUDGET
from etui.reasoning.prompts import (
    ANSWER_MARKER,
    choose_style,
    with_instruction,
    with_letter_instruction,
)
from etui.units import percent_text

END_THINKING_SECONDS = 2.0
"""Longest wait for the control call that ends the thinking; then the request is closed."""

Signal = Literal["cancel", "end thinking"]


@dataclass(frozen=True, slots=True)
class Arrived:
    number: int
    pieces: tuple[StreamPart, ...]
    t_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A request has ended: as its server ended it, or by a failure."""

    number: int
    error: RequestFailed | None = None


Inbox = Arrived | Ended | Signal


class Requests:
    """Sends the requests of one answer and collects what arrives; lives on the event loop."""

    def __init__(self, client: RemoteClient, dialect: Dialect, clock_ns: Callable[[], int]) -> None:
        self._client = client
        self._dialect = dialect
        self._clock_ns = clock_ns
        self._inbox: asyncio.Queue[Inbox] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._sent = 0
        self.retried: list[Failure] = []

    def send(self, asked: Asked) -> int:
        """Send a request, and return its number.

        Raises:
            InvalidRequest: The server cannot do what is asked.
        """
        request = self._dialect.build(asked)
        self._sent += 1
        number = self._sent

        async def run() -> None:
            try:
                documents = self._client.stream(request, self.retried.append)
                async with aclosing(documents):  # type: ignore[type-var]
                    async for document in documents:
                        t_ns = self._clock_ns()
                        pieces = self._dialect.parse(document)
                        error = next((piece.error for piece in pieces if piece.error), "")
                        if error:
                            what = self._client.hide_key(error)
                            raise RequestFailed(Failure("error event", what, began=True))
                        self._inbox.put_nowait(Arrived(number, pieces, t_ns))
                        if any(piece.last for piece in pieces):
                            break
                self._inbox.put_nowait(Ended(number))
            except RequestFailed as error:
                self._inbox.put_nowait(Ended(number, error))
            except Exception as error:  # noqa: BLE001 - a bug of a parser must not hang the answer
                what = f"{type(error).__name__}: {error}"
                failed = RequestFailed(Failure("format", what, began=True))
                self._inbox.put_nowait(Ended(number, failed))

        self._tasks[number] = asyncio.get_running_loop().create_task(run())
        return number

    def signal(self, signal: Signal) -> None:
        self._inbox.put_nowait(signal)

    async def receive(self) -> Inbox:
        """Wait for what comes next from requests that were not closed."""
        while True:
            message = await self._inbox.get()
            if isinstance(message, str) or message.number in self._tasks:
                return message

    async def end_thinking(self, request_id: str) -> bool:
        """Ask the server to end the thinking of a request; return whether it does."""
        try:
            request = self._dialect.build_end_thinking(request_id)
            await self._client.fetch_text(
                request.path, seconds=END_THINKING_SECONDS, body=request.body
            )
        except RequestFailed:
            return False
        return True

    async def close(self, number: int) -> None:
        """Close a request, whose connection ends; what arrives from it is dropped."""
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close_all(self) -> None:
        for number in list(self._tasks):
            await self.close(number)


def read_options(first: TokenLogprob | None, options: Sequence[Option]) -> LetterReading | None:
    """Read the probabilities of the letters, summed over the tokens ``A`` and `` A``.

    A letter that is not among the alternatives has a probability below all of theirs, and counts
    as 0.

    Returns:
        None if no letter is among the alternatives.
    """
    if first is None:
        return None
    sums = {option.letter: 0.0 for option in options}
    seen = dict(first.top)
    seen.setdefault(first.piece, first.logprob or 0.0)
    for piece, logprob in seen.items():
        letter = bytes(piece).decode("utf-8", "replace").strip()
        if letter in sums:
            sums[letter] += math.exp(logprob)
    mass = math.fsum(sums.values())
    if mass <= 0.0:
        return None
    shares = tuple((letter, p / mass) for letter, p in sums.items())
    return LetterReading(shares, min(1.0, mass))


Outcome = Literal["ended", "cancelled", "spent", "limit"]
"""How reading a request ended: by the server, by the user, by a budget, or by ``enough``."""

MOST_ALTERNATIVES = 20
"""Alternatives of the first token for the letters: the most that all servers give."""

BUDGET_SLACK_TOKENS = 32
"""Tokens over the budget before a server that keeps it itself is interrupted."""

OVERRUN_TOKENS = 64
"""Tokens over its limit after which an answer is cut off here, since its server does not do it."""

LOW_MASS = 0.5
ASK_AGAIN = "That is enough thinking. Write your final answer now, and nothing else."


class RemoteAnswer:
    """One answer over the requests of a backend."""

    def __init__(
        self,
        request: AnswerRequest,
        dialect: Dialect,
        requests: Requests,
        clock_ns: Callable[[], int],
    ) -> None:
        self.arm = request.arm
        self.spec = request.model
        self.messages = request.messages
        self.options = request.options
        self.dialect = dialect
        self.requests = requests
        self.clock_ns = clock_ns
        self.start_ns = clock_ns()
        self.prefilled_ns: int | None = None
        self.energy: Mapping[str, Any] | None = None
        self.server = ""
        self._spent = False

    def run(self) -> AsyncIterator[Event]:
        """Return the events of the one answer; the last is ``Finished``.

        Raises:
            RequestFailed: A request failed.
        """
        if self.arm.reasoning == "cot" and self.arm.think_tokens > 0:
            return self._think()
        if self.arm.readout == "choices":
            return self._read_out_option()
        return self._answer_directly()

    def ask(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        *,
        thinks: bool = False,
        count: int = 1,
        logprobs: int | None = None,
        seed: int | None = None,
    ) -> Asked:
        """Build a request to the model.

        Args:
            logprobs: Alternatives that are needed; None for those that the client asks for.
        """
        options, wanted = self.options, self.options.top_logprobs
        can_add = not options.tools and (count == 1 or self.dialect.joins_probabilities)
        if logprobs is None and self.dialect.gives_probabilities and can_add:
            logprobs = 0
        if wanted is not None:
            logprobs = max(logprobs or 0, wanted)
        sampling = self.arm.sampling
        # Whether models.yaml says that it thinks.
        can_switch = bool(self.spec.think_close) or self.spec.thinking_switch is not None
        return Asked(
            model=self.spec.remote_name or self.spec.name,
            messages=tuple(messages),
            sampling=sampling if seed is None else replace(sampling, seed=seed % 2**32),
            max_tokens=max(1, max_tokens),
            stops=tuple(dict.fromkeys((*self.spec.stop, *options.stop))),
            options=options,
            thinking=thinks if can_switch else None,
            think_tokens=self.arm.think_tokens if thinks else None,
            switch=self.spec.thinking_switch,
            count=count,
            logprobs=logprobs,
        )

    def new_reply(self, splitter: ThinkingSplitter | None = None) -> Reply:
        tags = ThinkingSplitter(self.spec.think_close or "", self.spec.think_open or "")
        wants = self.options.top_logprobs is not None
        return Reply(splitter or tags, with_logprobs=wants)

    def take_facts(self, reply: Reply, pieces: Sequence[StreamPart]) -> None:
        """Take what pieces report of a request, into the first of its replies."""
        for piece in pieces:
            reply.take_facts(piece)
            self.server = piece.server or self.server
        self.energy = reply.energy or self.energy

    def note_first(self, reply: Reply, pieces: Sequence[StreamPart], t_ns: int) -> Event | None:
        """Build the event of the end of the prefill, or of its progress."""
        if self.prefilled_ns is not None:
            return None
        if any(piece.tokens for piece in pieces):
            self.prefilled_ns = t_ns
            prompt, cached = known_prompt(reply.usage)
            prompt = estimate_prompt_tokens(self.messages) if prompt is None else prompt
            return Prefilled(self.start_ns, t_ns, prompt, cached, prompt - cached)
        progress = next((piece.progress for piece in pieces if piece.progress), None)
        if progress is None:
            return None
        return replace(progress, t_ns=t_ns)

    async def _read(self, reply: Reply, enough: Callable[[Reply], bool]) -> AsyncIterator[Event]:
        """Read the running request, and yield its events; ``self.outcome`` says how it ended.

        Raises:
            RequestFailed: The request failed before the answer was there.
        """
        self.outcome: Outcome = "ended"
        while True:
            if self._spent and reply.tokens:
                self._spent, self.outcome = False, "spent"
                return
            message = await self.requests.receive()
            match message:
                case "cancel":
                    self.outcome = "cancelled"
                    return
                case "end thinking":
                    self._spent = True
                case Arrived(pieces=pieces, t_ns=t_ns):
                    self.take_facts(reply, pieces)
                    first = self.note_first(reply, pieces, t_ns)
                    if first is not None:
                        yield first
                    for piece in pieces:
                        if piece.index == 0:
                            for event in reply.take(piece, t_ns):
                                yield event
                    if reply.finish is None and enough(reply):
                        self.outcome = "limit"
                        return
                case Ended(error=error):
                    if reply.finish is None:
                        raise error or RequestFailed(CUT_OFF)
                    if error is not None and error.failure.kind == "error event":
                        raise error
                    return  # the answer is whole, if not its end

    async def _read_whole(
        self, asked: Asked, reply: Reply, enough: Callable[[Reply], bool]
    ) -> AsyncIterator[Event]:
        """Send a request, and yield the events of its answer up to the end."""
        number = self.requests.send(asked)
        async for event in self._read(reply, enough):
            yield event
        await self.requests.close(number)
        for event in reply.end(self.clock_ns()):
            yield event

    def _overruns(self, reply: Reply) -> bool:
        return reply.tokens >= self.arm.max_tokens + OVERRUN_TOKENS

    async def _answer_directly(self, why: str = "") -> AsyncIterator[Event]:
        reply = self.new_reply()
        asked = self.ask(self.messages, self.arm.max_tokens)
        async for event in self._read_whole(asked, reply, self._overruns):
            yield event
        status, reason = describe_end(reply, self.outcome, self.arm.max_tokens)
        yield self.finish([[reply]], status, why, reason)

    async def _read_out_option(self) -> AsyncIterator[Event]:
        options = parse_options(self.messages[-1].content)
        if not options:
            async for event in self._answer_directly(
                "the question has no options, so the answer was decoded"
            ):
                yield event
            return
        reply = self.new_reply()
        asked = self.ask(with_letter_instruction(self.messages), 1, logprobs=MOST_ALTERNATIVES)
        asked = replace(asked, options=replace(asked.options, json_schema="", tools=""))
        async for event in self._read_whole(asked, reply, self._overruns):
            if isinstance(event, Prefilled | Prefilling):
                yield event
        if self.outcome == "cancelled":
            yield self.finish([[reply]], "stopped", "stopped while computing the prompt")
            return
        reading = read_options(reply.first_probability, options)
        if reading is None:
            why = "the server gave no probabilities of the letters, so the answer was decoded"
            self.start_ns, self.prefilled_ns = self.clock_ns(), None
            async for event in self._answer_directly(why):
                yield event
            return
        letter, probability = reading.best
        text = format_option(letter, options)
        end_ns = reply.last_ns or self.clock_ns()
        yield Probe(end_ns, 0, reading.probabilities, 1)
        yield Answer(end_ns, text, 0)
        share = percent_text(reading.mass)
        doubt = f"the option letters have only {share} of the probability of the next token"
        ended = self.finish([[reply]], "complete", "" if reading.mass >= LOW_MASS else doubt)
        yield replace(
            ended, answer=text, thinking="", confidence=probability, margin=reading.margin
        )

    async def _think(self) -> AsyncIterator[Event]:
        arm, facts = self.arm, build_facts(self.spec)
        style = choose_style(arm, facts)
        native = style == "native"
        marker = ThinkingSplitter(ANSWER_MARKER, thinks=True)
        reply = self.new_reply(None if native else marker)
        keeps_budget = native and self.dialect.kind in ("llama-server", "vllm")
        most = arm.think_tokens + (BUDGET_SLACK_TOKENS if keeps_budget else 0)

        def enough(reply: Reply) -> bool:
            if reply.is_thinking:
                return reply.thinking_tokens >= most
            return reply.answer_tokens >= arm.max_tokens

        messages = with_instruction(self.messages, style)
        number = self.requests.send(
            self.ask(messages, arm.think_tokens + arm.max_tokens, thinks=native)
        )
        async for event in self._read(reply, enough):
            yield event
        cut = ""
        thinking_was_cut = self.outcome in ("spent", "limit") and reply.is_thinking
        spent = self.outcome == "spent"
        if thinking_was_cut:
            limit = BUDGET if spent else "the thinking budget"
            cut = f"{limit} ended the thinking after {reply.thinking_tokens} tokens"
            if (
                native
                and self.dialect.ends_thinking
                and reply.request_id
                and await self.requests.end_thinking(reply.request_id)
            ):
                most = reply.thinking_tokens + BUDGET_SLACK_TOKENS
                async for event in self._read(reply, enough):
                    yield event
        await self.requests.close(number)
        for event in reply.end(self.clock_ns()):
            yield event
        replies = [[reply]]
        if self.outcome != "cancelled" and reply.is_thinking and not reply.tool_calls:
            again = self.new_reply()
            replies.append([again])
            asked = self.ask(build_second_messages(self.messages, reply), arm.max_tokens)
            async for event in self._read_whole(asked, again, self._overruns):
                yield event
            cut = "; ".join(part for part in (cut, "asked again for the answer") if part)
        outcome = self.outcome
        if outcome == "spent" and not replies[-1][0].answer:
            outcome = "ended"
        status, reason = describe_end(replies[-1][0], outcome, arm.max_tokens)
        if spent and status == "complete":
            status = "budget"
        yield self.finish(replies, status, reason, cut)

    def finish(self, replies: Sequence[Sequence[Reply]], status: Status, *why: str) -> Finished:
        notes = describe_notes(replies, self.requests.retried)
        reasons = "; ".join(part for part in (*why, *notes) if part)
        return build_finished(
            replies,
            start_ns=self.start_ns,
            now_ns=self.clock_ns(),
            status=status,
            why=reasons,
            estimated_prompt=estimate_prompt_tokens(self.messages),
        )


def build_facts(spec: ModelSpec) -> ModelFacts:
    return ModelFacts(
        name=spec.name,
        context_tokens=spec.context,
        stop=spec.stop,
        format=choose_format(spec, None),
    )


def build_second_messages(messages: Sequence[Message], reply: Reply) -> tuple[Message, ...]:
    """Build the conversation that asks for the answer after the thinking so far."""
    thought = reply.thinking.strip()
    if not thought:
        return tuple(messages)
    return (*messages, Message("assistant", thought), Message("user", ASK_AGAIN))
