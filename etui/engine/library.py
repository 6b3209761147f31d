"""The llama.cpp library: lazy import, log file, and the devices it sees.

``import llama_cpp`` takes a quarter of a second, so it is deferred until a Library is created; no
module of etui imports it at import time.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from etui.engine.builds import BINDINGS, COMPILE, Build, Builds, read_given
from etui.engine.compute_thread import ComputeThread
from etui.engine.cpu_limits import count_cores, cpu_affinity, read_cpu_quota
from etui.errors import EngineFailed

if TYPE_CHECKING:
    from etui.config.config import Config

_DEBUG, _ERROR, _CONTINUED = 1, 4, 5  # enum ggml_log_level
_GPU, _INTEGRATED_GPU = 1, 2  # enum ggml_backend_dev_type
_LAST_LINES = 40
_LOG_BYTES = 4_000_000  # a larger log is overwritten


_GPU_BACKENDS = {
    "cuda": "CUDA",
    "hip": "ROCm",
    "musa": "MUSA",
    "vulkan": "Vulkan",
    "metal": "Metal",
    "sycl": "SYCL",
    "opencl": "OpenCL",
    "cann": "CANN",
}
"""GPU backends of ggml: the part of their library's file name, and the name people know."""

_REGISTERED = {"MTL": "Metal"}
"""Names of backends in ggml's registry that people know by another one."""

_CPU_BACKENDS = {"CPU", "BLAS", "AMX", "ZenDNN", "zDNN"}
"""Backends in ggml's registry that compute on the CPU."""

REMOTE_BACKEND = "RPC"
"""The backend that uses devices of other machines, and has none by itself."""

_SHARED_LIBRARIES = {
    "libvulkan.so": "install the Vulkan loader: sudo apt-get install libvulkan1",
    "libcuda.so": "install the NVIDIA driver; in a container: docker run --gpus all",
    "libcudart.so": "install the CUDA runtime that this build was compiled with",
    "libcublas": "install the CUDA runtime that this build was compiled with",
    "libamdhip64.so": "install the ROCm runtime that this build was compiled with",
}
"""Libraries that a build with a GPU backend needs, and where they come from."""

