"""Values read from files: kept while nothing changes, read again after any change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etui.runtime.caches import FileCache, read_state

LATER_NS = 10_000_000_000


class Files:
    """A file that is read through a cache, long after its last change unless a test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.now_ns = 0
        self.cache: FileCache[str] = FileCache(lambda: self.now_ns)
        self.write("one")

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.rest()

    def rest(self) -> None:
        state = read_state(str(self.path)) or read_state(str(self.path.parent))
        assert state is not None
        self.now_ns = max(state[:2]) + LATER_NS

    def get(self, since: object = None) -> str:
        def read() -> str:
            self.reads += 1
            return self.path.read_text() if self.path.exists() else "none"

        return self.cache.get("key", read, lambda _: (str(self.path),), since)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "file")


def test_an_unchanged_file_is_read_once(files: Files) -> None:
    assert [files.get() for _ in range(3)] == ["one"] * 3
    assert files.reads == 1


def test_every_kind_of_change_is_seen_by_the_next_reading(files: Files) -> None:
    assert files.get() == "one"
    files.write("two")  # of the same length
    assert files.get() == "two"
    other = files.path.with_name("other")
    other.write_text("new")
    state = files.path.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))  # as old as the other
    other.replace(files.path)
    files.rest()
    assert files.get() == "new"
    files.path.unlink()
    assert files.get() == "none"
    files.write("back")
    assert files.get() == "back"


def test_a_change_that_keeps_the_modification_time_is_seen(files: Files) -> None:
    assert files.get() == "one"
    state = files.path.stat()
    files.path.write_text("TWO")
    os.utime(files.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert files.get() == "TWO"


def test_a_file_that_has_just_changed_is_read_until_its_times_are_certain(files: Files) -> None:
    files.now_ns -= LATER_NS - 1_000_000_000  # a second after the change
    assert [files.get() for _ in range(3)] == ["one"] * 3
    assert files.reads == 3
    files.rest()
    assert [files.get() for _ in range(3)] == ["one"] * 3
    assert files.reads == 4


def test_another_origin_reads_again(files: Files) -> None:
    catalogue = object()
    files.get(since=catalogue)
    files.get(since=catalogue)
    assert files.reads == 1
    files.get(since=object())
    assert files.reads == 2


def test_an_error_is_not_kept(files: Files) -> None:
    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        files.cache.get("key", fail, lambda _: ())
    assert files.get() == "one"
