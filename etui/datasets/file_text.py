"""Content of question files: bounded, and decoded as UTF-8."""

from __future__ import annotations

from pathlib import Path

from etui.errors import InvalidFile, Problem

MOST_PROBLEMS = 10
"""Problems of one file that are reported."""

_MOST_BYTES = 256_000_000
"""The largest suite has 9 MB, so a larger file is not one of questions."""


def read_content(path: Path) -> bytes:
    """Read a file of questions.

    Raises:
        InvalidFile: It cannot be read, or is far too large.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidFile(
                f"{path} is too large ({size} bytes)",
                f"pass a file of questions; at most {_MOST_BYTES} bytes are read",
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidFile(
            f"cannot read {path}: {error.strerror or error}", "make the file readable"
        ) from error


def decode_text(raw: bytes, file: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        InvalidFile: It is not UTF-8, or contains NUL bytes.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        seems = "it is UTF-16" if utf16 else f"byte {error.start} is invalid"
        problem = Problem(file, raw.count(b"\n", 0, error.start) + 1, 1, f"is not UTF-8: {seems}")
        raise InvalidFile.of([problem], "save the file as UTF-8") from error
    if "\0" in text:
        problem = Problem(file, text.count("\n", 0, text.index("\0")) + 1, 1, "contains NUL bytes")
        raise InvalidFile.of([problem], "save the file as UTF-8")
    return text
