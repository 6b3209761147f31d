"""The dialect ``POST /v1/messages`` (Anthropic), and the tokens that such a request has.

The blocks of a message become one message of a chat completion and the results of tools before it.
What a model of this machine cannot use is left out and named: caching marks, tools that Anthropic's
servers run. An answer has blocks one after another: thinking, if the client asked for it, then
text, then each call of a tool. A client is pinged while the prompt is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui.errors import ContextOverflow, EtuiError
from etui.server.answer import AnswerForm, Asked, client_of, frame
from etui.server.build_request import Rewrite
from etui.server.documents import (
    energy_comment,
    energy_document_of,
    headers_of,
    ignored_headers,
    tokens_of_answer,
    turn_documents,
)
from etui.server.errors import (
    ApiError,
    anthropic_error,
    invalid,
    quote,
    rename_param,
    to_api_error,
    unsupported,
)
from etui.server.validation import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.events import ToolCall
    from etui.routing.decision import Decision
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta, WholeAnswer
    from etui.turn.record import ClientRecord, TurnRecord

_STOP_REASONS = {"tool_calls": "tool_use", "length": "max_tokens"}

_ROLES = ("user", "assistant", "system")
_SAME = ("model", "temperature", "top_p", "top_k", "stream")
"""Parameters that chat completions name and mean alike."""

_KNOWN = frozenset(
    {
        *(*_SAME, "messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice"),
        *("thinking", "metadata", "output_config"),
    }
)
_CHOICES: Mapping[Any, str] = {"auto": "auto", "any": "required", "none": "none"}
_TOOL_MARKS = ("type", "defer_loading")
_TOOL_KEYS: Mapping[str, str] = {
    **{name: name for name in ("name", "description", "strict")},
    "input_schema": "parameters",
}
_WITHOUT_TEXT = ("tool_use", "redacted_thinking")
"""Blocks without a text for the model."""

_BILLING = "x-anthropic-billing-header:"
"""Begin of a block that Claude Code puts before its system prompt. It is other in every request, so
that no prompt would begin as the one before, and all of it would be computed again."""

_MOST_USER_CHARACTERS = 512


def read_message(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request for a message."""
    asked, turn, streamed = _read(document, context, client)
    return Asked(turn, MessagesForm(turn, asked), streamed, asked.ignored)


def _read(
    document: dict[str, Any], context: ServerContext, client: ClientRecord
) -> tuple[MessagesRequest, TurnRequest, bool]:
    asked = parse_messages_request(document)
    turn, streamed = asked.build(context, client)
    if asked.think_tokens is not None:
        depth = replace(turn.overrides, reasoning="cot", think_tokens=asked.think_tokens)
        turn = replace(turn, overrides=depth)
    return asked, turn, streamed


@dataclass(slots=True)
class MessagesRequest(Rewrite):
    """A request for a message."""

    think_tokens: int | None = None  # Budget of the thinking; None if the request has none
    shows_thinking: bool = False
    """Whether the answer has blocks with the thinking: clients that did not ask for it take the
    first block for the answer."""
    tool_places: list[int] = field(default_factory=list)  # Index of each tool in the request
    found_tools: set[str] = field(default_factory=set)  # Deferred tools that the model has found
    renamed: ClassVar[Sequence[tuple[str, str]]] = (
        (r"response_format(\.json_schema)?", "output_config.format"),
        (r"max_completion_tokens$", "max_tokens"),
        (r"reasoning_effort$", "output_config.effort"),
        (r"stop(?=$|\[)", "stop_sequences"),
    )

    def rename(self, param: str) -> str:
        """Return the name here of a parameter of chat completions."""
        if found := re.match(r"tools\[(\d+)\](\.function)?", param):
            rest = param[found.end() :].replace(".parameters", ".input_schema")
            return f"tools[{self.tool_places[int(found[1])]}]{rest}"
        return Rewrite.rename(self, param)


