"""The content of the prompt, as a value: the text as typed, and what it attaches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from etui import units
from etui.errors import EtuiError, UsageError
from etui.prompts.attachments import Attachment, Mention, find_mentions, read_attachment, split
from etui.routing.text_measures import estimate_tokens
from etui.text import sanitize

LARGE_PASTE_CHARACTERS = 2_000
LARGE_PASTE_LINES = 30  # A longer paste is attached, and shown in the prompt as a marker
LARGE_TEXT_CHARACTERS = 20_000  # The layout of a longer text would block the keys
_SENT_PASTE = re.compile(r"\[paste (\d+)\]")


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as it is in the prompt."""

    text: str  # The text, with `[paste 1]` for each long paste
    pastes: tuple[Attachment, ...] = ()  # The long pastes that the text has
    kept: Mapping[str, Attachment] = field(default_factory=dict)
    """Files that an earlier question had, by the path as written; used where the file is no longer
    there."""


Read = Callable[[str], Attachment]


def is_large(pasted: str) -> bool:
    return len(pasted) > LARGE_PASTE_CHARACTERS or pasted.count("\n") >= LARGE_PASTE_LINES


def write_placeholder(paste: Attachment) -> str:
    """Return the marker of a paste in the prompt: ``[paste 1: 120 lines, ≈1.2k tokens]``."""
    lines = units.count_text(paste.lines, "line")
    tokens = units.short_tokens_text(estimate_tokens(paste.text), exact=False)
    return f"[paste {paste.name}: {lines}, {tokens}]"


def build_draft(
    text: str, placeholders: Mapping[str, Attachment], kept: Mapping[str, Attachment]
) -> Draft:
    pastes = []
    for placeholder, paste in placeholders.items():
        if placeholder in text:
            text = text.replace(placeholder, f"[paste {paste.name}]")
            pastes.append(paste)
    return Draft(text, tuple(pastes), kept)


def restore(question: str, first: int) -> tuple[str, dict[str, Attachment], dict[str, Attachment]]:
    """Take a question that was sent apart, to put it into the prompt again.

    Args:
        first: Number of the next paste.

    Returns:
        The text for the prompt, its pastes by their markers, and its files by path.
    """
    text, attachments = split(question)
    files = {each.name: each for each in attachments if not each.pasted}
    pasted = {each.name: each for each in attachments if each.pasted}
    placeholders: dict[str, Attachment] = {}

    def put_in(found: re.Match[str]) -> str:
        paste = pasted.get(found[1])
        if paste is None:
            return found[0]
        numbered = replace(paste, name=str(first + len(placeholders)))
        placeholder = write_placeholder(numbered)
        placeholders[placeholder] = numbered
        return placeholder

    text = _SENT_PASTE.sub(put_in, sanitize(text))
    if len(text) > LARGE_TEXT_CHARACTERS:
        whole = Attachment(str(first + len(placeholders)), text, pasted=True)
        text = write_placeholder(whole)
        placeholders[text] = whole
    return text, placeholders, files


def resolve(
    draft: Draft, read: Read = read_attachment
) -> tuple[tuple[Attachment, ...], tuple[EtuiError, ...]]:
    """Read the files of a draft.

    A word after an at sign that names no file stays text, unless it can only be meant as a path.

    Returns:
        Files in the order in which they are mentioned, then pastes; and what is wrong with the
        files that cannot be attached.
    """
    attachments: dict[str, Attachment] = {}
    problems: list[EtuiError] = []
    for mention in find_mentions(draft.text):
        if mention.path in attachments:
            continue
        try:
            attachments[mention.path] = read(mention.path)
        except UsageError as error:
            if mention.path in draft.kept:
                attachments[mention.path] = draft.kept[mention.path]
            elif _is_meant(mention, error):
                problems.append(error)
    return (*attachments.values(), *draft.pastes), tuple(problems)


def _is_meant(mention: Mention, error: UsageError) -> bool:
    if mention.is_explicit or not error.what.startswith("there is no file"):
        return True
    return error.fix.startswith("did you mean")


class FileReader:
    """Reads attached files, and again only after they have changed; use it from one thread."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[int, int], Attachment]] = {}

    def __call__(self, path: str) -> Attachment:
        """Read a file."""
        state = _read_state(path)
        known = self._read.get(path)
        if state is not None and known is not None and known[0] == state:
            return known[1]
        attachment = read_attachment(path)
        if state is not None:
            self._read = {**dict(list(self._read.items())[-9:]), path: (state, attachment)}
        return attachment


def _read_state(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, ValueError, RuntimeError):
        return None
    return found.st_mtime_ns, found.st_size
