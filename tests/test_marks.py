"""Marks of statements find the lines that a tracer finds."""

from __future__ import annotations

import ast
import sys
from types import FrameType
from typing import Any

import pytest
from coverage.parser import PythonParser

from tests.support.marks import put_marks

SOURCE = '''"""What is marked."""

from __future__ import annotations

import functools
from enum import Enum


class Kind(Enum):
    """A class whose body runs as code."""

    ONE = 1
    """An attribute with a text."""
    TWO = (
        2
    )


@functools.cache
@functools.wraps(print)
def halve(x: float) -> object:
    """Of a number."""
    if x == 1:
        return (
            "one"
        )
    elif x == 2:
        y = 2
    else:
        y = 0
    for _ in range(y):
        continue
    else:
        z = [
            n
            for n in range(3)
        ]
    try:
        with open(__file__) as file:
            file.read(
                1
            )
        return x / y
    except ZeroDivisionError:
        z = lambda: 7
    except OSError:
        raise
    finally:
        y = 3
    match y:
        case 3:
            return "three"
        case _:
            return "never"


class Empty:
    """Nothing but a text."""


async def never():
    await never()


halve({})
'''


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_marks_find_the_lines_that_a_tracer_finds(number: int) -> None:
    source = SOURCE.format(number)
    parser = PythonParser(text=source, filename="made.py", exclude="^$")
    parser.parse_source()
    names: dict[str, Any] = {"__file__": __file__, "__name__": "made"}

    tree = ast.parse(source)
    lines = put_marks(tree)
    marks = names["__marks__"] = [False] * len(lines)
    exec(compile(tree, "made.py", "exec", dont_inherit=True), names)
    marked = {line for mark, of in zip(marks, lines, strict=True) if mark for line in of}

    traced: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename == "plain.py" and event == "line":
            traced.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    code = compile(source, "plain.py", "exec", dont_inherit=True)
    sys.settrace(trace)
    try:
        exec(code, dict(names))
    finally:
        sys.settrace(before)
    assert marked & parser.statements == parser.translate_lines(traced) & parser.statements
    assert {line for of in lines for line in of} >= parser.statements
