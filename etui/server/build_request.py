"""Build the turn that a request asks for; the bodies of all endpoints become one of these."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from etui.chat import Infill, Message, OutputOptions, Picture, Query
from etui.errors import EtuiError, UsageError
from etui.prompts.pictures import MOST_PICTURES, read_picture
from etui.reasoning.output import COUNT, STOPS, TOP_LOGPROBS
from etui.runtime.overrides import Overrides
from etui.runtime.turn_request import TurnRequest
from etui.server.chat_request import (
    ChatBody,
    CompletionBody,
    InfillBody,
    ResponseFormat,
    SampledBody,
    ToolChoice,
)
from etui.server.errors import (
    ApiError,
    invalid,
    quote,
    rename_param,
    to_api_error,
    unsupported,
)
from etui.server.validation import Body, dump_schema, list_unknown, refuse_more, validate

if TYPE_CHECKING:
    from etui.server.chat_request import MessageItem
    from etui.server.context import ServerContext
    from etui.turn.record import ClientRecord

B = TypeVar("B", bound=Body)

_TOOL_KEYS = {"name", "description", "parameters"}
_PICTURE_PARTS = ("image_url", "input_image")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")

DEFAULT_MODELS = ("", "default", "etui")
"""Ids of what ``etui serve`` was started with, for clients that insist on one."""

_MOST_TOKENS = 2**20
"""Largest limit of tokens that is passed on; each model cuts it to its context."""

_MOST_PROMPT_TOKENS = 2**18
_MOST_PROMPTS = 128  # Of one completion
_MOST_MESSAGES = 2048  # Of a conversation
_MOST_STOP_CHARACTERS = 256
_MOST_BIASES = 1024
_MOST_METADATA = 16
_LARGEST_TOKEN = 2**22
"""No vocabulary is larger; the engine compares with that of the model."""

_REFUSED: Mapping[str, tuple[Sequence[object], str]] = {
    "functions": (([],), "send `tools`"),
    "function_call": (("none", "auto"), "send `tool_choice`"),
    "modalities": ((["text"],), "etui writes text only: remove it"),
    "audio": ((), "etui writes text only: remove it"),
    "ignore_eos": ((False,), "exclude the end token by `logit_bias`"),
    "web_search_options": ((), "etui searches nothing: remove it"),
    "documents": (([],), "put their text into a message"),
    "images": (([],), "send them as parts of a message"),
    "chat_template": ((), "the model's own is used: remove it"),
    "grammar": (("",), "send a JSON schema as `response_format`"),
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
        ((), "send a JSON schema as `response_format`"),
    ),
}
"""Parameters that would change the answer and are not supported.

Each has the values that ask for nothing, which many clients always send, and what to do instead.
"""

_ALIASES = {
    "repetition_penalty": "repeat_penalty",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "stop_sequences": "stop",
    "json_schema": "response_format",
}
"""Parameters of other servers that are here under another name."""


def _take_known(
    body: Mapping[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of a request that etui uses, and the names of those it ignores.

    A null is as good as none. An unknown parameter is ignored, as is one that changes no answer:
    clients add fields of their own. ApiError (400) for one that would change the answer.
    """
    used: dict[str, Any] = {}
    ignored = []
    for name, value in body.items():
        own = _ALIASES.get(name, name)
        if value is None:
            continue
        if own in known and own != name:
            is_schema = name == "json_schema"
            used.setdefault(own, {"type": "json_object", "schema": value} if is_schema else value)
        elif own in known:
            used[name] = value
        elif name in _REFUSED:
            neutral, fix = _REFUSED[name]
            # True == 1 in Python
            if not any(value == each and type(value) is type(each) for each in neutral):
                raise unsupported(name, f"{name} is not supported; {fix}")
        else:
            ignored.append(name)
    return used, tuple(ignored)


