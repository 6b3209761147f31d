"""Add models that models.yaml does not name, and take models off this machine.

A new one comes from a repository of the hub, an address, a file on this machine, or the store of
another program. What its entry says is read from its header; what is assumed is named in a comment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from etui.errors import EtuiError, InvalidFile, ModelUnavailable, UsageError
from etui.models.spec import (
    Adapter,
    HubSource,
    ModelSampling,
    ModelSpec,
    PathSource,
    Source,
    UrlSource,
    is_secure,
)
from etui.runtime.models_file import edit_models_file
from etui.text import one_line
from etui.units import bytes_text, count_text, parameters_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.curves.prediction import DecodeForecast
    from etui.models.catalogue import Catalogue
    from etui.models.download import Report
    from etui.models.found import FoundModel, Stores
    from etui.models.gguf import Gguf
    from etui.models.repository import HubReference, Repository

MOST_CONTEXT_TOKENS = 8192
"""Context of a new entry, where the model was trained for more: a whole one may need gigabytes."""
_GENERATION = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
}
"""Name in models.yaml -> key of generation_config.json."""
_PLAIN = re.compile(r"[A-Za-z0-9/~][\w./+~ ,<>|=-]*")
"""Texts that YAML reads as they are, also within braces where they have no comma."""
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "~"))
_OTHERS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to pull, as far as it is known before its file is here."""

    spec: ModelSpec
    is_known: bool = False  # Whether an entry names it already, so that none is written
    came_from: str = ""  # The page or program that it is from, for a comment of the entry
    licence: str = ""  # As its repository says; empty if it does not
    base_models: tuple[str, ...] = ()  # Repositories whose recommended sampling holds for it
    sampling: ModelSampling | None = None  # As another program samples it; None if unknown
    notes: tuple[str, ...] = ()  # What the user should know of the choice, one line each

    @property
    def is_checked(self) -> bool:
        """Whether something beside the file itself says what its sha256 is."""
        return bool(self.is_known or self.spec.sha256) or not isinstance(
            self.spec.sources[0], UrlSource | PathSource
        )


