"""Export of a chat to a file: Markdown to read, JSON for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from etui.atomic import write_text
from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.export import build_chat_document, format_chat
from etui.log.records import ChatRecord
from etui.runtime.weights import read_weights
from etui.turn.record import TurnRecord
from etui.turn.text import energy_line

ExportFormat = Literal["markdown", "json"]

_ENDINGS: dict[ExportFormat, str] = {"markdown": "md", "json": "json"}


def export_chat(
    config: Config, chat: ChatRecord, turns: Sequence[TurnRecord], form: ExportFormat
) -> Path:
    """Write a chat into ``ETUI_HOME/exports``, replacing an earlier file of the same chat.

    Returns:
        Path of the file.

    Raises:
        EtuiError: The file cannot be written.
    """
    if form == "markdown":
        text = format_chat(chat, turns, energy_line)
    else:
        document = build_chat_document(chat, turns, read_weights(config))
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    path = config.home / "exports" / f"chat-{chat.chat_id}.{_ENDINGS[form]}"
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
