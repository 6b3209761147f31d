"""The tools of etui itself: read a file below a chosen folder, and calculate."""

from __future__ import annotations

import ast
import math
import operator
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST_FILE_BYTES = 2_000_000
"""Size of the largest file that is read."""

_MOST_BITS = 4_096
"""Size of the largest number: more than any question asks for, and computed at once."""

_MOST_CHARACTERS = 2_000
_MOST_DEPTH = 100
_MOST_FACTORIAL = 500
_MOST_DIGITS = 2_000
_DIGITS = 15

Number = int | float

READ_FILE = {
    "description": "Read a text file. Paths are relative to the folder that the user has chosen; "
    "'.' lists its files.",
    "parameters": {
        "type": "object",
        "properties": {"path": {"type": "string", "description": "Path of the file"}},
        "required": ["path"],
        "additionalProperties": False,
    },
}
CALCULATE = {
    "description": "Calculate an arithmetic expression: + - * / // % ** and parentheses, "
    "sqrt, exp, log, log2, log10, sin, cos, tan, abs, round, floor, ceil, min, max, factorial, "
    "gcd, pi, e.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "Such as 17 * (3 + 4)"}},
        "required": ["expression"],
        "additionalProperties": False,
    },
}


class RefusedError(Exception):
    """What a tool was asked cannot be done; the message is for the model."""


def read_file(folder: Path, path: str) -> str:
    """Return the text of a file below a folder, or the names in a folder below it.

    Links are followed only as far as they lead to a place below the folder; the place that was
    checked is the one that is opened, whatever happens in between.

    Raises:
        RefusedError: There is no such file, it is outside, too large, or not text.
    """
    root = os.path.realpath(folder)
    place = os.path.realpath(os.path.join(root, path)) if "\0" not in path else os.sep
    if os.path.commonpath([root, place]) != root:
        raise RefusedError(f"{path} is not below the folder")
    parts = [part for part in os.path.relpath(place, root).split(os.sep) if part != os.curdir]
    handle = None
    try:
        handle = _open_below(root, parts)
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            return "\n".join(sorted(os.listdir(handle))) or "the folder is empty"
        if not stat.S_ISREG(mode):
            raise RefusedError(f"{path} is not a file")
        with os.fdopen(os.dup(handle), "rb") as stream:
            data = stream.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror or error}") from None
    finally:
        if handle is not None:
            os.close(handle)
    if len(data) > MOST_FILE_BYTES:
        raise RefusedError(f"{path} is larger than {MOST_FILE_BYTES:,} bytes")
    if b"\0" in data:
        raise RefusedError(f"{path} is not a text file")
    return data.decode("utf-8", "replace")


def _open_below(root: str, parts: list[str]) -> int:
    """Open a place without following any link on the way; a pipe does not wait for its other end.

    Where folders cannot be walked by their handles (Windows), the path is opened as it is.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    if os.open not in os.supports_dir_fd:
        return os.open(os.path.join(root, *parts), flags)
    handle = os.open(root, flags)
    for part in parts:
        outer = handle
        try:
            handle = os.open(part, flags, dir_fd=outer)
        finally:
            os.close(outer)
    return handle


def calculate(expression: str) -> str:
    """Return the value of an arithmetic expression; nothing of it is run as Python.

    Raises:
        RefusedError: It is no such expression, or its value is too large.
    """
    if len(expression) > _MOST_CHARACTERS:
        raise RefusedError(f"the expression has more than {_MOST_CHARACTERS:,} characters")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
        value = _evaluate(tree.body, 0)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as e:
        raise RefusedError(f"cannot calculate this: {e}") from None
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _evaluate(node: ast.expr, depth: int) -> Number:
    if depth > _MOST_DEPTH:
        raise RefusedError("the expression is nested too deep")

    def of(inner: ast.expr) -> Number:
        return _evaluate(inner, depth + 1)

    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            pass
        case ast.Name(id=name) if name in _CONSTANTS:
            value = _CONSTANTS[name]
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as op, operand=operand):
            value = of(operand) if isinstance(op, ast.UAdd) else -of(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](of(left), of(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            value = _FUNCTIONS[name](*map(of, args))
        case _:
            raise RefusedError(f"not a part of an arithmetic expression: {ast.unparse(node)[:60]}")
    too_large = isinstance(value, int) and value.bit_length() > _MOST_BITS
    if too_large or not (isinstance(value, int) or math.isfinite(value)):
        raise RefusedError("the number is too large, or not defined")
    return value


def _raise(base: Number, exponent: Number) -> Number:
    """Raise a number to a power; the size of a whole one is known before it is computed."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) > 1 and (base.bit_length() - 1) * exponent > _MOST_BITS:
            raise RefusedError("the number is too large")
        return int(base**exponent)
    return math.pow(base, exponent)


def _round(number: Number, digits: int | None = None) -> Number:
    if digits is not None and abs(digits) > _MOST_DIGITS:  # 10**digits would be computed
        raise RefusedError(f"round is for up to {_MOST_DIGITS:,} digits")
    return round(number, digits)


def _factorial(number: int) -> int:
    if number > _MOST_FACTORIAL:
        raise RefusedError(f"factorial is for numbers up to {_MOST_FACTORIAL}")
    return math.factorial(number)


_CONSTANTS: Mapping[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_OPERATORS: Mapping[type, Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _raise,
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "gcd")},
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "floor", "ceil")},
    "abs": abs,
    "min": min,
    "max": max,
    "round": _round,
    "factorial": _factorial,
}
