"""Interface between a sweep and what it measures: this machine, or a simulated one."""

from __future__ import annotations

from typing import Protocol

from etui.errors import EtuiError
from etui.sweep.blocks import Visit
from etui.sweep.setting import Setting


class SettingFailed(EtuiError):
    """A setting that this machine cannot run; the sweep goes on without it."""


class Rig(Protocol):
    """Measures settings."""

    def visit(self, setting: Setting, copy: int) -> Visit:
        """Apply a setting, warm up, cool down, and measure the workload once.

        The same tokens are computed for every setting.

        Args:
            copy: 1 for the second visit of the baseline in a block.

        Returns:
            The measurement; ``disturbed`` says why it cannot be used.

        Raises:
            SettingFailed: This machine cannot run the setting.
            Stopped: The sweep cannot go on now (the battery discharges); it can be resumed.
            EtuiError: The engine or the meter failed.
        """
