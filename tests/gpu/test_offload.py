"""Where layers, KV cache and memory are with each setting of ``gpu_layers``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from etui.arm import Sampling
from etui.engine import session_loader as module
from etui.engine.library import Device, Library
from etui.engine.offload import Needs, Placement, fit_placement, needs, ram_bytes
from etui.engine.residency import Residency
from etui.errors import ModelUnavailable
from etui.models.gguf import check_usable
from tests.engine.opened import opened
from tests.gpu.conftest import CONTEXT, LAYERS, SPEC

pytestmark = pytest.mark.gpu


@pytest.fixture
def need(starter_model: Path) -> Needs:
    return needs(check_usable(starter_model), CONTEXT, SPEC.kv_type)


@pytest.mark.parametrize(
    ("asked", "layers"), [("all", LAYERS), ("auto", LAYERS), (999, LAYERS), (7, 7), (1, 1), (0, 0)]
)
def test_layers_are_where_they_were_asked_for(load, device, need, asked, layers):
    model = load(gpu_layers=asked)
    assert model.loaded.gpu_layers == layers
    assert model.residency.gpu_layers_placed == layers
    weights = model.buffer_bytes("model", device.name)
    # The output matrix is the first layer that goes there.
    expected = need.output_bytes + (layers - 1) * need.layer_bytes if layers else 0
    assert weights == pytest.approx(expected, rel=0.02, abs=2**20)
    session = model.session
    assert session.step([session.open(session.tokenize("Hi", bos=True), Sampling())]).sampled


def test_the_kv_cache_is_with_its_layers(load, device, need):
    whole = load().buffer_bytes("KV", device.name)
    assert whole == pytest.approx(need.kv_bytes, rel=0.02)
    half = load(gpu_layers=16)
    on_device, on_cpu = (half.buffer_bytes("KV", name) for name in (device.name, "CPU"))
    assert 0 < on_device < whole
    assert on_device + on_cpu == pytest.approx(whole, rel=0.01)  # the log rounds


def test_without_layers_nothing_is_on_the_device(load, device):
    log = load(gpu_layers=0).log
    assert "buffer size" in log
    assert not [x for x in log.splitlines() if device.name in x and "buffer size" in x]


def test_the_estimate_covers_what_is_on_the_device(load, device, need):
    model = load()
    kept, in_buffers = ram_bytes(need, Placement(LAYERS)) - need.compute_bytes, need.compute_bytes
    estimated = need.total_bytes - kept - in_buffers
    taken = model.buffer_bytes("model", device.name) + model.buffer_bytes("KV", device.name)
    assert taken == pytest.approx(estimated, rel=0.02)
    assert model.buffer_bytes("compute", device.name) <= need.compute_bytes


def test_unloading_frees_the_device(config, starter_model, device, need):
    """By the driver's figures, or of a software device, whose memory is ours, by our own."""

    def used(residency: Residency) -> int:
        if "llvmpipe" in device.description:
            return int(psutil.Process().memory_info().rss)
        return device.total_bytes - residency.gpus()[0].free_bytes

    with closing(Residency(replace(config, threads=1))) as residency:
        opened(residency, SPEC, starter_model)
        list(residency.unload(SPEC.name))  # what the first load leaves is the driver's own
        before = used(residency)
        opened(residency, SPEC, starter_model)
        taken = used(residency) - before
        assert taken > 0.8 * (need.output_bytes + need.layers * need.layer_bytes)
        list(residency.unload(SPEC.name))
        assert used(residency) - before < 0.2 * taken


def test_less_free_memory_takes_fewer_layers(load, device, need, monkeypatch):
    """The free memory is a fake; the layers that fit into it are on the real device."""
    block = need.layer_bytes + need.kv_bytes // need.layers
    free = int((need.compute_bytes + need.output_bytes + 9.5 * block) / 0.95)
    assert fit_placement(need, free) == Placement(10)
    monkeypatch.setattr(Library, "gpus", lambda _: (replace(device, free_bytes=free),))
    model = load(gpu_layers="auto")
    assert model.loaded.gpu_layers == 10
    assert model.residency.gpu_layers_placed == 10


@pytest.fixture
def refusing(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU that etui sees and llama.cpp refuses; the layers of each load that was tried.

    A context too large for the device would do as well, but a software device takes its memory
    from the machine, which would then kill other programs.
    """
    tried: list[int] = []

    class Spied(module.Model):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            tried.append(args[2])
            super().__init__(*args, **keywords)

    monkeypatch.setattr(module, "Model", Spied)
    gpus = [device] * 10
    monkeypatch.setattr(Library, "gpus", lambda _: tuple(gpus))
    return tried


def test_a_load_that_llama_cpp_refuses_steps_down_to_the_cpu(load, refusing):
    model = load(gpu_layers="auto", split="none", main_gpu=9)
    assert refusing[0] == LAYERS
    assert refusing[-1] == 0
    assert refusing == sorted(refusing, reverse=True)
    assert model.loaded.gpu_layers == model.residency.gpu_layers_placed == 0
    session = model.session
    assert session.step([session.open(session.tokenize("Hi", bos=True), Sampling())]).sampled


def test_a_fixed_number_of_layers_does_not_step_down(load, refusing):
    with pytest.raises(ModelUnavailable, match="main_gpu"):
        load(gpu_layers="all", split="none", main_gpu=9)
    assert refusing == [LAYERS]
    assert load(gpu_layers="all").residency.gpu_layers_placed == LAYERS


def test_a_device_that_is_not_there_is_refused(config, starter_model):
    with (
        closing(Residency(replace(config, threads=1))) as residency,
        pytest.raises(ModelUnavailable, match=r"configured for 10 GPUs, but llama\.cpp sees"),
    ):
        opened(residency, replace(SPEC, main_gpu=9), starter_model)
