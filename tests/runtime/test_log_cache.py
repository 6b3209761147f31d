"""Values read from the log: as new as the log, or as the last renewal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.runtime.caches import LogCache
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
