"""Read the body of one call of a tool, character by character, in each form that models write."""

from __future__ import annotations

import ast
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, Literal

SPACE = " \t\r\n"

_ARGUMENTS = ("arguments", "parameters")

_VALUES = "{[-0123456789tfn"
"""What a value that is no text begins with."""

_KEYS = ("name", "type", "id", *_ARGUMENTS)


class NoCallError(Exception):
    """What was read is no call."""


class CallReader(ABC):
    """Reads the body of one call, behind its tag.

    Arguments are passed on as they come, once the name is known; what is no JSON is, as JSON, once
    a whole argument is there. No reader checks more of the arguments than where they end.

    Attributes:
        state: ``done`` behind the end of the call, ``bad`` after what is no call.
        foreign: Whether it has a key that calls do not have.
        rest: Arguments that are passed on at their end only, as far as they have come.
    """

    def __init__(self) -> None:
        self.state: Literal["open", "inside", "done", "bad"] = "open"
        self.name: str | None = None
        self.raw = ""
        self.foreign = False
        self.rest = ""
        self._reading = self._read()
        next(self._reading)

    @property
    def started(self) -> bool:
        """Whether this is a call for certain."""
        return self.name is not None and self.state == "done"

    def feed(self, char: str) -> str:
        """Take the next character and return the arguments that it adds."""
        self.raw += char
        try:
            added = self._reading.send(char)
        except StopIteration as end:
            self.state, added = "done", end.value
        except NoCallError:
            self.state, added = "bad", ""
        else:
            self.state = "inside" if self.raw.strip(SPACE) else "open"
        return added

    @abstractmethod
    def _read(self) -> Generator[str, str, str]:
        """Take characters, and yield the arguments that the last one added; return the last."""

    def _read_until(self, end: str, added: str = "") -> Generator[str, str, str]:
        text = ""
        while not text.endswith(end):
            text += yield added
            added = ""
        return text.removesuffix(end)

    def _read_head(self, end: str, pattern: re.Pattern[str]) -> Generator[str, str, None]:
        """Read what comes before the arguments, and the name of the tool in it."""
        head = ""
        while (char := (yield "")) != end:
            head += char
            if len(head) > _MOST_HEAD_CHARACTERS:
                raise NoCallError
        found = pattern.fullmatch(head)
        if found is None:
            raise NoCallError
        self.name = found["name"]


_MOST_HEAD_CHARACTERS = 300


class ObjectReader(CallReader):
    """Finds the name and the arguments of ``{"name": ..., "arguments": {...}}``.

    What comes in another order is kept until the name is known; other keys are skipped.
    """

    def __init__(self) -> None:
        self._kept = ""  # arguments before the name is known
        self._seen: set[str] = set()
        super().__init__()

    @property
    def started(self) -> bool:
        """Whether the arguments of a named tool have begun."""
        return self.name is not None and bool(self._seen.intersection(_ARGUMENTS))

    def _read(self) -> Generator[str, str, str]:
        if (yield from self._skip_space("")) != "{":
            raise NoCallError
        added, end = "", ","
        while end == ",":
            char = yield from self._skip_space(added)
            if char == "}" and not self._seen:
                return ""
            key = _read_text((yield from self._read_quoted(""))) if char == '"' else None
            if key is None or key in self._seen:
                raise NoCallError
            self.foreign = self.foreign or key not in _KEYS
            if (yield from self._skip_space("")) != ":":
                raise NoCallError
            added, end = yield from self._read_value(key)
        if end != "}":
            raise NoCallError
        return added

    def _skip_space(self, added: str) -> Generator[str, str, str]:
        char = yield added
        while char in SPACE:
            char = yield ""
        return char

    def _read_quoted(self, key: str) -> Generator[str, str, str]:
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
            raise NoCallError
        self._seen.add(key)
        if char == '"':
            added = self._take_text(key, (yield from self._read_quoted(key)))
        elif char in "{[":
            added = yield from _read_nested(char, partial(self._pass, key))
        else:
            return (yield from self._read_scalar(key, char))
        return "", (yield from self._skip_space(added))

    def _take_text(self, key: str, quoted: str) -> str:
        text = _read_text(quoted)
        if key != "name":  # JSON in a text, or an escape that JSON does not know
            return self._pass(key, quoted if text is None else text)
        if not text:
            raise NoCallError
        self.name = text
        kept, self._kept = self._kept, ""
        return kept

    def _read_scalar(self, key: str, value: str) -> Generator[str, str, tuple[str, str]]:
        while True:
            self.rest = value if key in _ARGUMENTS and not "null".startswith(value) else ""
            char = yield ""
            if char in ",}" or char in SPACE:
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


def _read_nested(char: str, pass_on: Callable[[str], str] = str) -> Generator[str, str, str]:
    depth, quoted, escaped = 1, False, False
    while True:
        char = yield pass_on(char)
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == "<":  # a tag, since it is no JSON outside of a text
            raise NoCallError
        else:
            quoted = char == '"'
            depth += (char in "{[") - (char in "}]")
            if depth == 0:
                return pass_on(char)


class NamedReader(CallReader):
    """Reads a name between tags, and an object of arguments: ``name[ARGS]{...}``."""

    def __init__(self, head: re.Pattern[str]) -> None:
        self._head = head
        super().__init__()

    @property
    def started(self) -> bool:
        """Whether the arguments of a named tool have begun."""
        return self.name is not None

    def _read(self) -> Generator[str, str, str]:
        yield from self._read_head("{", self._head)
        return (yield from _read_nested("{"))


