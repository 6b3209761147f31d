"""Read the structure of a YAML text that is still being typed.

The parser of policy files refuses a text with one fault. This reader never does: it follows
indentation, dashes and brackets as far as they make sense, so that the editor knows in which
mapping the cursor is and which names the rest of the text defines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root of the file."""

_BLOCK_KEY = re.compile(
    r"""("[^"]*"|'[^']*'|[^\s\-#{}\[\],:"'][^:#{}\[\],]*|-[^\s:][^:]*)\s*:(?=\s|$)"""
)
_SPECIAL = re.compile(r"""[{}\[\],:#"']""")
_CLOSING = {"'": re.compile("''|(')"), '"': re.compile(r'\\.|(")')}


@dataclass(frozen=True, slots=True)
class Spot:
    """The place of the cursor."""

    path: Path  # Path of the mapping whose key is typed, or of the value that is typed
    role: Literal["key", "value", "either", "nothing"]
    """What is typed there; ``either`` where a mapping could begin as well as a value, and
    ``nothing`` in a comment or a block of text."""
    typed: str = ""  # The part of it before the cursor
    start: int = 0  # Column where it begins, from 0


_NOWHERE = Spot((), "nothing")


@dataclass(frozen=True, slots=True)
class Outline:
    """The keys of every mapping, and the plain values, by path."""

    keys: Mapping[Path, tuple[str, ...]]
    values: Mapping[Path, str]

    def names(self, *path: str | int) -> tuple[str, ...]:
        """Return the keys of the mapping at a path."""
        return self.keys.get(path, ())


def read_outline(text: str) -> Outline:
    """Read the keys and values of a text as far as they make sense."""
    reader = _Reader()
    for line in text.split("\n"):
        reader.read(line.rstrip("\r"))
    keys = {path: tuple(found) for path, found in reader.keys.items()}
    return Outline(keys, reader.values)


def find_spot(text: str, row: int, column: int) -> Spot:
    """Find the place of a cursor.

    Args:
        row: Line, from 0.
        column: Number of characters before the cursor in its line.
    """
    lines = text.split("\n")
    if not 0 <= row < len(lines):
        return _NOWHERE
    reader = _Reader()
    for line in lines[:row]:
        reader.read(line.rstrip("\r"))
    return reader.read(lines[row][: max(0, column)])


@dataclass(slots=True)
class _Frame:
    """An open mapping or list; ``indent`` is -1 for one in brackets."""

    path: Path
    mapping: bool
    indent: int = -1
    key: str | None = None
    index: int = 0

    @property
    def inner(self) -> Path:
        """Path of the value that comes next."""
        if not self.mapping:
            return (*self.path, self.index)
        return self.path if self.key is None else (*self.path, self.key)


