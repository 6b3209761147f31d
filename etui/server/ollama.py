"""The dialect of Ollama: answers, embeddings, and what clients ask of models.

A request is rewritten as one of OpenAI's and read by the same code; streams are lines of JSON.
Names of models have the tag ``latest``, without which some clients do not find them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui import __version__
from etui.chat import TextsToEmbed
from etui.runtime.caches import FileCache
from etui.server.answer import AnswerForm, Asked, Read, client_of, respond
from etui.server.build_request import Rewrite, build_completion_turns, parse
from etui.server.chat_request import CompletionBody
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
from etui.server.tokens import find_model
from etui.server.validation import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.events import TokenLogprob
    from etui.models.gguf import Gguf
    from etui.models.spec import ModelSpec
    from etui.runtime.model_ids import ServedModel
    from etui.runtime.turn_request import TurnRequest
    from etui.server.context import ServerContext
    from etui.server.deltas import Delta
    from etui.server.errors import ApiError
    from etui.turn.record import ClientRecord, TurnRecord

API_VERSION = "0.12.6"
"""Version of Ollama whose API is spoken here; clients refuse to talk to older ones."""

_UNKNOWN = {"format": "", "family": "", "families": None, "parameter_size": ""}

_OPTIONS = {
    "num_predict": "max_tokens",
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop")},
    **{name: name for name in ("repeat_penalty", "presence_penalty", "frequency_penalty")},
}
"""Name in ``options`` -> name in OpenAI's and llama-server's requests; others are ignored."""

_THINK = {True: "medium", False: "none"}
_EFFORTS = ("low", "medium", "high", "max")

_SAME = ("model", "stream", "logprobs", "top_logprobs", "tools")
_READ = (
    *(*_SAME, "messages", "prompt", "system", "raw", "suffix", "images"),
    *("options", "format", "think"),
)
_REFUSED = {
    "template": "the chat template of the model's file is used: leave it out, or send raw: true",
    "context": "send the conversation as messages to /api/chat",
}


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this dialect."""

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
        *build_model_routes(context),
    ]


def _answer_load(document: dict[str, Any], empty: Mapping[str, Any]) -> Response:
    """Answer a request without a question, by which clients load or unload a model."""
    model = {"model": read_model(document), "created_at": _format_time(datetime.now(UTC))}
    done = {"done": True, "done_reason": "load"}
    headers = ignored_headers(name for name in document if name != "model")
    return JSONResponse({**model, **empty, **done}, headers=headers)


