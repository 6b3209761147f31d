"""Find, hash and verify model files on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.config import Config, shipped_dir
from etui.errors import DownloadFailed, InvalidFile, ModelUnavailable
from etui.models.adapters import check_adapters, read_adapter
from etui.models.gguf import check_gguf, check_usable, list_part_paths, list_parts, name_part
from etui.models.spec import Adapter, HubSource, ModelSpec, PathSource

if TYPE_CHECKING:
    from etui.models.catalogue import Catalogue
    from etui.models.schema import ModelsRead


def read_shipped(config: Config) -> list[ModelsRead]:
    """Read the shipped entries, and a newer catalogue that the user accepted; or InvalidFile."""
    from etui.models.schema import read_models

    own = shipped_dir() / "models.yaml"
    files = [_read_own(own, own.stat().st_mtime_ns)]
    if config.catalogue_file.is_file():
        newer = read_models(config.catalogue_file, "updated")
        if newer.released > files[0].released:  # otherwise etui itself is newer by now
            files.append(newer)
    return files


@lru_cache(maxsize=1)
def _read_own(path: Path, _mtime_ns: int) -> ModelsRead:
    """Read the shipped entries, which takes 20 ms, once and not at each look at the catalogue."""
    from etui.models.schema import read_models

    return read_models(path, "shipped")


def read_entries(config: Config) -> dict[str, ModelSpec]:
    """Read every entry: shipped ones, replaced by the user's of that name, then found files.

    InvalidFile if one is not valid; the message says where and why.
    """
    from etui.models.schema import check_names, read_models  # pydantic: 100 ms

    files = read_shipped(config)
    if config.models_file.is_file():
        files.append(read_models(config.models_file, "user"))
    models = {spec.name: spec for file in files for spec in file.specs}
    if config.models_dir.is_dir():
        local = [spec for spec in models.values() if spec.backend is None]
        # A file that an entry uses with adapters is a model without them, too.
        own = {model_path(spec, config) for spec in local if not spec.adapters}
        own |= {adapter.path for spec in local for adapter in spec.adapters}
        for path in sorted(config.models_dir.glob("*.gguf")):
            # llama.cpp loads a split model through its first file, so the later ones are not listed
            is_first = path == list_part_paths(path)[0]
            if path not in own and path.stem not in models and is_first and path.is_file():
                models[path.stem] = build_found_spec(path)
    for file in files:
        check_names(file, models, config.backends)
        for name, entry in file.located.model.settings.items():
            if name in models:  # it may have been removed since
                models[name] = replace(models[name], own=entry.settings())
    _check_fallbacks(config, models)
    return models


def _check_fallbacks(config: Config, models: Mapping[str, ModelSpec]) -> None:
    wrong = [
        (backend.name, place, name)
        for backend in config.backends.values()
        for place, name in enumerate(backend.fallbacks)
        if name not in models
    ]
    if not wrong:
        return
    from etui.config.schema import Settings
    from etui.text import did_you_mean
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

    size = file_size(path)
    return ModelSpec(
        name=path.stem,
        size=f"found file, {bytes_text(size)}",
        sources=(PathSource(path),),
        file_bytes=size,
        origin="found",
        recommend=False,
    )


VOCABULARY_PADDING = 512
"""Vocabularies of one family differ by up to so many unused tokens at the end."""


def find_draft_problem(
    spec: ModelSpec, draft: str, config: Config, catalogue: Catalogue
) -> str | None:
    """Find by the headers why a draft model cannot be used; None if they show no reason."""
    drafter = model_path(catalogue.get(draft), config)
    if not drafter.is_file():
        return f"{draft} is not on this machine"
    try:
        other, own = check_gguf(drafter), check_gguf(model_path(spec, config))
    except ModelUnavailable as error:
        return error.what
    if own.tokenizer and other.tokenizer and own.tokenizer != other.tokenizer:
        return "its vocabulary has another kind of tokenizer"
    sizes = own.vocabulary, other.vocabulary
    if sizes[0] and sizes[1] and abs(sizes[0] - sizes[1]) > VOCABULARY_PADDING:
        return f"its vocabulary has {sizes[1]:,} tokens, not {sizes[0]:,}"
    return None


_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """State of a file when it was last hashed; stored as ``<name>.gguf.json`` next to the models.

    Of a split model it has the size of all files and the newest time.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str  # Hash of the whole file
    pinned: bool = False
    """Whether the hash came from the hub, so that a file with another one is refused."""
    source: str = ""
    """Where the file was pulled from; empty for a file that was copied there by hand."""
    tried: bool = False
    """Whether llama.cpp has loaded it once in a process of its own, without a crash."""

    @classmethod
    def of(
        cls,
        path: Path,
        state: tuple[int, int],
        sha256: str,
        *,
        pinned: bool = False,
        source: str = "",
    ) -> FileRecord:
        """Build the record of a file; ``state`` is its :func:`read_state` before it was hashed."""
        return cls(str(path), *state, sha256, pinned, source)

    def describes(self, path: Path) -> bool:
        """Return whether the file exists and has the same path, size and modification time."""
        try:
            size_bytes, mtime_ns = read_state(path)
        except OSError:
            return False
        return (str(path), size_bytes, mtime_ns) == (self.path, self.size_bytes, self.mtime_ns)


