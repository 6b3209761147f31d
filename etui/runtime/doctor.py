"""Diagnose what etui finds on this machine and what is missing, with the command that fixes it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import Config
from etui.energy.power_limits.limit import PowerLimit
from etui.energy.types import ChannelProbe
from etui.energy.wall_model import describe_wall_drift
from etui.engine.library import REMOTE_BACKEND
from etui.errors import EtuiError
from etui.runtime.engine_build import GPU_BUILDS
from etui.runtime.remote_models import BackendReport, MeterReport, check_backends, check_meters

if TYPE_CHECKING:
    from etui.models.catalogue import Catalogue

_VERSIONS = ("etui", "llama_cpp_python", "python", "system")
_LATER = "will be created when needed"

_VISIBLE = {
    "CUDA": ("CUDA_VISIBLE_DEVICES",),
    "ROCm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "Vulkan": ("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"),
    "SYCL": ("ONEAPI_DEVICE_SELECTOR",),
}
"""Environment variables that hide devices from a backend."""

_NODES = {"ROCm": "kfd", "Vulkan": "dri/renderD*", "SYCL": "dri/renderD*"}
"""Device nodes below /dev through which a backend reaches a card on Linux."""

_VULKAN_DRIVERS = tuple(
    Path(folder, "vulkan/icd.d") for folder in ("/etc", "/usr/share", "/usr/local/share")
)

_SOFTWARE = ("lvp", "lavapipe", "llvmpipe", "swiftshader")
"""Parts of the names of Vulkan drivers that compute on the CPU."""

_SOFTWARE_NOTE = (
    "Mesa's software device is skipped; GGML_VK_VISIBLE_DEVICES=0 takes it, for tests only"
)


_THROUGH = (
    "{found}: no graphics card is on the bus{note}",
    "in a container or virtual machine, pass the card through ({container})",
)

_WITHOUT_DRIVER = {
    "CUDA": (
        "{found}: the NVIDIA driver is missing, not loaded, or older than the CUDA toolkit of the "
        "build",
        "install or update the driver until `nvidia-smi` lists the card; in a container, "
        "{container}",
    ),
    "ROCm": (
        "{found}: the amdgpu driver offers no /dev/kfd, or ROCm does not support the card",
        "install the amdgpu driver until `rocminfo` lists the card; in a container, {container}",
    ),
}
"""What a backend lacks where there is a card, with its fix."""


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What this machine offers to a backend that looks for a device."""

    hidden_by: str = ""
    """``NAME=value`` of an environment variable that selects devices; empty without."""
    vulkan_drivers: tuple[str, ...] = ()
    """Names of the installed Vulkan drivers (``radeon_icd.x86_64``)."""
    nodes: tuple[str, ...] = ()  # Device nodes of graphics cards that exist
    forbidden_nodes: tuple[str, ...] = ()  # Those that this user may not open


def read_driver_facts(
    backend: str,
    environment: Mapping[str, str] = os.environ,
    dev: Path = Path("/dev"),
    vulkan_folders: Sequence[Path] = _VULKAN_DRIVERS,
) -> DriverFacts:
    """Read what this machine offers to a backend (``CUDA``, ``Vulkan``), as far as possible."""
    drivers = {file.stem for folder in vulkan_folders for file in _glob(folder, "*.json")}
    nodes = _glob(dev, _NODES[backend]) if backend in _NODES else []
    hiding = [name for name in _VISIBLE.get(backend, ()) if name in environment]
    return DriverFacts(
        f"{hiding[0]}={environment[hiding[0]]}" if hiding else "",
        tuple(sorted(drivers)),
        tuple(str(node) for node in nodes),
        tuple(str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)),
    )


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def explain_missing_device(
    backend: str, cards: Sequence[str], facts: DriverFacts
) -> tuple[str, str]:
    """Explain why a backend that is compiled into llama.cpp has no device, and how to fix it.

    It is the most likely reason of those that the facts allow; ``cards`` are the vendors of the
    graphics cards on the bus.
    """
    if backend == REMOTE_BACKEND:
        why = f"built with {backend} alone, which uses devices of other machines and has none here"
        return why, next((line for vendor, line in GPU_BUILDS.items() if vendor in cards), "")
    hardware = [d for d in facts.vulkan_drivers if not any(part in d for part in _SOFTWARE)]
    software = backend == "Vulkan" and len(hardware) < len(facts.vulkan_drivers)
    if facts.hidden_by:
        name = facts.hidden_by.partition("=")[0]
        why, fix = "{found}: " + facts.hidden_by + " selects none", f"unset {name}"
    elif facts.forbidden_nodes:
        why = "{found}: this user may not open " + facts.forbidden_nodes[0]
        fix = 'sudo usermod -aG render,video "$USER"   # then log in again'
    elif not cards:
        why, fix = _THROUGH
    elif backend != "Vulkan":
        why, fix = "{found}", f"install the {backend} driver of the {cards[0]} card"
        why, fix = _WITHOUT_DRIVER.get(backend, (why, fix))
    elif not hardware:
        why = "{found}: no Vulkan driver for the {card} card is installed{note}"
        fix = "sudo apt-get install mesa-vulkan-drivers"
        if "NVIDIA" in cards:
            fix = "install the NVIDIA driver with its Vulkan part (Debian: nvidia-vulkan-icd)"
    elif not facts.nodes:
        why = "{found}: /dev/dri has no render node of the {card} card{note}"
        fix = "load the kernel driver of the card; in a container, pass it through ({container})"
    else:
        why = "{found}: none of the installed Vulkan drivers knows the {card} card{note}"
        fix = "`vulkaninfo --summary` must list the card: update its driver"
    parts = {
        "found": f"built with {backend}, but no {backend} device was found",
        "card": cards[0] if cards else "",
        "note": f" ({_SOFTWARE_NOTE})" if software else "",
        "container": f"docker run {'--gpus all' if backend == 'CUDA' else '--device /dev/dri'}",
    }
    for name, text in parts.items():
        why, fix = why.replace(f"{{{name}}}", text), fix.replace(f"{{{name}}}", text)
    return why, fix