def parse(kind: type[B], document: Mapping[str, Any]) -> tuple[B, tuple[str, ...]]:
    """Parse the body of a request; return it with the names of the fields that are ignored.

    ApiError, status 400, if it is not valid, or asks for what etui does not support.
    """
    used, ignored = _take_known(document, kind.model_fields)
    body = validate(kind, used)
    more = _read_metadata(body.metadata)[1] if isinstance(body, SampledBody) else ()
    return body, (*ignored, *list_unknown(body), *more)


@dataclass(slots=True)
class Rewrite:
    """A request of another dialect, rewritten as one for a chat completion."""

    chat: dict[str, Any] = field(default_factory=dict)  # The body of the chat completion
    ignored: list[str] = field(default_factory=list)  # What of the request has no effect
    origins: list[str] = field(default_factory=list)
    """Where each message comes from (``instructions``, ``input``, ``input[2]``)."""
    renamed: ClassVar[Sequence[tuple[str, str]]] = ()
    """Patterns of begins of parameters of chat completions, and their names here."""

    def rename(self, param: str) -> str:
        """Return the name here of a parameter of chat completions."""
        found = re.match(r"messages\[(\d+)\]", param)
        if found and int(found[1]) < len(self.origins):
            return self.origins[int(found[1])]
        for pattern, name in self.renamed:
            if found := re.match(pattern, param):
                return found.expand(name) + param[found.end() :]
        return param

    def build(self, context: ServerContext, client: ClientRecord) -> tuple[TurnRequest, bool]:
        """Build the turn, and whether its answer is streamed; errors name parameters as here."""
        try:
            body, more = parse(ChatBody, self.chat)
            turn = build_chat_turn(body, context, client)
        except ApiError as error:
            raise rename_param(error, self.rename) from None
        self.ignored += more
        return turn, body.stream


def build_chat_turn(body: ChatBody, context: ServerContext, client: ClientRecord) -> TurnRequest:
    """Build the turn of a chat completion.

    ApiError if a value is out of its bounds (400), or the model is unknown (404).
    """
    query = _read_conversation(body.messages)
    options = _read_options(body)
    top = body.top_logprobs
    if top is not None:
        refuse_more(top, TOP_LOGPROBS, "top_logprobs", "alternatives")
        if top and not body.logprobs:
            raise invalid("top_logprobs needs `logprobs: true`", "top_logprobs")
    tools, choice = _read_tools(body)
    schema = _read_format(body.response_format)
    if tools and choice not in ("none", "auto"):
        schema = ""  # the answer is calls alone
    options = replace(
        options,
        json_schema=schema,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        strict_tools=bool(body.tools) and all(tool.function.strict for tool in body.tools or ()),
        top_logprobs=(top or 0) if body.logprobs else None,
    )
    limit, param = body.max_completion_tokens, "max_completion_tokens"
    if limit is None:
        limit, param = body.max_tokens, "max_tokens"
    if limit == 0:
        raise invalid(f"{param}: an answer has at least 1 token", param)
    turn = _build_turn(body, replace(query, options=options), context, client, limit)
    return replace(turn, effort=_read_effort(body))


def build_completion_turns(
    body: CompletionBody, context: ServerContext, client: ClientRecord
) -> list[TurnRequest]:
    """Build the turns of a completion, one for each prompt; raises as for a chat."""
    count = body.best_of or body.n
    refuse_more(count, COUNT, "best_of" if body.best_of else "n", "answers")
    if count < body.n:
        raise invalid("best_of: at least as many answers as `n` are needed", "best_of")
    if count > body.n and body.stream:
        raise invalid("best_of: the best is known at the end only; leave out `stream`", "best_of")
    if body.logprobs is not None:
        refuse_more(body.logprobs, TOP_LOGPROBS, "logprobs", "alternatives")
    if body.max_tokens == 0 and count > 1:
        raise invalid("n: an answer without tokens is there once", "n")
    ranked = 0 if count > body.n else None  # by their log-probabilities
    options = replace(
        _read_options(body),
        raw=True,
        count=count,
        top_logprobs=ranked if body.logprobs is None else body.logprobs,
    )
    turns = []
    for text, tokens in _read_prompts(body.prompt):
        own = replace(options, prompt_tokens=tokens)
        if body.suffix:
            if tokens or body.echo:
                param = "echo" if body.echo else "prompt"
                raise invalid(f"{param}: a suffix goes with a prompt as text, without echo", param)
            own = replace(own, infill=Infill(text, body.suffix))
        echo = body.echo and bool(tokens or body.logprobs is not None)
        turns.append(_build_raw_turn(body, text, replace(own, echo=echo), context, client))
    return turns


