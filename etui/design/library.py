"""Find designs by name or path: those of the user, and the shipped ones."""

from __future__ import annotations

from pathlib import Path

from etui.config.config import Config, shipped_dir
from etui.yaml.named_files import NamedFile, find_named_file, list_named_files


def designs_dir(config: Config) -> Path:
    """Return the folder of the user's own designs."""
    return config.home / "designs"


def list_designs(config: Config) -> tuple[NamedFile, ...]:
    """List every design that has a name, sorted; the user's own replace shipped ones."""
    return list_named_files(shipped_dir() / "designs", designs_dir(config))


def find_design(name: str, config: Config) -> NamedFile:
    """Find a design by name; a name that ends in ``.yaml`` or contains a slash is a path.

    Raises:
        UsageError: There is no design of that name.
    """
    shipped = shipped_dir() / "designs"
    return find_named_file(name, shipped, designs_dir(config), "design", "designs")
