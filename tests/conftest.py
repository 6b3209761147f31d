"""Fixtures for every test: etui never sees the user's real folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.config import Config, load_config


@pytest.fixture(autouse=True)
def etui_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ETUI_HOME, an empty models folder and an empty sysfs for each test."""
    home = tmp_path / "home"
    sysfs = tmp_path / "sysfs"
    home.mkdir()
    sysfs.mkdir()
    monkeypatch.setenv("ETUI_HOME", str(home))
    monkeypatch.setenv("ETUI_SYSFS", str(sysfs))
    monkeypatch.delenv("ETUI_MODELS", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    return home


@pytest.fixture
def config(etui_home: Path) -> Config:
    """The Config of the test's own folders."""
    return load_config()
