"""One answer of a remote server, as its pieces arrive: texts, tokens, times. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from etui.backends.remote.pieces import Piece, Timings, TokenProbability, ToolPart, Usage
from etui.backends.remote.splitter import ThinkingSplitter
from etui.events import Answer, Event, Thought, TokenLogprob, ToolCall

MOST_TOOL_CALLS = 128
MOST_KEPT_PROBABILITIES = 200_000


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def is_whole(self) -> bool:
        try:
            json.loads("".join(self.arguments))
        except ValueError:
            return False
        return True


class Reply:
    """Collects one answer, and makes the events of its pieces.

    Args:
        splitter: Splits the thinking from the answer in the text.
        with_logprobs: Whether ``TokenLogprob`` events are made.

    Attributes:
        finish: Why the server ended it; None while it goes on.
        thinking_tokens, answer_tokens: Tokens so far, by pieces.
        first_ns, last_ns: Times of its first and last token; None without.
        thinking_end_ns: Time of the first token after the thinking; None until then.
        usage, timings, energy: What the server has reported last.
    """

    def __init__(
        self, splitter: ThinkingSplitter | None = None, *, with_logprobs: bool = False
    ) -> None:
        self._splitter = splitter or ThinkingSplitter()
        self._with_logprobs = with_logprobs
        self._answer: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}
        self._logprob_sum = 0.0
        self._logprobs = 0
        self.first_probability: TokenProbability | None = None
        self.finish: str | None = None
        self.thinking_tokens = 0
        self.answer_tokens = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.thinking_end_ns: int | None = None
        self.usage = Usage()
        self.timings = Timings()
        self.energy: Mapping[str, Any] | None = None
        self.request_id = ""

    @property
    def answer(self) -> str:
        """The text of the answer so far."""
        return "".join(self._answer)

    @property
    def thinking(self) -> str:
        """The thinking so far."""
        return "".join(self._thinking)

    @property
    def tokens(self) -> int:
        """All tokens so far, by pieces."""
        return self.thinking_tokens + self.answer_tokens

    @property
    def is_thinking(self) -> bool:
        """Whether neither the answer nor a tool call has begun."""
        return not self._calls and not self.answer.strip()

    @property
    def tool_calls(self) -> str:
        """The tools that it calls, as a JSON array; empty without any."""
        if not self._calls:
            return ""
        return json.dumps(
            [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in self._calls
            ],
            ensure_ascii=False,
        )

    @property
    def mean_probability(self) -> float | None:
        """Geometric mean of the probabilities of the answer's tokens; None without them."""
        return math.exp(self._logprob_sum / self._logprobs) if self._logprobs else None

    def take_facts(self, piece: Piece) -> None:
        """Take what a piece reports of the whole request."""
        if piece.usage is not None:
            self.usage = _merge(self.usage, piece.usage)
        if piece.timings is not None:
            self.timings = piece.timings
        if piece.energy is not None:
            self.energy = piece.energy
        self.request_id = piece.request_id or self.request_id

    def take(self, piece: Piece, t_ns: int) -> Iterator[Event]:
        """Take a piece that arrived at ``t_ns``, and yield its events."""
        tokens = piece.tokens
        if tokens:
            self.first_ns = self.first_ns or t_ns
            self.last_ns = t_ns
        was_thinking = bool(piece.thinking) or self._splitter.may_think
        thought, text = self._splitter.push(piece.text)
        thought = piece.thinking + thought
        # The tokens of a piece count for the part in which it begins.
        thinks = was_thinking and not (piece.tools or (text and not thought))
        if thought or (thinks and tokens):
            yield self._add_thought(thought, tokens if thinks else 0, t_ns)
        if not thinks and tokens and self.thinking_end_ns is None:
            self.thinking_end_ns = t_ns
        if text or (not thinks and tokens):
            yield self._add_text(text, 0 if thinks else tokens, t_ns)
        if not thinks:
            yield from self._add_probabilities(piece.probabilities, t_ns)
        for part in piece.tools:
            call = self._add_tool(part, t_ns)
            if call is not None:
                yield call
        if piece.finish is not None:
            self.finish = piece.finish
            yield from self.end(t_ns)

    def end(self, t_ns: int) -> Iterator[Event]:
        """Yield the text that was held back; nothing the second time."""
        thought, text = self._splitter.finish()
        if thought:
            yield self._add_thought(thought, 0, t_ns)
        if text:
            yield self._add_text(text, 0, t_ns)

    def count_tokens(self) -> tuple[int, int]:
        """Return the tokens of the thinking and of all of the output.

        They are those of the server where it reports them. Without a number of its own, the
        thinking has the share that it has of the pieces.
        """
        total = self.usage.output_tokens
        if not self.thinking.strip() and not self.usage.thinking_tokens:
            return 0, self.tokens if total is None else total
        if total is None:
            return self.thinking_tokens, self.tokens
        thinking = self.usage.thinking_tokens
        if thinking is None or (thinking == 0 and self.thinking_tokens):
            thinking = round(total * self.thinking_tokens / self.tokens) if self.tokens else 0
        return min(thinking, total), total

    def _add_thought(self, text: str, tokens: int, t_ns: int) -> Thought:
        self._thinking.append(text)
        self.thinking_tokens += tokens
        return Thought(t_ns, text, tokens)

    def _add_text(self, text: str, tokens: int, t_ns: int) -> Answer:
        self._answer.append(text)
        self.answer_tokens += tokens
        return Answer(t_ns, text, tokens)

    def _add_probabilities(
        self, tokens: tuple[TokenProbability, ...], t_ns: int
    ) -> Iterator[TokenLogprob]:
        for token in tokens:
            self.first_probability = self.first_probability or token
            self._logprob_sum += token.logprob
            self._logprobs += 1
            if self._with_logprobs:
                yield TokenLogprob(t_ns, token.piece, token.logprob, token.top)

    def _add_tool(self, part: ToolPart, t_ns: int) -> ToolCall | None:
        place = self._places.get(part.index)
        if place is not None and part.name and self._begins_another(self._calls[place], part):
            place = None
        if place is None:
            if len(self._calls) >= MOST_TOOL_CALLS or not part.name:
                return None
            place = self._places[part.index] = len(self._calls)
            self._calls.append(_Call(part.call_id or f"call_{place}", part.name))
            name = part.name
        else:
            name = ""
        call = self._calls[place]
        call.arguments.append(part.arguments)
        return ToolCall(t_ns, place, call.call_id, name, part.arguments)

    @staticmethod
    def _begins_another(call: _Call, part: ToolPart) -> bool:
        """Return whether a part with the index of a call is another one (Ollama counts from 0)."""
        return call.is_whole() and (not part.call_id or part.call_id != call.call_id)


def _merge(old: Usage, new: Usage) -> Usage:
    """Return the newer numbers; a number that is missing in them keeps its older value."""
    return Usage(
        new.prompt_tokens if new.prompt_tokens is not None else old.prompt_tokens,
        new.cached_tokens if new.cached_tokens is not None else old.cached_tokens,
        new.output_tokens if new.output_tokens is not None else old.output_tokens,
        new.thinking_tokens if new.thinking_tokens is not None else old.thinking_tokens,
    )
