"""Complete the path of a file that is being typed."""

from __future__ import annotations

import os
from pathlib import Path

MOST_PATHS = 50
_MOST_SEEN = 5_000


def complete_path(fragment: str, folder: Path | None = None) -> tuple[str, ...]:
    """List the paths that a typed path may become, folders with a slash at their end.

    Names that begin with what was typed come before those that contain it, folders before files.
    Hidden names need a dot. A folder that cannot be read has none.

    Args:
        fragment: What was typed, as it was written; ``~`` is the home folder.
        folder: What a relative path is relative to; None is the current folder.
    """
    at = max(fragment.rfind("/"), fragment.rfind(os.sep)) + 1
    parent, typed = fragment[:at], fragment[at:].casefold()
    found: list[tuple[bool, bool, str]] = []
    try:
        place = (folder or Path()) / Path(parent).expanduser()
        with os.scandir(place) as entries:
            for seen, entry in enumerate(entries):
                if seen >= _MOST_SEEN:
                    break
                name = entry.name.casefold()
                if typed not in name or name.startswith(".") != typed.startswith("."):
                    continue
                if "\n" in entry.name or '"' in entry.name:
                    continue  # it could not be written
                is_folder = entry.is_dir()
                shown = f"{parent}{entry.name}{'/' if is_folder else ''}"
                found.append((not name.startswith(typed), not is_folder, shown))
    except (OSError, ValueError, RuntimeError):
        return ()
    return tuple(shown for _, _, shown in sorted(found)[:MOST_PATHS])
