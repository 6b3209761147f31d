"""The folder and the log of the user are theirs alone; folders of others stay as they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etui.config.config import Config, make_home
from etui.config.private import tighten
from etui.log.database import open_for_writing
from etui.log.row_files import UnsavedRow, append_rows, unsaved_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def old(tmp_path: Path) -> Config:
    """A home as an earlier etui made it, with umask 022."""
    home = tmp_path / "etui"
    for folder in (home, home / "logs", home / "models"):
        folder.mkdir()
        folder.chmod(0o755)
    for name in ("etui.db", "etui.db-wal", "config.yaml", "keys"):
        (home / name).touch()
        (home / name).chmod(0o644)
    return Config(home, home / "models")


def test_a_new_home_and_its_log_are_private(tmp_path: Path) -> None:
    config = Config(tmp_path / "new" / "etui", tmp_path)
    before = os.umask(0o022)
    try:
        open_for_writing(config).close()
        append_rows(unsaved_file(config), [UnsavedRow("turns", {})])
    finally:
        os.umask(before)
    assert mode(config.home) == mode(config.log_dir) == 0o700
    files = [config.database, unsaved_file(config), *config.home.glob("etui.db-*")]
    assert {mode(file) for file in files} == {0o600}


def test_an_old_home_is_tightened_and_says_so_once(old: Config) -> None:
    (line,) = tighten(old)
    assert line == f"other users could read {old.database}; now only you can"
    assert mode(old.home) == 0o700
    assert mode(old.database) == mode(old.home / "etui.db-wal") == 0o600
    assert mode(old.config_file) == 0o644
    assert tighten(old) == ()


@pytest.mark.parametrize("bits", [0o1777, 0o2775])
def test_a_folder_for_several_users_is_left_as_it_is(old: Config, bits: int) -> None:
    old.home.chmod(bits)
    tighten(old)
    assert mode(old.home) == bits
    assert mode(old.database) == 0o600  # the log in it is etui's all the same


def test_a_folder_with_folders_of_others_is_left_as_it_is(old: Config) -> None:
    (old.home / "photos").mkdir()
    tighten(old)
    assert mode(old.home) == 0o755


@pytest.mark.parametrize("users", ["etui", "etui/models/me"])
def test_the_home_of_the_user_is_left_as_it_is(
    old: Config, users: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(old.home.parent / users))
    tighten(old)
    assert mode(old.home) == 0o755


def test_what_others_own_is_left_as_it_is(old: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert tighten(old) == ()
    assert mode(old.home) == 0o755
    assert mode(old.database) == 0o644


def test_a_folder_of_another_group_is_left_as_it_is(
    old: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getegid", lambda: 4242)
    assert tighten(old) == ()
    assert mode(old.home) == 0o755


def test_a_folder_without_a_log_is_left_as_it_is(old: Config) -> None:
    old.database.unlink()
    assert tighten(old) == ()
    assert mode(old.home) == 0o755
    make_home(old)
    assert mode(old.home) == 0o755


def test_what_a_link_leads_to_is_left_as_it_is(old: Config, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.db"
    target.touch()
    target.chmod(0o644)
    old.database.unlink()
    old.database.symlink_to(target)
    assert tighten(old) == ()
    assert mode(target) == 0o644
