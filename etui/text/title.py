"""Titles of chats: from the first words of a question, or from what a model wrote."""

from __future__ import annotations

import re
from itertools import takewhile

from etui.text.sanitize import sanitize

MOST_TITLE_CHARACTERS = 60

_READ_CHARACTERS = 2_000
_FENCE = re.compile(r"^\s*(```|~~~)")
_ATTACHED = re.compile(r"(?:File|Paste) .+:$")
_MARKS = re.compile(r"^(?:[#>*\-–•\s]|\d+[.)]\s)+")
_LABEL = re.compile(r"^(?:the\s+)?(?:chat\s+)?title(?:\s+is)?\s*[:：]\s*", re.IGNORECASE)
_QUOTES = "\"'`*_“”„«»‘’ "


def title_from_question(question: str) -> str:
    """Return the first words of a question as a title; empty for a blank one.

    They are those before the first code fence, or after it if there are none before, without
    Markdown marks, cut between two words.
    """
    if not question[:_READ_CHARACTERS].split():  # a lone carriage return would become a sign
        return ""
    lines = sanitize(question[:_READ_CHARACTERS]).splitlines()
    before = list(takewhile(lambda line: not _FENCE.match(line), lines))
    if len(before) > 1 and before != lines and _ATTACHED.match(before[-1]):
        before.pop()  # the name of an attached text
    plain = [line for line in lines if not _FENCE.match(line)]
    for kept in (before, plain):
        words = " ".join(" ".join(_MARKS.sub("", line) for line in kept).split())
        if words:
            return cut_at_word(words, MOST_TITLE_CHARACTERS)
    return cut_at_word(" ".join(" ".join(lines).split()), MOST_TITLE_CHARACTERS)


def title_from_answer(answer: str) -> str:
    """Return the title that a model wrote, without quotes, labels and marks; empty if it has none.

    Small models add a label (``Title: …``), quotes, or a second line.
    """
    for line in sanitize(answer[:_READ_CHARACTERS]).splitlines():
        words = " ".join(_MARKS.sub("", line).split()).strip(_QUOTES)
        words = _LABEL.sub("", words).strip(_QUOTES).rstrip(".").strip(_QUOTES)
        if words and not _FENCE.match(line):
            return cut_at_word(words, MOST_TITLE_CHARACTERS)
    return ""


def cut_at_word(text: str, most: int) -> str:
    """Cut a line between two words, with an ellipsis; a single long word is cut inside.

    Args:
        most: Maximum number of characters, the ellipsis included.
    """
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    if not text[most - 1].isspace() and " " in kept:
        kept = kept[: kept.rindex(" ")]
    return f"{kept.rstrip(' ,;:.–-')}…"
