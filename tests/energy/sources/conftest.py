"""A tree of sysfs that the tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return tmp_path / "sysfs"


@pytest.fixture
def write(sysfs: Path) -> Write:
    def make(folder: str, **files: object) -> Path:
        path = sysfs / folder
        for name, value in files.items():
            file = path / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        return path

    return make
