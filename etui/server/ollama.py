"""The dialect of Ollama: ``/api/chat``, ``/api/generate``, ``/api/embed``.

A request is rewritten as one of OpenAI's and read by the same code; streams are lines of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui.chat import TextsToEmbed
from etui.server.answer import AnswerForm, Asked, Read, respond
from etui.server.build_request import (
    build_chat_turn,
    build_completion_turns,
    parse_chat,
    parse_completion,
)
from etui.server.documents import (
    encode,
    energy_document_of,
    ignored_headers,
    logprob_document,
    route_document,
    tokens_of_answer,
)
from etui.server.embeddings import VectorForm, build_vector_turn, read_texts
from etui.server.errors import invalid, unsupported
from etui.server.ollama_request import read_model, rewrite, rewrite_messages
from etui.server.validation import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.events import TokenLogprob
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta
    from etui.server.errors import ApiError
    from etui.turn.record import ClientRecord, TurnRecord


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes that answer."""

    def build_route(path: str, read: Read, empty: Mapping[str, Any] | None = None) -> Route:
        async def answer(request: Request) -> Response:
            document = await read_json(request)
            if empty is not None and not (document.get("messages") or document.get("prompt")):
                return _answer_load(document, empty)
            return await respond(request, document, read, context)

        return Route(path, answer, methods=["POST"])

    return [
        build_route("/api/chat", read_chat, {"message": {"role": "assistant", "content": ""}}),
        build_route("/api/generate", read_generate, {"response": ""}),
        build_route("/api/embed", read_embed),
        build_route("/api/embeddings", read_embed),
    ]


def _answer_load(document: dict[str, Any], empty: Mapping[str, Any]) -> Response:
    """Answer a request without a question, by which clients load or unload a model.

    Models are loaded by the first question, and unloaded when that saves energy.
    """
    model = {"model": read_model(document), "created_at": _format_now()}
    done = {"done": True, "done_reason": "load"}
    headers = ignored_headers(name for name in document if name != "model")
    return JSONResponse({**model, **empty, **done}, headers=headers)


