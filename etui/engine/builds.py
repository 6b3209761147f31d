"""Which llama.cpp is loaded: the compiled one, a ready-made one, or one that ``etui engine`` built.

llama-cpp-python is two things: bindings in Python, and the libraries of llama.cpp. Compiling the
libraries takes minutes and a C++ compiler, so ``etui[prebuilt]`` takes them ready-made from the
package llama-cpp-py-sync. The bindings load any library without complaint and pass it structs
whose fields may have moved. So a ready-made library is loaded only if ``prebuilt.json`` allows the
pair, which was compared function by function and struct by struct, and if every file has the
SHA-256 listed there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from etui import atomic
from etui.errors import EngineFailed

Kind = Literal["compiled", "prebuilt", "built"]

COMPILE = "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
"""The command that compiles llama.cpp at its install; it needs a C++ compiler."""

BINDINGS = "llama-cpp-python"

_PREBUILT, _PACKAGE = "llama-cpp-py-sync", "llama_cpp_py_sync"
_PROBE_TIMEOUT_S = 30.0
_WINDOWS_ILLEGAL_INSTRUCTION = 0xC000001D
_TABLE = Path(__file__).with_name("prebuilt.json")

_PROBE = """\
import ctypes, json
from llama_cpp import llama_cpp as api
api.llama_backend_init()
lib, numbers, halves = api._lib, (ctypes.c_float * 64)(), (ctypes.c_uint16 * 64)()
if hasattr(lib, "ggml_cpu_fp32_to_fp16"):
    lib.ggml_cpu_init()
    lib.ggml_cpu_fp32_to_fp16(numbers, halves, ctypes.c_int64(64))
commit = getattr(lib, "ggml_commit", None)
if commit is not None:
    commit.restype = ctypes.c_char_p