def parse_messages_request(body: Mapping[str, Any]) -> MessagesRequest:
    """Rewrite a request for a message; ApiError (400) if it is not valid, or not supported.

    Values that both have alike are passed on unchecked: the parser of chat completions checks them.
    """
    asked = MessagesRequest()
    asked.ignored += [name for name in body if name not in _KNOWN and body[name] is not None]
    asked.chat |= {name: body[name] for name in _SAME if body.get(name) is not None}
    asked.chat["messages"] = _read_messages(body, asked)
    if body.get("max_tokens") is not None:
        asked.chat["max_completion_tokens"] = body["max_tokens"]
    if body.get("stop_sequences"):
        asked.chat["stop"] = body["stop_sequences"]
    _read_tools(body, asked)
    _read_thinking(body, asked)
    user = _take_object(body, "metadata", asked, "user_id").get("user_id")
    if isinstance(user, str) and len(user) <= _MOST_USER_CHARACTERS:
        asked.chat["metadata"] = {"user_id": user}
    return asked


def _take_object(
    given: Mapping[str, Any], name: str, asked: MessagesRequest, *known: str
) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid(f"{name} has to be an object", name)
    asked.ignored += [f"{name}.{key}" for key in value if key not in known]
    return value


def _read_messages(body: Mapping[str, Any], asked: MessagesRequest) -> list[dict[str, Any]]:
    items = body.get("messages")
    if not isinstance(items, list) or not items:
        raise invalid("messages has to be a list with a message in it", "messages")
    messages: list[dict[str, Any]] = []
    if body.get("system") is not None:
        texts = [text for _, text in _iter_blocks(body["system"], "system", asked)]
        kept = [text for text in texts if text and not text.startswith(_BILLING)]
        if any(text.startswith(_BILLING) for text in texts):
            asked.ignored.append("system: x-anthropic-billing-header")
        if kept:
            messages.append({"role": "system", "content": "\n\n".join(kept)})
            asked.origins.append("system")
    longer: dict[int, list[str]] = {}  # joined once: the text before may be long
    for index, item in enumerate(items):
        place = f"messages[{index}]"
        role = item.get("role") if isinstance(item, Mapping) else None
        if role not in _ROLES:
            raise invalid(f"{place}.role has to be one of {', '.join(_ROLES)}", f"{place}.role")
        before = messages[-1]["role"] if messages else "system"
        if role == "system" and before != "system":
            # Moved to the beginning, as chat templates want it, it would change the whole prompt.
            texts = [text for _, text in _iter_blocks(item.get("content"), place, asked)]
            if before != "assistant":
                said = messages[-1]["content"]
                if isinstance(said, list):  # with pictures
                    said.append({"type": "text", "text": "\n".join(("", *texts))})
                else:
                    longer.setdefault(len(messages) - 1, [said]).extend(texts)
                continue
            item, role = {"content": "\n".join(texts)}, "user"
        added = list(_read_message(role, item.get("content"), f"{place}.content", asked))
        messages += added
        asked.origins += [place] * len(added)
    for at, texts in longer.items():
        messages[at]["content"] = "\n".join(texts)
    return messages


def _read_message(
    role: str, given: Any, place: str, asked: MessagesRequest
) -> Iterable[dict[str, Any]]:
    """Yield the results of tools in a message, then its text and calls."""
    content: Any
    parts: list[dict[str, Any]] = []
    texts: list[str] = []
    thoughts, calls, results = [], [], 0
    for block, text in _iter_blocks(given, place, asked):
        kind = block.get("type")
        if kind in ("tool_use", "tool_result") and (kind == "tool_use") != (role == "assistant"):
            raise invalid(f"{place}: {kind} is no block of the role {role}", place)
        if kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            results += 1
            result = f"Error: {text}" if block.get("is_error") else text
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result}
        elif kind == "thinking":
            thoughts.append(text)
        elif kind == "image":
            if role != "user":
                raise invalid(f"{place}: image is no block of the role {role}", place)
            if texts:
                parts.append({"type": "text", "text": "\n".join((*texts, ""))})
                texts.clear()
            parts.append(_rewrite_image(block))
        elif kind not in _WITHOUT_TEXT:
            texts.append(text)
    if texts or parts or calls or not results:
        content = "\n".join(texts)
        if parts:
            content = [*parts, {"type": "text", "text": content}]
        message = {"role": role, "content": content}
        called = {"tool_calls": calls, "reasoning_content": "\n".join(thoughts)}
        yield message | (called if calls else {})