def read_chat(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request of ``/api/chat``."""
    body, ignored = rewrite(document)
    body["messages"] = rewrite_messages(document.get("messages"))
    return _ask(body, ignored, context, client, is_chat=True)


def read_generate(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request of ``/api/generate``; a raw prompt, and one with a suffix, has no template."""
    body, ignored = rewrite(document)
    prompt = document.get("prompt")
    if not isinstance(prompt, str):
        raise invalid("prompt has to be a text", "prompt")
    if document.get("raw") or document.get("suffix"):
        if "response_format" in body:
            raise unsupported("format", "format needs the chat template: leave out raw and suffix")
        ignored += [name for name in ("think", "system") if document.get(name)]
        body.pop("reasoning_effort", None)
        top = body.pop("top_logprobs", 0)
        if body.pop("logprobs", False):
            body["logprobs"] = top
        body |= {"prompt": prompt, "suffix": document.get("suffix") or None}
        completion, more = parse_completion(body)
        [turn] = build_completion_turns(completion, context, client)
        return Asked(turn, LinesForm(turn, is_chat=False), completion.stream, (*ignored, *more))
    system = document.get("system")
    question = {"role": "user", "content": prompt, "images": document.get("images")}
    first = [{"role": "system", "content": system}] if system else []
    body["messages"] = rewrite_messages([*first, question])
    return _ask(body, ignored, context, client, is_chat=False)


def _ask(
    body: dict[str, Any],
    ignored: Sequence[str],
    context: ServerContext,
    client: ClientRecord,
    *,
    is_chat: bool,
) -> Asked:
    chat, more = parse_chat(body)
    turn = build_chat_turn(chat, context, client)
    return Asked(turn, LinesForm(turn, is_chat=is_chat), chat.stream, (*ignored, *more))


def read_embed(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request of ``/api/embed``, or of the older ``/api/embeddings``."""
    is_old = "input" not in document and "prompt" in document
    name = "prompt" if is_old else "input"
    texts = read_texts(document.get(name), name)
    known = ("model", name, "truncate", "dimensions")
    ignored = [each for each, value in document.items() if each not in known and value is not None]
    truncate, dimensions = document.get("truncate", True), document.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise invalid("dimensions has to be a number of 1 or more", "dimensions")
    asked = TextsToEmbed(texts, truncate=truncate is not False)
    turn = build_vector_turn(read_model(document), asked, context, client)
    return Asked(turn, EmbedForm(turn, dimensions, is_old=is_old), False, ignored)


class LinesForm(AnswerForm):
    """The responses of ``/api/chat`` and ``/api/generate``: objects, in lines if streamed."""

    stream_type = "application/x-ndjson"

    def __init__(self, request: TurnRequest, *, is_chat: bool) -> None:
        super().__init__(request)
        self._is_chat = is_chat
        self._calls: dict[int, tuple[str, str]] = {}  # number of a call -> its name and arguments

    def write(self, delta: Delta) -> bytes:
        """Return the line of a part; a tool call is sent when it is whole."""
        if (call := delta.tool) is not None:
            name, arguments = self._calls.get(call.index, ("", ""))
            self._calls[call.index] = name + call.name, arguments + call.arguments
        calls = self._list_calls() if delta.finish is not None else []
        if not (delta.content or delta.thinking or delta.logprobs or calls):
            return b""
        return self._line({"done": False}, delta.content, delta.thinking, calls, delta.logprobs)

    def end(self, record: TurnRecord) -> bytes:
        """Return the last line, with the durations and the joules."""
        return self._line(end_document(record))

    def fail(self, error: ApiError) -> bytes:
        """Return the line of an error, after which a stream ends."""
        return encode({"error": error.message}) + b"\n"

    def keep_alive(self) -> bytes:
        """Return a line without text: clients know no comments."""
        return self._line({"done": False})

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the whole response."""
        answer = self.reader.list_answers(record)[0]
        called = json.loads(answer.tool_calls) if answer.tool_calls else []
        functions = [call["function"] for call in called]
        self._calls = {at: (f["name"], f["arguments"]) for at, f in enumerate(functions)}
        calls, end = self._list_calls(), end_document(record)
        return self._build(end, answer.text, answer.thinking, calls, answer.logprobs)

    def _list_calls(self) -> list[dict[str, Any]]:
        return [
            {"function": {"index": at, "name": name, "arguments": _parse_arguments(arguments)}}
            for at, (name, arguments) in sorted(self._calls.items())
        ]

    def _line(self, *parts: Any) -> bytes:
        return encode(self._build(*parts)) + b"\n"

    def _build(
        self,
        more: Mapping[str, Any],
        text: str = "",
        thinking: str = "",
        calls: Sequence[Any] = (),
        logprobs: Sequence[TokenLogprob] = (),
    ) -> dict[str, Any]:
        said = {"thinking": thinking} if thinking else {}
        called = {"tool_calls": calls} if calls else {}
        message = {"role": "assistant", "content": text, **said, **called}
        return {
            "model": self.reader.model,
            "created_at": _format_now(),
            **({"message": message} if self._is_chat else {"response": text, **said}),
            **({"logprobs": [logprob_document(each) for each in logprobs]} if logprobs else {}),
            **more,
        }


class EmbedForm(VectorForm):
    """The responses of ``/api/embed`` and ``/api/embeddings``."""

    def __init__(self, request: TurnRequest, dimensions: int | None, *, is_old: bool) -> None:
        super().__init__(request)
        self._dimensions = dimensions
        self._is_old = is_old

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the response."""
        vectors = self.reader.stack(self._dimensions).tolist()
        found = {"embedding": vectors[0]} if self._is_old else {"embeddings": vectors}
        about = {"pooling": self.reader.describe()}
        return {"model": record.model, **found, **about, **end_document(record)}


def end_document(record: TurnRecord) -> dict[str, Any]:
    """Build what the last object of an answer says: durations in nanoseconds, tokens, joules."""
    tokens, seconds, client = tokens_of_answer(record), record.seconds, record.client
    waited = client.queue_seconds if client is not None else 0.0
    return {
        "done": True,
        "done_reason": "stop" if record.status == "complete" else "length",
        "total_duration": _to_ns(waited + seconds.load + seconds.total),
        "load_duration": _to_ns(seconds.load),
        "prompt_eval_count": tokens.prompt,
        "prompt_eval_duration": _to_ns(seconds.prefill),
        "eval_count": tokens.output,
        "eval_duration": _to_ns(seconds.decode),
        "energy": energy_document_of(record),
        "route": route_document(record),
    }


def _format_now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _to_ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _parse_arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}
