"""From what a user asks for to the plan of a sweep, without measuring anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from etui.config.config import Config
from etui.energy.power_limits.limit import PowerLimit
from etui.energy.power_limits.limits import open_power_limits
from etui.errors import UsageError
from etui.measure.folder import compare_documents, join_differences
from etui.models.catalogue import Catalogue
from etui.runtime.host import read_battery
from etui.runtime.provenance import provenance
from etui.sweep._accuracy import QuestionSet, draw_questions
from etui.sweep._axes import build_grid, check_axes, choose_default_axes
from etui.sweep._axes import parse_axes as parse_axes
from etui.sweep._machine import Baseline, MachineFacts, find_baseline, read_machine_facts
from etui.sweep._measurer import LEAST_WINDOW_S
from etui.sweep.config import Axis, CapMode, SweepConfig
from etui.sweep.workload import Workload, load_workload

QUESTIONS = 100  # Questions of a suite, unless a user gives a number


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep that can be measured on this machine."""

    config: SweepConfig  # Its configuration, with the channels left open
    baseline: Baseline  # The model, as it is used now
    facts: MachineFacts  # What the machine and the model can do
    workload: Workload  # The texts to compute
    questions: QuestionSet | None  # Questions of the suite; None without accuracy


def make_plan(
    asked: SweepConfig,
    config: Config,
    catalogue: Catalogue,
    sweep_id: str,
    started: datetime,
    say: Callable[[str], None] = lambda text: None,
) -> SweepPlan:
    """Plan a sweep: find the model, the settings, the texts and the questions.

    ``asked`` is what the user asks for, or the configuration of a sweep to resume. UsageError if a
    name does not exist, a value is not possible here, or there is only one combination;
    ModelUnavailable if the model is not on this machine; InvalidFile if the policy, the workload or
    the suite is not valid.
    """
    baseline = find_baseline(asked.model, asked.policy, asked.arm, config, catalogue)
    if asked.axes:
        _check_cap(asked.axes, asked.cap)
    limits: Sequence[PowerLimit] = ()
    if asked.cap is not None:
        with open_power_limits(config) as opened:  # reading needs no privileges
            limits = opened.read()
    facts = read_machine_facts(config, baseline, catalogue, limits=limits)
    axes = check_axes(asked.axes or choose_default_axes(facts), facts)
    _check_cap(axes, asked.cap)
    if asked.cap == "set" and facts.power is not None and not facts.power.can_set:
        raise UsageError(
            f"etui may not set the power limit of {', '.join(facts.power.labels)}",
            "run it as root, start zeusd and set ZEUSD_SOCK_PATH, or use --cap user",
        )
    grid = build_grid(axes, facts)
    path = Path(asked.workload).expanduser()
    workload = load_workload(
        # An absolute path is found again from another folder.
        str(path.absolute()) if path.is_file() else asked.workload,
        config,
        output_tokens=asked.output_tokens or None,
        until=started,
    )
    questions = _load_questions(asked, config, say)
    sweep = replace(
        asked,
        id=sweep_id,
        created=started.astimezone().isoformat(timespec="seconds"),
        model=baseline.spec.name,
        model_sha256=baseline.spec.sha256,
        policy=baseline.policy,
        axes=axes,
        design=replace(asked.design, settings=grid.settings),
        workload=workload.name,
        workload_sha256=workload.sha256,
        output_tokens=workload.output_tokens,
        window_s=asked.window_s or LEAST_WINDOW_S,
        questions=0 if questions is None else questions.count,
        channels=(),
        provenance=_describe_conditions(config, axes, facts),
        suite_sha256=None if questions is None else questions.sha256,
        notes=grid.notes,
    )
    return SweepPlan(sweep, baseline, facts, workload, questions)


def _check_cap(axes: Sequence[Axis], cap: CapMode | None) -> None:
    """Check that ``--cap`` names who sets power limits, where there are any."""
    has_limits = any(axis.name == "power_limit" for axis in axes)
    if has_limits and cap is None:
        raise UsageError(
            "an axis power_limit changes the power limit of this machine",
            "say who sets it: --cap user asks you, --cap set needs root or zeusd",
        )
    if cap is not None and not has_limits:
        raise UsageError(
            f"--cap {cap} has no effect without power limits to compare",
            "add --axis power_limit=W,W, or remove it",
        )


def _describe_conditions(
    config: Config, axes: Sequence[Axis], facts: MachineFacts
) -> dict[str, Any]:
    """Collect versions, the machine, and the settings in use, which a resumed sweep must find."""
    _, discharging = read_battery(config.sysfs_dir / "class" / "power_supply")
    swept = (value for axis in axes if axis.name == "model" for value in axis.values)
    models = (facts.models.get(str(name)) for name in (facts.model, *swept))
    return {
        **provenance(config),
        "power_source": "a battery" if discharging else "mains",
        "in_use": dict(facts.current),
        "weights": {one.name: one.quantisation for one in models if one and one.quantisation},
    }


def _load_questions(
    asked: SweepConfig, config: Config, say: Callable[[str], None]
) -> QuestionSet | None:
    if asked.suite is None:
        return None
    from etui.datasets.suites import load_suite

    data = None if asked.data is None else Path(asked.data)
    suite = load_suite(asked.suite, "test", data, config, say)
    if suite.grading != "letter":
        raise UsageError(
            f"a sweep compares the letters of options, and the answers of {suite.name} are numbers",
            "use a suite with options, such as --suite mmlu or sample",
        )
    if suite.notice:
        say(suite.notice)
    return draw_questions(suite, asked.design.seed, asked.questions or QUESTIONS)


_CONDITIONS = ("model_sha256", "workload_sha256", "suite_sha256", "channels")
"""Fields that are found on the machine and not asked for."""
_PROVENANCE = (
    "machine", "system", "cpus", "etui", "llama_cpp_python", "python", "context_tokens",
    "sample_hz", "power_source", "in_use",
)  # fmt: skip
"""What of the provenance changes what is measured."""
_OF_THIS_SWEEP = ("id", "created", "provenance", "notes", *_CONDITIONS)


def asks_for_the_same(one: SweepConfig, other: SweepConfig) -> bool:
    """Return whether both sweeps measure the same in the same way, on whatever machine."""
    names = [f.name for f in fields(SweepConfig) if f.name not in _OF_THIS_SWEEP]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def list_changes(before: SweepConfig, now: SweepConfig) -> str:
    """List the conditions that have changed; empty if none has."""

    def list_conditions(sweep: SweepConfig) -> dict[str, Any]:
        found = {name: getattr(sweep, name) for name in _CONDITIONS}
        found |= {name: sweep.provenance.get(name) for name in _PROVENANCE}
        return found | {"settings": [one.key for one in sweep.design.settings]}

    return join_differences(compare_documents(list_conditions(before), list_conditions(now)))


def refuse_changes(before: SweepConfig, now: SweepConfig) -> None:
    """Refuse to resume a sweep under other conditions."""
    if changes := list_changes(before, now):
        raise UsageError(
            f"sweep {before.id} was started under other conditions: {changes}",
            "restore them, or start a new sweep",
        )