def _rewrite_image(block: Mapping[str, Any]) -> dict[str, Any]:
    source = block["source"]
    url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _iter_blocks(
    content: Any, place: str, asked: MessagesRequest
) -> Iterable[tuple[Mapping[str, Any], str]]:
    """Yield the blocks of a content with their texts; a text alone is a block as well."""
    if isinstance(content, str):
        yield {}, content
        return
    if not isinstance(content, list):
        raise invalid(f"{place} has to be a text or a list of blocks", place)
    for index, block in enumerate(content):
        at = f"{place}[{index}]"
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise invalid(f"{at} has to be an object with a type", at)
        if block.get("cache_control") is not None:
            asked.ignored.append("cache_control")
        text = _read_text(block, at, asked)
        if not isinstance(text, str):
            raise invalid(f"{at}.text has to be a text", f"{at}.text")
        yield block, text


def _read_text(block: Mapping[str, Any], at: str, asked: MessagesRequest) -> Any:
    """Return the text of a block, unchecked; empty if it has none for the model."""
    kind = block["type"]
    if kind in ("text", "thinking"):
        return block.get(kind, "" if kind == "thinking" else None)
    if kind == "tool_result":
        inner = block.get("content")
        if inner is None:
            return ""
        return "\n".join(text for _, text in _iter_blocks(inner, f"{at}.content", asked))
    if kind == "tool_reference" and isinstance(block.get("tool_name"), str):
        asked.found_tools.add(block["tool_name"])
        return f"The tool {block['tool_name']} can be called now."
    if kind == "image" and at.count("content[") > 1:  # of a tool, which the next request repeats
        asked.ignored.append("image")
        return "(a picture, which this model cannot see)"
    if kind == "image" and at.startswith("messages"):
        source = block.get("source")
        if not isinstance(source, Mapping) or source.get("type") != "base64":
            raise unsupported(at, f"{at}: pictures have to be base64; none is fetched")
        return ""
    if kind == "document":
        source = block.get("source")
        if not isinstance(source, Mapping) or source.get("type") != "text":
            what = "documents can only be plain text here"
            raise unsupported(at, f"{at}: {what}; send the text of this one")
        return source.get("data")
    if kind not in _WITHOUT_TEXT:
        what = f"blocks of the type {quote(kind, 32)} are not supported here"
        raise unsupported(at, f"{at}: {what}; remove it")
    return ""


def _read_tools(body: Mapping[str, Any], asked: MessagesRequest) -> None:
    tools = [] if body.get("tools") is None else body["tools"]
    if not isinstance(tools, list):
        raise invalid("tools has to be a list", "tools")
    functions = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise invalid(f"tools[{index}] has to be an object", f"tools[{index}]")
        kind = tool.get("type") or "custom"
        if kind != "custom":  # a server of Anthropic runs it, or their models know its schema
            asked.ignored.append(f"tools: {kind}")
            continue
        if tool.get("defer_loading") and str(tool.get("name")) not in asked.found_tools:
            continue  # the model has to find it first, by a tool that searches
        asked.ignored += [name for name in tool if name not in (*_TOOL_KEYS, *_TOOL_MARKS)]
        function = {new: tool[old] for old, new in _TOOL_KEYS.items() if tool.get(old) is not None}
        functions.append({"type": "function", "function": function})
        asked.tool_places.append(index)
    if functions:
        asked.chat["tools"] = functions
    known = ("type", "name", "disable_parallel_tool_use")
    choice = _take_object(body, "tool_choice", asked, *known)
    if choice.get("type") == "tool":
        named = {"type": "function", "function": {"name": choice.get("name")}}
        asked.chat["tool_choice"] = named
    elif choice:
        if str(choice.get("type")) not in _CHOICES:
            text = "tool_choice.type has to be auto, any, tool or none"
            raise invalid(text, "tool_choice.type")
        asked.chat["tool_choice"] = _CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        asked.chat["parallel_tool_calls"] = False


