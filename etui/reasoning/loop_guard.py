"""Notice that an answer has begun to repeat itself, while it is decoded.

Text is stale where each run of :data:`GRAM` symbols has occurred before, at most one period ago. A
loop stays stale for as long as it lasts; a refrain, a table or similar lines of code do not,
because a verse, a name or a number is new in between. For each of a geometric series of periods, a
cumulative sum (Page, "Continuous Inspection Schemes", Biometrika 1954) follows the stale stretch:
it tolerates a few changed symbols, and starts again where the text is new. The stretch is a loop
once it has gone on for :data:`ROUNDS` periods after the first, and is long enough for what it is
made of: words repeat for no reason sooner than code does, and code sooner than digits and rules.

A symbol is a token, but the number of a list item (``12.`` at the head of a line) is one symbol
whatever its value, so that a list of one sentence is a loop. Any other number that is new in its
place, or a line that begins with a new word, is progress: it ends the stretch. The cost per token
is a fixed number of integer operations.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from etui.arm import Arm

GRAM = 4
"""Symbols that must have occurred together before, for the last of them to be stale."""

ROUNDS = 1.6
"""Periods of stale text after the first round: a loop is ended within its third round."""

_PERIODS = tuple(dict.fromkeys(round(4 * 1.15**step) for step in range(37)))
"""Periods to look for, 4 to about 600 symbols; a period counts up to the next larger one."""

_PENALTY = 3
"""Stale symbols that one new symbol takes back: a stretch is at least three quarters stale."""

_SHARE = 0.85
"""Least share of stale symbols in a loop."""

_WORDY, _WORDLESS = 0.5, 0.2
"""Shares of words that separate prose from code, and code from numbers and rules."""

_RULED = 0.04
"""Share of symbols with a character of :data:`_RULES` from which words are code or a table."""

_RULES = frozenset("|<>{}=;_\\/~^")

_PROSE_SYMBOLS, _CODE_SYMBOLS, _NUMBER_SYMBOLS = 32, 192, 360
"""Shortest loop of each kind, its first round included."""

_SPARE_ROUNDS = 2
"""Rounds in addition to those that the question asks for, before they are a loop."""

_NUMBER = -1
"""Symbol of the number of a list item."""

_FENCE = "```"

_COUNTS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "twenty": 20,
    "thirty": 30,
    "fifty": 50,
    "hundred": 100,
}

_TIMES = re.compile(
    rf"\b(\d{{1,5}}|{'|'.join(_COUNTS)})[ -]?"
    r"(?:times\b(?!\s*\d)|mal\b|fois\b|veces\b|volte\b|vezes\b|x\b)|\btwice\b",
    re.IGNORECASE,
)
"""How often something is asked for: ``50 times``, ``ten times``, ``20 mal``; not ``3 times 4``."""

_REPEAT = re.compile(
    r"\b(?:repeat|repeating|again and again|over and over|for ?ever|immer wieder|wiederhole?n?|"
    r"r[ée]p[èée]te[rz]?|repite|repetir|repeti|ripeti|ripetere)\b",
    re.IGNORECASE,
)

_DANGLING = re.compile(r"(?:\n[ \t]*(?:[-*+•]|\d+[.)]?|#+))+[ \t]*$")
_SENTENCE_ENDS = (".", "!", "?", "\n", "。")


@dataclass(frozen=True, slots=True)
class Repetition:
    """A loop that was found."""

    kept_tokens: int  # Number of tokens up to the end of the first round
    period_tokens: int  # Tokens of one round, the numbers of list items counted as one
    rounds: float  # Rounds that were decoded, the first included


def asked_rounds(question: str) -> float:
    """Return how often a question asks for the same text: 1 unless it asks for a repetition.

    It is infinite if the question asks to repeat something, but not how often.
    """
    found = _TIMES.search(question)
    if found is not None:
        count = (found[1] or "two").casefold()
        return float(_COUNTS.get(count) or count)
    return math.inf if _REPEAT.search(question) else 1.0


def build_guard(arm: Arm, question: str) -> LoopGuard | None:
    """Build the guard of a run of tokens of an arm; None if the arm has none."""
    return LoopGuard(asked_rounds(question)) if arm.loop_guard else None


class LoopGuard:
    """Follow the tokens of one run of text, one by one and in order, until a loop is found."""

    def __init__(self, asked: float = 1.0) -> None:
        self._asked = asked
        self.found: Repetition | None = None
        self._count = 0
        self._number: list[int] = []
        self._at_head = True
        self._line_tail = ""
        self._fenced = False
        self._recent: tuple[int, ...] = ()
        self._known: set[int] = set()
        self._seen: dict[tuple[int, ...], int] = {}
        self._starts: list[int] = []
        self._distances: list[int] = []
        self._pieces: list[str] = []
        self._words = [0]
        self._blanks = [0]
        self._ruled = [0]
        self._scores = [0] * len(_PERIODS)
        self._since = [0] * len(_PERIODS)

    def take(self, token: int, piece: bytes) -> Repetition | None:
        """Take the next token and its bytes; return the loop if the text has begun to repeat."""
        text = piece.decode("utf-8", "replace")
        index = self._count
        self._count += 1
        self._pieces.append(text)
        if self.found is not None:
            return self.found
        if text.strip().isdecimal() and (self._number or self._at_head):
            self._number.append(token)
            return None
        if self._number:
            self._end_number(index, is_item=text[:1] in (".", ")", ":"))
        self._push(token, index, text)
        return self.found

    def _end_number(self, index: int, *, is_item: bool) -> None:
        """Push a number at the head of a line, now that it is known what follows it."""
        first = index - len(self._number)
        if is_item:
            self._push(_NUMBER, first, "1")
        else:
            for offset, token in enumerate(self._number):
                self._push(token, first + offset, self._pieces[first + offset])
        self._number.clear()

    def _push(self, symbol: int, start: int, text: str) -> None:
        at = len(self._starts)
        self._starts.append(start)
        is_progress = symbol != _NUMBER and (
            any(map(str.isdecimal, text))
            or (self._at_head and symbol not in self._known and _is_word(text))
        )
        self._known.add(symbol)
        self._follow_lines(text)
        self._words.append(self._words[-1] + _is_word(text))
        self._blanks.append(self._blanks[-1] + (not text.strip()))
        ruled = self._fenced or not _RULES.isdisjoint(text)
        self._ruled.append(self._ruled[-1] + ruled)
        self._recent = (*self._recent[-GRAM + 1 :], symbol)
        before = self._seen.get(self._recent)
        self._seen[self._recent] = at
        distance = at - before if before is not None and len(self._recent) == GRAM else 0
        self._distances.append(distance)
        if is_progress and not distance:
            self._scores = [0] * len(_PERIODS)
            self._since = [at + 1] * len(_PERIODS)
        else:
            self._update(at, distance)

    def _update(self, at: int, distance: int) -> None:
        scores, since = self._scores, self._since
        for level, period in enumerate(_PERIODS):
            if 0 < distance <= period:
                scores[level] += 1
                if self.found is None and at + GRAM - since[level] >= ROUNDS * period:
                    self.found = self._judge(at, level, period)
            elif scores[level] > _PENALTY:
                scores[level] -= _PENALTY
            else:
                scores[level] = 0
                since[level] = at + 1

    def _judge(self, at: int, level: int, period: int) -> Repetition | None:
        """Return the loop if the stale stretch of a period is dense and long enough."""
        begin, end = self._since[level], at + 1
        length = end - begin
        new = (length - self._scores[level]) / (1 + _PENALTY)
        if 1 - new / length < _SHARE:
            return None
        if length + period < self._shortest(begin, end) or length < self._asked:
            return None
        near = [d for d in self._distances[max(begin, end - period) : end] if d]
        true_period = Counter(near).most_common(1)[0][0]
        rounds = (length + GRAM - 1 + true_period) / true_period
        if length + true_period < self._shortest(begin, end):
            return None
        if self._asked > 1 and rounds < self._asked + _SPARE_ROUNDS:
            return None
        second = max(0, begin - GRAM + 1)
        return Repetition(self._round_off(self._starts[second], true_period), true_period, rounds)

    def _shortest(self, begin: int, end: int) -> int:
        """Return the length in symbols from which a stale stretch is a loop, by its content."""
        length = end - begin
        marks = length - (self._blanks[end] - self._blanks[begin])
        words = (self._words[end] - self._words[begin]) / max(1, marks)
        if words < _WORDLESS:
            return _NUMBER_SYMBOLS
        ruled = (self._ruled[end] - self._ruled[begin]) / length
        return _PROSE_SYMBOLS if words >= _WORDY and ruled < _RULED else _CODE_SYMBOLS

    def _round_off(self, kept: int, period: int) -> int:
        """Move the end of the first round to the end of its sentence, if that is near."""
        for end in range(max(1, kept), min(kept + period, self._count)):
            if self._pieces[end - 1].rstrip(" \"'*)").endswith(_SENTENCE_ENDS):
                return end
        return kept

    def _follow_lines(self, text: str) -> None:
        """Follow whether only marks precede on the line, and the fences of code."""
        _, newline, tail = text.rpartition("\n")
        joined = self._line_tail + text
        if _FENCE in joined and _FENCE not in self._line_tail:
            self._fenced = not self._fenced
        self._at_head = (bool(newline) or self._at_head) and not tail.strip(" \t#*-+>")
        self._line_tail = (tail if newline else joined)[-8:]


def _is_word(text: str) -> bool:
    """Return whether a token is a word or a part of one; so are the bytes of a split character."""
    bare = text.strip()
    return bool(bare) and bare.replace("'", "").replace("\ufffd", "x").isalpha()


def keep_first_round(text: str) -> str:
    """Tidy the end of a text that was cut after the first round of a loop."""
    return _DANGLING.sub("", text.rstrip()).rstrip()
