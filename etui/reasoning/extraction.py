"""Extract the answer from a text: a letter, a number with its unit, a date, yes or no, or words.

Votes are counted by its ``key``: answers with the same meaning have the same key, and the key
depends on the answer and the question alone, so that votes stay exchangeable for the stop rules.
A missing answer, one cut off before it was written, and a wrong answer are three different results.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from etui.multiple_choice import Option

ExtractionStatus = Literal["answered", "no_answer", "truncated"]

_STATEMENT = re.compile(
    r"\b(?:answer|antwort|option|choice|result|solution|ergebnis|lösung)\b"
    r"(?:\s+(?:is|ist|would\s+be|should\s+be|must\s+be))?\s*:?\s*|\\boxed\s*\{",
    re.I,
)
_ASKS_FOR_NUMBER = re.compile(
    r"\bhow (?:many|much|far|long|old|tall|fast|often)\b|\bwie (?:viele?|weit|lange|alt|oft)\b"
    r"|\b(?:calculate|compute|evaluate|berechne|percentage|probability)\b"
    r"|\d\s*[-+*/×÷^=−]\s*\d",
    re.I,
)
_ASKS_FOR_MEASURE = re.compile(
    r"\b(?:what|which|was)(?:['’]s|\s+(?:is|are|was|were|will be|would be|ist|sind|war))\s+"
    r"(?:the|its|his|her|their|die|der|das)\s+(?:[\w'’-]+\s+){0,2}?"
    r"(?:speed|velocity|distance|area|volume|perimeter|circumference|length|width|height|depth|weight|"
    r"mass|temperature|duration|cost|price|sum|difference|product|quotient|average|mean|median|total|"
    r"remainder|value|age|rate|ratio|angle|amount|radius|diameter|population|interest|profit|number|"
    r"probability|chance|square root|cube root|derivative|integral|boiling point|freezing point|"
    r"geschwindigkeit|fläche|umfang|höhe|summe|differenz|produkt|preis|temperatur|länge|strecke)\b"
    r"|\bsolve\b.*\bfor [a-z]\b|\bfind [a-z]\b",
    re.I,
)
_SEVERAL = re.compile(
    r"=[^=\n]{0,40}(?:\b(?:or|oder)\b|±|(?:,|\b(?:and|und)\b)\s*(?:[a-z]\s*=\s*)?[-−]?\d[\d./]*\s*$)"
)
"""Several solutions: a single number would be the last of them."""
_EMPHASIS = re.compile(r"\*{2,3}|(?<![\s\d)])\*|\*(?![\s\d(])|[_`]")
_SPACES = re.compile(r"[^\S\n]+")
_ALGEBRA = re.compile(r"(?=.*[\^+*/=-])(?:[\d\s^+*/=().,√π-]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+")
_MARKUP = re.compile(r"[*_`$]|\\(?:text|mathrm|mathbf)\b|\\[()\[\]]")
_ARTICLES = re.compile(r"\b(?:a|an|the|der|die|das|ein|eine)\b")
_NOT_WORDS = re.compile(r"[^\w\s%/+.-]|(?<!\d)[.-]|\.(?!\d)")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The extracted answer."""

    key: str | None  # The letter, the number or the words it is counted by; None without an answer
    status: ExtractionStatus
    """``no_answer``: the text ended without one; ``truncated``: it was cut off before one."""


def extract(
    text: str,
    question: str,
    options: Sequence[Option] = (),
    *,
    truncated: bool = False,
    number: bool = False,
) -> Extracted:
    """Extract the answer to a question from a text without thinking.

    With ``number`` it is the last number, without a unit.
    """
    if number:
        from etui.reasoning.quantity import last_number_value

        key = last_number_value(text)
    elif options:
        key = _letter(_MARKUP.sub("", unicodedata.normalize("NFKC", text)).strip(), options)
    else:
        key = _open_answer(text, question, cut=truncated)
    if key is not None:
        return Extracted(key, "answered")
    return Extracted(None, "truncated" if truncated else "no_answer")


def normal_text(text: str) -> str:
    """Normalize a text to words without case, punctuation and articles: ``The Sun.`` -> ``sun``."""
    folded = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words


