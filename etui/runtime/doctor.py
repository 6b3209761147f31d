"""Diagnose what etui finds on this machine and what is missing, with the command that fixes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from etui.config.config import Config
from etui.energy.power_limits.limit import PowerLimit
from etui.energy.types import ChannelProbe
from etui.errors import EtuiError
from etui.runtime.remote_models import BackendReport, MeterReport, check_meters

_VISIBLE = {
    "CUDA": ("CUDA_VISIBLE_DEVICES",),
    "ROCm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "Vulkan": ("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
    "SYCL": ("ONEAPI_DEVICE_SELECTOR",),
}
"""Environment variables that hide devices from a backend."""

_NODES = {"ROCm": "kfd", "Vulkan": "dri/renderD*", "SYCL": "dri/renderD*"}
"""Device nodes below /dev through which a backend reaches a card on Linux."""

_VULKAN_DRIVERS = ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")

_SOFTWARE = ("lvp", "lavapipe", "llvmpipe", "swiftshader")
"""Parts of the names of Vulkan drivers that compute on the CPU."""

_SOFTWARE_NOTE = (
    "Mesa's software device is skipped; GGML_VK_VISIBLE_DEVICES=0 takes it, for tests only"
)


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What this machine offers to a backend that looks for a device."""

    hidden_by: str = ""
    """``NAME=value`` of an environment variable that selects devices; empty without."""
    vulkan_drivers: tuple[str, ...] = ()
    """Names of the installed Vulkan drivers (``radeon_icd.x86_64``)."""
    nodes: tuple[str, ...] = ()  # Device nodes of graphics cards that exist
    forbidden_nodes: tuple[str, ...] = ()  # Those that this user may not open


@dataclass(frozen=True, slots=True)
class Missing:
    """Why no device was found, and the command or step that fixes it."""

    why: str
    fix: str


def read_driver_facts(
    backend: str,
    environment: Mapping[str, str] | None = None,
    dev: Path = Path("/dev"),
    vulkan_folders: Sequence[Path] | None = None,
) -> DriverFacts:
    """Read what this machine offers to a backend; what cannot be read is left out.

    Args:
        backend: ``CUDA``, ``ROCm``, ``Vulkan``, ...
        environment: Environment variables; None takes those of this process.
        dev: Folder of the device nodes.
        vulkan_folders: Folders of Vulkan's driver manifests; None takes the usual ones.
    """
    variables = os.environ if environment is None else environment
    folders = [Path(f) for f in _VULKAN_DRIVERS] if vulkan_folders is None else vulkan_folders
    drivers = {file.stem for folder in folders for file in _glob(folder, "*.json")}
    nodes = _glob(dev, _NODES[backend]) if backend in _NODES else []
    return DriverFacts(
        next((f"{n}={variables[n]}" for n in _VISIBLE.get(backend, ()) if n in variables), ""),
        tuple(sorted(drivers)),
        tuple(str(node) for node in nodes),
        tuple(str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)),
    )


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def explain_missing_device(backend: str, cards: Sequence[str], facts: DriverFacts) -> Missing:
    """Explain why a backend that is compiled into llama.cpp has no device.

    Args:
        backend: ``CUDA``, ``ROCm``, ``Vulkan``, ...
        cards: Vendors of the graphics cards on the bus.
        facts: What this machine offers to the backend.

    Returns:
        The most likely reason of those that the facts allow, with its fix.
    """
    found = f"built with {backend}, but no {backend} device was found"
    if facts.hidden_by:
        name = facts.hidden_by.partition("=")[0]
        return Missing(f"{found}: {facts.hidden_by} selects none", f"unset {name}")
    if facts.forbidden_nodes:
        node = facts.forbidden_nodes[0]
        return Missing(
            f"{found}: this user may not open {node}",
            'sudo usermod -aG render,video "$USER"   # then log in again',
        )
    if backend == "Vulkan":
        return _explain_vulkan(found, cards, facts)
    if not cards:
        return Missing(
            f"{found}: no graphics card is on the bus",
            "in a container or virtual machine, pass the card through "
            f"({_container_option(backend)})",
        )
    if backend == "CUDA":
        return Missing(
            f"{found}: the NVIDIA driver is missing, not loaded, or older than the CUDA toolkit "
            "of the build",
            "install or update the driver until `nvidia-smi` lists the card; in a container, "
            f"{_container_option(backend)}",
        )
    if backend == "ROCm":
        return Missing(
            f"{found}: the amdgpu driver offers no /dev/kfd, or ROCm does not support the card",
            "install the amdgpu driver until `rocminfo` lists the card; in a container, "
            f"{_container_option(backend)}",
        )
    return Missing(found, f"install the {backend} driver of the {cards[0]} card")


