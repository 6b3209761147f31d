"""Paths are completed as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.prompts.library import MOST_PATHS, complete_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a b.md").touch()
    (tmp_path / ".hidden").touch()
    for name in ("Note.txt", "my-notes.md", 'quo"te', "z"):
        (tmp_path / name).touch()
    return tmp_path


def test_names_that_begin_so_come_first_and_folders_before_files(folder: Path) -> None:
    assert complete_path("no", folder) == ("notes/", "Note.txt", "my-notes.md")


def test_below_a_folder_and_hidden_and_odd_names(folder: Path) -> None:
    assert complete_path("notes/", folder) == ("notes/a b.md",)
    assert complete_path("notes/A", folder) == ("notes/a b.md",)
    assert complete_path(".", folder) == (".hidden",)
    assert complete_path("quo", folder) == ()
    assert complete_path(f"{folder}/z", None) == (f"{folder}/z",)


@pytest.mark.parametrize("odd", ["missing/x", "a\0b/", "~nobody-here/", "z/x"])
def test_a_folder_that_cannot_be_read_has_none(folder: Path, odd: str) -> None:
    assert complete_path(odd, folder) == ()


def test_a_large_folder_is_cut(tmp_path: Path) -> None:
    for number in range(MOST_PATHS + 10):
        (tmp_path / f"{number:03d}").touch()
    assert len(complete_path("", tmp_path)) == MOST_PATHS
