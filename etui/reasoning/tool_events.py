"""Turn the text of an answer into text and calls of tools, event by event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from etui.engine.session import ToolFormat
from etui.engine.special_tokens import held_back
from etui.events import Answer, Event, Finished, ToolCall
from etui.reasoning.output import Output

_ARGUMENTS = ("arguments", "parameters")

_VALUES = "{[-0123456789tfn"
"""What a value that is no text begins with."""

_KEYS = ("name", "type", "id", *_ARGUMENTS)


class _NoCallError(Exception):
    """What was read is no call."""


class CallScanner:
    """Finds the name and the arguments of ``{"name": ..., "arguments": {...}}``.

    Arguments are passed on as they come, once the name is known. What comes in another order is
    kept until then; other keys are skipped. It checks no more of the arguments than where they end:
    whether they are what the tool expects is for its caller to find out.

    Attributes:
        state: ``done`` behind the object's closing brace, ``bad`` after what is no call.
        foreign: Whether it has a key that calls do not have.
        rest: Arguments that are passed on at their end only, as far as they have come.
    """

    def __init__(self) -> None:
        self.state: Literal["open", "inside", "done", "bad"] = "open"
        self.name: str | None = None
        self.raw = ""
        self.foreign = False
        self.rest = ""
        self._kept = ""  # arguments before the name is known
        self._seen: set[str] = set()
        self._reading = self._read_object()
        next(self._reading)

    @property
    def started(self) -> bool:
        """Whether the arguments of a named tool have begun, so that it is a call for certain."""
        return self.name is not None and bool(self._seen.intersection(_ARGUMENTS))

    def feed(self, char: str) -> str:
        """Take the next character and return the arguments that it adds."""
        self.raw += char
        try:
            added = self._reading.send(char)
        except StopIteration as end:
            self.state, added = "done", end.value
        except _NoCallError:
            self.state, added = "bad", ""
        else:
            self.state = "inside" if self.raw.strip(_SPACE) else "open"
        return added

    # Each part below takes characters, and yields the arguments that the last one added.

    def _read_object(self) -> Generator[str, str, str]:
        if (yield from self._skip_space("")) != "{":
            raise _NoCallError
        added, end = "", ","
        while end == ",":
            char = yield from self._skip_space(added)
            if char == "}" and not self._seen:
                return ""
            key = _read_text((yield from self._read_quoted(""))) if char == '"' else None
            if key is None or key in self._seen:
                raise _NoCallError
            self.foreign = self.foreign or key not in _KEYS
            if (yield from self._skip_space("")) != ":":
                raise _NoCallError
            added, end = yield from self._read_value(key)
        if end != "}":
            raise _NoCallError
        return added

    def _skip_space(self, added: str) -> Generator[str, str, str]:
        char = yield added
        while char in _SPACE:
            char = yield ""
        return char

    def _read_quoted(self, key: str) -> Generator[str, str, str]:
        """Read a text of JSON behind its opening quote; return it with its quotes."""
        text, escaped = '"', False
        while True:
            self.rest = text if key in _ARGUMENTS else ""
            char = yield ""
            text += char
            if char == '"' and not escaped:
                self.rest = ""
                return text
            escaped = char == "\\" and not escaped

    def _read_value(self, key: str) -> Generator[str, str, tuple[str, str]]:
        """Read a value; return what its last character adds, and the character behind it."""
        char = yield from self._skip_space("")
        if char != '"' and (key == "name" or char not in _VALUES):
            raise _NoCallError
        self._seen.add(key)
        if char == '"':
            added = self._take_text(key, (yield from self._read_quoted(key)))
        elif char in "{[":
            added = yield from self._read_nested(key, char)
        else:
            return (yield from self._read_scalar(key, char))
        return "", (yield from self._skip_space(added))

    def _take_text(self, key: str, quoted: str) -> str:
        text = _read_text(quoted)
        if key != "name":  # JSON in a text, or an escape that JSON does not know
            return self._pass(key, quoted if text is None else text)
        if not text:
            raise _NoCallError
        self.name = text
        kept, self._kept = self._kept, ""
        return kept

    def _read_nested(self, key: str, char: str) -> Generator[str, str, str]:
        depth, quoted, escaped = 1, False, False
        while True:
            char = yield self._pass(key, char)
            if quoted:
                quoted = escaped or char != '"'
                escaped = char == "\\" and not escaped
            elif char == "<":  # a tag, since it is no JSON outside of a text
                raise _NoCallError
            else:
                quoted = char == '"'
                depth += (char in "{[") - (char in "}]")
                if depth == 0:
                    return self._pass(key, char)

    def _read_scalar(self, key: str, value: str) -> Generator[str, str, tuple[str, str]]:
        while True:
            self.rest = value if key in _ARGUMENTS and not "null".startswith(value) else ""
            char = yield ""
            if char in ",}" or char in _SPACE:
                break
            value += char
        self.rest = ""
        added = self._pass(key, "" if value == "null" else value)
        return (added, char) if char in ",}" else ("", (yield from self._skip_space(added)))

    def _pass(self, key: str, text: str) -> str:
        if key not in _ARGUMENTS:
            return ""
        if self.name is None:
            self._kept += text
            return ""
        return text


def _read_text(quoted: str) -> str | None:
    try:
        text = json.loads(quoted, strict=False)
    except ValueError:
        return None
    return text if isinstance(text, str) else None


_SPACE = " \t\r\n"
_OPENING = {"hermes": "<tool_call>", "llama": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}
_CLOSING = "</tool_call>"
_BARE = ("hermes", "llama")  # an answer can begin with a call that has no tag
_ID_CHARACTERS = 9  # templates of Mistral refuse ids of another length


@dataclass(frozen=True, slots=True)
class CallPart:
    """A part of a call: its first one has the name, the others text of the arguments."""

    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: str = ""


Part = str | CallPart


def create_call_id() -> str:
    """Create an id of a call: nine letters and digits."""
    return uuid.uuid4().hex[:_ID_CHARACTERS]


class ToolCallParser:
    """Incremental parser of one answer.

    Args:
        names: Names of the tools. Where a call has no tags, an object with another name is text.
        most: Most calls; further ones are left out.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        names: Collection[str] = (),
        *,
        most: int = 128,
        create_id: Callable[[], str] = create_call_id,
    ) -> None:
        self._format = tool_format
        self._opening = _OPENING.get(tool_format, "")
        self._names = frozenset(names)
        self._most = most
        self._create_id = create_id
        self._mode: Literal["text", "call", "after"] = "text"
        self._held = ""  # text that may begin a tag, or space that may precede a call
        self._written = False  # whether there is text, so that no bare object is a call any more
        self._scanner = CallScanner()
        self._raw = ""  # what turns into text again if the call is none
        self._tail = ""  # after a call: what may end it
        self._in_list = False
        self._bare = False  # whether the call has no tag
        self._named = False  # whether the name of the call was passed on
        self._calls: list[_Call] = []

    def push(self, text: str) -> list[Part]:
        """Take decoded text and return the parts that are certain."""
        parts: list[Part] = []
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
        if rest.strip(_SPACE) or not self._calls:
            parts.append(rest)
        return _join(parts)

    def document(self) -> str:
        """Return the calls as a JSON array in the OpenAI form; empty without any."""
        if not self._calls:
            return ""
        return json.dumps(
            [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self._calls
            ],
            ensure_ascii=False,
        )

    def _take_text(self, char: str, parts: list[Part]) -> None:
        self._held += char
        if self._format in _BARE and not self._written:
            bare = self._held.strip(_SPACE + ";,") if self._calls else self._held.strip(_SPACE)
            if bare == "{":
                self._begin_call()
                self._take_call(char, parts)
                return
        if self._opening and self._held.endswith(self._opening):
            before = self._held[: -len(self._opening)]
            if before.strip(_SPACE):
                self._write(before.rstrip(_SPACE), parts)
            self._begin_call()
            return
        keep = held_back(self._held, (self._opening,)) if self._opening else 0
        sure = self._held[: len(self._held) - keep]
        if self._separates(sure):
            return
        shown = sure.rstrip(_SPACE)
        self._held = self._held[len(shown) :]
        self._write(shown, parts)

    def _separates(self, sure: str) -> bool:
        """Return whether a text could be what separates two calls, or precedes the first."""
        if self._format == "llama" and self._calls and not self._written:
            return not sure.strip(_SPACE + ";,")
        return not sure.strip(_SPACE)

    def _write(self, text: str, parts: list[Part]) -> None:
        if text:
            self._written = True
            parts.append(text)

    def _begin_call(self) -> None:
        self._mode = "call"
        self._raw, self._held = self._held, ""
        self._scanner = CallScanner()
        self._named = False
        self._in_list = False
        self._bare = self._raw.endswith("{")
        if self._bare:
            self._raw = self._raw[:-1]  # the scanner takes the brace

    def _take_call(self, char: str, parts: list[Part]) -> None:
        scanner = self._scanner
        if self._format == "mistral" and scanner.state == "open" and not self._in_list:
            self._raw += char
            if char == "[":
                self._in_list = True
            elif char not in _SPACE:
                self._fall_back("", parts)
            return
        self._add(scanner.feed(char), parts)
        if scanner.state == "done":
            self._close_call(parts)
        elif scanner.state == "bad":
            self._end_call(parts)
        elif not self._named and (scanner.started or (self._bare and scanner.foreign)):
            self._fall_back(scanner.raw, parts)

    def _add(self, arguments: str, parts: list[Part]) -> None:
        """Pass on the arguments, after the name if it was not yet."""
        scanner = self._scanner
        if scanner.started and not self._named and self._accepts():
            self._named = True
            self._calls.append(_Call(self._create_id(), scanner.name or ""))
            self._emit(scanner.name or "", "", parts)
        if arguments and self._named:
            self._calls[-1].arguments += arguments
            self._emit("", arguments, parts)

    def _accepts(self) -> bool:
        tagged = self._format != "llama" and not self._bare
        return tagged or self._scanner.name in self._names

    def _emit(self, name: str, arguments: str, parts: list[Part]) -> None:
        index = len(self._calls) - 1
        if index < self._most:
            parts.append(CallPart(index, self._calls[-1].call_id, name, arguments))

    def _close_call(self, parts: list[Part]) -> None:
        """End a complete object: a call, or text if it has no name."""
        scanner = self._scanner
        if not self._named and scanner.name is not None and self._accepts():
            self._named = True
            self._calls.append(_Call(self._create_id(), scanner.name))
            self._emit(scanner.name, "", parts)
        if not self._named:
            self._end_call(parts)
            return
        self._complete_call(parts)
        self._mode = "text" if self._format == "llama" or self._bare else "after"
        self._tail = self._held = ""

    def _complete_call(self, parts: list[Part]) -> None:
        """Give a call without arguments an empty object, and leave out what is too many."""
        if not self._calls[-1].arguments:
            self._calls[-1].arguments = "{}"
            self._emit("", "{}", parts)
        del self._calls[self._most :]

    def _end_call(self, parts: list[Part]) -> None:
        """End what is broken or broken off: a call if its arguments have begun, else text."""
        if not self._named:
            self._fall_back(self._scanner.raw, parts)
            return
        self._add(self._scanner.rest, parts)
        self._complete_call(parts)
        broken = self._scanner.state == "bad"
        self._mode, self._held = "after", ""
        self._tail = self._scanner.raw[-1] if broken else ""

    def _fall_back(self, raw: str, parts: list[Part]) -> None:
        self._mode, self._held = "text", ""
        self._write(self._raw + raw, parts)

    def _take_tail(self, char: str, parts: list[Part]) -> None:
        self._tail += char
        if self._format == "mistral":
            self._take_separator(parts)
        elif self._tail.endswith(_CLOSING):
            self._end_tail(parts)
        elif self._format == "hermes" and self._tail.endswith(self._opening):
            self._tail = self._tail.removesuffix(self._opening)
            self._end_tail(parts)
            self._held = self._opening
            self._begin_call()

    def _take_separator(self, parts: list[Part]) -> None:
        tail = self._tail.strip(_SPACE)
        if tail == ",":
            self._raw, self._scanner, self._named = self._tail, CallScanner(), False
            self._mode = "call"
        elif tail == "]":
            self._mode, self._held = "text", ""
        elif tail:
            self._end_tail(parts)

    def _end_tail(self, parts: list[Part]) -> None:
        """End what follows a call: drop its closing tag and spare braces, keep any other text."""
        rest = self._tail.removesuffix(_CLOSING) if self._format == "hermes" else self._tail
        self._mode, self._held, self._tail = "text", "", ""
        if rest.strip(_SPACE + "}]"):
            self._write(rest, parts)