MISTRAL_HEAD = re.compile(r"\s*(?P<name>[^\s\[\]{}]+)\s*(\[CALL_ID\]\s*\w+\s*)?\[ARGS\]\s*")
DEEPSEEK_HEAD = re.compile(
    r"\s*(<｜tool▁call▁begin｜>)?\s*(function<｜tool▁sep｜>)?(?P<name>[^\s<>{}｜]+)\s*"
    r"(<｜tool▁sep｜>)?\s*(```json)?\s*"
)


ParameterTypes = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Tool -> parameter -> its types, as its schema names them."""


class MarkupReader(CallReader):
    """Reads a function with parameters as elements: ``<function=name><parameter=key>value``.

    A value is a text or JSON by the types of the parameters.
    """

    def __init__(self, types: ParameterTypes) -> None:
        self._types = types
        self._begun = False
        super().__init__()

    @property
    def started(self) -> bool:
        """Whether an argument of a named tool is complete."""
        return self._begun or self.state == "done"

    def _read(self) -> Generator[str, str, str]:
        yield from self._read_head(">", re.compile(r"\s*<function=\s*(?P<name>[^\s<>]+)\s*"))
        types = self._types.get(self.name or "", {})
        added, separator = "", "{"
        while True:
            tag = (yield from self._read_until(">", added)).strip(SPACE)
            if tag == "</function":
                return "}" if separator == ", " else "{}"
            if not tag.startswith("<parameter="):
                raise NoCallError
            key = tag.removeprefix("<parameter=").strip(SPACE)
            value = yield from self._read_until("</parameter>")
            value = _as_json(value.removeprefix("\n").removesuffix("\n"), types.get(key, ()))
            self._begun = True
            added = f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}"
            separator = ", "


def _as_json(text: str, types: tuple[str, ...]) -> str:
    """Return a value that is written without quotes as JSON: a text, unless its type says other."""
    value = _parse_json(text.strip(SPACE))
    kind = next((name for kind, name in _KINDS if isinstance(value, kind)), "null")
    is_text = value is _NOTHING or kind == "string"
    if not is_text and "string" in types:
        is_text = kind not in types and not (kind == "integer" and "number" in types)
    elif not is_text and not types:
        is_text = kind not in ("object", "array")
    return json.dumps(text, ensure_ascii=False) if is_text else text.strip(SPACE)


_NOTHING = object()
_KINDS = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING


class PythonReader(CallReader):
    """Reads a call as Python writes it: ``name(key="text", other=[1, 2])``."""

    def _read(self) -> Generator[str, str, str]:
        yield from self._read_head("(", re.compile(r"\s*(?P<name>[^\s()\[\]{},'\"]+)\s*"))
        values: dict[str, Any] = {}
        text, depth, quote, escaped = "", 1, "", False
        while depth:
            char = yield ""
            if quote:
                quote = quote if escaped or char != quote else ""
                escaped = char == "\\" and not escaped
            elif char in "'\"":
                quote = char
            else:
                depth += (char in "([{") - (char in ")]}")
                if depth == 0 or (depth == 1 and char == ","):
                    if text.strip(SPACE) or values or depth:
                        _add_argument(text, values)
                    text = ""
                    continue
            text += char
        return json.dumps(values, ensure_ascii=False)


def _add_argument(text: str, values: dict[str, Any]) -> None:
    """Add ``key=value`` to the arguments; nothing of it is run."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip(SPACE):
        raise NoCallError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            node = ast.parse(value.strip(SPACE), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoCallError from None
    values[key.strip(SPACE)] = _read_literal(node)


_NAMES = {"true": True, "false": False, "null": None}


def _read_literal(node: ast.expr, depth: int = 0) -> Any:
    """Return the value of a literal; JSON's names count too, and nothing is run."""
    if depth > _MOST_DEPTH:
        raise NoCallError
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read_literal(each, depth + 1) for each in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {
                str(_read_literal(key, depth + 1)): _read_literal(value, depth + 1)
                for key, value in pairs
                if key is not None
            }
    raise NoCallError


_MOST_DEPTH = 64


class BareReader(CallReader):
    """Reads a call with bare keys and texts between tokens: ``call:name{key:<|"|>text<|"|>}``."""

    def __init__(self, quote: str) -> None:
        self._quote = quote
        super().__init__()

    def _read(self) -> Generator[str, str, str]:
        yield from self._read_head("{", re.compile(r"\s*call:\s*(?P<name>[^\s{}]+)\s*"))
        text, depth, quoted = "{", 1, False
        while depth:
            char = yield ""
            text += char
            if text.endswith(self._quote):
                quoted = not quoted
            elif not quoted:
                depth += (char in "{[") - (char in "}]")
        parts = text.split(self._quote)
        for place, part in enumerate(parts):
            if place % 2:
                parts[place] = json.dumps(part, ensure_ascii=False)
            else:
                parts[place] = _BARE_KEY.sub(r'\1"\2":', part)
        found = "".join(parts)
        if _parse_json(found) is _NOTHING:
            raise NoCallError
        return found


_BARE_KEY = re.compile(r'([{,]\s*)([^\s"{}\[\],:]+)\s*:')