def build_infill_turn(
    body: InfillBody, context: ServerContext, client: ClientRecord
) -> TurnRequest:
    """Build the turn that fills in the middle of a text; raises as :func:`build_chat_turn`."""
    if body.n > 1:
        raise unsupported("n", "n: this endpoint writes one text; use /v1/completions with suffix")
    files = tuple((file.filename, file.text) for file in body.input_extra)
    infill = Infill(body.input_prefix, body.input_suffix, body.prompt, files)
    options = replace(_read_options(body), raw=True, infill=infill)
    text = body.input_prefix or body.input_suffix or "(an empty text)"
    return _build_raw_turn(body, text, options, context, client)


def _build_raw_turn(
    body: SampledBody,
    text: str,
    options: OutputOptions,
    context: ServerContext,
    client: ClientRecord,
) -> TurnRequest:
    turn = _build_turn(body, Query(text, options=options), context, client, body.max_tokens)
    return replace(turn, overrides=replace(turn.overrides, reasoning="direct"))


def _build_turn(
    body: SampledBody,
    query: Query,
    context: ServerContext,
    client: ClientRecord,
    limit: int | None,
) -> TurnRequest:
    metadata = _read_metadata(body.metadata)[0]
    overrides = replace(
        parse_model(body.model, context),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        repeat_penalty=body.repeat_penalty,
        repeat_last_n=body.repeat_last_n,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed is None else body.seed % 2**31,  # the engine's range
        max_tokens=None if limit is None else min(limit % 2**31, _MOST_TOKENS),  # -1 is the most
        lenient=True,
    )
    return TurnRequest(
        replace(query, owner=f"serve:{client.key}", metadata=metadata), overrides, client
    )


def parse_model(text: str, context: ServerContext) -> Overrides:
    """Return the policy, arm or model that an id names; ApiError (404) with the nearest names."""
    if text in DEFAULT_MODELS:
        return Overrides(model=context.settings.model, policy=context.settings.policy)
    try:
        if context.parse_model is not None:
            return context.parse_model(text)
        from etui.runtime.model_ids import parse_model_id

        return parse_model_id(text, context.runtime)
    except EtuiError as error:
        raise to_api_error(error) from error


def _read_conversation(items: Sequence[MessageItem]) -> Query:
    """Read the messages; system ones are gathered at the beginning, as most templates want it."""
    if len(items) > _MOST_MESSAGES:
        text = f"messages: at most {_MOST_MESSAGES} are accepted; got {len(items)}"
        raise invalid(text, "messages")
    called: set[str] = set()
    pictures: dict[str, Picture] = {}
    messages = [
        _read_message(item, f"messages[{index}]", called, pictures)
        for index, item in enumerate(items)
    ]
    systems = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    questions = [message.content for message in others if message.role == "user"]
    if not questions:
        raise invalid("messages: a message of the role user is needed", "messages")
    return Query(
        questions[-1],
        system="\n\n".join(systems) or None,
        history=tuple(others[:-1]),
        last=None if others[-1].role == "user" else others[-1],
        pictures=tuple(pictures.values()),
    )