def _explain_vulkan(found: str, cards: Sequence[str], facts: DriverFacts) -> Missing:
    hardware = [d for d in facts.vulkan_drivers if not any(part in d for part in _SOFTWARE)]
    software = len(hardware) < len(facts.vulkan_drivers)
    note = f" ({_SOFTWARE_NOTE})" if software else ""
    if not cards:
        return Missing(
            f"{found}: no graphics card is on the bus{note}",
            "in a container or virtual machine, pass the card through "
            f"({_container_option('Vulkan')})",
        )
    if not hardware:
        nvidia = "NVIDIA" in cards
        return Missing(
            f"{found}: no Vulkan driver for the {cards[0]} card is installed{note}",
            "install the NVIDIA driver with its Vulkan part (Debian: nvidia-vulkan-icd)"
            if nvidia
            else "sudo apt-get install mesa-vulkan-drivers",
        )
    if not facts.nodes:
        return Missing(
            f"{found}: /dev/dri has no render node of the {cards[0]} card{note}",
            "load the kernel driver of the card; in a container, pass it through "
            f"({_container_option('Vulkan')})",
        )
    return Missing(
        f"{found}: none of the installed Vulkan drivers knows the {cards[0]} card{note}",
        "`vulkaninfo --summary` must list the card: update its driver",
    )


def _container_option(backend: str) -> str:
    return "docker run --gpus all" if backend == "CUDA" else "docker run --device /dev/dri"


_BUILD_FLAGS = {"NVIDIA": "-DGGML_CUDA=on", "AMD": "-DGGML_HIP=on", "Intel": "-DGGML_VULKAN=on"}
_TOOLKITS = {
    "NVIDIA": "needs the CUDA toolkit: nvcc",
    "AMD": "needs ROCm: hipcc",
    "Intel": "needs the Vulkan SDK: glslc",
}


