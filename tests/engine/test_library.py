"""The GPUs that llama.cpp puts models on, told by a ggml of our own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from etui.engine import session_loader
from etui.engine.library import (
    Device,
    Library,
    built_for_gpu,
    fix_load_error,
    library_folder,
    name_gpu_backends,
)
from etui.engine.residency import Residency
from etui.errors import ModelUnavailable
from etui.models.spec import ModelSpec
from tests.engine.opened import opened

CPU, GPU, INTEGRATED, ACCELERATOR = 0, 1, 2, 3  # enum ggml_backend_dev_type
GB = 10**9


@dataclass
class Native:
    """A function of a shared library: it takes a signature, and is called."""

    call: Callable[..., Any]
    restype: object = None
    argtypes: object = None

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class Ggml:
    """ggml with these devices: (type, name, free bytes); a handle is the index and one."""

    registered: tuple[str, ...] = ("Vulkan", "CPU")

    def __init__(self, *devices: tuple[int, str, int]) -> None:
        def memory(handle: int, free: Any, total: Any) -> None:
            free._obj.value, total._obj.value = devices[handle - 1][2], 16 * GB

        self.ggml_backend_reg_count = Native(lambda: len(self.registered))
        self.ggml_backend_reg_get = Native(lambda index: index + 1)
        self.ggml_backend_reg_name = Native(lambda handle: self.registered[handle - 1].encode())
        self.ggml_backend_dev_count = Native(lambda: len(devices))
        self.ggml_backend_dev_get = Native(lambda index: index + 1)
        self.ggml_backend_dev_type = Native(lambda handle: devices[handle - 1][0])
        self.ggml_backend_dev_name = Native(lambda handle: devices[handle - 1][1].encode())
        self.ggml_backend_dev_description = Native(lambda handle: b"a fake")
        self.ggml_backend_dev_memory = Native(memory)


def gpus_of(library: Library, monkeypatch: pytest.MonkeyPatch, ggml: Ggml) -> tuple[Device, ...]:
    api = SimpleNamespace(_lib=ggml, llama_supports_gpu_offload=lambda: True)
    monkeypatch.setattr(library, "api", api)
    return library.gpus()


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ([(GPU, "CUDA0", 8 * GB), (INTEGRATED, "Vulkan0", 30 * GB), (CPU, "CPU", 0)], ["CUDA0"]),
        ([(INTEGRATED, "Vulkan0", 30 * GB), (GPU, "Vulkan1", 8 * GB)], ["Vulkan1"]),
        ([(GPU, "CUDA0", GB), (GPU, "CUDA1", GB), (ACCELERATOR, "AMX", 0)], ["CUDA0", "CUDA1"]),
        ([(INTEGRATED, "Vulkan0", 30 * GB), (CPU, "CPU", 0)], ["Vulkan0"]),
        ([(ACCELERATOR, "BLAS", 0), (CPU, "CPU", 0)], []),
        ([], []),
    ],
)
def test_an_integrated_gpu_counts_only_where_no_other_is(library, monkeypatch, devices, names):
    gpus = gpus_of(library, monkeypatch, Ggml(*devices))
    assert [gpu.name for gpu in gpus] == names
    free = {name: free for _, name, free in devices}
    assert [gpu.free_bytes for gpu in gpus] == [free[name] for name in names]
    assert all(gpu.total_bytes == 16 * GB and gpu.description == "a fake" for gpu in gpus)


def test_a_build_without_offload_has_no_gpu(library, monkeypatch):
    monkeypatch.setattr(library, "api", SimpleNamespace(llama_supports_gpu_offload=lambda: False))
    assert library.gpus() == ()


def test_a_model_is_not_split_over_the_integrated_gpu(config, starter_model, library, monkeypatch):
    both = Ggml((GPU, "CUDA0", 8 * GB), (INTEGRATED, "Vulkan0", 30 * GB))
    with monkeypatch.context() as patched:
        seen = gpus_of(library, patched, both)
    monkeypatch.setattr(Library, "gpus", lambda _: seen)
    residency = Residency(config)
    spec = ModelSpec("one", "135M", (), context=512, tensor_split=(1.0, 1.0))
    with pytest.raises(ModelUnavailable, match=r"configured for 2 GPUs, but llama\.cpp sees 1"):
        opened(residency, spec, starter_model)
    residency.close()


def test_what_lies_on_an_integrated_gpu_takes_ram(config, starter_model, monkeypatch):
    class OnCpu(session_loader.Model):
        def __init__(self, library: Library, path: Path, _layers: int, *_: object, **__: object):
            super().__init__(library, path, 0)

    def memory() -> SimpleNamespace:
        return SimpleNamespace(available=200_000_000 if residency.resident else GB)

    residency = Residency(config)
    spec = ModelSpec("one", "135M", (), context=512)
    monkeypatch.setattr(session_loader, "Model", OnCpu)
    monkeypatch.setattr(psutil, "virtual_memory", memory)
    for name, integrated, gone in (("a", False, 0), ("b", False, 0), ("c", True, 2)):
        gpu = Device("GPU0", "fake", 10 * GB, 16 * GB, integrated)
        monkeypatch.setattr(Library, "gpus", lambda _, gpu=gpu: (gpu,))
        model = ModelSpec(name, spec.size, (), context=512)
        assert len(opened(residency, model, starter_model)[2]) == gone, name
    residency.close()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("libggml-base.so", "libggml-cpu.so.0", "libllama.so"), False),
        (("libggml-cuda.so", "libggml-cpu.so"), True),
        (("ggml-vulkan.dll",), True),
        (("libggml-metal.dylib",), True),
        ((), False),
    ],
)
def test_a_build_for_a_gpu_is_told_by_its_files(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    assert built_for_gpu(tmp_path) is found


@pytest.mark.parametrize(
    ("registered", "files", "names"),
    [
        (("CPU",), (), ()),
        (("Vulkan", "CPU"), (), ("Vulkan",)),
        (("MTL", "BLAS", "CPU"), ("libggml-metal.dylib",), ("Metal",)),
        # A backend whose driver cannot be started is not registered, but its library is there.
        (("CPU",), ("libggml-vulkan.so", "libggml-cpu.so"), ("Vulkan",)),
        (("CUDA", "CPU"), ("libggml-cuda.so", "libggml-vulkan.so"), ("CUDA", "Vulkan")),
        (("RPC", "CPU"), (), ("RPC",)),
        (("RPC", "Vulkan", "BLAS", "CPU"), (), ("Vulkan", "RPC")),  # other machines come last
        (("WebGPU", "CPU"), (), ("WebGPU",)),
    ],
)
def test_the_backends_of_a_build_are_named_with_and_without_a_device(
    library, tmp_path, monkeypatch, registered, files, names
):
    for file in files:
        (tmp_path / file).touch()
    ggml = Ggml()
    ggml.registered = registered
    monkeypatch.setattr(library, "api", SimpleNamespace(_lib=ggml))
    monkeypatch.setattr(library, "build", SimpleNamespace(folder=tmp_path))
    assert library.gpu_backends() == names


def test_the_registry_of_this_build_is_read(library):
    assert library.gpu_backends() == name_gpu_backends((), library.build.folder)


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("libvulkan.so.1: cannot open shared object file", "libvulkan1"),
        ("libcuda.so.1: cannot open shared object file", "NVIDIA driver"),
        ("undefined symbol: llama_decode", "pip install --force-reinstall"),
    ],
)
def test_a_library_that_is_missing_is_told_by_its_name(error, fix):
    assert fix in fix_load_error(error)


def log(library: Library, level: int, text: str) -> None:
    library._log(level, text.encode(), None)


def test_the_log_says_where_the_layers_are(library):
    library.forget_placement()
    assert library.gpu_layers_placed is None
    for layer, device in enumerate(("CPU", "CPU", "Vulkan0", "CUDA1")):
        log(library, 1, f"load_tensors: layer {layer:3d} assigned to device {device}, is_swa = 0\n")
    assert library.gpu_layers_placed == 2
    library.forget_placement()


def test_a_model_without_gpu_layers_is_given_no_device(library, starter_model, monkeypatch):
    """Without a list of devices llama.cpp would take all, and compute long batches there."""
    given: dict[int, bool] = {}
    load = library.api.llama_model_load_from_file

    def spy(path: bytes, params: Any) -> Any:
        first = ctypes.c_void_p.from_address(params.devices).value if params.devices else None
        given[params.n_gpu_layers] = bool(params.devices) and first is None
        return load(path, params)

    monkeypatch.setattr(library.api, "llama_model_load_from_file", spy)
    for layers in (0, 3):
        session_loader.Model(library, starter_model, layers, vocabulary_only=True).free()
    assert given == {0: True, 3: False}


def test_a_missing_library_is_built_for_no_gpu(tmp_path):
    assert not built_for_gpu(None)
    assert not built_for_gpu(tmp_path / "none")


def test_libraries_that_the_environment_names_come_first(tmp_path, monkeypatch):
    (tmp_path / "libggml-vulkan.so").touch()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert built_for_gpu(library_folder(tmp_path / "engines"))


def test_the_libraries_lie_where_they_are_looked_for(tmp_path):
    folder = library_folder(tmp_path)
    assert any("llama" in path.name for path in folder.iterdir())