def _read_message(
    item: MessageItem, place: str, called: set[str], pictures: dict[str, Picture]
) -> Message:
    calls = item.tool_calls or []
    if calls and item.role != "assistant":
        raise invalid(f"{place}.tool_calls: only the assistant calls tools", f"{place}.tool_calls")
    if item.role == "tool":
        if item.tool_call_id is None or item.tool_call_id not in called:
            param = f"{place}.tool_call_id"
            raise invalid(f"{param} has to be the id of a call in an earlier message", param)
        text = join_text(item.content, f"{place}.content")
        return Message("tool", text, tool_call_id=item.tool_call_id)
    if item.content is None and not calls:
        raise invalid(f"{place}.content is missing", f"{place}.content")
    shown = pictures if item.role == "user" else None
    text = "" if item.content is None else join_text(item.content, f"{place}.content", shown)
    called.update(call.id for call in calls)
    listed = [call.model_dump() for call in calls]
    written = json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""
    thought = item.reasoning_content if calls and isinstance(item.reasoning_content, str) else ""
    role = "system" if item.role == "developer" else item.role
    return Message(role, text, tool_calls=written, thinking=thought)


def join_text(content: Any, param: str, pictures: dict[str, Picture] | None = None) -> str:
    """Return a text, or the joined text parts of a list; nothing is ever fetched.

    ``pictures`` takes those of the list, by their marks; None refuses them.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{param} has to be a text or a list of text parts", param)
    texts = []
    for index, part in enumerate(content):
        place = f"{param}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise invalid(f"{place} has to be an object with a type", place)
        if kind in _PICTURE_PARTS and pictures is not None:
            texts.append(_take_picture(part.get("image_url"), place, pictures))
            continue
        if kind not in _TEXT_PARTS:
            what = f"parts of the type {quote(kind, 32)} are not supported"
            raise unsupported(place, f"{place}: {what}")
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise invalid(f"{place}.text has to be a text", f"{place}.text")
        texts.append(text)
    return "".join(texts)


def _take_picture(url: Any, place: str, pictures: dict[str, Picture]) -> str:
    if isinstance(url, dict):
        url = url.get("url")
    head, comma, encoded = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        what = "the picture has to be a data URL (data:image/png;base64,...); none is fetched"
        raise invalid(f"{place}: {what}", place)
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise invalid(f"{place}: the picture is no base64", place) from None
    digest = hashlib.sha256(data).hexdigest()
    for known in pictures.values():
        if known.sha256 == digest:  # reading it again would inflate it again
            return known.mark
    refuse_more(len(pictures) + 1, MOST_PICTURES, "messages", "pictures")
    try:
        picture = read_picture(data, "the picture")
    except UsageError as error:
        raise invalid(f"{place}: {error.what}; {error.fix}", place) from None
    pictures[picture.mark] = picture
    return picture.mark


def _read_options(body: SampledBody) -> OutputOptions:
    refuse_more(body.n, COUNT, "n", "answers")
    refuse_more(len(body.stop), STOPS, "stop", "stop strings")
    most = _MOST_STOP_CHARACTERS
    for index, text in enumerate(body.stop):
        if not text or len(text) > most:
            param = f"stop[{index}]"
            raise invalid(f"{param}: a stop string has 1 to {most} characters", param)
    return OutputOptions(
        stop=tuple(body.stop), count=body.n, logit_bias=_read_biases(body.logit_bias)
    )


def _read_biases(given: Any) -> tuple[tuple[int | str, float], ...]:
    """Read OpenAI's map of token ids, or llama.cpp's list of pairs with ids or texts."""
    pairs = list(given.items()) if isinstance(given, dict) else given or []
    refuse_more(len(pairs) if isinstance(pairs, list) else 0, _MOST_BIASES, "logit_bias", "biases")
    biases: list[tuple[int | str, float]] = []
    token: Any
    bias: Any
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        known = isinstance(pair, list | tuple) and len(pair) == 2
        token, bias = pair if known else (None, None)
        if isinstance(given, dict) and str(token).isdecimal():
            token = int(str(token)[:10])
        bias = -math.inf if bias is False else bias
        if type(token) not in (int, str) or type(bias) not in (int, float):
            what = "logit_bias has to be a map, or a list of pairs, of a token and a number"
            raise invalid(what, "logit_bias")
        if isinstance(token, int) and not 0 <= token < _LARGEST_TOKEN:
            raise invalid(f"logit_bias: {token} is no token id", "logit_bias")
        biases.append((token, float(bias)))
    return tuple(biases)


def _read_metadata(given: Any) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the facts that policies can read, and the names of those that they cannot."""
    if not isinstance(given, dict):
        return (), () if given is None else ("metadata",)
    kept = [
        (key, value)
        for key, value in given.items()
        if isinstance(value, str) and 1 <= len(key) <= 64 and len(value) <= 512
    ][:_MOST_METADATA]
    names = dict(kept)
    return tuple(sorted(kept)), tuple(f"metadata.{key}" for key in given if key not in names)


