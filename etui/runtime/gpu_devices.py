"""Explain why a build of llama.cpp with a GPU backend finds no device, and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
