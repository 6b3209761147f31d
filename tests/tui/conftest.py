"""The app of these tests runs on fakes; see ``fakes.py``."""

from __future__ import annotations

import pytest

from etui.config.config import Config
from tests.tui.fakes import FakeChats, FakeMeter, FakeRunner, FakeShelf, House


@pytest.fixture
def house(config: Config, monkeypatch: pytest.MonkeyPatch) -> House:
    """A machine with one GPU, the starter model on disk, and nothing real."""
    monkeypatch.delenv("NO_COLOR")
    meter = FakeMeter()
    runner = FakeRunner(meter)
    return House(config, meter, runner, FakeShelf(), FakeChats(runner))