def read_chat(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request of ``/api/chat``."""
    asked = rewrite(document)
    asked.chat["messages"] = rewrite_messages(document.get("messages"))
    return _ask(asked, context, client, is_chat=True)


def read_generate(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request of ``/api/generate``; a raw prompt, and one with a suffix, has no template."""
    asked = rewrite(document)
    body, ignored = asked.chat, asked.ignored
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
        completion, more = parse(CompletionBody, body)
        [turn] = build_completion_turns(completion, context, client)
        return Asked(turn, LinesForm(turn, is_chat=False), completion.stream, (*ignored, *more))
    system = document.get("system")
    question = {"role": "user", "content": prompt, "images": document.get("images")}
    first = [{"role": "system", "content": system}] if system else []
    body["messages"] = rewrite_messages([*first, question])
    return _ask(asked, context, client, is_chat=False)


def _ask(asked: Rewrite, context: ServerContext, client: ClientRecord, *, is_chat: bool) -> Asked:
    turn, streamed = asked.build(context, client)
    return Asked(turn, LinesForm(turn, is_chat=is_chat), streamed, asked.ignored)


def read_model(document: Mapping[str, Any]) -> str:
    """Read the name of the model, without the tag that means any."""
    model = document.get("model") or document.get("name")
    if not isinstance(model, str):
        raise invalid("model is required", "model")
    return model.removesuffix(":latest")


def rewrite(document: Mapping[str, Any]) -> Rewrite:
    """Rewrite all but the texts of a request."""
    for name, fix in _REFUSED.items():
        if document.get(name):
            raise unsupported(name, f"{name} is not supported: {fix}")
    document = {name: value for name, value in document.items() if value is not None}
    ignored = [name for name in document if name not in _READ]
    body = {name: document[name] for name in _SAME if name in document}
    body |= {"model": read_model(document), "stream": document.get("stream") is not False}
    options = document.get("options") or {}
    if not isinstance(options, dict):
        raise invalid("options has to be an object", "options")
    for name, value in options.items():
        if value is None:
            continue
        if name in _OPTIONS:
            body[_OPTIONS[name]] = value
        else:
            ignored.append(f"options.{name}")
    if isinstance(limit := body.get("max_tokens"), int) and limit < 0:  # no limit, or the context
        del body["max_tokens"]
    think = document.get("think")
    if isinstance(think, bool):
        body["reasoning_effort"] = _THINK[think]
    elif think in _EFFORTS:
        body["reasoning_effort"] = think
    elif think is not None:
        raise invalid(f"think has to be true, false, or one of {', '.join(_EFFORTS)}", "think")
    form = document.get("format")
    if form == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        schema = {"name": "format", "schema": form}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form:
        raise invalid('format has to be "json" or a JSON schema', "format")
    return Rewrite(body, ignored)


def rewrite_messages(given: Any) -> list[Any]:
    """Give tool calls ids, which Ollama's have not, and the results those of the calls before."""
    if not isinstance(given, list):
        raise invalid("messages has to be a list", "messages")
    written: list[Any] = []
    open_calls: list[tuple[str, str]] = []  # ids and names of calls without a result
    for at, message in enumerate(given):
        if not isinstance(message, dict):
            raise invalid(f"messages[{at}] has to be an object", f"messages[{at}]")
        new = {name: message[name] for name in ("role", "content") if name in message}
        if images := message.get("images"):
            if not isinstance(images, list):
                raise invalid(f"messages[{at}].images has to be a list", f"messages[{at}].images")
            parts = [{"type": "text", "text": message.get("content") or ""}]
            new["content"] = parts + [_rewrite_image(image) for image in images]
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                place = f"messages[{at}].tool_calls"
                raise invalid(f"{place} has to be a list", place)
            new["tool_calls"] = [
                _rewrite_call(call, f"call_{at}_{n}") for n, call in enumerate(calls)
            ]
            open_calls += [(each["id"], each["function"]["name"]) for each in new["tool_calls"]]
        elif message.get("role") == "tool":
            name = message.get("tool_name") or message.get("name")
            found = next((call for call in open_calls if name in (None, call[1])), None)
            if found is not None:
                open_calls.remove(found)
                new["tool_call_id"] = found[0]
        written.append(new)
    return written


def _rewrite_image(image: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:;base64,{image}"}}


def _rewrite_call(call: Any, call_id: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise invalid("a tool call has to be an object with a function", "messages")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "function": {"name": function.get("name"), "arguments": text}}


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
            "created_at": _format_time(datetime.now(UTC)),
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


def _format_time(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _to_ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _parse_arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def build_model_routes(context: ServerContext) -> list[Route]:
    """Build the routes that say what models there are."""
    runtime = context.runtime
    files: FileCache[dict[str, Any]] = FileCache()

    def describe(spec: ModelSpec | None) -> dict[str, Any]:
        """Describe the file of a model; what is not known of it is null."""
        from etui.models.files import model_path

        if spec is not None and spec.backend is None:
            path = model_path(spec, runtime.config)
            if path.is_file():
                return files.get(spec.name, lambda: _describe_file(path), lambda _: (str(path),))
        return {"modified_at": None, "size": None, "details": _UNKNOWN}

    def build_entry(model: ServedModel) -> dict[str, Any]:
        spec, name = runtime.catalogue.models.get(model.id), f"{model.id}:latest"
        stated = None if spec is None else spec.sha256
        digest = stated or hashlib.sha256(model.id.encode()).hexdigest()
        return {"name": name, "model": name, "digest": digest, **describe(spec)}

    def list_models(*, resident: bool) -> dict[str, Any]:
        from etui.runtime.model_ids import list_model_ids

        models = list_model_ids(runtime, context.pool.status().residents)
        if not resident:
            return {"models": [build_entry(model) for model in models]}
        loaded = [model for model in models if model.resident and model.kind == "model"]
        more = {"expires_at": None, "size_vram": None}
        return {
            "models": [
                build_entry(model) | more | {"context_length": model.context_tokens}
                for model in loaded
            ]
        }

    async def show_tags(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(list_models, resident=False))

    async def show_running(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(list_models, resident=True))

    async def show_version(request: Request) -> JSONResponse:
        return JSONResponse({"version": API_VERSION, "etui": __version__})

    async def show_model(request: Request) -> JSONResponse:
        name, client = read_model(await read_json(request)), client_of(request)

        def run() -> dict[str, Any]:
            from etui.models.gguf import check_gguf

            _, spec, path = find_model(name, context, client)
            return describe(spec) | _build_show(spec, check_gguf(path))

        return JSONResponse(await run_in_threadpool(run))

    return [
        Route("/api/tags", show_tags),
        Route("/api/ps", show_running),
        Route("/api/version", show_version),
        Route("/api/show", show_model, methods=["POST"]),
    ]


def _describe_file(path: Path) -> dict[str, Any]:
    from etui.models.gguf import check_gguf

    gguf = check_gguf(path)
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {
        "modified_at": _format_time(changed),
        "size": gguf.size_bytes,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": gguf.architecture,
            "families": [gguf.architecture],
            "parameter_size": f"{gguf.parameters / 1e9:.1f}B",
            "quantization_level": gguf.quantisation,
        },
    }


def _build_show(spec: ModelSpec, gguf: Gguf) -> dict[str, Any]:
    from etui.engine.chat_formats import choose_format
    from etui.models.gguf import Array

    facts = {
        name: None if isinstance(value, Array) else value for name, value in gguf.metadata.items()
    }
    form = choose_format(spec, gguf.chat_template)
    can = ["completion", "tools" if form.tools else "", "thinking" if form.thought else ""]
    if facts.get(f"{gguf.architecture}.pooling_type"):
        can = ["embedding"]
    return {
        "license": spec.licence,
        "modelfile": "",
        "parameters": "",
        "template": gguf.chat_template or "",
        "model_info": {**facts, "general.parameter_count": gguf.parameters},
        "capabilities": [each for each in can if each],
    }
