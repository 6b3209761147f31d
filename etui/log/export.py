"""Turns and chats in forms other programs read: JSON lines, CSV, Markdown, JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from etui import units
from etui.log.records import ChatRecord
from etui.log.rows import row_of
from etui.text.sanitize import sanitize
from etui.turn.record import TurnRecord


def turn_document(turn: TurnRecord) -> dict[str, Any]:
    """The document of ``etui ask --json`` with what the log knows besides: system and trace."""
    return turn.to_json() | {"system": turn.system, "trace": turn.trace}


def write_json_lines(turns: Iterable[TurnRecord], file: TextIO) -> None:
    """One turn a line, as :func:`turn_document`."""
    for turn in turns:
        file.write(json.dumps(turn_document(turn), ensure_ascii=False) + "\n")


def write_csv(turns: Iterable[TurnRecord], file: TextIO) -> None:
    """One turn a row under the columns of the table ``turns``; what is unknown is empty.

    Lists and objects are JSON text. A file should be opened with ``newline=""``.
    """
    writer = None
    for turn in turns:
        row = row_of(turn)
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)


def chat_document(chat: ChatRecord, turns: Iterable[TurnRecord]) -> dict[str, Any]:
    """A chat and its turns as one JSON document."""
    return {
        "chat_id": chat.chat_id,
        "created_at": chat.created_at,
        "name": chat.name,
        "system": chat.system,
        "turns": [turn_document(turn) for turn in turns],
    }


def chat_markdown(
    chat: ChatRecord, turns: Sequence[TurnRecord], energy_line: Callable[[TurnRecord], str]
) -> str:
    """A chat to read: every question as a quotation, its answer, and the line of its energy.

    Args:
        chat: The chat.
        turns: Its turns, oldest first.
        energy_line: What an answer took, in words; the front ends have one.
    """
    name = " ".join(sanitize(chat.name).split())
    parts = [f"# {name or chat.chat_id}", _chat_line(chat, turns)]
    if chat.system:
        parts += ["System prompt:", _quoted(chat.system)]
    for turn in turns:
        parts += [
            "---",
            _quoted(turn.query),
            sanitize(turn.answer).strip() or f"*{_no_answer(turn)}*",
        ]
        parts.append(f"*{turn.model}: {energy_line(turn)}*")
    return "\n\n".join(parts) + "\n"


def _chat_line(chat: ChatRecord, turns: Sequence[TurnRecord]) -> str:
    count = units.count_text(len(turns), "turn")
    read = [t.energy for t in turns if t.energy.kind != units.ESTIMATE]
    estimated = [t.energy for t in turns if t.energy.kind == units.ESTIMATE]
    sums = []
    for energies, kind in ((read, None), (estimated, units.ESTIMATE)):
        joules = [energy.joules for energy in energies if energy.joules is not None]
        if joules:
            sums.append(units.total_text(sum(joules), None, kind))
    return f"{chat.created_at}, {count}, {' and '.join(sums) or units.UNMEASURED}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in sanitize(text).strip().splitlines())


def _no_answer(turn: TurnRecord) -> str:
    return f"no answer ({turn.status}{f': {turn.error}' if turn.error else ''})"
