"""Translate a regular expression of a JSON schema into the grammar of the strings that match it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

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