@dataclass(frozen=True, slots=True)
class Removed:
    """What the removal of a model does, or did."""

    name: str
    freed_bytes: int  # Without files that another link keeps; 0 if none is deleted
    forgotten: bool  # Whether its entry is taken out of models.yaml
    kept_path: str | None  # The file that stays; None without one
    kept_why: str = ""  # Why it stays; empty if none does
    named_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What still names the model (``policy mine``, ``config.yaml``) -> its arms or keys that do."""


class UserModels:
    """Finds what a user names, adds it to models.yaml, and removes it."""

    def __init__(self, config: Config, catalogue: Catalogue, stores: Stores) -> None:
        self._config = config
        self._catalogue = catalogue
        self._stores = stores
        self._given: set[str] = set()  # Names of new models that are not in models.yaml yet

    def find(self, text: str, name: str = "") -> NewModel:
        """Find a model by the name of an entry or of a found model, or by a reference.

        Args:
            name: Name of the new entry; empty derives one from the file.

        Raises:
            UsageError: Nothing has this name, or the name of the new entry is taken.
            DownloadFailed: The hub has no such repository, or cannot be asked.
            ModelUnavailable: The repository or the file holds no model that can run.
        """
        from etui.models.found import is_found_name
        from etui.models.hub import hub_host
        from etui.models.repository import parse_reference

        if text in self._catalogue:
            return NewModel(self._catalogue.models[text], is_known=True)
        if is_found_name(text):
            found = self._stores.get(text)
            if found is None:
                raise UsageError(f"no other program has a model {text!r}",
                                 "`etui models list --found` shows all of them")  # fmt: skip
            return self._from_found(found, name)
        match parse_reference(text, hub_host() if "://" in text else ""):
            case None:
                return NewModel(self._catalogue.get(text), is_known=True)
            case PathSource(path):
                return self._from_path(path, name)
            case UrlSource() as source:
                host = urlsplit(source.url).hostname or ""
                stem = PurePosixPath(unquote(urlsplit(source.url).path)).name
                notes = (f"{host} publishes no sha256: the file is used as it comes",)
                return self._known(source) or NewModel(
                    self._spec(stem, host, source, name),
                    came_from=one_line(source.url),
                    notes=notes,
                )
            case reference:
                known = self._catalogue.find_hub_model(text) if reference.label else None
                if known is not None and not name:  # the hub need not be there to find it again
                    return NewModel(known, is_known=True)
                return self._from_hub(reference, name)

    def adapt(self, base: ModelSpec, adapters: Sequence[Adapter], name: str = "") -> NewModel:
        """Build a model from the file of another one, which is on this machine, and LoRA adapters.

        Without a name it is derived from both. ModelUnavailable if the base has no usable file
        here, or an adapter is not made for it; UsageError if the name is taken.
        """
        from etui.models.adapters import check_adapters
        from etui.models.files import require
        from etui.models.gguf import check_usable

        path = require(base, self._config)
        stem = f"{base.name}-{adapters[0].path.stem}"
        spec = replace(self._spec(stem, "lora", PathSource(path), name), adapters=tuple(adapters))
        check_adapters(spec, check_usable(path))
        return NewModel(spec, came_from=f"{base.name}, with LoRA", sampling=base.sampling)

    def add(
        self, new: NewModel, report: Report | None = None, forecast: DecodeForecast | None = None
    ) -> Path:
        """Pull a model, and write its entry to models.yaml if it has none.

        The forecast that was shown to the user is kept, to compare it with the answers later.

        Raises:
            DownloadFailed: No source gave the right file; the partial download is kept.
            ModelUnavailable: The file is no model that can run.
            EtuiError: A folder or models.yaml cannot be written.
        """
        from etui.models.download import pull
        from etui.models.files import has_file, recorded_sha256
        from etui.models.gguf import check_gguf
        from etui.runtime.pull_predictions import keep_prediction, predict_pull
        from etui.yaml.edit import insert_entry

        if not (new.is_known and has_file(new.spec, self._config)):
            with suppress(EtuiError):  # a log that cannot be read is no reason not to pull
                forecast = forecast or predict_pull(new.spec, self._config, self._catalogue)
                keep_prediction(new.spec, self._config, forecast)
        path = pull(new.spec, self._config, report)
        if not new.is_known:
            gguf = check_gguf(path)
            spec = replace(new.spec, sha256=recorded_sha256(new.spec, self._config))
            sampling, basis = self._find_sampling(new, gguf)
            lines = list(_entry_lines(replace(new, spec=spec), gguf, sampling, basis))
            edit_models_file(
                self._config, lambda text: insert_entry(text, "models", spec.name, lines)
            )
        return path

    def remove(self, spec: ModelSpec, *, dry_run: bool = False) -> Removed:
        """Delete the files that etui pulled for a model, and the user's entry of it; or only look.

        A file that is used in place, that another model uses, or that someone put into the models
        folder, is left as it is. UsageError if another model or a backend needs it.
        """
        from etui.models.download import kept_bytes
        from etui.models.files import model_path, read_record, record_path
        from etui.models.gguf import list_part_paths
        from etui.yaml.edit import remove_entry

        if spec.origin == "user":
            self._refuse_needed(spec.name)
        folder = self._config.models_dir
        path, record = model_path(spec, self._config), read_record(spec.name, folder)
        has_file = spec.backend is None and path.is_file()
        kept_why = ""
        if has_file and path.parent != folder:
            kept_why = "used in place"
        elif has_file and (record is None or not record.source):
            kept_why = "etui did not pull it"
        elif has_file and (others := self._list_users(spec.name, path)):
            kept_why = f"{', '.join(others)} uses it too"
        parts = list_part_paths(path) if has_file and not kept_why else ()
        freed = sum(map(_count_freed, parts)) + kept_bytes(spec, self._config)
        removed = Removed(
            spec.name,
            freed,
            spec.origin == "user",
            str(path) if kept_why else None,
            kept_why,
            dict(self._list_naming(spec.name)),
        )
        if dry_run:
            return removed
        try:
            for part in parts:
                part.unlink(missing_ok=True)
            shutil.rmtree(folder / ".pull" / spec.name, ignore_errors=True)
            if not kept_why or spec.origin == "user":
                record_path(spec.name, folder).unlink(missing_ok=True)
        except OSError as error:
            raise EtuiError(
                f"cannot remove {path}: {error.strerror or error}", "make its folder writable"
            ) from error
        if spec.origin == "user":
            edit_models_file(self._config, lambda text: remove_entry(text, "models", spec.name))
        return removed

    def _list_users(self, name: str, path: Path) -> list[str]:
        """List the other models whose file is this one."""
        from etui.models.files import model_path

        return [
            other.name
            for other in self._catalogue
            if other.name != name
            and other.backend is None
            and _is_same(model_path(other, self._config), path)
        ]

    def _list_naming(self, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield what names a model, with its arms or keys."""
        from etui.routing.library import list_policies
        from etui.routing.schema.policy_file import PolicyFile
        from etui.yaml.load import load_yaml

        for place in list_policies(self._config):
            try:
                file = load_yaml(place.path, PolicyFile).model
            except InvalidFile:
                continue  # `etui policy check` says what is wrong with it
            if found := tuple(
                f"arm {arm}" if entry.model == name else f"arm {arm} (by its role {entry.model})"
                for arm, entry in file.arms.items()
                if name in (entry.model, *file.models.get(entry.model, ()))
            ):
                yield f"policy {place.name}", found
        if self._config.model == name:
            yield "config.yaml", ("model",)
        for backend in self._config.backends.values():
            if name in backend.fallbacks:
                yield f"backend {backend.name}", ("fallbacks",)
        for other in self._catalogue:
            keys = tuple(key for key in ("draft", "same_as") if getattr(other, key) == name)
            if keys:
                yield f"model {other.name}", keys

    def _refuse_needed(self, name: str) -> None:
        """Refuse to take an entry away that other entries or backends name."""
        for other in self._catalogue:
            key = "draft" if other.draft == name else "same_as"
            if getattr(other, key) == name:
                what = f"{other.name} names {name} as its `{key}`"
                raise UsageError(what, f"change the entry of {other.name} in models.yaml first")
        for backend in self._config.backends.values():
            if name in backend.fallbacks:
                what = f"the backend {backend.name} falls back to {name}"
                raise UsageError(what, "change its `fallbacks` in config.yaml first")

    def _from_hub(self, wanted: HubReference, name: str) -> NewModel:
        from etui.models.hub import hub_page, read_repository

        repository = read_repository(wanted.repo, wanted.revision)
        choice = repository.choose(wanted.label)
        chosen, first = choice.quantisation, choice.quantisation.files[0]
        source = HubSource(repository.name, first.name, revision=wanted.revision)
        notes = tuple(_hub_notes(repository, chosen.label, choice.why))
        if known := self._known(source):
            return replace(known, notes=notes)
        owner, _, own = repository.name.partition("/")
        stem = PurePosixPath(first.name).name
        if chosen.label.lower() not in stem.lower():  # its folder has the name of the quantisation
            stem = f"{re.sub('-gguf$', '', own, flags=re.IGNORECASE)}-{chosen.label}"
        spec = self._spec(stem, owner, source, name)
        return NewModel(
            replace(
                spec,
                sha256=first.sha256 if len(chosen.files) == 1 else None,
                file_bytes=chosen.size_bytes,
            ),
            came_from=hub_page(repository.name),
            licence=repository.licence,
            base_models=(repository.name, *repository.base_models),
            notes=notes,
        )

    def _from_path(self, path: Path, name: str) -> NewModel:
        from etui.models.gguf import check_usable

        found = next((m for m in self._stores.find() if _is_same(m.path, path)), None)
        if found is not None:
            return self._from_found(found, name)
        check_usable(path)
        source = PathSource(path)
        spec = self._spec(path.name, "file", source, name)
        return self._known(source) or NewModel(spec, came_from="a file on this machine")

    def _from_found(self, found: FoundModel, name: str) -> NewModel:
        from etui.models.found import TITLES

        if found.problem:
            raise ModelUnavailable(f"{found.name} {found.problem}", "choose another model")
        source = PathSource(found.path)
        if known := self._known(source):
            return known
        _, _, own = found.name.partition(":")
        stem = PurePosixPath(own).name.removesuffix(":latest").replace(":", "-")
        spec = self._spec(stem, found.program, source, name)
        return NewModel(
            replace(spec, sha256=found.sha256, file_bytes=found.size_bytes),
            came_from=f"{TITLES[found.program]} ({own}), used in place",
            sampling=found.sampling,
            notes=(f"used where it is: {TITLES[found.program]} keeps it, etui changes nothing",),
        )

    def _known(self, source: Source) -> NewModel | None:
        """Return the model of an entry that has a source already."""
        for spec in self._catalogue:
            if spec.origin != "found" and source in spec.sources and not spec.adapters:
                return NewModel(spec, is_known=True)
        return None

    def _spec(self, stem: str, other: str, source: Source, name: str) -> ModelSpec:
        """Build the entry of a source; its name is free, or that of the same file without entry."""
        from etui.models.files import target_names
        from etui.models.gguf import drop_part
        from etui.models.schema import NAME

        def is_free(name: str) -> bool:
            taken = self._catalogue.models.get(name)
            if taken is None:
                return name not in self._given
            # A file in the models folder without an entry: an earlier pull was interrupted here.
            own = self._config.models_dir / target_names(spec(name))[0]
            paths = {own, *([source.path] if isinstance(source, PathSource) else [])}
            return taken.origin == "found" and {s.path for s in taken.sources
                                                if isinstance(s, PathSource)} <= paths  # fmt: skip

        def spec(name: str) -> ModelSpec:
            return ModelSpec(name, name, (source,), origin="user")

        def give(name: str) -> ModelSpec:
            self._given.add(name)
            return spec(name)

        if name:
            if not NAME.fullmatch(name) or name.endswith((".gguf", ".")):
                raise UsageError(f"{name!r} cannot name a model",
                                 "use letters, digits, '.', '_', '@' and '-'")  # fmt: skip
            if not is_free(name):
                raise UsageError(f"{name} is another model", "choose another name with --name")
            return give(name)
        base = re.sub(r"[^a-z0-9._@-]+", "-", drop_part(stem.removesuffix(".gguf")).lower())
        base = base.strip("-._@")[:80] or "model"
        owner = re.sub(r"[^a-z0-9]+", "-", other.lower()).strip("-")
        names = (base, f"{base}-{owner}", *(f"{base}-{number}" for number in range(2, 1000)))
        return give(next(each for each in names if is_free(each)))

    def _find_sampling(self, new: NewModel, gguf: Gguf) -> tuple[ModelSampling | None, str]:
        """Find how the model is to be sampled, and who says so."""
        from etui.models.found import read_sampling
        from etui.models.hub import read_json

        if gguf.sampling is not None:
            return None, "as the file itself says (general.sampling)"
        if new.sampling is not None:
            who = "its base model is sampled" if new.spec.adapters else "that program samples it"
            return new.sampling, f"as {who}"
        for repo in new.base_models[:3]:
            document = read_json(repo, "generation_config.json") or {}
            if found := read_sampling(document, _GENERATION):
                return found, f"generation_config.json of {repo}"
        return None, "etui's defaults, assumed: nothing says how it is to be sampled"


