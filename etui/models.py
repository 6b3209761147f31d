"""The models etui knows, and their files on this machine: models.yaml -> Catalogue -> Path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import ModelUnavailable, UsageError
from etui.model_spec import ModelSpec, PathSource
from etui.text.suggest import suggest

if TYPE_CHECKING:
    from etui.config import Config

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
    from etui.config import shipped_dir
    from etui.model_schema import read_models  # 100 ms of pydantic, only where models are named

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


def model_path(spec: ModelSpec, config: Config) -> Path:
    """Where the model's file lies or would lie: in the models folder, or at its ``path:``."""
    target = config.models_dir / f"{spec.name}.gguf"
    paths = [source.path for source in spec.sources if isinstance(source, PathSource)]
    here = next((path for path in paths if path.is_file()), None)
    if len(paths) == len(spec.sources):
        return here or paths[0]
    return here if here is not None and not target.is_file() else target


@dataclass(frozen=True, slots=True)
class Verified:
    """A file whose header and sha256 were checked.

    Attributes:
        sha256: Hash of the whole file.
        expected: The hash it had to have; None where neither models.yaml nor a hub names one.
    """

    name: str
    path: Path
    file_bytes: int
    sha256: str
    expected: str | None


def require(spec: ModelSpec, config: Config) -> Path:
    """The model's file, safe to hand to llama.cpp.

    Hashing a gigabyte takes a second, so a file that was hashed before and has kept its size and
    modification time is trusted; any other is checked again in full.

    Raises:
        ModelUnavailable: Not on disk, not a whole GGUF, or of another sha256.
    """
    from etui.model_files import read_record

    path = model_path(spec, config)
    record = read_record(spec.name, config.models_dir)
    if record is not None and record.describes(path) and spec.sha256 in (None, record.sha256):
        return path
    return verify(spec, config).path


def verify(
    spec: ModelSpec, config: Config, report: Callable[[int], None] | None = None
) -> Verified:
    """Check the header and hash the whole file, whatever was recorded before.

    Args:
        report: Called with the bytes hashed so far.

    Raises:
        ModelUnavailable: Not on disk, not a whole GGUF, or of another sha256.
    """
    from etui.engine.gguf import check_gguf
    from etui.model_files import FileRecord, hash_file, read_record, write_record

    path = model_path(spec, config)
    if not path.is_file():
        raise _missing(spec, path, config)
    record = read_record(spec.name, config.models_dir)
    expected = expected_sha256(spec, config)
    before = path.stat()
    check_gguf(path)
    digest = hash_file(path, report)
    if expected is not None and digest != expected:
        raise _other_file(spec, path, digest, expected, config)
    pinned = record is not None and record.pinned
    write_record(spec.name, config.models_dir, FileRecord.of(path, before, digest, pinned=pinned))
    return Verified(spec.name, path, before.st_size, digest, expected)


def expected_sha256(spec: ModelSpec, config: Config) -> str | None:
    """The hash the file has to have: the entry's, else the hub's as the first pull recorded it."""
    from etui.model_files import read_record

    if spec.sha256 is not None:
        return spec.sha256
    record = read_record(spec.name, config.models_dir)
    return record.sha256 if record is not None and record.pinned else None


def recorded_sha256(spec: ModelSpec, config: Config) -> str | None:
    """The hash of the file as it was last checked, without reading the file; None if it changed."""
    from etui.model_files import read_record

    record = read_record(spec.name, config.models_dir)
    current = record is not None and record.describes(model_path(spec, config))
    return record.sha256 if record is not None and current else None


def _missing(spec: ModelSpec, path: Path, config: Config) -> ModelUnavailable:
    if all(isinstance(source, PathSource) for source in spec.sources):
        return ModelUnavailable(
            f"the file of {spec.name} is not there: {path}",
            f"mend the `path:` of {spec.name} in models.yaml, or put the file there",
        )
    renamed = spec.file_bytes and next(
        (
            file
            for file in sorted(config.models_dir.glob("*.gguf"))
            if file.is_file() and file.stat().st_size == spec.file_bytes
        ),
        None,
    )
    hint = f" ({renamed.name} there has its size: renamed?)" if renamed else ""
    return ModelUnavailable(
        f"{spec.name} is not on this machine: no {path.name} in {path.parent}{hint}",
        f"run: etui models pull {spec.name}",
    )


def _other_file(
    spec: ModelSpec, path: Path, digest: str, expected: str, config: Config
) -> ModelUnavailable:
    same = next((other for other in load_catalogue(config) if other.sha256 == digest), None)
    named = f", which is {same.name}" if same is not None else ""
    if all(isinstance(source, PathSource) for source in spec.sources):
        fix = f"put the right file there, or mend the sha256 of {spec.name} in models.yaml"
    else:
        fix = f"move the file away if you need it, then run: etui models pull {spec.name}"
    return ModelUnavailable(
        f"{path} is not {spec.name}: its sha256 is {digest}{named}, and {expected} is expected", fix
    )