@dataclass(frozen=True, slots=True)
class Offload:
    """Whether llama.cpp can use a GPU, and how to enable it."""

    compiled_in: bool  # Whether this build of llama.cpp has a GPU backend, with or without a device
    devices: tuple[str, ...]  # GPUs that llama.cpp can use, with their memory, as text
    graphics_cards: tuple[str, ...]  # Vendors of the GPUs on the bus, whether or not they are used
    fix: str
    """The command that builds llama.cpp with offload, or makes its backend find a device; empty
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
    from etui.energy.sources.wall import check_wall_meters
    from etui.models.catalogue import Catalogue, load_catalogue
    from etui.models.tuned import describe_use
    from etui.runtime.provenance import provenance

    problems = list(filter(None, [describe_wall_drift(config)]))
    found = find_sources(config)
    for source in found.sources:
        source.close()
    limits = _read_power_limits(config, problems)
    try:
        catalogue = load_catalogue(config)
    except EtuiError as error:
        problems.append(str(error))
        catalogue = Catalogue({})
    if catalogue.problem:
        problems.append(catalogue.problem)
    facts = provenance(config)
    return Diagnosis(
        versions={name: facts[name] for name in _VERSIONS},
        offload=check_offload(config),
        channels=(*found.probes, *check_wall_meters(config.wall_meters)),
        unmeasured=found.unmeasured,
        models=tuple(_check_models(config, catalogue)),
        folders=(
            _check_folder("home", config.home, "ETUI_HOME"),
            _check_folder("models", config.models_dir, "ETUI_MODELS"),
            _check_log(config),
        ),
        tuned=tuple(
            TunedModel(name, not use.why_not, describe_use(use))
            for name, use in catalogue.tuned.items()
        ),
        problems=(*problems, *_check_policy(config), *_check_threads(config)),
        power_limits=limits,
        meters=check_meters(config),
        backends=check_backends(config, catalogue),
    )


def check_offload(config: Config) -> Offload:
    """Check which GPU backends llama.cpp was built with, and which devices they find."""
    from etui.energy.sources.sysfs import graphics_cards
    from etui.engine.library import Library
    from etui.units import bytes_text

    cards = tuple(card.vendor for card in graphics_cards(config.sysfs_dir))
    try:
        library = Library(config.log_dir, config.engines_dir)
    except EtuiError as error:
        return Offload(False, (), cards, error.fix, error.what)
    try:
        devices = tuple(
            f"{d.description or d.name}: {bytes_text(d.free_bytes)} of "
            f"{bytes_text(d.total_bytes)} free"
            for d in library.gpus()
        )
        backends = library.gpu_backends()
        if devices:
            return Offload(True, devices, cards, "", backends=backends)
        if not backends:
            fix = next((line for vendor, line in GPU_BUILDS.items() if vendor in cards), "")
            return Offload(False, (), cards, fix)
        facts = read_driver_facts(backends[0])
        why, fix = explain_missing_device(backends[0], cards, facts)
        return Offload(True, (), cards, fix, backends=backends, why_not=why)
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


def _check_models(config: Config, catalogue: Catalogue) -> Iterator[ModelOnDisk]:
    from etui.models.files import file_size, model_path
    from etui.models.gguf import check_usable

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
        yield ModelOnDisk(spec.name, str(path), size, problem)


def _check_folder(name: str, path: Path, variable: str) -> Folder:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    why_not = "" if path.exists() else _LATER
    usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    if not usable:
        fault = "is not writable" if nearest.is_dir() else "is not a folder"
        why_not = f"{nearest} {fault}: set {variable}"
    return Folder(name, str(path), usable, why_not)


def _check_log(config: Config) -> Folder:
    from etui.log.database import open_for_reading

    usable, why_not = True, "" if config.database.exists() else _LATER
    try:
        connection = None if why_not else open_for_reading(config)
        if connection is not None:
            connection.close()
    except EtuiError as error:
        usable, why_not = False, error.what
    return Folder("log", str(config.database), usable, why_not)


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