_LAYER_PLACED = re.compile(r"layer\s+\d+ assigned to device (\S+?),")
_EXPERTS_PLACED = re.compile(r"tensor blk\.(\d+)\.\S+ \(.*\) buffer type overridden")


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as llama.cpp reports it; memory in bytes, of an ``integrated`` GPU that of the host."""

    name: str
    description: str
    free_bytes: int
    total_bytes: int
    integrated: bool = False


class Library:
    """llama.cpp, logging to ``log_dir/llama.log``; ``build`` is the one that was loaded.

    llama.cpp has one log callback per process: the Library created last receives the lines. It
    calls it until ``close``, so an open Library is kept even if nothing else refers to it; close it
    after every model is freed.

    Attributes:
        compute: The thread in which its models are loaded, computed with and freed.

    Raises:
        EngineFailed: llama-cpp-python is missing or its library cannot be loaded.
    """

    def __init__(self, log_dir: Path, engines_dir: Path | None = None) -> None:
        self.build: Build = Builds(engines_dir).select()
        try:
            from llama_cpp import llama_cpp as api
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineFailed(
                f"llama-cpp-python cannot be loaded: {error}", fix_load_error(str(error))
            ) from error
        self.api: Any = api
        self.compute = ComputeThread()
        self._errors: deque[str] = deque(maxlen=_LAST_LINES)
        self._placed: Counter[str] = Counter()
        self._cpu_moe: set[str] = set()
        self._level = 0
        self._closed = False
        self.log_path = log_dir / "llama.log"
        self._file = _open_log(self.log_path)
        self._callback = api.llama_log_callback(self._log)
        self._setters: list[Callable[[Any, ctypes.c_void_p], object]] = []
        api.llama_log_set(self._callback, ctypes.c_void_p(0))
        atexit.register(self.close)
        api.llama_backend_init()

    def _log(self, level: int, text: bytes, _data: object) -> None:
        if level != _CONTINUED:
            self._level = level
        line = text.decode("utf-8", "replace")
        if self._level == _DEBUG:
            if placed := _LAYER_PLACED.search(line):
                self._placed[placed[1]] += 1
            elif experts := _EXPERTS_PLACED.search(line):
                self._cpu_moe.add(experts[1])
            return
        if self._level == _ERROR and line.strip():
            self._errors.append(line.strip())
        self._write(line)
        if self._level == _ERROR:
            self.flush()  # llama.cpp may abort the process next (GPU out of memory)

    def _write(self, line: str = "", *, flush: bool = False) -> None:
        """Write into the log file; a full disk ends the log, and nothing else."""
        if self._file is not None:
            try:
                self._file.write(line)
                if flush:
                    self._file.flush()
            except OSError:
                self._drop_file()

    def log_also(self, *setters: Callable[[Any, ctypes.c_void_p], object]) -> None:
        """Let other libraries of llama.cpp log to the same file."""
        self._setters += setters
        for set_log in setters:
            set_log(self._callback, ctypes.c_void_p(0))

    def flush(self) -> None:
        """Flush the log file."""
        self._write(flush=True)

    def forget_errors(self) -> None:
        """Clear the recorded errors before a call, so that :meth:`errors` returns only new ones."""
        self._errors.clear()

    def forget_placement(self) -> None:
        """Clear the recorded placement of layers before a load."""
        self._placed.clear()
        self._cpu_moe.clear()

    @property
    def gpu_layers_placed(self) -> int | None:
        """Layers of the last load that llama.cpp put on a GPU, by its log; None if it is silent.

        It counts the output matrix as a layer. The number that was asked for says nothing:
        llama.cpp reports that one as offloaded even where there is no device.
        """
        if not self._placed:
            return None
        return sum(layers for device, layers in self._placed.items() if device != "CPU")

    @property
    def cpu_moe_placed(self) -> int:
        """Blocks of the last load whose experts llama.cpp kept in RAM, by its log."""
        return len(self._cpu_moe)

    def errors(self, count: int = 2) -> str:
        """Return the last errors that llama.cpp logged, joined into one line."""
        return " | ".join(list(self._errors)[-count:]) or f"see {self.log_path}"

    @property
    def version(self) -> str:
        """Versions of the bindings and of ggml, its commit, and which build it is."""
        return "; ".join([metadata.version(BINDINGS), *_list_versions(self.api), self.build.name])

    def _drop_file(self) -> None:
        """Close the log file; lines that cannot be written are lost."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # closing flushes once more
                file.close()

    def gpu_backends(self) -> tuple[str, ...]:
        """Return the backends of this build beside the CPU's (``CUDA``), with or without a device.

        A backend registers itself even if it finds no device, but not if its driver cannot be
        started at all; then its library is still next to llama.cpp's others.
        """
        lib = _declare_ggml(self.api._lib)
        handles = map(lib.ggml_backend_reg_get, range(lib.ggml_backend_reg_count()))
        registered = [(lib.ggml_backend_reg_name(handle) or b"").decode() for handle in handles]
        return name_gpu_backends(registered, self.build.folder)

    def gpus(self) -> tuple[Device, ...]:
        """Return the GPUs that llama.cpp puts models on, with their currently free memory."""
        if not self.api.llama_supports_gpu_offload():
            return ()
        lib = _declare_ggml(self.api._lib)
        found = []
        for handle in map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count())):
            kind = lib.ggml_backend_dev_type(handle)
            if kind not in (_GPU, _INTEGRATED_GPU):
                continue
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            lib.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
            name: bytes = lib.ggml_backend_dev_name(handle) or b""
            text: bytes = lib.ggml_backend_dev_description(handle) or b""
            is_integrated = kind == _INTEGRATED_GPU
            found.append(
                Device(name.decode(), text.decode(), free.value, total.value, is_integrated)
            )
        return select_model_gpus(found)

    def close(self) -> None:
        """End the compute thread, discard further log lines of llama.cpp and close the log file."""
        if self._closed:
            return
        self._closed = True
        self.compute.close()
        atexit.unregister(self.close)
        current, data = self.api.llama_log_callback(), ctypes.c_void_p()
        self.api.llama_log_get(ctypes.byref(current), ctypes.byref(data))
        if _address(current) == _address(self._callback):
            # llama-cpp-python's own callback outlives this object; above CRITICAL it is silent.
            from llama_cpp._logger import llama_log_callback

            logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)
            for set_log in (self.api.llama_log_set, *self._setters):
                set_log(llama_log_callback, ctypes.c_void_p(0))
        self._drop_file()


