"""The models that etui knows: shipped ones, the user's, and files found on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import UsageError
from etui.models.spec import ModelSpec, PathSource
from etui.text.suggest import suggest

if TYPE_CHECKING:
    from etui.config.config import Config


_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")
"""llama.cpp loads a split GGUF through its first shard; the others are no models of their own."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model by name: the shipped entries, the user's own in their place, found files last."""

    models: Mapping[str, ModelSpec]

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models.values())

    def __contains__(self, name: object) -> bool:
        return name in self.models

    def get(self, name: str) -> ModelSpec:
        """The entry called ``name``; the path of a GGUF file is taken as a model of its own.

        Raises:
            UsageError: No entry has the name; the nearest names are offered.
        """
        if name in self.models:
            return self.models[name]
        if name.endswith(".gguf") and Path(name).expanduser().is_file():
            return self._from_path(Path(name).expanduser().absolute())
        near = suggest(name.lower(), self.models, most=3, cutoff=0.5, quoted=False)
        fix = f"{near} `etui models list` names them all".lstrip()
        raise UsageError(f"no model is called {name!r}", fix)

    def _from_path(self, path: Path) -> ModelSpec:
        named = self.models.get(path.stem)
        if named is None:
            return found(path)
        if named.origin == "found" and PathSource(path) in named.sources:
            return named
        raise UsageError(
            f"{path} has the name of another model, {path.stem}",
            "rename the file, or give it an entry of its own in models.yaml with a `path:` source",
        )


def load_catalogue(config: Config) -> Catalogue:
    """The shipped entries, the user's, and the files that lie in the models folder.

    Raises:
        InvalidFile: An entry of ``models.yaml`` cannot be used; says which, where and why.
    """
    from etui.config.config import shipped_dir
    from etui.models.schema import read_models  # 100 ms of pydantic, only where models are named

    models = {spec.name: spec for spec in read_models(shipped_dir() / "models.yaml", "shipped")}
    if config.models_file.is_file():
        models |= {spec.name: spec for spec in read_models(config.models_file, "user")}
    if config.models_dir.is_dir():
        for path in sorted(config.models_dir.glob("*.gguf")):
            if path.stem not in models and not _LATER_SHARD.search(path.stem) and path.is_file():
                models[path.stem] = found(path)
    return Catalogue(models)


def found(path: Path) -> ModelSpec:
    """An entry with default settings for a GGUF file that no entry names."""
    from etui.units import bytes_text

    size = path.stat().st_size
    return ModelSpec(
        name=path.stem,
        size=f"found file, {bytes_text(size)}",
        sources=(PathSource(path),),
        file_bytes=size,
        origin="found",
    )
