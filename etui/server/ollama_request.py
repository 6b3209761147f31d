"""Rewrite a request of Ollama's clients as one of OpenAI's, which the same code then reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etui.server.errors import invalid, unsupported

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


def read_model(document: Mapping[str, Any]) -> str:
    """Read the name of the model, without the tag that means any."""
    model = document.get("model") or document.get("name")
    if not isinstance(model, str):
        raise invalid("model is required", "model")
    return model.removesuffix(":latest")


def rewrite(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Rewrite all but the texts of a request; return it with the names of what is ignored."""
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
    return body, ignored


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
