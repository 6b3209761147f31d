"""This machine as a sweep uses it: the meter, the power limits, the engine, the suite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from etui.energy.at_rest import refuse_busy
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.events import Loaded
from etui.models.catalogue import load_catalogue
from etui.sweep.axes.configure import configure
from etui.sweep.machine.accuracy import SettingAnswer, measure_answers
from etui.sweep.machine.caps import Ask, open_cap
from etui.sweep.machine.local_rig import LocalRig
from etui.sweep.machine.machine_watch import MOST_OTHERS
from etui.sweep.machine.model_loader import ModelLoader
from etui.sweep.machine.procedure import Procedure, choose_window_s
from etui.sweep.machine.visit_power import read_power
from etui.sweep.run.find import RECORDING
from etui.sweep.run.measure import Instruments
from etui.turn.build_record import build_load_record

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.writer import TurnWriter
    from etui.models.spec import ModelSpec
    from etui.sweep.machine.accuracy import QuestionSet
    from etui.sweep.run.plan import SweepPlan
    from etui.sweep.setting import Setting
    from etui.sweep.sweep_config import SweepConfig

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
                LocalRig(
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
    rig: LocalRig,
    questions: QuestionSet,
    settings: Sequence[Setting],
    answers: Sequence[SettingAnswer],
) -> Iterator[SettingAnswer]:
    done = {(answer.setting, answer.number) for answer in answers}
    return measure_answers(rig.session_for, settings, questions, done)