def parse_adapter(text: str) -> Adapter:
    """Parse ``FILE`` or ``FILE:SCALE``, and read the header of the file.

    UsageError for a scale that is too large, ModelUnavailable without a complete GGUF.
    """
    from etui.models.gguf import check_gguf
    from etui.models.schema import MOST_SCALE

    file, _, number = text.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        file, scale = text, 1.0
    if not file or not abs(scale) <= MOST_SCALE:
        fix = f"write FILE, or FILE:SCALE with -{MOST_SCALE:g} to {MOST_SCALE:g}"
        raise UsageError(f"{text} names no adapter with a scale", fix)
    path = Path(file).expanduser().absolute()
    try:
        check_gguf(path)
    except ModelUnavailable as error:
        fix = "name a LoRA adapter in a GGUF file after --adapter"
        raise ModelUnavailable(error.what, fix) from error
    return Adapter(path, scale)


def open_user_models(config: Config, catalogue: Catalogue | None = None) -> UserModels:
    """Open the models of this machine, with the stores of other programs in the user's home."""
    from etui.models.catalogue import load_catalogue

    return UserModels(config, catalogue or load_catalogue(config), open_stores())


def open_stores() -> Stores:
    """List the folders in which other programs keep models for this user."""
    from etui.models.found import Stores

    return Stores.of(os.environ, Path.home())


