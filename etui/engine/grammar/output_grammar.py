"""Grammars of an answer: of a JSON schema, and of the calls of tools.

They are GBNF, llama.cpp's notation. The converter that comes with llama-cpp-python is not used: it
drops ``enum`` and other keywords next to a list of types, takes ``{}`` for an object, confuses
references whose last part is the same, and ignores what it does not know, so that an answer could
break its schema.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from etui.engine.grammar.schema_graph import check_schema
from etui.engine.grammar.schema_nodes import (
    AnyOf,
    Array,
    Literals,
    Node,
    Object,
    Primitive,
    Property,
    Reference,
    Schema,
    Text,
)
from etui.engine.grammar.schema_reader import read_schema
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

_REPEATS = 1_000

_ANYTHING = "char*"

_CONTROL = r"\x00-\x1F"

_UNSAFE = rf'"\\{_CONTROL}'  # characters that a JSON string has to escape

_CATEGORIES = {
    "CATEGORY_DIGIT": "0-9",
    "CATEGORY_SPACE": " ",
    "CATEGORY_WORD": "a-zA-Z0-9_",
}


def translate_pattern(pattern: str, param: str) -> str:
    """Return the body of a grammar rule for a JSON string, without its quotation marks.

    A pattern that is not anchored by ``^`` and ``$`` may be anywhere in the string, as JSON schema
    has it. Characters that need an escape in JSON are written only where the pattern names them.

    Raises:
        InvalidRequest: It is no pattern, or uses what a grammar cannot express.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parser.parse(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise _refuse(pattern, f"is no regular expression ({error})", param) from error
    if found.state.flags != re.ASCII:
        raise _refuse(pattern, "has flags", param)
    parsed = list(found)
    start = bool(parsed) and parsed[0] == (ops.AT, ops.AT_BEGINNING)
    end = len(parsed) > start and parsed[-1] == (ops.AT, ops.AT_END)
    inner = parsed[start : len(parsed) - end]
    body = _Translator(pattern, param).sequence(inner)
    parts = ("" if start else _ANYTHING, body, "" if end else _ANYTHING)
    return " ".join(part for part in parts if part)


def _refuse(pattern: str, why: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"the pattern {pattern[:60]!r} of the JSON schema {why}",
        "use characters, classes, groups, alternatives, and repetitions of what is not empty",
        param,
    )


class _Translator:
    def __init__(self, pattern: str, param: str) -> None:
        self._pattern = pattern
        self._param = param
        self._repeats = 0

    def sequence(self, parsed: Iterable[tuple[Any, Any]]) -> str:
        return " ".join(filter(None, (self._item(op, value) for op, value in parsed)))

    def _unsupported(self, what: str) -> InvalidRequest:
        return _refuse(self._pattern, f"has {what}, which a grammar cannot express", self._param)

    def _item(self, op: Any, value: Any) -> str:
        if op is ops.LITERAL:
            return _literal(value)
        if op is ops.NOT_LITERAL:
            return f"[^{_in_class(value)}{_UNSAFE}]"
        if op is ops.ANY:
            return f"[^{_UNSAFE}]"
        if op is ops.IN:
            return self._class(value)
        if op is ops.BRANCH:
            branches = [self.sequence(each) or '""' for each in value[1]]
            return f"({' | '.join(branches)})"
        if op is ops.SUBPATTERN and not value[1] and not value[2]:
            inner = self.sequence(value[3])
            return f"({inner})" if inner else ""
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            return self._repeat(*value)
        raise self._unsupported(str(op).lower())

    def _repeat(self, least: int, most: Any, parsed: Any) -> str:
        if parsed.getwidth()[0] == 0:
            # llama.cpp would descend into an empty repetition for ever.
            raise self._unsupported("a repetition of what may be empty")
        unbounded = most is ops.MAXREPEAT
        self._repeats += least if unbounded else int(most)
        if self._repeats > _REPEATS:
            raise self._unsupported(f"more than {_REPEATS} repetitions")
        inner = f"({self.sequence(parsed)})"
        if unbounded:
            return f"{inner}{{{least},}}"
        return f"{inner}{{{least},{int(most)}}}" if most else ""

    def _class(self, items: Sequence[tuple[Any, Any]]) -> str:
        negated = bool(items) and items[0][0] is ops.NEGATE
        parts: list[str] = []
        named: list[str] = []
        for op, value in items[negated:]:
            if op is ops.LITERAL and not negated and _needs_escape(value):
                named.append(_literal(value))
            elif op is ops.LITERAL:
                parts.append(_in_class(value))
            elif op is ops.RANGE:
                parts += [
                    f"{_in_class(a)}-{_in_class(b)}"
                    for a, b in self._ranges(value[0], value[1], negated)
                ]
            elif op is ops.CATEGORY and str(value) in _CATEGORIES:
                parts.append(_CATEGORIES[str(value)])
            else:
                raise self._unsupported(f"the class {str(value).lower()}")
        if negated:
            return f"[^{''.join(parts)}{_UNSAFE}]"
        classes = [f"[{''.join(parts)}]"] if parts else []
        if not classes and not named:
            raise self._unsupported("a class without a character that a JSON string can have")
        return f"({' | '.join([*classes, *named])})"

    def _ranges(self, low: int, high: int, negated: bool) -> list[tuple[int, int]]:
        """Cut what needs an escape out of a range of characters."""
        if negated:
            return [(low, high)]
        pieces: list[tuple[int, int]] = []
        start = low
        for gap_low, gap_high in ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)):
            if gap_high < start or gap_low > high:
                continue
            if start < gap_low:
                pieces.append((start, gap_low - 1))
            start = gap_high + 1
        if start <= high:
            pieces.append((start, high))
        return pieces


