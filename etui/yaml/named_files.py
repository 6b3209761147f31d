"""YAML files with a name: those of the user, and the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etui.errors import UsageError
from etui.text import suggest

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """The location of one file."""

    name: str  # Name of the file without its extension
    path: Path
    origin: Literal["user", "shipped", "file"]
    """``user`` (a folder of ETUI_HOME), ``shipped``, or ``file`` if it is given by path."""
    hides: bool = False  # Whether it replaces a shipped file of the same name


def list_named_files(shipped: Path, own: Path) -> tuple[NamedFile, ...]:
    """List the files of both folders, sorted by name; the user's own replace shipped ones."""
    of_etui = {path.stem: path for path in _list_files(shipped)}
    of_user = {path.stem: path for path in _list_files(own)}
    places = [
        NamedFile(name, path, "shipped") for name, path in of_etui.items() if name not in of_user
    ]
    places += [NamedFile(name, path, "user", name in of_etui) for name, path in of_user.items()]
    return tuple(sorted(places, key=lambda place: place.name))


def find_named_file(name: str, shipped: Path, own: Path, what: str, plural: str) -> NamedFile:
    """Find a file by name, or by a path (with ``.yaml`` or a slash); UsageError without one."""
    if name.endswith(_ENDINGS) or "/" in name or "\\" in name:
        path = Path(name).expanduser()
        return NamedFile(path.stem, path, "file")
    places = list_named_files(shipped, own)
    for place in places:
        if place.name == name:
            return place
    names = [place.name for place in places]
    hint = suggest(name.lower(), names) or f"known {plural}: {', '.join(names)}"
    raise UsageError(
        f"unknown {what} {name!r}",
        f"{hint} (put your own {plural} into {own}, or pass a .yaml file)",
    )


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and path.is_file())
