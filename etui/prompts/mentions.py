"""Find the files that a question attaches: ``@notes.md``, ``@"my notes.md"``.

Emails, decorators and code stay text: a mention begins a word, is not a call, and does not stand in
a code fence. Whether a bare ``@word`` is a file is a matter of the disk, and so of the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MENTION = re.compile(r'(?<![^\s(\[{])@(?:"([^"\n]+)"|([^\s"\'`@]+))')
_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,}).*$", re.MULTILINE)
_SPAN = re.compile(r"`[^`\n]+`")
_DECORATED = re.compile(r"[ \t]*(?:#[^\n]*)?\n\s*(?:@|(?:async[ \t]+)?def\b|class\b)")
_TRAILING = ".,;:!?)]}>…"


@dataclass(frozen=True, slots=True)
class Mention:
    """A path named in a question.

    Attributes:
        start, end: Its place, the ``@`` and its quotes included; characters.
    """

    start: int
    end: int
    path: str
    quoted: bool  # Whether it is in quotes, and so is meant as a path

    @property
    def is_explicit(self) -> bool:
        """Whether it can hardly be anything but a path."""
        return self.quoted or "/" in self.path or "\\" in self.path


def find_mentions(text: str) -> tuple[Mention, ...]:
    """Find the mentions in a text, in their order; they never overlap."""
    code = _find_code(text)
    mentions = []
    for found in _MENTION.finditer(text):
        if any(start <= found.start() < end for start, end in code):
            continue
        mention = _build(text, found)
        if mention is not None:
            mentions.append(mention)
    return tuple(mentions)


def write_mention(path: str) -> str:
    """Write a path as a mention, in quotes if it would not be read back without them."""
    plain = f"@{path}"
    found = find_mentions(plain)
    if len(found) == 1 and found[0].path == path and found[0].end == len(plain):
        return plain
    return f'@"{path}"'


def find_open_mention(text: str) -> tuple[int, str] | None:
    """Find the mention that is being typed at the end of a text.

    Args:
        text: The text before the cursor.

    Returns:
        The place of its ``@``, and the path so far; None if none is being typed.
    """
    found = re.search(r'(?<![^\s(\[{])@(?:"([^"\n]*)|([^\s"\'`@]*))$', text)
    if found is None or any(start <= found.start() < end for start, end in _find_code(text)):
        return None
    return found.start(), found[1] if found[1] is not None else found[2]


def _build(text: str, found: re.Match[str]) -> Mention | None:
    if found[1] is not None:
        return Mention(found.start(), found.end(), found[1], quoted=True)
    path = found[2].rstrip(_TRAILING)
    end = found.start() + 1 + len(path)
    if not path or "(" in path or text[end : end + 1] == "(":
        return None
    begin = text.rfind("\n", 0, found.start()) + 1
    if not text[begin : found.start()].strip() and _DECORATED.match(text, end):
        return None
    return Mention(found.start(), end, path, quoted=False)


def _find_code(text: str) -> list[tuple[int, int]]:
    """Find the ranges of code: fences, an open one to the end, and spans in one line."""
    ranges: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]):
            ranges.append((opened.start(), fence.end()))
            opened = None
    if opened is not None:
        ranges.append((opened.start(), len(text)))
    return ranges + [found.span() for found in _SPAN.finditer(text)]
