"""The part that a setting plays in the figures, and the colour of it."""

from __future__ import annotations

from typing import Literal

from etui.sweep.report.names import list_varied_axes, name_values, short_name
from etui.sweep.result import SettingResult, SweepResult

Role = Literal["best", "baseline", "frontier", "kept", "dropped"]

NAMES: dict[Role, str] = {
    "best": "best by the goal",
    "baseline": "in use before (baseline)",
    "frontier": "on the frontier",
    "kept": "kept, not on the frontier",
    "dropped": "dropped or could not run",
}
"""Role -> its name in a legend, the most important first."""


def find_role(result: SweepResult, one: SettingResult) -> Role:
    """Return the most important part that a setting plays."""
    if one.setting == result.best and one.setting != result.baseline:
        return "best"
    if one.setting == result.baseline:
        return "baseline"
    if one.is_on_frontier:
        return "frontier"
    return "dropped" if one.dropped_after is not None or one.drop_reason else "kept"


def list_roles(result: SweepResult) -> dict[str, Role]:
    """Return the role of every setting, by its key."""
    return {one.setting: find_role(result, one) for one in result.settings}


def list_names(result: SweepResult) -> dict[str, str]:
    """Return a name for every setting, by its key: its values of the axes that differ."""
    varied = set(list_varied_axes(result.settings))
    return {
        one.setting: name_values([pair for pair in one.values if pair[0] in varied])
        for one in result.settings
    }


def list_short_names(result: SweepResult) -> dict[str, str]:
    """Return what differs from the baseline, by key; the baseline is named as such."""
    base = next((one.values for one in result.settings if one.setting == result.baseline), ())
    return {
        one.setting: "baseline" if one.setting == result.baseline else short_name(one.values, base)
        for one in result.settings
    }


def list_shown_roles(result: SweepResult) -> list[tuple[str, str]]:
    """Return the legend, CSS class and name, of the roles that occur."""
    found = set(list_roles(result).values())
    return [(f"role-{role}", name) for role, name in NAMES.items() if role in found]
