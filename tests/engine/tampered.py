"""A GGUF with another chat template."""

from __future__ import annotations

from pathlib import Path

KEY = b"tokenizer.chat_template"
ALIGNMENT = 32
"""Bytes between which the data of tensors begin, in a file that names no others."""


def with_template(source: Path, target: Path, template: str | None) -> Path:
    """A copy of a GGUF with another chat template, or with none.

    A comment keeps the data of the tensors where its alignment wants them.
    """
    data = bytearray(source.read_bytes())
    at = data.index(KEY)
    if template is None:
        data[at : at + len(KEY)] = b"tokenizer.chat_tampered"
    else:
        at += len(KEY) + 4  # the type of the value
        length = int.from_bytes(data[at : at + 8], "little")
        raw = template.encode()
        comment = b"{#%b#}" % (b" " * ((length - len(raw) - 4) % ALIGNMENT))
        text = comment + raw
        data[at : at + 8 + length] = len(text).to_bytes(8, "little") + text
    target.write_bytes(data)
    return target
