"""Numbers with units in answers, as keys that are equal for equal quantities.

The key is canonical: each unit is converted exactly to the reference unit of its dimension, so
equality of keys is an equivalence and votes can be counted by it.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cache

_SPACES = "\u00a0\u202f\u2009"
_DIGITS = rf"\d{{1,3}}(?:[{_SPACES} '’_]\d{{3}})+(?!\d)|\d+(?:,\d+)*(?:\.\d+)*|\.\d+"

NUMBER = re.compile(
    rf"(?<![\w.])[-+−–]?[$€£]?\s?(?:\d+\s?/\s?\d+|"
    rf"(?:{_DIGITS})(?:,\d+)?(?:[eE][-+−]?\d{{1,3}})?)\s?%?"
)
"""A number in running text: sign, currency, digits with separators, fraction, exponent, percent."""

_LARGEST_EXPONENT = 99
"""Limit for numbers: longer runs of digits are noise, and writing them out takes memory."""

_GROUPS = re.compile(r"\d{1,3}([.,])\d{3}(?:\1\d{3})*")


def normal_number(text: str) -> str | None:
    """Normalize a number: ``1,234.50`` -> ``1234.5``, ``1 000`` -> ``1000``, ``50 %`` -> ``50%``.

    A fraction is kept (``3/4``): it may not be meant as a quotient. Commas or points are
    thousands separators if three digits follow each of them and there are at least two (for commas,
    one is enough); in all other cases the last one is the decimal sign. None if it is no number, or
    one of more than a hundred digits.
    """
    bare = re.sub(rf"[\s{_SPACES}'’_$€£]", "", text).replace("−", "-").replace("–", "-")
    bare = bare.removeprefix("+")
    percent = "%" if bare.endswith("%") else ""
    bare = bare.removesuffix("%")
    if fraction := re.fullmatch(r"(-?)(\d+)/(\d+)", bare):
        sign, over, under = fraction.groups()
        return f"{sign}{over.lstrip('0') or '0'}/{under.lstrip('0') or '0'}{percent}"
    mantissa, e, exponent = bare.lower().partition("e")
    try:
        number = Decimal(_point_decimal(mantissa) + e + exponent)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > _LARGEST_EXPONENT:
        return None
    if number == 0:
        return f"0{percent}"
    written = f"{number:f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written) + percent


def _point_decimal(digits: str) -> str:
    """Remove thousands separators and write the decimal sign as a point."""
    sign = "-" if digits.startswith("-") else ""
    digits = digits.removeprefix("-")
    comma, point = digits.rfind(","), digits.rfind(".")
    if comma >= 0 and point >= 0:
        decimal, thousands = (",", ".") if comma > point else (".", ",")
        return sign + digits.replace(thousands, "").replace(decimal, ".")
    groups = _GROUPS.fullmatch(digits)
    if groups and (groups[1] == "," or digits.count(".") > 1):
        return sign + digits.replace(groups[1], "")
    return sign + digits.replace(",", ".")


_LAST = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_STATED = re.compile(r"#### (\-?[0-9\.\,]+)")
_IGNORED = tuple(re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"))
_DIGIT = re.compile(r"[0-9]")

_VALUE = re.compile(r"-?[$0-9.,]*[0-9](?:[eE][-+]?[0-9]{1,3}(?![0-9]))?")
"""A number with its exponent, which lm-eval's rules read as a number of its own."""


def find_last_number(text: str) -> str | None:
    """Return the last number of a text as it is written there (``flexible-extract``)."""
    *_, last = (None, *_LAST.finditer(text))
    return None if last is None else last[0]


def find_stated_number(text: str) -> str | None:
    """Return the number after the first ``####`` of a text (``strict-match``), as written there."""
    found = _STATED.search(text)
    return None if found is None else found[1]


def strip_number(text: str) -> str | None:
    """Remove what ``exact_match`` ignores: commas, dollars, all up to ``####``, a point at the end.

    Equal texts are equal numbers for lm-eval: ``18.00`` is not ``18``. None without a digit.
    """
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.strip().lower() if _DIGIT.search(text) else None


