"""Render a conversation with its tools into prompt text in which no message forges a token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from etui.chat import Message
from etui.engine.chat_formats import ToolFormat
from etui.engine.session import ModelFacts
from etui.engine.special_tokens import SpecialTokens
from etui.engine.template_process import TemplateFailed, TemplateProcess
from etui.engine.template_sandbox import LimitExceeded, TemplateRaised
from etui.errors import InvalidRequest, ModelUnavailable

if TYPE_CHECKING:
    from etui.engine.model import Model

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content | trim }}

{% elif message.role == 'user' -%}
User: {{ message.content | trim }}
{% else -%}
Assistant: {{ message.content | trim }}

{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
Assistant:
{%- endif -%}
"""
"""Template for models without one (base models): turns start with ``User:``, ``Assistant:``."""


PLAIN_STOP = ("\nUser:",)
"""Stop string for ``PLAIN_TEMPLATE``: a base model would continue with the user's next turn."""


class ChatTemplate:
    """A chat template, compiled and rendered in a process of its own.

    Args:
        process: The process that renders it; it must outlive the template.
        source: Jinja source from the GGUF; None uses ``PLAIN_TEMPLATE``.

    Raises:
        ModelUnavailable: The source is not a valid template.
    """

    def __init__(
        self,
        process: TemplateProcess,
        model: str,
        source: str | None,
        bos_text: str = "",
        eos_text: str = "",
    ) -> None:
        self._source = source or PLAIN_TEMPLATE
        self._process = process
        self._model = model
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        with self._guard():
            process.compile(self._source)

    def render(self, chat: list[dict[str, Any]], variables: Mapping[str, object]) -> str:
        """Render a chat up to and including the assistant's header.

        If the template rejects a system message, its text is prepended to the first user message.

        Raises:
            ModelUnavailable: The template rejects the messages, fails, or takes too long.
        """
        given = {
            **self._tokens,
            "messages": chat,
            "add_generation_prompt": True,
            "tools": None,  # templates test `tools is not none`
            "documents": None,
            **variables,
        }
        with self._guard():
            try:
                return self._process.render(self._source, given)
            except TemplateRaised:
                if [each["role"] for each in chat[:2]] != ["system", "user"]:
                    raise
                text = f"{chat[0]['content']}\n\n{chat[1]['content']}"
                merged = [{"role": "user", "content": text}, *chat[2:]]
                return self._process.render(self._source, {**given, "messages": merged})

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn what a template raises or exceeds into ``ModelUnavailable``."""
        fix = "use another GGUF of this model"
        try:
            yield
        except TemplateRaised as error:
            why, fix = f"rejects these messages: {error}", "change the system prompt or the chat"
            raise self._refuse(why, fix) from error
        except LimitExceeded as error:
            raise self._refuse(f"was stopped: {error}", fix) from error
        except TemplateFailed as error:
            # A template is a program: it can raise anything, and any exception means it is broken.
            message = " ".join(str(error).split())[:200]
            raise self._refuse(f"fails with {error.kind}: {message}", fix) from error

    def _refuse(self, why: str, fix: str) -> ModelUnavailable:
        return ModelUnavailable(f"the chat template of {self._model} {why}", fix)


NESTING = 64
"""Most levels of objects and lists in tools and calls, which are read by recursive code."""

_PROBE = "etui_probe"


class ChatPrompt:
    """Renders conversations with one template, and keeps special tokens out of their texts.

    Args:
        special: The special tokens that no message may forge.
        tool_format: How the template writes calls; empty if it has no place for tools.
    """

    def __init__(
        self, template: ChatTemplate, special: SpecialTokens, tool_format: ToolFormat, model: str
    ) -> None:
        self._template = template
        self._special = special
        self._tool_format = tool_format
        self._model = model
        self._calls: Literal["", "objects", "texts", "left out"] = ""
        """How the template writes calls, by their arguments; empty as long as it is not known."""

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, object], tools: str = ""
    ) -> str:
        """Render the prompt up to and including the assistant's header, or its last message.

        Stand-ins replace the characters of special tokens in all texts, so that only what the
        template writes becomes one.

        Raises:
            InvalidRequest: The template has no place for the tools, or for their calls.
        """
        parsed = _parse_tools(tools)
        if parsed and not self._tool_format:
            raise self._refuse_tools("has no place for tools that etui can read")
        if any(each.role == "tool" or each.tool_calls for each in messages):
            self._check_calls()
        chat, begun = self._split(messages)
        asked = max((at for at, each in enumerate(chat) if each.role == "user"), default=-1)
        documents = [self._document(each, thinks=at > asked) for at, each in enumerate(chat)]

        def render(conceal: Callable[[str], str]) -> str:
            concealed = _map_texts(documents, conceal)
            if self._calls == "left out":
                concealed = [_write_calls(each, self._tool_format) for each in concealed]
            if not parsed:
                return self._render(concealed, variables) + conceal(begun)
            given = {**variables, "tools": _map_texts(parsed, conceal)}
            try:
                return self._render(concealed, given) + conceal(begun)
            except ModelUnavailable as error:
                if not isinstance(error.__cause__, TemplateFailed):
                    raise
            given["tools"] = [_with_defaults(each) for each in given["tools"]]
            return self._render(concealed, given) + conceal(begun)

        text = render(self._special.conceal)
        texts = [begun, *_texts(documents), *_texts(parsed)]
        if any(self._special.has_edges(each) for each in texts):
            # A template could join parts of a message to a special token.
            safe = render(self._special.conceal_edges)
            if self._special.written(safe) != self._special.written(text):
                text = safe
        if parsed and not any(name in text for name in _names(parsed)):
            raise self._refuse_tools("does not write the tools into this prompt")
        return text

    def _refuse_tools(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"the chat template of {self._model} {why}",
            "ask without tools, or choose a model that can call them",
            "tools",
        )

    def _render(self, documents: list[dict[str, Any]], variables: Mapping[str, object]) -> str:
        try:
            return self._template.render(documents, variables)
        except ModelUnavailable as error:
            called = any("tool_calls" in each or each["role"] == "tool" for each in documents)
            if called and isinstance(error.__cause__, TemplateRaised):
                raise InvalidRequest(error.what, error.fix, "messages") from error
            raise

    def _split(self, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
        """Take the begin of the answer off a conversation that ends with the assistant."""
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant":
            return messages, ""
        if last.tool_calls:
            raise InvalidRequest(
                "the last message is a call of a tool, which an answer cannot continue",
                "append the result of the tool as a message of role `tool`",
                "messages",
            )
        return messages[:-1], last.content

    def _check_calls(self) -> None:
        if not self._tool_format:
            raise InvalidRequest(
                f"the chat template of {self._model} has no place for the calls of tools",
                "choose a model that can call tools",
                "messages",
            )
        self._calls = self._calls or self._find_calls()

    def _find_calls(self) -> Literal["objects", "texts", "left out"]:
        """Find by a trial how the template writes calls whose arguments are an object."""
        call = {"id": "abcdefghi", "type": "function"}
        function = {"name": _PROBE, "arguments": {_PROBE: _PROBE}}
        chat: list[dict[str, Any]] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [{**call, "function": function}]},
            {"role": "tool", "content": "!", "tool_call_id": call["id"]},
        ]
        try:
            text = self._template.render(chat, {})
        except ModelUnavailable:
            return "texts"
        if _PROBE not in text:
            return "left out"
        # Its name, a key and a value; joined to a text, an object is written as Python does.
        whole = text.count(_PROBE) >= 3 and f"'{_PROBE}': '{_PROBE}'" not in text
        return "objects" if whole else "texts"

    def _document(self, message: Message, *, thinks: bool) -> dict[str, Any]:
        document: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls and message.thinking and thinks:
            if self._tool_format != "harmony":
                document["reasoning_content"] = message.thinking
            elif not message.content:  # gpt-oss's template refuses both in one message
                document["thinking"] = message.thinking
        if message.tool_calls:
            document["tool_calls"] = [
                {
                    "id": str(call.get("id") or ""),
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": self._convert_arguments(call["function"].get("arguments")),
                    },
                }
                for call in _parse_calls(message.tool_calls)
            ]
        if message.tool_call_id:
            document["tool_call_id"] = message.tool_call_id
        return document

    def _convert_arguments(self, given: Any) -> Any:
        """Convert arguments into the form that the template writes: a text, or an object."""
        given = given or "{}"
        as_text = self._calls == "texts"
        if isinstance(given, str) is as_text:
            return given
        if as_text:
            return json.dumps(given, ensure_ascii=False)
        try:
            arguments = json.loads(given)
        except (ValueError, RecursionError):
            return {"arguments": given}  # what a model wrote need not be JSON
        usable = isinstance(arguments, dict) and not is_deep(arguments)
        return arguments if usable else {"arguments": given}


class ModelText:
    """Renders and tokenizes the texts of one model: the part of a session that needs no weights."""

    def __init__(self, model: Model, facts: ModelFacts, template: ChatTemplate) -> None:
        self.facts = facts
        self._model = model
        self._special = SpecialTokens(model.special_tokens())
        self._prompt = ChatPrompt(template, self._special, facts.format.tools, facts.name)

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        """Render the prompt, with stand-ins that :meth:`tokenize` replaces again."""
        variables = self.facts.format.variables(think_tokens)
        return self._prompt.render(messages, variables, tools)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text, with ``special`` a rendered one; ``bos`` prepends the begin token."""
        if not special:
            return self._model.tokenize(text, bos=bos, special=False)
        tokens = self._special.tokenize(
            text, lambda piece, parsed: self._model.tokenize(piece, special=parsed)
        )
        return self._model.with_bos(tokens) if bos else tokens

    def split_at(self, text: str, marks: Sequence[str]) -> list[str]:
        """Split a rendered text at marks that its messages had; the odd parts are the marks."""
        pattern = "|".join(f"({self._special.find(mark)})" for mark in marks)
        parts, end = [], 0
        for found in re.finditer(pattern, text):
            parts += [text[end : found.start()], marks[(found.lastindex or 1) - 1]]
            end = found.end()
        return [*parts, text[end:]]


