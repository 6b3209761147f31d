"""Export turns and chats as JSON lines, CSV, Markdown or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from etui import units
from etui.log.energy_record import NO_WEIGHTS, build_energy_record
from etui.log.records import ChatRecord
from etui.log.rows import build_row
from etui.text.codec import to_document
from etui.text.sanitize import sanitize
from etui.turn.chat_tree import current_branch
from etui.turn.record import TurnRecord


def build_turn_document(
    turn: TurnRecord, weights: Mapping[str, str] = NO_WEIGHTS
) -> dict[str, Any]:
    """Build the document of ``etui ask --json``, with system prompt, trace and energy record.

    Args:
        weights: Hash of a model -> quantisation of its weights.
    """
    return turn.to_json() | {
        "system": turn.system,
        "trace": turn.trace,
        "energy_record": to_document(build_energy_record(turn, weights)),
    }


def write_json_lines(
    turns: Iterable[TurnRecord], file: TextIO, weights: Mapping[str, str] = NO_WEIGHTS
) -> None:
    """Write each turn as one line of JSON, see :func:`build_turn_document`."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for turn in turns:
        file.write(encode(build_turn_document(turn, weights)) + "\n")


def write_csv(turns: Iterable[TurnRecord], file: TextIO) -> None:
    """Write each turn as a row with the columns of the table ``turns``; unknown values are empty.

    Lists and objects are JSON text. Open the file with ``newline=""``.
    """
    writer = None
    for turn in turns:
        row = build_row(turn)
        if writer is None:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(row)
        writer.writerow(row.values())


def build_chat_document(
    chat: ChatRecord, turns: Iterable[TurnRecord], weights: Mapping[str, str] = NO_WEIGHTS
) -> dict[str, Any]:
    """Build one JSON document of a chat and its turns, see :func:`build_turn_document`."""
    return {
        "chat_id": chat.chat_id,
        "created_at": chat.created_at,
        "name": chat.name,
        "system": chat.system,
        "turns": [build_turn_document(turn, weights) for turn in turns],
    }


def format_branch(
    chat: ChatRecord, turns: Sequence[TurnRecord], energy_line: Callable[[TurnRecord], str]
) -> str:
    """Format the current branch of a chat as Markdown, see :func:`format_chat`.

    Args:
        turns: All its turns, oldest first.
    """
    shown = current_branch(turns, chat.head)
    return format_chat(chat, shown, energy_line, elsewhere=len(turns) - len(shown))


def format_chat(
    chat: ChatRecord,
    turns: Sequence[TurnRecord],
    energy_line: Callable[[TurnRecord], str],
    *,
    elsewhere: int = 0,
) -> str:
    """Format a chat as Markdown: each question as a quotation, its answer, and its energy.

    Args:
        turns: Its turns, oldest first.
        elsewhere: Number of turns on other branches, which are left out.
    """
    name = " ".join(sanitize(chat.name).split())
    parts = [f"# {name or chat.chat_id}", _format_head(chat, turns)]
    if elsewhere:
        parts.append(f"*{units.count_text(elsewhere, 'turn')} on other branches left out*")
    if chat.system:
        parts += ["System prompt:", _quote(chat.system)]
    for turn in turns:
        parts += [
            "---",
            _quote(turn.query),
            sanitize(turn.answer).strip() or f"*{sanitize(_explain_missing(turn))}*",
        ]
        parts.append(f"*{turn.model}: {energy_line(turn)}*")
    return "\n\n".join(parts) + "\n"


def _format_head(chat: ChatRecord, turns: Sequence[TurnRecord]) -> str:
    count = units.count_text(len(turns), "turn")
    read = [t.energy for t in turns if t.energy.kind != units.ESTIMATE]
    estimated = [t.energy for t in turns if t.energy.kind == units.ESTIMATE]
    sums = []
    for energies, kind in ((read, None), (estimated, units.ESTIMATE)):
        joules = [energy.joules for energy in energies if energy.joules is not None]
        if joules:
            sums.append(units.total_text(sum(joules), None, kind))
    return f"{chat.created_at}, {count}, {' and '.join(sums) or units.UNMEASURED}"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in sanitize(text).strip().splitlines())


def _explain_missing(turn: TurnRecord) -> str:
    if turn.tool_calls:
        calls = json.loads(turn.tool_calls)
        return f"calls {', '.join(str(call['function']['name']) for call in calls)}"
    return f"no answer ({turn.status}{f': {turn.error}' if turn.error else ''})"
