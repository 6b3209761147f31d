"""The end of the engine's process after its last model, and the idle power before and after."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from etui.backends.base import AnswerRequest
from etui.chat import Query
from etui.config.config import Config
from etui.energy.idle import (
    MEASURABLE_SECONDS,
    Baselines,
    CoolDown,
    IdleBaseline,
    IdleTracker,
    choose_before_interval,
    describe_cool_down,
    load_baselines,
    save_baselines,
)
from etui.energy.keep_warm import Measured
from etui.errors import EngineFailed
from etui.events import Event, Loaded, Residence, Unloaded
from etui.log.queries import LogReader
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.keep_warm import build_cool_down, read_model_idle
from etui.runtime.routes import Route
from etui.runtime.runtime import open_process_runtime
from etui.runtime.service import TurnService
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord, UnloadRecord
from tests.energy.test_idle import Busy
from tests.log.idle_log import write_baselines, write_residence, write_turns
from tests.runtime.app_stage import App, finished
from tests.support.idle_gpu import IdlePower, IdlingGpu

WAIT_SECONDS = 120.0
"""Only a guard against hangs."""


def ask(service: TurnService) -> TurnRecord:
    *_, last = service.run(Query("Say yes.", chat_id="c"), Route("balanced", STARTER))
    assert isinstance(last, TurnFinished)
    return last.record


def test_the_process_ends_by_itself_and_the_next_question_starts_another(
    config: Config, tiny_starter: Path
) -> None:
    config = replace(config, models_dir=tiny_starter.parent, threads=1)
    runtime = open_process_runtime(config)
    cooling: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    tracker = IdleTracker(runtime.recorder, config)
    service = TurnService(runtime, tracker, lambda _seconds, call: cooling.put(call))
    with closing(service):
        assert ask(service).status == "complete"
        first = runtime.backend.pid
        assert first is not None
        runtime.backend.keep_warm(STARTER, 0.01)
        cooling.get(timeout=WAIT_SECONDS)  # the wait after the end of the process has begun
        assert runtime.backend.pid is None
        assert not psutil.pid_exists(first)
        assert service.residents() == ()
        again = ask(service)
        assert (again.status, again.error) == ("complete", None)
        second = runtime.backend.pid
        assert second not in (None, first)
        service.unload(STARTER)
        assert runtime.backend.pid is None
    with LogReader(config) as log:
        assert [unload.reason for unload in log.unloads()] == ["asked", "idle"]
        assert len(log.loads()) == 2


SECOND = 10**9


class Child:
    """An engine process whose context and model draw power on the simulated GPU."""

    on_unloaded: Callable[[Unloaded], None]

    def __init__(self, gpu: IdlingGpu) -> None:
        self._gpu = gpu
        self._started = 0
        self._held = False
        self.pid: int | None = None
        self.long_step = None
        self.times: list[tuple[str, float | None]] = []
        self.load_fails = False

    def answer(self, request: AnswerRequest, cancel: object = None) -> Iterator[Event]:
        if self.load_fails:
            yield self._free(request.model.name, "room")
            raise EngineFailed("memory ran out")
        yield from self.load(request.model, request.path)
        start = self._gpu.clock()
        self._gpu.switch(200.0)
        self._gpu.wait(1)
        self._gpu.switch(self._gpu.power.loaded)
        yield finished(start, self._gpu.clock())

    def load(self, spec: Any, path: Path, draft: Any = None) -> Iterator[Residence]:
        if self.pid is None:
            self._started += 1
            self.pid = 4710 + self._started
        if not self._held:
            self._held = True
            start = self._gpu.clock()
            self._gpu.switch(self._gpu.power.loading)
            self._gpu.wait(2)
            self._gpu.switch(self._gpu.power.loaded)
            yield Loaded(spec.name, start, self._gpu.clock(), 31, 98_000_000)

    def unload(self, model: str) -> Iterator[Residence]:
        if self._held:
            yield self._free(model, "asked")

    def expire(self) -> None:
        """Unload the model by itself, as at the end of its keep-warm time."""
        self.on_unloaded(self._free(STARTER, "idle"))

    def _free(self, model: str, reason: Any) -> Unloaded:
        self._held = False
        start = self._gpu.clock()
        self._gpu.switch(self._gpu.power.context)
        self._gpu.wait(0.5)
        return Unloaded(model, None, start, self._gpu.clock(), reason, 98_000_000)

    def keep_warm(self, model: str, seconds: float | None) -> None:
        self.times.append((model, seconds))

    def close(self) -> None:
        self.pid, self._held = None, False
        self._gpu.switch(self._gpu.power.cold)


class CoolingApp(App):
    """The app over the simulated GPU."""

    def __init__(self, config: Config, power: IdlePower | None = None) -> None:
        self.gpu = IdlingGpu(power)
        super().__init__(config, Child(self.gpu), self.gpu.recorder, self.gpu.clock)

    def unloads(self) -> list[UnloadRecord]:
        return list(self.read(LogReader.unloads))


def measured(app: CoolingApp) -> CoolDown:
    (unload,) = app.unloads()
    return build_cool_down(unload)


def test_the_process_ends_with_its_last_model_and_the_gpu_is_cold_again(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)  # the app is open, nobody asks: the cold baseline
        app.ask()
        pid = app.child.pid
        app.gpu.wait(40)
        app.child.expire()
        assert pid is not None
        assert app.child.pid is None
        assert measured(app).after is None, "it is logged at once"
        app.gpu.wait(11)
        app.ring()
        found = measured(app)
        app.ask()  # another process, without a word
        assert app.child.pid not in (None, pid)
    assert found.before is not None
    assert found.after is not None
    assert found.cold is not None
    assert found.before.value == pytest.approx(45, rel=0.02)
    assert found.after.value == pytest.approx(10, rel=0.02)
    assert found.cold.value == pytest.approx(10, rel=0.02)
    assert abs(found.before.value - 45) <= (found.before.uncertainty or 0)
    assert describe_cool_down(found) == "as without a model"


def test_a_context_that_stays_on_the_gpu_is_noticed(here: Config) -> None:
    cold = IdleBaseline({"gpu:FAKE": 1.0}, 1.0, 5.0, True, 0.1)
    with closing(CoolingApp(here, IdlePower(cold=10.0))) as app:
        app.gpu.wait(3)
        app.ask()
        save_baselines(here, Baselines(cold))
        app.gpu.wait(10)
        assert app.service.unload(STARTER) is not None  # as asked
        app.gpu.wait(11)
        app.ring()
        found = measured(app)
    assert found.above_cold is not None
    assert found.above_cold.value == pytest.approx(9, rel=0.03)
    assert found.state == "above"
    assert describe_cool_down(found).startswith("still 9.0")
    assert describe_cool_down(found).endswith("W more than without a model")


def test_a_question_in_between_leaves_the_power_unknown(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)
        app.ask()
        app.gpu.wait(10)
        app.child.expire()
        app.gpu.wait(4)
        app.ask()
        app.gpu.wait(20)
        app.ring()  # of a wait that has ended
        found = measured(app)
    assert found.before is not None
    assert (found.after, found.state) == (None, "unknown")
    assert describe_cool_down(found) == "not known"


def test_the_timer_of_an_ended_wait_does_not_end_the_next_one(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)
        app.ask()
        app.gpu.wait(10)
        app.child.expire()
        app.gpu.wait(4)
        app.ask()
        app.gpu.wait(3)
        app.child.expire()
        (_, first), (_, second) = app.timers
        app.gpu.wait(3)
        first()  # in the middle of the second wait
        app.gpu.wait(8)
        second()
        newest = app.unloads()[0]
    assert build_cool_down(newest).state == "cold"


def test_a_late_question_still_has_the_record_of_the_wait(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)
        app.ask()
        app.gpu.wait(10)
        app.child.expire()
        app.gpu.wait(60)
        app.ask()  # before its timer
        assert measured(app).state == "cold"


def test_another_program_leaves_the_power_unknown(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)
        app.ask()
        app.gpu.recorder.cpu_watch = Busy(0.9)
        app.gpu.wait(10)
        app.child.expire()
        app.gpu.wait(11)
        app.ring()
        found = measured(app)
    assert (found.before, found.after) == (None, None)


def test_a_load_that_failed_after_the_last_unload_leaves_no_process(here: Config) -> None:
    with closing(CoolingApp(here)) as app:
        app.ask()
        app.child.load_fails = True
        with pytest.raises(EngineFailed):
            app.ask()
        assert app.child.pid is None
        app.gpu.wait(40)  # the cold baseline
        app.child.load_fails = False
        app.ask()
        cold = load_baselines(here).cold
    assert cold is not None
    assert cold.total_watts == pytest.approx(10, rel=0.02)


def test_closing_forgets_a_wait(here: Config) -> None:
    app = CoolingApp(here)
    app.gpu.wait(3)
    app.ask()
    app.child.expire()
    app.close()
    app.ring()


def test_auto_learns_all_three_numbers_here_and_tells_the_engine(here: Config) -> None:
    here = replace(here, keep_warm="auto")
    with closing(CoolingApp(here)) as app:
        app.gpu.wait(40)  # cold
        app.ask()  # loads
        assert app.child.times == [(STARTER, None)]  # not known yet
        app.gpu.wait(40)  # loaded
        app.ask()
        name, seconds = app.child.times[-1]
        idle = app.read(lambda log: read_model_idle(log, here, STARTER, None))
    known = load_baselines(here)
    assert known.cold is not None
    assert known.cold.uncertainty is not None
    assert idle.extra_watts is not None
    assert idle.extra_watts.value == pytest.approx(35, rel=0.02)
    assert idle.load is not None
    assert idle.load.seconds == pytest.approx(2, rel=0.05)
    joules = 150 * idle.load.seconds
    assert abs(idle.load.joules.value - joules) <= (idle.load.joules.uncertainty or 0)
    assert (name, idle.choice.basis) == (STARTER, "break_even")
    assert seconds == idle.keep_seconds == pytest.approx(joules / 35, rel=0.02)
    even = idle.choice.break_even
    assert even is not None
    assert even.low <= joules / 35 <= even.high
    (gap,) = idle.gaps
    assert gap >= 0


def test_a_load_ahead_waits_longer_for_its_question_than_an_answer_for_the_next(
    here: Config,
) -> None:
    """The gaps say when to unload after an answer, not after the start of the app."""
    here = replace(here, keep_warm="auto")
    write_turns(here, [3600.0 * hour for hour in range(20)], STARTER)
    write_residence(here, 72_000.0, STARTER, sha256=load_catalogue(here).get(STARTER).sha256)
    write_baselines(here, STARTER)
    with closing(CoolingApp(here)) as app:
        assert app.service.warm_up(Route("balanced", STARTER)) is not None
        ahead = app.child.times[-1]
        app.service.warm_up(Route("balanced", STARTER))  # it is there already
        again = app.child.times[-1]
        app.ask()
        after = app.child.times[-1]
    # T* is 8.6 s, but an idle power that is never measured again could be wrong for good.
    assert ahead == again == (STARTER, MEASURABLE_SECONDS)
    assert after == (STARTER, 1.0)


def test_fixed_times_are_the_engines_own(here: Config) -> None:
    with closing(CoolingApp(replace(here, keep_warm=60.0))) as app:
        app.gpu.wait(3)
        app.ask()
    assert app.child.times == []


def test_only_a_rested_model_has_a_power_before_its_unload() -> None:
    assert choose_before_interval(None, 100 * SECOND) is None
    assert choose_before_interval(97 * SECOND, 100 * SECOND) is None
    assert choose_before_interval(96 * SECOND, 100 * SECOND) == (98 * SECOND, 100 * SECOND)
    assert choose_before_interval(10 * SECOND, 100 * SECOND) == (95 * SECOND, 100 * SECOND)


@pytest.mark.parametrize(
    ("after", "cold", "state"),
    [
        (Measured(19.0, 0.3), Measured(10.0, 0.3), "above"),
        (Measured(10.2, 0.3), Measured(10.0, 0.3), "cold"),
        (Measured(10.2), Measured(10.0), "cold"),  # sensors are noisy
        (Measured(9.0, 0.1), Measured(10.0, 0.1), "cold"),
        (Measured(10.0, 0.1), None, "unknown"),
        (None, Measured(10.0, 0.1), "unknown"),
    ],
)
def test_cold_is_cold_within_the_error(
    after: Measured | None, cold: Measured | None, state: str
) -> None:
    assert CoolDown(None, after, cold).state == state
