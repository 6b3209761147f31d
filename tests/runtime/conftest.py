"""A machine with one model that is always here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config


@pytest.fixture
def here(config: Config, tiny_starter: Path) -> Config:
    """A configuration that finds the starter model."""
    return replace(config, models_dir=tiny_starter.parent)
