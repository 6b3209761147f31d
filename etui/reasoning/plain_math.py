"""Write LaTeX as plain text, and compute expressions of numbers."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_GROUP = r"\{([^{}]*)\}"
_FRACTION = re.compile(rf"\\[dt]?frac\s*(?:{_GROUP}\s*{_GROUP}|(\d)\s*(\d))")
_ROOT = re.compile(rf"\\sqrt\s*(?:{_GROUP}|(\d+))")
_WRAPPER = re.compile(
    rf"\\(?:text|textbf|mathrm|mathbf|mathit|operatorname|rm|bf|displaystyle)\s*{_GROUP}"
)
_BARE_WRAPPER = re.compile(r"\\(?:text|mathrm|mathbf|displaystyle|left|right|limits)\b")
_POWER = re.compile(rf"\^\s*{_GROUP}")
_SYMBOLS = {
    r"\times": "*", r"\cdot": "*", r"\div": "/", r"\pi": "π", r"\approx": "≈", r"\pm": "±",
    r"\degree": "°", r"\circ": "°", r"\infty": "∞", r"\%": "%", r"\$": "$", r"\,": " ",
    r"\;": " ", r"\:": " ", r"\!": "", r"\ ": " ", r"\quad": " ", r"\qquad": " ", r"~": " ",
    r"\leq": "≤", r"\geq": "≥", r"\neq": "≠", r"\rightarrow": "→", r"\Rightarrow": "→",
    r"\implies": "→", r"\therefore": " ", r"\ldots": "...", r"\dots": "...", r"\\": "\n",
    r"\ne": "≠", r"\le": "≤", r"\ge": "≥", r"\to": "→",
}  # fmt: skip
_FORMULA = re.compile(r"\$([^$\n]{1,300}?)\$(?!\s?\d)")
_LONE_DOLLAR = re.compile(r"(?<!\\)\$(?!\s?[\d.]|\b)")
_COMMAND = re.compile(r"\\[A-Za-z]+|\\.|~", re.DOTALL)
_LARGEST_TEXT = 20_000
_DEEPEST = 20

_OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LARGEST_POWER = 64
_LARGEST_BITS = 512
_EXPRESSION = re.compile(r"[\d\s+\-−–*/×÷·^().,√π]+")


def plain_math(text: str) -> str:
    r"""Write the LaTeX in a text as plain text: ``\frac{60 km}{1.5 h}`` -> ``(60 km)/(1.5 h)``.

    Text without a backslash, a brace or a dollar sign is returned unchanged. A dollar sign before a
    number stays, unless it opens a formula. Only the beginning of a very long text is converted.
    """
    if not any(sign in text for sign in "\\{$"):
        return text
    text, rest = text[:_LARGEST_TEXT], text[_LARGEST_TEXT:]
    text = text.replace("{,}", ",").replace("$$", " ")
    text = _FORMULA.sub(r" \1 ", text)
    text = _LONE_DOLLAR.sub("", text)
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        text = text.replace(opening, " ").replace(closing, " ")
    for _ in range(_DEEPEST):  # from the innermost group outwards
        before = text
        text = _WRAPPER.sub(r" \1", text)
        text = _ROOT.sub(lambda match: f"√({match[1] or match[2]})", text)
        text = _POWER.sub(lambda match: _raise(match[1]), text)
        text = _FRACTION.sub(_divide, text)
        if text == before:
            break
    text = _BARE_WRAPPER.sub("", text)
    text = _COMMAND.sub(lambda match: _SYMBOLS.get(match[0], match[0]), text)
    return text.replace("^°", "°") + rest


def compute(text: str) -> Fraction | float | None:
    """Compute an expression of numbers: ``60/1.5``, ``3*10^8``, ``√(2)/2``, ``2π``.

    Returns:
        The value, exact unless a root or π makes it a float; None if the text is not an expression
        of numbers, or has no finite value of reasonable size.
    """
    if len(text) > 100 or not _EXPRESSION.fullmatch(text):
        return None
    source = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip())
    source = re.sub(r"[−–]", "-", source)
    source = re.sub(r"[×·]", "*", source).replace("÷", "/").replace("^", "**")
    source = re.sub(r"√\s*(\d+(?:\.\d+)?)", r"√(\1)", source)
    source = re.sub(r"(?<=[\d)π])\s*(?=[√π(])", "*", source)
    source = source.replace("√", "root").replace("π", "pi").replace(",", ".")
    try:
        value = _evaluate(ast.parse(source, mode="eval").body)
    except (ValueError, SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, Fraction) or math.isfinite(value) else None


def _divide(match: re.Match[str]) -> str:
    over, under = match[1] or match[3], match[2] or match[4]
    if re.fullmatch(r"\s*\d+\s*", over) and re.fullmatch(r"\s*\d+\s*", under):
        return f" {over.strip()}/{under.strip()} "
    return f" ({over})/({under}) "


def _raise(exponent: str) -> str:
    exponent = exponent.strip()
    if exponent in ("\\circ", "\\degree"):
        return "°"
    return f"^{exponent}" if re.fullmatch(r"-?\d+|\w", exponent) else f"^({exponent})"


def _evaluate(node: ast.AST) -> Fraction | float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.Name(id="pi"):
            return math.pi
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.Call(func=ast.Name(id="root"), args=[argument], keywords=[]):
            return _root(_evaluate(argument))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_evaluate(left), _evaluate(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            first, second = _evaluate(left), _evaluate(right)
            if isinstance(first, Fraction) and isinstance(second, Fraction):
                return _limit(_OPERATORS[type(op)](first, second))
            float_operator: Callable[[float, float], float] = _OPERATORS[type(op)]  # type: ignore[assignment]
            return float_operator(float(first), float(second))
    raise ValueError("not an expression of numbers")


def _root(value: Fraction | float) -> Fraction | float:
    if isinstance(value, Fraction) and value >= 0:
        over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if over**2 == value.numerator and under**2 == value.denominator:
            return Fraction(over, under)
    return math.sqrt(value)


def _power(base: Fraction | float, exponent: Fraction | float) -> Fraction | float:
    if abs(float(exponent)) > _LARGEST_POWER:
        raise ValueError("the exponent is too large")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _limit(Fraction(base**exponent.numerator))
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ValueError("not a real number")
    return float(value)


def _limit(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LARGEST_BITS:
        raise ValueError("the number is too large")
    return value
