"""The entries of models: shipped ones, the user's, and files found on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import InvalidFile
from etui.models.spec import ModelSpec, PathSource

if TYPE_CHECKING:
    from etui.config.config import Config


_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")
"""llama.cpp loads a split GGUF through its first shard, so the later shards are not listed."""


def read_entries(config: Config) -> dict[str, ModelSpec]:
    """Read every entry: shipped ones, replaced by the user's of that name, then found files.

    Raises:
        InvalidFile: An entry of ``models.yaml`` is not valid; the message says where and why.
    """
    from etui.config.config import shipped_dir
    from etui.models.schema import check_drafts, check_places, read_models  # pydantic: 100 ms

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
        check_places(file, models, config.backends)
    _check_fallbacks(config, models)
    return models


def _check_fallbacks(config: Config, models: Mapping[str, ModelSpec]) -> None:
    """Check the models that answer while a backend cannot, with their positions in config.yaml."""
    wrong = [
        (backend.name, place, name)
        for backend in config.backends.values()
        for place, name in enumerate(backend.fallbacks)
        if name not in models
    ]
    if not wrong:
        return
    from etui.config.schema import Settings
    from etui.text.suggest import did_you_mean
    from etui.yaml.load import load_yaml

    located = load_yaml(config.config_file, Settings)
    problems = [
        located.problem(
            ("backends", backend, "fallbacks", place),
            f"fallbacks: unknown model {name!r}{did_you_mean(name, models, listed=0)}",
        )
        for backend, place, name in wrong
    ]
    raise InvalidFile.of(problems, "fix the file at each place named")


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
        recommend=False,
    )
