"""A GGUF with another chat template."""

from __future__ import annotations

from pathlib import Path

KEY = b"tokenizer.chat_template"


def with_template(source: Path, target: Path, template: str | None) -> Path:
    """A copy of a GGUF with another chat template of the same length, or with none."""
    data = bytearray(source.read_bytes())
    at = data.index(KEY)
    if template is None:
        data[at : at + len(KEY)] = b"tokenizer.chat_tampered"
    else:
        at += len(KEY) + 4  # the type of the value
        length = int.from_bytes(data[at : at + 8], "little")
        data[at + 8 : at + 8 + length] = template.encode().ljust(length)
    target.write_bytes(data)
    return target
