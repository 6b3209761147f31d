"""A session that says what the test scripted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reasoning.scripted import FakeSession, plain_facts


@pytest.fixture
def fake() -> Callable[..., FakeSession]:
    """Make a session: ``fake(says, think_open=..., context_tokens=...)``."""

    def make(says: Callable[[str], str], **facts: object) -> FakeSession:
        return FakeSession(plain_facts(**facts), says)

    return make
