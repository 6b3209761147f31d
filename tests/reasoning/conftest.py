"""A session that says what the test scripted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest

from tests.engine.conftest import library, make_session, model  # noqa: F401 - fixtures
from tests.reasoning.scripted import FakeSession, plain_facts


@pytest.fixture
def fake() -> Callable[..., FakeSession]:
    """Make a session: ``fake(says, think_open=..., context_tokens=..., capacity=...)``."""
    own = {f.name for f in fields(FakeSession)}

    def make(says: Callable[..., str], **given: object) -> FakeSession:
        facts = {name: value for name, value in given.items() if name not in own}
        options = {name: value for name, value in given.items() if name in own}
        return FakeSession(plain_facts(**facts), says, **options)

    return make
