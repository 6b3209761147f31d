"""Grammars of an answer: of a JSON schema, and of the calls of tools.

They are written for llguidance, in its dialect of Lark with JSON schemas inside. What a client
sends is checked first: its size, its keywords (llguidance ignores those that it does not know), and
that a finite text can match it; then it is tried (:mod:`etui.engine.grammar_trial`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui.engine.chat_formats import HARMONY, ToolFormat
from etui.engine.chat_prompt import NESTING, is_deep
from etui.engine.grammar_trial import SIMPLER, STATES, STEPS_A_TOKEN, GrammarTrial
from etui.engine.schema_rewrite import rewrite
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

SCHEMA_CHARACTERS = 65_536
DEPTH = 64
PARTS = 2_000

TOOLS_CHARACTERS = 262_144
TOOLS = 128
CALLS = 16
"""Most calls of one answer that the grammar allows."""

_OPTIONS = {"whitespace_pattern": r"[ ]|\n[ \t]{0,20}", "coerce_one_of": True}
_LEAD = r"lead: /\n{0,2}/"  # line breaks that a model writes between its thinking and the answer
_NOTE_NAMES = (
    "title description default example examples $schema $id $comment $anchor deprecated readOnly "
    "writeOnly $defs definitions contentMediaType contentEncoding discriminator"
)
_NOTES = frozenset(_NOTE_NAMES.split())
_PROPERTIES = {"properties", "additionalProperties", "patternProperties"}
_OF_TYPE = {
    "object": {*_PROPERTIES, "required", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
_LISTS = ("allOf", "anyOf", "oneOf")
_FANS = (*_LISTS, "prefixItems", "properties", "patternProperties")
_KNOWN = {"type", "enum", "const", "$ref", *_LISTS}.union(*_OF_TYPE.values())
_UNKEPT_NAMES = "not contains propertyNames uniqueItems $dynamicRef $recursiveRef disallow extends"
_UNKEPT = frozenset(_UNKEPT_NAMES.split())
"""Keywords that say what a text has to be, and that a grammar cannot keep in all their forms."""
_FORMAT_NAMES = "date time date-time duration email hostname ipv4 ipv6 uuid uri"
_FORMATS = frozenset(_FORMAT_NAMES.split())
_MOST = 10**16 - 1  # of an integer without limits, which a small model may never end
_CONTROL = re.compile(r"(?<!\\)((?:\\\\)*)\\c([A-Za-z])")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_PARAM = "tools"


def build_schema_grammar(
    text: str, *, param: str = "response_format", lead: bool = False
) -> OutputGrammar:
    """Build the grammar of the JSON texts that match a schema.

    Args:
        param: The part of the request that it comes from, for errors.
        lead: Allow line breaks before the JSON text, for an answer that follows thinking.

    Raises:
        InvalidRequest: It is no schema, or one that a grammar cannot keep.
    """
    trial = GrammarTrial()
    value = f"value: %json {_read_schema(text, param, trial)}"
    return _finish("lead value" if lead else "value", [value], param, trial)


def _finish(start: str, rules: Iterable[str], param: str, trial: GrammarTrial) -> OutputGrammar:
    text = "\n".join((f"start: {start}", _LEAD, *rules, ""))
    fault, _ = trial.find_fault(grammar=text)
    if fault:
        limits = f"{STEPS_A_TOKEN:,} steps a token, {STATES:,} states"
        what = f"the schemas of this request are too complex: {fault} (limits: {limits})"
        raise InvalidRequest(what, SIMPLER, param)
    return OutputGrammar(text, param)


def _read_schema(text: str, param: str, trial: GrammarTrial) -> str:
    """Return the schema that llguidance has to keep for that of a client."""
    if len(text) > SCHEMA_CHARACTERS:
        raise InvalidRequest(
            f"the JSON schema has {len(text)} characters, more than {SCHEMA_CHARACTERS}",
            "use a smaller schema",
            param,
        )
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_read_float)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is not JSON: {error}", "", param) from error
    if is_deep(document, 4 * DEPTH):
        raise InvalidRequest(
            f"the JSON schema is nested more than {DEPTH} levels deep",
            "use a flatter schema",
            param,
        )
    try:
        return _Reader(document, param, trial).read()
    except _SharedNames:
        return _Reader(document, param, trial, joins_patterns=True).read()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


class _SharedNames(Exception):
    """A name can match several patterns, which llguidance does not keep apart."""


class _Reader:
    """Reads a document as clients mean it, which is narrower than JSON Schema is.

    An object with ``properties`` has no others unless ``additionalProperties`` says so, and a value
    has the type that its keywords speak of. What a reference names moves into ``$defs``, once as an
    object of its own and once as a part of an object that is described in several places.
    """

    def __init__(
        self, document: Any, param: str, trial: GrammarTrial, *, joins_patterns: bool = False
    ) -> None:
        self._document = document
        self._trial = trial
        self._joins_patterns = joins_patterns
        self._param = param
        self._named: dict[tuple[str, bool], str] = {}
        self._defs: dict[str, Any] = {}
        self._patterns: set[str] = set()
        self._parts = 0

    def read(self) -> str:
        listed = (part.get(key) for part in _iter_parts([self._document]) for key in _FANS)
        if sum(len(each) for each in listed if isinstance(each, dict | list)) > 2 * PARTS:
            raise self._refuse(f"has more than {PARTS} parts")  # before they are multiplied
        root = self._read(self._document, 0, closed=True)
        if root is False:
            raise self._refuse("has a part that nothing matches (false)")
        whole = {} if root is True else root
        text = json.dumps({**whole, "$defs": self._defs, "x-guidance": _OPTIONS})
        fault, pattern = self._trial.find_fault(schema=text, patterns=sorted(self._patterns))
        if pattern:
            what = f"has the pattern {_short(pattern)}, which a grammar cannot express: {fault}"
            raise self._refuse(what, "use a simpler pattern")
        if "not disjoint" in fault and not self._joins_patterns:
            raise _SharedNames
        if fault:
            raise self._refuse(f"cannot be kept: {fault}", "leave it out, or use a simpler schema")
        if not _is_finite(root, _find_finite(self._defs)):
            raise self._refuse(
                "has a part that no finite JSON text matches",
                "a recursive property must not be required",
            )
        return text

    def _refuse(self, what: str, fix: str = "") -> InvalidRequest:
        return InvalidRequest(f"the JSON schema {what}", fix, self._param)

    def _read(self, schema: Any, depth: int, *, closed: bool) -> Any:
        """Read a part; ``closed`` if it describes an object alone."""
        self._parts += 1
        if depth > DEPTH:
            raise self._refuse(f"is nested more than {DEPTH} levels deep")
        if self._parts > PARTS:
            raise self._refuse(f"has more than {PARTS} parts")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise self._refuse(f"has {_short(schema)} where a schema belongs")
        own = self._read_keywords(schema)
        links = [key for key in ("$ref", *_LISTS) if key in own]
        several = len(links) > 1 or bool(links and _PROPERTIES & own.keys())
        several = several or (links == ["allOf"] and len(self._expect(own, "allOf", list)) > 1)
        if closed and "additionalProperties" not in own and (several or not links):
            own |= self._close(own)
        if "oneOf" in own and (several or not closed):
            own["oneOf"] = list(self._separate(own))
        for key in own.keys() & {"additionalProperties", "items"}:
            own[key] = self._read(own[key], depth + 1, closed=True)
        for key in own.keys() & {"properties", "patternProperties"}:
            parts = self._expect(own, key, dict).items()
            own[key] = {name: self._read(each, depth + 1, closed=True) for name, each in parts}
        for key in own.keys() & {"prefixItems", *_LISTS}:
            alone = key == "prefixItems" or (closed and not several)
            parts = self._expect(own, key, list)
            own[key] = [self._read(each, depth + 1, closed=alone) for each in parts]
        if "$ref" in own:
            own["$ref"] = self._refer(own["$ref"], depth, closed=closed and not several)
        return own

    def _read_keywords(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        try:
            own = rewrite({key: value for key, value in schema.items() if key not in _NOTES})
        except (AttributeError, TypeError, ValueError) as error:
            raise self._refuse("has a keyword with a value of another type") from error
        if "$dynamicRef" in own:  # kept where only one part has its name
            own["$ref"] = own.pop("$dynamicRef") if "$ref" not in own else own["$ref"]
        if extra := own.keys() & _UNKEPT:
            raise self._refuse(
                f"has {_short(min(extra))}, which etui cannot keep",
                "leave it out, and check the answer for it",
            )
        own = {key: value for key, value in own.items() if key in _KNOWN}  # others are notes
        if not own.keys() & {"type", "enum", "const", "$ref"}:
            own |= next(({"type": name} for name, of in _OF_TYPE.items() if of & own.keys()), {})
        if isinstance(own.get("items"), list):  # the form of older drafts
            own["prefixItems"] = own.pop("items")
        if "format" in own and own["format"] not in _FORMATS:
            del own["format"]
        if own.get("type") == "integer" and not own.keys() & _OF_TYPE["number"] - {"minimum"}:
            own = {"minimum": -_MOST, "maximum": _MOST, **own}
        if isinstance(own.get("pattern"), str):
            own["pattern"] = _read_pattern(own["pattern"])
            self._patterns.add(own["pattern"])
        named = self._expect(own, "patternProperties", dict)
        if named:
            own["patternProperties"] = {_read_pattern(each): named[each] for each in named}
        if len(named) > 1 and self._joins_patterns:  # each value then matches all of them
            joined = "|".join(f"({each})" for each in own["patternProperties"])
            own["patternProperties"] = {joined: {"allOf": list(named.values())}}
        self._patterns.update(own.get("patternProperties", ()))
        return own

    def _expect(self, own: Mapping[str, Any], key: str, kind: type) -> Any:
        value = own.get(key, kind())
        if not isinstance(value, kind):
            name = "an object" if kind is dict else "a list"
            raise self._refuse(f"has {_short(key)} that is not {name}")
        return value

    def _close(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return keywords that leave an object the properties that its description names."""
        parts = list(self._walk(own, set()))
        described = any(self._describe(part) is not None for part in parts)
        if not described or any(part.get("additionalProperties") for part in parts):
            return {}
        required = [name for name in self._expect(own, "required", list) if isinstance(name, str)]
        named = (name for part in parts for name in self._describe(part) or ())
        properties = dict.fromkeys((*named, *required), True)
        return {
            "properties": {**properties, **own.get("properties", {})},
            "additionalProperties": False,
        }

    def _describe(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the properties that a part describes; None if it only excludes some."""
        given: dict[str, Any] = self._expect(part, "properties", dict)
        named = {name: each for name, each in given.items() if each is not False}
        return named if named or ("properties" in part and not given) else None

    def _separate(self, own: Mapping[str, Any]) -> Iterator[Any]:
        """Yield alternatives without the properties that only another one describes."""
        given = self._expect(own, "oneOf", list)
        names = [
            {name for part in self._walk(each, set()) for name in self._describe(part) or ()}
            for each in given
        ]
        for each, known in zip(given, names, strict=True):
            others = set[str]().union(*names) - known
            barred = {"properties": dict.fromkeys(sorted(others), False)}
            yield {"allOf": [each, barred]} if others else each

    def _walk(self, part: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
        """Yield the parts of a description: itself, what it refers to, and its alternatives."""
        if not isinstance(part, dict):
            return
        yield part
        name = part.get("$ref")
        if isinstance(name, str) and name.startswith("#") and name not in seen:
            seen.add(name)
            yield from self._walk(self._find(name), seen)
        for key in _LISTS:
            for each in self._expect(part, key, list):
                yield from self._walk(each, seen)

    def _refer(self, name: Any, depth: int, *, closed: bool) -> str:
        if not isinstance(name, str) or not name.startswith("#"):
            raise self._refuse(
                f"refers to {_short(name)}, outside of itself",
                "put the schema into $defs and refer to it as #/$defs/NAME",
            )
        if (name, closed) not in self._named:
            own = self._named[name, closed] = f"r{len(self._named)}"
            self._defs[own] = self._read(self._find(name), depth + 1, closed=closed)
        return f"#/$defs/{self._named[name, closed]}"

    def _find(self, name: str) -> Any:
        target = self._document
        if name[1:2] not in ("", "/"):
            keys = ("$anchor", "$dynamicAnchor")
            named = [each for each in _iter_parts(target) if name[1:] in map(each.get, keys)]
            if len(named) == 1:
                return named[0]
            raise self._refuse(f"refers to {_short(name)}, which it does not have once")
        for part in name.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key[:6]) < len(target):
                target = target[int(key[:6])]
            else:
                raise self._refuse(f"refers to {_short(name)}, which it does not have")
        return target


def _iter_parts(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a document."""
    if isinstance(document, dict):
        yield document
    for each in document.values() if isinstance(document, dict) else document:
        if isinstance(each, dict | list):
            yield from _iter_parts(each)


def _read_pattern(pattern: str) -> str:
    """Write the control characters of a pattern as other engines do."""
    return _CONTROL.sub(lambda found: f"{found[1]}\\x{ord(found[2].upper()) - 64:02x}", pattern)


def _find_finite(defs: Mapping[str, Any]) -> set[str]:
    """Find the names that a finite text can match, by repeating until nothing is added."""
    finite: set[str] = set()
    while added := {n for n in defs.keys() - finite if _is_finite(defs[n], finite)}:
        finite |= added
    return finite


def _is_finite(part: Any, finite: set[str]) -> bool:
    """Return whether a finite text can match a part, if it can match what ``finite`` names."""
    if not isinstance(part, dict):
        return bool(part)
    if "$ref" in part and part["$ref"].removeprefix("#/$defs/") not in finite:
        return False
    if not all(_is_finite(each, finite) for each in part.get("allOf", ())):
        return False
    for key in ("anyOf", "oneOf"):
        if key in part and not any(_is_finite(each, finite) for each in part[key]):
            return False
    if part.get("type") == "object":
        properties = part.get("properties", {})
        return all(_is_finite(properties.get(n, True), finite) for n in part.get("required", ()))
    if part.get("type") == "array":
        prefix = part.get("prefixItems", [])
        needed = [*prefix, part.get("items", True)][: int(part.get("minItems", 0))]
        return all(_is_finite(each, finite) for each in needed)
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call."""

    name: str
    parameters: str  # JSON schema of its arguments, as JSON text


def read_tools(text: str) -> tuple[Tool, ...]:
    """Read the tools of a request, a JSON array in the OpenAI form.

    InvalidRequest if they are not in this form, or too many, too large or too deep.
    """
    if len(text) > TOOLS_CHARACTERS:
        raise _refuse(f"the tools have {len(text)} characters, more than {TOOLS_CHARACTERS}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the tools are not JSON: {error}") from error
    if not isinstance(document, list) or not document:
        raise _refuse("the tools are not a list with at least one tool")
    if len(document) > TOOLS:
        raise _refuse(f"there are {len(document)} tools, more than {TOOLS}")
    if is_deep(document):
        raise _refuse(f"the tools are nested more than {NESTING} levels deep")
    tools = tuple(_read_tool(each) for each in document)
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise _refuse(f"two tools are called {name!r}")
    return tools


def _read_tool(document: Any) -> Tool:
    function = document.get("function") if isinstance(document, dict) else None
    if not isinstance(function, dict) or document.get("type", "function") != "function":
        raise _refuse("a tool is not an object with `type: function` and a `function`")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refuse(
            "a tool has no name of 1 to 128 letters, digits, underscores, dots and hyphens"
        )
    if not isinstance(function.get("description"), str | None):
        raise _refuse(f"the description of the tool {name!r} is not a text")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise _refuse(f"the parameters of the tool {name!r} are not a JSON schema")
    return Tool(name, json.dumps(parameters))


def choose_tools(tools: Sequence[Tool], choice: str) -> tuple[Tool, ...]:
    """Return the tools that a ``tool_choice`` leaves; InvalidRequest if it names none of them."""
    if choice in ("auto", "required"):
        return tuple(tools)
    kind, _, name = choice.partition(":")
    found = tuple(tool for tool in tools if tool.name == name)
    if kind != "function" or not found:
        raise InvalidRequest(
            f"tool_choice {choice[:80]!r} is not auto, none, required or a tool of the request",
            "name one of the tools",
            "tool_choice",
        )
    return found


def build_tool_grammar(
    tools: Sequence[Tool],
    tool_format: ToolFormat,
    *,
    parallel: bool,
    lead: bool = False,
    schema: str = "",
    free: bool = False,
) -> OutputGrammar:
    """Build the grammar of an answer that calls at least one of these tools, and writes no text.

    Args:
        lead: Allow line breaks before the first call, for an answer that follows thinking.
        schema: JSON schema of the text that may be written instead of a call; empty for none.
        free: Allow any text before the first call, or instead of one. Only a call between tags is
            seen as one.

    Raises:
        InvalidRequest: The parameters of a tool are no schema, or one that a grammar cannot keep.
    """
    trial = GrammarTrial()
    rules = [_list_calls("call", len(tools))]
    head, tail = _CALL[tool_format]
    tag = _TAGS.get(tool_format, "") if free else ""
    if free and not tag:
        raise _refuse(f"calls of the form {tool_format} cannot be kept to a schema within text")
    if tag:
        rules += [
            _list_calls("first", len(tools)),
            f"TEXT: /(?s:.*)/ & ~/(?s:.*{re.escape(tag)}.*)/",
            f"before[suffix={_json_text(tag)}]: /(?s:.*)/",
        ]
    for index, tool in enumerate(tools):
        name = tool.name if tool_format in _BARE_NAMES else _json_text(tool.name)
        kept = _read_schema(tool.parameters, _PARAM, trial)  # refuses what no grammar can keep
        if tool_format in _BY_ARGUMENT:
            arguments = _Arguments(tool_format, index, json.loads(tool.parameters), trial)
            rules += [f"args{index}: {arguments.body}", *arguments.rules]
        else:
            rules.append(f"args{index}: %json {kept}")
        begin = _json_text(head.replace("NAME", name))
        end = f" {_json_text(tail)}" if tail else ""
        rules.append(f"call{index}: {begin} args{index}{end}")
        if tag:
            begin = _json_text(head.removeprefix(tag).replace("NAME", name))
            rules.append(f"first{index}: {begin} args{index}{end}")
    before, separator, after = _AROUND.get(tool_format, ("", None, ""))
    body = "first" if tag else "call"
    if parallel and separator is not None:
        gap = f"{_json_text(separator)} " if separator else ""
        body += f" ({gap}call){{0,{CALLS - 1}}}"
    if tag:
        body = f"TEXT | before {body}"
    body = " ".join(part for part in (before, body, after) if part)
    if schema:
        rules.append(f"whole: %json {_read_schema(schema, 'response_format', trial)}")
        body = f"({body} | whole)"
    rules += _value_rules(tool_format)
    return _finish(f"lead {body}" if lead else body, rules, _PARAM, trial)


def _list_calls(rule: str, count: int) -> str:
    return f"{rule}: {' | '.join(f'{rule}{index}' for index in range(count))}"


CALL_LEAD = f"{HARMONY.empty.partition('final')[0]}commentary to=functions."
"""Begin of the header of a call where calls are messages of their own; the grammar goes on."""

_OBJECT = '{"name": NAME, "arguments": '
_CALL: Mapping[ToolFormat, tuple[str, str]] = {
    "hermes": (f"<tool_call>\n{_OBJECT}", "}\n</tool_call>"),
    "llama": (_OBJECT.replace("arguments", "parameters"), "}"),
    "mistral": (_OBJECT, "}"),
    "mistral-args": ("[TOOL_CALLS]NAME[ARGS]", ""),
    "granite": (_OBJECT, "}"),
    "apriel": (_OBJECT, "}"),
    "xml": ("<tool_call>\n<function=NAME>\n", "</function>\n</tool_call>"),
    "deepseek": ("<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    "deepseek-json": (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
        "\n```<｜tool▁call▁end｜>",
    ),
    "lfm2": ("NAME(", ")"),
    "gemma": ("<|tool_call>call:NAME{", "}<tool_call|>"),
    "functiongemma": ("<start_function_call>call:NAME{", "}<end_function_call>"),
    "harmony": ("NAME <|constrain|>json<|message|>", ""),
}
"""Texts before and behind the arguments of a call."""

_TAGS: Mapping[ToolFormat, str] = {
    "hermes": "<tool_call>",
    "xml": "<tool_call>",
    "gemma": "<|tool_call>",
    "functiongemma": "<start_function_call>",
}
"""Begin of each call, in formats that have nothing around several of them."""

_AROUND: Mapping[ToolFormat, tuple[str, str, str]] = {
    "hermes": ("", "\n", ""),
    "mistral": ('"[TOOL_CALLS]" " "? "["', ", ", '"]"'),
    "mistral-args": ("", "", ""),
    "granite": ('"<|tool_call|>["', ", ", '"]"'),
    "apriel": ('"<tool_calls>["', ", ", '"]</tool_calls>"'),
    "xml": ("", "\n", ""),
    "deepseek": ('"<｜tool▁calls▁begin｜>"', "", '"<｜tool▁calls▁end｜>"'),
    "deepseek-json": ('"<｜tool▁calls▁begin｜>"', "\n", '"<｜tool▁calls▁end｜>"'),
    "lfm2": ('"<|tool_call_start|>["', ", ", '"]<|tool_call_end|>"'),
    "gemma": ("", "", ""),
    "functiongemma": ("", "", ""),
}
"""Rules before the calls, the text between two of them, and the rules behind; one call only where
a format has none."""

_BARE_NAMES = frozenset(_CALL) - {"hermes", "llama", "mistral", "granite", "apriel"}
_BY_ARGUMENT = ("xml", "lfm2", "gemma", "functiongemma")
"""Formats that write no JSON object of arguments."""

_QUOTES: Mapping[ToolFormat, str] = {"gemma": '<|"|>', "functiongemma": "<escape>"}
"""Tokens around texts, in formats whose keys are bare."""


def _value_rules(tool_format: ToolFormat) -> tuple[str, ...]:
    """Return the rules of values that are no JSON."""
    if tool_format == "xml":
        return (r'xmltext[suffix="\n</parameter>\n"]: /(?s:.*)/',)
    if tool_format not in _QUOTES:
        return ()
    quote = _json_text(_QUOTES[tool_format])
    return (
        'value: object | list | text | number | boolean | "null"',
        'object: "{" (pair ("," pair)*)? "}"',
        'pair: /[A-Za-z_][A-Za-z0-9_.-]{0,63}/ ":" value',
        'list: "[" (value ("," value)*)? "]"',
        f"text: {quote} /[^<]*/ {quote}",
        f"number: {_INTEGER[:-1]}(\\.[0-9]{{1,15}})?/",
        'boolean: "true" | "false"',
    )


_INTEGER = "/-?(0|[1-9][0-9]{0,14})/"


class _Arguments:
    """The grammar of arguments that are written one by one, in the order of the schema.

    Attributes:
        body: The rule of all of them; required ones come first.
        rules: The rules of each.
    """

    def __init__(
        self, tool_format: ToolFormat, index: int, schema: Mapping[str, Any], trial: GrammarTrial
    ) -> None:
        self._format = tool_format
        self._trial = trial
        self._index = index
        self._shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        self.rules: list[str] = []
        properties: Mapping[str, Any] = schema.get("properties") or {}
        needed = [key for key in properties if key in (schema.get("required") or ())]
        free = [key for key in properties if key not in needed]
        rules = {
            key: self._add(place, key, properties[key])
            for place, key in enumerate((*needed, *free))
        }
        separator = {"xml": "", "lfm2": '", " '}.get(tool_format, '"," ')
        options = [f"({separator}{rules[key]})?" for key in free]
        if needed:
            firsts = f" {separator}".join(rules[key] for key in needed)
            self.body = " ".join((firsts, *options))
        else:
            subsets = [
                " ".join((rules[key], *options[place + 1 :])) for place, key in enumerate(free)
            ]
            self.body = f"({' | '.join(subsets)})?" if subsets else '""'

    def _add(self, place: int, key: str, schema: Any) -> str:
        name = f"arg{self._index}x{place}"
        begin, value, end = self._write(key, schema if isinstance(schema, dict) else {})
        parts = (_json_text(begin), value, _json_text(end) if end else "")
        self.rules.append(f"{name}: {' '.join(part for part in parts if part)}")
        return name

    def _write(self, key: str, schema: Mapping[str, Any]) -> tuple[str, str, str]:
        """Return the text before a value, the rule of the value, and the text behind it."""
        kinds, texts = read_types(schema), schema.get("enum")
        listed = texts if texts and all(isinstance(each, str) for each in texts) else None
        if self._format == "lfm2":
            return f"{key}=", self._json(schema), ""
        if self._format == "xml":
            begin, end = f"<parameter={key}>\n", "\n</parameter>\n"
            if listed:
                return begin, f"({' | '.join(map(_json_text, listed))})", end
            if "string" in kinds:
                return begin, "xmltext", ""
            return begin, self._json(schema), end
        rules = {"string": "text", "boolean": "boolean", "number": "number", "integer": _INTEGER}
        if listed:
            quote = _QUOTES[self._format]
            value = f"({' | '.join(_json_text(quote + each + quote) for each in listed)})"
        else:
            value = rules.get(kinds[0], "value") if len(kinds) == 1 else "value"
        return f"{key}:", value, ""

    def _json(self, schema: Mapping[str, Any]) -> str:
        text = json.dumps({**self._shared, **schema})
        return f"%json {_read_schema(text, _PARAM, self._trial)}"


def read_types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the types of a property that its schema names; empty if it names none."""
    kinds = schema.get("type")
    found = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    for part in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        found = [*found, *(read_types(part) if isinstance(part, dict) else ())]
    return tuple(each for each in found if isinstance(each, str))


def _json_text(text: str) -> str:
    """Return a string as JSON text, which is how llguidance writes literals too."""
    return json.dumps(text, ensure_ascii=False)


def _refuse(what: str) -> InvalidRequest:
    return InvalidRequest(what, "use tools in the form of the OpenAI API", _PARAM)
