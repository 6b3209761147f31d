"""Keys by which answers count as the same: numbers with units, dates, times, yes or no, and words.

The module is imported with the first answer that is read, because its patterns take 10 ms.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from fractions import Fraction

from etui.reasoning.quantity import (
    Quantity,
    Unit,
    compute,
    find_quantities,
    quantity_key,
    spell_units,
    unit_asked_for,
)

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_GERMAN_MONTHS = (
    *("januar", "februar", "märz", "april", "mai", "juni", "juli", "august", "september"),
    *("oktober", "november", "dezember"),
)

_NUMBERS = {
    **{name: number for number, name in enumerate(_GERMAN_MONTHS, 1)},
    **{name[:3]: number for number, name in enumerate(_MONTHS, 1)},
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    "sept": 9,
}

_MONTH = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_YEAR = (
    r"(?P<year>[12]\d{3}|\d{1,4}(?=\s*(?:BCE?|AD|CE|v\. ?Chr)))(?P<era>\s*(?:BCE?|v\. ?Chr\.?))?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|\.)?"

_PATTERNS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"\b(?P<year>\d{4})-(?P<number>\d{1,2})-(?P<day>\d{1,2})\b",
        r"\b(?P<day>\d{1,2})\.\s?(?P<number>\d{1,2})\.\s?(?P<year>\d{4})\b",
        rf"\b{_DAY}\s+(?:of\s+)?(?P<month>{_MONTH})\b\.?,?\s+(?:of\s+|in\s+)?{_YEAR}",
        rf"\b(?P<month>{_MONTH})\b\.?\s+{_DAY}(?:,\s*|\s+)(?:of\s+|in\s+)?{_YEAR}",
        rf"\b(?P<month>{_MONTH})\b\.?,?\s+(?:of\s+|in\s+)?{_YEAR}",
        rf"\b{_DAY}\s+(?:of\s+)?(?P<month>{_MONTH})\b",
        rf"\b(?P<month>{_MONTH})\b\.?\s+{_DAY}\b(?!\d)",
        rf"(?<![\d.,$€£]){_YEAR}\b(?![.,]\d|\s*%|s\b)",
    )
)

_LONGEST_DATED = 2000
"""Characters of an answer that are read."""

_SLASHED = re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b")

_TIME = re.compile(
    r"(?<![\d.,])(?P<hour>\d{1,2})(?:[:.](?P<minute>\d{2}))?\s*"
    r"(?P<half>a\.?m\b\.?|p\.?m\b\.?|o['’]clock|uhr\b)?",
    re.I,
)

_ASKS_FOR_DATE = re.compile(
    r"^\s*(?:when|wann)\b|\b(?:what|which|welche[mnrs]?)\s+(?:year|date|day|month|jahr|datum|tag)\b"
    r"|\bon what (?:date|day)\b",
    re.I,
)

_ASKS_FOR_YEAR = re.compile(r"\b(?:what|which|welche[mnrs]?)\s+(?:year|jahr)\b", re.I)
_ASKS_FOR_TIME = re.compile(r"\bwhat time\b|\bum wie ?viel uhr\b|\bwie spät\b", re.I)


def asks_for_date(question: str) -> bool:
    """Return whether a date is expected."""
    return _ASKS_FOR_DATE.search(question) is not None


def asks_for_time(question: str) -> bool:
    """Return whether a time of day is expected."""
    return _ASKS_FOR_TIME.search(question) is not None


def date_key(text: str, question: str) -> str | None:
    """Return the key of the first date, ``1776-07-04``, ``1776-07`` or ``1776``; None without one.

    The most exact date counts, and only its year if a year is asked for. A date such as 3/4/2020
    could be March or April, so it is kept as it is written; 25/12/2020 is in December. Years before
    Christ are negative.
    """
    text = text[:_LONGEST_DATED]
    aside = re.sub(r",\s*[a-z][^,]*,", " ", text)  # ", which began in 1939,"
    return _first_date(aside, question) or _first_date(text, question)


def _first_date(text: str, question: str) -> str | None:
    slashed = _SLASHED.search(text)
    if slashed:
        return _slashed_key(slashed, year_only=_ASKS_FOR_YEAR.search(question) is not None)
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            key = _key(match.groupdict(), year_only=_ASKS_FOR_YEAR.search(question) is not None)
            if key is not None:
                return key
    return None


def time_key(text: str) -> str | None:
    """Return the key of the first time of day in a text, None without one: 3 pm is ``15:00``."""
    for match in _TIME.finditer(text):
        half = (match["half"] or "").lower().replace(".", "")
        if not half and match["minute"] is None:
            continue
        hour, minute = int(match["hour"]), int(match["minute"] or 0)
        if half in ("am", "pm"):
            if not 1 <= hour <= 12:
                continue
            hour = hour % 12 + (12 if half == "pm" else 0)
        if hour <= 24 and minute < 60:
            return f"{hour % 24:02}:{minute:02}"
    return None


def _slashed_key(match: re.Match[str], *, year_only: bool) -> str:
    first, second, year = (int(group) for group in match.groups())
    if year_only:
        return str(year)
    if first == second or max(first, second) > 12 >= min(first, second):
        month, day = (first, second) if second > 12 else (second, first)
        return _valid(year, month, day) or match[0]
    return f"{first}/{second}/{year}"


def _key(found: dict[str, str | None], *, year_only: bool) -> str | None:
    stated = found.get("year")
    year = int(stated) if stated else None
    if year is not None and (found.get("era") or "").strip():
        year = -year
    name = found.get("month")
    month = int(found.get("number") or 0) or (_NUMBERS[name.lower()] if name else None)
    day = int(found.get("day") or 0) or None
    if year_only and year is not None:
        return str(year)
    if month is None:
        return None if year is None else str(year)
    if day is not None:
        return _valid(year, month, day)
    return None if year is None else f"{year}-{month:02}"


def _valid(year: int | None, month: int, day: int) -> str | None:
    try:
        date(2000 if year is None or year < 1 else year, month, day)
    except ValueError:
        return None
    return f"{'-' if year is None else year}-{month:02}-{day:02}"


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
    """Return the verdict that the answer begins with or comes to; None if the text does not decide.

    An answer in other words counts only if it repeats all words of the question: with a negation
    that the question lacks it is ``no``, without one ``yes``.
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