def find_repository(text: str) -> Repository | None:
    """Read the repository of the hub that a text names; None for a text that names none.

    DownloadFailed if there is no such repository, or the hub cannot be asked.
    """
    from etui.models.hub import hub_host, read_repository
    from etui.models.repository import HubReference, parse_reference

    found = parse_reference(text, hub_host() if "://" in text else "")
    return read_repository(found.repo, found.revision) if isinstance(found, HubReference) else None


def _count_freed(path: Path) -> int:
    """Count the bytes that deleting a file frees: none if it is a link, or has another name."""
    with suppress(OSError):
        stat = path.lstat()
        return stat.st_size if S_ISREG(stat.st_mode) and stat.st_nlink == 1 else 0
    return 0


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one == other or os.path.samefile(one, other)
    return False


def _hub_notes(repository: Repository, label: str, why: str) -> Iterator[str]:
    """Yield what the user should know of a repository and of what was chosen from it."""
    downloads = repository.downloads
    facts = [
        f"licence {repository.licence or 'not stated'}",
        *([f"{downloads:,} downloads in 30 days"] if downloads is not None else []),
    ]
    yield f"{repository.name}: {', '.join(facts)}"
    others = [q for q in repository.quantisations if q.label != label and not q.missing]
    if why and others:
        shown = ", ".join(f"{q} ({bytes_text(q.size_bytes)})" for q in others[:_OTHERS_SHOWN])
        more = f" and {len(others) - _OTHERS_SHOWN} more" if len(others) > _OTHERS_SHOWN else ""
        yield f"{label}: {why}; others: {shown}{more}"
    if repository.projectors:
        name = repository.projectors[0].name
        yield (
            f"{name} is not pulled: it reads pictures. Put it beside models.yaml, and add "
            f"`mmproj: {name}` to the entry (hf download {repository.name} {name} --local-dir .)"
        )
    if repository.drafts:
        name = repository.drafts[0].name
        yield (
            f"{name} drafts tokens for it: pull {repository.name}:{name}, then name it as `draft`"
        )


