"""Waiting for the app, on a machine that stands still for a while."""

from __future__ import annotations

from typing import Any, cast

import pytest
from textual.pilot import Pilot, WaitForScreenTimeout

from tests.tui import fakes


class StalledPilot:
    """A pilot whose every pause takes minutes; the first ones end as a screen that is late does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses = 0

    async def pause(self, delay: float) -> None:
        self.now += 300.0
        self.pauses += 1
        if self.pauses <= 2:
            raise WaitForScreenTimeout("late")


async def test_a_stalled_machine_does_not_end_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = StalledPilot()
    monkeypatch.setattr(fakes.time, "monotonic", lambda: pilot.now)
    await fakes.until(cast("Pilot[Any]", pilot), lambda: pilot.pauses == 4)
    with pytest.raises(AssertionError, match="never came"):
        await fakes.until(cast("Pilot[Any]", pilot), lambda: False)