def _read_format(form: ResponseFormat | None) -> str:
    if form is None or form.type == "text":
        return ""
    if form.schema_ is not None:
        return dump_schema(form.schema_, "response_format.schema")
    if form.type == "json_object":
        return '{"type":"object"}'
    param = "response_format.json_schema.schema"
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise invalid(f"{param} is missing", param)
    return dump_schema(form.json_schema.schema_, param)


def _read_tools(body: ChatBody) -> tuple[str, str]:
    names = [tool.function.name for tool in body.tools or ()]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].function.name"
            raise invalid(f"{param}: {name} is the name of an earlier tool", param)
    choice = _read_tool_choice(body.tool_choice, names)
    if not names:
        return "", "auto"
    listed = [
        {
            "type": "function",
            "function": tool.function.model_dump(exclude_none=True, include=_TOOL_KEYS),
        }
        for tool in body.tools or ()
    ]
    return dump_schema(listed, "tools"), choice


def _read_tool_choice(choice: Any, names: list[str]) -> str:
    """Return the choice among tools: ``auto``, ``none``, ``required`` or ``function:NAME``."""
    param = "tool_choice"
    if choice is None:
        return "auto"
    if choice in ("auto", "none"):
        return str(choice)
    if choice == "required":
        if not names:
            raise invalid("tool_choice: required needs tools", param)
        return "required"
    if not isinstance(choice, dict):
        raise invalid("tool_choice has to be none, auto, required, or one function", param)
    if choice.get("type") not in ("function", None):
        raise unsupported(param)
    name = validate(ToolChoice, {"tool_choice": choice}).tool_choice.function.name
    if name not in names:
        raise invalid(f"tool_choice: there is no tool {name}", f"{param}.function.name")
    return f"function:{name}"


def _read_effort(body: ChatBody) -> str | None:
    thinks = body.chat_template_kwargs and body.chat_template_kwargs.enable_thinking
    effort = body.reasoning_effort
    if thinks is None:
        return effort
    if effort is None:
        return "medium" if thinks else "none"
    if thinks == (effort == "none"):
        param = "chat_template_kwargs.enable_thinking"
        raise invalid(f"{param} contradicts reasoning_effort", param)
    return effort


def _read_prompts(prompt: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Return the text of each prompt and its token ids, if these were sent."""
    several = isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list)
    prompts = prompt if several else [prompt]
    refuse_more(len(prompts), _MOST_PROMPTS, "prompt", "prompts")
    return [
        _read_prompt(each, f"prompt[{index}]" if len(prompts) > 1 else "prompt")
        for index, each in enumerate(prompts)
    ]


def _read_prompt(prompt: Any, param: str) -> tuple[str, tuple[int, ...]]:
    if isinstance(prompt, str):
        if not prompt:
            raise invalid(f"{param} is empty", param)
        return prompt, ()
    if not isinstance(prompt, list) or not prompt:
        what = f"{param} has to be a text or a list of token ids"
        raise invalid(f"{what}; several prompts are a list of these", param)
    refuse_more(len(prompt), _MOST_PROMPT_TOKENS, param, "token ids")
    for index, token in enumerate(prompt):
        if type(token) is not int or not 0 <= token < _LARGEST_TOKEN:
            raise invalid(f"{param}[{index}] is no token id", f"{param}[{index}]")
    return f"({len(prompt)} token ids)", tuple(prompt)
