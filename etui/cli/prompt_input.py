"""The question of ``etui ask``: a saved prompt, the argument, standard input."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.prompts.library import SavedPrompt

MAX_INPUT_BYTES = 10_000_000
"""Far more than any context holds; more is a mistake (a log file, a disk image)."""


def read_question(prompt: str | None, stdin: BinaryIO | None, *, is_terminal: bool) -> str:
    """Read the whole question.

    Args:
        prompt: The argument; None without one.
        stdin: Standard input as bytes; None if it is closed.
        is_terminal: Whether standard input is a terminal; then it is not read.

    Raises:
        UsageError: The question is empty, or standard input is not text.
    """
    parts = [prompt or ""]
    if stdin is not None and not is_terminal:
        parts.append(_decode(stdin.read(MAX_INPUT_BYTES + 1)))
    question = "\n\n".join(part.strip() for part in parts if part.strip())
    if not question:
        raise UsageError("the prompt is empty", 'ask something: etui ask "What is a joule?"')
    if "\0" in question:
        raise UsageError("the prompt contains a NUL character", "use plain text")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise UsageError(
            "the prompt is not text: it contains bytes that are not UTF-8", "set a UTF-8 locale"
        )
    return question


def parse_values(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``VAR=VALUE`` pairs.

    Raises:
        UsageError: One has no equals sign or no name, or a name comes twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {pair}: no VAR=VALUE", "write it as --set language=Python")
        if name.strip() in values:
            raise UsageError(f"--set {name.strip()} is given twice", "give one value")
        values[name.strip()] = value
    return values


def read_saved(name: str | None, values: Mapping[str, str]) -> SavedPrompt | None:
    """Read a saved prompt and fill in its variables; None without a name.

    Raises:
        UsageError: There is no such prompt, or its variables and the values do not match.
        InvalidFile: Its file cannot be used.
    """
    if name is None:
        if values:
            raise UsageError("--set has no effect without --prompt", "add --prompt NAME")
        return None
    from etui.config.config import load_config
    from etui.prompts.library import find_prompt

    return find_prompt(name, load_config()).filled(values)


def open_standard_input() -> tuple[BinaryIO | None, bool]:
    """Return standard input as bytes, None if it is closed, and whether it is a terminal."""
    stream = sys.stdin
    if stream is None or stream.closed:
        return None, False
    return stream.buffer, stream.isatty()


def _decode(data: bytes) -> str:
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(
            f"standard input is longer than {MAX_INPUT_BYTES // 1_000_000} MB",
            "it does not fit any context: send a part of it",
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
