"""Parse the options of a multiple-choice question from its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import ascii_uppercase

# "A) x", "(A) x" anywhere; "A. x", "A: x" only at a line's start: "Plan A: go" is no option.
_LABEL_END = re.compile(r"[).:]\s")
_LABEL = re.compile(r"(?:(?<=\s)|^)(?:\(([A-Za-z])\)|([A-Za-z])\))\s|^[ \t]*([A-Z])[.:]\s", re.M)


MOST_CHARACTERS = 32_768
"""Characters at the end of a question in which its options are looked for: a chat can have millions
that look like options, and whoever waits for its answer reads them."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its letter (upper case) and its text."""

    letter: str
    text: str


def parse_options(text: str) -> tuple[Option, ...]:
    """Parse the options ``A) ...``, ``(A) ...``, ``A. ...``, ``A: ...`` of a question, in order.

    The options are the longest run of the letters A, B, C, ... in one form, so that brackets within
    an option are no labels; of equally long runs the last, so that solved examples before the
    question do not count. The text of an option ends at the next
    label, that of the last option at the end of its line. Of a text longer than
    :data:`MOST_CHARACTERS` the whole lines at its end are read.

    Returns:
        The options; empty if there are fewer than two.
    """
    if len(text) > MOST_CHARACTERS:
        text = text[text.find("\n", len(text) - MOST_CHARACTERS) + 1 :][-MOST_CHARACTERS:]
    if _LABEL_END.search(text) is None:  # most questions have no label, and this is quick to see
        return ()
    best: list[re.Match[str]] = []
    runs: dict[tuple[int | None, bool], list[re.Match[str]]] = {}
    for found in _LABEL.finditer(text):
        letter = _letter(found)
        form = found.lastindex, letter in found[0]
        run = runs.get(form, [])
        if len(run) < len(ascii_uppercase) and letter == ascii_uppercase[len(run)]:
            run.append(found)
        else:
            run = [found] if letter == "A" else []
        runs[form] = run
        if len(run) >= len(best):
            best = list(run)
    if len(best) < 2:
        return ()
    ends = [label.start() for label in best[1:]]
    bodies = [text[label.end() : end] for label, end in zip(best, ends, strict=False)]
    bodies.append(text[best[-1].end() :].split("\n", maxsplit=1)[0])
    return tuple(
        Option(_letter(label), " ".join(body.split()).rstrip(",;"))
        for label, body in zip(best, bodies, strict=True)
    )


def _letter(label: re.Match[str]) -> str:
    return str(label[1] or label[2] or label[3]).upper()