def read_state(path: Path) -> tuple[int, int]:
    """Read size and modification time of a model file with its parts; OSError without one."""
    stats = [part.stat() for part in list_part_paths(path)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def record_path(name: str, models_dir: Path) -> Path:
    """Return the path of the record of a model."""
    return models_dir / f"{name}.gguf.json"


def read_record(name: str, models_dir: Path) -> FileRecord | None:
    """Read the record of a model; None if it is missing or damaged, so the file is hashed again."""
    try:
        data = json.loads(record_path(name, models_dir).read_text("utf-8"))
        return from_document(FileRecord, data)
    except (OSError, ValueError):  # DocumentError and JSONDecodeError are ValueErrors
        return None


def write_record(name: str, models_dir: Path, record: FileRecord) -> None:
    """Write the record atomically; if the folder is read-only, the file is just hashed again."""
    with suppress(OSError):
        models_dir.mkdir(parents=True, exist_ok=True)
        write_text(record_path(name, models_dir), json.dumps(to_document(record), indent=1) + "\n")


def hash_file(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Compute the SHA-256 of a file in lower-case hex; ``report`` gets the bytes hashed so far."""
    return hash_files([path], report)[0]


def hash_files(
    paths: Sequence[Path], report: Callable[[int], None] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Compute the SHA-256 of several files as if they were one, and of each of them."""
    whole, each, done = hashlib.sha256(), [], 0
    for path in paths:
        own = hashlib.sha256() if len(paths) > 1 else whole
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                own.update(chunk)
                if own is not whole:
                    whole.update(chunk)
                done += len(chunk)
                if report is not None:
                    report(done)
        each.append(own.hexdigest())
    return whole.hexdigest(), tuple(each)


def check_space(folder: Path, needed_bytes: int) -> None:
    """DownloadFailed if ``needed_bytes`` more do not fit into ``folder``."""
    from etui.units import bytes_text

    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DownloadFailed(
            f"not enough disk space in {folder}: {bytes_text(needed_bytes)} needed, "
            f"{bytes_text(free)} free",
            "free some space, or set ETUI_MODELS to a folder on another disk",
        )


def list_catalogue_files(
    models: Mapping[str, ModelSpec], tuned: Collection[str], config: Config
) -> Iterator[Path]:
    """List the files and folders from which the entries of all models are read.

    Settings that sweeps chose, for the models in ``tuned``, hold for one file only.
    """
    yield from (shipped_dir() / "models.yaml", config.models_file, config.models_dir)
    yield from (config.catalogue_file, config.tuned_file)
    for spec in models.values():
        if spec.origin == "found":
            yield from (source.path for source in spec.sources if isinstance(source, PathSource))
    for name in tuned:
        yield record_path(name, config.models_dir)
        yield model_path(models[name], config)
        yield from (adapter.path for adapter in models[name].adapters)


FileState = Literal["absent", "unchecked", "refused", "checked"]
"""``unchecked``: the file was never hashed; ``refused``: its sha256 or size differs from its
entry's."""


def refuse_remote(spec: ModelSpec) -> None:
    """ModelUnavailable for a model of a remote backend: it has no file on this machine."""
    if spec.backend is not None:
        raise ModelUnavailable(
            f"{spec.name} has no file on this machine: the backend {spec.backend} serves it",
            "see it with: etui models info " + spec.name,
        )


def file_state(spec: ModelSpec, config: Config) -> FileState:
    """Return whether the model's file is on disk and the right one; a remote one is ``absent``."""
    if spec.backend is not None:
        return "absent"
    size = file_size(model_path(spec, config))
    if size is None:
        return "absent"
    checked = recorded_sha256(spec, config)
    if spec.file_sha256 is not None and (
        checked != spec.file_sha256 if checked else spec.file_bytes not in (None, size)
    ):
        return "refused"
    return "unchecked" if checked is None else "checked"


def file_size(path: Path) -> int | None:
    """Return the size of a model file in bytes with the parts that are there; None without one."""
    try:
        parts = [part for part in list_part_paths(path) if part == path or part.is_file()]
        return sum(part.stat().st_size for part in parts) if path.is_file() else None
    except OSError:
        return None  # removed in between


def find_file_problem(spec: ModelSpec, config: Config) -> str:
    """Find why the file or an adapter cannot be used, by records and headers; empty if it can."""
    state = file_state(spec, config)
    path = model_path(spec, config)
    if state == "absent" or (state == "checked" and is_known_good(spec)):
        return ""
    try:
        check_adapters(spec, check_usable(path))
    except ModelUnavailable as error:
        return error.what
    return f"{path.name} is not the file of its entry" if state == "refused" else ""


def is_known_good(spec: ModelSpec) -> bool:
    """Return whether etui itself names the sha256 of the model, so that its header is known."""
    return spec.origin == "shipped" and spec.sha256 is not None and not spec.adapters


def model_path(spec: ModelSpec, config: Config) -> Path:
    """Return where the first file of a model is or belongs: its ``path:``, or the models folder."""
    target = config.models_dir / target_names(spec)[0]
    paths = [source.path for source in spec.sources if isinstance(source, PathSource)]
    if not paths:
        return target
    existing = next((path for path in paths if path.is_file()), None)
    if len(paths) == len(spec.sources):
        return existing or paths[0]
    return existing if existing is not None and not target.is_file() else target


def target_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the model's files in the models folder: several if it is split."""
    counts = [len(list_parts(s.file)) for s in spec.sources if isinstance(s, HubSource)]
    count = max(counts, default=1)
    return tuple(name_part(spec.name, number, count) for number in range(1, count + 1))


def has_file(spec: ModelSpec, config: Config) -> bool:
    """Return whether the model's file is where :func:`model_path` finds it; fast."""
    paths = [source.path for source in spec.sources if isinstance(source, PathSource)]
    if any(os.path.isfile(path) for path in paths):
        return True
    if len(paths) == len(spec.sources):
        return False
    return os.path.isfile(os.path.join(config.models_dir, target_names(spec)[0]))


@dataclass(frozen=True, slots=True)
class Verified:
    """A file whose header and sha256 were checked."""

    name: str
    path: Path
    file_bytes: int
    sha256: str  # Hash of the whole file
    expected: str | None  # The required hash; None if neither models.yaml nor the hub gives one


def require(spec: ModelSpec, config: Config) -> Path:
    """Return the path of the model's file, once it is safe to load in llama.cpp.

    Hashing a gigabyte takes a second, so a file that was hashed before and still has the same size
    and modification time is trusted; any other file is verified in full, as by :func:`verify`.
    """
    refuse_remote(spec)
    path = model_path(spec, config)
    record = read_record(spec.name, config.models_dir)
    if record is not None and record.describes(path) and spec.file_sha256 in (None, record.sha256):
        return path
    return verify(spec, config).path


def verify(
    spec: ModelSpec, config: Config, report: Callable[[int], None] | None = None
) -> Verified:
    """Check the header and hash the whole file and its adapters, regardless of their records.

    ModelUnavailable if the file is missing, not a complete GGUF, or has another sha256, or an
    adapter cannot be used.
    """
    refuse_remote(spec)
    path = model_path(spec, config)
    if not path.is_file():
        raise _describe_missing(spec, path, config)
    record = read_record(spec.name, config.models_dir)
    expected = expected_sha256(spec, config)
    gguf = check_gguf(path)
    check_adapters(spec, gguf)
    for adapter in spec.adapters:
        _hash_adapter(adapter, spec.name, config)
    before = read_state(path)
    digest, _ = hash_files(list_part_paths(path), report)
    if expected is not None and digest != expected:
        raise _describe_mismatch(spec, path, digest, expected, config)
    record = FileRecord.of(
        path,
        before,
        digest,
        pinned=record is not None and record.pinned,
        source="" if record is None else record.source,
    )
    write_record(spec.name, config.models_dir, record)
    return Verified(spec.name, path, before[0], digest, expected)


def expected_sha256(spec: ModelSpec, config: Config) -> str | None:
    """Return the required hash: the entry's, or the hub's as recorded by the first pull."""
    if spec.file_sha256 is not None:
        return spec.file_sha256
    record = read_record(spec.name, config.models_dir)
    return record.sha256 if record is not None and record.pinned else None


def recorded_sha256(spec: ModelSpec, config: Config) -> str | None:
    """Return the recorded hash without reading the file; None if the file has changed since."""
    record = read_record(spec.name, config.models_dir)
    current = record is not None and record.describes(model_path(spec, config))
    return record.sha256 if record is not None and current else None


def content_sha256(spec: ModelSpec, config: Config) -> str | None:
    """Return the hash of what answers: the model's file, its adapters and their scales.

    Only records of earlier hashing are read; None if one of them is missing.
    """
    own = spec.sha256 or recorded_sha256(spec, config)
    if own is None or all(each.sha256 for each in spec.adapters):
        return own
    found = [_find_recorded(each, config) for each in spec.adapters]
    known = [each for each in found if each is not None]
    return _join_hashes(own, known) if len(known) == len(found) else None


def may_be_content(sha256: str | None, spec: ModelSpec, found: str | None) -> bool:
    """Return whether a record with the hash ``found`` is of a model with that content.

    Where the model's is None, it is taken to be of the same file, but never of the same adapters.
    """
    return not spec.adapters if sha256 is None else found == sha256


def hash_adapters(spec: ModelSpec, path: Path, config: Config) -> ModelSpec:
    """Return a model with the hashes of its adapters, and the hash of all that answers.

    What was hashed before and still has the same size and time is not read. ModelUnavailable if an
    adapter is missing, or no complete GGUF.
    """
    if not spec.adapters:
        return spec
    own = spec.sha256 or hash_files(list_part_paths(path))[0]
    hashed = [_find_recorded(each, config) or _hash_adapter(each, spec.name, config)
              for each in spec.adapters]  # fmt: skip
    return replace(spec, sha256=_join_hashes(own, hashed), adapters=tuple(hashed))


def name_record(adapter: Adapter) -> str:
    """Name the record of an adapter's file, which no model's record has."""
    return f"{adapter.path.stem}.{_digest(str(adapter.path))[:12]}.adapter"


def _find_recorded(adapter: Adapter, config: Config) -> Adapter | None:
    record = read_record(name_record(adapter), config.models_dir)
    if record is None or not record.describes(adapter.path):
        return None
    return replace(adapter, sha256=record.sha256)


def _hash_adapter(adapter: Adapter, model: str, config: Config) -> Adapter:
    read_adapter(adapter.path, model)
    state = read_state(adapter.path)
    sha256 = hash_file(adapter.path)
    record = FileRecord.of(adapter.path, state, sha256)
    write_record(name_record(adapter), config.models_dir, record)
    return replace(adapter, sha256=sha256)


def _join_hashes(own: str, adapters: Sequence[Adapter]) -> str:
    return _digest("\n".join([own, *(f"{each.sha256} {each.scale!r}" for each in adapters)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _describe_missing(spec: ModelSpec, path: Path, config: Config) -> ModelUnavailable:
    if all(isinstance(source, PathSource) for source in spec.sources):
        return ModelUnavailable(
            f"the file of {spec.name} is missing: {path}",
            f"fix the `path:` of {spec.name} in models.yaml, or put the file there",
        )
    renamed = spec.file_bytes and next(
        (
            file
            for file in sorted(config.models_dir.glob("*.gguf"))
            if file.is_file() and file.stat().st_size == spec.file_bytes
        ),
        None,
    )
    hint = f" ({renamed.name} has the same size: was it renamed?)" if renamed else ""
    return ModelUnavailable(
        f"{spec.name} is not on this machine: no {path.name} in {path.parent}{hint}",
        f"run: etui models pull {spec.name}",
    )


def _describe_mismatch(
    spec: ModelSpec, path: Path, digest: str, expected: str, config: Config
) -> ModelUnavailable:
    same = next((one for one in read_entries(config).values() if one.sha256 == digest), None)
    named = f", which is {same.name}" if same is not None else ""
    if all(isinstance(source, PathSource) for source in spec.sources):
        fix = f"put the right file there, or fix the sha256 of {spec.name} in models.yaml"
    else:
        fix = f"move the file away if you need it, then run: etui models pull {spec.name}"
    return ModelUnavailable(
        f"{path} is not {spec.name}: its sha256 is {digest}{named}, but {expected} is expected", fix
    )
