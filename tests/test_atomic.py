"""A file that is written in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etui.atomic import write_bytes, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def test_text_keeps_its_line_ends(folder):
    write_text(folder / "a.txt", "one\r\ntwo ±\n")
    assert (folder / "a.txt").read_bytes() == "one\r\ntwo ±\n".encode()
    assert os.listdir(folder) == ["a.txt"]


def test_a_file_is_replaced_whole(folder):
    path = folder / "a.bin"
    write_bytes(path, b"a long content")
    write_bytes(path, b"short", sync=False)
    assert path.read_bytes() == b"short"


def test_a_failure_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    path = folder / "a.txt"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(folder) == ["a.txt"]


def test_an_interruption_leaves_nothing(folder, monkeypatch):
    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(folder / "a.txt", "new")
    assert os.listdir(folder) == []


def test_an_error_names_the_file_that_was_asked_for(folder):
    missing = folder / "no" / "a.txt"
    with pytest.raises(FileNotFoundError) as error:
        write_text(missing, "new")
    assert error.value.filename == str(missing)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_permissions_are_those_of_a_new_file_or_of_another(folder, mode):
    usual, other = folder / "usual", folder / "other"
    usual.touch()
    other.touch()
    other.chmod(mode)
    write_text(folder / "plain", "text")
    write_text(folder / "like", "text", like=other)
    assert (folder / "plain").stat().st_mode == usual.stat().st_mode
    assert (folder / "like").stat().st_mode == other.stat().st_mode


def test_half_a_surrogate_is_refused_unless_it_is_allowed(folder):
    with pytest.raises(UnicodeEncodeError):
        write_text(folder / "a.txt", "\ud800")
    write_text(folder / "a.txt", "\ud800", errors="replace")
    assert (folder / "a.txt").read_text() == "?"


def test_a_name_as_long_as_the_file_system_takes(folder):
    path = folder / ("é" * 127)
    write_text(path, "text")
    assert path.read_text() == "text"


def test_a_pipe_is_written_and_not_replaced(folder):
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert os.listdir(folder) == ["pipe"]
