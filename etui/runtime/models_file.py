"""Change the user's models.yaml, and leave the rest of it as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from etui.errors import writing

if TYPE_CHECKING:
    from etui.config.config import Config

_NEW_FILE = "# Your models. An entry here replaces a shipped one of the same name.\n"


def edit_models_file(config: Config, change: Callable[[str], str]) -> None:
    """Change models.yaml by a function of its text; another etui that changes it too waits.

    Raises:
        InvalidFile: The changed file would not be valid; it stays as it was.
        EtuiError: It cannot be written, or its style does not allow the change.
    """
    from filelock import FileLock

    from etui.atomic import write_text
    from etui.models.schema import ModelsFile
    from etui.yaml.load import parse_yaml

    path = config.models_file.resolve()  # it may be a link to where the user keeps it
    with writing(path, "make it writable and run the command again: the file of the model is kept"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(config.home / ".models.yaml.lock"):
            text = path.read_bytes().decode("utf-8-sig") if path.exists() else _NEW_FILE
            changed = change(text)
            parse_yaml(changed, ModelsFile, file=str(path))  # never a file that etui refuses
            write_text(path, changed, like=path if path.exists() else None)


def set_own_settings(
    config: Config, model: str, system: str, sampling: Mapping[str, float]
) -> None:
    """Write what the user sets for a model into ``settings`` of models.yaml; nothing removes it.

    Args:
        sampling: Key of ``sampling`` -> its value.

    Raises:
        InvalidFile: A value is out of its range; the message says which.
        EtuiError: The file cannot be written, or its style does not allow the change.
    """
    from etui.yaml.edit import insert_entry, remove_entry

    lines = [f"system: {json.dumps(system, ensure_ascii=False)}"] if system else []
    if sampling:
        values = ", ".join(f"{key}: {value:.15g}" for key, value in sampling.items())
        lines.append(f"sampling: {{{values}}}")

    def change(text: str) -> str:
        text = remove_entry(text, "settings", model)
        return insert_entry(text, "settings", model, lines) if lines else text

    edit_models_file(config, change)
