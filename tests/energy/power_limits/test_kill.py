"""Killed with SIGKILL at random moments, every limit is as found after the next start of etui.

The full form, 50 kills for each kind of device, is ``python -m benchmarks.power_limits``.
"""

from __future__ import annotations

import pytest

from benchmarks.figures import Skipped
from benchmarks.power_limits import run_kills


@pytest.mark.parametrize("kind", ["rapl", "amdgpu", "nvml"])
def test_limits_are_restored_after_a_kill(kind: str) -> None:
    try:
        kills = run_kills(kind, 3, seed=1)
    except Skipped as skipped:
        pytest.skip(str(skipped))
    for kill in kills:
        assert kill.restored, kill
        if kill.changed and kill.stage == "set":
            assert "restored the power limit" in kill.said
            assert "(an earlier sweep was killed)" in kill.said
