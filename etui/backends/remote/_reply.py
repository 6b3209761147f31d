"""One answer of a remote server, as its pieces arrive: texts, tokens, times. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from etui.backends.remote._client import Failure
from etui.backends.remote._stream_parts import StreamPart, Timings, Usage
from etui.chat import Message
from etui.engine.special_tokens import TextStream, held_back
from etui.events import Answer, Event, Finished, Status, Thought, TokenLogprob, ToolCall
from etui.reasoning.decoding import BUDGET
from etui.units import count_text, seconds_text

_CHARACTERS_PER_TOKEN = 4

_NOTABLE_LOAD_SECONDS = 0.5


def estimate_prompt_tokens(messages: Sequence[Message]) -> int:
    """Estimate the tokens of a prompt, until the server reports them: four characters each."""
    characters = sum(len(message.content) + len(message.tool_calls) for message in messages)
    return max(1, -(-characters // _CHARACTERS_PER_TOKEN))


def known_prompt(usage: Usage) -> tuple[int | None, int]:
    """Return the tokens of the prompt (None if unknown), and the cached ones of them."""
    prompt = usage.prompt_tokens
    cached = usage.cached_tokens or 0
    return prompt, cached if prompt is None else min(cached, prompt)


def describe_end(reply: Reply, outcome: str, max_tokens: int) -> tuple[Status, str]:
    tokens = count_text(reply.answer_tokens, "token")
    if outcome == "cancelled":
        if reply.first_ns is None:
            return "stopped", "stopped while computing the prompt"
        where = "thinking" if reply.is_thinking and reply.thinking else "answering"
        return "stopped", f"stopped while {where}"
    if outcome == "spent":
        return "budget", f"{BUDGET} ended the answer after {reply.answer_tokens} tokens"
    if outcome == "limit" or reply.finish == "length":
        limit = "max tokens" if reply.tokens >= max_tokens or outcome == "limit" else "the server"
        return "truncated", f"{limit} cut off the answer after {tokens}"
    if reply.finish == "content_filter":
        return "complete", "a filter of the server ended the answer"
    return "complete", ""


def describe_notes(requests: Sequence[Sequence[Reply]], retried: Sequence[Failure]) -> list[str]:
    """Describe what a reader of the numbers has to know: further tries, loads, estimates."""
    notes = []
    if retried:
        tries = count_text(len(retried) + 1, "try", "tries")
        notes.append(f"{tries}: {retried[-1].what}")
    loads = [replies[0].timings.load_seconds or 0.0 for replies in requests]
    if max(loads, default=0.0) >= _NOTABLE_LOAD_SECONDS:
        notes.append(f"the server loaded the model for {seconds_text(sum(loads))}")
    if any(not _reports_tokens(replies) for replies in requests):
        notes.append("the server reports no tokens: they are counted by pieces")
    if any(replies[0].usage.prompt_tokens is None for replies in requests):
        notes.append("prompt tokens are an estimate")
    return notes


def find_prefill_end(reply: Reply, start_ns: int, end_ns: int) -> int:
    """Find the end of the prefill on this machine's clock.

    The decode ended with the last token, so it began the server's decode time before that. It
    cannot have begun after the first token, nor before the request was sent. Without a time of the
    server it is the time of the first token.
    """
    if reply.first_ns is None or reply.last_ns is None:
        return end_ns
    decode = reply.timings.decode_seconds
    if decode is None:
        return reply.first_ns
    return max(start_ns, min(reply.first_ns, reply.last_ns - round(decode * 1e9)))


def build_finished(
    requests: Sequence[Sequence[Reply]],
    *,
    start_ns: int,
    now_ns: int,
    status: Status,
    why: str,
    estimated_prompt: int,
) -> Finished:
    """Build the last event of an answer.

    Args:
        requests: The replies of each of its requests, in order; what a server reports of a request
            is in the first of its replies. The text of the answer is that of the last request.
        estimated_prompt: Tokens of the prompt where the server reports none.
    """
    replies = [reply for each in requests for reply in each]
    ends = [reply.last_ns for reply in replies if reply.last_ns is not None]
    firsts = [reply.first_ns for reply in replies if reply.first_ns is not None]
    end_ns = max(ends, default=now_ns)
    prefill_end_ns = min(firsts, default=end_ns)
    if len(requests) > 0 and len(requests[0]) == 1 and requests[0][0].first_ns == prefill_end_ns:
        prefill_end_ns = find_prefill_end(requests[0][0], start_ns, end_ns)
    thinking = "".join(reply.thinking for reply in replies).strip()
    thinking_end_ns = prefill_end_ns
    if thinking:
        found = [r.thinking_end_ns for r in replies if r.thinking_end_ns is not None]
        thinking_end_ns = max(prefill_end_ns, max(found, default=end_ns))
    counted = [_count_tokens(each) for each in requests]
    prompts = [known_prompt(each[0].usage) for each in requests]
    prompt = sum(estimated_prompt if tokens is None else tokens for tokens, _ in prompts)
    cached = min(sum(tokens for _, tokens in prompts), prompt)
    last = replies[-1] if replies else None
    return Finished(
        start_ns=start_ns,
        prefill_end_ns=prefill_end_ns,
        thinking_end_ns=thinking_end_ns,
        end_ns=end_ns,
        first_token_ns=min(firsts, default=None),
        status=status,
        why=why,
        answer=last.answer.strip() if last else "",
        thinking=thinking,
        prompt_tokens=prompt,
        cached_tokens=cached,
        computed_tokens=prompt - cached,
        thinking_tokens=sum(thinking for thinking, _ in counted),
        output_tokens=sum(total for _, total in counted),
        confidence=last.mean_probability if last else None,
        tool_calls=last.tool_calls if last else "",
    )


def _count_tokens(replies: Sequence[Reply]) -> tuple[int, int]:
    """Return the tokens of the thinking and of all of the output of one request."""
    if len(replies) == 1:
        return replies[0].count_tokens()
    pieces = sum(reply.tokens for reply in replies)
    thinking = sum(reply.count_tokens()[0] for reply in replies[1:])
    thinking += replies[0].thinking_tokens if replies[0].thinking.strip() else 0
    if not _reports_tokens(replies):
        return thinking, pieces
    total = replies[0].usage.output_tokens or 0
    return round(total * thinking / pieces) if pieces else 0, total


def _reports_tokens(replies: Sequence[Reply]) -> bool:
    """Return whether the server reports the tokens of a request, and of all of its answers.

    A number below that of the pieces is the number of one of several answers.
    """
    pieces = sum(reply.tokens for reply in replies)
    total = replies[0].usage.output_tokens
    if total is None:
        return not pieces
    return len(replies) == 1 or total >= pieces


class ThinkingSplitter:
    """Finds the end of the thinking in streamed text.

    Args:
        close: Text that ends the thinking (a tag, or ``Answer:``); empty for text without thinking.
        opening: Tag that begins it; the text thinks only if it begins with the tag.
        thinks: Whether the text begins with thinking without an opening tag.

    Attributes:
        thinking: Whether the text is still thinking.
    """

    def __init__(self, close: str = "", opening: str = "", *, thinks: bool = False) -> None:
        self._close = TextStream([close]) if close else None
        self._open = opening if close else ""
        self._held = ""
        self._begun = thinks or not self._open
        self._at_begin = False  # of the answer after the thinking: its white space is dropped
        self.thinking = thinks and self._close is not None

    @property
    def may_think(self) -> bool:
        """Whether the next text may be thinking: it is, or it is not clear yet."""
        return self.thinking or not self._begun

    def push(self, text: str) -> tuple[str, str]:
        """Add text and return the new thinking and the new text of the answer."""
        if not self._begun:
            self._held += text
            begin = self._held.lstrip()
            if begin.startswith(self._open):
                self._begun = self.thinking = True
                text, self._held = begin[len(self._open) :], ""
            elif not begin or held_back(begin, [self._open]) == len(begin):
                return "", ""  # it may still become the tag
            else:
                self._begun = True
                text, self._held = self._held, ""
        if not self.thinking:
            return "", self._trim(text)
        assert self._close is not None
        thought = self._close.push(text.encode("utf-8", "surrogatepass"))
        if self._close.stopped is None:
            return thought, ""
        self.thinking, self._at_begin = False, True
        return thought, self._trim(self._close.remainder)

    def _trim(self, text: str) -> str:
        if self._at_begin:
            text = text.lstrip()
            self._at_begin = not text
        return text

    def finish(self) -> tuple[str, str]:
        """End the text and return what was held back, as thinking and answer."""
        held, self._held = self._held, ""
        if self.thinking and self._close is not None:
            return self._close.finish(), ""
        return "", held


MOST_TOOL_CALLS = 128


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
        self.first_probability: TokenLogprob | None = None
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
        return "".join(self._answer)

    @property
    def thinking(self) -> str:
        return "".join(self._thinking)

    @property
    def tokens(self) -> int:
        return self.thinking_tokens + self.answer_tokens

    @property
    def is_thinking(self) -> bool:
        """Whether neither the answer nor a tool call has begun."""
        return not self._calls and not self.answer.strip()

    @property
    def tool_calls(self) -> str:
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

    def take_facts(self, piece: StreamPart) -> None:
        if piece.usage is not None:
            self.usage = _merge(self.usage, piece.usage)
        if piece.timings is not None:
            self.timings = piece.timings
        if piece.energy is not None:
            self.energy = piece.energy
        self.request_id = piece.request_id or self.request_id

    def take(self, piece: StreamPart, t_ns: int) -> Iterator[Event]:
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
        self, tokens: tuple[TokenLogprob, ...], t_ns: int
    ) -> Iterator[TokenLogprob]:
        for token in tokens:
            self.first_probability = self.first_probability or token
            self._logprob_sum += token.logprob or 0.0
            self._logprobs += 1
            if self._with_logprobs:
                yield replace(token, t_ns=t_ns)

    def _add_tool(self, part: ToolCall, t_ns: int) -> ToolCall | None:
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
    def _begins_another(call: _Call, part: ToolCall) -> bool:
        """Return whether a part with the index of a call is another one (Ollama counts from 0)."""
        return call.is_whole() and (not part.call_id or part.call_id != call.call_id)


def _merge(old: Usage, new: Usage) -> Usage:
    """Return the newer numbers; a number that is missing in them keeps its older value."""
    return replace(old, **{key: each for key, each in asdict(new).items() if each is not None})