_COUNT = re.compile(r"\bhow many\b|\bwie viele\b", re.I)
_DIMENSIONS = (
    (r"\bspeed\b|\bhow fast\b|\bvelocity\b|\bwie schnell\b|\bgeschwindigkeit\b", ("speed",)),
    (r"\bhow (?:far|tall|high|deep|wide)\b|\bdistance\b|\bwie weit\b|\bheight\b", ("length",)),
    (r"\bhow (?:heavy|much .* weigh)\b|\bmass\b|\bweight\b|\bwie schwer\b", ("mass",)),
    (r"\barea\b|\bfläche\b", ("area",)),
    (r"\bvolume\b|\bvolumen\b", ("volume",)),
    (r"\btemperature\b|\bhow (?:hot|cold|warm)\b|\btemperatur\b", ("temperature",)),
    (r"\bcost\b|\bprice\b|\bpay\b|\bearn\b|\bspend\b", ("dollars", "euros", "sterling")),
    (r"\bhow long does\b|\bhow much time\b|\bwie lange\b", ("time",)),
)
_NOT_SURE = {
    ">": r"(?:more|greater|larger|higher|bigger|longer) than|over|above|mehr als|über",
    "≥": r"at least|no less than|mindestens",
    "<": r"(?:less|fewer|smaller|lower) than|under|below|weniger als|unter",
    "≤": r"at most|up to|no more than|höchstens|bis zu",
}
_PROBABILITY = re.compile(r"\bprobability\b|\bchance\b|\bwahrscheinlich", re.I)
_PARENTHESES = re.compile(r"\([^()]*\)")
_SENTENCE = re.compile(r"(?<!\d)[.!?;](?=\s|$)|(?<=\d)[.!?;](?=\s+\D|\s*$)|\n")
_REASON = re.compile(r"(?<=.),?\s+(?:since|because|weil|denn)\b.*", re.I | re.DOTALL)
_RANGE = re.compile(r"\s*(?:-|–|—|to|bis)\s*$")
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_GERMAN = (
    *("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"),
    *("elf", "zwölf"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_WORDS = {
    **{word: number for number, word in enumerate(_ONES)},
    **{word: 10 * number for number, word in enumerate(_TENS, 2)},
    **{word: number for number, word in enumerate(_GERMAN)},
    "none": 0,
    "once": 1,
    "twice": 2,
}
_NUMBER_WORDS = re.compile(
    rf"\b(?:(?:an?\s+)?(?:{'|'.join((*_WORDS, *_SCALES))})(?:[\s-]+(?:and\s+)?|\b))+", re.I
)


def number_key(text: str, question: str, stated_at: list[int], *, cut: bool = False) -> str | None:
    """Return the key of the number that an answer comes to; None without a number.

    It is the number stated as the answer (at ``stated_at``), or that at its beginning, or that of
    its last sentence: after the last ``=``, or in the dimension that is asked for, or else the last
    one, outside of parentheses. Numbers after ``not`` do not count. In a text that was ``cut`` off,
    quantities of another dimension and numbers of the question are on the way to the answer.
    """
    asked, percentage = unit_asked_for(question)
    count = asked is None and not percentage and _COUNT.search(question) is not None
    wanted = (asked.dimension,) if asked is not None else _dimensions(question)
    given = {each.value for each in find_quantities(spell_units(question))}
    for start in reversed(stated_at):
        piece = spell_units(_first_line(text[start : start + 120]))
        if _repeats(piece, given):  # "the result of the multiplication of 17 by 23"
            continue
        if key := _piece_key(piece, wanted, asked, question, percentage, count, first=True):
            return key
    whole = spell_units(text)
    if _begins_with_answer(whole) and (
        key := _piece_key(
            _SENTENCE.split(whole, maxsplit=1)[0], wanted, asked, question, percentage, count
        )
    ):
        return key
    sentences = [sentence for sentence in _SENTENCE.split(whole) if sentence.strip()]
    with_unit = [s for s in sentences if any(_is_wanted(q, wanted) for q in find_quantities(s))]
    last_first = [*reversed(with_unit[-1:]), *reversed(sentences)]
    # Sentences about another dimension, or with numbers of the question alone, come last.
    order = [(_is_other(each, wanted), _repeats(each, given)) for each in last_first]
    ranked = sorted(zip(order, last_first, strict=True), key=lambda each: each[0])
    for (is_other, _), sentence in ranked:
        if cut and (is_other or {each.value for each in find_quantities(sentence)} <= given):
            continue  # 60 km and 1.5 h are on the way to a speed
        if key := _piece_key(sentence, wanted, asked, question, percentage, count):
            return key
    return _words_key(text, asked, percentage)


def is_number(text: str) -> bool:
    """Return whether a text is nothing but a number, with or without a unit."""
    spelled = spell_units(text.strip().rstrip("."))
    found = find_quantities(spelled)
    return len(found) == 1 and (found[0].start, found[0].end) == (0, len(spelled))


def _piece_key(
    piece: str,
    wanted: tuple[str, ...],
    asked: Unit | None,
    question: str,
    percentage: bool,
    count: bool,
    *,
    first: bool = False,
) -> str | None:
    piece = _REASON.sub("", piece) or piece
    after = re.split(r"[=≈]|\bequals\b", piece)[-1]
    whole = compute(after.strip().rstrip(".} "))
    if whole is not None and not re.fullmatch(r"\s*[\d\s.,'’_]*\.?\s*", after):
        bare = Quantity(whole, None, False, 0, 0)
        if _is_share(bare, question):
            return _share_key(bare)
        return quantity_key(bare, asked, percentage=percentage)
    if after is not piece and (found := find_quantities(after)):
        chosen, place, text = found[0], 0, after
        first = True
    else:
        text = piece
        outside = _PARENTHESES.sub(lambda match: " " * len(match[0]), piece)
        found = find_quantities(outside) or find_quantities(piece)
        if not found:
            return None
        of_kind = [each for each in found if _is_wanted(each, wanted)]
        chosen = (of_kind or found)[0 if first else -1]
        place = found.index(chosen)
    if count and chosen.unit is not None:
        chosen = Quantity(chosen.value, None, chosen.percent, chosen.start, chosen.end)
    if _is_share(chosen, question):
        return _share_key(chosen)
    key = quantity_key(chosen, asked, percentage=percentage)
    return _qualify(key, text, found, place, asked, percentage)


def _qualify(
    key: str, text: str, found: list[Quantity], place: int, asked: Unit | None, percentage: bool
) -> str:
    """Add what makes a number another answer: the begin of a range, or ``more than``."""
    chosen = found[place]
    if place and _RANGE.match(text[found[place - 1].end : chosen.start]):
        low = found[place - 1]
        low = Quantity(low.value, low.unit or chosen.unit, low.percent or chosen.percent, 0, 0)
        return f"{quantity_key(low, asked, percentage=percentage)} to {key}"
    following = found[place + 1] if place + 1 < len(found) else None
    if following is not None and _RANGE.match(text[chosen.end : following.start]):
        return _qualify(
            quantity_key(following, asked, percentage=percentage),
            text,
            found,
            place + 1,
            asked,
            percentage,
        )
    before = text[max(0, chosen.start - 40) : chosen.start]
    if before.endswith("±"):
        return f"±{key}"
    for sign, words in _NOT_SURE.items():
        if re.search(rf"\b(?:{words})\s+[$€£]?$", before, re.I):
            return f"{sign}{key}"
    return key


def _share_key(found: Quantity) -> str:
    return quantity_key(Quantity(found.value * 100, None, True, 0, 0), None, percentage=True)


def _is_share(found: Quantity, question: str) -> bool:
    """Return whether a bare number is a probability, which is counted as a percentage."""
    bare = found.unit is None and not found.percent
    return bare and 0 <= found.value <= 1 and _PROBABILITY.search(question) is not None


def _is_other(sentence: str, wanted: tuple[str, ...]) -> bool:
    """Return whether a sentence has quantities, none of which is of a dimension asked for."""
    found = find_quantities(sentence)
    units = [each.unit for each in found if each.unit is not None]
    return bool(wanted and units) and not any(_is_wanted(each, wanted) for each in found)


def _repeats(sentence: str, given: set[Fraction | float]) -> bool:
    values = {each.value for each in find_quantities(sentence)}
    return len(values) > 1 and values <= given


def _dimensions(question: str) -> tuple[str, ...]:
    return next((kinds for words, kinds in _DIMENSIONS if re.search(words, question, re.I)), ())


def _is_wanted(found: Quantity, wanted: tuple[str, ...]) -> bool:
    return found.unit is not None and found.unit.dimension in wanted


def _first_line(text: str) -> str:
    line = text.strip().split("\n", maxsplit=1)[0]
    return _SENTENCE.split(line, maxsplit=1)[0]


def _begins_with_answer(text: str) -> bool:
    """Return whether the text begins with a quantity and the sentence ends there."""
    found = find_quantities(text[:80])
    if not found or found[0].start > 1:
        return False
    follows = text[found[0].end :]
    exact = found[0].unit is not None or found[0].percent
    return (
        re.match(r"\s*(?:[.;,(\n]|$)" if exact else r"\s*(?:[,\n]|$|\.\s*\n)", follows) is not None
    )


def _words_key(text: str, asked: Unit | None, percentage: bool) -> str | None:
    found = [match[0] for match in _NUMBER_WORDS.finditer(text)]
    values = [value for words in found if (value := _read_words(words)) is not None]
    if not values:
        return None
    return quantity_key(Quantity(values[-1], None, False, 0, 0), asked, percentage=percentage)


def _read_words(words: str) -> Fraction | None:
    total, current, seen = 0, 0, False
    for word in re.split(r"[\s-]+", words.lower().strip()):
        if word in _WORDS:
            current, seen = current + _WORDS[word], True
        elif word in _SCALES:
            scale = _SCALES[word]
            current, seen = max(current, 1) * scale, True
            if scale >= 1000:
                total, current = total + current, 0
    return Fraction(total + current) if seen else None
