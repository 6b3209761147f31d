"""The dialect ``POST /v1/responses``: the same turns as chat completions; nothing is stored.

Its requests are rewritten as llama-server does: instructions are the system message, items are
messages, and the flat form of a tool becomes the nested one. What refers to an earlier response is
refused. What has no effect here is left out and named: tools that another server would run, and
items of their calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from etui.server.answer import AnswerForm, Asked, frame
from etui.server.build_request import Rewrite, join_text
from etui.server.documents import (
    energy_comment,
    energy_document_of,
    logprob_document,
    tokens_of_answer,
    turn_documents,
)
from etui.server.errors import ApiError, invalid, rename_param, unsupported

if TYPE_CHECKING:
    from etui.errors import EtuiError
    from etui.events import TokenLogprob
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.turn.record import ClientRecord, TurnRecord

StreamEvent = dict[str, Any]

_STATUS = {"complete": "completed", "truncated": "incomplete", "budget": "incomplete"}
"""By the status of a turn; one that was stopped or failed is ``failed``."""

_ROLES = ("user", "assistant", "system", "developer")
_FORMATS = ("text", "json_object", "json_schema")

_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "metadata", "stream")
"""Parameters that chat completions name and mean alike."""

_MAPPED = (
    *("include", "input", "instructions", "max_output_tokens", "reasoning", "text"),
    *("tool_choice", "tools", "top_logprobs", "truncation"),
)
"""Parameters that chat completions name or write in another way."""

_STORED = {
    "conversation": "send the whole conversation as `input`",
    "previous_response_id": "send the whole conversation as `input`",
    "prompt": "send its text as `input`",
}
"""Parameters that refer to what is stored elsewhere, with what to do instead."""

_KNOWN = frozenset((*_SAME, *_MAPPED, *_STORED))

_INCLUDES = ("reasoning.encrypted_content", "message.output_text.logprobs")
"""Thinking is sent as plain text, so a client that wants it back later has it."""

_TOOL_KEYS = ("name", "description", "parameters", "strict")

_REPEATED = (
    *("instructions", "temperature", "top_p", "user", "max_output_tokens", "max_tool_calls"),
    *("prompt_cache_key", "safety_identifier"),
)
"""Parameters that a response repeats as they were sent."""


def read_response(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a response."""
    asked = parse_response_request(document)
    turn, streamed = asked.build(context, client)
    form = ResponsesForm(turn, asked.chat.get("model", ""), asked)
    return Asked(turn, form, streamed, asked.ignored)


@dataclass(slots=True)
class ResponseRequest(Rewrite):
    """A request for a response."""

    echo: dict[str, Any] = field(default_factory=dict)
    """What the response repeats of it; null is what the arm decided."""
    renamed: ClassVar[Sequence[tuple[str, str]]] = (
        (r"messages(\[.*)?$", "input"),
        (r"response_format\.json_schema", "text.format"),
        (r"response_format", "text.format"),
        (r"(tools\[\d+\])\.function", r"\1"),
        (r"max_(completion_)?tokens$", "max_output_tokens"),
        (r"reasoning_effort$", "reasoning.effort"),
        (r"logprobs$", "top_logprobs"),
    )


