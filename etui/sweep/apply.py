"""Apply the best setting of a sweep to its model on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.engine.library import choose_threads
from etui.errors import EtuiError, ExitCode
from etui.models.files import content_sha256, read_entries
from etui.models.spec import TUNED_KEYS, ModelSpec, PowerAdvice, TunedKey, TunedSettings, TunedValue
from etui.models.tuned import check_use, load_tuned, read_entry_values, remove_tuned, save_tuned
from etui.sweep.config import AxisName, Goal, SweepConfig, Value
from etui.sweep.result import (
    SettingResult,
    SweepResult,
    find_claimed_change,
    find_improvement,
    is_best_claimed,
)
from etui.sweep.verdict import format_verdict, short_name
from etui.text import utc_now

_AXES: Mapping[AxisName, TunedKey] = {
    "threads": "threads",
    "decode_threads": "threads",
    "prefill_threads": "prefill_threads",
    "batch_tokens": "batch_tokens",
    "kv_type": "kv_type",
    "flash_attention": "flash_attention",
    "gpu_layers": "gpu_layers",
    "cpu_moe": "cpu_moe",
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
    best: Mapping[AxisName, Value],
    base: Mapping[AxisName, Value],
    earlier: Mapping[TunedKey, TunedValue],
    spec: ModelSpec,
    config: Config,
) -> dict[TunedKey, TunedValue]:
    """Choose the values to keep: those that differ from what models.yaml and config.yaml give.

    With them the entry runs as the setting was measured (``etui.sweep._machine``). Values of an
    earlier sweep of axes that this sweep did not vary are kept.
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
    defaults: dict[TunedKey, TunedValue] = {
        "threads": threads,
        "prefill_threads": wanted.get("threads", earlier.get("threads", threads)),
    }
    values: dict[TunedKey, TunedValue] = {}
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


def _name_keys(setting: Mapping[AxisName, Value]) -> dict[TunedKey, TunedValue]:
    """Name the values of a setting by the keys of models.yaml; numbers there are whole."""
    return {
        _AXES[axis]: int(value) if isinstance(value, float) else value
        for axis, value in setting.items()
        if axis in _AXES
    }


class NothingToApply(EtuiError):
    """No setting of the sweep is a claimed improvement on the one in use; nothing was changed."""

    exit_code = ExitCode.DONE


@dataclass(frozen=True, slots=True)
class Best:
    """The best setting of a sweep."""

    setting: SettingResult | None  # Of the swept model; None if no claim beats its baseline
    better_model: SettingResult | None  # Of another model, where it beats `setting`


def apply_best(
    config: Config, sweep_config: SweepConfig, result: SweepResult, goal: Goal
) -> TunedSettings:
    """Apply the best measured setting; every front end uses it from the next load on.

    Values of an earlier sweep for axes that this one did not vary are kept. The goal may differ
    from that of the sweep. What is returned is in use now: without values and power limit, the
    settings of models.yaml are the best, and earlier tuned ones were removed. NothingToApply if no
    setting is a claimed improvement; EtuiError if the sweep is not finished, was of another machine
    or another file of the model, or the settings cannot be saved.
    """
    spec = _check_sweep(config, sweep_config, result)
    best = choose_setting(result, goal)
    base = result.settings[0]
    if best.setting is None:
        raise _nothing(result, goal, best)
    chosen, earlier = best.setting, _read_earlier(config, spec)
    values = choose_values(dict(chosen.values), dict(base.values), earlier, spec, config)
    entry = read_entry_values(spec, config)
    settings = TunedSettings(
        model=spec.name,
        sha256=sweep_config.model_sha256 or "",
        machine=machine_name(),
        values=values,
        entry={key: entry[key] for key in values},
        sweep=sweep_config.id,
        created=utc_now("seconds"),
        goal=describe_goal(goal),
        verdict=format_verdict(replace(result, best=chosen.setting, goal=goal)),
        power_limit=_advise_power_limit(chosen, base, sweep_config, config),
        notes=tuple(_list_notes(best.better_model, goal, values, sweep_config)),
    )
    if settings.values or settings.power_limit is not None:
        save_tuned(config, settings)
    else:
        remove_tuned(config, spec.name)
    return settings


def choose_setting(result: SweepResult, goal: Goal) -> Best:
    """Choose the best setting by a goal, of those with a claimed improvement.

    With the goal of the sweep it is the sweep's own choice, unless that is another model.
    """
    base = result.settings[0]
    chosen = find_improvement(result.settings, goal)
    if goal == result.goal and is_best_claimed(result):
        chosen = result.find(result.best)
    if chosen is None:
        return Best(None, None)
    if _same_model(chosen, base):
        return Best(chosen, None)
    own = [one for one in result.settings if _same_model(one, base)]
    return Best(find_improvement(own, goal), chosen)


