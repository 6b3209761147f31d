"""Why the meter of another machine gives no joules."""

from __future__ import annotations

from typing import Literal

from etui.errors import EtuiError

FailureFlag = Literal[
    "meter-unreachable",
    "meter-refused",
    "meter-rebooted",
    "meter-history",
    "meter-clock",
    "meter-invalid",
]
"""Flag of an energy whose joules are therefore unknown.

``meter-unreachable``: no connection, no answer in time, or a server error. ``meter-refused``: no
key or a wrong one, a redirect, or another refusal. ``meter-rebooted``: the machine was started
again meanwhile. ``meter-history``: the interval is no longer, or was not yet, recorded.
``meter-clock``: the difference between the clocks could not be bounded. ``meter-invalid``: the
answer is not a document of a meter, or its numbers are impossible.
"""


class MeterFailed(EtuiError):
    """The meter of another machine cannot say what an interval took; ``flag`` says why."""

    def __init__(self, flag: FailureFlag, what: str, fix: str = "") -> None:
        super().__init__(what, fix)
        self.flag = flag
