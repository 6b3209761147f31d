"""Store the parents of turns from before chats had branches, as a part of migration m016."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from etui.turn.chat_tree import Node, line_parents

if TYPE_CHECKING:
    from sqlite_utils import Database

_TURNS = """
    SELECT chat_id, turn_id, trim(answer) <> '',
        CASE WHEN json_valid(settings) THEN json_extract(settings, '$.replaces') END
    FROM turns WHERE chat_id IS NOT NULL ORDER BY chat_id, created_at, id
"""


def set_parents(db: Database) -> None:
    """Make each chat a line of its turns; those that were replaced become branches."""
    found = []
    for _, rows in groupby(db.execute(_TURNS).fetchall(), key=lambda row: row[0]):
        turns = list(rows)
        nodes = [Node(turn_id, None, bool(answered)) for _, turn_id, answered, _ in turns]
        replaced = {turn_id: str(other) for _, turn_id, _, other in turns if other is not None}
        parents = line_parents(nodes, replaced)
        found += [(parent, turn_id) for turn_id, parent in parents.items() if parent is not None]
    db.conn.executemany("UPDATE turns SET parent_id = ? WHERE turn_id = ?", found)