def _needs_escape(code: int) -> bool:
    return code < 0x20 or code in (0x22, 0x5C)


def _in_class(code: int) -> str:
    return (
        f"\\U{code:08X}" if code > 0xFFFF else f"\\u{code:04X}" if code > 0xFF else f"\\x{code:02X}"
    )


def _literal(code: int) -> str:
    """Return a character as it is written in a JSON string, as a literal of a grammar."""
    if code == 0x22:
        return r'"\\\""'
    if code == 0x5C:
        return r'"\\\\"'
    if _needs_escape(code):
        return f'"\\\\u{code:04x}"'
    return f'"{_in_class(code)}"'


_WS = r'| " " | "\n" [ \t]{0,20}'
_DIGITS = "[0-9]{1,16}"
_INTEGER = '("0" | [1-9] [0-9]{0,15})'
_FRACTION = f'("." {_DIGITS})? ([eE] [-+]? [0-9]{{1,2}})?'
_RULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ws": (_WS, ()),
    "char": (r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})', ()),
    "string": (r'"\"" char* "\""', ("char",)),
    "integer": (f'"-"? {_INTEGER}', ()),
    "number": (f'"-"? {_INTEGER} {_FRACTION}', ()),
    "positive-integer": (_INTEGER, ()),
    "positive-number": (f"{_INTEGER} {_FRACTION}", ()),
    "boolean": ('"true" | "false"', ()),
    "null": ('"null"', ()),
    "member": ('string ":" ws value ws', ("string", "ws", "value")),
    "object": ('"{" ws (member ("," ws member)*)? "}"', ("ws", "member")),
    "array": ('"[" ws (value ws ("," ws value ws)*)? "]"', ("ws", "value")),
    "value": (
        "object | array | string | number | boolean | null",
        ("object", "array", "string", "number", "boolean", "null"),
    ),
    "date": (
        '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
        (),
    ),
    "time": (
        '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? '
        '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
        (),
    ),
    "date-time": ('date "T" time', ("date", "time")),
    "uuid": (r'[0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12}', ()),
}
"""Rules that grammars share, with the rules that each needs."""

_TRIE_DEPTH = 40

LEAD = r"[\n]{0,2}"
"""Line breaks that a model writes between its thinking and the answer."""

ANY_OBJECT = Schema(Primitive("object"))
"""Any JSON object, for ``response_format: json_object``."""


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
    schema = read_schema(text, param)
    check_schema(schema, param)
    writer = GrammarWriter(param)
    root = writer.add_schema(schema)
    return writer.finish(f"{LEAD} {root}" if lead else root)