def _entry_lines(
    new: NewModel, gguf: Gguf, sampling: ModelSampling | None, basis: str
) -> Iterator[str]:
    """Yield the entry of a model as YAML from column 0, with the basis of each value."""
    from etui.models.cache_size import cache_size

    spec = new.spec
    licence = one_line(new.licence or gguf.licence or "")
    origin = [one_line(new.came_from), *([f"licence {licence}"] if licence else [])]
    yield f"# From {', '.join(origin)}; added {datetime.now(UTC):%Y-%m-%d}."
    family = f"{gguf.architecture}, {count_text(gguf.layers, 'layer')}"
    name = f"{gguf.name}: " if gguf.name else ""
    trained = gguf.context_tokens
    length = "an unknown context" if trained is None else f"{trained:,} tokens"
    yield f"# {one_line(name + family)[:120]}; trained for {length}."
    quantisation = one_line(gguf.quantisation)
    text = f"{parameters_text(gguf.parameters)}, {quantisation}, {bytes_text(gguf.size_bytes)}"
    yield f"size: {_scalar(text)}"
    yield f"bytes: {gguf.size_bytes}"
    if spec.sha256 is not None:
        published = all(isinstance(source, UrlSource) for source in spec.sources)
        yield f"sha256: {spec.sha256}{' # computed here: none is published' if published else ''}"
    if licence:
        yield f"licence: {_scalar(licence[:100].strip())}"
    if new.licence and is_secure(new.came_from):
        yield f"fact_sources: {_flow({'licence': new.came_from})}"
    if size := cache_size(gguf):
        yield f"kv_bytes_per_token: {size.bytes_per_token}"
    context = min(trained or MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)
    if trained is None or trained > context:
        each = f"{bytes_text(size.token_bytes)} a token" if size else "more memory"
        yield f"context: {context} # assumed: a longer one takes {each}"
    else:
        yield f"context: {max(64, context)}"
    if gguf.chat_template and re.search("code", f"{spec.name} {gguf.name}", re.IGNORECASE):
        yield "recommend: false # trained for code by its name: what is recommended is for chat"
    yield from _template_lines(gguf.chat_template)
    if spec.adapters:
        entries = ({"path": str(each.path), "scale": each.scale} for each in spec.adapters)
        yield f"adapter: [{', '.join(map(_flow, entries))}]"
    if sampling is None:
        yield f"# sampling: {basis}"
    else:
        values = {key: value for key, value in asdict(sampling).items() if value is not None}
        yield f"sampling: {_flow(values)} # {one_line(basis)}"
    yield "sources:"
    for source in spec.sources:
        yield from (f"  - {key}: {_flow(value)}" for key, value in _source_entry(source).items())