def _read_thinking(body: Mapping[str, Any], asked: MessagesRequest) -> None:
    """Read how deep to think, and the form of the answer, which is given beside it."""
    output = _take_object(body, "output_config", asked, "effort", "format")
    if output.get("effort") is not None:
        asked.chat["reasoning_effort"] = output["effort"]
    form = _take_object(output, "format", asked, "type", "schema")
    if form:
        schema = {"json_schema": {"schema": form.get("schema")}}
        asked.chat["response_format"] = {"type": form.get("type"), **schema}
    thinking = _take_object(body, "thinking", asked, "type", "budget_tokens", "display")
    kind = thinking.get("type")
    if not thinking:
        return
    if kind not in ("enabled", "disabled", "adaptive"):
        raise invalid("thinking.type has to be enabled, adaptive or disabled", "thinking.type")
    asked.shows_thinking = kind != "disabled" and thinking.get("display") != "omitted"
    if kind == "disabled":
        asked.chat["reasoning_effort"] = "none"
    elif kind == "enabled":
        budget, limit = thinking.get("budget_tokens"), body.get("max_tokens")
        if type(budget) is not int or budget < 1:
            param = "thinking.budget_tokens"
            raise invalid(f"{param} has to be a number of tokens, at least 1", param)
        asked.think_tokens = budget
        if type(limit) is int:  # that of a chat completion is for the answer alone
            if limit <= budget:
                text = "max_tokens has to be greater than thinking.budget_tokens"
                raise invalid(text, "max_tokens")
            asked.chat["max_completion_tokens"] = limit - budget


class MessagesForm(AnswerForm):
    """The responses to one request for a message."""

    def __init__(self, request: TurnRequest, asked: MessagesRequest) -> None:
        super().__init__(request)
        self._asked = asked
        self._begun = False
        self._open = ""  # kind of the open block
        self._index = -1
        self._call = -1
        self._blanks = ""  # before the first text: models write line breaks before calls

    def write(self, delta: Delta) -> bytes:
        """Return the events of a part of the answer."""
        frames = self._begin()
        if delta.thinking and self._asked.shows_thinking:
            frames += self._write_text("thinking", delta.thinking)
        if delta.content:
            text, self._blanks = self._blanks + delta.content, ""
            if self._open != "text" and not text.strip():
                self._blanks = text
            else:
                frames += self._write_text("text", text)
        if delta.tool is not None:
            frames += self._write_call(delta.tool)
        return frames + self._close() if delta.finish is not None else frames

    def end(self, record: TurnRecord) -> bytes:
        """Return the last events. The joules come before them: at the last one, clients leave."""
        frames = self._begin() + self._close()
        [answer] = self.reader.list_answers(record)
        documents = turn_documents(record) | {"usage": _usage(record)}
        frames += _frame("message_delta", delta=self._ending(answer), **documents)
        return frames + energy_comment(record) + _frame("message_stop")

    def fail(self, error: ApiError) -> bytes:
        """Return the event of an error, after which the stream ends."""
        _, document = anthropic_error(error, "")
        return _frame("error", error=document["error"])

    def keep_alive(self) -> bytes:
        """Return a ping, with the progress in a comment."""
        return super().keep_alive() + _frame("ping")

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole message."""
        [answer] = self.reader.list_answers(record)
        content: list[dict[str, Any]] = []
        calls = json.loads(answer.tool_calls) if answer.tool_calls else []
        if answer.thinking and self._asked.shows_thinking:
            thought = {"thinking": answer.thinking, "signature": self._signature()}
            content.append({"type": "thinking", **thought})
        if answer.text.strip() or not calls:
            content.append({"type": "text", "text": answer.text})
        for call in calls:
            function = call["function"]
            block = {"type": "tool_use", "id": call["id"], "name": function["name"]}
            content.append({**block, "input": _read_arguments(function["arguments"])})
        message = self._head(record.model, content) | self._ending(answer)
        return {**message, **turn_documents(record), "usage": _usage(record)}

    def convert(self, error: EtuiError) -> ApiError:
        """Return an error in the words by which clients know that they have to shorten."""
        if isinstance(error, ContextOverflow):
            asked = error.prompt_tokens + error.reserved_tokens
            text = f"prompt is too long: {asked} tokens > {error.context_tokens} maximum"
            return invalid(text, "messages", "context_length_exceeded")
        return rename_param(to_api_error(error), self._asked.rename)

    def _begin(self) -> bytes:
        """Return the first event, if it was not sent yet; the usage of the last events counts."""
        if self._begun:
            return b""
        self._begun = True
        prefilled = self.reader.prefilled
        usage = {
            "input_tokens": prefilled.computed_tokens if prefilled else 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": prefilled.cached_tokens if prefilled else 0,
            "output_tokens": 0,
        }
        message = {**self._head(self.reader.model, []), "stop_reason": None, "stop_sequence": None}
        return _frame("message_start", message={**message, "usage": usage})

    def _head(self, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": f"msg_{self.turn_id}", "type": "message", "role": "assistant"}
        return {**head, "model": model, "content": content}

    def _ending(self, answer: WholeAnswer) -> dict[str, Any]:
        reason, stop = _STOP_REASONS.get(answer.finish, "end_turn"), None
        if reason == "end_turn" and self.reader.stop:
            reason, stop = "stop_sequence", self.reader.stop
        return {"stop_reason": reason, "stop_sequence": stop}

    def _signature(self) -> str:
        """Return what marks a thought as this server's; it is not checked when it comes back."""
        return f"etui-{self.turn_id}"

    def _write_text(self, kind: str, text: str) -> bytes:
        frames = b""
        if self._open != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            frames = self._open_block(kind, {kind: "", **signature})
        delta = {"type": f"{kind}_delta", kind: text}
        return frames + _frame("content_block_delta", index=self._index, delta=delta)

    def _write_call(self, call: ToolCall) -> bytes:
        frames = b""
        if self._open != "tool_use" or call.index != self._call:
            self._call, self._blanks = call.index, ""
            block = {"id": call.call_id, "name": call.name, "input": {}}
            frames = self._open_block("tool_use", block)
        if not call.arguments:
            return frames
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return frames + _frame("content_block_delta", index=self._index, delta=delta)

    def _open_block(self, kind: str, block: Mapping[str, Any]) -> bytes:
        frames = self._close()
        self._open, self._index = kind, self._index + 1
        begun = {"type": kind, **block}
        return frames + _frame("content_block_start", index=self._index, content_block=begun)

    def _close(self) -> bytes:
        kind, self._open = self._open, ""
        frames = b""
        if kind == "thinking":
            delta = {"type": "signature_delta", "signature": self._signature()}
            frames = _frame("content_block_delta", index=self._index, delta=delta)
        return frames + _frame("content_block_stop", index=self._index) if kind else b""