class GrammarWriter:
    """Collects the rules of a grammar.

    Args:
        param: The part of the request that it is for, for errors.
    """

    def __init__(self, param: str) -> None:
        self._param = param
        self._rules: dict[str, str] = {}
        self._count = 0

    def add_schema(self, schema: Schema) -> str:
        """Add the rules of a schema and return the name of its root."""
        names = {name: self._next() for name in schema.named}
        for name, node in schema.named.items():
            self._rules[names[name]] = self._node(node, names).strip() or '""'
        return self.add(self._node(schema.root, names))

    def add(self, body: str) -> str:
        """Add a rule and return its name."""
        name = self._next()
        self._rules[name] = body.strip() or '""'
        return name

    def use(self, name: str) -> str:
        """Add a shared rule, with those that it needs, and return its name."""
        if name not in self._rules:
            self._rules[name], needed = _RULES[name]
            for each in needed:
                self.use(each)
        return name

    def finish(self, root: str) -> OutputGrammar:
        """Return the grammar with this body of its root."""
        rules = {"root": root, **self._rules}
        text = "\n".join(f"{name} ::= {body}" for name, body in rules.items())
        return OutputGrammar(text, self._param)

    def _next(self) -> str:
        self._count += 1
        return f"r{self._count}"

    def _node(self, node: Node, names: Mapping[str, str]) -> str:
        match node:
            case Literals():
                return self._choose(sorted(node.texts), 0)
            case Primitive():
                return self.use(f"positive-{node.name}" if node.positive else node.name)
            case Text():
                return self._text(node)
            case Reference():
                return names[node.name]
            case AnyOf():
                return " | ".join(self.add(self._node(each, names)) for each in node.alternatives)
            case Array():
                return self._array(node, names)
            case Object():
                return self._object(node, names)

    def _choose(self, texts: Sequence[str], depth: int) -> str:
        """Write sorted texts as alternatives that differ in their first character.

        llama.cpp follows each alternative that can still match, so a long list has to narrow fast.
        """
        branches: list[str] = []
        for _, group in groupby(texts, key=lambda text: text[:1]):
            alike = list(group)
            if len(alike) == 1 or depth > _TRIE_DEPTH:
                branches += map(quote, alike)
                continue
            shared = _count_shared(alike[0], alike[-1])
            rest = self.add(self._choose([text[shared:] for text in alike], depth + 1))
            branches.append(f"{quote(alike[0][:shared])} {rest}")
        return " | ".join(branches)

    def _text(self, node: Text) -> str:
        self.use("char")
        if node.pattern is not None:
            inner = translate_pattern(node.pattern, self._param)
            return f'"\\"" {self.add(inner) if inner else ""} "\\""'
        if node.format is not None:
            return f'"\\"" {self.use(node.format)} "\\""'
        longest = "" if node.longest is None else str(node.longest)
        return f'"\\"" {_repeat("char", node.shortest, longest)} "\\""'

    def _array(self, node: Array, names: Mapping[str, str]) -> str:
        self.use("ws")
        longest = node.longest
        fixed = node.prefix if longest is None else node.prefix[:longest]
        # A prefix does not require its items, but an answer that has them all matches.
        parts = [f"{self.add(self._node(each, names))} ws" for each in fixed]
        rest = ""
        if node.items is not None and (longest is None or longest > len(fixed)):
            item = self.add(f"{self.add(self._node(node.items, names))} ws")
            least = max(0, node.shortest - len(fixed))
            most = None if longest is None else longest - len(fixed)
            rest = _items(item, least, most, follows=bool(fixed))
        inner = ' "," ws '.join(parts)
        return f'"[" ws {inner} {rest} "]"'

    def _object(self, node: Object, names: Mapping[str, str]) -> str:
        self.use("ws")
        members = [
            self.add(f'{quote(json_text(p.name))} ":" ws {self.add(self._node(p.node, names))} ws')
            for p in node.properties
        ]
        more = ""
        if node.additional is not None:
            value = self.add(self._node(node.additional, names))
            more = self.add(f'{self.use("string")} ":" ws {value} ws')
        # later[i]: the members from i on, behind at least one other.
        later = [self.add(f'("," ws {more})*') if more else ""]
        for each, member in zip(reversed(node.properties), reversed(members), strict=True):
            part = f'"," ws {member}'
            part = part if each.required else f"({part})?"
            later.append(self.add(f"{part} {later[-1]}"))
        later.reverse()
        firsts = _firsts(node.properties, members, later)
        optional = all(not each.required for each in node.properties)
        if optional and more:
            firsts.append(f"{more} {later[-1]}")
        if not firsts:
            return '"{" ws "}"'
        begin = f"({' | '.join(firsts)})"
        return f'"{{" ws {begin}{"?" if optional else ""} "}}"'


def _count_shared(first: str, last: str) -> int:
    """Count the characters that the first and the last of sorted texts, so all, begin with."""
    pairs = zip(first, last, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))


def _firsts(
    properties: Sequence[Property], members: Sequence[str], later: Sequence[str]
) -> list[str]:
    """List the ways to begin an object: with each property up to the first required one."""
    firsts: list[str] = []
    for index, (each, member) in enumerate(zip(properties, members, strict=True)):
        firsts.append(f"{member} {later[index + 1]}")
        if each.required:
            break
    return firsts


def _repeat(name: str, least: int, most: str | int | None) -> str:
    if most in ("", None):
        return f"{name}*" if least == 0 else f"{name}{{{least},}}"
    return "" if str(most) == "0" else f"{name}{{{least},{most}}}"


def _items(item: str, least: int, most: int | None, *, follows: bool) -> str:
    """Return items separated by commas; ``follows`` if others come before them."""
    if follows:
        return _repeat(f'("," ws {item})', least, most)
    rest = _repeat(f'("," ws {item})', max(0, least - 1), None if most is None else most - 1)
    body = f"{item} {rest}"
    return body if least else f"({body})?"


def quote(text: str) -> str:
    """Return a text as a literal of a grammar."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'


def json_text(text: str) -> str:
    """Return a string as JSON text, without escapes that are not needed."""
    whole = json.dumps(text, ensure_ascii=False)
    try:
        whole.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return whole
