"""Turn the events of a turn into the parts of its answer that a client is sent.

Text that was sent cannot be taken back. So where a policy may replace an answer (a cascade, or a
question with options that is asked again for the letter), text is held until it is clear that it is
the answer of the turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.events import (
    Answer,
    Finished,
    Prefilled,
    Prefilling,
    PromptTokens,
    Thought,
    TokenLogprob,
    ToolCall,
    Vote,
)
from etui.multiple_choice import parse_options
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.routing.decision import Decision
    from etui.runtime.turn_request import PoolEvent
    from etui.turn.record import TurnRecord

_FINISH_REASONS = {"complete": "stop", "truncated": "length", "budget": "length"}
"""By the status of a turn; one that was stopped or failed is incomplete, so ``length`` as well."""


def finish_reason(status: str, tool_calls: str = "") -> str:
    """Return the ``finish_reason`` of an answer."""
    if tool_calls and status == "complete":
        return "tool_calls"
    return _FINISH_REASONS.get(status, "length")


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of an answer: ``content`` and ``thinking`` are text to append."""

    index: int = 0  # Number of the answer, if several are asked for
    content: str = ""
    thinking: str = ""
    tool: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()  # Log-probabilities of tokens of `content`
    finish: str | None = None  # Why the answer has ended; None while it has not


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer, one of several if these were asked for."""

    index: int
    text: str
    thinking: str
    tool_calls: str  # A JSON array in the OpenAI form; empty without any
    logprobs: tuple[TokenLogprob, ...]  # Those of its tokens, if they were asked for
    finish: str  # Why it has ended


class DeltaReader:
    """Reads the events of one turn.

    Attributes:
        decision: The routing decision; None before it.
        model: Name of the model that answers; empty before the decision.
        prefilled: How the last prompt was computed; None before that.
        prompt: The tokens of the prompt, if they were asked for.
        progress: What is done of the prompt that is being computed; empty at other times.
        stop: The stop string of the client that ended the answer; empty if none did.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._several = query.options.count > 1
        self.with_logprobs = query.options.top_logprobs is not None
        self._hold = False
        self._held: list[Delta] = []
        self._content = ""  # sent or held, of the running hop
        self._pending = ""  # waits for the log-probability of its token
        self._calls = False
        self._ended: Finished | None = None
        self._sent_anything = False
        self._finished = False
        self._logprobs: list[TokenLogprob] = []  # of several answers those of the next to end
        self._answers: dict[int, WholeAnswer] = {}  # those that have ended, if several are asked
        self.decision: Decision | None = None
        self.model = ""
        self.prefilled: Prefilled | None = None
        self.prompt: tuple[TokenLogprob, ...] = ()
        self.progress = ""
        self.stop = ""

    def add(self, event: PoolEvent) -> Iterator[Delta]:
        """Yield the parts that an event allows to send."""
        for delta in self._read(event):
            if self._hold and not isinstance(event, HopEnded | TurnFinished):
                self._held.append(delta)
            else:
                self._sent_anything = True
                yield delta

    def list_answers(self, record: TurnRecord) -> list[WholeAnswer]:
        """Return the whole answers of a turn that has ended.

        A single one has the blanks around it, as it was decoded: a prompt that is continued needs
        them, and the record has none.
        """
        if self._answers:
            return [answer for _, answer in sorted(self._answers.items())]
        same = self._content.strip() == record.answer
        text, logprobs = self._content if same else record.answer, tuple(self._logprobs)
        finish = finish_reason(record.status, record.tool_calls)
        return [WholeAnswer(0, text, record.thinking, record.tool_calls, logprobs, finish)]

    def _read(self, event: PoolEvent) -> Iterator[Delta]:
        match event:
            case Decided(decision):
                self.decision = decision
                self.model = decision.arm.model
                self._hold = may_be_replaced(decision, self._query.text)
            case HopStarted():
                self._forget()
                self.model = event.model
            case Prefilling():
                self.progress = f"prompt {event.done_tokens}/{event.total_tokens} tokens"
            case PromptTokens(tokens=tokens):
                self.prompt += tokens
            case Prefilled():
                self.prefilled, self.progress = event, ""
            case Thought(text=text) if text and not self._several:
                yield Delta(thinking=text)
            case Answer(text=text) if text and not self._several:
                self._content += text
                if self.with_logprobs:
                    self._pending += text
                else:
                    yield Delta(content=text)
            case TokenLogprob() if self.with_logprobs:
                self._logprobs.append(event)
                if not self._several:
                    pending, self._pending = self._pending, ""
                    yield Delta(content=pending, logprobs=(event,))
            case ToolCall():
                self._calls = True
                yield from self._flush()
                yield Delta(tool=event)
            case Vote() if self._several:
                yield from self._read_vote(event)
            case Finished():
                self._ended, self.stop = event, event.stop
                yield from self._flush()
                if not self._hold and not self._several:
                    yield from self._complete(event)
            case HopEnded():
                yield from self._end_hop(event)
            case TurnFinished(record):
                yield from self._end(record)

    def _flush(self) -> Iterator[Delta]:
        if self._pending:
            pending, self._pending = self._pending, ""
            yield Delta(content=pending)

    def _read_vote(self, vote: Vote) -> Iterator[Delta]:
        logprobs, self._logprobs = tuple(self._logprobs), []
        ended = "complete" if vote.status == "answered" else "truncated"
        finish = finish_reason(ended, vote.tool_calls)
        self._answers[vote.index] = WholeAnswer(
            vote.index, vote.answer, vote.thinking, vote.tool_calls, logprobs, finish
        )
        self._finished = True
        yield Delta(vote.index, content=vote.answer, thinking=vote.thinking, logprobs=logprobs)
        yield from _read_calls(vote.tool_calls, vote.index)
        yield Delta(vote.index, finish=finish)

    def _complete(self, end: Finished) -> Iterator[Delta]:
        if end.status in ("stopped", "error") or self._finished:
            return
        shown = self._content.lstrip()  # the text of the end has no blanks around it
        if end.answer.startswith(shown) and end.answer != shown:
            rest = end.answer.removeprefix(shown)
            self._content += rest
            yield Delta(content=rest)
        if not self._calls:
            yield from _read_calls(end.tool_calls)
        self._finished = True
        yield Delta(finish=finish_reason(end.status, end.tool_calls))

    def _end_hop(self, hop: HopEnded) -> Iterator[Delta]:
        end, held = self._ended, self._held
        self._held = []
        if not hop.taken or end is None:
            self._forget()
            return
        self.model = hop.model
        yield from held
        if not self._several:
            yield from self._complete(end)

    def _end(self, record: TurnRecord) -> Iterator[Delta]:
        """Send the answer of the record, if it is another one than that of the last hop."""
        self.model = record.model
        if self._finished or record.status in ("stopped", "error"):
            return
        if not self._sent_anything:
            if record.thinking:
                yield Delta(thinking=record.thinking)
            if record.answer:
                yield Delta(content=record.answer)
            yield from _read_calls(record.tool_calls)
        self._finished = True
        yield Delta(finish=finish_reason(record.status, record.tool_calls))

    def _forget(self) -> None:
        self._held = []
        self.prompt = ()
        self._content = self._pending = ""
        self._calls = False
        self._ended = None
        if not self._sent_anything:
            self._logprobs = []
            self._answers = {}
            self._finished = False


def _read_calls(tool_calls: str, answer: int = 0) -> Iterator[Delta]:
    for index, call in enumerate(json.loads(tool_calls) if tool_calls else ()):
        function = call["function"]
        tool = ToolCall(0, index, call["id"], function["name"], function["arguments"])
        yield Delta(answer, tool=tool)


def may_be_replaced(decision: Decision, question: str) -> bool:
    """Return whether another answer may replace the first one, even an earlier one the last."""
    if decision.cascade is not None:
        return True
    asks_again = decision.fallbacks.no_answer == "ask_constrained"
    return asks_again and decision.arm.readout != "choices" and bool(parse_options(question))