def is_deep(document: Any, levels: int = NESTING) -> bool:
    """Return whether a JSON document is nested more than this many levels deep."""
    layer = [document] if isinstance(document, dict | list) else []
    for _ in range(levels):
        inner = [each.values() if isinstance(each, dict) else each for each in layer]
        layer = [part for each in inner for part in each if isinstance(part, dict | list)]
        if not layer:
            return False
    return bool(layer)


def _write_calls(document: dict[str, Any], tool_format: ToolFormat) -> dict[str, Any]:
    """Write the calls of a message behind its text, for templates that leave them out.

    Texts in it have their stand-ins already, so that only the tags become tokens.
    """
    if "tool_calls" not in document or tool_format not in ("lfm2", "granite"):
        return document
    calls = [each["function"] for each in document["tool_calls"]]
    if tool_format == "granite":
        written = "<|tool_call|>" + json.dumps(
            [{"name": each["name"], "arguments": each["arguments"]} for each in calls],
            ensure_ascii=False,
        )
    else:
        texts = [
            f"{each['name']}({', '.join(map(_write_argument, each['arguments'].items()))})"
            for each in calls
        ]
        written = f"<|tool_call_start|>[{', '.join(texts)}]<|tool_call_end|>"
    kept = {key: value for key, value in document.items() if key != "tool_calls"}
    return {**kept, "content": document["content"] + written}


