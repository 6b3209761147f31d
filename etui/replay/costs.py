"""What each arm costs, as a command line states it: ``arm=1,other=10``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.errors import UsageError
from etui.text.suggest import suggest

_FIX = "write --costs {example}: a number above 0 for each arm, joules or any other unit"


def read_costs(text: str, arms: Sequence[str]) -> dict[str, float]:
    """The cost of every arm, in the order of ``arms``.

    Raises:
        UsageError: An arm has no cost, or one that is no number above 0; or there is no such arm.
    """
    fix = _FIX.format(example=",".join(f"{arm}={10**at}" for at, arm in enumerate(arms[:3])))
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UsageError(f"--costs: {part.strip()[:60]!r} is not ARM=NUMBER", fix)
        if name not in arms:
            hint = suggest(name, arms) or f"it has: {', '.join(arms)}"
            raise UsageError(f"--costs: the outcomes have no arm {name[:60]!r}", hint)
        if name in found:
            raise UsageError(f"--costs: {name} is named twice", fix)
        try:
            cost = float(value)
        except ValueError:
            raise UsageError(f"--costs: {value[:20]!r} of {name} is no number", fix) from None
        if not (math.isfinite(cost) and cost > 0):
            raise UsageError(f"--costs: {value[:20]} of {name} is not above 0", fix)
        found[name] = cost
    missing = [arm for arm in arms if arm not in found]
    if missing:
        raise UsageError(f"--costs: {', '.join(missing)} has no cost", fix)
    return {arm: found[arm] for arm in arms}
