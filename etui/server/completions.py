"""The dialects that answer with choices, ``/v1/chat/completions`` and ``/v1/completions``.

``/infill`` of llama.cpp is here too: its prompts have no template either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.server.answer import AnswerForm, Asked, frame
from etui.server.build_request import (
    build_chat_turn,
    build_completion_turns,
    build_infill_turn,
    parse,
)
from etui.server.chat_request import ChatBody, CompletionBody, InfillBody
from etui.server.documents import (
    completion_logprobs,
    energy_comment,
    logprob_document,
    token_text,
    tokens_of_answer,
    turn_documents,
)
from etui.turn.record import Seconds, Tokens

if TYPE_CHECKING:
    from etui.events import TokenLogprob, ToolCall
    from etui.runtime.turn_request import TurnRequest
    from etui.server.chat_request import SampledBody
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.turn.record import ClientRecord, TurnRecord


def read_chat(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a chat completion."""
    body, ignored = parse(ChatBody, document)
    turn = build_chat_turn(body, context, client)
    return Asked(turn, ChatForm(turn, body), body.stream, ignored)


def read_completion(
    document: dict[str, Any], context: ServerContext, client: ClientRecord
) -> Asked:
    """Read a request for completions of one or several raw prompts."""
    body, ignored = parse(CompletionBody, document)
    turns = build_completion_turns(body, context, client)
    forms = [CompletionForm(turn, body, index * body.n) for index, turn in enumerate(turns)]
    forms[0].family = forms
    more = tuple(zip(turns[1:], forms[1:], strict=True))
    return Asked(turns[0], forms[0], body.stream, ignored, more)


