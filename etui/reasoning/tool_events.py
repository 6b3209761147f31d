"""Turn the text of an answer into text, thoughts and calls of tools, event by event."""

from __future__ import annotations

import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from etui.engine.chat_formats import ToolFormat
from etui.engine.grammar import read_tools, read_types
from etui.engine.special_tokens import TextStream, first_stop, held_back
from etui.events import Answer, Event, Finished, Thought, ToolCall
from etui.reasoning.call_readers import (
    DEEPSEEK_HEAD,
    MISTRAL_HEAD,
    SPACE,
    BareReader,
    CallReader,
    MarkupReader,
    NamedReader,
    ObjectReader,
    ParameterTypes,
    PythonReader,
)
from etui.reasoning.output import Output

_ID_CHARACTERS = 9  # templates of Mistral refuse ids of another length


Part = str | Thought | ToolCall
"""Text of the answer, or a thought or a part of a call, both without a time yet."""


def create_call_id() -> str:
    """Create an id of a call: nine letters and digits."""
    return uuid.uuid4().hex[:_ID_CHARACTERS]


class CallParser(ABC):
    """Incremental parser of one answer; after ``most`` calls further ones are left out.

    ``thinking`` says whether the last text was a thought.
    """

    def __init__(self, most: int = 128, create_id: Callable[[], str] = create_call_id) -> None:
        self.thinking = False
        self._most = most
        self._create_id = create_id
        self._calls: list[dict[str, Any]] = []  # in the OpenAI form

    @abstractmethod
    def push(self, text: str) -> list[Part]:
        """Take decoded text and return the parts that are certain."""

    @abstractmethod
    def finish(self) -> list[Part]:
        """End the answer and return what was held back."""

    def document(self) -> str:
        """Return the calls as a JSON array in the OpenAI form; empty without any."""
        return json.dumps(self._calls, ensure_ascii=False) if self._calls else ""

    def _name_call(self, name: str, parts: list[Part]) -> None:
        function = {"name": name, "arguments": ""}
        call = {"id": self._create_id(), "type": "function", "function": function}
        self._calls.append(call)
        self._emit(name, "", parts)

    def _add_arguments(self, arguments: str, parts: list[Part]) -> None:
        self._calls[-1]["function"]["arguments"] += arguments
        self._emit("", arguments, parts)

    def _complete_call(self, parts: list[Part]) -> None:
        """Give a call without arguments an empty object, and leave out what is too many."""
        function = self._calls[-1]["function"]
        if not function["arguments"].strip(SPACE):
            function["arguments"] = ""
            self._add_arguments("{}", parts)
        del self._calls[self._most :]

    def _emit(self, name: str, arguments: str, parts: list[Part]) -> None:
        index = len(self._calls) - 1
        if index < self._most:
            parts.append(ToolCall(0, index, self._calls[-1]["id"], name, arguments))


@dataclass(frozen=True, slots=True)
class _Form:
    """The tags of calls in one format."""

    openings: tuple[str, ...] = ()
    closings: tuple[str, ...] = ()
    listed: bool = False  # Whether a tag is followed by a list of calls
    bare: bool = False  # Whether an answer can begin with a call that has no tag


_FENCE = "```"
_OPEN_FENCE = "```json"
_BARE = re.compile(r"(```(json)?\s*)?\{")
"""Begin of a call without a tag. Some models (Qwen2.5-Coder) write it as a block of code."""

_TOOL_CALL = ("<tool_call>",), ("</tool_call>",)
_DEEPSEEK = _Form(
    ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
)
_FORMS: dict[ToolFormat, _Form] = {
    "": _Form(),
    "hermes": _Form(*_TOOL_CALL, bare=True),
    "llama": _Form(("<|python_tag|>",), bare=True),
    "mistral": _Form(("[TOOL_CALLS]",), listed=True),
    "mistral-args": _Form(("[TOOL_CALLS]",)),
    "granite": _Form(("<|tool_call|>",), ("<|/tool_call|>",), listed=True),
    "apriel": _Form(("<tool_calls>",), ("</tool_calls>",), listed=True),
    "xml": _Form(*_TOOL_CALL),
    "deepseek": _DEEPSEEK,
    "deepseek-json": _DEEPSEEK,
    "lfm2": _Form(("<|tool_call_start|>",), ("<|tool_call_end|>",), listed=True),
    "gemma": _Form(("<|tool_call>",), ("<tool_call|>",)),
    "functiongemma": _Form(("<start_function_call>",), ("<end_function_call>",)),
}


