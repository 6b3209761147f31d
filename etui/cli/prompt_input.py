"""The question of ``etui ask``: the argument, and standard input behind it."""

from __future__ import annotations

import sys
from typing import BinaryIO

from etui.errors import UsageError

MAX_INPUT_BYTES = 10_000_000
"""Far beyond any context; more is a mistake (a log file, a disk image)."""


def read_question(prompt: str | None, stdin: BinaryIO | None, *, is_terminal: bool) -> str:
    """The whole question.

    Args:
        prompt: The argument; None without one.
        stdin: Standard input as bytes; None where it is closed.
        is_terminal: Whether a person would have to type it; then it is not read.

    Raises:
        UsageError: Nothing was asked, or standard input is no text.
    """
    parts = [prompt or ""]
    if stdin is not None and not is_terminal:
        parts.append(_text(stdin.read(MAX_INPUT_BYTES + 1)))
    question = "\n\n".join(part.strip() for part in parts if part.strip())
    if not question:
        raise UsageError("the prompt is empty", 'ask something: etui ask "What is a joule?"')
    if "\0" in question:
        raise UsageError("the prompt holds a NUL character", "ask with text")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise UsageError(
            "the prompt is not text: it holds bytes that are no UTF-8", "set a UTF-8 locale"
        )
    return question


def standard_input() -> tuple[BinaryIO | None, bool]:
    """Standard input as bytes, and whether it is a terminal; None where it is closed."""
    stream = sys.stdin
    if stream is None or stream.closed:
        return None, False
    return stream.buffer, stream.isatty()


def _text(data: bytes) -> str:
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(
            f"standard input is longer than {MAX_INPUT_BYTES // 1_000_000} MB",
            "no context holds it: send a part of it",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not text: byte 0x{data[error.start]:02x} at position {error.start} "
            "is not UTF-8",
            "send text; for another encoding: iconv -t UTF-8 FILE | etui ask",
        ) from error
    if "\0" in text:
        raise UsageError(
            f"standard input is not text: a NUL byte at position {data.index(0)}", "send text"
        )
    return text
