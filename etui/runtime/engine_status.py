"""Which builds of llama.cpp are here, which one is used, and what a better one would take."""

from __future__ import annotations

from dataclasses import dataclass

from etui.config.config import Config
from etui.engine.builds import Build, Builds
from etui.errors import EngineFailed

GPU_BUILDS = {
    "NVIDIA": "etui engine build --cuda   # needs the CUDA toolkit: nvcc",
    "AMD": "etui engine build --hip   # needs ROCm: hipcc",
    "Intel": "etui engine build --vulkan   # needs the Vulkan SDK: glslc",
}
"""Vendor of a card -> the command that builds llama.cpp for it; the first one is preferred."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What `etui engine status` found."""

    used: str  # Name of the build that is loaded; empty if none can be
    builds: tuple[Build, ...]  # All builds, probed
    hints: tuple[str, ...]  # Lines that say how to get a faster one


def read_status(config: Config) -> EngineStatus:
    """List and probe every build, and say whether a better one is possible.

    Raises:
        EngineFailed: llama-cpp-python is missing.
    """
    builds = Builds(config.engines_dir)
    probed = [build if build.refused else builds.probe(build) for build in builds.list()]
    try:
        used = builds.choose().name
    except EngineFailed as error:
        return EngineStatus("", tuple(probed), (error.fix,))
    present = next(build for build in probed if build.name == used)
    return EngineStatus(used, tuple(probed), tuple(list_hints(present, config)))


def list_hints(build: Build, config: Config) -> list[str]:
    """List what would be faster than a build on this machine."""
    from etui.energy.sources.sysfs import graphics_cards

    hints: list[str] = []
    cards = {card.vendor for card in graphics_cards(config.sysfs_dir)}
    if not any(name in build.features for name in ("CUDA", "ROCm", "Vulkan")):
        hints.extend(
            f"the {vendor} card is not used: {command}"
            for vendor, command in GPU_BUILDS.items()
            if vendor in cards
        )
    unused = find_unused_instructions(build.features, _read_cpu_flags())
    if unused:
        names = ", ".join(unused)
        hints.append(f"{build.name} does not use this CPU's {names}: etui engine build")
    return hints


_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI",
                 "avx_vnni": "AVX_VNNI", "amx_int8": "AMX_INT8"}  # fmt: skip
"""Flag of the CPU -> the name in llama.cpp's own words."""


def find_unused_instructions(features: str, flags: set[str]) -> list[str]:
    """Return the instruction sets of the CPU that a build was not compiled for."""
    if not features:
        return []
    return [
        name
        for flag, name in _INSTRUCTIONS.items()
        if flag in flags and f"{name} = 1" not in features
    ]


def _read_cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((set(line.split()[2:]) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()