def _open_answer(text: str, question: str, *, cut: bool) -> str | None:
    """Return the key of an answer without options; None without an answer.

    Its modules are imported on the first use: their patterns take as long to compile as all other
    modules of a turn.
    """
    from etui.reasoning.answer_key import (
        asks_for_date,
        asks_for_time,
        asks_yes_or_no,
        date_key,
        fact_key,
        is_number,
        time_key,
        yes_or_no,
    )
    from etui.reasoning.quantity import plain_math

    # NFKC writes m² as m2, so it follows the units of the LaTeX.
    plain = _SPACES.sub(" ", plain_math(_EMPHASIS.sub("", _keep_powers(text)))).strip()
    statement = _statement(plain)
    if _ASKS_FOR_NUMBER.search(question):
        return _number(plain, question, cut=cut)
    one_number = _ASKS_FOR_MEASURE.search(question) and not _SEVERAL.search(statement)
    if one_number and (key := _number(plain, question, cut=cut)):
        return key
    if cut:
        return None
    if asks_for_date(question) and (key := date_key(statement, question)):
        return key
    if asks_for_time(question) and (key := time_key(statement)):
        return key
    if asks_yes_or_no(question) and (key := yes_or_no(statement, question)):
        return key
    if is_number(statement):
        return _number(plain, question, cut=False)
    if _ALGEBRA.fullmatch(statement):
        return re.sub(r"[\s*]", "", statement)
    return fact_key(statement, question) or normal_text(statement) or None


def _keep_powers(text: str) -> str:
    """Normalize compatibility characters (full width, ligatures), but not squared units."""
    parts = re.split(r"([²³°Ω¢£])", text)
    return "".join(p if i % 2 else unicodedata.normalize("NFKC", p) for i, p in enumerate(parts))


def _statement(text: str) -> str:
    """Return what follows the last ``the answer is``, up to the end of its line; else the text."""
    *_, last = [None, *_STATEMENT.finditer(text)]
    if last is None:
        return text.rstrip(".")
    stated = text[last.end() :].strip().split("\n", maxsplit=1)[0]
    return stated.rstrip(".} ") or text.rstrip(".")


def _number(text: str, question: str, *, cut: bool) -> str | None:
    from etui.reasoning.answer_key import number_key

    if cut:
        text = re.sub(r"[\d.,/%]+$", "", text)
    stated_at = [match.end() for match in _STATEMENT.finditer(text)]
    return number_key(text, question, stated_at, cut=cut)


def _letter(text: str, options: Sequence[Option]) -> str | None:
    """Find the option stated last: in a sentence, at the start, in brackets, or by its words."""
    patterns = _build_letter_patterns("".join(option.letter for option in options))
    for pattern in patterns:
        found = list(pattern.finditer(text))
        if found:
            return next(group for group in found[-1].groups() if group).upper()
    stated_words = normal_text(_statement(text))
    bodies = {option.letter: normal_text(option.text) for option in options}
    same = [letter for letter, body in bodies.items() if body and body == stated_words]
    if len(same) == 1:
        return same[0]
    named = [
        letter
        for letter, body in bodies.items()
        if body and re.search(rf"(?<!\w){re.escape(body)}(?!\w)", stated_words)
    ]
    return named[0] if len(named) == 1 else None


@cache
def _build_letter_patterns(letters: str) -> tuple[re.Pattern[str], ...]:
    """Build the patterns that state a letter, the most explicit first.

    A lower-case letter counts only in brackets, and a bare ``A`` or ``I`` only if no word follows:
    both are English words.
    """
    upper = f"[{letters}]"
    either = f"[{letters}{letters.lower()}]"
    bare = rf"({upper})(?![\w'’])(?!(?<=[AI])\s+[a-z])"
    bracketed = rf"\(({either})\)|\b({either})\)"
    says = (
        r"(?i:\b(?:answer|antwort|option|choice|solution|lösung)\b"
        r"(?:\s+(?:is|ist|would\s+be|should\s+be|must\s+be|therefore|thus|clearly))*"
        r"(?:\s+(?:option|choice|antwort))?\s*:?\s*)"
    )
    chooses = r"(?i:\b(?:choose|pick|select|wähle|nehme)\s+(?:option\s+|choice\s+|answer\s+)?)"
    follows = r"(?i:\s+(?:is|ist)\s+(?:the\s+|die\s+)?(?:correct|right|best|true|richtig))"
    return tuple(
        re.compile(pattern, re.MULTILINE)
        for pattern in (
            rf"(?:{says}|{chooses}|\\boxed[\s{{]*)(?:{bracketed}|{bare})"
            rf"|(?:{bracketed}|\b({upper})){follows}",
            rf"\A\s*(?:\(({either})\)|({either})\)|({upper})[.:]|({upper})(?=\s*\Z|\s*\n))",
            rf"^\s*(?:\(({either})\)|({upper})[.)]?)\s*$",
            rf"\(({either})\)",
        )
    )
