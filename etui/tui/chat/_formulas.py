r"""Write simple LaTeX formulas as Unicode: ``\frac{1}{2} x_i^2`` becomes ``(1/2) xᵢ²``.

A formula with anything that is not known here stays as it was written: a wrong formula is worse
than one that is hard to read. (pylatexenc drops the braces of ``x^{n+1}`` and of fractions.)
"""

from __future__ import annotations

import re
from functools import lru_cache
from html.entities import html5
from unicodedata import category

_OWN = {  # Names that HTML does not have, or has for another sign
    "cdot": "·", "star": "⋆", "circ": "∘", "infty": "∞", "partial": "∂", "exists": "∃", "neg": "¬",
    "lnot": "¬", "ldots": "…", "dots": "…", "cdots": "⋯", "to": "→", "implies": "⟹", "land": "∧",
    "lor": "∨", "emptyset": "∅", "bmod": " mod ", "degree": "°", "lvert": "|", "rvert": "|",
    "ast": "*", "propto": "∝", "times": "×", "hbar": "ℏ", "varnothing": "∅", "epsilon": "ε",
    "neq": "≠", "iint": "∬", "lVert": "‖", "rVert": "‖",
}  # fmt: skip
_FUNCTIONS = frozenset(
    """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim max min sup
    inf det dim ker deg gcd arg argmax argmin Pr mod""".split()  # noqa: SIM905
)
_DOUBLE = dict(zip("RNZQCPEHF", "ℝℕℤℚℂℙ𝔼ℍ𝔽", strict=True))
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7",
            "tilde": "\u0303", "dot": "\u0307", "ddot": "\u0308"}  # fmt: skip
_ROOTS = {"": "√", "2": "√", "3": "∛", "4": "∜"}
_RAISED = dict(zip("0123456789+-−=()abcdefghijklmnoprstuvwxyzT∘′*",
                   "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ°′*", strict=True))  # fmt: skip