@dataclass(slots=True)
class _Reader:
    keys: dict[Path, list[str]] = field(default_factory=dict)
    values: dict[Path, str] = field(default_factory=dict)
    _blocks: list[_Frame] = field(default_factory=list)
    _flows: list[_Frame] = field(default_factory=list)
    _quote: str = ""
    _text_indent: int | None = None

    def read(self, line: str) -> Spot:
        """Read a line, or the part of it before the cursor, and return the place at its end."""
        column = len(line) - len(line.lstrip(" "))
        if self._text_indent is not None:
            if not line.strip() or column > self._text_indent:
                return _NOWHERE
            self._text_indent = None
        if self._flows or self._quote:
            return self._read_flow(line, 0, ())
        return self._read_block(line, column)

    def _read_block(self, line: str, column: int) -> Spot:
        while (rest := line[column:]) == "-" or rest.startswith("- "):
            self._open_item(column)
            column += 1 + len(rest[1:]) - len(rest[1:].lstrip(" "))
        if rest.startswith("#"):
            return _NOWHERE
        if (found := _BLOCK_KEY.match(rest)) is not None:
            frame = self._open_mapping(column)
            frame.key = _unquoted(found[1])
            self._add_key(frame.path, frame.key)
            return self._read_value(line, column + found.end(), frame)
        if rest[:1] in ("{", "[", '"', "'"):
            return self._read_flow(line, column, self._block_spot(column, "").path)
        return self._block_spot(column, rest)

    def _read_value(self, line: str, at: int, frame: _Frame) -> Spot:
        rest = line[at:].lstrip(" ")
        start = len(line) - len(rest)
        if rest.startswith("#"):
            return _NOWHERE
        if rest[:1] in ("|", ">"):
            self._text_indent = frame.indent
            return _NOWHERE
        if rest[:1] in ("{", "[", '"', "'"):
            return self._read_flow(line, start, frame.inner)
        value, comment, _ = rest.partition(" #")
        if value.strip():
            self.values[frame.inner] = value.strip()
        return _NOWHERE if comment else Spot(frame.inner, "value", rest, start)

    def _open_item(self, column: int) -> None:
        while self._blocks and self._blocks[-1].indent > column:
            self._blocks.pop()
        top = self._blocks[-1] if self._blocks else None
        if top is not None and not top.mapping and top.indent == column:
            top.index += 1
        else:
            path = () if top is None else top.inner
            self._blocks.append(_Frame(path, mapping=False, indent=column))

    def _open_mapping(self, column: int) -> _Frame:
        self._blocks = self._enclosing(column)
        top = self._blocks[-1] if self._blocks else None
        if top is None or top.indent < column:
            path = () if top is None else top.inner
            top = _Frame(path, mapping=True, indent=column)
            self._blocks.append(top)
        return top

    def _enclosing(self, column: int) -> list[_Frame]:
        """Return the frames that a key at a column is in; a list at its own column has ended."""
        kept = list(self._blocks)
        while kept and (
            kept[-1].indent > column or (kept[-1].indent == column and not kept[-1].mapping)
        ):
            kept.pop()
        return kept

    def _block_spot(self, column: int, typed: str) -> Spot:
        """Find the place of a text without a colon that begins at a column."""
        frames = self._enclosing(column)
        if not frames:
            return Spot((), "key", typed, column)
        top = frames[-1]
        if top.mapping and top.indent == column:
            return Spot(top.path, "key", typed, column)
        return Spot(top.inner, "either", typed, column)

    def _read_flow(self, line: str, at: int, path: Path) -> Spot:
        """Read brackets and quotes; ``path`` is that of the value if none is open yet."""
        token = at
        if self._quote:
            at = self._skip_quoted(line, at)
        while (found := _SPECIAL.search(line, at)) is not None:
            sign, at = found[0], found.end()
            blank = not line[token : at - 1].strip()
            if sign in "'\"":
                if blank:
                    self._quote = sign
                    token, at = at - 1, self._skip_quoted(line, at)
            elif sign == "#":
                if blank or line[at - 2] == " ":
                    self._end_value(line[token : at - 1], path)
                    return _NOWHERE
            elif sign in "{[":
                inner = self._flows[-1].inner if self._flows else path
                self._flows.append(_Frame(inner, mapping=sign == "{"))
                token = at
            elif not self._flows:
                continue
            elif sign == ":":
                top = self._flows[-1]
                if top.mapping and top.key is None and line[at : at + 1] in ("", *" ,[]{}\"'"):
                    top.key = _unquoted(line[token : at - 1].strip())
                    self._add_key(top.path, top.key)
                    token = at
            else:
                self._end_value(line[token : at - 1], path)
                token = at
                if sign == ",":
                    self._flows[-1].key = None
                    self._flows[-1].index += 1
                else:
                    self._flows.pop()
                    if not self._flows:
                        return _NOWHERE
        self._end_value(line[token:], path)
        return self._flow_spot(line, token, path)

    def _skip_quoted(self, line: str, at: int) -> int:
        """Return where the open quote ends; the whole line if it does not."""
        for found in _CLOSING[self._quote].finditer(line, at):
            if found[1]:
                self._quote = ""
                return found.end()
        return len(line)

    def _end_value(self, token: str, path: Path) -> None:
        if not self._quote and (value := _unquoted(token.strip())):
            top = self._flows[-1] if self._flows else None
            if top is None:
                self.values[path] = value
            elif not top.mapping or top.key is not None:
                self.values[top.inner] = value

    def _flow_spot(self, line: str, token: int, path: Path) -> Spot:
        typed = line[token:].lstrip(" ")
        start = len(line) - len(typed)
        if typed[:1] in ("'", '"') and self._quote:
            typed, start = typed[1:], start + 1
        if not self._flows:
            return Spot(path, "value", typed, start) if path else _NOWHERE
        top = self._flows[-1]
        if not top.mapping:
            return Spot(top.inner, "either", typed, start)
        return Spot(top.inner, "key" if top.key is None else "value", typed, start)

    def _add_key(self, path: Path, key: str) -> None:
        self.keys.setdefault(path, []).append(key)


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
