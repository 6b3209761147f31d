"""The app's own runner: which idle baseline an answer goes by, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.backends.base import AnswerRequest
from etui.chat import Query
from etui.config.backend_spec import BackendSpec
from etui.config.config import Config
from etui.energy.idle import (
    Baselines,
    IdleBaseline,
    load_baselines,
    save_baselines,
)
from etui.errors import EtuiError
from etui.events import Event, Loaded, Residence, Unloaded
from etui.log.queries import LogReader
from etui.models.spec import STARTER
from etui.runtime.routes import Route
from etui.turn.events import TurnFinished
from tests.backends.remote.stub import Script, delta, running_stub, sse, usage
from tests.runtime.app_stage import SteadyApp, finished
from tests.support.devices import FakeClock

IDLE_WATTS = 61.0


class Child:
    """Answers for a second of the fake clock."""

    on_unloaded: Callable[[Unloaded], None]
    pid: int | None = 4711
    long_step = None

    def __init__(self, clock: FakeClock, wait: object) -> None:
        self._clock = clock

    def answer(self, request: AnswerRequest, cancel: object = None) -> Iterator[Event]:
        end = self._clock()
        yield finished(end - 10**9, end)

    def load(self, spec: object, path: Path, draft: object = None) -> Iterator[Residence]:
        end = self._clock()
        yield Unloaded("another", None, end - 2 * 10**9, end - 10**9, "room", 10**8)
        yield Loaded(STARTER, end - 10**9, end, 0, 98_000_000)

    def unload(self, model: str) -> Iterator[Residence]:
        end = self._clock()
        yield Unloaded(model, None, end - 10**9, end, "asked", 98_000_000)

    def close(self) -> None:
        self.pid = None


class Chat(SteadyApp):
    """A chat on a machine that always draws the same."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, IDLE_WATTS, Child)

    def unloaded(self, model: str) -> None:
        """The engine says that it no longer keeps a model warm, for half a second."""
        end = self.clock()
        self.child.on_unloaded(Unloaded(model, None, end - 5 * 10**8, end, "idle", 10**8))


def test_a_pause_of_the_chat_gives_net_joules_to_the_next_answer(here: Config) -> None:
    with closing(Chat(here)) as chat:
        first = chat.ask()
        chat.wait(5)
        second = chat.ask()
        chat.wait(40)
        third = chat.ask()
    baselines = [turn.settings["idle_baseline"] for turn in (first, second, third)]
    assert baselines == [None, None, "loaded"]
    assert first.energy.net_joules is None
    assert third.energy.idle_watts == pytest.approx(IDLE_WATTS, rel=0.02)
    assert third.energy.net_joules == pytest.approx(0, abs=2)


def test_reading_the_last_answer_counts_as_a_pause_and_so_does_a_warm_model(here: Config) -> None:
    with closing(Chat(here)) as chat:
        chat.service.warm_up(Route("balanced", STARTER))
        chat.wait(40)
    kept = load_baselines(here).loaded[STARTER]
    assert kept.total_watts == pytest.approx(IDLE_WATTS, rel=0.02)


def test_a_pause_ends_when_the_model_is_no_longer_kept_warm(here: Config) -> None:
    with closing(Chat(here)) as chat:
        chat.ask()
        chat.wait(5)
        chat.unloaded("another")
        chat.unloaded(STARTER)
        chat.wait(40)  # of a machine without the model
        chat.ask()
        assert STARTER not in load_baselines(here).loaded
        chat.wait(40)
        chat.unloaded("another")
        assert STARTER not in load_baselines(here).loaded
        chat.unloaded(STARTER)  # a long pause counts up to here
        assert STARTER in load_baselines(here).loaded


def test_an_answer_of_another_machine_changes_nothing_in_this_memory(
    here: Config, tiny_starter: Path
) -> None:
    with running_stub() as stub:
        chunks = sse(delta("Four.", finish="stop"), usage(5, 2))
        stub.scripts["/v1/chat/completions"] = [Script(chunks)]
        here.models_file.write_text("models: {far: {backend: desk}}")
        config = replace(here, backends={"desk": BackendSpec("desk", stub.url)})
        with closing(Chat(config)) as chat:
            assert chat.service.warm_up(Route("balanced", "far")) is None
            assert chat.ask(route=Route("balanced", "far")).answer == "Four."
            assert chat.child.pid is None, "without a model in memory the process ends"
            chat.child.pid = 4711
            chat.service.load(STARTER)
            chat.wait(5)
            assert chat.ask(route=Route("balanced", "far")).energy.joules is None, (
                "its joules are not those of this machine"
            )
            chat.wait(40)
            assert chat.service.residents() == (STARTER,)
            chat.ask()
        loaded = load_baselines(here).loaded
    assert STARTER in loaded, "idling went on being measured after the answer of the other machine"
    assert "far" not in loaded


