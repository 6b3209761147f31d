"""This machine as a sweep uses it: the meter, the power limits, the engine, the suite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from etui.energy.discovery import open_recorder
from etui.energy.idle import refuse_busy
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limit import AppliedLimit, CapRequest
from etui.energy.power_limits.limits import PowerLimits, open_power_limits
from etui.energy.recorder import Recorder
from etui.errors import EtuiError
from etui.events import Loaded
from etui.models.catalogue import load_catalogue
from etui.sweep._accuracy import SettingAnswer, measure_answers
from etui.sweep._machine import configure
from etui.sweep._measurer import (
    MOST_OTHERS,
    CapControl,
    LocalMeasurer,
    ModelLoader,
    Procedure,
    choose_window_s,
    read_power,
)
from etui.sweep.folder import RECORDING
from etui.sweep.run import Instruments
from etui.turn.build_record import build_load_record

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.power_limits.limit import AppliedLimit
    from etui.log.writer import TurnWriter
    from etui.models.spec import ModelSpec
    from etui.sweep._accuracy import QuestionSet
    from etui.sweep._machine import MachineFacts
    from etui.sweep.config import CapMode, Setting, SweepConfig
    from etui.sweep.plan import SweepPlan


Ask = Callable[[CapRequest], None]
"""Asks the user to set a limit, and returns when the user says that it is set."""


@contextmanager
def open_cap(
    mode: CapMode | None,
    facts: MachineFacts,
    config: Config,
    ask: Ask,
    note: Callable[[str], None],
) -> Iterator[CapControl]:
    """Hold the power limits of the swept devices; at the end they are as found.

    Args:
        mode: Who sets them; None leaves them alone.
        ask: Asks the user to set a limit.

    Raises:
        EtuiError: Another etui holds power limits, or they changed since the facts were read: the
            baseline would not be what was found.
    """
    if mode is None:
        yield CapControl()
        return
    with open_power_limits(config) as limits:
        scopes = list_swept_scopes(limits, facts)
        with LimitHold(config, limits, ask=ask if mode == "user" else None, say=note) as hold:
            _refuse_other_limits(limits, scopes, facts)
            yield CapControl(
                partial(_apply_to_all, hold, scopes), partial(read_enforced, limits, scopes)
            )


def list_swept_scopes(limits: PowerLimits, facts: MachineFacts) -> tuple[str, ...]:
    """List the devices whose power limit is swept: the GPUs if the model uses them, else CPUs."""
    kind = "gpu" if facts.uses_gpu else "package"
    return tuple(limit.scope for limit in limits.read() if limit.scope.partition(":")[0] == kind)


def _refuse_other_limits(limits: PowerLimits, scopes: Sequence[str], facts: MachineFacts) -> None:
    if facts.power is None:
        return
    now = tuple(limit.watts for limit in limits.read() if limit.scope in scopes)
    if now != facts.power.current:
        raise EtuiError(
            f"the power limit of {', '.join(facts.power.labels)} changed while the sweep was "
            "prepared",
            "run the same command again",
        )


def _apply_to_all(hold: LimitHold, scopes: tuple[str, ...], watts: float) -> AppliedLimit:
    """Set one limit on several devices, and report it as one; a refusal comes first."""
    applied = hold.apply_each(scopes, watts)
    notes = dict.fromkeys(one.note for one in applied if one.note)
    first = min(applied, key=lambda one: not one.is_refused)
    return replace(first, scope=" ".join(scopes), requested=watts, note="; ".join(notes))


def read_enforced(limits: PowerLimits, scopes: Sequence[str]) -> float | None:
    """Read the limit in force, the lowest of the devices; None if one is unknown."""
    found = [limit for limit in limits.read() if limit.scope in scopes]
    watts = [
        limit.watts if limit.enforced_watts is None else limit.enforced_watts for limit in found
    ]
    known = [each for each in watts if each is not None]
    return min(known) if known and len(known) == len(watts) else None


_METER_WARM_UP_S = 1.2


class LocalWorkbench:
    """This machine, with a running meter.

    Args:
        writer: Saves the loads of models.
        note: Called with a line that a reader of the sweep should know.
        ask: Asks the user to set a power limit.
        force: Whether to measure although other programs use the machine.
    """

    def __init__(
        self,
        config: Config,
        recorder: Recorder,
        writer: TurnWriter,
        note: Callable[[str], None],
        ask: Ask,
        force: bool,
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._writer = writer
        self._note = note
        self._ask = ask
        self._force = force

    @property
    def channels(self) -> Sequence[str]:
        """Ids of the power channels that are summed."""
        return tuple(channel.id for channel in self._recorder.selection.summed)

    @property
    def window_s(self) -> float:
        """Least seconds of a phase that this meter resolves."""
        return choose_window_s(self._recorder.selection.summed)

    def check_idle(self) -> None:
        """Refuse a machine at work, because its joules would be counted as the model's.

        Raises:
            EtuiError: Other programs use it.
        """
        refuse_busy(
            self._recorder,
            force=self._force,
            note=self._note,
            consequence="the joules will be too high",
        )

    @contextmanager
    def open_instruments(
        self, plan: SweepPlan, config: SweepConfig, place: Path
    ) -> Iterator[Instruments]:
        """Open the rig; at the end the model is freed and power limits are as found."""
        catalogue = load_catalogue(self._config)
        with ExitStack() as stack:
            cap = stack.enter_context(
                open_cap(config.cap, plan.facts, self._config, self._ask, self._note)
            )
            rig = stack.enter_context(
                LocalMeasurer(
                    lambda setting: configure(setting, plan.spec, self._config, catalogue),
                    self._recorder,
                    plan.workload,
                    config.design.settings[0],
                    sysfs_dir=self._config.sysfs_dir,
                    shape=plan.facts.shape,
                    procedure=Procedure(
                        config.window_s, config.cool_down_s, config.cool_down_celsius
                    ),
                    cap=cap,
                    recording=place / RECORDING,
                    most_others=1.0 if self._force else MOST_OTHERS,
                    note=self._note,
                    loader=ModelLoader(self._log_load),
                )
            )
            answer = None
            if plan.questions is not None:
                answer = partial(_answer, rig, plan.questions)
            yield Instruments(rig, partial(read_power, self._recorder), answer)

    def _log_load(self, spec: ModelSpec, event: Loaded) -> None:
        """Save the load of a model with its joules, as the cost of one that is not in memory."""
        self._recorder.settle(event.end_ns)
        self._writer.save_load(build_load_record(event, spec.sha256, self._recorder.energy))


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


def _answer(
    rig: LocalMeasurer,
    questions: QuestionSet,
    settings: Sequence[Setting],
    answers: Sequence[SettingAnswer],
) -> Iterator[SettingAnswer]:
    done = {(answer.setting, answer.number) for answer in answers}
    return measure_answers(rig.session_for, settings, questions, done)
