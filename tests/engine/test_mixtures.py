"""Mixtures of experts in llama.cpp: where their experts are, what is tried, and what is learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from etui.arm import Sampling
from etui.chat import Message
from etui.config.config import Config
from etui.engine import session_loader as module
from etui.engine.library import Device, Library
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model, Split
from etui.engine.offload import Needs, Placement, fit_placement, gpu_bytes, needs
from etui.engine.placement_speeds import DecodeClock, PlacementSpeeds
from etui.engine.residency import Residency
from etui.errors import ModelUnavailable
from etui.models.gguf import check_usable
from etui.models.spec import ModelSpec
from tests.engine.opened import opened
from tests.support.tiny_mixtures import BLOCKS, write_mixture

CONTEXT = 512
SPEC = ModelSpec("mixture", "1M-A0.3M", (), context=CONTEXT)


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("mixture") / "mixture.gguf")


@pytest.fixture
def need(mixture: Path) -> Needs:
    return needs(check_usable(mixture), CONTEXT, SPEC.kv_type)


@pytest.fixture
def residency(config: Config) -> Iterator[Residency]:
    with closing(Residency(replace(config, threads=1))) as residency:
        yield residency


def answer(session: LlamaSession, tokens: int = 24) -> list[int]:
    """Greedy tokens after a fixed prompt."""
    rendered = session.render([Message("user", "Where is it?")])
    sequence = session.open(session.tokenize(rendered), Sampling())
    drawn: list[int] = []
    while len(drawn) < tokens:
        sampled = session.step([sequence]).sampled
        drawn += [one.token for one in sampled]
        if sampled and sampled[0].ends:
            break
    session.close(sequence, keep=False)
    return drawn


@pytest.mark.parametrize("architecture", ["qwen3moe", "qwen2moe", "gpt-oss"])
def test_the_experts_of_the_first_blocks_are_kept_in_ram(config, tmp_path, architecture):
    path = write_mixture(tmp_path / "m.gguf", architecture)
    # Of its own: llama.cpp's log goes to the library that was loaded last.
    with closing(Library(config.log_dir, config.engines_dir)) as library:
        for blocks in (0, 2, BLOCKS):
            model = Model(library, path, 0, Split(cpu_moe=blocks))
            model.free()
            assert library.cpu_moe_placed == blocks  # as llama.cpp writes it to its log


def test_a_mixture_answers_the_same_wherever_its_experts_are(
    config, residency, mixture, monkeypatch
):
    """Without a GPU the override changes the buffer and nothing that is computed."""
    session, loaded, _ = opened(residency, SPEC, mixture)
    assert (loaded.gpu_layers, loaded.cpu_moe) == (0, 0)
    assert residency.cpu_moe_placed == 0
    expected = answer(session)
    assert len(set(expected)) > 3  # random weights do not repeat one token

    class Overridden(Model):
        def __init__(self, library: Library, path: Path, layers: int, _: Any, **kw: Any) -> None:
            super().__init__(library, path, layers, Split(cpu_moe=3), **kw)

    monkeypatch.setattr(module, "Model", Overridden)
    with closing(Residency(replace(config, threads=1))) as other:
        session, _, _ = opened(other, SPEC, mixture)
        assert other.cpu_moe_placed == 3
        assert answer(session) == expected


class OnCpu(Model):
    """Remembers the layers and the split it was made with, and loads onto the CPUs."""

    asked: ClassVar[list[tuple[int, Split | None]]] = []
    most_experts: ClassVar[int] = BLOCKS
    most_layers: ClassVar[int] = BLOCKS + 1
    """Loads with more of them on the GPU fail."""

    def __init__(self, library: Library, path: Path, layers: int, split: Split | None, **kw: Any):
        self.asked.append((layers, split))
        experts = min(layers - 1, BLOCKS - split.cpu_moe) if split else 0
        if experts > self.most_experts or layers > self.most_layers:
            raise ModelUnavailable("out of memory on the device")
        super().__init__(library, path, 0, **kw)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Split | None]]:
    """Models that are loaded onto the CPUs whatever is asked for."""
    monkeypatch.setattr(module, "Model", OnCpu)
    monkeypatch.setattr(OnCpu, "asked", [])
    return OnCpu.asked


def give_gpus(monkeypatch: pytest.MonkeyPatch, *free_bytes: int) -> tuple[Device, ...]:
    gpus = tuple(Device(f"GPU{at}", "fake", free, 10**11) for at, free in enumerate(free_bytes))
    monkeypatch.setattr(Library, "gpus", lambda _: gpus)
    return gpus


def room_for(need: Needs, placement: Placement) -> int:
    """Free bytes in which just this fits."""
    return int(gpu_bytes(need, placement) / 0.95) + 1


@pytest.mark.parametrize("place", [Placement(7), Placement(7, 2), Placement(7, 6), Placement(4, 6)])
def test_auto_places_layers_and_experts_by_free_memory(
    residency, mixture, need, asked, monkeypatch, place
):
    give_gpus(monkeypatch, room_for(need, place))
    _, loaded, _ = opened(residency, SPEC, mixture)
    assert asked == [(place.gpu_layers, Split(cpu_moe=place.cpu_moe))]
    assert (loaded.gpu_layers, loaded.cpu_moe) == (place.gpu_layers, place.cpu_moe)


def test_settings_of_the_entry_reach_llama_cpp(residency, mixture, asked, monkeypatch):
    give_gpus(monkeypatch, 10**10)
    opened(residency, replace(SPEC, gpu_layers=5, cpu_moe=4), mixture)
    opened(residency, replace(SPEC, cpu_moe="all"), mixture)  # a change loads it again
    assert asked == [(5, Split(cpu_moe=4)), (7, Split(cpu_moe=6))]


def test_two_gpus_get_layers_by_their_bytes(residency, mixture, need, asked, monkeypatch):
    room = room_for(need, Placement(7, 3))
    give_gpus(monkeypatch, room // 2, room - room // 2)
    opened(residency, SPEC, mixture)
    (layers, split), *_ = asked
    assert (layers, split.cpu_moe) == (7, 3)
    assert sum(split.shares) == 7
    assert split.shares[0] > split.shares[1]  # the first ones are small
    opened(residency, replace(SPEC, cpu_moe=4, gpu_layers=7, tensor_split=(3.0, 1.0)), mixture)
    assert asked[-1] == (7, Split(shares=(3.0, 1.0), cpu_moe=4))


def test_a_failed_load_moves_experts_then_layers(residency, mixture, asked, monkeypatch):
    give_gpus(monkeypatch, 10**10)
    monkeypatch.setattr(OnCpu, "most_experts", 0)
    monkeypatch.setattr(OnCpu, "most_layers", 3)
    _, loaded, _ = opened(residency, SPEC, mixture)
    tried = [(layers, split.cpu_moe) for layers, split in asked if split]
    assert tried == [(7, 0), (7, 2), (7, 3), (7, 6), (5, 6), (3, 6)]
    assert (loaded.gpu_layers, loaded.cpu_moe) == (3, 6)
    asked.clear()
    with pytest.raises(ModelUnavailable, match="out of memory"):
        opened(residency, replace(SPEC, name="all", gpu_layers="all"), mixture)
    assert [split.cpu_moe for _, split in asked if split] == [0, 2, 3, 6]


def test_a_model_makes_room_until_its_experts_fit(
    residency, mixture, starter_model, need, asked, monkeypatch
):
    """Another model gives way as long as more of this one could be on the GPU."""
    give_gpus(monkeypatch, room_for(need, Placement(7, 2)))
    opened(residency, replace(SPEC, name="other"), mixture)
    _, _, unloads = opened(residency, SPEC, mixture)
    assert [one.model for one in unloads] == ["other"]
    _, _, unloads = opened(residency, replace(SPEC, name="fixed", cpu_moe=2), mixture)
    assert unloads == []  # it has what it asks for


def test_what_an_answer_shows_of_a_placement_is_used_by_the_next_load(
    config, residency, mixture, need, asked, monkeypatch
):
    gpus = give_gpus(monkeypatch, room_for(need, Placement(7, 2)))
    session, loaded, _ = opened(residency, SPEC, mixture)
    assert loaded.cpu_moe == 2
    session.decode_clock.best_tokens_per_second = 10.0
    list(residency.unload(SPEC.name))
    speeds, gguf = PlacementSpeeds(config), check_usable(mixture)
    assert [one.placement for one in speeds.read(gguf, gpus)] == [Placement(7, 2)]
    speeds.add(gguf, gpus, Placement(5, 0), 9.0)
    assert opened(residency, SPEC, mixture)[1].gpu_layers == 7
    list(residency.unload(SPEC.name))
    speeds.add(gguf, gpus, Placement(5, 0), 30.0)
    _, loaded, _ = opened(residency, SPEC, mixture)
    assert (loaded.gpu_layers, loaded.cpu_moe) == (5, 0)
    smaller = give_gpus(monkeypatch, room_for(need, Placement(2, 6)))
    assert smaller[0].description == gpus[0].description
    list(residency.unload(SPEC.name))
    assert opened(residency, SPEC, mixture)[1].gpu_layers == 2  # that one does not fit now


def test_decode_of_one_token_is_timed(residency, mixture):
    session, _, _ = opened(residency, SPEC, mixture)
    sequence = session.open(session.tokenize("abc"), Sampling())
    for token in range(70):
        session.extend(sequence, [token])
        session.step([sequence], draw=False)
    assert session.decode_clock.best_tokens_per_second > 0


def test_the_fastest_stretch_counts():
    clock = DecodeClock()
    for ns in [10**9] * 63:
        clock.add(ns)
    assert clock.best_tokens_per_second == 0.0
    for ns in [10**9, *[10**7] * 64, *[10**8] * 64]:
        clock.add(ns)
    assert clock.best_tokens_per_second == pytest.approx(100)


def test_speeds_belong_to_a_file_a_machine_and_its_gpus(config, mixture):
    speeds, gguf = PlacementSpeeds(config), check_usable(mixture)
    gpus, file = [Device("GPU0", "fake", 1, 1)], config.home / "placement_speeds.json"
    speeds.add(gguf, gpus, Placement(7, 2), 10.0)
    speeds.add(gguf, gpus, Placement(7, 2), 8.0)
    speeds.add(gguf, gpus, Placement(7, 3), 7.0)
    speeds.add(gguf, gpus, Placement(7, 3), 9.0)
    found = {one.placement: one.tokens_per_second for one in speeds.read(gguf, gpus)}
    assert found == {Placement(7, 2): 10.0, Placement(7, 3): 9.0}
    assert speeds.read(gguf, [Device("GPU0", "another", 1, 1)]) == ()
    assert speeds.read(replace(gguf, size_bytes=1), gpus) == ()
    every = json.loads(file.read_text())
    file.write_text(json.dumps([{**one, "machine": "elsewhere"} for one in every]))
    assert speeds.read(gguf, gpus) == ()
    for damaged in ("{", "[1]", json.dumps([{**every[0], "tokens_per_second": -1}])):
        file.write_text(damaged)
        assert speeds.read(gguf, gpus) == ()
    file.unlink()
    file.mkdir()
    speeds.add(gguf, gpus, Placement(7, 2), 10.0)  # a hint that cannot be kept is lost


def test_a_dense_model_is_not_timed_for_its_placement(config, starter_model, monkeypatch, asked):
    give_gpus(monkeypatch, 10**10)
    monkeypatch.setattr(OnCpu, "most_layers", 99)
    monkeypatch.setattr(OnCpu, "most_experts", 99)
    with closing(Residency(replace(config, threads=1))) as residency:
        session, loaded, _ = opened(residency, replace(SPEC, name="starter"), starter_model)
        assert (loaded.gpu_layers, loaded.cpu_moe) == (31, 0)
        session.decode_clock.best_tokens_per_second = 10.0
    assert not (config.home / "placement_speeds.json").exists()


def test_what_is_planned_is_what_is_loaded(need):
    """The plan that is shown before a load is made by the same function."""
    free = room_for(need, Placement(7, 4))
    assert fit_placement(need, free) == Placement(7, 4)
    assert fit_placement(need, free - 2) == Placement(7, 5)
