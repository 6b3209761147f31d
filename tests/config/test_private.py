"""The folder and the log of the user are theirs alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.log.database import open_for_writing
from etui.log.spool import UnsavedRow, append, unsaved_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_new_home_and_its_log_are_private(tmp_path: Path) -> None:
    config = Config(tmp_path / "new" / "etui", tmp_path)
    before = os.umask(0o022)
    try:
        open_for_writing(config).close()
        append(unsaved_file(config), [UnsavedRow("turns", {})])
    finally:
        os.umask(before)
    assert mode(config.home) == mode(config.log_dir) == 0o700
    files = [config.database, unsaved_file(config), *config.home.glob("etui.db-*")]
    assert {mode(file) for file in files} == {0o600}
