"""A newer catalogue of a release: read, compared with what is in use, and accepted by the user."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_bytes
from etui.errors import UsageError
from etui.models.files import read_shipped
from etui.models.schema import check_names, read_models
from etui.models.spec import HubSource, ModelSampling, ModelSpec, UrlSource, is_secure

if TYPE_CHECKING:
    from etui.config.config import Config

_MOST_BYTES = 1 << 20
_SAME = {"origin", "tuned", "own"}  # Fields that say nothing of the model


@dataclass(frozen=True, slots=True)
class EntryChange:
    """A fact of an entry that the newer catalogue states otherwise."""

    fact: str  # Field of ModelSpec
    was: str
    is_now: str


@dataclass(frozen=True, slots=True)
class CatalogueUpdate:
    """A newer catalogue, and what it changes; entries that it does not name stay."""

    content: bytes
    sha256: str
    released: str
    added: tuple[ModelSpec, ...]
    changed: dict[str, tuple[EntryChange, ...]]  # Name of the model -> its facts that change
    same: int  # Number of entries as before

    def accept(self, config: Config) -> None:
        """Use it from now on; the file has the bytes whose hash was shown."""
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(config.catalogue_file, self.content)


def read_update(source: str, sha256: str, config: Config) -> CatalogueUpdate:
    """Read the catalogue of a release, a path or https address, without using it yet.

    UsageError if it has another hash than the one given, is not newer than what is in use, or has
    an entry that a catalogue must not have; InvalidFile if it is not valid.
    """
    content = _read(source)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256.lower():
        raise UsageError(
            f"the sha256 of {source} is {digest}, not {sha256.lower()}",
            "take the file and the hash of the same release",
        )
    current = read_shipped(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalogue.yaml"
        path.write_bytes(content)
        new = read_models(path, "updated")
    newest = max(file.released for file in current)
    if new.released <= newest:
        raise UsageError(
            f"the catalogue is of {new.released or 'no date'}, and the one in use of {newest}",
            "there is nothing to update",
        )
    for spec in new.specs:
        _check_entry(spec)
    known = {spec.name: spec for file in current for spec in file.specs}
    check_names(new, known | {spec.name: spec for spec in new.specs}, ())
    changes = {
        spec.name: tuple(_compare(known[spec.name], spec))
        for spec in new.specs
        if spec.name in known
    }
    return CatalogueUpdate(
        content,
        digest,
        new.released,
        tuple(spec for spec in new.specs if spec.name not in known),
        {name: found for name, found in changes.items() if found},
        sum(not found for found in changes.values()),
    )


def _read(source: str) -> bytes:
    too_large = UsageError(
        f"{source} is larger than {_MOST_BYTES:,} bytes", "name the models.yaml of a release"
    )
    if "://" in source:
        if not is_secure(source):
            raise UsageError(f"{source} is no https address", "use its https address")
        from etui.models.hub import fetch, look_up_url

        def check(done: int) -> None:
            if done > _MOST_BYTES:
                raise too_large

        with tempfile.TemporaryDirectory() as folder:
            file = look_up_url(source)
            check(file.size_bytes or 0)
            return fetch(UrlSource(source), file, Path(folder), check).read_bytes()
    try:
        with Path(source).expanduser().open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{source} cannot be read: {error.strerror}", "name the models.yaml of a release"
        ) from error
    if len(content) > _MOST_BYTES:
        raise too_large
    return content


def _check_entry(spec: ModelSpec) -> None:
    """Refuse an entry of this machine, and one whose file nothing could be compared with."""
    if spec.backend is not None:
        problem = "is served by a backend"
    elif spec.adapters:
        problem = "has a LoRA adapter, a file of this machine"
    elif spec.sha256 is None and not all(isinstance(each, HubSource) for each in spec.sources):
        problem = "has no sha256, and a source that does not publish one"
    else:
        return
    raise UsageError(
        f"{spec.name} {problem}: a catalogue must not have such an entry",
        "put it into your own models.yaml",
    )


def _compare(old: ModelSpec, new: ModelSpec) -> Iterator[EntryChange]:
    for field in fields(ModelSpec):
        was, is_now = getattr(old, field.name), getattr(new, field.name)
        if was != is_now and field.name not in _SAME:
            yield EntryChange(field.name, _show(was), _show(is_now))


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(
            " ".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in value
        )
    if isinstance(value, ModelSampling):
        given = {name: each for name, each in asdict(value).items() if each is not None}
        return ", ".join(f"{name} {each}" for name, each in given.items())
    return "none" if value in (None, "") else str(value)