def describe_goal(goal: Goal) -> str:
    """Name a goal: ``joules``, ``joules within 5 % of the best time``."""
    if goal.within_percent is None:
        return goal.measure
    return f"{goal.measure} within {goal.within_percent:g} % of the best time"


def _check_sweep(config: Config, sweep_config: SweepConfig, result: SweepResult) -> ModelSpec:
    """Check that a sweep can be applied here; return the entry of its model."""
    if not result.is_complete or (result.best is None and not result.is_blind):
        raise EtuiError(
            f"the sweep {sweep_config.id} is not finished, so it claims nothing yet",
            f"finish it with: etui sweep --resume {sweep_config.id}",
        )
    in_use = sweep_config.design.settings[0].key
    if result.baseline != in_use:
        raise EtuiError(
            f"nothing was compared with {in_use}: its threads waited for other programs",
            "run the sweep again while no other program runs",
        )
    machine = sweep_config.provenance.get("machine")
    if machine != machine_name():
        raise EtuiError(
            f"the sweep {sweep_config.id} was measured on another machine ({machine})",
            "run the sweep on this one",
        )
    spec = read_entries(config).get(sweep_config.model)
    if spec is None:
        raise EtuiError(
            f"the model of the sweep, {sweep_config.model}, is not in models.yaml any more",
            "add its entry again, or run a sweep of another model",
        )
    if content_sha256(spec, config) != sweep_config.model_sha256:
        raise EtuiError(
            f"the file of {spec.name} is not the one of the sweep {sweep_config.id}",
            f"check it with `etui models verify {spec.name}`, or run the sweep again",
        )
    return spec


def _read_earlier(config: Config, spec: ModelSpec) -> Mapping[TunedKey, TunedValue]:
    machine = machine_name()
    found = [one for one in load_tuned(config) if (one.model, one.machine) == (spec.name, machine)]
    return check_use(found[-1], spec, config, machine).values if found else {}


def _same_model(one: SettingResult, base: SettingResult) -> bool:
    return dict(one.values).get("model") == dict(base.values).get("model")


def _nothing(result: SweepResult, goal: Goal, best: Best) -> NothingToApply:
    base = result.settings[0]
    ranked = result.find(result.best) or base
    what = f"no setting beats the one in use by {describe_goal(goal)}, so nothing was changed"
    if replace(result, goal=goal).is_blind:
        what = "no saving could be shown: the detection floor is above 100 %; nothing was changed"
    if best.better_model is not None:
        what += f"; {_describe_model(best.better_model, goal)}"
    elif goal == result.goal and ranked is not base:
        what = (
            f"{short_name(ranked.values, base.values)} ranks best by {describe_goal(goal)}, but no "
            "improvement could be shown, so nothing was changed"
        )
    return NothingToApply(what)


def _list_notes(
    better_model: SettingResult | None,
    goal: Goal,
    values: Mapping[TunedKey, TunedValue],
    sweep_config: SweepConfig,
) -> Iterator[str]:
    if better_model is not None:
        yield _describe_model(better_model, goal)
    if sweep_config.arm is not None and {"speculate", "draft_tokens"} & values.keys():
        yield (
            f"if the arm {sweep_config.arm} of policy {sweep_config.policy} names its own "
            "`speculate`, that comes first: change it in the policy"
        )


def _describe_model(better: SettingResult, goal: Goal) -> str:
    model = dict(better.values)["model"]
    change = find_claimed_change(better, goal)
    amount = "" if change is None else f" ({change:+.0f} %)"
    return (
        f"another model is better by {describe_goal(goal)}: {model}{amount}; etui does not replace "
        f"a model by another, so ask for it with --model {model}"
    )


def _advise_power_limit(
    best: SettingResult, base: SettingResult, sweep_config: SweepConfig, config: Config
) -> PowerAdvice | None:
    """Return how to set the power limit of the best setting; None if it is that of the baseline."""
    limit = dict(best.values).get("power_limit")
    if limit is None or limit == dict(base.values).get("power_limit"):
        return None
    watts = float(limit)
    in_use = sweep_config.provenance.get("in_use") or {}
    with open_power_limits(config) as limits:
        command = build_limit_command(limits, watts, on_gpu=in_use.get("gpu_layers", 0) != 0)
    return PowerAdvice(watts, command)


def build_limit_command(limits: PowerLimits, watts: float, *, on_gpu: bool) -> str:
    """Build the command with which a user sets the power limit of the GPUs, or of the CPUs."""
    family = "gpu" if on_gpu else "package"
    devices = [limits.device(scope) for scope in limits.scopes(family)]
    commands = [
        device.format_command(dict.fromkeys(device.read_knobs(), watts)) for device in devices
    ]
    return " && ".join(commands) or "set it with the tool of the device"
