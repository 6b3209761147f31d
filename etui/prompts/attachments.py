"""Text files and long pastes as a part of a question: read them, write them, show them short.

An attached text follows the question, in a fenced block under its name, so that the log has
what the model was sent. A screen shows the block as one line.
"""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from etui import units
from etui.chat import Picture
from etui.errors import UsageError
from etui.prompts.pictures import is_picture, read_picture
from etui.text import find_nearest, format_suggestion, sanitize, unify_line_ends

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


_JOINT_TOKENS = 4
"""Tokens by which a block may be longer than its frame and its text counted apart, at most."""


def describe_excess(
    attachments: Sequence[Attachment],
    tokens: int,
    context_tokens: int,
    model: str,
    *,
    exact: bool,
) -> str:
    """Say which text is too long, with both numbers.

    Args:
        attachments: The attachments with their tokens; the longest one is named. May be empty.
    """
    subject = "the question"
    if attachments:
        longest = max(attachments, key=lambda each: each.tokens or 0)
        subject += f" with {'paste ' if longest.pasted else ''}{longest.name}"
    size = f"{'' if exact else 'about '}{units.tokens_text(tokens)}"
    return f"{subject} has {size}; the context of {model} holds {context_tokens:,}"


def fit_attachments(
    question: str,
    attachments: Sequence[Attachment],
    part: Part,
    most_tokens: int,
    count: Callable[[str], int],
) -> tuple[Attachment, ...]:
    """Cut the longest attachments until the whole question has at most ``most_tokens``.

    Returns:
        The attachments in their order, with the tokens of their texts; one that has no room at all
        is left out.
    """
    kept = [replace(each, tokens=count(each.text)) for each in attachments]
    frames = sum(count(replace(each, text="").block()) + _JOINT_TOKENS for each in kept)
    room = most_tokens - count(question) - frames
    texts = [index for index, each in enumerate(kept) if each.picture is None]
    order = sorted(texts, key=lambda index: -_tokens(kept[index]))
    for index in order:
        excess = sum(map(_tokens, kept)) - room
        if excess <= 0:
            break
        each = kept[index]
        text = cut(each.text, part, max(0, _tokens(each) - excess), count)
        kept[index] = replace(each, text=text, tokens=count(text))
    return tuple(each for each in kept if each.text)


def _tokens(attachment: Attachment) -> int:
    return attachment.tokens or 0


MAX_FILE_BYTES = 10_000_000
"""Far more than any context holds; a larger file is not read."""

Part = Literal["head", "tail", "ends"]
"""What is kept of a text that is too long; ``ends`` cuts the middle out."""