def last_number_value(text: str) -> str | None:
    """Return the last number of a text in its normal form: ``$1,234.50`` -> ``1234.5``.

    Unlike :func:`strip_number` it reads exponents, ``1.5e3`` -> ``1500``, and votes count by it.
    """
    *_, last = (None, *_VALUE.finditer(text.replace("\u2212", "-")))
    bare = strip_number(last[0]) if last is not None else None
    return None if bare is None else normal_number(bare)


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

    Exact unless a root or π makes it a float; None without a finite value of reasonable size.
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


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: ``value * factor + offset`` is the value in the reference unit of its dimension."""

    dimension: str
    reference: str
    factor: Fraction
    offset: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number found in a text."""

    value: Fraction | float  # Its value in its own unit; a float only for roots and multiples of π
    unit: Unit | None  # Its unit; None for a bare number
    percent: bool  # Whether it is a percentage
    start: int
    end: int


_TABLE = """
length m: 1 m meter meters metre metres; 1000 km kilometer kilometers kilometre kilometres;
  1/100 cm centimeter centimeters centimetre centimetres; 1/1000 mm millimeter millimeters
  millimetre millimetres; 1609344/1000 mi mile miles Meile Meilen; 9144/10000 yd yard yards;
  3048/10000 ft foot feet; 254/10000 inch inches
time s: 1 s sec secs second seconds Sekunde Sekunden; 60 min mins minute minutes Minute Minuten;
  3600 h hr hrs hour hours Stunde Stunden Std; 86400 day days Tag Tage Tagen; 604800 week weeks
  Woche Wochen; 1/1000 ms millisecond milliseconds
months months: 1 month months Monat Monate Monaten; 12 yr yrs year years Jahr Jahre Jahren
mass kg: 1 kg kilogram kilograms kilo kilos kilogramme; 1/1000 g gram grams gramme grammes
  Gramm; 1/1000000 mg milligram milligrams; 1000 t ton tonne tonnes Tonne Tonnen;
  45359237/100000000 lb lbs pound pounds; 45359237/1600000000 oz ounce ounces
volume L: 1 l L liter liters litre litres; 1/1000 ml mL milliliter milliliters millilitre
  millilitres; 1/100 cl cL; 1000 m^3 m³; 1/1000 cm^3 cm³ cc; 3785411784/1000000000 gallon
  gallons gal
area m²: 1 m^2 m² sqm; 1000000 km^2 km²; 1/10000 cm^2 cm²; 10000 ha hectare hectares;
  9290304/100000000 ft^2 ft²; 64516/100000000 in^2 in²; 1/1000000 mm^2 mm²
speed km/h: 1 km/h kmh km/hr kph; 36/10 m/s mps; 1609344/1000000 mph mi/h; 60 km/min; 3600 km/s
energy J: 1 J joule joules; 1000 kJ kilojoule kilojoules; 1000000 MJ; 3600 Wh; 3600000 kWh;
  4184/1000 cal; 4184 kcal
power W: 1 W watt watts; 1000 kW kilowatt kilowatts; 1000000 MW megawatt megawatts; 1/1000 mW
force N: 1 N newton newtons; 1000 kN
voltage V: 1 V volt volts; 1000 kV; 1/1000 mV
current A: 1 A ampere amperes amps amp; 1/1000 mA
resistance Ω: 1 Ω ohm ohms; 1000 kΩ
frequency Hz: 1 Hz hertz; 1000 kHz; 1000000 MHz; 1000000000 GHz
data B: 1 byte bytes B; 1000 kB KB; 1000000 MB megabyte megabytes; 1000000000 GB gigabyte
  gigabytes; 1000000000000 TB; 1024 KiB; 1048576 MiB; 1073741824 GiB
angle °: 1 ° degree degrees
acceleration m/s²: 1 m/s^2 m/s²
density kg/m³: 1 kg/m^3 kg/m³; 1000 g/cm^3 g/cm³ kg/L g/mL
dollars $: 1 $ dollar dollars USD; 1/100 cent cents ¢
euros €: 1 € euro euros EUR
sterling £: 1 £ GBP
temperature K: 1 K kelvin kelvins
"""  # fmt: skip
_CELSIUS = Unit("temperature", "K", Fraction(1), Fraction(27315, 100))
_FAHRENHEIT = Unit("temperature", "K", Fraction(5, 9), Fraction(45967, 180))
_OFFSETS = {
    **dict.fromkeys(("°C", "° C", "ºC", "Celsius", "degrees Celsius", "degree Celsius"), _CELSIUS),
    **dict.fromkeys(("°F", "° F", "ºF", "Fahrenheit", "degrees Fahrenheit"), _FAHRENHEIT),
}
_LONG_FORMS = {
    r"\s*(?:per|an|a|pro|/)\s*(?:hour|hr|h|Stunde)\b": "/h",
    r"\s*(?:per|a|pro|/)\s*(?:second|sec|s|Sekunde)\b(?:\s+squared\b)?": "/s",
    r"\s*(?:per|a|pro|/)\s*(?:minute|min)\b": "/min",
}
_LENGTHS = {
    "kilometers": "km", "kilometres": "km", "kilometer": "km", "kilometre": "km", "km": "km",
    "meters": "m", "metres": "m", "meter": "m", "metre": "m", "m": "m",
    "miles": "mi", "mile": "mi", "mi": "mi",
}  # fmt: skip
_SPEED_WORDS = re.compile(
    rf"(?<![\w])({'|'.join(sorted(_LENGTHS, key=len, reverse=True))})"
    rf"({'|'.join(_LONG_FORMS)})"
)
_POWER_WORDS = re.compile(r"\b(square|cubic)\s+(kilometers?|kilometres?|meters?|metres?|"
                          r"centimeters?|centimetres?|feet|foot|inches|inch|miles?)\b")  # fmt: skip
