"""The conditions under which a sweep was measured, without which its joules mean nothing.

They are the eleven conditions that a handbook of energy per token asks for: hardware, model
version, precision, prompt length, output length, batch, utilisation, framework, PUE, method and
uncertainty.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from etui import units
from etui.sweep.blocks import Block, Visit
from etui.sweep.report.verdict import floor_text
from etui.sweep.result import SweepResult
from etui.sweep.setting import AxisName, Value
from etui.sweep.sweep_config import SweepConfig
from etui.text.tables import SEPARATOR, one_line

_CONFIDENCE_PERCENT = 95
_MOST_LIMITS = 6


def build_conditions(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block] = ()
) -> dict[str, Any]:
    """Build the conditions of all settings together as a JSON document; what is unknown is None.

    The energy record (:mod:`etui.sweep.report.energy_record`) has them for each setting.

    Args:
        blocks: Its blocks, for what only they know: tokens of the prompts, busy devices.
    """
    seen, visits = config.provenance, [visit for block in blocks for visit in block.visits]
    usual = find_in_use(config)
    return {
        "hardware": {
            "machine": seen.get("machine"),
            "system": seen.get("system"),
            "cpus": seen.get("cpus"),
            "channels": list(config.channels),
            "power_limit_watts": sorted(
                {v.power_limit_watts for v in visits if v.power_limit_watts is not None}
            ),
        },
        "model_version": {"model": config.model, "sha256": config.model_sha256},
        "precision": {
            "weights": find_weights(config, config.model),
            "kv_type": _values_of(config, "kv_type") or _known(usual.get("kv_type")),
        },
        "prompt_tokens": _mean([visit.prefill.tokens for visit in visits]),
        "output_tokens": config.output_tokens,
        "batch": {
            "sequences": 1 if config.arm is None else None,  # an arm may have votes
            "batch_tokens": _values_of(config, "batch_tokens") or _known(usual.get("batch_tokens")),
        },
        "utilisation": {
            "questions_at_a_time": 1,
            "visits": len(visits) or None,
            "shared_visits": sum(visit.shared for visit in visits) if visits else None,
            "repeated_blocks": len(result.repeated),
        },
        "framework": {
            "etui": seen.get("etui"),
            "llama_cpp_python": seen.get("llama_cpp_python"),
            "python": seen.get("python"),
        },
        "pue": float(seen.get("pue", 1.0)),
        "method": {
            "kind": result.kind,
            "joules": "gross",
            "sample_hz": seen.get("sample_hz"),
            "window_seconds": config.window_s,
            "cool_down_seconds": config.cool_down_s,
            "cool_down_celsius": config.cool_down_celsius,
            "hottest_celsius": _most([visit.temperature_celsius for visit in visits]),
            "paired_blocks": result.blocks,
        },
        "uncertainty": {
            "confidence_percent": _CONFIDENCE_PERCENT,
            "detection_floor_percent": None
            if result.floor is None
            else result.floor.joules_percent,
            "meter_percent": _meter_percent(visits),
        },
    }


def describe_conditions(record: dict[str, Any], model: str) -> list[tuple[str, str]]:
    """Describe a record in words, one line for each of the eleven conditions."""
    hardware, version = record["hardware"], record["model_version"]
    use, method, doubt = record["utilisation"], record["method"], record["uncertainty"]
    batch, precision, framework = record["batch"], record["precision"], record["framework"]
    prompt, output = record["prompt_tokens"], record["output_tokens"]
    channels = ", ".join(hardware["channels"]) or "no power channel"
    versions = [f"{name} {version}" for name, version in framework.items() if version]
    shared = use["shared_visits"]
    return [
        (
            "Hardware",
            _join(
                hardware["machine"],
                f"measured: {channels}",
                _limits_text(hardware["power_limit_watts"]),
            ),
        ),
        ("Model version", _join(model, f"sha256 {version['sha256'] or units.UNKNOWN}")),
        ("Precision", _join(precision["weights"], _listed("KV cache", precision["kv_type"]))),
        ("Prompt length", _tokens(prompt, "on average")),
        ("Output length", _tokens(output, "the same for every setting")),
        ("Batch", _join(_describe_sequences(batch), _describe_batches(batch["batch_tokens"]))),
        (
            "Utilisation",
            _join(
                "one question at a time",
                None
                if shared is None
                else f"other processes used the measured devices in {shared:,} of "
                f"{units.count_text(use['visits'], 'visit')}",
                f"{units.count_text(use['repeated_blocks'], 'block')} repeated",
            ),
        ),
        ("Framework", _join(*(text.replace("_", "-", 2) for text in versions))),
        ("PUE", _describe_pue(record["pue"])),
        ("Method", _describe_method(method)),
        ("Uncertainty", _describe_doubt(doubt)),
    ]


def build_command(config: SweepConfig) -> str:
    """Build the command line that repeats the sweep, quoted for a shell."""
    goal, design = config.design.goal, config.design
    words = ["etui", "sweep"]
    if config.policy is not None:
        words += ["--policy", config.policy]
        words += ["--arm", config.arm] if config.arm is not None else []
    else:
        words.append(config.model)
    for axis in config.axes:
        words += ["--axis", f"{axis.name}={','.join(map(str, axis.values))}"]
    words += ["--workload", config.workload]
    if config.output_tokens:  # the workload of letters has none
        words += ["--output-tokens", str(config.output_tokens)]
    words += ["--goal", goal.measure]
    if goal.within_percent is not None:
        words += ["--within", f"{goal.within_percent:g}"]
    if config.suite is not None:
        words += ["--suite", config.suite, "--limit", str(config.questions)]
        words += [] if config.data is None else ["--data", config.data]
    if config.cap is not None:
        words += ["--cap", config.cap]
    words += ["--rounds", str(design.race_rounds), "--blocks", str(design.confirm_blocks)]
    words += [] if design.halving else ["--no-halving"]
    words += ["--window", f"{config.window_s:g}", "--cool-down", f"{config.cool_down_s:g}"]
    if config.cool_down_celsius is not None:
        words += ["--cool-to", f"{config.cool_down_celsius:g}"]
    return one_line(shlex.join([*words, "--seed", str(design.seed)]))


def find_in_use(config: SweepConfig) -> dict[str, Any]:
    """Return the settings in use before the sweep, axis -> value; empty if not recorded."""
    in_use = config.provenance.get("in_use")
    return dict(in_use) if isinstance(in_use, dict) else {}


def find_weights(config: SweepConfig, model: str) -> str | None:
    """Return the quantisation of a model's weights; None if not recorded."""
    weights = config.provenance.get("weights")
    found = weights.get(model) if isinstance(weights, dict) else None
    return None if found is None else str(found)


