"""Read the number of an answer by the rules of lm-eval's task ``gsm8k`` (version 3).

The patterns and the order of the replacements are those of ``lm_eval/tasks/gsm8k/gsm8k.yaml`` of
EleutherAI/lm-evaluation-harness 0.4.13: the filters ``strict-match`` and ``flexible-extract``, and
``regexes_to_ignore`` of its ``exact_match``. A change here needs a new version of the grading rules
(:mod:`etui.bench.grading`).
"""

from __future__ import annotations

import re

from etui.reasoning.numbers import normal_number

_LAST = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_STATED = re.compile(r"#### (\-?[0-9\.\,]+)")
_IGNORED = tuple(re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"))
_DIGIT = re.compile(r"[0-9]")
_VALUE = re.compile(r"-?[$0-9.,]*[0-9](?:[eE][-+]?[0-9]{1,3}(?![0-9]))?")
"""A number with its exponent, which lm-eval's rules read as a number of its own."""


def find_last_number(text: str) -> str | None:
    """Return the last number of a text (``flexible-extract``), as it is written there.

    The pattern also matches runs of points and commas without a digit; they are then the result.
    """
    *_, last = (None, *_LAST.finditer(text))
    return None if last is None else last[0]


def find_stated_number(text: str) -> str | None:
    """Return the number after the first ``####`` of a text (``strict-match``), as written there."""
    found = _STATED.search(text)
    return None if found is None else found[1]


def strip_number(text: str) -> str | None:
    """Remove what ``exact_match`` ignores: commas, dollars, all up to ``####``, a point at the end.

    Numbers are equal for lm-eval if the results are equal texts: ``18.00`` is not ``18``.

    Returns:
        The rest; None if it has no digit.
    """
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.strip().lower() if _DIGIT.search(text) else None


def last_number_value(text: str) -> str | None:
    """Return the value of the last number of a text: ``$1,234.50`` -> ``1234.5``.

    Unlike :func:`strip_number` it writes equal numbers as equal texts, so votes are counted by it,
    and it reads exponents: ``1.5e3`` -> ``1500``.

    Returns:
        The number in its normal form; None without one.
    """
    *_, last = (None, *_VALUE.finditer(text.replace("\u2212", "-")))
    bare = strip_number(last[0]) if last is not None else None
    return None if bare is None else normal_number(bare)
