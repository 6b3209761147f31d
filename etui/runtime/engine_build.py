"""Build llama.cpp for this machine in a folder of its own, go back, and say which build is used.

pip compiles the libraries into a folder below ``engines`` in ``ETUI_HOME``. The installed packages
are not touched, so the llama.cpp in use stays until the new one has answered, and ``revert`` is a
change of one word.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from etui.config.config import Config, make_home
from etui.engine.builds import BINDINGS, Build, Builds
from etui.errors import EngineFailed, EtuiError, writing
from etui.models.wheels import find_pip

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
    """List and probe every build, and say whether a better one is possible."""
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


Report = Callable[[str, float | None], None]
"""Called with what is done now, and the share of it that is done, if known."""

_STEP = re.compile(r"\[\s*(\d+)/(\d+)\]")
_ERROR = re.compile(r"\berror: (?!subprocess)|CMake Error|fatal error|Could not find a version")
_ROOM = "free space, or set ETUI_HOME"
_MOST_ERRORS, _MOST_CHARACTERS = 2, 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """How llama.cpp is compiled for one kind of device."""

    name: str
    flags: str  # CMAKE_ARGS
    needs: Mapping[str, tuple[str, str]]
    """Programs, of which one of ``a|b`` suffices -> what they are, and how to get them."""

    def find_missing(
        self, which: Callable[[str], str | None] = shutil.which
    ) -> list[tuple[str, str]]:
        """Return what has to be installed before this can be built, each with how to get it."""
        return [
            need
            for programs, need in self.needs.items()
            if not any(which(program) for program in programs.split("|"))
        ]


_COMPILER = {
    "c++|g++|clang++|cl": (
        "a C++ compiler",
        "sudo apt-get install g++   # macOS: xcode-select --install",
    )
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("native", "-DGGML_NATIVE=on", _COMPILER),
        Recipe("cuda", "-DGGML_CUDA=on", _COMPILER | {"nvcc": ("nvcc", "install CUDA's toolkit")}),
        Recipe("hip", "-DGGML_HIP=on", _COMPILER | {"hipcc": ("hipcc", "install ROCm")}),
        Recipe(
            "vulkan",
            "-DGGML_VULKAN=on",
            _COMPILER
            | {"glslc": ("glslc", "sudo apt-get install libvulkan-dev glslc spirv-headers")},
        ),
        Recipe("metal", "-DGGML_METAL=on", _COMPILER),
    )
}
"""Name -> recipe; `native` uses every instruction of this CPU and no GPU."""


def describe_call(recipe: Recipe, target: Path) -> tuple[dict[str, str], list[str]]:
    """Return the environment variables and the command that compile llama.cpp into a folder.

    pip is used where the environment has it, else uv, whose environments have no pip.
    """
    version = metadata.version(BINDINGS)
    rest = ["--no-deps", "--no-binary", BINDINGS, "--target", str(target), f"{BINDINGS}=={version}"]
    uv = shutil.which("uv") if find_spec("pip") is None else None
    if uv is not None:
        command = [uv, "pip", "install", "-v", "--no-cache", "--python", sys.executable, *rest]
    else:
        command = [*find_pip(), "install", "-v", "--no-cache-dir", *rest]
    return {"CMAKE_ARGS": recipe.flags}, command


@contextmanager
def build(recipe: Recipe, config: Config, report: Report) -> Iterator[Build]:
    """Compile llama.cpp and load it once; keep it if the body of the ``with`` raises nothing.

    An older build of the same name is there and usable until then, and the new one is not chosen
    yet. What pip prints is in ``engine-build.log`` in the log folder.

    Raises:
        EtuiError: A tool is missing, the folder cannot be written, or the compilation failed.
        EngineFailed: The result cannot be loaded on this machine.
    """
    missing = recipe.find_missing()
    if missing:
        names, fixes = zip(*missing, strict=True)
        raise EtuiError(f"{recipe.name} cannot be built without {' and '.join(names)}", fixes[0])
    make_home(config)
    engines = config.engines_dir
    new = engines / f".{recipe.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        with writing(engines, _ROOM):
            new.mkdir(parents=True)
            variables, command = describe_call(recipe, new / "packages")
            _compile(command, variables, config.log_dir / "engine-build.log", report)
            report("loading it once", None)
            made = _probe(recipe.name, new, engines)
        yield made
        facts = {"bindings": metadata.version(BINDINGS), "features": made.features}
        with writing(engines, _ROOM):
            (new / "build.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            _replace(engines / recipe.name, new, engines / f".{recipe.name}.old")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _probe(name: str, new: Path, engines: Path) -> Build:
    """Load new libraries once, and remove all that pip installed with them."""
    libraries = new / "packages" / "llama_cpp" / "lib"
    if not libraries.is_dir():
        raise EngineFailed("the compilation left no libraries", "see engine-build.log")
    probed = Builds(engines).probe(Build("built", name, libraries))
    if probed.refused:
        raise EngineFailed(f"the new llama.cpp is not used: {probed.refused}", probed.fix)
    libraries.rename(new / "lib")
    shutil.rmtree(new / "packages")
    return replace(probed, folder=new / "lib")


def _replace(target: Path, new: Path, old: Path) -> None:
    """Move a folder to the place of another, which returns there if that fails."""
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _compile(
    command: Sequence[str], variables: Mapping[str, str], log: Path, report: Report
) -> None:
    report("downloading", None)
    process = subprocess.Popen(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    errors: list[str] = []
    last = ""
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                last = line.strip() or last
                if _ERROR.search(line) and len(errors) < _MOST_ERRORS:
                    errors.append(line.strip())
                if step := _STEP.search(line):
                    report("compiling", int(step[1]) / int(step[2]))
        code = process.wait()
    finally:
        _end(process)
    if code:
        why = " | ".join(errors) or last
        raise EtuiError(f"llama.cpp cannot be compiled: {why[:_MOST_CHARACTERS]}", f"see {log}")


def _end(process: subprocess.Popen[str]) -> None:
    """End pip with the compilers that it started, after Ctrl-C too."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            import signal

            # It may have ended meanwhile, which macOS reports as a missing permission.
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
