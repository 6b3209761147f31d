"""Policies from text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etui.routing.library import CheckedPolicy, check_text
from etui.routing.policy import Policy
from etui.yaml.named_files import NamedFile

MODELS = ("tiny", "small-1b", "large-8b")

Make = Callable[[str], Policy]
Check = Callable[[str], CheckedPolicy]


def _check(text: str) -> CheckedPolicy:
    return check_text(text, NamedFile("p", Path("p.yaml"), "file"), MODELS)


@pytest.fixture
def check() -> Check:
    """Text -> the checked policy over the models tiny, small-1b, large-8b."""
    return _check


@pytest.fixture
def make() -> Make:
    """Text -> a policy that must be sound."""

    def build(text: str) -> Policy:
        checked = _check(text)
        assert checked.policy is not None, checked.errors
        return checked.policy

    return build