def opening_tags(tool_format: ToolFormat) -> tuple[str, ...]:
    """Return the tags that begin the calls of a format."""
    return _FORMS[tool_format].openings if tool_format in _FORMS else ()


class ToolCallParser(CallParser):
    """Parser of calls that are parts of the answer's text, most of them between tags.

    Where a call has no tags, an object without one of the ``names`` of tools is text. ``types`` are
    those of parameters, for a format that does not show them.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        names: Collection[str] = (),
        *,
        most: int = 128,
        create_id: Callable[[], str] = create_call_id,
        types: ParameterTypes | None = None,
    ) -> None:
        super().__init__(most, create_id)
        self._format = tool_format
        self._form = form = _FORMS[tool_format]
        self._types = types or {}
        self._names = frozenset(names)
        self._openings = form.openings
        if tool_format == "xml":  # models leave the first tag out
            self._openings += tuple(f"<function={name}>" for name in sorted(self._names))
        firsts = "".join(sorted({re.escape(tag[0]) for tag in self._openings}))
        self._firsts = re.compile(f"[{firsts}]" if firsts else "(?!)")
        self._mode: Literal["text", "call", "after"] = "text"
        self._held = ""  # text that may begin a tag, or space that may precede a call
        self._written = False  # whether there is text, so that no bare object is a call any more
        self._reader = self._make_reader()
        self._raw = ""  # what turns into text again if the call is none
        self._called = False  # whether nothing but space follows a call
        self._tail = ""  # after a call: what may end it
        self._in_list = False
        self._bare = False  # whether the call has no tag
        self._spare: set[str] = set()  # what may end a bare call, and is no text then
        self._named = False  # whether the name of the call was passed on

    def push(self, text: str) -> list[Part]:
        """Take decoded text and return the parts that are certain."""
        parts: list[Part] = []
        if self._mode == "text" and self._written and not self._called:
            held = self._held + text
            if not self._firsts.search(held):  # no tag can begin in it
                shown = held.rstrip(SPACE)
                self._held = held[len(shown) :]
                return [shown] if shown else []
        for char in text:
            if self._mode == "call":
                self._take_call(char, parts)
            elif self._mode == "after":
                self._take_tail(char, parts)
            else:
                self._take_text(char, parts)
        return _join(parts)

    def finish(self) -> list[Part]:
        """End the answer and return what was held back."""
        parts: list[Part] = []
        if self._mode == "call":
            self._end_call(parts)
        elif self._mode == "after":
            self._end_tail(parts)
        rest, self._held = self._held, ""
        if rest.strip(SPACE) or not self._calls:
            parts.append(rest)
        return _join(parts)

    def _make_reader(self) -> CallReader:
        match self._format:
            case "mistral-args":
                return NamedReader(MISTRAL_HEAD)
            case "deepseek" | "deepseek-json":
                return NamedReader(DEEPSEEK_HEAD)
            case "xml":
                return MarkupReader(self._types)
            case "lfm2":
                return PythonReader()
            case "gemma":
                return BareReader('<|"|>')
            case "functiongemma":
                return BareReader("<escape>")
        return ObjectReader()

    def _take_text(self, char: str, parts: list[Part]) -> None:
        self._held += char
        if self._form.bare and not self._written:
            bare = self._held.strip(SPACE + ";,") if self._calls else self._held.strip(SPACE)
            if _BARE.fullmatch(bare):
                if bare != "{":
                    self._spare.add(_FENCE)
                self._begin_call()
                self._take_call(char, parts)
                return
        opening = self._find_end(self._held, self._openings)
        if opening:
            before = self._held.removesuffix(opening)
            if before.strip(SPACE):
                self._write(before.rstrip(SPACE), parts)
            self._begin_call()
            if opening.startswith("<function="):
                self._raw = self._raw.removesuffix(opening)
                for each in opening:
                    self._take_call(each, parts)
            return
        closings = self._form.closings if self._called else ()
        if self._called:
            closings = (*closings, *self._spare)
        closing = self._find_end(self._held, closings)
        if closing and not self._held.removesuffix(closing).strip(SPACE):
            self._held = ""
            self._spare.discard(closing)
            return
        keep = held_back(self._held, (*self._openings, *closings))
        sure = self._held[: len(self._held) - keep]
        if self._separates(sure):
            return
        shown = sure.rstrip(SPACE)
        self._held = self._held[len(shown) :]
        self._write(shown, parts)

    @staticmethod
    def _find_end(text: str, tags: Collection[str]) -> str:
        return next((tag for tag in tags if text.endswith(tag)), "")

    def _separates(self, sure: str) -> bool:
        """Return whether a text could be what separates two calls, or precedes the first."""
        if self._format == "llama" and self._calls and not self._written:
            return not sure.strip(SPACE + ";,")
        sure = sure.strip(SPACE)
        return not sure or (self._form.bare and not self._written and _OPEN_FENCE.startswith(sure))

    def _write(self, text: str, parts: list[Part]) -> None:
        if text:
            self._written, self._called = True, False
            parts.append(text)

    def _begin_call(self) -> None:
        self._mode = "call"
        self._raw, self._held = self._held, ""
        self._reader = self._make_reader()
        self._named = False
        self._in_list = False
        self._bare = self._raw.endswith("{")
        if self._bare:
            self._raw = self._raw[:-1]  # the reader takes the brace

    def _take_call(self, char: str, parts: list[Part]) -> None:
        reader = self._reader
        if self._form.listed and not self._in_list:
            self._raw += char
            if char == "[":
                self._in_list = True
            elif char not in SPACE:
                self._fall_back("", parts)
            return
        if self._format == "lfm2" and char == "{" and not reader.raw.strip(SPACE):
            reader = self._reader = ObjectReader()  # as the template that llama.cpp ships shows it
        if char == "{" and reader.raw.strip(SPACE) == "{":
            # The templates of Qwen2.5-Coder show it with doubled braces, by mistake.
            reader.raw += char
            if self._bare:
                self._spare.add("}")
            return
        self._add(reader.feed(char), parts)
        if reader.state == "done":
            self._close_call(parts)
        elif reader.state == "bad":
            self._end_call(parts)
        elif not self._named and (reader.started or (self._bare and reader.foreign)):
            self._fall_back(reader.raw, parts)

    def _add(self, arguments: str, parts: list[Part]) -> None:
        reader = self._reader
        if reader.started and not self._named and self._accepts():
            self._named = True
            self._name_call(reader.name or "", parts)
        if arguments and self._named:
            self._add_arguments(arguments, parts)

    def _accepts(self) -> bool:
        tagged = self._format != "llama" and not self._bare
        return tagged or self._reader.name in self._names

    def _close_call(self, parts: list[Part]) -> None:
        """End a complete object: a call, or text if it has no name."""
        reader = self._reader
        if not self._named and reader.name is not None and self._accepts():
            self._named = True
            self._name_call(reader.name, parts)
        if not self._named:
            self._end_call(parts)
            return
        self._complete_call(parts)
        self._called = True
        tailed = self._form.closings or self._form.listed
        self._mode = "after" if tailed and not self._bare else "text"
        self._tail = self._held = ""

    def _end_call(self, parts: list[Part]) -> None:
        """End what is broken or broken off: a call if its arguments have begun, else text."""
        if not self._named:
            self._fall_back(self._reader.raw, parts)
            return
        self._add(self._reader.rest, parts)
        self._complete_call(parts)
        self._called = True
        broken = self._reader.state == "bad"
        self._mode, self._held = "after", ""
        self._tail = self._reader.raw[-1] if broken else ""

    def _fall_back(self, raw: str, parts: list[Part]) -> None:
        self._mode, self._held = "text", ""
        self._write(self._raw + raw, parts)

    def _take_tail(self, char: str, parts: list[Part]) -> None:
        self._tail += char
        opening = self._find_end(self._tail, self._openings)
        if self._form.listed:
            self._take_separator(parts)
        elif self._find_end(self._tail, self._form.closings):
            self._end_tail(parts)
        elif opening and self._form.closings:
            self._tail = self._tail.removesuffix(opening)
            self._end_tail(parts)
            self._held = opening
            self._begin_call()

    def _take_separator(self, parts: list[Part]) -> None:
        tail = self._tail.strip(SPACE)
        if tail == ",":
            self._raw, self._reader, self._named = self._tail, self._make_reader(), False
            self._mode = "call"
        elif tail == "]":
            self._mode, self._held = "text", ""
        elif tail:
            self._end_tail(parts)

    def _end_tail(self, parts: list[Part]) -> None:
        """End what follows a call: drop its closing tag and spare braces, keep any other text."""
        rest = self._tail.removesuffix(self._find_end(self._tail, self._form.closings))
        self._mode, self._held, self._tail = "text", "", ""
        if rest.strip(SPACE + "}]`"):
            self._write(rest, parts)


_HEADER_END = "<|message|>"
_HEADER_BEGINS = ("<|start|>", "<|channel|>")
_BODY_ENDS = ("<|end|>", "<|call|>", "<|return|>", *_HEADER_BEGINS)
_RECIPIENT = re.compile(r"\bto=(?P<name>[^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)")
_MOST_HEADER_CHARACTERS = 300


class ChannelParser(CallParser):
    """Parser of an answer of messages, each with a header that names its channel (harmony).

    A message to a tool is a call, one of the channel ``analysis`` a thought, and any other one a
    part of the answer. Its text may begin in a header, or with the end of a message.
    """

    def __init__(self, most: int = 128, create_id: Callable[[], str] = create_call_id) -> None:
        super().__init__(most, create_id)
        self._body: Literal["", "text", "thought", "call"] = ""  # empty in a header
        self._held = ""
        self._written: set[str] = set()  # kinds of bodies with text, for the gap between two

    def push(self, text: str) -> list[Part]:
        """Take decoded text and return the parts that are certain."""
        parts: list[Part] = []
        self._held += text
        while self._take_header(parts) if not self._body else self._take_body(parts):
            pass
        return _join(parts)

    def finish(self) -> list[Part]:
        """End the answer and return what was held back; the begin of a header is left out."""
        parts: list[Part] = []
        if self._body:
            self._write(self._held, parts)
            self._end_body(parts)
        elif not self._held.lstrip(SPACE).startswith(("<|", "to=")):
            self._body = "text"
            self._write(self._held, parts)
        self._held = ""
        return _join(parts)

    def _take_header(self, parts: list[Part]) -> bool:
        header, end, rest = self._held.partition(_HEADER_END)
        if not end:
            if _may_be_header(header):
                return False
            self._body = "text"  # a text without any header
            return True
        self._held = rest
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.findall(header)
        if recipient is not None and recipient["name"] != "assistant":
            self._body, self.thinking = "call", False
            self._name_call(recipient["name"].removeprefix("functions."), parts)
        elif channel and channel[-1] == "analysis":
            self._body, self.thinking = "thought", True
        else:
            self._body, self.thinking = "text", False
        if self._body in self._written:
            self._write("\n\n", parts)
        return True

    def _take_body(self, parts: list[Part]) -> bool:
        found = first_stop(self._held, _BODY_ENDS)
        if found is None:
            keep = held_back(self._held, _BODY_ENDS)
            self._write(self._held[: len(self._held) - keep], parts)
            self._held = self._held[len(self._held) - keep :]
            return False
        at, end = found
        self._write(self._held[:at], parts)
        self._end_body(parts)
        skipped = 0 if end in _HEADER_BEGINS else len(end)
        self._held = self._held[at + skipped :]
        return bool(self._held)

    def _write(self, text: str, parts: list[Part]) -> None:
        if not text:
            return
        if self._body == "call":
            self._add_arguments(text, parts)
            return
        self._written.add(self._body)
        parts.append(Thought(0, text, 0) if self._body == "thought" else text)

    def _end_body(self, parts: list[Part]) -> None:
        if self._body == "call":
            self._complete_call(parts)
        self._body = ""


class ChannelStream(TextStream):
    """A stream of messages with headers (harmony): the stop strings of a client end its answer.

    They are neither looked for in headers nor in thoughts and calls; those of the model
    (``always``) are. The text ``lead`` before the first token is not returned.
    """

    def __init__(self, stops: Sequence[str], always: Sequence[str], lead: str) -> None:
        super().__init__(stops)
        self._always = tuple(always)
        self._body: Literal["", "text", "other"] = ""  # empty in a header
        self._unseen = 0
        self._unseen = len(lead) - len(self._take(lead))

    def _take(self, text: str) -> str:
        if self.stopped is not None:
            self.remainder += text
            return ""
        self._held += text
        shown = ""
        while (part := self._take_part()) is not None:
            shown += part
            if self.stopped is not None:
                break
        unseen, self._unseen = self._unseen, max(0, self._unseen - len(shown))
        return shown[unseen:]

    def _take_part(self) -> str | None:
        """Return the next text that is certain; None if more is needed."""
        if not self._body:
            header, end, rest = self._held.partition(_HEADER_END)
            if end:
                is_other = _RECIPIENT.search(header) or "analysis" in _CHANNEL.findall(header)
                self._body, self._held = "other" if is_other else "text", rest
                return header + end
            if _may_be_header(header):
                return None
            self._body = "text"
        stops = (*(self._stops if self._body == "text" else ()), *self._always)
        found = first_stop(self._held, (*stops, *_BODY_ENDS))
        if found is None:
            keep = held_back(self._held, (*stops, *_BODY_ENDS))
            at = len(self._held) - keep
            part, self._held = self._held[:at], self._held[at:]
            return part or None
        at, stop = found
        if stop in stops:
            self.stopped, self.remainder = stop, self._held[at + len(stop) :]
            part, self._held = self._held[:at], ""
            return part
        self._body = ""
        at += 0 if stop in _HEADER_BEGINS else len(stop)
        part, self._held = self._held[:at], self._held[at:]
        return part


def _may_be_header(text: str) -> bool:
    """Return whether a text without the end of a header can be the begin of one."""
    begun = text.lstrip(SPACE)
    is_header = any(begun.startswith(each[: len(begun)]) for each in ("<|", "to=", "assistant"))
    return not begun or (is_header and len(begun) <= _MOST_HEADER_CHARACTERS)


def _join(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str):
            if isinstance(last, str):
                joined[-1] = last + part
            elif part:
                joined.append(part)
        elif isinstance(part, Thought):
            joined.append(part)
        elif isinstance(last, ToolCall) and last.index == part.index and not part.name:
            joined[-1] = replace(last, arguments=last.arguments + part.arguments)
        else:
            joined.append(part)
    return joined


def separate_calls(events: Iterable[Event], output: Output) -> Iterator[Event]:
    """Yield the events of one answer, with calls of tools in ``ToolCall`` events.

    An ``Answer`` event keeps its tokens, and has the text that belongs to no call. Where a message
    of the answer is a thought, its tokens and its text are in ``Thought`` events.
    """
    parser = create_parser(output)
    shown, thought, thought_tokens = "", "", 0
    at_ns, thinking_end_ns = 0, 0
    for event in events:
        tokens, parts = 0, list[Part]()
        if isinstance(event, Answer):
            thinking = parser.thinking
            at_ns, tokens, parts = event.t_ns, event.tokens, parser.push(event.text)
            thinking = thinking or parser.thinking  # the token that ends a thought is a part of it
            if thinking and tokens:
                thinking_end_ns = at_ns
        elif isinstance(event, Finished):
            thinking, parts = False, parser.finish()
        text = "".join(part for part in parts if isinstance(part, str))
        more = "".join(part.text for part in parts if isinstance(part, Thought))
        shown, thought = shown + text, thought + more
        if more or (tokens and thinking):
            thought_tokens += tokens
            yield Thought(at_ns, more, tokens)
            tokens = 0
        if text or tokens:
            yield Answer(at_ns, text, tokens)
        for part in parts:
            if isinstance(part, ToolCall):
                yield replace(part, t_ns=at_ns)
        if isinstance(event, Finished):
            if output.call_lead is not None:  # headers are no part of the answer
                event = replace(event, answer=shown.strip())
            if thought_tokens:
                event = replace(
                    event,
                    thinking="\n\n".join(filter(None, (event.thinking, thought.strip()))),
                    thinking_tokens=event.thinking_tokens + thought_tokens,
                    thinking_end_ns=max(event.thinking_end_ns, thinking_end_ns),
                )
            if calls := parser.document():
                event = replace(event, answer=shown.strip(), tool_calls=calls)
        if not isinstance(event, Answer):
            yield event


def read_calls(text: str, output: Output) -> tuple[str, str, str]:
    """Separate a whole answer into its text, its calls (a JSON array or empty) and its thoughts."""
    if not output.tool_format:
        return text, "", ""
    parser = create_parser(output)
    parts = [*parser.push(text), *parser.finish()]
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    return "".join(part for part in parts if isinstance(part, str)), parser.document(), thought


def create_parser(output: Output) -> CallParser:
    """Create the parser of an answer."""
    if output.tool_format == "harmony":
        channels = ChannelParser(output.most_calls)
        channels.push(output.call_lead or "")
        return channels
    types: ParameterTypes = {}
    if output.tool_format == "xml":
        schemas = {each.name: json.loads(each.parameters) for each in read_tools(output.tools)}
        types = {
            name: {
                key: read_types(each)
                for key, each in (schema.get("properties") or {}).items()
                if isinstance(each, dict)
            }
            for name, schema in schemas.items()
        }
    return ToolCallParser(
        output.tool_format, output.tool_names, most=output.most_calls, types=types
    )