def _describe_pue(pue: float) -> str:
    if pue == 1:
        return "1: the joules of this machine, nothing is added for a building"
    return f"{pue:g}; the joules are those of the machine, the building needs {pue:g} times them"


def _describe_method(method: dict[str, Any]) -> str:
    kind, hertz = method["kind"], method["sample_hz"]
    to_celsius, hottest = method["cool_down_celsius"], method["hottest_celsius"]
    cool = f"{units.seconds_text(method['cool_down_seconds'])} idle before each visit"
    if to_celsius is not None:
        cool += f" and cooled to {to_celsius:.0f} °C"
    return _join(
        "joules are unmeasured" if kind is None else f"gross joules, kind {kind}",
        None if hertz is None else f"sampled at {hertz:g} Hz",
        f"phases of at least {units.seconds_text(method['window_seconds'])}",
        cool,
        None if hottest is None else f"hottest {hottest:.0f} °C",
        f"{units.count_text(method['paired_blocks'], 'block')}, settings in random order",
    )


def _describe_doubt(doubt: dict[str, Any]) -> str:
    floor, meter = doubt["detection_floor_percent"], doubt["meter_percent"]
    return _join(
        f"intervals at {doubt['confidence_percent']} % over the blocks: bootstrap, or Student's t "
        "for few",
        "detection floor unmeasured"
        if floor is None
        else f"detection floor {floor_text(floor)} of the joules",
        None
        if meter is None
        else f"the meter itself ±{units.change_text(meter, signed=False)}, the same for all",
    )


def _limits_text(watts: Sequence[float]) -> str | None:
    """Format the power limits that were read back; None if none was."""
    if not watts:
        return None
    if len(watts) > _MOST_LIMITS:
        ends = f"{units.watts_text(watts[0])} to {units.watts_text(watts[-1])}"
        return f"power limits read back: {len(watts)} from {ends}"
    return f"power limit read back: {', '.join(map(units.watts_text, watts))}"


def _values_of(config: SweepConfig, name: AxisName) -> list[Value] | None:
    """List the values of an axis over all settings; None if the sweep has no such axis."""
    values = dict.fromkeys(setting.get(name) for setting in config.design.settings)
    return [value for value in values if value is not None] or None


def _known(value: object) -> list[object] | None:
    return None if value is None else [value]


def _listed(name: str, values: list[object] | None) -> str:
    if not values:
        return f"{name} {units.UNKNOWN}"
    return f"{name} {' and '.join(map(str, values))}"


def _describe_sequences(batch: dict[str, Any]) -> str:
    return "one sequence" if batch["sequences"] == 1 else "one sequence per vote of the arm"


def _describe_batches(tokens: list[object] | None) -> str:
    if not tokens:
        return f"batch size {units.UNKNOWN}"
    return f"prefill in batches of {' and '.join(map(str, tokens))} tokens"


def _tokens(count: float | None, note: str) -> str:
    return units.UNKNOWN if count is None else f"{units.tokens_text(round(count))}, {note}"


def _join(*parts: object) -> str:
    return one_line(SEPARATOR.join(str(part) for part in parts if part)) or units.UNKNOWN


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _meter_percent(visits: Sequence[Visit]) -> float | None:
    """Return the mean half width of the meter's joules in per cent; None if unmeasured."""
    shares = []
    for visit in visits:
        halves = (visit.prefill.uncertainty, visit.decode.uncertainty)
        joules = visit.joules
        if joules is None or joules <= 0 or halves[0] is None or halves[1] is None:
            continue
        shares.append(100 * (halves[0] + halves[1]) / joules)
    return _mean(shares)