def _template_lines(template: str | None) -> Iterator[str]:
    """Yield how the model thinks and calls tools: each load reads it from its chat template."""
    from etui.engine.chat_formats import recognise

    if template is None:
        yield "recommend: false # it has no chat template, as base models have none"
        return
    form = recognise(template)
    facts = []
    if (thought := form.thought) is not None:
        switch = f", switched by {form.switch}" if form.switch else ", always"
        facts.append(f"thinks between {thought.open.strip()} and {thought.close}{switch}")
    facts += [f"calls tools as {form.tools}"] if form.tools else []
    facts += [form.note] if form.note else []
    yield f"# By its chat template: {one_line('; '.join(facts) or 'no thinking and no tools')}."


def _source_entry(source: Source) -> Mapping[str, Any]:
    if isinstance(source, HubSource):
        revision = {"revision": source.revision} if source.revision else {}
        return {"hf": {"repo": source.repo, "file": source.file, **revision}}
    if isinstance(source, UrlSource):
        return {"url": source.url}
    assert isinstance(source, PathSource)  # new models never come from wheels
    return {"path": str(source.path)}


def _flow(value: Any) -> str:
    """Write a value as YAML within one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    return _scalar(value, ",") if isinstance(value, str) else f"{value:g}"


def _scalar(text: str, special: str = "") -> str:
    is_plain = _PLAIN.fullmatch(text) and not (set(special) & set(text)) and text == text.strip()
    is_number = text[:1].isdigit() and " " not in text
    is_word = text.lower() in _WORDS or is_number or text.startswith("~")
    return text if is_plain and not is_word else json.dumps(text, ensure_ascii=False)
