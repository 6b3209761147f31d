"""Find models that other programs have on this machine; nothing of theirs is ever written.

Read are the stores of Ollama (manifests that name blobs by their sha256), LM Studio, llama.cpp and
the Hugging Face hub.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from etui.errors import ModelUnavailable
from etui.models.files import file_size
from etui.models.gguf import SAMPLING_KEYS, Gguf, check_usable, is_sampling_value, list_part_paths
from etui.models.spec import ModelSampling
from etui.text import one_line

Program = Literal["ollama", "lmstudio", "llama.cpp", "hub"]
TITLES: Mapping[Program, str] = {
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "llama.cpp": "llama.cpp",
    "hub": "hub cache",
}
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_PARAMS = "application/vnd.ollama.image.params"
_OLLAMA_REGISTRY = "registry.ollama.ai"
_OLLAMA_ENGINE = ("gptoss", "mllama", "qwen25vl")
"""Architectures that only Ollama's own engine knows by these names."""
_OLLAMA_SAMPLING = {name: name for name in SAMPLING_KEYS}
_MOST_JSON_BYTES = 1 << 20
_MOST_FILES = 10_000  # Of one store: a link in it may lead to a whole disk
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file of another program."""

    name: str  # What `etui models pull` takes: `ollama:llama3.2:3b`
    program: Program
    path: Path
    size_bytes: int | None  # Of all its files; None if it is missing
    sha256: str | None = None  # As the program's own store names it; None if it does not
    quantisation: str = ""
    parameters: int | None = None
    architecture: str = ""
    sampling: ModelSampling | None = None  # As the program samples it; None if it does not say
    problem: str = ""  # Why it cannot be used; empty if it can


@dataclass(frozen=True, slots=True)
class Stores:
    """The folders in which other programs keep models, as their settings and defaults say."""

    folders: tuple[tuple[Program, Path], ...]

    @classmethod
    def of(cls, environ: Mapping[str, str], home: Path) -> Stores:
        """List the folders, whether they exist or not."""

        def chosen(*names: str) -> list[Path]:
            return [Path(environ[name]).expanduser() for name in names if environ.get(name)]

        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        if sys.platform == "darwin":
            llama = home / "Library" / "Caches" / "llama.cpp"
        elif sys.platform == "win32":
            llama = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "llama.cpp"
        else:
            llama = cache / "llama.cpp"
        hub_home = Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()
        ollama = [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
        studio = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
        found: list[tuple[Program, Path]] = [
            *(("ollama", folder) for folder in chosen("OLLAMA_MODELS") or ollama),
            *(("lmstudio", folder) for folder in [*studio, *_studio_folder(home)]),
            *(("llama.cpp", folder) for folder in chosen("LLAMA_CACHE") or [llama]),
            *(("hub", folder) for folder in chosen("HF_HUB_CACHE") or [hub_home / "hub"]),
        ]
        return cls(tuple(dict.fromkeys(found)))

    def find(self, read: Callable[[Path], Gguf] = check_usable) -> tuple[FoundModel, ...]:
        """Find all models by program and name; ``read`` reads a header, perhaps from a cache."""
        found: list[FoundModel] = []
        for program, folder in self.folders:
            if folder.is_dir():
                models = sorted(_FINDERS[program](folder), key=lambda model: model.name)
                found += (model if model.problem else _add_facts(model, read) for model in models)
        return tuple({model.name: model for model in reversed(found)}.values())[::-1]

    def get(self, name: str) -> FoundModel | None:
        """Find a model by its name; None without one."""
        return next((model for model in self.find() if model.name == name), None)


def is_found_name(text: str) -> bool:
    """Return whether a text has the form of a found model's name: ``PROGRAM:NAME``."""
    program, colon, name = text.partition(":")
    return bool(colon and name) and program in TITLES


def _studio_folder(home: Path) -> list[Path]:
    settings = _read_json(home / ".lmstudio" / "settings.json")
    folder = settings.get("downloadsFolder")
    return [Path(folder)] if isinstance(folder, str) and folder else []


