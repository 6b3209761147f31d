"""The number that an answer comes to: which of its numbers, in which unit."""

from __future__ import annotations

import re
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
    """Return the key of the number that an answer comes to.

    It is the number stated as the answer, or that at its beginning, or that of its last sentence:
    after the last ``=``, or in the dimension that is asked for, or else the last one, outside of
    parentheses. Numbers after ``not`` do not count.

    Args:
        text: The answer without markup and LaTeX.
        question: The question, which shows the unit of a bare number.
        stated_at: Where the text states an answer (behind ``the answer is``), in order.
        cut: Whether the text was cut off. Quantities of another dimension and numbers of the
            question are then on the way to the answer.

    Returns:
        The key; None without a number.
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
    """Return the key of the number that a sentence comes to; None if it has none."""
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
    """Return the key of the last number in words: ``forty-two``, ``a dozen``."""
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
