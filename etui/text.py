"""Safe terminal text, tables, suggestions and timestamps."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Literal

_CUTOFF = 0.6
_CLOSE = 0.1
"""A second name is suggested too if its similarity is this close to the first name's."""
_MOST_CHARACTERS = 100


def find_nearest(
    word: str, names: Iterable[str], *, most: int = 1, cutoff: float = _CUTOFF
) -> list[str]:
    """Find the names that are most similar to a word, the most similar first; case matters."""
    from difflib import get_close_matches  # not for the start of etui

    return get_close_matches(word, list(names), n=most, cutoff=cutoff)


def format_suggestion(names: Sequence[str], *, quoted: bool = True) -> str:
    """Format ``did you mean 'a' or 'b'?``; an empty text without names."""
    shown = [repr(name) if quoted else name for name in names]
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def suggest(
    word: str,
    names: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = _CUTOFF,
    quoted: bool = True,
) -> str:
    """Format ``did you mean 'a'?`` for the nearest names; an empty text if none is near."""
    return format_suggestion(find_nearest(word, names, most=most, cutoff=cutoff), quoted=quoted)


def did_you_mean(word: str, names: Iterable[str], *, listed: int = 8) -> str:
    """Format the end of a sentence about an unknown word; case does not matter.

    It is ``, did you mean 'x'?`` for the nearest names. If none is near, it is ``; known: a, b``
    for at most ``listed`` names, else empty.
    """
    from difflib import SequenceMatcher  # not for the start of etui

    known = sorted(set(names))
    folded = {name.casefold(): name for name in known}
    given = word.casefold()[:_MOST_CHARACTERS]
    near = find_nearest(given, folded, most=2)
    if near:
        best = SequenceMatcher(None, near[0], given).ratio()
        near = [n for n in near if SequenceMatcher(None, n, given).ratio() > best - _CLOSE]
        return ", did you mean " + " or ".join(f"'{folded[name]}'" for name in near) + "?"
    if known and len(known) <= listed:
        return "; known: " + ", ".join(known)
    return ""


Precision = Literal["seconds", "milliseconds"]


def utc_now(precision: Precision = "milliseconds") -> str:
    """Return the current time as ISO 8601 in UTC."""
    return format_utc(datetime.now(UTC), precision)


def format_utc(moment: datetime, precision: Precision = "milliseconds") -> str:
    """Format a time as ISO 8601 in UTC, so that sorting the texts sorts the times."""
    return moment.astimezone(UTC).isoformat(timespec=precision)


def local_time(created_at: str) -> str:
    """Format a timestamp of the log in this machine's time zone: ``2026-01-31 12:00:00``.

    A text that is not a time is returned on one line.
    """
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return one_line(created_at)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


MOST_TITLE_CHARACTERS = 60
_READ_CHARACTERS = 2_000
_FENCE = re.compile(r"^\s*(```|~~~)")
_ATTACHED = re.compile(r"(?:File|Paste) .+:$")
_MARKS = re.compile(r"^(?:[#>*\-–•\s]|\d+[.)]\s)+")
_LABEL = re.compile(
    r"^(?:(?:sure|certainly|of course)\b[^:：]*|here(?:['’]s| is| are)\b[^:：]*"
    r"|(?:the\s+)?(?:chat\s+)?title(?:\s+is)?)(?:[:：]\s*|$)",
    re.IGNORECASE,
)
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

    Small models add a label (``Title: …``, ``Here is a possible title:``), quotes, or a line.
    """
    for line in sanitize(answer[:_READ_CHARACTERS]).splitlines():
        words = " ".join(_MARKS.sub("", line).split()).strip(_QUOTES)
        words = _LABEL.sub("", words).strip(_QUOTES).rstrip(".").strip(_QUOTES)
        if words and not _FENCE.match(line):
            return cut_at_word(words, MOST_TITLE_CHARACTERS)
    return ""


def cut_at_word(text: str, most: int) -> str:
    """Cut a line between two words to ``most`` characters, its ellipsis included.

    A single long word is cut inside.
    """
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    if not text[most - 1].isspace() and " " in kept:
        kept = kept[: kept.rindex(" ")]
    return f"{kept.rstrip(' ,;:.–-')}…"


SEPARATOR = " · "
"""Separates the parts of a line of facts."""
_GAP = "  "
_MARKDOWN_RULES = {"<": "---", ">": "---:"}
Row = Sequence[str]


def format_table(
    rows: Sequence[Row],
    *,
    header: Row = (),
    align: str = "<",
    measure: Callable[[str], int] = len,
) -> list[str]:
    """Format rows as lines with aligned columns and no trailing spaces.

    Args:
        align: ``<`` (left) or ``>`` (right) for each column; the last one also applies to all
            columns that follow.
        measure: Returns the width of a cell; use ``count_cells`` for text with wide characters.
    """
    lines = [[join_lines(cell) for cell in row] for row in ([header] if header else []) + [*rows]]
    if not lines:
        return []
    widths = [max(map(measure, column)) for column in zip(*lines, strict=True)]
    sides = _expand_align(align, len(widths))

    def pad(text: str, width: int, side: str) -> str:
        spaces = " " * (width - measure(text))
        return spaces + text if side == ">" else text + spaces

    return [_GAP.join(map(pad, line, widths, sides)).rstrip() for line in lines]


def format_markdown_table(rows: Sequence[Row], *, header: Row, align: str = "<") -> str:
    """Format rows as a Markdown table; ``align`` is as in :func:`format_table`.

    Cells are not escaped: the caller escapes any ``|`` in them.
    """
    rules = [_MARKDOWN_RULES[side] for side in _expand_align(align, len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *rows))


def _expand_align(align: str, columns: int) -> str:
    return align[:columns].ljust(columns, align[-1])


def join_lines(text: str) -> str:
    """Put a text with line breaks, such as the name of a file, on one line; keep its spaces."""
    return text if text.isprintable() else sanitize(text).replace("\n", " ").replace("\t", " ")


def one_line(text: str) -> str:
    """Put untrusted text on one line that is safe to print."""
    return " ".join(sanitize(text).split())


def count_cells(text: str) -> int:
    """Count the terminal cells that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_count_char_cells(char) for char in text)


