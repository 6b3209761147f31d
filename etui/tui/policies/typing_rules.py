"""Indent new lines, apply the suggestion of a fault, and find the next fault or a text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from etui.errors import Problem

INDENT = 2
"""Spaces of one level."""

_OPENS = re.compile(r":\s*(?:[|>][-+]?)?$")
_DASHES = re.compile(r" *((?:- +)*)")
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*\"""")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_SUGGESTED = re.compile(r"did you mean '([^']+)'")
_WORD = re.compile(r"[^\s,:{}\[\]'\"#]+")


@dataclass(frozen=True, slots=True)
class Fix:
    """A replacement of the characters from ``start`` to ``end`` in a line; all count from 0."""

    line: int
    start: int
    end: int
    text: str


def indent_after(before: str) -> int:
    """Return the spaces that a new line begins with.

    A key without a value opens a level, the items of a list line up below the first key, and the
    rest of an open bracket lines up with what follows the bracket.

    Args:
        before: The line up to the cursor.
    """
    spaces = len(before) - len(before.lstrip(" "))
    plain = _QUOTED.sub(lambda found: "_" * len(found[0]), before)
    plain = _COMMENT.sub(lambda found: " " * len(found[0]), plain).rstrip()
    if not plain.strip():
        return spaces
    if (bracket := _open_bracket(plain)) is not None:
        return bracket
    dashes = _DASHES.match(plain)
    level = spaces + (len(dashes[1]) if dashes else 0)
    return level + INDENT if _OPENS.search(plain) else level


def _open_bracket(line: str) -> int | None:
    """Return the column after the innermost bracket that is still open; None if there is none."""
    stack: list[int] = []
    for column, sign in enumerate(line):
        if sign in "{[":
            stack.append(column + 1)
        elif sign in "}]" and stack:
            stack.pop()
    return stack[-1] if stack else None


def find_fix(text: str, problem: Problem) -> Fix | None:
    """Return the replacement that a problem suggests; None if it suggests none, or no longer fits.

    Args:
        problem: A problem that was found in it, with ``did you mean 'x'?`` in its message.
    """
    suggested = _SUGGESTED.search(problem.message)
    lines = text.split("\n")
    if suggested is None or not 1 <= problem.line <= len(lines):
        return None
    line, message = lines[problem.line - 1], problem.message[: suggested.start()]
    quoted = re.findall(r"'([^']+)'", message)
    for found in _WORD.finditer(line, max(0, problem.column - 1)):
        if found[0] in quoted and found[0] != suggested[1]:
            return Fix(problem.line - 1, found.start(), found.end(), suggested[1])
    return None


def next_fault(problems: tuple[Problem, ...], line: int, column: int) -> Problem | None:
    """Return the first problem after a cursor, or the first one of all; None without problems.

    Args:
        line: Line of the cursor, from 1.
        column: Column of the cursor, from 1.
    """
    placed = sorted((p for p in problems if p.line), key=lambda p: (p.line, p.column))
    later = (p for p in placed if (p.line, p.column) > (line, column))
    return next(later, placed[0] if placed else None)


def find_matches(text: str, words: str) -> list[tuple[int, int]]:
    """Return (line, column) of each place of a text, from 0; case does not matter."""
    if not words:
        return []
    pattern = re.compile(re.escape(words), re.IGNORECASE)
    return [
        (number, found.start())
        for number, line in enumerate(text.split("\n"))
        for found in pattern.finditer(line)
    ]