def parse_response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Rewrite a request for a response; ApiError (400) if it is not valid, or not supported.

    Values that both have alike are passed on unchecked: the parser of chat completions checks them.
    """
    asked = ResponseRequest()
    ignored = asked.ignored
    for name, fix in _STORED.items():
        if body.get(name) is not None:
            what = f"`{name}` is not supported: responses are not stored here"
            raise unsupported(name, f"{what}; {fix}")
    ignored += [name for name in body if name not in _KNOWN and body[name] not in (None, False)]
    _Messages(asked).read(body.get("instructions"), body.get("input"))
    asked.chat |= {name: body[name] for name in _SAME if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        asked.chat["max_completion_tokens"] = body["max_output_tokens"]
    effort = _read_object(body, "reasoning", ("effort", "summary"), ignored).get("effort")
    if effort is not None:
        asked.chat["reasoning_effort"] = effort
    text_format = _read_text_format(body, ignored)
    if (kind := text_format["type"]) != "text":
        inner = {key: value for key, value in text_format.items() if key != "type"}
        schema = {"json_schema": inner} if kind == "json_schema" else {}
        asked.chat["response_format"] = {"type": kind, **schema}
    tools, choice = _read_tools(body, ignored), body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools, choice = _allow(tools, choice)
    if tools:
        asked.chat["tools"] = [_build_chat_tool(tool) for tool in tools]
    if choice is not None:
        asked.chat["tool_choice"] = _build_chat_choice(choice)
    asked.chat |= _read_logprobs(body, ignored)
    asked.echo = {
        **{name: body.get(name) for name in _REPEATED},
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "tool_choice": "auto" if choice is None else choice,
        "tools": [dict(tool) for tool in tools],
        "background": False,
        "previous_response_id": None,
        "reasoning": {"effort": effort, "summary": None},
        "service_tier": "default",
        "store": False,
        "text": {"format": dict(text_format), "verbosity": "medium"},
        "top_logprobs": body.get("top_logprobs"),
        "truncation": "disabled",
    }
    return asked


class _Messages:
    def __init__(self, asked: ResponseRequest) -> None:
        self._asked = asked
        self._called: set[str] = set()
        self._messages: list[dict[str, Any]] = []
        asked.chat["messages"] = self._messages

    def read(self, instructions: object, items: object) -> None:
        if not isinstance(items, str) and not (isinstance(items, list) and items):
            raise invalid("`input` must be a text or a list of items; add the question", "input")
        if instructions is not None:
            if not isinstance(instructions, str):
                text = "`instructions` must be a text; put items into `input`"
                raise invalid(text, "instructions")
            self._add("instructions", role="system", content=instructions)
        if isinstance(items, str):
            self._add("input", role="user", content=items)
            return
        for index, item in enumerate(items):
            self._read_item(item, f"input[{index}]")

    def _add(self, at: str, **message: object) -> None:
        self._messages.append(message)
        self._asked.origins.append(at)

    def _open_assistant(self, at: str) -> dict[str, Any]:
        """Return the assistant's message at the end, of which an item may be a part."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._add(at, role="assistant", content=None)
        return self._messages[-1]

    def _read_item(self, item: object, at: str) -> None:
        if not isinstance(item, Mapping):
            raise invalid(f"`{at}` must be an object; see docs/serve.md", at)
        match item.get("type", "message"):
            case "message":
                self._read_message(item, at)
            case "function_call":
                call_id = _require_text(item, "call_id", at)
                function = {key: _require_text(item, key, at) for key in ("name", "arguments")}
                self._called.add(call_id)
                call = {"id": call_id, "type": "function", "function": function}
                self._open_assistant(at).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                content = join_text(item.get("output"), f"{at}.output")
                call_id = _require_text(item, "call_id", at)
                if call_id not in self._called:  # that of a call which was left out
                    self._asked.ignored.append(f"{at}:function_call_output")
                    return
                self._add(at, role="tool", tool_call_id=call_id, content=content)
            case "reasoning":
                pass  # chat templates leave earlier thinking out as well
            case "item_reference":
                what = f"`{at}` refers to a stored item, and nothing is stored here"
                raise unsupported(at, f"{what}; send the item itself")
            case other:  # calls of tools that another server runs, and their results
                self._asked.ignored.append(f"{at}:{other}")

    def _read_message(self, item: Mapping[str, Any], at: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            what = f"`{at}.role` must be one of {', '.join(_ROLES)}; choose one of them"
            raise invalid(what, f"{at}.role")
        content = item.get("content")
        if role == "user" and isinstance(content, list) and any(map(_is_picture, content)):
            self._add(at, role=role, content=content)
            return
        text = join_text(content, f"{at}.content")
        if role != "assistant":
            self._add(at, role=role, content=text)
            return
        message = self._open_assistant(at)
        message["content"] = (message["content"] or "") + text


def _is_picture(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "input_image"


def _require_text(item: Mapping[str, Any], key: str, at: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise invalid(f"`{at}.{key}` must be a text; add `{key}`", f"{at}.{key}")
    return value


def _read_object(
    body: Mapping[str, Any], name: str, keys: Sequence[str], ignored: list[str]
) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid(f"`{name}` must be an object; see docs/serve.md", name)
    ignored += [f"{name}.{key}" for key in value if key not in keys and value[key] is not None]
    return value


def _read_text_format(body: Mapping[str, Any], ignored: list[str]) -> Mapping[str, Any]:
    given = _read_object(body, "text", ("format",), ignored).get("format")
    if given is None:
        return {"type": "text"}
    if not isinstance(given, Mapping) or given.get("type") not in _FORMATS:
        what = "`text.format.type` must be `text`, `json_object` or `json_schema`"
        raise invalid(f"{what}; choose one of them", "text.format")
    return given


def _read_tools(body: Mapping[str, Any], ignored: list[str]) -> Sequence[Mapping[str, Any]]:
    """Return the functions among the tools; others, such as a search of the web, do not run."""
    tools = body.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise invalid("`tools` must be a list; see docs/serve.md", "tools")
    functions = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise invalid(f"`tools[{index}]` must be an object; see docs/serve.md", "tools")
        kind, name = tool.get("type"), tool.get("name")
        if kind == "function":
            functions.append(tool)
        else:
            ignored.append(f"tools[{index}]:{kind}" + (f":{name}" if name else ""))
    return functions


def _allow(
    tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]
) -> tuple[Sequence[Mapping[str, Any]], object]:
    listed = choice.get("tools")
    names = [each.get("name") for each in listed or () if isinstance(each, Mapping)]
    kept = [tool for tool in tools if tool.get("name") in names]
    return kept, choice.get("mode", "auto") if kept else "auto"


def _build_chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: tool[key] for key in _TOOL_KEYS if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _build_chat_choice(choice: object) -> object:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    what = "`tool_choice` must be auto, none, required, or {type: function, name: NAME}"
    raise invalid(f"{what}; choose one of them", "tool_choice")


def _read_logprobs(body: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    include = body.get("include") or []
    if not isinstance(include, list):
        raise invalid("`include` must be a list; see docs/serve.md", "include")
    ignored += [f"include:{name}" for name in include if name not in _INCLUDES]
    top = body.get("top_logprobs")
    if top is None and "message.output_text.logprobs" not in include:
        return {}
    return {"logprobs": True} | ({} if top is None else {"top_logprobs": top})


@dataclass(slots=True)
class Item:
    """An item of a response: the thinking before an answer, the answer, or a call of a tool."""

    kind: Literal["reasoning", "message", "function_call"]
    item_id: str
    text: str = ""  # The thinking, the answer, or the arguments of the call
    call_id: str = ""
    name: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)  # Those of an answer, if asked for

    def part(self) -> dict[str, Any]:
        """Build the one part of the content of a text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        logprobs = [logprob_document(each) for each in self.logprobs]
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": logprobs,
        }

    def document(self, status: str) -> dict[str, Any]:
        """Build the item; a message has no content while it is in progress."""
        head = {"id": self.item_id, "type": self.kind}
        if self.kind == "function_call":
            call = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
            return {**head, **call, "status": status}
        if self.kind == "message":
            content = [] if status == "in_progress" else [self.part()]
            return {**head, "role": "assistant", "content": content, "status": status}
        content = [self.part()] if self.text else []
        thinking = {"summary": [], "content": content, "encrypted_content": None}
        return {**head, **thinking, "status": status}


def build_items(turn_id: str, answer: WholeAnswer) -> list[Item]:
    """Build the items of an answer: its thinking, its text, and the tools that it calls."""
    items = []
    if answer.thinking:
        items.append(Item("reasoning", f"rs_{turn_id}", answer.thinking))
    calls = json.loads(answer.tool_calls) if answer.tool_calls else []
    if answer.text.strip() or not calls:
        logprobs = list(answer.logprobs)
        items.append(Item("message", f"msg_{turn_id}", answer.text, logprobs=logprobs))
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        items.append(Item("function_call", f"fc_{turn_id}_{index}", arguments, call["id"], name))
    return items


class ResponseEvents:
    """Turns what is decoded into the events of a response.

    At most one item is open at a time: thinking, then text, then each call of a tool. An event
    opens the item that it belongs to, and closes the one before.
    """

    def __init__(self, turn_id: str, created_at: int, model: str, echo: Mapping[str, Any]) -> None:
        self._turn_id = turn_id
        self.started = {
            "id": f"resp_{turn_id}",
            "object": "response",
            "created_at": created_at,
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            **echo,
            "usage": None,
        }
        self._items: list[Item] = []
        self._documents: list[dict[str, Any]] = []
        self._open: Item | None = None
        self._call_index = -1
        self._number = -1

    def begin(self) -> Iterator[StreamEvent]:
        """Yield the events before the first token."""
        yield self._event("response.created", response=self.started)
        yield self._event("response.in_progress", response=self.started)

    def take(self, delta: Delta) -> Iterator[StreamEvent]:
        """Yield the events that follow from a part of the answer."""
        if delta.thinking:
            yield from self._take_text("reasoning", delta.thinking)
        if delta.content or delta.logprobs:
            yield from self._take_text("message", delta.content, delta.logprobs)
        if delta.tool is not None:
            call = delta.tool
            if not self._is_open("function_call") or call.index != self._call_index:
                self._call_index = call.index
                item_id = f"fc_{self._turn_id}_{call.index}"
                item = Item("function_call", item_id, call_id=call.call_id, name=call.name)
                yield from self._open_item(item)
            if call.arguments:
                self._items[-1].text += call.arguments
                kind = "response.function_call_arguments.delta"
                yield self._item_event(kind, delta=call.arguments)
        if delta.finish is not None:
            yield from self._close("incomplete" if delta.finish == "length" else "completed")

    def end(self, record: TurnRecord) -> Iterator[StreamEvent]:
        """Yield the last event, with the usage; an answer without any text is an empty message."""
        status = "completed" if record.status == "complete" else "incomplete"
        yield from self._close(status)
        if all(item.kind == "reasoning" for item in self._items):
            yield from self._take_text("message", "")
            yield from self._close(status)
        document = build_ended(self.started, record, self._documents)
        yield self._event(f"response.{document['status']}", response=document)

    def fail(self, message: str) -> Iterator[StreamEvent]:
        """Yield the last events of a response that failed without a record, so without joules."""
        yield from self._close("incomplete")
        error = {"code": "server_error", "message": message}
        document = {**self.started, "status": "failed", "error": error, "output": self._documents}
        yield self._event("response.failed", response=document)

    def _is_open(self, kind: str) -> bool:
        return self._open is not None and self._open.kind == kind

    def _take_text(
        self,
        kind: Literal["reasoning", "message"],
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> Iterator[StreamEvent]:
        if not self._is_open(kind):
            number = sum(item.kind == kind for item in self._items)
            item_id = f"{'rs' if kind == 'reasoning' else 'msg'}_{self._turn_id}"
            yield from self._open_item(Item(kind, f"{item_id}_{number}" if number else item_id))
            yield self._content_event("response.content_part.added", part=self._items[-1].part())
        item = self._items[-1]
        item.text += text
        item.logprobs.extend(logprobs)
        if kind == "reasoning":
            yield self._content_event("response.reasoning_text.delta", delta=text)
        elif text or logprobs:
            documents = [logprob_document(logprob) for logprob in logprobs]
            yield self._content_event("response.output_text.delta", delta=text, logprobs=documents)

    def _open_item(self, item: Item) -> Iterator[StreamEvent]:
        yield from self._close()
        self._items.append(item)
        self._open = item
        document = item.document("in_progress")
        index = len(self._items) - 1
        yield self._event("response.output_item.added", output_index=index, item=document)

    def _close(self, status: str = "completed") -> Iterator[StreamEvent]:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "function_call":
            kind = "response.function_call_arguments.done"
            yield self._item_event(kind, name=item.name, arguments=item.text)
        else:
            part = item.part()
            kind, given = "response.reasoning_text.done", {"text": item.text}
            if item.kind == "message":
                kind, given = "response.output_text.done", given | {"logprobs": part["logprobs"]}
            yield self._content_event(kind, **given)
            yield self._content_event("response.content_part.done", part=part)
        document = item.document(status)
        self._documents.append(document)
        index = len(self._items) - 1
        yield self._event("response.output_item.done", output_index=index, item=document)

    def _content_event(self, kind: str, **fields: object) -> StreamEvent:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: object) -> StreamEvent:
        item_id, index = self._items[-1].item_id, len(self._items) - 1
        return self._event(kind, item_id=item_id, output_index=index, **fields)

    def _event(self, kind: str, **fields: object) -> StreamEvent:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def build_ended(
    started: Mapping[str, Any], record: TurnRecord, output: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build a response that has ended: tokens of the accepted answer, joules of the whole turn."""
    status, completed_at = _STATUS.get(record.status, "failed"), None
    if status == "completed":
        completed_at = started["created_at"] + round(record.seconds.total)
    error = None
    if status == "failed":
        what = "the answer was stopped" if record.status == "stopped" else "the answer failed"
        error = {"code": "server_error", "message": what}
    tokens = tokens_of_answer(record)
    return {
        **started,
        "completed_at": completed_at,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": record.model,
        "output": list(output),
        **turn_documents(record),
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": 0},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.thinking},
            "total_tokens": tokens.prompt + tokens.output,
            "energy": energy_document_of(record),
        },
    }


class ResponsesForm(AnswerForm):
    """The response to one request; ``model`` is as the client named it."""

    def __init__(self, request: TurnRequest, model: str, asked: ResponseRequest) -> None:
        super().__init__(request)
        self._model = model
        self._asked = asked
        self._events: ResponseEvents | None = None

    def write(self, delta: Delta) -> bytes:
        """Return the frames of a part of the answer, the first events before the first."""
        opening, events = self._open()
        return opening + _frames(events.take(delta))

    def end(self, record: TurnRecord) -> bytes:
        """Return the last events. The joules come before them: at the last one, clients leave."""
        opening, events = self._open()
        *items, last = events.end(record)
        return opening + _frames(items) + energy_comment(record) + _frames([last])

    def fail(self, error: ApiError) -> bytes:
        """Return the last events of a stream that has failed."""
        opening, events = self._open()
        return opening + _frames(events.fail(error.message))

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        [answer] = self.reader.list_answers(record)
        echo = self._asked.echo
        started = ResponseEvents(self.turn_id, self.created, record.model, echo).started
        status = "completed" if record.status == "complete" else "incomplete"
        items = build_items(self.turn_id, answer)
        return build_ended(started, record, [item.document(status) for item in items])

    def convert(self, error: EtuiError) -> ApiError:
        """Return an error that names the parameter of this endpoint."""
        return rename_param(super().convert(error), self._asked.rename)

    def _open(self) -> tuple[bytes, ResponseEvents]:
        """Return the first events of the stream, if it was not open yet, and what follows them."""
        if self._events is not None:
            return b"", self._events
        model = self.reader.model or self._model
        self._events = ResponseEvents(self.turn_id, self.created, model, self._asked.echo)
        return _frames(self._events.begin()), self._events


def _frames(events: Iterable[StreamEvent]) -> bytes:
    return b"".join(frame(event, event["type"]) for event in events)