_LOWERED = dict(zip("0123456789+-−=()aehijklmnoprstuvxβγρφχ",
                    "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True))  # fmt: skip

# While a formula is read, 1 and 2 are around a fraction, 3 ends a line, 4 and 5 are ^ and _ of a
# script without signs of its own, and 6, 7 and 14 are { } _ that are shown.
_SHOWN = str.maketrans("\4\5\6\7\16", "^_{}_")
_LINES = re.compile(r"\\(?:begin|end)\{(?:aligned|align|gather|gathered|equation|split)\*?\}|\\\\")
_DROPPED = re.compile(
    r"\\(?:(?:left|right)\b\.?|(?:[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])|!)"
)
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad(?![A-Za-z])|[~&\n]")
_NAME = re.compile(r"\\([A-Za-z]+)")
_STRUCTURES = re.compile(
    r"[dtc]?frac|sqrt|text(?:bf|it|rm)?|mathrm|mbox|operatorname|math(?:bf|it|sf|cal|bb)|boxed|"
    rf"boldsymbol|{'|'.join(_ACCENTS)}"
)
_ARGUMENT = r"\s*(?:\{([^{}_^\\]*)\}|(\x01[^\x01\x02]*\x02|[^\s{}_^\\\x01\x02]))"
_COMMAND = re.compile(rf"\\(?!frac|sqrt)([a-z]+){_ARGUMENT}")
_FRAC = re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}")
_ROOT = re.compile(rf"\\sqrt(?:\s*\[(\w)\])?{_ARGUMENT}")
_SCRIPT = re.compile(rf"([_^]){_ARGUMENT}")
_GROUP = re.compile(r"(?<![\w}\]^])\{([^{}_^\\]*)\}|^\{([^{}_^\\]*)\}")
_FRACTION = re.compile("([\\w)\\]\2] *)?\1([^\1\2]*)\2(?=( *[\\w(√∛∜\4²³¹⁰-ⁿ\1])?)")
_ATOM = re.compile(r"\d+(?:[.,]\d+)?|[d∂]? ?\w[⁰ⁱ⁴-⁹ⁿ₀-₉ᵢⱼ²³¹]*|[^\W\d_]{4,}|\([^()]*\)")
_TIDY = re.compile(r"([(\[⟨⌊⌈]) | ([)\]⟩⌋⌉,;])|(?<=[a-z]) (?=[_^₀-ₜ⁰-ⁿ²³¹])")
_MOST_CHARACTERS = 2_000


@lru_cache(maxsize=512)
def write_formula(formula: str) -> str | None:
    """Write the inside of a formula as Unicode; None if it is not simple."""
    if len(formula) > _MOST_CHARACTERS or not formula.replace("\n", " ").isprintable():
        return None
    text = _SPACES.sub(" ", _DROPPED.sub("", _LINES.sub("\3", formula))).replace("'", "′")
    for sign, kept in (("{", "\6"), ("}", "\7"), ("_", "\16"), ("%", "%"), ("$", "$"), ("#", "#")):
        text = text.replace(f"\\{sign}", kept)
    try:
        text = _NAME.sub(_write_name, text)
        before = ""
        while text != before:
            before = text
            text = _COMMAND.sub(_write_command, text)
            text = _FRAC.sub(lambda found: f"\1{_atom(found, 1)}/{_atom(found, 3)}\2", text)
            text = _ROOT.sub(lambda found: _ROOTS[found[1] or ""] + _atom(found, 2), text)
            text = _SCRIPT.sub(_write_script, text)
            if text == before:
                text = _GROUP.sub(r"\1\2", text)
    except KeyError:
        return None
    if re.search(r"[\\{}^_]", text):
        return None
    while "\1" in text:
        text = _FRACTION.sub(_write_fraction, text, count=1)
    lines = (re.sub(r" +", " ", line).strip() for line in text.translate(_SHOWN).split("\3"))
    return _TIDY.sub(r"\1\2", "\n".join(line for line in lines if line)) or None


def _write_name(found: re.Match[str]) -> str:
    """Write a symbol; leave a command with an argument, and refuse an unknown name."""
    name = found[1]
    if _STRUCTURES.fullmatch(name):
        return "\\frac" if name.endswith("frac") else f"\\{name}"
    if name in _FUNCTIONS:
        return f" {name} "
    sign = _OWN.get(name) or html5[f"{name};"]
    is_operator = category(sign[0]) in ("Sm", "So") and sign not in "∑∏∫∬∮∞∂∇∀∃¬∅∠√ℏ°"
    return f" {sign} " if is_operator or sign == "·" else sign


def _write_command(found: re.Match[str]) -> str:
    name, inside = found[1], _inside(found, 2)
    if name == "mathbb":
        return _DOUBLE[inside.strip()]
    if name in _ACCENTS and len(inside.strip()) != 1:
        raise KeyError(name)
    return inside.strip() + _ACCENTS[name] if name in _ACCENTS else inside


def _write_script(found: re.Match[str]) -> str:
    """Write an index or a power in small signs, or else in parentheses."""
    table, inside = _RAISED if found[1] == "^" else _LOWERED, _inside(found, 2).strip()
    small = [table.get(each, "") for each in inside.replace(" ", "")]
    if small and all(small):
        return "".join(small)
    whole = len(inside) == 1 or re.fullmatch(r"\([^()]*\)", inside)
    return ("\4" if found[1] == "^" else "\5") + (inside if whole else f"({inside})")


def _write_fraction(found: re.Match[str]) -> str:
    """Write a fraction, in parentheses where what is beside it could be taken as a part."""
    alone = not found[1] and not found[3]
    return f"{found[1] or ''}{found[2]}" if alone else f"{found[1] or ''}({found[2]})"


def _atom(found: re.Match[str], group: int) -> str:
    """Return a part of a fraction or a root, in parentheses unless it is one number or word."""
    text = _inside(found, group).strip()
    return text if _ATOM.fullmatch(text) else f"({text})"


def _inside(found: re.Match[str], group: int) -> str:
    return found[group] if found[group] is not None else found[group + 1]