def _declare_ggml(lib: Any) -> Any:
    """Declare the functions of ggml's registry, which llama_cpp does not."""
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    for name in ("reg", "dev"):
        getattr(lib, f"ggml_backend_{name}_count").restype = size
        get = getattr(lib, f"ggml_backend_{name}_get")
        get.restype, get.argtypes = handle, [size]
    for name in ("reg_name", "dev_name", "dev_description"):
        function = getattr(lib, f"ggml_backend_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [handle]
    lib.ggml_backend_dev_type.argtypes = [handle]
    lib.ggml_backend_dev_memory.argtypes = [handle, *[ctypes.POINTER(size)] * 2]
    lib.ggml_backend_dev_memory.restype = None
    return lib


def fix_load_error(error: str) -> str:
    """Return the fix for a library of llama.cpp that cannot be loaded, from the loader's words."""
    fixes = _SHARED_LIBRARIES.items()
    return next((fix for name, fix in fixes if name in error), f"reinstall it: {COMPILE}")


def select_model_gpus(gpus: Iterable[Device]) -> tuple[Device, ...]:
    """Select the GPUs that llama.cpp splits a model over: integrated ones only without others."""
    found = tuple(gpus)
    return tuple(gpu for gpu in found if not gpu.integrated) or found


def list_gpus(config: Config) -> tuple[Device, ...]:
    """Return the GPUs that models are put on; llama.cpp is loaded only if it was built for any."""
    if not built_for_gpu(library_folder(config.engines_dir)):
        return ()
    with closing(Library(config.log_dir, config.engines_dir)) as library:
        return library.gpus()


def library_folder(engines_dir: Path) -> Path | None:
    """Return the folder of the llama.cpp that is used, without loading it; None without one."""
    try:
        return (read_given() or Builds(engines_dir).choose()).folder
    except EngineFailed:
        return None


def built_for_gpu(folder: Path | None) -> bool:
    """Check by file names whether llama.cpp's libraries include a GPU backend.

    ``Library.gpus`` is exact, but loads all libraries: the app leaves that to its child process.
    """
    return bool(name_gpu_backends((), folder))


def name_gpu_backends(registered: Iterable[str], folder: Path | None) -> tuple[str, ...]:
    """Name the GPU backends of a build, by ggml's registry and its files; RPC comes last."""
    found = {_REGISTERED.get(name, name) for name in registered if name not in _CPU_BACKENDS}
    if folder is not None and folder.is_dir():
        files = {path.name for path in folder.iterdir()}
        found |= {
            name
            for part, name in _GPU_BACKENDS.items()
            if any(f"ggml-{part}" in file for file in files)
        }
    return tuple(sorted(found, key=lambda name: (name == REMOTE_BACKEND, name)))


def usable_cpus() -> int:
    """Count the logical CPUs this process may run on."""
    return len(cpu_affinity())


def default_threads(sysfs_dir: Path = Path("/sys")) -> int:
    """Return the most threads that ``threads: auto`` uses; more slow decoding down.

    That is the number of physical cores this process may run on, or the CPU quota of its control
    group if that is lower.
    """
    cores = count_cores(sysfs_dir, cpu_affinity())
    quota = read_cpu_quota(sysfs_dir)
    return max(1, cores if quota is None else min(cores, int(quota)))


def choose_threads(threads: int | None, sysfs_dir: Path = Path("/sys")) -> int:
    """Return the most threads under a setting: None is ``auto``, a number is limited by the CPUs.

    Threads that share a CPU wait for each other at every operation, whole time slices long.
    """
    return default_threads(sysfs_dir) if threads is None else max(1, min(threads, usable_cpus()))


def _address(callback: Any) -> int | None:
    return ctypes.cast(callback, ctypes.c_void_p).value


def _open_log(path: Path) -> TextIO | None:
    """Open the log file for appending; None if that fails, which must not stop an answer."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        large = path.exists() and path.stat().st_size > _LOG_BYTES
        return path.open("w" if large else "a", encoding="utf-8")
    except OSError:
        return None


def describe_llama_cpp(engines_dir: Path | None = None) -> str:
    """Describe the build of llama.cpp: version, commit, instruction sets, and which build it is."""
    build = Builds(engines_dir).select()
    from llama_cpp import llama_cpp as api

    system_info = api.llama_print_system_info().decode("utf-8", "replace").strip(" |")
    which = [] if build.kind == "compiled" else [build.name]
    return "; ".join([*_list_versions(api), system_info, *which])


def _list_versions(api: Any) -> list[str]:
    """List version and commit of ggml, as far as it says them."""
    parts = []
    for name in ("ggml_version", "ggml_commit"):
        try:
            function: Any = getattr(api._lib, name)
        except AttributeError:
            continue  # an older ggml does not have it
        function.restype = ctypes.c_char_p
        parts.append(f"{name} {function().decode('utf-8', 'replace')}")
    return parts
