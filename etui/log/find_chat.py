"""Find the chat that a user names: by its id, its title, or the beginning of either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etui.log.chat_queries import list_chats
from etui.log.filters import build_like_pattern
from etui.log.queries import LogReader, UnknownId
from etui.log.records import ChatRecord
from etui.log.rows import parse_chat
from etui.text.sanitize import sanitize
from etui.text.suggest import find_nearest

LATEST = "last"
"""The name of the chat that was used last."""

_MOST_LISTED = 5
_MOST_TITLES = 2000


def find_chat(log: LogReader, name: str) -> ChatRecord:
    """Return the chat of an id, of a title, or of a unique beginning of one of them.

    A title is compared without regard to case. Of several chats with exactly this title, the one
    used last is returned. ``last`` is the chat used last, unless a chat has this title.

    Args:
        name: What the user wrote.

    Raises:
        UnknownId: No chat matches, or several begin with it.
        LogUnavailable: The log cannot be read.
    """
    wanted = " ".join(name.split())
    # The wildcard comes after the name, so a title that only contains the name does not match.
    beginning = build_like_pattern(wanted).removeprefix("%")
    rows = log.select(
        """SELECT *, coalesce(
                (SELECT max(created_at) FROM turns WHERE turns.chat_id = chats.chat_id),
                created_at) AS last_at
            FROM chats WHERE chat_id LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\'
            ORDER BY last_at DESC, id DESC""",
        (beginning, beginning),
    )
    found = [parse_chat(row) for row in rows] if wanted else []
    chosen = choose_chat(found, wanted)
    if chosen is not None:
        return chosen
    if wanted == LATEST:
        latest = list_chats(log, limit=1)
        if latest:
            return latest[0].chat
    if found:
        titles = list_titles(found[:_MOST_LISTED])
        raise UnknownId(f"{len(found)} chats begin with {wanted!r}", titles, "")
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


def list_titles(chats: Sequence[ChatRecord]) -> list[str]:
    """Return what to type for each of these chats: its title, or its id where others have that."""
    counts = Counter(map(_title, chats))
    titled = ((chat, _title(chat)) for chat in chats)
    return [title if counts[title] == 1 else f"{chat.chat_id} ({title})" for chat, title in titled]


def _title(chat: ChatRecord) -> str:
    return " ".join(sanitize(chat.name).split()) or chat.chat_id