def test_an_unload_never_waits_for_a_turn(here: Config) -> None:
    with closing(Chat(here)) as chat:
        turn = chat.service.run(Query("2+2?"), Route("balanced", STARTER))
        next(turn)
        chat.unloaded(STARTER)
        assert isinstance(list(turn)[-1], TurnFinished)


def test_loads_ahead_and_unloads_between_answers_are_metered_and_logged(here: Config) -> None:
    with closing(Chat(here)) as chat:
        assert isinstance(chat.service.warm_up(Route("balanced", STARTER)), Loaded)
        chat.unloaded(STARTER)
    with LogReader(here) as log:
        (load,) = log.loads()
        idle, room = log.unloads()
    assert (load.model, load.turn_id, load.seconds) == (STARTER, None, 1)
    assert load.joules == pytest.approx(IDLE_WATTS, rel=0.05)
    assert (room.model, room.reason, room.turn_id, room.seconds) == ("another", "room", None, 1)
    assert (idle.model, idle.reason, idle.seconds) == (STARTER, "idle", 0.5)
    assert idle.joules == pytest.approx(IDLE_WATTS / 2, rel=0.3)
    assert idle.kind == "counter"


def test_models_come_and_go_as_asked_metered_and_logged(here: Config) -> None:
    told: list[object] = []
    with closing(Chat(here)) as chat:
        chat.service.on_loaded = told.append
        chat.service.on_unloaded = told.append
        loaded = chat.service.load(STARTER)
        assert chat.service.residents() == (STARTER,)
        assert told == ["another", loaded]
        gone = chat.service.unload(STARTER)
        assert gone is not None
        assert chat.service.residents() == ()
        assert told[2:] == [STARTER]
    with LogReader(here) as log:
        asked, _room = log.unloads()
        (load,) = log.loads()
    assert (asked.model, asked.reason, asked.seconds) == (STARTER, "asked", 1)
    assert asked.joules == pytest.approx(IDLE_WATTS, rel=0.05)
    assert load.joules == pytest.approx(IDLE_WATTS, rel=0.05)


def test_a_lost_process_holds_no_model(here: Config) -> None:
    with closing(Chat(here)) as chat:
        chat.service.load(STARTER)
        chat.child.pid = None
        assert chat.service.residents() == ()
        chat.child.pid = 4712
        assert chat.service.residents() == ()


def test_while_something_else_measures_every_model_is_gone_and_questions_are_refused(
    here: Config,
) -> None:
    with closing(Chat(here)) as chat:
        chat.service.load(STARTER)
        with chat.service.at_rest("a calibration is running") as leaving:
            assert chat.child.pid is None
            assert not leaving()
            for ask in (chat.ask, lambda: chat.service.load(STARTER)):
                with pytest.raises(EtuiError, match="a calibration is running"):
                    ask()
        assert chat.ask().status == "complete"


def test_nothing_comes_or_goes_during_an_answer(here: Config) -> None:
    with closing(Chat(here)) as chat:
        turn = chat.service.run(Query("2+2?"), Route("balanced", STARTER))
        next(turn)
        with pytest.raises(EtuiError, match="an answer or a model load is running"):
            chat.service.unload(STARTER)
        with (
            pytest.raises(EtuiError, match="an answer or a model load is running"),
            chat.service.at_rest("measuring"),
        ):
            raise AssertionError("it must not begin")
        list(turn)


def test_the_cold_baseline_serves_until_there_is_a_loaded_one(here: Config) -> None:
    cold = IdleBaseline({"gpu:FAKE": 20.0}, 1.0, 5.0, True)
    save_baselines(here, Baselines(cold))
    with closing(Chat(here)) as chat:
        turn = chat.ask()
    assert turn.settings["idle_baseline"] == "cold"
    assert turn.energy.idle_watts == 20


def test_a_baseline_that_cannot_be_kept_costs_no_answer(here: Config) -> None:
    (here.home / "idle.json").mkdir()
    with closing(Chat(here)) as chat:
        chat.ask()
        chat.wait(40)
        assert chat.ask().settings["idle_baseline"] is None
