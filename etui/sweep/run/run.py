"""Run a sweep on this machine; ``etui sweep`` without the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etui.bench.store.sealed_folder import check_new
from etui.errors import EtuiError, UsageError
from etui.models.catalogue import load_catalogue
from etui.sweep.machine.accuracy import group_by_numbers
from etui.sweep.race.design import next_block
from etui.sweep.race.durations import (
    estimate_full_grid_seconds,
    estimate_seconds_left,
    guess_visit_seconds,
)
from etui.sweep.run.find import CONFIG, list_sweeps, new_sweep_id, sweeps_dir
from etui.sweep.run.folder import SWEEP, SweepFolder
from etui.sweep.run.measure import (
    Instruments,
    SweepAudience,
    SweepLog,
    SweepOutcome,
    resume_run,
)
from etui.sweep.run.measured_result import analyse_measured
from etui.sweep.run.plan import SweepPlan, SweepRequest, make_plan, restore_request
from etui.sweep.run.recorded_sweep import (
    RecordedSweep,
    is_finished,
    read_config,
    read_sweep,
)
from etui.sweep.sweep_config import SweepConfig

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.sweep.result import SweepResult
    from etui.sweep.sweep_config import SweepConfig


_CONDITIONS = {
    "model_sha256": "the model file",
    "workload_sha256": "the texts of the workload",
    "suite_sha256": "the questions of the suite",
    "channels": "the power channels",
}

"""Field -> what it is; these are found on the machine and not asked for."""


_PROVENANCE = {
    "machine": "the machine",
    "system": "the system",
    "cpus": "the number of CPUs",
    "etui": "the version of etui",
    "llama_cpp_python": "the version of llama-cpp-python",
    "python": "the version of Python",
    "context_tokens": "context_tokens",
    "sample_hz": "sample_hz",
    "power_source": "the source of power",
    "in_use": "the settings in use",
}

"""Key of the provenance -> what it is; the others do not change what is measured."""


_OF_THIS_SWEEP = ("id", "created", "provenance", "notes", *_CONDITIONS)


def asks_for_the_same(one: SweepConfig, other: SweepConfig) -> bool:
    """Return whether both sweeps measure the same in the same way, on whatever machine."""
    names = [f.name for f in fields(SweepConfig) if f.name not in _OF_THIS_SWEEP]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def list_changes(before: SweepConfig, now: SweepConfig) -> tuple[str, ...]:
    """List the conditions that have changed, each in a few words; empty if none has."""
    return tuple(_iter_changes(before, now))


def _iter_changes(before: SweepConfig, now: SweepConfig) -> Iterator[str]:
    for name, what in _CONDITIONS.items():
        one, other = getattr(before, name), getattr(now, name)
        if one != other:
            yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    for key, what in _PROVENANCE.items():
        one, other = before.provenance.get(key), now.provenance.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                yield from _iter_keys(what, one, other)
            else:
                yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    if before.design.settings != now.design.settings:
        one, other = before.design.settings[0].key, now.design.settings[0].key
        if one != other:
            yield f"the baseline was {one} and is now {other}"
        else:
            yield "the settings of the same axes are others now"


def _iter_keys(what: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            values = f"{_describe(one.get(key))} and is now {_describe(other.get(key))}"
            yield f"{key} of {what} was {values}"


def _describe(value: object) -> str:
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    text = value if isinstance(value, str) else quoted
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHOWN_CHANGES = 6


class Workbench(Protocol):
    """This machine, opened to measure: the meter, and what is made with it."""

    @property
    def channels(self) -> Sequence[str]:
        """Ids of the power channels that are summed; none if nothing can be measured."""

    @property
    def window_s(self) -> float:
        """Least seconds of a phase that the meter resolves."""

    def check_idle(self) -> None:
        """Refuse a machine at work.

        Raises:
            EtuiError: Other programs use it.
        """

    def open_instruments(
        self, plan: SweepPlan, config: SweepConfig, place: Path
    ) -> AbstractContextManager[Instruments]:
        """Open what measures the settings; it restores what it changed at the end.

        Args:
            place: Its folder, which may keep what a resumed sweep needs.
        """


class SweepRunner:
    """Runs sweeps on a machine.

    Args:
        log: Saves the rows.
        now: Returns the local time.
    """

    def __init__(
        self,
        config: Config,
        audience: SweepAudience,
        log: SweepLog,
        open_workbench: Callable[[], AbstractContextManager[Workbench]],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._config = config
        self._audience = audience
        self._log = log
        self._open_workbench = open_workbench
        self._now = now

    def start(
        self, request: SweepRequest, out: Path | None = None, *, fresh: bool = False
    ) -> SweepOutcome:
        """Start a sweep, or resume the unfinished one that asks for the same.

        Args:
            out: Its folder; None creates one in the folder of all sweeps.
            fresh: Whether to start over instead.

        Raises:
            EtuiError: The sweep cannot start, or has failed; what was measured is kept.
        """
        if out is not None and (fresh or not (out / CONFIG).is_file()):
            check_new(out, SWEEP)  # report an error before anything is opened
        started = self._now()
        plan = self._plan(
            request, new_sweep_id(request.model or request.arm or "", started), started
        )
        with self._open_workbench() as bench:
            window_s = bench.window_s if request.window_s is None else request.window_s
            channels = tuple(bench.channels)
            config = replace(plan.config, channels=channels, window_s=window_s)
            if not channels and request.goal.measure != "time":
                raise EtuiError(
                    "nothing can be measured on this machine",
                    "see `etui doctor`, or compare the time alone: --goal time",
                )
            found = None if fresh else self._find_unfinished(config, out)
            if found is not None:
                return self._resume(found, bench)
            bench.check_idle()
            place = out or sweeps_dir(self._config) / config.id
            with SweepFolder.create(place, config) as folder:
                recorded = read_sweep(place)
                return self._measure(plan, folder, recorded, bench)

    def resume(self, place: Path) -> SweepOutcome:
        """Resume a sweep; one that is complete is only reported again.

        Raises:
            UsageError: The machine, the model or the programs are others than at its start.
            EtuiError: The sweep cannot go on, or has failed; what was measured is kept.
        """
        read_sweep(place)  # report an error before anything is opened
        with self._open_workbench() as bench:
            return self._resume(place, bench)

    def _resume(self, place: Path, bench: Workbench) -> SweepOutcome:
        folder, recorded = SweepFolder.reopen(place)
        with folder:
            before = recorded.config
            plan = self._plan(
                restore_request(before), before.id, datetime.fromisoformat(before.created)
            )
            now = replace(plan.config, channels=tuple(bench.channels))
            refuse_changes(before, now)
            if next_block(before.design, recorded.blocks) is not None:
                bench.check_idle()
            return self._measure(replace(plan, config=before), folder, recorded, bench)

    def _measure(
        self, plan: SweepPlan, folder: SweepFolder, recorded: RecordedSweep, bench: Workbench
    ) -> SweepOutcome:
        with bench.open_instruments(plan, recorded.config, folder.path) as instruments:
            run = resume_run(folder, recorded, instruments, self._audience, self._log)
            return run.measure()

    def _plan(self, request: SweepRequest, sweep_id: str, started: datetime) -> SweepPlan:
        catalogue = load_catalogue(self._config)
        return make_plan(request, self._config, catalogue, sweep_id, started, self._audience.note)

    def _find_unfinished(self, config: SweepConfig, out: Path | None) -> Path | None:
        """Find the newest unfinished sweep that asks for the same."""
        if out is not None:
            if not (out / CONFIG).is_file():
                return None
            if not asks_for_the_same(read_config(out), config):
                raise UsageError(
                    f"{out} contains another sweep", "use a new folder with --out, or --resume it"
                )
            return out
        for place in reversed(list_sweeps(self._config)):
            if is_finished(place):
                continue
            try:
                before = read_config(place)
            except EtuiError:
                continue  # of another version, or edited: it cannot be resumed
            if not asks_for_the_same(before, config):
                continue
            changes = list_changes(before, config)
            if not changes:
                return place
            self._audience.note(
                f"{place.name} is unfinished, but was measured under other conditions: "
                f"{'; '.join(changes[:_SHOWN_CHANGES])}; this is a new sweep"
            )
            return None
        return None


def refuse_changes(before: SweepConfig, now: SweepConfig) -> None:
    """Refuse to resume a sweep under other conditions.

    Raises:
        UsageError: They differ; the message lists how.
    """
    changes = list_changes(before, now)
    if changes:
        raise UsageError(
            f"sweep {before.id} was started under other conditions: "
            f"{'; '.join(changes[:_SHOWN_CHANGES])}",
            "restore them, or start a new sweep",
        )


def describe_plan(request: SweepRequest, config: Config) -> dict[str, Any]:
    """Plan a sweep and describe it as a document, without measuring anything.

    Raises:
        EtuiError: As :func:`make_plan`.
    """
    now = datetime.now()
    plan = make_plan(request, config, load_catalogue(config), "", now)
    sweep = plan.config
    design = sweep.design
    visit = guess_visit_seconds(sweep.window_s, sweep.cool_down_s)
    return {
        "model": sweep.model,
        "policy": sweep.policy,
        "arm": sweep.arm,
        "workload": sweep.workload,
        "output_tokens": sweep.output_tokens,
        "goal": design.goal.measure,
        "within_percent": design.goal.within_percent,
        "axes": {axis.name: list(axis.values) for axis in sweep.axes},
        "settings": [setting.key for setting in design.settings],
        "blocks": {
            "floor": design.floor_blocks,
            "race": 2 * design.race_rounds,
            "confirm": design.confirm_blocks,
        },
        "suite": sweep.suite,
        "questions": sweep.questions,
        "answers": sweep.questions * len(set(group_by_numbers(design.settings).values())),
        "notes": list(sweep.notes),
        "seconds": round(estimate_seconds_left(design, (), visit), 1),
        "full_grid_seconds": _round(estimate_full_grid_seconds(design, (), visit)),
    }


def analyse_folder(recorded: RecordedSweep) -> SweepResult:
    """Compute the result of a recorded sweep, finished or not."""
    return analyse_measured(recorded.config, recorded.blocks, recorded.answers)


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