print(json.dumps({
    "features": api.llama_print_system_info().decode("utf-8", "replace").strip(" |"),
    "commit": "" if commit is None else commit().decode("utf-8", "replace"),
}))
"""
"""Loads the libraries, and computes once with the instructions that they were compiled for."""


@dataclass(frozen=True, slots=True)
class Build:
    """One set of llama.cpp's libraries on this machine."""

    kind: Kind
    name: str  # What `etui engine` calls it
    folder: Path  # Folder of the libraries
    commit: str = ""  # Commit of llama.cpp; empty if unknown
    features: str = ""  # Instruction sets and backends by llama.cpp's own words, if it was probed
    refused: str = ""  # Why it is not loaded; empty if it may be
    fix: str = ""  # The command that gets one which may

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which the bindings, and processes of etui, take it."""
        folder = str(self.folder)
        return {"LLAMA_CPP_LIB_PATH": folder, "MTMD_CPP_LIB": folder, "ETUI_ENGINE": self.name}


def read_given() -> Build | None:
    """Return the build that the environment names, if it names one."""
    folder, name = os.environ.get("LLAMA_CPP_LIB_PATH"), os.environ.get("ETUI_ENGINE", "")
    if not folder:
        return None
    kinds: dict[str, Kind] = {"": "compiled", "compiled": "compiled", "prebuilt": "prebuilt"}
    return Build(kinds.get(name, "built"), name or "LLAMA_CPP_LIB_PATH", Path(folder))


@dataclass(frozen=True, slots=True)
class Pair:
    """Bindings and ready-made libraries that were compared, one entry of ``prebuilt.json``."""

    bindings: str  # Version of llama-cpp-python
    libraries: str  # Version of llama-cpp-py-sync
    commit: str  # Commit of llama.cpp
    files: Mapping[str, Mapping[str, str]]  # Platform -> file -> SHA-256

    @property
    def install(self) -> str:
        """The command that installs the pair."""
        return f"pip install {BINDINGS}=={self.bindings} {_PREBUILT}=={self.libraries}"

    @property
    def reinstall(self) -> str:
        """The command that replaces damaged libraries."""
        return (
            f"pip install --force-reinstall --no-cache-dir --no-deps {_PREBUILT}=={self.libraries}"
        )


def read_pairs(path: Path = _TABLE) -> tuple[Pair, ...]:
    """Read the pairs that may be loaded, the preferred one first."""
    return tuple(Pair(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))


def name_platform() -> str:
    """Name this operating system and processor as ``prebuilt.json`` does: ``linux-x86_64``."""
    processor = platform.machine().lower()
    names = {"amd64": "x86_64", "aarch64": "arm64"}
    system = "linux" if sys.platform.startswith("linux") else sys.platform
    return f"{system}-{names.get(processor, processor)}"


class Builds:
    """The builds of llama.cpp on this machine, and the choice among them.

    Args:
        engines_dir: Folder of the builds of ``etui engine build``, of the choice, and of what
            probing a build found; None knows the installed packages alone.
    """

    def __init__(self, engines_dir: Path | None) -> None:
        self._dir = engines_dir

    def select(self) -> Build:
        """Choose the build to load and set it for the bindings, before ``llama_cpp`` is imported.

        A folder that the user or the parent process set in ``LLAMA_CPP_LIB_PATH`` is kept.

        Raises:
            EngineFailed: llama-cpp-python is missing, or no build may be loaded.
        """
        if given := read_given():
            return given
        build = self.choose()
        if build.kind != "compiled":
            os.environ.update(build.variables)
        return build

    def choose(self) -> Build:
        """Choose the build to load, without loading it; a ready-made one is probed first.

        The order is: the chosen one, the compiled one, the ready-made one. EngineFailed if none may
        be loaded; the error says why, and how to get one.
        """
        found = [
            build for build in self.list() if build.kind != "built" or build.name == self.chosen
        ]
        found.sort(key=lambda build: build.name != self.chosen)
        refused = []
        for build in found:
            checked = self.probe(build) if not build.refused and build.kind != "compiled" else build
            if not checked.refused:
                return checked
            refused.append(checked)
        if not refused:
            raise EngineFailed(
                f"{BINDINGS} is installed without llama.cpp's libraries",
                f"{read_pairs()[0].install}   # or compile them: {COMPILE}",
            )
        reasons = "; ".join(f"{build.name}: {build.refused}" for build in refused)
        raise EngineFailed(f"no llama.cpp can be loaded: {reasons}", refused[0].fix)

    def list(self) -> list[Build]:
        """List the builds by preference, checked but not probed; EngineFailed without bindings."""
        return [*self._find_compiled(), *self._find_prebuilt(), *self._find_built()]

    @property
    def chosen(self) -> str:
        """The name of the build that ``etui engine`` chose; empty if it chose none."""
        return str(self._read("choice.json").get("name", ""))

    def choose_for_now_on(self, name: str) -> None:
        """Choose a build for later starts, or leave it to the order; it may raise OSError."""
        self._write("choice.json", {"name": name})

    def _find_compiled(self) -> Iterator[Build]:
        folder = bindings_folder() / "lib"
        if any(folder.glob("*llama.*")):
            yield Build("compiled", "compiled", folder)

    def _find_prebuilt(self) -> Iterator[Build]:
        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            return
        folder = Path(next(iter(spec.submodule_search_locations)))
        yield check_prebuilt(folder, metadata.version(BINDINGS), name_platform())

    def _find_built(self) -> Iterator[Build]:
        if self._dir is None or not self._dir.is_dir():
            return
        version = metadata.version(BINDINGS)
        for file in sorted(self._dir.glob("*/build.json")):
            facts = self._read(f"{file.parent.name}/build.json")
            build = Build("built", file.parent.name, file.parent / "lib", facts.get("commit", ""))
            if facts.get("bindings") != version:
                why = f"built for {BINDINGS} {facts.get('bindings')}, but {version} is installed"
                build = replace(build, refused=why, fix="etui engine build")
            yield build

    def probe(self, build: Build) -> Build:
        """Load a build in a process of its own and compute with it once; the result is kept.

        Returns the build with its features, or with why it cannot be used here.
        """
        key = hashlib.sha256(
            json.dumps([str(build.folder), *_stamps(build.folder), _describe_machine()]).encode()
        ).hexdigest()
        known = self._read("probed.json")
        if key not in known:
            known = {key: _load_elsewhere(build.folder)} | known
            with suppress(OSError):
                self._write("probed.json", dict(list(known.items())[:20]))
        facts = known[key]
        if not facts.get("problem"):
            commit = build.commit or facts.get("commit", "")
            return replace(build, features=facts.get("features", ""), commit=commit)
        refused, fix = explain_probe(facts["problem"])
        return replace(build, refused=refused, fix=fix)

    def _read(self, name: str) -> dict[str, Any]:
        if self._dir is None:
            return {}
        try:
            found = json.loads((self._dir / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, document: Mapping[str, object]) -> None:
        if self._dir is not None:
            self._dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the user's home
            self._dir.mkdir(exist_ok=True)
            atomic.write_text(self._dir / name, json.dumps(document, indent=1) + "\n")


@cache
def describe_engine(engines_dir: Path) -> str | None:
    """Describe the engine that this process uses, as version of the bindings and name of the build.

    ``0.3.36`` for the compiled one, ``0.3.36 (prebuilt)`` for another; None without bindings.
    """
    try:
        version = metadata.version(BINDINGS)
    except metadata.PackageNotFoundError:
        return None
    try:
        build = read_given() or Builds(engines_dir).choose()
    except EngineFailed:
        return version
    return version if build.kind == "compiled" else f"{version} ({build.name})"


def bindings_folder() -> Path:
    """Return the folder of llama-cpp-python without importing it; EngineFailed without one."""
    spec = find_spec("llama_cpp")
    if spec is None or not spec.origin:
        raise EngineFailed(f"{BINDINGS} is not installed", read_pairs()[0].install)
    return Path(spec.origin).parent


def check_prebuilt(
    folder: Path, bindings: str, platform_name: str, pairs: Sequence[Pair] = ()
) -> Build:
    """Check by version, platform and SHA-256 whether ready-made libraries may be loaded.

    Without ``pairs`` those that etui ships are allowed.
    """
    allowed = tuple(pairs) or read_pairs()
    build = Build("prebuilt", "prebuilt", folder)

    def refuse(why: str, fix: str) -> Build:
        return replace(build, refused=why, fix=fix)

    try:
        manifest = json.loads((folder / "native_manifest.json").read_text(encoding="utf-8"))
        commit = str(manifest["llama_cpp_commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return refuse("its manifest is missing or damaged", allowed[0].reinstall)
    build = replace(build, commit=commit)
    pair = next((one for one in allowed if (one.bindings, one.commit) == (bindings, commit)), None)
    if pair is None:
        why = f"llama.cpp {commit[:9]} was not checked with {BINDINGS} {bindings}"
        return refuse(why, allowed[0].install)
    files = pair.files.get(platform_name)
    if files is None:
        return refuse(f"there is no checked one for {platform_name}", COMPILE)
    for name, sha256 in files.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            return refuse(f"{name} is missing", pair.reinstall)
        if found != sha256:
            why = f"{name} is not the published file (SHA-256 {found[:12]}…)"
            return refuse(why, pair.reinstall)
    return build


def explain_probe(problem: str) -> tuple[str, str]:
    """Explain why a build that was loaded for a trial failed, and how to get one that works.

    Args:
        problem: The last line of the trial's errors, or ``signal N``, or ``no answer``.
    """
    if needed := re.search(r"version [`'](GLIBC(?:XX)?)_([0-9.]+)' not found", problem):
        library = "glibc" if needed[1] == "GLIBC" else "libstdc++"
        here = " ".join(platform.libc_ver()).strip() if library == "glibc" else ""
        return f"it needs {library} {needed[2]}{f', this is {here}' if here else ''}", COMPILE
    if "libgomp" in problem:
        return "it needs OpenMP: libgomp.so.1 is missing", "sudo apt-get install libgomp1"
    if problem == "signal 4":
        return "this CPU lacks an instruction that it was compiled for (AVX2, FMA, F16C)", COMPILE
    if problem.startswith("signal"):
        return f"it crashed while loading ({problem})", COMPILE
    return f"it cannot be loaded: {problem}", COMPILE


def _load_elsewhere(folder: Path) -> dict[str, str]:
    """Load libraries in a process of their own; return features and commit, or the problem."""
    environment = os.environ | {"LLAMA_CPP_LIB_PATH": str(folder), "MTMD_CPP_LIB": str(folder)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return {"problem": "no answer"}
    except OSError as error:
        return {"problem": str(error)}
    if done.returncode == 0:
        facts: dict[str, str] = json.loads(done.stdout)
        return facts
    if done.returncode < 0:
        return {"problem": f"signal {-done.returncode}"}
    if done.returncode & 0xFFFFFFFF == _WINDOWS_ILLEGAL_INSTRUCTION:
        return {"problem": "signal 4"}
    return {"problem": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of each library, by which a changed one is noticed."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix != ".py")
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _describe_machine() -> list[str]:
    """Describe what decides whether a library loads: CPU, C library, Python."""
    cpu = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return [platform.machine(), cpu, *platform.libc_ver(), sys.version]