def _with_defaults(tool: Any) -> Any:
    """Add the optional parts of a tool, which some templates write without looking for them."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    defaults = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {**tool, "function": {**defaults, **function}}


def _write_argument(item: tuple[str, Any]) -> str:
    key, value = item
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _parse_tools(text: str) -> list[Any]:
    if not text:
        return []
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the tools are not JSON: {error}", "", "tools") from error
    if not isinstance(parsed, list):
        raise InvalidRequest("the tools are not a list", "", "tools")
    return parsed


def _parse_calls(text: str) -> list[Mapping[str, Any]]:
    """Parse the calls of a message; each has a function with a name."""
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"tool_calls are not JSON: {error}", "", "messages") from error
    if is_deep(calls):
        raise InvalidRequest(
            f"tool_calls are nested more than {NESTING} levels deep", "", "messages"
        )
    for call in calls if isinstance(calls, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(
                "tool_calls of a message are not a list of calls with a function and its name",
                "",
                "messages",
            )
    return list(calls)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text in a JSON document, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(each, change) for each in value]
    if isinstance(value, dict):
        return {change(key): _map_texts(each, change) for key, each in value.items()}
    return value


def _texts(value: Any) -> list[str]:
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _map_texts(value, note)
    return found


def _names(tools: Sequence[Any]) -> list[str]:
    functions = [each.get("function") for each in tools if isinstance(each, dict)]
    names = [each.get("name") for each in functions if isinstance(each, dict)]
    return [name for name in names if isinstance(name, str) and name]