def fit_cells(text: str, room: int) -> str:
    """Cut a text, ending in ``…``, so that it takes at most ``room`` terminal cells."""
    if count_cells(text) <= room:
        return text
    used, kept = 1, []
    for char in text:
        used += _count_char_cells(char)
        if used > room:
            break
        kept.append(char)
    return "".join(kept) + "…"


def cut_name(text: str, room: int) -> str:
    """Cut a name in its middle, so that names which end otherwise stay apart: ``qwen2…0.5b``."""
    if len(text) <= room:
        return text
    end = max(0, room - 1) // 2
    return f"{text[: room - 1 - end]}…{text[len(text) - end :]}" if room > 0 else ""


def _count_char_cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


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
    """Escape what JSON leaves as it is and a terminal obeys; the value stays the same."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shorten(text: str, most_characters: int, most_lines: int) -> tuple[str, int]:
    """Cut a text to some characters and lines; return it with the number of characters left out."""
    lines = text.split("\n", most_lines)
    kept = "\n".join(lines[:most_lines])[:most_characters]
    return kept, len(text) - len(kept)


def cut_middle(text: str, most_bytes: int) -> str:
    """Leave out the middle of a text that has more bytes in UTF-8, and say there how much."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= most_bytes:
        return text
    mark = f"\n[… {len(encoded):,} bytes, of which the middle was not kept …]\n"
    half = max(0, most_bytes - len(mark.encode())) // 2
    head = encoded[:half].decode("utf-8", "ignore")
    tail = encoded[len(encoded) - half :].decode("utf-8", "ignore")
    return f"{head}{mark}{tail}"


_FENCES = ("```", "~~~")


class FenceTracker:
    """Tracks whether a growing Markdown text ends inside a fenced code block."""

    def __init__(self) -> None:
        self._line = ""
        self._opened_by: str | None = None

    @property
    def marker(self) -> str | None:
        """Backticks or tildes that opened the current fence; None outside of a fence."""
        return self._opened_by

    @property
    def inside(self) -> bool:
        """Whether a fence is open at the end of the text so far."""
        marker = _parse_fence_marker(self._line)
        if self._opened_by is None:
            return marker is not None
        return not (marker and marker.startswith(self._opened_by))

    def feed(self, text: str) -> None:
        """Take more of the text."""
        *ended, self._line = (self._line + text).split("\n")
        for line in ended:
            marker = _parse_fence_marker(line)
            if self._opened_by is None:
                self._opened_by = marker
            elif marker and marker.startswith(self._opened_by) and not line.strip().strip(marker):
                self._opened_by = None


def _parse_fence_marker(line: str) -> str | None:
    """Return the backticks or tildes that begin a fence line; None for any other line."""
    stripped = line.lstrip(" ")
    if len(line) - len(stripped) > 3 or not stripped.startswith(_FENCES):
        return None
    return stripped[: len(stripped) - len(stripped.lstrip(stripped[0]))]


def close_fence(text: str) -> str:
    """Return a Markdown text with its last code fence closed, which one that was cut off is not."""
    tracker = FenceTracker()
    tracker.feed(f"{text}\n")
    return text if tracker.marker is None else f"{text}\n{tracker.marker}"
