"""From the setting of a sweep to the values that replace those of models.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from etui.engine.library import choose_threads
from etui.models.tuned import TUNED_KEYS, TunedKey, Value, read_entry_values

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec
    from etui.sweep.setting import AxisName
    from etui.sweep.setting import Value as AxisValue

_AXES: Mapping[AxisName, TunedKey] = {
    "threads": "threads",
    "decode_threads": "threads",
    "prefill_threads": "prefill_threads",
    "batch_tokens": "batch_tokens",
    "kv_type": "kv_type",
    "flash_attention": "flash_attention",
    "gpu_layers": "gpu_layers",
    "split": "split",
    "speculate": "speculate",
    "draft_tokens": "draft_tokens",
}
"""Axis -> the key of models.yaml that holds its value; the other axes are not kept."""

_NUMBERS: frozenset[TunedKey] = frozenset(
    {"threads", "prefill_threads", "batch_tokens", "draft_tokens"}
)
"""Keys that models.yaml leaves open by leaving them out; for the others ``auto`` is a value."""

_OPEN = "auto"


def choose_values(
    best: Mapping[AxisName, AxisValue],
    base: Mapping[AxisName, AxisValue],
    earlier: Mapping[TunedKey, Value],
    spec: ModelSpec,
    config: Config,
) -> dict[TunedKey, Value]:
    """Choose the values to keep: those that differ from what models.yaml and config.yaml give.

    With them the entry runs as the setting was measured (``etui.sweep.axes.configure``).

    Args:
        earlier: Values of an earlier sweep that are in use; those of axes that this sweep did not
            vary are kept.
    """
    entry = read_entry_values(spec, config)
    number = entry["threads"]
    threads = choose_threads(number if isinstance(number, int) else None, config.sysfs_dir)
    wanted, usual = _name_keys(best), _name_keys(base)
    if "threads" in best:
        wanted.setdefault("prefill_threads", wanted["threads"])  # the axis is for both phases
    elif "decode_threads" in best and "prefill_threads" not in best:
        # Prefill went on as in the baseline; without a number of its own it would follow.
        own = earlier.get("prefill_threads", entry["prefill_threads"])
        wanted["prefill_threads"] = earlier.get("threads", threads) if own == _OPEN else own
    if wanted.get("kv_type", "f16") != "f16":
        wanted.setdefault("flash_attention", "on")  # a quantised cache needs it
    defaults: dict[TunedKey, Value] = {
        "threads": threads,
        "prefill_threads": wanted.get("threads", earlier.get("threads", threads)),
    }
    values: dict[TunedKey, Value] = {}
    for key in TUNED_KEYS:
        if key not in wanted:
            if key in earlier:
                values[key] = earlier[key]
            continue
        value = wanted[key]
        if entry[key] != _OPEN or entry[key] == value:
            is_change = entry[key] != value
        elif key in defaults:
            is_change = defaults[key] != value
        else:  # what `auto` gives depends on the device: the baseline has it, if untuned
            is_change = usual.get(key) != value or earlier.get(key) == value
        if is_change and not (key in _NUMBERS and value == _OPEN):
            values[key] = value
    return values


def _name_keys(setting: Mapping[AxisName, AxisValue]) -> dict[TunedKey, Value]:
    """Name the values of a setting by the keys of models.yaml; numbers there are whole."""
    return {
        _AXES[axis]: int(value) if isinstance(value, float) else value
        for axis, value in setting.items()
        if axis in _AXES
    }
