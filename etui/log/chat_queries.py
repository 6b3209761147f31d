"""Read the chats of the log: their list, their turns, and the branch that goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from etui.log.filters import TurnFilter, build_clause, build_like_pattern, sql_limit
from etui.log.queries import LogReader, UnknownId
from etui.log.records import ChatRecord, parse_record, parse_turn
from etui.log.totals import Total, parse_total, totals_sql
from etui.text import find_nearest, sanitize
from etui.turn.chat_tree import Node, build_tree
from etui.turn.record import TurnRecord

LATEST = "last"
"""The name of the chat that was used last."""
_MOST_LISTED = 5
_MOST_TITLES = 2000
_LAST_AT = "coalesce(last_at, created_at)"
"""When a chat was used last, as its index has it."""


def find_chat(log: LogReader, name: str) -> ChatRecord:
    """Return the chat of an id, of a title in any case, or of a unique beginning of one of them.

    Of several chats with exactly this title, the one used last is returned. ``last`` is the chat
    used last, unless a chat has this title. UnknownId if none matches, or several begin with it.
    """
    wanted = " ".join(name.split())
    # The wildcard comes after the name, so a title that only contains the name does not match.
    beginning = build_like_pattern(wanted).removeprefix("%")
    rows = log.select(
        f"""SELECT * FROM chats WHERE chat_id LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\'
            ORDER BY {_LAST_AT} DESC, id DESC""",
        (beginning, beginning),
    )
    found = [parse_record(ChatRecord, row) for row in rows] if wanted else []
    chosen = choose_chat(found, wanted)
    if chosen is not None:
        return chosen
    if wanted == LATEST:
        latest = list_chats(log, limit=1)
        if latest:
            return latest[0].chat
    if found:
        shown = [(chat, _title(chat)) for chat in found[:_MOST_LISTED]]
        counts = Counter(title for _, title in shown)
        texts = [t if counts[t] == 1 else f"{chat.chat_id} ({t})" for chat, t in shown]  # to type
        raise UnknownId(f"{len(found)} chats begin with {wanted!r}", texts, "")
    known = list_chats(log, limit=_MOST_TITLES)
    names = [_title(each.chat) for each in known]
    raise UnknownId(
        f"no chat {wanted!r} in the log",
        find_nearest(wanted, names, most=3),
        "list the chats with Ctrl+O in `etui`" if known else "there are no chats yet",
    )


def choose_chat(found: Sequence[ChatRecord], wanted: str) -> ChatRecord | None:
    """Choose among chats that begin with a name, the one used last first; None if several do."""
    folded = wanted.casefold()
    for same in (
        [chat for chat in found if chat.chat_id == wanted],
        [chat for chat in found if " ".join(chat.name.split()).casefold() == folded],
    ):
        if same:
            return same[0]
    return found[0] if len(found) == 1 else None


def _title(chat: ChatRecord) -> str:
    return " ".join(sanitize(chat.name).split()) or chat.chat_id


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """One line of the list of chats; ``total`` is None for a chat without turns."""

    chat: ChatRecord
    last_at: str
    total: Total | None
    branches: int = 1


def list_chats(
    log: LogReader, search: str | None = None, *, limit: int | None = 50
) -> list[ChatSummary]:
    """Read chats, last used first; ``search`` selects by words in the name or the turns."""
    condition, values = "", tuple[str, ...]()
    if search is not None and search.strip():
        found = build_clause(TurnFilter(search=search))
        condition = f"WHERE name LIKE ? ESCAPE '\\' OR chat_id IN (SELECT chat_id {found.sql})"
        values = (build_like_pattern(search.strip()), *found.values)
    rows = log.select(
        f"""SELECT *, {_LAST_AT} AS used_at,
            (SELECT count(*) - count(DISTINCT parent_id) FROM turns INDEXED BY turns_by_parent
                WHERE turns.chat_id = chats.chat_id) AS branches
            FROM chats {condition} ORDER BY {_LAST_AT} DESC, id DESC LIMIT ?""",
        (*values, sql_limit(limit)),
    )
    chats: list[ChatSummary] = []
    for row in rows:
        chat = parse_record(ChatRecord, row)
        where = replace(build_clause(TurnFilter(chat_id=chat.chat_id)), index="turns_by_chat")
        total = next(map(parse_total, log.select(*totals_sql("chat", where))), None)
        chats.append(ChatSummary(chat, row["used_at"], total, max(1, row["branches"])))
    return chats


def list_chat_turns(log: LogReader, chat_id: str) -> list[TurnRecord]:
    """Return the turns of a chat, oldest first."""
    rows = log.select("SELECT * FROM turns WHERE chat_id = ? ORDER BY created_at, id", (chat_id,))
    return [parse_turn(row) for row in rows]


def find_branch(log: LogReader, chat_id: str) -> frozenset[str]:
    """Return the ids of the turns on the current branch of a chat; none for an unknown one."""
    rows = log.select(
        "SELECT turn_id, parent_id, trim(answer) <> '' FROM turns WHERE chat_id = ? "
        "ORDER BY created_at, id",
        (chat_id,),
    )
    heads = log.select("SELECT head FROM chats WHERE chat_id = ?", (chat_id,))
    tree = build_tree(Node(row[0], row[1], bool(row[2])) for row in rows)
    return frozenset(tree.path(tree.leaf(heads[0][0] if heads else None)))
