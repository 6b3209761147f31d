"""Answers in words, as keys: yes or no, and short answers without what repeats the question."""

from __future__ import annotations

import re
import unicodedata

_YES_NO = re.compile(
    r"^(?:\W|please\b|so\b|and\b){0,9}(?:is|are|am|was|were|do|does|did|can|could|will|would|should|"
    r"has|have|had|may|must|isn't|aren't|doesn't|ist|sind|war|waren|hat|haben|kann|können|darf|gibt|"
    r"soll)\b(?!\s*:)|\btrue or false\b|\byes or no\b",
    re.I,
)
_YES = (
    r"yes|yeah|yep|true|correct|right|indeed|absolutely|certainly|definitely|ja|richtig|stimmt|wahr"
)
_NO = r"no|nope|false|incorrect|wrong|untrue|nein|falsch"
_VERDICT = re.compile(
    rf"\b(?:(?P<denied>not|isn['’]t|nicht)\s+(?:quite\s+|really\s+|entirely\s+)?)?"
    rf"(?:(?P<yes>{_YES})|(?P<no>{_NO}))\b",
    re.I,
)
_NEGATION = re.compile(r"\b(?:not|never|no|none|cannot|nicht|nie|niemals|kein\w*)\b|n['’]t\b", re.I)
_FACT = re.compile(
    r"^\s*(?:(?:in|on|at|of|for|to|by|from)\s+)?(?:who|whom|whose|what|which|where|name|wer|wen|wem|"
    r"was|wo|welche[mnrs]?|wie hei(?:ß|ss)\w*|nenne)\b",
    re.I,
)
_FILLER = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|well|great question|good question|thanks?(?: you)?|"
    r"let me (?:think|see)|i (?:think|believe|guess)(?: that)?|natürlich|klar|gute frage)"
    r"[\s,:;.!-]*)+",
    re.I,
)
_EMPTY_WORDS = """
a an the is are was were be been being it its this that these those there he she they his her
their in on at of by to for from and as with which who what called named name names known
located situated than als answer would will can der die das den dem des ein eine einer einem
einen ist sind war waren  es er sie im am in von zu und heißt heisst dr mr mrs ms prof professor
sir
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bSt)(?<!\bMrs)[.!?](?=\s|$)|\n")
_MOST_WORDS = 6
_LONGEST = 500
"""Characters of an answer that are read: a longer first sentence is no short answer."""
_INSTEAD = re.compile(r"^.*?\b(?:not|nicht)\b[^,;.]*?,?\s+\b(?:but|sondern)\b\s+", re.I)
_PASSIVE = re.compile(r"\b(?:was|were|is|are)\s+(?:first\s+)?\w+\s+by\b", re.I)
_CENTURY = re.compile(r"(?<=\w)\s+in (?:the )?(?:\d{4}|\d{1,2}(?:st|nd|rd|th) century)\b", re.I)
_EITHER = re.compile(
    r"(?:[,:]\s*(?:the\s+)?([\w .'-]{1,40}?)|\b([\w'-]+))\s+(?:or|oder)\s+(?:the\s+)?"
    r"([\w .'-]{1,40}?)\s*\?"
)
"""A choice: what is before ``or`` from the last comma on, or else one word."""
_BUT_NOT = re.compile(r"[,;(]\s*(?:and\s+)?(?:not|nicht|rather than|instead of)\b[^,;.)]*\)?", re.I)


def asks_yes_or_no(question: str) -> bool:
    """Return whether yes or no is expected: not for ``Is it red or blue?``."""
    text = re.sub(r"\b(?:true or false|yes or no)\b", "", question, flags=re.I)
    return _YES_NO.search(question) is not None and not re.search(r"\b(?:or|oder)\b", text, re.I)


def yes_or_no(text: str, question: str) -> str | None:
    """Return ``yes`` or ``no``, from the word that the answer begins with or comes to.

    An answer in other words counts only if it repeats all words of the question: with a negation
    that the question lacks it is ``no``, without one ``yes``.

    Returns:
        The key; None if the text does not decide.
    """
    text = text[:_LONGEST]
    first = _SENTENCE_END.split(_FILLER.sub("", text.strip()), maxsplit=1)[0]
    lead = first.split(",", maxsplit=1)[0]
    for part in (lead, first, text if len(text) < 200 else ""):
        found = list(_VERDICT.finditer(part))
        if found and (part is lead or len({_decide(match) for match in found}) == 1):
            return _decide(found[0])
    asked, said = _words(question) - _EMPTY, _words(first) - _EMPTY
    asked -= {"do", "does", "did", "has", "have", "had", "could", "should", "may", "must"}
    if asked and all(any(_same_stem(word, other) for other in said) for word in asked - {"not"}):
        denied = _NEGATION.search(first) is not None
        return "yes" if denied == (_NEGATION.search(question) is not None) else "no"
    return None


def fact_key(text: str, question: str) -> str | None:
    """Return the key of a short answer to a question for a fact; None for anything longer.

    The words of the question, articles, auxiliary verbs and titles are left out, so that ``Paris``
    and ``The capital of France is Paris.`` are the same; so are accents. Everything else counts:
    ``George W. Bush`` is not ``George Bush``, and ``not Paris`` is not ``Paris``.
    """
    either = _EITHER.search(question) is not None
    if not either and not _FACT.search(question):
        return None
    text = _FILLER.sub("", text[:_LONGEST].strip())
    first = next((part for part in _SENTENCE_END.split(text) if part.strip()), "")
    first = _BUT_NOT.sub(" ", _INSTEAD.sub("", first))
    if chosen := _alternative(first, question):
        return chosen
    first = _CENTURY.sub(" ", _PASSIVE.sub(" ", first))
    asked = set(_split(question))
    words = [word for word in _split(first) if word not in _EMPTY]
    kept = [word for word in words if word not in asked]
    kept = kept or words  # the answer is one of the things that the question names
    return " ".join(kept) if kept and len(kept) <= _MOST_WORDS else None


def _alternative(text: str, question: str) -> str | None:
    """Return the one of two things to choose between that an answer begins with, or only names."""
    match = _EITHER.search(question)
    if match is None:
        return None
    options = [" ".join(_split(group)) for group in match.groups() if group]
    said = [word for word in _split(text) if word not in _EMPTY]
    line = " ".join(said)
    if _NEGATION.search(text) or not all(options):
        return None
    begins = [option for option in options if f"{line} ".startswith(f"{option} ")]
    named = [option for option in options if f" {option} " in f" {line} "]
    for found in (begins, named):
        if len(found) == 1:
            return found[0]
    return None


def _decide(match: re.Match[str]) -> str:
    affirmed = (match["yes"] is not None) != (match["denied"] is not None)
    return "yes" if affirmed else "no"


def _same_stem(word: str, other: str) -> bool:
    short, long = sorted((word, other), key=len)
    return long.startswith(short) and len(long) - len(short) <= 3


def _words(text: str) -> set[str]:
    return set(_split(text))


def _split(text: str) -> list[str]:
    """Split a text into words without case and accents; a dotted initial keeps its letter."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    plain = re.sub(r"['’]s\b", "", plain)
    return re.findall(r"[^\W_]+(?:[.+#-][^\W_]+|\+\+|#)*", plain)