_NEGATED = re.compile(
    r"\b(?:not|isn['’]t|never|rather than|instead of|nicht|statt|anstatt|keine?)\s+"
    r"(?:(?:be|is|the|about|exactly|just|only|at)\s+){0,2}[$€£]?$",
    re.I,
)
_SCIENTIFIC = re.compile(
    r"(?<![\w.])(\d+(?:[.,]\d+)?)\s*[*×·x]\s*10\s?\^\s?\(?([-−]?\d{1,2})\)?(?!\d)"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})s?\b", re.I)
_CURRENCY = re.compile(r"[$€£]")


@cache
def named_units() -> dict[str, Unit]:
    """Return the unit of each name; names of one letter are case-sensitive."""
    found: dict[str, Unit] = dict(_OFFSETS)
    for line in re.sub(r"\n {2}", " ", _TABLE.strip()).split("\n"):
        head, _, entries = line.partition(":")
        dimension, reference = head.split()
        for entry in entries.split(";"):
            factor, *names = entry.split()
            for name in names:
                found[name] = Unit(dimension, reference, Fraction(factor))
    return found


@cache
def _unit_pattern() -> re.Pattern[str]:
    names = sorted(named_units(), key=len, reverse=True)
    words = [
        f"(?i:{re.escape(name)})" if len(name) > 2 and name.isalpha() else re.escape(name)
        for name in names
    ]
    return re.compile(rf"\s*-?\s*({'|'.join(words)})(?![\w²³^])")


def spell_units(text: str) -> str:
    """Write units of several words as one: ``kilometers per hour`` -> ``km/h``."""
    text = _SCIENTIFIC.sub(r"\1e\2", text)
    text = _SPEED_WORDS.sub(_shorten_speed, text)
    return _POWER_WORDS.sub(_shorten_power, text)


def _shorten_speed(match: re.Match[str]) -> str:
    length = _LENGTHS[match[1]]
    if "squared" in match[2]:
        return f"{length}/s²"
    per = next(short for long, short in _LONG_FORMS.items() if re.fullmatch(long, match[2]))
    return f"{length}{per}"


def _shorten_power(match: re.Match[str]) -> str:
    word, power = match[2], "²" if match[1] == "square" else "³"
    for long, short in (("kilo", "km"), ("centi", "cm"), ("mile", "mi"), ("f", "ft"), ("i", "in")):
        if word.startswith(long):
            return short + power
    return "m" + power


def find_quantities(text: str) -> list[Quantity]:
    """Find the numbers of a text with their units, in order; negated ones are left out.

    ``not 40 km/h but 60 km/h`` has one. The text has its units spelled by :func:`spell_units`.
    """
    return [
        each
        for each in _scan(text)
        if not _NEGATED.search(text[max(0, each.start - 40) : each.start])
    ]


