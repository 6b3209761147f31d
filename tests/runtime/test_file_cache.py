"""Values read from files: kept while nothing changes, read again after any change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.runtime.caches import FileCache, LogCache, read_state
from tests.fixtures.turns import TURN


class Log:
    """A log, and how often the cache has read it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cache = LogCache(config)
        self.reads = 0
        self.turns = 0

    def count(self) -> int:
        def read(log: LogReader) -> int:
            self.reads += 1
            return log.count_turns()

        return self.cache.get("count", read)

    def add(self) -> None:
        self.turns += 1
        with TurnWriter(self.config) as writer:
            writer.save_turn(replace(TURN, turn_id=f"id{self.turns:010}"))

    def close(self) -> None:
        self.cache.close()


@pytest.fixture
def log(config: Config) -> Iterator[Log]:
    with closing(Log(config)) as log:
        yield log


def test_an_unchanged_log_is_read_once(log: Log) -> None:
    log.add()
    assert [log.count() for _ in range(3)] == [1, 1, 1]
    assert log.reads == 1


def test_without_a_log_nothing_is_read_again_until_there_is_one(log: Log) -> None:
    assert [log.count(), log.count()] == [0, 0]
    assert log.reads == 1
    log.add()
    assert log.count() == 1


def test_a_turn_of_any_program_is_seen_by_the_next_reading(log: Log) -> None:
    log.add()
    assert log.count() == 1
    log.add()
    assert log.cache.is_stale()
    assert log.count() == 2
    assert not log.cache.is_stale()


def test_in_the_background_a_reading_never_waits_and_a_renewal_brings_the_new(log: Log) -> None:
    log.cache.in_background = True
    log.add()
    assert log.count() == 1
    log.add()
    assert log.count() == 1
    assert log.cache.is_stale()
    log.cache.renew()
    assert log.reads == 2
    assert log.count() == 2
    log.cache.renew()
    assert log.reads == 2


def test_a_renewal_forgets_what_nobody_asks_for(log: Log) -> None:
    log.cache.in_background = True
    log.add()
    log.count()
    for _ in range(3):
        log.add()
        log.cache.renew()
    assert log.reads == 2  # at first, and once more
    assert log.count() == 4


def test_a_log_that_was_replaced_is_read_again(log: Log) -> None:
    log.add()
    log.add()
    assert log.count() == 2
    for file in log.config.home.glob("etui.db*"):
        file.unlink()
    log.add()
    assert log.count() == 1


def test_a_log_that_cannot_be_read_is_an_error_and_nothing_is_kept(log: Log) -> None:
    log.config.database.write_bytes(b"not a database, but long enough to be one " * 50)
    with pytest.raises(LogUnavailable):
        log.count()
    assert not log.cache.is_stale()
    log.cache.renew()
    log.config.database.unlink()
    assert log.count() == 0


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