def _find_ollama(folder: Path) -> Iterator[FoundModel]:
    manifests = folder / "manifests"
    for manifest in _walk(manifests):
        parts = manifest.relative_to(manifests).parts
        if len(parts) < 3:
            continue
        host, *owner, model, tag = parts
        shown = "/".join([*([] if host == _OLLAMA_REGISTRY else [host]),
                          *([] if owner == ["library"] else owner), model])  # fmt: skip
        name = one_line(f"ollama:{shown}:{tag}")
        layers = [layer for layer in _list(_read_json(manifest).get("layers"))
                  if isinstance(layer, dict)]  # fmt: skip
        blobs = {layer.get("mediaType"): _blob(folder, layer) for layer in reversed(layers)}
        path = blobs.get(_OLLAMA_MODEL)
        if path is None:
            if layers:
                problem = "is not stored as a GGUF file, so only Ollama can run it"
                yield FoundModel(name, "ollama", manifest, None, problem=problem)
            continue
        params = blobs.get(_OLLAMA_PARAMS)
        digest = _DIGEST.search(path.name)
        sampling = None if params is None else read_sampling(_read_json(params), _OLLAMA_SAMPLING)
        yield FoundModel(name, "ollama", path, None, digest and digest[1], sampling=sampling)


def _blob(folder: Path, layer: Mapping[str, Any]) -> Path | None:
    digest = _DIGEST.fullmatch(str(layer.get("digest")))
    if digest is None:
        return None
    path = folder / "blobs" / f"sha256-{digest[1]}"
    older = path.with_name(f"sha256:{digest[1]}")
    return older if not path.exists() and sys.platform != "win32" and older.exists() else path


def _find_studio(folder: Path) -> Iterator[FoundModel]:
    yield from _find_files(folder, "lmstudio", lambda path: path.relative_to(folder).as_posix())


def _find_llama(folder: Path) -> Iterator[FoundModel]:
    yield from _find_files(folder, "llama.cpp", lambda path: path.relative_to(folder).as_posix())


def _find_hub(folder: Path) -> Iterator[FoundModel]:
    def name(path: Path) -> str:
        repository, _, _, *rest = path.relative_to(folder).parts
        return "/".join([*repository.removeprefix("models--").split("--", 1), *rest])

    for repository in sorted(folder.glob("models--*")):
        yield from _find_files(repository / "snapshots", "hub", name)


def _find_files(
    folder: Path, program: Program, name: Callable[[Path], str]
) -> Iterator[FoundModel]:
    for path in _walk(folder):
        # The first file of a split model names all of them.
        if path.suffix == ".gguf" and path == list_part_paths(path)[0]:
            blob = path.resolve().name
            sha256 = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
            yield FoundModel(one_line(f"{program}:{name(path)}"), program, path, None, sha256)


def _add_facts(model: FoundModel, read: Callable[[Path], Gguf]) -> FoundModel:
    path, size = model.path, file_size(model.path)
    try:
        gguf = read(path)
    except ModelUnavailable as error:
        problem = one_line(error.what.removeprefix(f"{path.name} "))
        return replace(model, size_bytes=size, problem=problem)
    is_foreign = gguf.architecture in _OLLAMA_ENGINE
    return replace(
        model,
        size_bytes=size,
        sha256=None if len(list_part_paths(path)) > 1 else model.sha256,  # of its first file only
        quantisation=gguf.quantisation,
        parameters=gguf.parameters,
        architecture=one_line(gguf.architecture),
        problem=f"is made for Ollama's own engine ({gguf.architecture})" if is_foreign else "",
    )


def read_sampling(document: Mapping[str, Any], names: Mapping[str, str]) -> ModelSampling | None:
    """Read the sampling values that etui allows, by their names in ModelSampling and there."""
    values: dict[str, Any] = {
        name: document[key]
        for name, key in names.items()
        if key in document and is_sampling_value(name, document[key])
    }
    return ModelSampling(**values) if values else None


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in a fixed order; what cannot be read is left out."""
    count = 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            yield Path(root, file)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object; an empty one if there is none, or it is damaged."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


_FINDERS: Mapping[Program, Callable[[Path], Iterator[FoundModel]]] = {
    "ollama": _find_ollama,
    "lmstudio": _find_studio,
    "llama.cpp": _find_llama,
    "hub": _find_hub,
}
