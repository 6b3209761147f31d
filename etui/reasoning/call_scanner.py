"""Read one call of a tool, a JSON object, character by character, as it is decoded."""

from __future__ import annotations

import json
from typing import Literal

_SPACE = " \t\r\n"
_ARGUMENTS = ("arguments", "parameters")
_VALUES = "{[-0123456789tfn"
"""What a value that is no text begins with."""

_KEYS = ("name", "type", "id", *_ARGUMENTS)

State = Literal["open", "key", "colon", "value", "text", "nested", "scalar", "next", "done", "bad"]


class CallScanner:
    """Finds the name and the arguments of ``{"name": ..., "arguments": {...}}``.

    Arguments are passed on as they come, once the name is known. What comes in another order is
    kept until then; other keys are skipped. It checks no more of the arguments than where they end:
    whether they are what the tool expects is for its caller to find out.

    Attributes:
        state: ``done`` behind the object's closing brace, ``bad`` after what is no call.
        name: Name of the tool; None until its text has ended.
        raw: All characters so far.
        foreign: Whether it has a key that calls do not have.
    """

    def __init__(self) -> None:
        self.state: State = "open"
        self.name: str | None = None
        self.raw = ""
        self.foreign = False
        self._key = ""
        self._value = ""
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._kept = ""  # arguments before the name is known
        self._streaming = False  # whether the value is passed on as it comes
        self._seen: set[str] = set()

    @property
    def started(self) -> bool:
        """Whether the arguments of a named tool have begun, so that it is a call for certain."""
        return self.name is not None and bool(self._seen.intersection(_ARGUMENTS))

    def rest(self) -> str:
        """Return the arguments that were kept until they would have ended."""
        cut = self.state in ("scalar", "text") and self._key in _ARGUMENTS
        return self._value if cut and not "null".startswith(self._value) else ""

    def feed(self, char: str) -> str:
        """Take the next character and return the arguments that it adds."""
        self.raw += char
        match self.state:
            case "open":
                self._expect(char, {"{": "key"})
            case "key":
                self._take_key(char)
            case "colon":
                self._expect(char, {":": "value"})
            case "value":
                return self._begin_value(char)
            case "text":
                return self._take_text(char)
            case "nested":
                return self._take_nested(char)
            case "scalar":
                return self._take_scalar(char)
            case "next":
                self._expect(char, {",": "key", "}": "done"})
            case _:
                raise ValueError("the call has ended")
        return ""

    def _expect(self, char: str, following: dict[str, State]) -> None:
        if char not in _SPACE:
            self.state = following.get(char, "bad")

    def _take_key(self, char: str) -> None:
        if not self._quoted:
            if char == '"':
                self._quoted, self._value = True, char
            elif char == "}" and not self._seen:
                self.state = "done"
            elif char not in _SPACE:
                self.state = "bad"
            return
        self._value += char
        if self._end_of_text(char):
            key = _read_text(self._value)
            if key is None or key in self._seen:
                self.state = "bad"
                return
            self._key = key
            self.foreign = self.foreign or key not in _KEYS
            self.state = "colon"

    def _end_of_text(self, char: str) -> bool:
        """Follow the escapes of a quoted text; return whether this character ends it."""
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
            return True
        return False

    def _begin_value(self, char: str) -> str:
        if char in _SPACE:
            return ""
        named = self._key == "name"
        if char != '"' and (named or char not in _VALUES):
            self.state = "bad"
            return ""
        self._seen.add(self._key)
        self._value = char
        if char == '"':
            self._quoted = True
            self.state = "text"
        elif char in "{[":
            self._depth = 1
            self.state = "nested"
            return self._pass(char)
        else:
            self.state = "scalar"
        return ""

    def _take_text(self, char: str) -> str:
        self._value += char
        if not self._end_of_text(char):
            return ""
        self.state = "next"
        text = _read_text(self._value)
        if not text and self._key == "name":
            self.state = "bad"
        elif text is None:  # it has an escape that JSON does not know
            return self._pass(self._value)
        elif self._key == "name":
            self.name = text
            kept, self._kept = self._kept, ""
            return kept
        elif self._key in _ARGUMENTS:  # JSON in a text
            return self._pass(text)
        return ""

    def _take_nested(self, char: str) -> str:
        if self._quoted:
            self._end_of_text(char)
        elif char == '"':
            self._quoted = True
        elif char == "<":  # a tag, since it is no JSON outside of a text
            self.state = "bad"
            return ""
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self.state = "next"
        return self._pass(char)

    def _take_scalar(self, char: str) -> str:
        if char not in ",}" and char not in _SPACE:
            self._value += char
            return ""
        self.state = "next"
        arguments = "" if self._value == "null" else self._value
        added = self._pass(arguments) if self._key in _ARGUMENTS else ""
        self._expect(char, {",": "key", "}": "done"})
        return added

    def _pass(self, text: str) -> str:
        if self._key not in _ARGUMENTS:
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
