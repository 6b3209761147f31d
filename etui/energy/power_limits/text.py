"""Power limits as text."""

from __future__ import annotations

from etui.energy.power_limits.types import PowerLimit
from etui.units import limit_text, seconds_text


def describe_limit(limit: PowerLimit) -> str:
    """Describe a limit: ``GPU 0: 350 W (100 W to 450 W, default 450 W), etui may set it``."""
    facts = [format_range(limit)]
    if limit.default_watts is not None:
        facts.append(f"default {limit_text(limit.default_watts)}")
    enforced, watts = limit.enforced_watts, limit.watts
    if enforced is not None and watts is not None and limit_text(enforced) != limit_text(watts):
        facts.append(f"{limit_text(limit.enforced_watts)} enforced")
    facts += [
        f"{part.name} {limit_text(part.watts)}"
        + (f" over {seconds_text(part.window_s)}" if part.window_s is not None else "")
        for part in limit.parts
    ]
    if limit.note:
        facts.append(limit.note)
    who = {"etui": "etui may set it", "zeusd": "zeusd sets it", "user": "only root may set it"}
    return f"{limit.label}: {limit_text(limit.watts)} ({', '.join(facts)}), {who[limit.setter]}"


def format_range(limit: PowerLimit) -> str:
    """Format the range of a limit: ``100 W to 450 W``, ``at most 65 W``, ``above 0 W``."""
    low, high = limit.min_watts, limit.max_watts
    if low is not None and high is not None:
        return f"{limit_text(low)} to {limit_text(high)}"
    if high is not None:
        return f"at most {limit_text(high)}"
    return f"at least {limit_text(low)}" if low is not None else "above 0 W"
