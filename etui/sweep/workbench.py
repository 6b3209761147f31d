"""This machine as a sweep uses it: the meter, the power limits, the engine, the suite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from etui.arm import Arm
from etui.config.config import Config
from etui.energy.discovery import open_recorder
from etui.energy.idle import refuse_busy
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limit import AppliedLimit, CapRequest
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.energy.recorder import Recorder
from etui.errors import EtuiError
from etui.events import Loaded
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.spec import ModelSpec
from etui.sweep._machine import MachineFacts, configure
from etui.sweep._measurer import (
    MOST_OTHERS,
    CapControl,
    Devices,
    LocalMeasurer,
    MachineWatch,
    ModelLoader,
    SweptWork,
    choose_window_s,
)
from etui.sweep.config import CapMode, SweepConfig
from etui.sweep.folder import RECORDING
from etui.sweep.plan import SweepPlan
from etui.turn.build_record import build_load_record

R = TypeVar("R")
_METER_WARM_UP_S = 1.2

Ask = Callable[[CapRequest], None]
"""Asks the user to set a limit, and returns when the user says that it is set."""


@dataclass(frozen=True, slots=True)
class LocalWorkbench:
    """This machine, with a running meter."""

    config: Config
    recorder: Recorder
    writer: TurnWriter  # Saves the loads of models
    note: Callable[[str], None]  # Called with a line that a reader of the sweep should know
    ask: Ask
    force: bool  # Whether to measure although other programs use the machine

    @property
    def channels(self) -> Sequence[str]:
        """Ids of the power channels that are summed."""
        return tuple(channel.id for channel in self.recorder.selection.summed)

    @property
    def window_s(self) -> float:
        """Least seconds of a phase that this meter resolves."""
        return choose_window_s(self.recorder.selection.summed)

    def check_idle(self) -> bool:
        """Refuse a machine at work, or return with ``force`` whether it is at work."""
        return refuse_busy(
            self.recorder,
            force=self.force,
            note=self.note,
            consequence="the joules will be too high",
        )

    @contextmanager
    def open_measurer(
        self, plan: SweepPlan, config: SweepConfig, place: Path
    ) -> Iterator[LocalMeasurer]:
        """Open the measurer; at the end the model is freed and power limits are as found."""
        catalogue, recorder = load_catalogue(self.config), self.recorder
        work = SweptWork(
            plan.workload,
            config.design.settings[0],
            lambda setting: configure(setting, plan.baseline.spec, self.config, catalogue),
            plan.facts.shape,
            place / RECORDING,
            plan.questions,
        )
        most_others = 1.0 if self.force else MOST_OTHERS
        with open_cap(config.cap, plan.facts, self.config, self.ask, self.note) as cap:
            watch = MachineWatch(self.config.sysfs_dir, recorder)
            devices = Devices(recorder, watch, recorder, ModelLoader(self._log_load), cap)
            with LocalMeasurer(work, devices, config, self.note, most_others) as measurer:
                yield measurer

    def note_open(self, config: SweepConfig, items: Iterator[R]) -> Iterator[R]:
        """Yield blocks or answers; the one that is measured has a row if the process is killed."""
        arm, note = Arm(config.arm or "", config.model or ""), self.writer.open_turns.note_each
        return note(items, f"sweep {config.id}", arm, self.recorder, lambda forget: forget())

    def _log_load(self, spec: ModelSpec, event: Loaded) -> None:
        """Save the load of a model with its joules, as the cost of one that is not in memory."""
        self.recorder.settle(event.end_ns)
        self.writer.save_load(build_load_record(event, spec.sha256, self.recorder.energy))


@contextmanager
def open_workbench(
    config: Config,
    writer: TurnWriter,
    note: Callable[[str], None],
    ask: Ask,
    *,
    force: bool = False,
) -> Iterator[LocalWorkbench]:
    """Open this machine for a sweep, and wait until the meter runs."""
    with open_recorder(config) as recorder:
        time.sleep(_METER_WARM_UP_S)
        yield LocalWorkbench(config, recorder, writer, note, ask, force)


@contextmanager
def open_cap(
    mode: CapMode | None,
    facts: MachineFacts,
    config: Config,
    ask: Ask,
    note: Callable[[str], None],
) -> Iterator[CapControl]:
    """Hold the power limits of the swept devices; at the end they are as found.

    EtuiError if another etui holds power limits, or they changed since the facts were read: the
    baseline would not be what was found.
    """
    if mode is None:
        yield CapControl()
        return
    with open_power_limits(config) as limits:
        swept = [
            limit for limit in limits.read() if limit.scope.partition(":")[0] == facts.swept_device
        ]
        scopes = tuple(limit.scope for limit in swept)
        asked = ask if mode == "user" else None
        with LimitHold(config, limits, ask=asked, say=note, guarded=True) as hold:
            now = tuple(limit.watts for limit in limits.read() if limit.scope in scopes)
            if facts.power is not None and now != facts.power.current:
                raise EtuiError(
                    f"the power limit of {', '.join(facts.power.labels)} changed while the sweep "
                    "was prepared",
                    "run the same command again",
                )
            yield CapControl(
                partial(_apply_to_all, hold, scopes), partial(_read_enforced, limits, scopes)
            )


def _apply_to_all(hold: LimitHold, scopes: tuple[str, ...], watts: float) -> AppliedLimit:
    """Set one limit on several devices, and report it as one; a refusal comes first."""
    applied = hold.apply_each(scopes, watts)
    notes = dict.fromkeys(one.note for one in applied if one.note)
    first = min(applied, key=lambda one: not one.is_refused)
    return replace(first, scope=" ".join(scopes), requested=watts, note="; ".join(notes))


def _read_enforced(limits: PowerLimits, scopes: Sequence[str]) -> float | None:
    """Read the limit in force, the lowest of the devices; None if one is unknown."""
    found = [limit for limit in limits.read() if limit.scope in scopes]
    watts = [
        limit.watts if limit.enforced_watts is None else limit.enforced_watts for limit in found
    ]
    known = [each for each in watts if each is not None]
    return min(known) if known and len(known) == len(watts) else None
