"""Replace control characters, so that untrusted text cannot send escape sequences to the terminal.

Questions, answers, names and files can hold anything.
"""

from __future__ import annotations

import re

_CONTROL_PICTURES = 0x2400
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BIDI_OVERRIDES = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_SEPARATORS = (0x2028, 0x2029)
_SURROGATES = range(0xD800, 0xE000)


def _build_table() -> dict[int, str]:
    table = {code: chr(_CONTROL_PICTURES + code) for code in range(0x20)}
    del table[ord("\n")], table[ord("\t")]
    table[0x7F] = "\N{SYMBOL FOR DELETE}"
    table |= dict.fromkeys((*range(0x80, 0xA0), *_BIDI_OVERRIDES, *_SURROGATES), _REPLACEMENT)
    table |= dict.fromkeys(_LINE_SEPARATORS, "\n")
    return table


_SAFE = _build_table()


def sanitize(text: str) -> str:
    r"""Replace control characters, so that untrusted text cannot send escape sequences.

    Line breaks and tabs stay; the other control characters become symbols: ``\x1b[31m`` becomes
    ``␛[31m``. 8-bit controls, lone surrogates and characters that reorder a line (and so can hide
    what it says) become U+FFFD.
    """
    return text.replace("\r\n", "\n").translate(_SAFE)


def unify_line_ends(text: str) -> str:
    r"""Replace ``\r\n`` and a lone ``\r`` by ``\n``: terminals paste lines that end with ``\r``."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_json(text: str) -> str:
    """Escape what JSON leaves as it is and a terminal obeys; the value stays the same.

    Args:
        text: JSON, whose characters below U+0020 are already escaped.
    """
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shorten(text: str, most_characters: int, most_lines: int) -> tuple[str, int]:
    """Cut a text to a number of characters and of lines.

    Returns:
        The beginning of the text, and the number of characters left out.
    """
    lines = text.split("\n", most_lines)
    kept = "\n".join(lines[:most_lines])[:most_characters]
    return kept, len(text) - len(kept)
