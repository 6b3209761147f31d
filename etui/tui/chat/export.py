"""Export of a chat to a file: Markdown to read, JSON for other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from etui.atomic import write_text
from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.export import build_chat_document, format_branch
from etui.log.records import ChatRecord
from etui.runtime.provenance import read_weights
from etui.turn.record import TurnRecord
from etui.turn.text import energy_line

ExportFormat = Literal["markdown", "json"]

_TITLE_CHARACTERS = 60
_TITLE_BYTES = 120
"""A file name may have 255 bytes, on some encrypted disks 143."""

_ID_CHARACTERS = 6

_ENDINGS: dict[ExportFormat, str] = {"markdown": "md", "json": "json"}


def export_chat(
    config: Config, chat: ChatRecord, turns: Sequence[TurnRecord], form: ExportFormat
) -> Path:
    """Write a chat into ``ETUI_HOME/exports``, replacing its earlier file of the same title.

    Raises:
        EtuiError: The file cannot be written.
    """
    if form == "markdown":
        text = format_branch(chat, turns, energy_line)
    else:
        document = build_chat_document(chat, turns, read_weights(config))
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    path = config.home / "exports" / f"{build_file_name(chat)}.{_ENDINGS[form]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate cannot be encoded, and must not prevent the export of the chat.
        write_text(path, text, errors="replace")
    except OSError as error:
        raise EtuiError(
            f"cannot write {path}: {error.strerror or error}",
            "free space on that disk, or make the folder writable",
        ) from error
    return path


def build_file_name(chat: ChatRecord) -> str:
    """Build the name of a chat's file from its title, and the begin of its id to keep it unique.

    Only letters, digits and dashes are left of the title, so that it is a name on every disk.
    """
    words = re.findall(r"[^\W_]+", chat.name[:_TITLE_CHARACTERS])
    kept = "-".join(words).lower().encode()[:_TITLE_BYTES].decode(errors="ignore").strip("-")
    short = re.sub(r"[^A-Za-z0-9-]", "", chat.chat_id.removeprefix("chat-"))[:_ID_CHARACTERS]
    return f"{kept or 'chat'}-{short}"
