"""Mixtures of experts on a device: their experts are where they were planned, and so are tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.engine.library import Device, Library
from etui.engine.offload import Needs, Placement, gpu_bytes, needs
from etui.engine.residency import Residency
from etui.models.gguf import check_usable
from etui.models.spec import ModelSpec
from tests.engine.test_mixtures import answer, room_for
from tests.gpu.conftest import OnDevice, load_on
from tests.support.tiny_mixtures import WIDTH, write_mixture

pytestmark = pytest.mark.gpu

CHANGES = {"context": 512, "flash_attention": "off"}
TOKENS = 12


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("mixture") / "mixture.gguf")


@pytest.fixture
def need(mixture: Path) -> Needs:
    return needs(check_usable(mixture), 512, "f16")


@pytest.fixture
def load(config: Config, mixture: Path) -> Callable[..., OnDevice]:
    return lambda **changes: load_on(config, mixture, **CHANGES, **changes)


@pytest.mark.parametrize("place", [Placement(7), Placement(7, 3), Placement(7, 6), Placement(4, 6)])
def test_the_experts_are_where_they_were_asked_for(load, device, need, place):
    model = load(gpu_layers=place.gpu_layers, cpu_moe=place.cpu_moe)
    with closing(model.residency) as residency:
        assert residency.gpu_layers_placed == place.gpu_layers
        assert residency.cpu_moe_placed == place.cpu_moe  # by llama.cpp's log
        weights = model.buffer_bytes("model", device.name)
        cache = model.buffer_bytes("KV", device.name)
        copied = need.copied_bytes if place.cpu_moe else 0
        planned = gpu_bytes(need, place) - need.compute_bytes - copied
        assert weights + cache == pytest.approx(planned, rel=0.02, abs=2**15)
        assert model.buffer_bytes("compute", device.name) <= need.compute_bytes + copied


def test_one_tensor_of_experts_is_copied_at_a_time(config, tmp_path, device):
    """For long batches; the estimate of the buffers covers them."""
    path = write_mixture(tmp_path / "wide.gguf", expert_width=2048)
    need = needs(check_usable(path), 512, "f16")
    taken = {}
    for experts in (0, 1, 6):
        model = load_on(config, path, **CHANGES, gpu_layers="all", cpu_moe=experts)
        model.residency.close()
        taken[experts] = model.buffer_bytes("compute", device.name)
    assert taken[1] == taken[6]
    assert 0 < taken[6] - taken[0] <= need.copied_bytes
    assert taken[6] <= need.compute_bytes + need.copied_bytes
    assert taken[0] <= 4 * 512 * (20 * WIDTH + 3 * 2 * 2048)


def test_answers_do_not_depend_on_where_the_experts_are(load):
    """The sums are the same numbers in another order: random weights leave wide margins."""
    found = []
    for changes in ({"gpu_layers": 0}, {"gpu_layers": "all", "cpu_moe": 3}, {"gpu_layers": 4}):
        model = load(**changes)
        with closing(model.residency):
            found.append(answer(model.session, TOKENS))
    assert found[0] == found[1] == found[2]


def test_auto_keeps_as_few_experts_in_ram_as_the_free_memory_needs(
    config, mixture, device: Device, need, monkeypatch
):
    """The free memory is a fake; what fits into it is on the real device."""
    free = room_for(need, Placement(7, 4))
    monkeypatch.setattr(Library, "gpus", lambda _: (replace(device, free_bytes=free),))
    spec = ModelSpec("mixture", "1M", (), context=512)
    with closing(Residency(replace(config, threads=1))) as residency:
        list(residency.session(spec, mixture))
        assert (residency.gpu_layers_placed, residency.cpu_moe_placed) == (7, 4)
