"""Killed at random moments: every turn that had begun has its row, limits are as found."""

from __future__ import annotations

import os

import pytest

from benchmarks.kill_moments import KINDS, run_kills


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("what", KINDS)
def test_a_kill_loses_nothing(what, starter_model, monkeypatch):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    assert [kill for kill in run_kills(what, 3, seed=1) if kill.is_lost] == []