def _join(parts: list[Part]) -> list[Part]:
    """Join neighbouring parts of one text, or of the arguments of one call."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str):
            if isinstance(last, str):
                joined[-1] = last + part
            elif part:
                joined.append(part)
        elif isinstance(last, CallPart) and last.index == part.index and not part.name:
            joined[-1] = CallPart(
                last.index, last.call_id, last.name, last.arguments + part.arguments
            )
        else:
            joined.append(part)
    return joined


def separate_calls(events: Iterable[Event], output: Output) -> Iterator[Event]:
    """Yield the events of one answer, with calls of tools in ``ToolCall`` events.

    An ``Answer`` event keeps its tokens, and has the text that belongs to no call.
    """
    parser = create_parser(output)
    shown = ""
    at_ns = 0
    for event in events:
        tokens, parts = 0, list[Part]()
        if isinstance(event, Answer):
            at_ns, tokens, parts = event.t_ns, event.tokens, parser.push(event.text)
        elif isinstance(event, Finished):
            parts = parser.finish()
        text = "".join(part for part in parts if isinstance(part, str))
        shown += text
        if text or tokens:
            yield Answer(at_ns, text, tokens)
        for part in parts:
            if not isinstance(part, str):
                yield ToolCall(at_ns, part.index, part.call_id, part.name, part.arguments)
        if isinstance(event, Finished) and (calls := parser.document()):
            yield replace(event, answer=shown.strip(), tool_calls=calls)
        elif not isinstance(event, Answer):
            yield event


def read_calls(text: str, output: Output) -> tuple[str, str]:
    """Separate a whole answer into its text and its calls, a JSON array or empty."""
    if not output.tool_format:
        return text, ""
    parser = create_parser(output)
    parts = [*parser.push(text), *parser.finish()]
    return "".join(part for part in parts if isinstance(part, str)), parser.document()


def create_parser(output: Output) -> ToolCallParser:
    """Create the parser of an answer."""
    return ToolCallParser(output.tool_format, output.tool_names, most=output.most_calls)
