"""Remember the model that a user chose, which stands in where a policy's models are missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.errors import EtuiError

if TYPE_CHECKING:
    from pathlib import Path

    from etui.config.config import Config


def stand_in_file(config: Config) -> Path:
    """Return the path of the file that keeps the name."""
    return config.home / "stand_in.json"


def load_stand_in(config: Config) -> str | None:
    """Load the name of the model; None without one, or where the file is damaged."""
    try:
        name = json.loads(stand_in_file(config).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def save_stand_in(config: Config, model: str) -> None:
    """Keep the name of the model.

    Raises:
        EtuiError: The file cannot be written.
    """
    path = stand_in_file(config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"model": model}) + "\n")
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}"
        fix = "make the folder writable, or set ETUI_HOME to one that is"
        raise EtuiError(what, fix) from error