def _scan(text: str) -> Iterator[Quantity]:
    for match in NUMBER.finditer(text):
        raw = match[0]
        value = number_value(raw.rstrip("%").strip() if "%" in raw else raw)
        if value is None:
            continue
        unit, end = None, match.end()
        if scale := _SCALE.match(text, end):
            value, end = value * _SCALES[scale[1].lower()], scale.end()
        if currency := _CURRENCY.search(raw):
            unit = named_units()[currency[0]]
        elif "%" not in raw and (named := _unit_pattern().match(text, end)):
            unit, end = _find_unit(named[1]), named.end()
        percent = "%" in raw or bool(re.match(r"\s*(?:percent|per cent|Prozent)\b", text[end:]))
        start = match.start() + len(raw) - len(raw.lstrip())
        yield Quantity(value, unit, percent, start, end)


def _find_unit(name: str) -> Unit | None:
    units = named_units()
    return units.get(name) or units.get(name.lower()) or units.get(name.capitalize())


def number_value(text: str) -> Fraction | None:
    """Read a number exactly, a fraction as a quotient; None if it is not a number."""
    # Three digits after "0," are not a group of thousands.
    normal = normal_number(re.sub(r"^(\s*[-−–+]?\s*0),(?=\d+$)", r"\1.", text.strip()))
    if normal is None:
        return None
    try:
        return Fraction(normal.removesuffix("%"))
    except (ValueError, ZeroDivisionError):
        return None


def unit_asked_for(question: str) -> tuple[Unit | None, bool]:
    """Find the unit of a bare number in the answer, and whether a percentage is asked for.

    It is the unit that is asked for (``in km/h``, ``how many minutes``); for a speed, that of the
    distance and the time in the question; else the only unit in the question.
    """
    text = spell_units(question)
    if re.search(r"\b(?:what|which|how many|as a|wie viel)\s+(?:percent|%|Prozent)", text, re.I):
        return None, True
    asked = re.search(r"\bhow (?:many|much)\s+|\bwie ?viele?\s+", text, re.I)
    if asked and (named := _unit_pattern().match(text, asked.end())):
        return _find_unit(named[1]), False
    for found in re.finditer(r"\b(?:in|as)\s+(?!\d)", text):
        named = _unit_pattern().match(text, found.end())
        if named and (len(named[1]) > 1 or named[1] in "mshgL"):
            return _find_unit(named[1]), False
    units = [each.unit for each in _scan(text) if each.unit is not None]
    if re.search(r"\bspeed\b|\bhow fast\b|\bwie schnell\b|\bgeschwindigkeit\b", text, re.I):
        return _speed_of(text, units), False
    if asked and "how many" in asked[0].lower():
        return None, False  # how many apples, whatever they cost
    different = {(unit.dimension, unit.factor, unit.offset): unit for unit in units}
    return (next(iter(different.values())) if len(different) == 1 else None), False


def _speed_of(text: str, units: list[Unit]) -> Unit | None:
    speeds = [unit for unit in units if unit.dimension == "speed"]
    lengths = {unit.factor for unit in units if unit.dimension == "length"}
    times = {unit.factor for unit in units if unit.dimension == "time"}
    if len({unit.factor for unit in speeds}) == 1:
        return speeds[0]
    if speeds or len(lengths) != 1 or len(times) != 1:
        return None
    return Unit("speed", "km/h", lengths.pop() / times.pop() * Fraction(36, 10))


def quantity_key(found: Quantity, asked: Unit | None, *, percentage: bool) -> str:
    """Return the key of a quantity: its value in the reference unit of its dimension.

    A bare number has the unit that is asked for; without one it stays a bare number.
    """
    value, unit = found.value, found.unit or (None if found.percent else asked)
    if found.percent or (percentage and unit is None):
        return f"{format_value(value)}%"
    if unit is None:
        return format_value(value)
    if isinstance(value, float):
        return f"{format_value(value * float(unit.factor) + float(unit.offset))} {unit.reference}"
    return f"{format_value(value * unit.factor + unit.offset)} {unit.reference}"


def format_value(value: Fraction | float) -> str:
    """Write a value: as a decimal if that is exact, as a fraction if not; 12 digits of a float."""
    if isinstance(value, float):
        return f"≈{value:.12g}"
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = max(len(str(value.denominator)) * 4, 1)
    if digits > 400:
        return f"{value.numerator}/{value.denominator}"
    return _exact_decimal(value)


def _exact_decimal(value: Fraction) -> str:
    from decimal import Context

    context = Context(prec=max(28, len(str(value.numerator)) + 4 * len(str(value.denominator))))
    decimal = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    written = f"{decimal:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