@dataclass(frozen=True, slots=True)
class Offload:
    """Whether llama.cpp can use a GPU, and how to enable it."""

    compiled_in: bool  # Whether this build of llama.cpp has a GPU backend, with or without a device
    devices: tuple[str, ...]  # GPUs that llama.cpp can use, with their memory, as text
    graphics_cards: tuple[str, ...]  # Vendors of the GPUs on the bus, whether or not they are used
    fix: str
    """The command that reinstalls llama.cpp with offload, or makes its backend find a device; empty
    when none is needed."""
    problem: str = ""  # Why llama.cpp cannot be loaded; empty if it can
    backends: tuple[str, ...] = ()  # GPU backends of this build (`CUDA`, `Vulkan`)
    why_not: str = ""  # Why a build with a GPU backend sees no device; empty if it sees one


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder or file that etui writes to, and whether it can."""

    name: str
    path: str
    usable: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model whose file is on disk; ``problem`` says why it cannot be used."""

    name: str
    path: str
    file_bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """The settings that a sweep chose for a model."""

    name: str
    used: bool  # Whether they are used, at least in part
    lines: tuple[str, ...]  # What is used, what it saves, and what to do, as text


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of ``etui doctor``; the document of ``etui doctor --json``."""

    versions: dict[str, str | None]
    offload: Offload
    channels: tuple[ChannelProbe, ...]
    unmeasured: tuple[str, ...]
    models: tuple[ModelOnDisk, ...]
    folders: tuple[Folder, ...]
    problems: tuple[str, ...]
    power_limits: tuple[PowerLimit, ...] = ()
    tuned: tuple[TunedModel, ...] = ()
    meters: tuple[MeterReport, ...] = ()
    backends: tuple[BackendReport, ...] = ()


def diagnose(config: Config) -> Diagnosis:
    """Check everything; a failed check becomes a problem, never an exception."""
    from etui.energy.discovery import find_sources
    from etui.runtime.provenance import provenance

    problems: list[str] = []
    found = find_sources(config)
    for source in found.sources:
        source.close()
    limits = _read_power_limits(config, problems)
    facts = provenance(config)
    names = ("etui", "llama_cpp_python", "python", "system")
    return Diagnosis(
        versions={name: facts[name] for name in names},
        offload=check_offload(config),
        channels=found.probes,
        unmeasured=found.unmeasured,
        models=_check_models(config, problems),
        folders=_check_folders(config),
        tuned=_check_tuned(config, problems),
        problems=tuple(problems + _check_policy(config) + _check_threads(config)),
        power_limits=limits,
        meters=check_meters(config),
        backends=_check_backends(config),
    )


def build_reinstall_command(vendors: Sequence[str], python: str = sys.executable) -> str:
    """Build the command that reinstalls llama-cpp-python for the first of these GPU vendors."""
    vendor = next((v for v in ("NVIDIA", "AMD", "Intel") if v in vendors), None)
    if vendor is None:
        return ""
    return (
        f'CMAKE_ARGS="{_BUILD_FLAGS[vendor]}" "{python}" -m pip install --force-reinstall '
        f"--no-cache-dir --no-deps llama-cpp-python   # {_TOOLKITS[vendor]}"
    )


def check_offload(config: Config) -> Offload:
    """Check which GPU backends llama.cpp was built with, and which devices they find."""
    from etui.energy.sources.sysfs import graphics_cards
    from etui.engine.library import Library
    from etui.units import bytes_text

    cards = tuple(card.vendor for card in graphics_cards(config.sysfs_dir))
    try:
        library = Library(config.log_dir)
    except EtuiError as error:
        return Offload(False, (), cards, error.fix, error.what)
    try:
        devices = tuple(
            f"{d.description}: {bytes_text(d.free_bytes)} of {bytes_text(d.total_bytes)} free"
            for d in library.gpus()
        )
        backends = library.gpu_backends()
        if devices or library.offloads:
            return Offload(True, devices, cards, "", backends=backends)
        if not backends:
            return Offload(False, (), cards, build_reinstall_command(cards))
        facts = read_driver_facts(backends[0])
        missing = explain_missing_device(backends[0], cards, facts)
        return Offload(True, (), cards, missing.fix, backends=backends, why_not=missing.why)
    finally:
        library.close()


def _read_power_limits(config: Config, problems: list[str]) -> tuple[PowerLimit, ...]:
    from etui.energy.power_limits.limits import open_power_limits

    with open_power_limits(config) as limits:
        problems.extend(limits.problems)
        return limits.read()


def _check_threads(config: Config) -> list[str]:
    from etui.engine.library import choose_threads

    used = choose_threads(config.threads, config.sysfs_dir)
    if config.threads is None or config.threads <= used:
        return []
    cpus = "1 CPU" if used == 1 else f"{used:,} CPUs"
    return [
        f"threads: {config.threads:,} in {config.config_file}, but etui may run on {cpus} only, "
        f"so it uses {used:,}\nset `threads: {used}` or `auto`"
    ]


def _check_models(config: Config, problems: list[str]) -> tuple[ModelOnDisk, ...]:
    from etui.models.catalogue import load_catalogue
    from etui.models.files import file_size, model_path
    from etui.models.gguf import check_usable

    try:
        catalogue = load_catalogue(config)
    except EtuiError as error:
        problems.append(str(error))
        return ()
    models = []
    for spec in catalogue:
        path = model_path(spec, config)
        size = file_size(path) if spec.backend is None else None
        if size is None:
            continue
        problem = ""
        try:
            check_usable(path)
        except EtuiError as error:
            problem = error.what
        models.append(ModelOnDisk(spec.name, str(path), size, problem))
    return tuple(models)


def _check_backends(config: Config) -> tuple[BackendReport, ...]:
    from etui.models.catalogue import Catalogue, load_catalogue
    from etui.runtime.remote_models import check_backends

    try:
        catalogue = load_catalogue(config)
    except EtuiError:
        catalogue = Catalogue({})  # reported with the models
    return check_backends(config, catalogue)


def _check_tuned(config: Config, problems: list[str]) -> tuple[TunedModel, ...]:
    from etui.models.catalogue import load_catalogue
    from etui.models.tuned import describe_use

    try:
        catalogue = load_catalogue(config)
    except EtuiError:
        return ()  # reported with the models
    if catalogue.problem:
        problems.append(catalogue.problem)
    return tuple(
        TunedModel(name, not use.why_not, describe_use(use))
        for name, use in catalogue.tuned.items()
    )


def _check_folders(config: Config) -> tuple[Folder, ...]:
    return (
        _check_folder("home", config.home, "ETUI_HOME"),
        _check_folder("models", config.models_dir, "ETUI_MODELS"),
        _check_log(config),
    )


def _check_folder(name: str, path: Path, variable: str) -> Folder:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return Folder(name, str(path), False, f"{nearest} is not a folder: set {variable}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Folder(name, str(path), False, f"{nearest} is not writable: set {variable}")
    return Folder(name, str(path), True, "" if path.exists() else "will be created when needed")


def _check_log(config: Config) -> Folder:
    from etui.log.database import open_for_reading

    if not config.database.exists():
        return Folder("log", str(config.database), True, "will be created when needed")
    try:
        connection = open_for_reading(config)
        if connection is not None:
            connection.close()
    except EtuiError as error:
        return Folder("log", str(config.database), False, error.what)
    return Folder("log", str(config.database), True)


def _check_policy(config: Config) -> list[str]:
    from etui.learning.predictor import load_accuracy
    from etui.models.catalogue import load_catalogue
    from etui.routing.library import load_policy
    from etui.runtime.fit_health import build_notice, read_health

    try:
        policy = load_policy(config.policy, config, load_catalogue(config).models)
        heads = load_accuracy(policy, config)
        if heads is None:
            return []
        health = read_health(config, policy, heads.model)
    except EtuiError as error:
        return [error.what]
    notice = build_notice(health, policy.name)
    return [notice] if notice else []
