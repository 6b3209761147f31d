"""Text from questions, answers and files, made safe to show: nothing in it reaches the terminal."""

from __future__ import annotations

_CONTROL_PICTURES = 0x2400
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BIDI_OVERRIDES = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_SEPARATORS = (0x2028, 0x2029)
_SURROGATES = range(0xD800, 0xE000)


def _table() -> dict[int, str]:
    table = {code: chr(_CONTROL_PICTURES + code) for code in range(0x20)}
    del table[ord("\n")], table[ord("\t")]
    table[0x7F] = "\N{SYMBOL FOR DELETE}"
    table |= dict.fromkeys((*range(0x80, 0xA0), *_BIDI_OVERRIDES, *_SURROGATES), _REPLACEMENT)
    table |= dict.fromkeys(_LINE_SEPARATORS, "\n")
    return table


_VISIBLE = _table()


def visible(text: str) -> str:
    """``text`` with its control characters shown as symbols: ``\\x1b[31m`` becomes ``␛[31m``.

    Line breaks and tabs stay. 8-bit controls, lone surrogates and characters that reorder a line
    (a way to hide what it says) become U+FFFD.
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def shortened(text: str, most_characters: int, most_lines: int) -> tuple[str, int]:
    """The beginning of ``text`` within both bounds, and how many characters were left out."""
    lines = text.split("\n", most_lines)
    kept = "\n".join(lines[:most_lines])[:most_characters]
    return kept, len(text) - len(kept)