def read_infill(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request to fill in the middle of a text."""
    body, ignored = parse(InfillBody, document)
    turn = build_infill_turn(body, context, client)
    return Asked(turn, InfillForm(turn), body.stream, ignored)


class ChoicesForm(AnswerForm):
    """An answer as choices, in chunks if it is streamed."""

    prefix: str  # Start of the response's id, before the id of the turn
    kind: str  # Its `object`
    chunk_kind: str

    def __init__(self, request: TurnRequest, body: SampledBody) -> None:
        super().__init__(request)
        options = body.stream_options
        self._include_usage = options is not None and options.include_usage

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        return {
            **self._head(self.kind),
            "model": record.model,
            "choices": self.list_choices(record),
            **turn_documents(record),
        }

    def list_choices(self, record: TurnRecord) -> list[dict[str, Any]]:
        """Build the choices of a turn."""
        return [self._build_choice(answer) for answer in self.reader.list_answers(record)]

    def end(self, record: TurnRecord) -> bytes:
        """Return the chunk of the usage if it was asked for, the joules, and the end."""
        usage = b""
        if self._include_usage:
            documents = {"choices": [], **turn_documents(record)}
            usage = frame({**self._head(self.chunk_kind), **documents})
        return usage + energy_comment(record) + b"data: [DONE]\n\n"

    def _build_choice(self, answer: WholeAnswer) -> dict[str, Any]:
        raise NotImplementedError

    def _write_chunk(self, index: int, part: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "logprobs": None, **part, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head(self.chunk_kind), "choices": [choice], **usage})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.prefix + self.turn_id,
            "object": kind,
            "created": self.created,
            "model": self.reader.model,
            "system_fingerprint": f"etui-{__version__}",
        }


class ChatForm(ChoicesForm):
    """The responses of one chat completion."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, request: TurnRequest, body: SampledBody) -> None:
        super().__init__(request, body)
        self._opened: set[int] = set()

    def write(self, delta: Delta) -> bytes:
        """Return the chunks of a part of the answer."""
        opening = b""
        if delta.index not in self._opened:
            self._opened.add(delta.index)
            first = {"role": "assistant", "content": ""}
            opening = self._write_chunk(delta.index, {"delta": first})
        parts: dict[str, Any] = {}
        if delta.content:
            parts["content"] = delta.content
        if delta.thinking:
            parts["reasoning_content"] = delta.thinking
        if delta.tool is not None:
            parts["tool_calls"] = [_tool_delta(delta.tool)]
        if not parts and not delta.logprobs and delta.finish is None:
            return opening
        logprobs = self._build_logprobs(delta.logprobs) if delta.logprobs else None
        part = {"delta": parts, "logprobs": logprobs}
        return opening + self._write_chunk(delta.index, part, delta.finish)

    def _build_choice(self, answer: WholeAnswer) -> dict[str, Any]:
        return {
            "index": answer.index,
            "message": _build_message(answer),
            "logprobs": self._build_logprobs(answer.logprobs),
            "finish_reason": answer.finish,
        }

    def _build_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.reader.with_logprobs:
            return None
        return {"content": [logprob_document(each) for each in logprobs], "refusal": None}


def _build_message(answer: WholeAnswer) -> dict[str, Any]:
    calls = json.loads(answer.tool_calls) if answer.tool_calls else None
    content = None if calls and not answer.text else answer.text
    return {
        "role": "assistant",
        "content": content,
        "refusal": None,
        **({"reasoning_content": answer.thinking} if answer.thinking else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _tool_delta(call: ToolCall) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if not call.name:
        return {"index": call.index, "function": function}
    function = {"name": call.name, **function}
    return {"index": call.index, "id": call.call_id, "type": "function", "function": function}


class CompletionForm(ChoicesForm):
    """The responses of one completion; ``first`` is the number of its first choice among all.

    ``family`` of the first form has the forms of all prompts of the request.
    """

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(self, request: TurnRequest, body: CompletionBody, first: int = 0) -> None:
        super().__init__(request, body)
        self.family: Sequence[CompletionForm] = [self]
        self._first = first
        self._count = body.n
        self._asks_logprobs = body.logprobs is not None
        self._prompt = request.query.text if body.echo else None
        self._has_ids = bool(request.query.options.prompt_tokens)
        self._records: Sequence[TurnRecord] = ()
        self._characters: dict[int, int] = {}

    def write(self, delta: Delta) -> bytes:
        """Return the chunk of a part of the answer; the first one begins with the echo."""
        text, logprobs = delta.content, delta.logprobs
        if self._prompt is not None and delta.index not in self._characters:
            prompt, before_answer = self._read_echo()
            text, logprobs = prompt + text, (*before_answer, *logprobs)
        before = self._characters.get(delta.index, 0)
        self._characters[delta.index] = before + len(text)
        shown = completion_logprobs(logprobs, before) if logprobs else None
        if not text and shown is None and delta.finish is None:
            return b""
        part = {"text": text, "logprobs": shown}
        return self._write_chunk(self._first + delta.index, part, delta.finish)

    def join(self, records: Sequence[TurnRecord]) -> TurnRecord:
        """Return the sum of the turns of all prompts."""
        self._records = records
        return records[0] if len(records) == 1 else add_records(records)

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response, with the choices of all prompts."""
        if len(self.family) == 1:
            return super().whole(record)
        pairs = zip(self.family, self._records, strict=True)
        choices = [choice for form, own in pairs for choice in form.list_choices(own)]
        turns = [own.turn_id for own in self._records]
        return {**super().whole(record), "choices": choices, "turns": turns}

    def list_choices(self, record: TurnRecord) -> list[dict[str, Any]]:
        """Build the choices of one prompt: of more answers than are wanted the likeliest."""
        answers = self.reader.list_answers(record)
        if len(answers) > self._count:
            answers = sorted(answers, key=_mean_logprob, reverse=True)[: self._count]
            answers = [replace(answer, index=index) for index, answer in enumerate(answers)]
        return [self._build_choice(answer) for answer in answers]

    def _build_choice(self, answer: WholeAnswer) -> dict[str, Any]:
        text, logprobs = answer.text, answer.logprobs
        if self._prompt is not None:
            prompt, before = self._read_echo()
            text, logprobs = prompt + text, (*before, *logprobs)
        return {
            "index": self._first + answer.index,
            "text": text,
            "logprobs": completion_logprobs(logprobs) if self._asks_logprobs else None,
            "finish_reason": answer.finish,
        }

    def _read_echo(self) -> tuple[str, Sequence[TokenLogprob]]:
        tokens, text = self.reader.prompt, self._prompt or ""
        if self._has_ids:
            text = b"".join(bytes(token.piece) for token in tokens).decode("utf-8", "replace")
        elif tokens and not text.startswith(token_text(tokens[0].piece)):
            tokens = tokens[1:]  # a begin token, which the text does not have
        return text, tokens if self._asks_logprobs else ()


def _mean_logprob(answer: WholeAnswer) -> float:
    values = [each.logprob or 0.0 for each in answer.logprobs]
    return sum(values) / len(values) if values else float("-inf")


def add_records(records: Sequence[TurnRecord]) -> TurnRecord:
    """Return the sum of several turns, whose joules are None if those of one are."""
    first, energies = records[0], [record.energy for record in records]
    tokens = [tokens_of_answer(record) for record in records]
    names = ("joules", "uncertainty", "net_joules", "thinking_joules", "own_joules")
    sums: dict[str, Any] = {name: _add(getattr(each, name) for each in energies) for name in names}
    phases = {key: _add(each.phases.get(key) for each in energies) for key in energies[0].phases}
    seconds = _add_fields(Seconds, [replace(record.seconds, ttft=0.0) for record in records])
    total = _add_fields(Tokens, tokens)
    per_token = sums["joules"] / total.output if sums["joules"] and total.output else None
    sums |= {"phases": phases, "joules_per_token": per_token, "attribution": None, "channels": {}}
    sums |= {"end_ns": max(each.end_ns for each in energies)}
    energy = replace(energies[0], **sums, shared=any(each.shared for each in energies))
    seconds = replace(seconds, ttft=first.seconds.ttft)
    return replace(first, tokens=total, seconds=seconds, energy=energy, hops=(), votes=())


def _add(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _add_fields(kind: Callable[..., Any], parts: Sequence[Any]) -> Any:
    documents = [asdict(part) for part in parts]
    return kind(**{key: sum(each[key] for each in documents) for key in documents[0]})


class InfillForm(AnswerForm):
    """The responses to one request to fill in the middle, in llama.cpp's own form."""

    def write(self, delta: Delta) -> bytes:
        """Return the frame of a part of the text."""
        if not delta.content:
            return b""
        return frame({"index": delta.index, "content": delta.content, "tokens": [], "stop": False})

    def end(self, record: TurnRecord) -> bytes:
        """Return the joules, and the last frame, which has no text of its own."""
        return energy_comment(record) + frame({**self._describe(record), "content": ""})

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        [answer] = self.reader.list_answers(record)
        return {**self._describe(record), "content": answer.text}

    def _describe(self, record: TurnRecord) -> dict[str, Any]:
        cut = record.status != "complete"
        return {
            "index": 0,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": record.model,
            "tokens_predicted": record.tokens.output,
            "tokens_evaluated": record.tokens.prompt,
            "tokens_cached": record.tokens.cached,
            "has_new_line": "\n" in record.answer,
            "truncated": False,
            "stop_type": "limit" if cut else "eos",
            "stopping_word": "",
            **turn_documents(record),
        }
