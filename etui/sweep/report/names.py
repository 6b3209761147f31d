"""Short names of settings for sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

from etui.sweep.result import SettingResult, SweepResult
from etui.sweep.setting import AxisName, Value
from etui.text.tables import one_line

Values = Sequence[tuple[AxisName, Value]]


def find_setting(result: SweepResult, key: str | None) -> SettingResult | None:
    """Return the result of a setting; None if there is none."""
    return next((one for one in result.settings if one.setting == key), None)


def short_name(values: Values, baseline: Values) -> str:
    """Name a setting by the values that differ from the baseline: ``threads=1``.

    The baseline itself, and a setting of other axes, get all their values.
    """
    usual = dict(baseline)
    changed = [(name, value) for name, value in values if usual.get(name) != value]
    return name_values(changed or values)


def name_values(values: Values) -> str:
    """Name a setting by all its values: ``threads=2 kv_type=q8_0``."""
    return one_line(" ".join(f"{name}={value}" for name, value in values))


def list_varied_axes(settings: Sequence[SettingResult]) -> list[AxisName]:
    """List the axes in which the settings differ, or all if there is only one setting."""
    axes = list(dict.fromkeys(axis for one in settings for axis, _ in one.values))
    found = [axis for axis in axes if len({dict(one.values).get(axis) for one in settings}) > 1]
    return found or axes
