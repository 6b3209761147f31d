"""Models that give way: which, when, and that it is timed, metered and logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from etui.arm import Arm
from etui.backends.local import LocalBackend
from etui.chat import Query
from etui.config.config import Config
from etui.energy.types import Energy, Kind
from etui.engine import session_loader as module
from etui.engine.library import Device, Library
from etui.engine.residency import Residency
from etui.engine.session_loader import CPU_BATCH_TOKENS
from etui.errors import ModelUnavailable
from etui.events import Event, Loaded, Unloaded
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.events import TurnFinished
from tests.engine.opened import opened
from tests.metering import Sliced
from tests.turn.play import run_turn, serve_one_model

SPEC = ModelSpec("one", "135M", (), context=512, sha256="ab" * 32)
TWO, THREE = replace(SPEC, name="two", sha256=None), replace(SPEC, name="three")


@pytest.fixture
def residency(config: Config) -> Iterator[Residency]:
    residency = Residency(replace(config, threads=1))
    yield residency
    residency.close()


def room_for(models: int, residency: Residency, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that holds so many models and not one more."""

    def memory() -> SimpleNamespace:
        return SimpleNamespace(available=10**9 if len(residency.resident) < models else 0)

    monkeypatch.setattr(psutil, "virtual_memory", memory)


def test_the_least_recently_used_gives_way(residency, starter_model, monkeypatch):
    for spec in (SPEC, TWO, SPEC):
        assert opened(residency, spec, starter_model)[2] == []
    assert residency.resident == ("two", "one")
    room_for(2, residency, monkeypatch)
    _, loaded, unloaded = opened(residency, THREE, starter_model)
    assert residency.resident == ("one", "three")
    assert [(gone.model, gone.model_sha256, gone.reason) for gone in unloaded] == [
        ("two", None, "room")
    ]
    assert unloaded[0].start_ns < unloaded[0].end_ns <= loaded.start_ns < loaded.end_ns
    # Its weights and a cache of 512 tokens at least.
    assert unloaded[0].freed_bytes > starter_model.stat().st_size


def test_all_that_must_go_is_told(residency, starter_model, monkeypatch):
    for spec in (SPEC, TWO):
        opened(residency, spec, starter_model)
    room_for(1, residency, monkeypatch)
    _, _, unloaded = opened(residency, THREE, starter_model)
    assert [(gone.model, gone.model_sha256) for gone in unloaded] == [
        ("one", SPEC.sha256),
        ("two", None),
    ]
    assert unloaded[0].end_ns <= unloaded[1].start_ns


def test_a_changed_entry_loads_anew(residency, starter_model):
    opened(residency, SPEC, starter_model)
    session, loaded, unloaded = opened(residency, replace(SPEC, context=1024), starter_model)
    assert loaded is not None
    assert [gone.reason for gone in unloaded] == ["changed"]
    assert session.facts.context_tokens == 1024
    assert residency.resident == ("one",)


def test_a_damaged_file_takes_nobodys_place(residency, tmp_path, starter_model, monkeypatch):
    opened(residency, SPEC, starter_model)
    room_for(1, residency, monkeypatch)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ModelUnavailable, match="truncated"):
        opened(residency, TWO, broken)
    assert residency.resident == ("one",)


def test_what_gave_way_is_told_though_the_load_fails(residency, starter_model, monkeypatch):
    opened(residency, SPEC, starter_model)
    room_for(1, residency, monkeypatch)

    class Failing(module.Model):
        def __init__(self, *_: object, **__: object) -> None:
            raise ModelUnavailable("llama.cpp could not load it")

    monkeypatch.setattr(module, "Model", Failing)
    events = residency.session(TWO, starter_model)
    assert isinstance(next(events), Unloaded)
    with pytest.raises(ModelUnavailable, match="could not load"):
        next(events)
    assert residency.resident == ()


def test_a_model_that_filled_the_gpu_gives_way(residency, starter_model, monkeypatch):
    class OnCpu(module.Model):
        def __init__(self, library: Library, path: Path, _layers: int, *_: object, **__: object):
            super().__init__(library, path, 0)

    def gpus(_: Library) -> tuple[Device, ...]:
        free = 10**9 if not residency.resident else 10**8
        return (Device("GPU0", "fake", free, 10**9),)

    monkeypatch.setattr(module, "Model", OnCpu)
    monkeypatch.setattr(Library, "gpus", gpus)
    # What lies on the GPU takes next to no RAM.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200_000_000))
    opened(residency, SPEC, starter_model)
    _, loaded, unloaded = opened(residency, TWO, starter_model)
    assert [gone.model for gone in unloaded] == ["one"]
    assert loaded.gpu_layers == 31
    # A model that is to lie on the CPU leaves the GPU's alone.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    assert opened(residency, replace(THREE, gpu_layers=0), starter_model)[2] == []


