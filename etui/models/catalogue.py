"""The model catalogue: shipped entries, the user's entries, and files found on disk."""

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
"""llama.cpp loads a split GGUF through its first shard, so the later shards are not listed."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model by name: shipped entries, replaced by the user's of that name, then found files.

    Attributes:
        models: Name -> model.
    """

    models: Mapping[str, ModelSpec]

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models.values())

    def __contains__(self, name: object) -> bool:
        return name in self.models

    def get(self, name: str) -> ModelSpec:
        """Return the entry with a name, or a model for the path of a GGUF file.

        Raises:
            UsageError: No entry has the name (the nearest names are suggested), or the file has
                the name of another model.
        """
        if name in self.models:
            return self.models[name]
        if name.endswith(".gguf") and Path(name).expanduser().is_file():
            return self._from_path(Path(name).expanduser().absolute())
        near = suggest(name.lower(), self.models, most=3, cutoff=0.5, quoted=False)
        fix = f"{near} `etui models list` shows all of them".lstrip()
        raise UsageError(f"no model is called {name!r}", fix)

    def _from_path(self, path: Path) -> ModelSpec:
        named = self.models.get(path.stem)
        if named is None:
            return build_found_spec(path)
        if named.origin == "found" and PathSource(path) in named.sources:
            return named
        raise UsageError(
            f"{path} has the name of another model, {path.stem}",
            "rename the file, or add an entry for it to models.yaml with a `path:` source",
        )


def load_catalogue(config: Config) -> Catalogue:
    """Load the shipped entries, the user's entries, and the files in the models folder.

    Raises:
        InvalidFile: An entry of ``models.yaml`` is not valid; the message says where and why.
    """
    from etui.config.config import shipped_dir
    from etui.models.schema import check_drafts, read_models  # pydantic takes 100 ms to import

    files = [read_models(shipped_dir() / "models.yaml", "shipped")]
    if config.models_file.is_file():
        files.append(read_models(config.models_file, "user"))
    models = {spec.name: spec for file in files for spec in file.specs}
    if config.models_dir.is_dir():
        for path in sorted(config.models_dir.glob("*.gguf")):
            if path.stem not in models and not _LATER_SHARD.search(path.stem) and path.is_file():
                models[path.stem] = build_found_spec(path)
    for file in files:
        check_drafts(file, models)
    return Catalogue(models)


def build_found_spec(path: Path) -> ModelSpec:
    """Build an entry with default settings for a GGUF file that has none."""
    from etui.units import bytes_text

    size = path.stat().st_size
    return ModelSpec(
        name=path.stem,
        size=f"found file, {bytes_text(size)}",
        sources=(PathSource(path),),
        file_bytes=size,
        origin="found",
    )
