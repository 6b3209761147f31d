"""Extract the answer from a text: an option's letter, a number, or the statement itself.

Votes are counted by its ``key``: answers with the same meaning have the same key. A missing answer,
one cut off before it was written, and a wrong answer are three different results.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from etui.multiple_choice import Option
from etui.reasoning.numbers import NUMBER, last_number, normal_number

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
_MARKUP = re.compile(r"[*_`$]|\\(?:text|mathrm|mathbf)\b|\\[()\[\]]")
_ARTICLES = re.compile(r"\b(?:a|an|the|der|die|das|ein|eine)\b")
_NOT_WORDS = re.compile(r"[^\w\s%/+.-]|(?<!\d)[.-]|\.(?!\d)")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The extracted answer.

    Attributes:
        key: The letter, the number or the words it is counted by; None without an answer.
        status: ``no_answer``: the text ended without one; ``truncated``: it was cut off before one.
    """

    key: str | None
    status: ExtractionStatus


def extract(
    text: str, question: str, options: Sequence[Option] = (), *, truncated: bool = False
) -> Extracted:
    """Extract the answer to a question from a text.

    Args:
        text: The answer as the model wrote it, without the thinking.
        question: The question, which shows whether a number is expected.
        options: The question's options; if given, only a letter is an answer.
        truncated: Whether a limit cut off the text.
    """
    plain = _MARKUP.sub("", unicodedata.normalize("NFKC", text)).strip()
    if options:
        key = _letter(plain, options)
    elif _ASKS_FOR_NUMBER.search(question) or NUMBER.fullmatch(_statement(plain)):
        key = _number(plain, cut=truncated)
    else:
        key = None if truncated else normal_text(_statement(plain)) or None
    if key is not None:
        return Extracted(key, "answered")
    return Extracted(None, "truncated" if truncated else "no_answer")


def normal_text(text: str) -> str:
    """Normalize a text to words without case, punctuation and articles: ``The Sun.`` -> ``sun``."""
    folded = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words


def _statement(text: str) -> str:
    """Return what follows the last ``the answer is``, up to the end of its line; else the text."""
    *_, last = [None, *_STATEMENT.finditer(text)]
    if last is None:
        return text.rstrip(".")
    stated = text[last.end() :].strip().split("\n", maxsplit=1)[0]
    return stated.rstrip(".} ") or text.rstrip(".")


def _number(text: str, *, cut: bool) -> str | None:
    """Find the number stated last; ``cut`` ignores one at the end, which may be incomplete."""
    if cut:
        text = re.sub(r"[\d.,/%]+$", "", text)
    statements = [match.end() for match in _STATEMENT.finditer(text)]
    for start in reversed(statements):
        if first := NUMBER.search(text, start, start + 80):
            return normal_number(first[0])
    return last_number(text)


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
