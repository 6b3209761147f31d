"""Give each setting its power limit, and notice a limit that changes in the middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.sweep.rig import SettingFailed
from etui.units import watts_text

if TYPE_CHECKING:
    from etui.energy.power_limits.types import AppliedLimit

_EQUAL_WATTS = 0.5
"""Two readings of a power limit are equal within this."""


@dataclass(frozen=True, slots=True)
class _Held:
    """The limit set last: as requested, as read afterwards, and what is to be noted."""

    watts: float | None = None
    read_watts: float | None = None
    note: str = ""


class CapControl:
    """The power limit of the swept devices during a sweep.

    Args:
        set_limit: Sets a limit in watts, and reads it back; None if the sweep has no such axis.
        read_limit: Reads the limit in force, watts; None if it cannot be read.
    """

    def __init__(
        self,
        set_limit: Callable[[float], AppliedLimit] | None = None,
        read_limit: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._set_limit = set_limit
        self._read_limit = read_limit
        self._held = _Held()

    def apply(self, watts: float | None) -> str:
        """Set a limit, unless it is the one set last; None leaves it as it is.

        Returns:
            What a reader should know about it: a limit that was rounded; empty if nothing.

        Raises:
            SettingFailed: It was refused.
        """
        if watts is None or self._set_limit is None:
            return ""
        if watts != self._held.watts:
            self._held = _Held()
            applied = self._set_limit(watts)
            if applied.is_refused:
                raise SettingFailed(
                    f"the power limit of {watts_text(watts)}: {applied.note}",
                    "`etui doctor` shows the range, who may set it, and the command",
                )
            self._held = _Held(watts, self._read_limit(), applied.note)
        return self._held.note

    def check(self) -> tuple[float | None, str]:
        """Read the limit in force.

        Returns:
            The limit in watts, None if unknown, and how it differs from the one that was set; empty
            if it does not. One that differs is set again next time.
        """
        now, held = self._read_limit(), self._held.read_watts
        if now is None or held is None or abs(now - held) <= _EQUAL_WATTS:
            return now, ""
        self._held = _Held()
        return now, f"the power limit changed from {watts_text(held)} to {watts_text(now)}"