_IMAGES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
}
_DOCUMENTS = {
    b"%PDF": ("a PDF", "convert it: pdftotext FILE.pdf FILE.txt"),
    b"PK\x03\x04": ("an archive or an office document", "export it as text first"),
    b"GGUF": ("a model", "attach text"),
    b"\x1f\x8b": ("compressed", "unpack it first: gunzip -k FILE"),
    b"\x7fELF": ("a program", "attach text"),
    b"SQLite format 3": ("a database", "attach its dump: sqlite3 FILE .dump"),
}
_MOST_COUNTS = 8
_BLOCK = re.compile(
    r"^(?P<kind>File|Paste) (?P<name>[^\n]+):\n"
    r"(?P<fence>`{3,})[^\n`]*\n(?P<body>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text that goes with a question."""

    name: str  # The path as it was written, or the number of a paste
    text: str  # The text, with line feeds
    tokens: int | None = None  # Its tokens; None if they were not counted
    exact: bool = False
    """Whether the tokens were counted by the tokenizer of the model that answers."""
    pasted: bool = False  # Whether it was pasted, and is no file
    picture: Picture | None = None  # The picture whose mark its text is; None for a text

    def block(self) -> str:
        """Return the text as a model reads it: its name, and a fence that no line of it closes.

        Of a picture it is the mark alone.
        """
        if self.picture is not None:
            return self.text
        runs = [len(run) for run in re.findall(r"^ {0,3}(`{3,})", self.text, re.MULTILINE)]
        fence = "`" * (max(runs, default=2) + 1)
        suffix = Path(self.name).suffix.removeprefix(".")
        # A paste is tagged as text: a block without a tag counts as code where a policy asks.
        language = "text" if self.pasted else suffix if suffix.isalnum() else ""
        word = "Paste" if self.pasted else "File"
        end = "" if not self.text or self.text.endswith("\n") else "\n"
        return f"{word} {_one_line(self.name)}:\n{fence}{language}\n{self.text}{end}{fence}"

    @property
    def lines(self) -> int:
        """Number of lines."""
        return self.text.count("\n") + (not self.text.endswith("\n") and bool(self.text))

    def marker(self) -> str:
        """Return its short form on a screen: ``@notes.md 1.2k tokens``."""
        name = f"paste {self.name}:" if self.pasted else f"@{_one_line(self.name)}"
        facts = [units.count_text(self.lines, "line")] if self.pasted else []
        if self.picture is not None:
            facts.append(f"{self.picture.width:,} x {self.picture.height:,} pixels")
        elif self.tokens is not None:
            facts.append(units.short_tokens_text(self.tokens, exact=self.exact))
        return sanitize(f"{name} {', '.join(facts)}".strip())


def read_attachment(path: str, folder: Path | None = None) -> Attachment:
    """Read a text file, or a picture.

    Args:
        path: The path as it was written; ``~`` is the home folder.

    Raises:
        UsageError: There is no such file, or it is neither text nor PNG nor JPEG (a program), or
            too large, or damaged.
    """
    shown = sanitize(path)
    try:
        place = (folder or Path()) / Path(path).expanduser()
        found = place.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{shown} is a folder", "attach the files in it one by one")
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{shown} is not a regular file", "copy its text into a file first")
        if found.st_size > MAX_FILE_BYTES:
            raise _refuse_size(shown, found.st_size)
        with place.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no file {shown}", _suggest_file(path, folder)) from None
    except (OSError, ValueError, RuntimeError) as error:  # no home folder, a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{shown} cannot be read: {reason}", "check its path and rights") from None
    if len(data) > MAX_FILE_BYTES:
        raise _refuse_size(shown, len(data))
    if is_picture(data):
        picture = read_picture(data, shown)
        return Attachment(path, picture.mark, picture=picture)
    return Attachment(path, unify_line_ends(decode_text(data, shown)))


def decode_text(data: bytes, name: str) -> str:
    """Decode a file as UTF-8, or as UTF-16 if it begins with its mark.

    Raises:
        UsageError: It is an image, another known format, or bytes that are no text.
    """
    if kind := _find_image(data):
        raise UsageError(f"{name} is {kind}, not text", "attach pictures as PNG or JPEG")
    for magic, (kind, fix) in _DOCUMENTS.items():
        if data.startswith(magic):
            raise UsageError(f"{name} is {kind}, not text", fix)
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif (at := data.find(b"\0")) >= 0:
        raise UsageError(
            f"{name} is binary, not text: a NUL byte at position {at}", "attach a text file"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at position {error.start}",
            f"if it is text: iconv -f LATIN1 -t UTF-8 {name} > FILE",
        ) from None


def join(question: str, attachments: Iterable[Attachment]) -> str:
    """Return the question as it is sent: its text, then a block for each attachment."""
    return "\n\n".join([question.strip(), *(each.block() for each in attachments)]).strip()


def list_pictures(attachments: Iterable[Attachment]) -> tuple[Picture, ...]:
    """List the pictures among attachments."""
    return tuple(each.picture for each in attachments if each.picture is not None)


def split(question: str) -> tuple[str, tuple[Attachment, ...]]:
    """Return the text and the attachments of a question that :func:`join` made.

    A block that somebody typed in the same form counts as one.
    """
    attachments = tuple(
        Attachment(found["name"], found["body"], pasted=found["kind"] == "Paste")
        for found in _BLOCK.finditer(question)
    )
    if not attachments:
        return question, ()
    text = _BLOCK.sub("", question)
    return re.sub(r"\n{3,}", "\n\n", text).strip(), attachments


def fold(
    question: str,
    estimate: Callable[[str], int],
    counted: Sequence[Attachment] = (),
) -> str:
    """Return a question with each attachment as one line, for a screen.

    Args:
        counted: Attachments whose tokens are known.
    """
    if "```" not in question:
        return question
    text, attachments = split(question)
    if not attachments:
        return question
    known = {(each.name, each.pasted): each for each in counted}
    markers = []
    for each in attachments:
        same = known.get((each.name, each.pasted))
        if same is None or same.tokens is None:
            same = replace(each, tokens=estimate(each.text))
        markers.append(same.marker())
    return "\n".join(part for part in (text, *markers) if part).strip()


def cut(text: str, part: Part, most_tokens: int, count: Callable[[str], int]) -> str:
    """Cut a text at line ends to what fits, and say in it how much was left out.

    Returns:
        The part with its note; the text itself if it fits; empty if not even the note fits.
    """
    tokens = count(text)
    if tokens <= most_tokens:
        return text
    share = most_tokens / tokens
    for _ in range(_MOST_COUNTS):
        kept = _keep(text, part, int(len(text) * share))
        tokens = count(kept)
        if tokens <= most_tokens:
            return kept
        share *= most_tokens / tokens * 0.97
    kept = _keep(text, part, 0)
    return kept if count(kept) <= most_tokens else ""


def _keep(text: str, part: Part, characters: int) -> str:
    """Keep about this many characters at most, whole lines where there are any."""
    head = tail = ""
    if part == "head":
        head = _cut_head(text, characters)
    elif part == "tail":
        tail = _cut_tail(text, characters)
    else:
        head = _cut_head(text, characters // 2)
        tail = _cut_tail(text, characters // 2)
    left_out = text[len(head) : len(text) - len(tail)]
    size = units.count_text(max(1, left_out.count("\n")), "line")
    note = f"[… {size} left out …]"
    return "\n".join(each for each in (head.rstrip("\n"), note, tail) if each)


def _cut_head(text: str, characters: int) -> str:
    kept = text[:characters]
    at = kept.rfind("\n")
    return kept[: at + 1] if at >= len(kept) // 2 else kept


def _cut_tail(text: str, characters: int) -> str:
    kept = text[len(text) - characters :] if characters else ""
    at = kept.find("\n")
    return kept[at + 1 :] if 0 <= at < len(kept) // 2 else kept


def _find_image(data: bytes) -> str:
    for magic, kind in _IMAGES.items():
        if data.startswith(magic) and (magic != b"BM" or b"\0" in data[:64]):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP image"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"avif", b"mif1"):
        return "an image"
    return ""


def _refuse_size(name: str, size_bytes: int) -> UsageError:
    return UsageError(
        f"{name} has {size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}",
        "it fits no context: attach a part of it (head -n 200 FILE > PART)",
    )


def _suggest_file(path: str, folder: Path | None) -> str:
    try:
        place = (folder or Path()) / Path(path).expanduser()
        names = [each.name for each in place.parent.iterdir()][:5000]
    except (OSError, ValueError, RuntimeError):
        names = []
    near = find_nearest(Path(path).name, names, most=2)
    return sanitize(format_suggestion(near)) or "check its path; a path with spaces needs quotes"


def _one_line(name: str) -> str:
    return " ".join(name.split("\n"))
