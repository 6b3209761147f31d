"""Find designs by name or path: those of the user, and the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etui.config.config import Config, shipped_dir
from etui.errors import UsageError
from etui.text.suggest import suggest
from etui.yaml.load import read_text

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class DesignPlace:
    """The location of one design.

    Attributes:
        name: Name of the file without its extension.
        path: The file.
        origin: ``user`` (ETUI_HOME/designs), ``shipped``, or ``file`` for a design given by path.
        hides: Whether it replaces a shipped design of the same name.
    """

    name: str
    path: Path
    origin: Literal["user", "shipped", "file"]
    hides: bool = False

    def read(self) -> str:
        """Read the text of the design.

        Raises:
            InvalidFile: The file cannot be read, or is not UTF-8 text.
        """
        return read_text(self.path)


def designs_dir(config: Config) -> Path:
    """Return the folder of the user's own designs."""
    return config.home / "designs"


def list_designs(config: Config) -> tuple[DesignPlace, ...]:
    """List every design that has a name, sorted; the user's own replace shipped ones."""
    shipped = {path.stem: path for path in _list_files(shipped_dir() / "designs")}
    own = {path.stem: path for path in _list_files(designs_dir(config))}
    places = [
        DesignPlace(name, path, "shipped") for name, path in shipped.items() if name not in own
    ]
    places += [DesignPlace(name, path, "user", name in shipped) for name, path in own.items()]
    return tuple(sorted(places, key=lambda place: place.name))


def find_design(name: str, config: Config) -> DesignPlace:
    """Find a design by name; a name that ends in ``.yaml`` or contains a slash is a path.

    Raises:
        UsageError: There is no design of that name.
    """
    if name.endswith(_ENDINGS) or "/" in name or "\\" in name:
        path = Path(name).expanduser()
        return DesignPlace(path.stem, path, "file")
    places = list_designs(config)
    for place in places:
        if place.name == name:
            return place
    names = [place.name for place in places]
    hint = suggest(name.lower(), names) or f"known designs: {', '.join(names)}"
    raise UsageError(
        f"unknown design {name!r}",
        f"{hint} (put your own designs into {designs_dir(config)}, or pass a .yaml file)",
    )


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and path.is_file())
