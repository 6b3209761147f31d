"""The command line that repeats a run, from its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from etui.arm import Arm
from etui.bench.prompts.formats import FORMATS
from etui.bench.publish.suites import is_own_file
from etui.bench.run.arms import ArmOverrides, build_arms, parse_arm, speculate_arms, to_json
from etui.bench.store.difficulty_table import DIFFICULTY
from etui.bench.store.run_config import RunConfig
from etui.codec import DocumentError
from etui.errors import EtuiError

T = TypeVar("T")

POLICY_FILE = "policy.yaml"
DESIGN_FILE = "design.yaml"


@dataclass(frozen=True, slots=True)
class RepeatCommand:
    """A command line, and whether it makes exactly the arms of the run."""

    words: tuple[str, ...]  # Its words, the first is `etui`
    exact: bool
    """False if settings of the arms cannot be given on the command line, or come from a model's own
    entry in models.yaml."""


def build_command(config: RunConfig) -> RepeatCommand:
    """Build the command line that repeats a run.

    It names files beside it for a policy, a design and an own suite, and no places of this machine.
    Of a merged run it answers the whole plan on one machine.
    """
    words = ["etui", "bench"]
    if config.design is not None:
        words += ["--design", DESIGN_FILE, *_limit_words(config), *_number("--seed", config.seed)]
        return RepeatCommand((*words, *_stop_words(config)), exact=True)
    words += ["--suite", _name_suite(config)]
    words += [] if config.split == "test" else ["--split", config.split]
    words += ["--format", config.format, "--shots", str(config.shots)]
    words += [*_limit_words(config), *_number("--seed", config.seed)]
    if config.subjects is not None:
        words += ["--subjects", ",".join(config.subjects)]
    exact = True
    if config.policy is not None:
        words += ["--policy", POLICY_FILE]
        if not config.routed:
            words += ["--arms", ",".join(config.arms)]
            exact = False  # options that override a policy's arms cannot be recovered
    else:
        options, exact = _arm_words(config)
        words += options
    words += [] if config.prefix_reuse else ["--no-prefix-reuse"]
    return RepeatCommand((*words, *_stop_words(config)), exact)


def _name_suite(config: RunConfig) -> str:
    """Return the suite, or the name of the user's file without its folder."""
    if not is_own_file(config.suite):
        return config.suite
    suffix = Path(config.data_path).suffix if config.data_path else ""
    return f"{config.suite}{suffix or '.csv'}"


def _limit_words(config: RunConfig) -> list[str]:
    return [*_number("--limit", config.limit), *_number("--per-subject", config.per_subject)]


def _stop_words(config: RunConfig) -> list[str]:
    words: list[str] = []
    if config.precision is not None and config.design is None:
        words += ["--precision", f"{config.precision.points:g}"]
        words += ["--precision-of", config.precision.of]
        if config.precision.difficulty_sha256 is not None:
            words += ["--difficulty", DIFFICULTY]
    if config.part is not None:
        words += ["--part", f"{config.part.index + 1}/{config.part.count}"]
    return words


def _number(option: str, value: int | None) -> list[str]:
    return [] if value is None else [option, str(value)]


def _arm_words(config: RunConfig) -> tuple[list[str], bool]:
    """Return the options that define the arms, and whether these are exactly the run's."""
    format_ = FORMATS.get(config.format)
    try:
        arms = [parse_arm(settings) for settings in config.arms.values()]
    except DocumentError:
        arms = []
    models = list(dict.fromkeys(arm.model for arm in arms)) or [m.name for m in config.models]
    words = [word for model in models for word in ("--model", model)]
    if format_ is None or not arms:
        return words, False
    ways = list(dict.fromkeys(arm.reasoning for arm in arms)) if format_.generates else []
    words += [word for way in ways for word in ("--reasoning", way)]
    thinking = [arm for arm in arms if arm.reasoning != "direct"]
    votes = [arm for arm in arms if arm.reasoning == "vote"]
    overrides = ArmOverrides(
        think_tokens=_common(arm.think_tokens for arm in thinking),
        votes=_common(arm.votes for arm in votes),
        stop=_common(arm.stop.rule for arm in votes),
        max_tokens=_common(arm.max_tokens for arm in arms),
        temperature=_common(arm.sampling.temperature for arm in arms),
        loop_guard=_common(arm.loop_guard for arm in arms),
    )
    speculates = list(dict.fromkeys(arm.speculate for arm in arms if arm.reasoning != "vote"))
    if not format_.generates or speculates == ["off"]:
        speculates = []
    methods = [word for method in speculates for word in ("--speculate", method)]
    # The fewest options that make the same arms: none, else all that the arms have in common.
    for used in (ArmOverrides(), overrides):
        with suppress(EtuiError):  # an option that has no effect on these arms
            made = speculate_arms(build_arms(models, ways, used, format_), speculates)
            if _settings(made.values()) == _settings(arms):
                return [*words, *_override_words(used), *methods], True
    return [*words, *_override_words(overrides), *methods], False


def _override_words(overrides: ArmOverrides) -> list[str]:
    words: list[str] = []
    values: Mapping[str, Any] = {
        "--think-tokens": overrides.think_tokens,
        "--votes": overrides.votes,
        "--stop": overrides.stop,
        "--max-tokens": overrides.max_tokens,
        "--temperature": overrides.temperature,
    }
    for option, value in values.items():
        if value is not None:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if overrides.loop_guard is not None:
        words.append("--loop-guard" if overrides.loop_guard else "--no-loop-guard")
    return words


def _common(values: Iterable[T]) -> T | None:
    """Return the value that all have; None without one."""
    found = list(values)
    return found[0] if found and all(value == found[0] for value in found) else None


def _settings(arms: Iterable[Arm]) -> dict[str, Any]:
    """Return the settings of arms but for the seed, which the run's own seed sets."""
    found = {}
    for arm in arms:
        document = to_json(arm)
        document["sampling"] = {k: v for k, v in document["sampling"].items() if k != "seed"}
        found[arm.name] = document
    return found