def test_a_model_is_kept_until_its_time_is_up(config, starter_model):
    now = 100.0
    own = Residency(replace(config, threads=1, keep_warm=60), clock=lambda: now)
    assert own.seconds_to_unload() is None
    opened(own, SPEC, starter_model)
    now = 150
    opened(own, replace(SPEC, name="two"), starter_model)
    assert own.seconds_to_unload() == 10
    assert own.unload_idle() == ()
    own.hold("one")
    own.release("one")  # fifty seconds of answering do not count
    assert own.seconds_to_unload() == 60
    now = 170
    opened(own, replace(SPEC, name="two"), starter_model)
    now = 210
    assert own.seconds_to_unload() == 0
    (gone,) = own.unload_idle()
    assert (gone.model, gone.reason, gone.model_sha256) == ("one", "idle", SPEC.sha256)
    assert gone.start_ns < gone.end_ns
    assert own.resident == ("two",)
    assert own.seconds_to_unload() == 20
    now = 1000
    assert [gone.model for gone in own.unload_idle()] == ["two"]
    assert own.seconds_to_unload() is None
    _, loaded, _ = opened(own, SPEC, starter_model)
    assert loaded is not None
    own.close()


def test_each_model_may_have_its_own_time(config, starter_model):
    now = 0.0
    own = Residency(replace(config, threads=1, keep_warm="auto"), clock=lambda: now)
    opened(own, SPEC, starter_model)
    assert own.seconds_to_unload() is None, "auto keeps it until a time is known"
    opened(own, TWO, starter_model)
    own.keep_warm("one", 8.5)
    own.keep_warm("two", 100)
    assert own.seconds_to_unload() == 8.5
    now = 10
    assert [gone.model for gone in own.unload_idle()] == ["one"]
    assert own.seconds_to_unload() == 90
    own.keep_warm("two", None)
    now = 1e9
    assert own.seconds_to_unload() is None
    assert own.unload_idle() == ()
    own.close()


class Meter10W(Sliced):
    """Ten watts, always."""

    def settle(self, end_ns: int) -> None: ...

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        joules = 10.0 * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, 0.1, Kind.COUNTER, 1.0)


def test_a_turn_that_needs_room_logs_what_gave_way_and_its_load(config, starter_model, monkeypatch):
    events: list[Event] = []
    with closing(LocalBackend(replace(config, threads=1))) as engine, TurnWriter(config) as writer:
        room_for(1, engine._residency, monkeypatch)
        assert [type(event) for event in engine.load(SPEC, starter_model)] == [Loaded]
        assert list(engine.load(SPEC, starter_model)) == []
        for event in run_turn(
            Query("Hi"),
            Decision(Arm("quick", "two", max_tokens=2), "frugal", "default", "nothing else"),
            serve=serve_one_model(TWO, starter_model),
            answerer=engine,
            meter=Meter10W(),
            writer=writer,
        ):
            events.append(event)  # type: ignore[arg-type]
        last = events[-1]
        assert isinstance(last, TurnFinished)
        turn = last.record
    assert turn.settings["batch_tokens"] == CPU_BATCH_TOKENS
    gone, load = events[1:3]
    assert isinstance(gone, Unloaded)
    assert isinstance(load, Loaded)
    assert gone.end_ns <= load.start_ns < load.end_ns <= turn.energy.start_ns
    with LogReader(config) as log:
        (unloaded,) = log.unloads(turn_id=turn.turn_id)
        (loaded,) = log.loads()
        assert log.unloads() == [unloaded]
    assert (unloaded.model, unloaded.model_sha256) == ("one", SPEC.sha256)
    assert (unloaded.reason, unloaded.kind, unloaded.uncertainty) == ("room", "counter", 0.1)
    assert unloaded.seconds == pytest.approx((gone.end_ns - gone.start_ns) / 1e9)
    assert unloaded.joules == pytest.approx(10 * unloaded.seconds)
    assert unloaded.freed_bytes == gone.freed_bytes
    assert (loaded.model, loaded.turn_id) == ("two", turn.turn_id)
