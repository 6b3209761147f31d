"""Delete a chat with all that is kept of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.log.writer import TurnWriter


def delete_chat(chat_id: str, config: Config, log: LogReader, writer: TurnWriter) -> int:
    """Delete a chat, its turns, and their KV caches on disk; return the number of these files.

    Processes that have its cache in memory write it no more. EtuiError if the log or the folder of
    the caches cannot be written.
    """
    from etui.engine.kv_folder import KvFolder

    rows = log.select("SELECT turn_id FROM turns WHERE chat_id = ?", (chat_id,))
    try:  # first: afterwards nothing says which files were the chat's
        deleted = KvFolder(config.kv_dir, 0).forget([row[0] for row in rows])
    except OSError as error:
        raise EtuiError(
            f"the KV caches of the chat were not deleted: {error.strerror or error}",
            f"make {config.kv_dir} writable, or delete it",
        ) from error
    writer.delete_chat(chat_id)
    writer.flush()
    return deleted
