"""Fixtures of the tests of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from etui.config.config import Config
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.turn.record import TurnRecord


@pytest.fixture
def fill(config: Config) -> Iterator[Callable[..., LogReader]]:
    """Save turns and open the log they are in."""
    opened: list[LogReader] = []

    def save(*turns: TurnRecord) -> LogReader:
        with TurnWriter(config) as writer:
            for turn in turns:
                writer.save_turn(turn)
        opened.append(LogReader(config))
        return opened[-1]

    yield save
    for log in opened:
        log.close()
