"""A real device of llama.cpp, and models on it; every test here is skipped without one.

``docs/config.md`` says how to have one on any machine: Mesa's software device of Vulkan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.engine.library import Device, Library
from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency
from etui.events import Loaded
from etui.models.spec import ModelSpec
from etui.runtime.doctor import check_offload
from tests.engine.opened import opened

CONTEXT = 512
SPEC = ModelSpec("starter", "135M", (), context=CONTEXT, gpu_layers="all")
LAYERS = 31
"""Layers of the starter, the output matrix included."""


@dataclass(frozen=True)
class OnDevice:
    """A model in memory, with what llama.cpp wrote to its log meanwhile."""

    residency: Residency
    session: LlamaSession
    loaded: Loaded
    log: str

    def buffer_bytes(self, kind: str, device: str) -> float:
        """Sum of the buffers of a kind (model, KV, compute) on a device, by llama.cpp's log."""
        lines = [line for line in self.log.splitlines() if f"{kind} buffer size" in line]
        found = [line for line in lines if f"{device} {kind} buffer size" in line]
        return sum(float(line.rpartition("=")[2].split()[0]) for line in found) * 2**20


Load = Callable[..., OnDevice]


@pytest.fixture(scope="session", autouse=True)
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """The first GPU of llama.cpp; skips the test, with the reason, where there is none."""
    home = tmp_path_factory.mktemp("device")
    found = check_offload(Config(home=home, models_dir=home))
    if not found.compiled_in:
        pytest.skip(found.problem or "llama.cpp is built without a GPU backend")
    if not found.devices:
        pytest.skip(found.why_not)
    with closing(Library(home / "logs")) as library:
        return library.gpus()[0]


def load_on(config: Config, path: Path, **changes: object) -> OnDevice:
    """Load the starter with changes of its entry into a Residency of its own."""
    log = config.log_dir / "llama.log"
    start = log.stat().st_size if log.exists() else 0
    residency = Residency(replace(config, threads=1))
    session, loaded, _ = opened(residency, replace(SPEC, **changes), path)  # type: ignore[arg-type]
    assert loaded is not None
    return OnDevice(residency, session, loaded, log.read_text()[start:])


@pytest.fixture
def load(config: Config, starter_model: Path) -> Iterator[Load]:
    """Loads the starter; keywords change its entry. Everything is freed after the test."""
    with ExitStack() as stack:

        def load(**changes: object) -> OnDevice:
            model = load_on(config, starter_model, **changes)
            stack.callback(model.residency.close)
            return model

        yield load


@pytest.fixture(scope="module")
def on_gpu(
    device: Device, starter_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaSession]:
    """The starter with all layers on the device, once for the tests of a module."""
    home = tmp_path_factory.mktemp("gpu")
    model = load_on(Config(home=home, models_dir=home), starter_model)
    yield model.session
    model.residency.close()


@pytest.fixture(scope="module")
def on_cpu(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaSession]:
    """The starter without a GPU, once for the tests of a module."""
    home = tmp_path_factory.mktemp("cpu")
    model = load_on(Config(home=home, models_dir=home), starter_model, gpu_layers=0)
    yield model.session
    model.residency.close()