def build_count_route(context: ServerContext) -> Route:
    """Build the route that counts the tokens of a request for a message."""
    limiter = CapacityLimiter(1)  # one vocabulary works at a time; the other routes need threads

    async def count(request: Request) -> JSONResponse:
        document, client = await read_json(request), client_of(request)
        asked, turn, _ = await run_in_threadpool(_read, document, context, client)
        try:
            count_prompt = partial(_count_tokens, turn, context)
            decision, tokens = await to_thread.run_sync(count_prompt, limiter=limiter)
        except EtuiError as error:
            raise rename_param(to_api_error(error), asked.rename) from error
        headers = headers_of(decision) | ignored_headers(asked.ignored)
        return JSONResponse({"input_tokens": tokens}, headers=headers)

    return Route("/v1/messages/count_tokens", count, methods=["POST"])


def _read_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call as the object that the protocol wants, even if they broke off.

    A template that writes objects is given them in the same form when they come back.
    """
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"arguments": text}


def _count_tokens(turn: TurnRequest, context: ServerContext) -> tuple[Decision, int]:
    from etui.runtime.forecast import count_prompt

    decision = context.pool.decide(turn).decision
    return decision, count_prompt(turn.query, decision.arm, context.runtime, context.tokens)


def _usage(record: TurnRecord) -> dict[str, Any]:
    tokens = tokens_of_answer(record)
    return {
        "input_tokens": tokens.computed,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.output,
        "energy": energy_document_of(record),
    }


def _frame(kind: str, **fields: object) -> bytes:
    return frame({"type": kind, **fields}, kind)
