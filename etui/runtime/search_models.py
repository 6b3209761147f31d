"""Search the hub for models, each priced for this machine before anything is pulled.

Sizes are those that the hub states. What else a prediction needs (layers, heads, experts) is in the
header of a file, and the same in all quantisations of a repository: the start of one file is read,
and kept by its sha256.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from etui.atomic import write_bytes
from etui.config.config import Config
from etui.curves.prediction import MachineFacts, Prediction, predict
from etui.errors import DownloadFailed, EtuiError, ModelUnavailable
from etui.log.queries import LogReader
from etui.models.catalogue import load_catalogue
from etui.models.files import file_size, has_file, model_path, recorded_sha256
from etui.models.gguf import Gguf, check_usable, parse_start
from etui.models.hub import hub_page, read_repository, read_start, search_repositories
from etui.models.repository import RemoteFile, Repository
from etui.models.spec import HubSource, ModelSpec
from etui.runtime.measure_memory import find_memory_speed, predict_entry, read_machine
from etui.runtime.user_models import MOST_CONTEXT_TOKENS, open_stores

USUAL_LIMIT = 5
_AT_ONCE = 8
_KEPT_BYTES = 64 * 2**20  # of headers
_LEAST_BITS, _MOST_BITS = 1.0, 40.0
"""Bits of a weight, outside of which the stated number of weights is that of another file."""
_MIXTURE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?B)-A(\d+(?:\.\d+)?B)", re.IGNORECASE)
"""All and the active weights in the name of a mixture: ``35B-A3B``."""


@dataclass(frozen=True, slots=True)
class PricedQuantisation:
    """A quantisation of a repository, and what it would take here."""

    label: str  # ``Q4_K_M``
    file: str  # Its file in the repository; of a split one, the first
    size_bytes: int | None
    reference: str  # What `etui models pull` takes: ``OWNER/REPO:Q4_K_M``
    prediction: Prediction
    is_default: bool = False  # Whether a pull without a label takes it
    missing: tuple[str, ...] = ()  # Parts that the repository lacks: it cannot be pulled
    entry: str = ""  # Its name in the catalogue; empty if no entry has this file
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class PricedRepository:
    """A repository of the hub with GGUF files."""

    name: str  # ``OWNER/REPO``
    page: str  # Its address
    downloads: int | None  # In the last 30 days
    licence: str  # As its card says; empty if it does not
    gated: bool
    parameters: int | None  # Of a mixture, with those of idle experts
    active_parameters: int | None  # None if the header is not known
    context_tokens: int  # Context that the memory counts with
    quantisations: tuple[PricedQuantisation, ...]  # From small to large
    has_header: bool  # Whether layers and experts are known; otherwise memory is a rough estimate
    problem: str = ""  # Why sizes or the header are not known; empty if they are


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model of the catalogue, or of another program on this machine, that matches the words."""

    name: str
    size_bytes: int | None
    on_disk: bool
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found."""

    words: str
    repositories: tuple[PricedRepository, ...]  # The most downloaded first
    local: tuple[LocalModel, ...]
    machine: MachineFacts  # What the predictions rest on
    problem: str = ""  # Why the hub gave nothing, in a sentence; empty if it was asked
    fix: str = ""  # What helps

    def only_fitting(self) -> SearchResult:
        """Leave out what is not known to fit into the free memory."""
        repositories = (
            replace(each, quantisations=tuple(q for q in each.quantisations if q.prediction.fits))
            for each in self.repositories
        )
        return replace(
            self,
            repositories=tuple(each for each in repositories if each.quantisations),
            local=tuple(model for model in self.local if model.prediction.fits),
        )


def search_models(
    config: Config, words: str, limit: int = USUAL_LIMIT, machine: MachineFacts | None = None
) -> SearchResult:
    """Search the hub, and the models that are known already; a hub that fails is a problem in it.

    It takes seconds: a request for the list and about two for each repository, several at once.
    Without ``machine``, what predictions rest on is read, and the memory measured if nothing is
    known yet. InvalidFile if models.yaml is not valid.
    """
    known = _Known.read(config, machine)
    local = tuple(known.find_local(words, config))
    try:
        listed = search_repositories(words, limit)
    except DownloadFailed as error:
        return SearchResult(words, (), local, known.machine, error.what, error.fix)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = tuple(pool.map(partial(_read_and_price, config=config, known=known), listed))
    return SearchResult(words, found, local, known.machine)


def price_repository(repository: Repository, config: Config) -> SearchResult:
    """Price one repository, whose sizes were read already; the result has nothing else."""
    known = _Known.read(config, None)
    priced = _price(repository, config, known)
    return SearchResult(repository.name, (priced,), (), known.machine)


@dataclass(frozen=True, slots=True)
class _Known:
    """The machine, and the models of the catalogue, to know them again on the hub."""

    machine: MachineFacts
    specs: Mapping[str, ModelSpec]
    entries: Mapping[str, LocalModel]
    paths: Collection[Path]
    names: Mapping[tuple[str, str] | str, str]  # Repository and file, or sha256 -> entry

    @classmethod
    def read(cls, config: Config, machine: MachineFacts | None) -> _Known:
        from etui.engine.library import choose_threads

        catalogue = load_catalogue(config)
        specs = {spec.name: spec for spec in catalogue if spec.backend is None}
        names: dict[tuple[str, str] | str, str] = {}
        for spec in (spec for spec in specs.values() if not spec.adapters):
            for source in spec.sources:
                if isinstance(source, HubSource):
                    names[source.repo.lower(), source.file] = spec.name
            if sha256 := spec.sha256 or recorded_sha256(spec, config):
                names[sha256] = spec.name
        paths = {name: model_path(spec, config) for name, spec in specs.items()}
        with LogReader(config) as log:
            if machine is None:
                machine = read_machine(log, config, catalogue)
                if not machine.measured and machine.memory_bytes_per_second is None:
                    threads = choose_threads(config.threads, config.sysfs_dir)
                    with suppress(EtuiError):  # it stays unknown, which the result says
                        find_memory_speed(config, threads, lambda: False)
                    machine = read_machine(log, config, catalogue)
            entries = {
                name: LocalModel(
                    name,
                    file_size(paths[name]) or spec.file_bytes,
                    has_file(spec, config),
                    predict_entry(log, spec, config, machine),
                )
                for name, spec in specs.items()
            }
        return cls(machine, specs, entries, {*paths.values()}, names)

    def find_local(self, words: str, config: Config) -> Iterator[LocalModel]:
        """Find the entries, and the models of other programs that can be used, with all words."""
        wanted = words.lower().split()
        for name, model in self.entries.items():
            text = f"{name} {self.specs[name].sources}".lower()
            if all(word in text for word in wanted):
                yield model
        for found in open_stores().find():
            is_wanted = all(word in found.name.lower() for word in wanted)
            if not is_wanted or found.problem or found.path in self.paths:
                continue
            spec = ModelSpec(found.name, "", (), context=MOST_CONTEXT_TOKENS)
            with suppress(EtuiError):  # it is gone by now
                gguf, most = check_usable(found.path), config.context_tokens
                prediction = predict(spec, gguf, self.machine, most_context=most)
                yield LocalModel(found.name, found.size_bytes, True, prediction)

    def find_entry(self, repo: str, file: RemoteFile) -> str:
        """Find the name of the entry of a file of the hub; empty without one."""
        return self.names.get(file.sha256 or "") or self.names.get((repo.lower(), file.name), "")


def _read_and_price(listed: Repository, config: Config, known: _Known) -> PricedRepository:
    """Ask for the sizes of a repository, and price it; if they are refused, that is a problem."""
    try:
        found = read_repository(listed.name)
    except DownloadFailed as error:
        return replace(_price(listed, config, known, has_sizes=False), problem=error.what)
    return _price(
        replace(  # with the sizes of files, a hub may leave out what it says of headers
            found,
            parameters=found.parameters or listed.parameters,
            context_tokens=found.context_tokens or listed.context_tokens,
        ),
        config,
        known,
    )


def _price(
    repository: Repository, config: Config, known: _Known, *, has_sizes: bool = True
) -> PricedRepository:
    """Price each quantisation; a header that is refused is a problem of the result."""
    gguf, problem, trained = None, "", repository.context_tokens
    if has_sizes:
        try:
            gguf = _read_header(repository, config)
        except EtuiError as error:
            problem = error.what
    if gguf is not None:
        gguf = replace(gguf, stated_parameters=repository.parameters or 0)
        trained = gguf.context_tokens or trained
    context = min(trained or MOST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)
    context = min(context, config.context_tokens or context)
    default = None
    with suppress(EtuiError):
        default = repository.choose().quantisation
    counts = Counter(each.label for each in repository.quantisations)
    found = []
    for each in repository.quantisations:
        first, size = each.files[0], each.size_bytes
        name = each.label if counts[each.label] == 1 else first.name
        entry = known.find_entry(repository.name, first)
        own = known.entries.get(entry)
        if own is not None and (own.on_disk or own.prediction.is_measured):
            prediction = own.prediction
        else:
            spec = ModelSpec(name, _describe(repository), (), file_bytes=size, context=context)
            header = None if gguf is None or size is None else _of_size(gguf, size)
            prediction = predict(spec, header, known.machine)
        found.append(
            PricedQuantisation(
                each.label,
                first.name,
                size,
                f"{repository.name}:{name}",
                prediction,
                each is default,
                each.missing,
                entry,
                own is not None and own.on_disk,
            )
        )
    found.sort(key=lambda each: (each.size_bytes or 0, each.label))
    return PricedRepository(
        repository.name,
        hub_page(repository.name),
        repository.downloads,
        repository.licence,
        repository.gated,
        repository.parameters,
        gguf.active_parameters or None if gguf is not None else None,
        context,
        tuple(found),
        gguf is not None,
        problem,
    )


def _of_size(gguf: Gguf, size_bytes: int) -> Gguf:
    """Return the header of another quantisation of the same model."""
    parameters = gguf.stated_parameters
    is_likely = parameters and _LEAST_BITS <= 8 * size_bytes / parameters <= _MOST_BITS
    return replace(gguf, size_bytes=size_bytes, stated_parameters=parameters if is_likely else 0)


def _describe(repository: Repository) -> str:
    """Describe the weights of a repository as an entry does, to know them without a header."""
    if match := _MIXTURE.search(repository.name):
        return f"{match[1].upper()} parameters, {match[2].upper()} active"
    count = repository.parameters
    return f"{count / 1e9:.3f}B parameters" if count else ""


def _read_header(repository: Repository, config: Config) -> Gguf | None:
    """Read the header of the quantisation that a pull takes; None if it is not found.

    DownloadFailed if the hub refuses it, ModelUnavailable if no file can be used.
    """
    file = repository.choose().quantisation.files[0]
    kept = config.home / "cache" / "headers" / f"{file.sha256}.gguf" if file.sha256 else None
    if kept is not None and kept.is_file():
        with suppress(OSError, ModelUnavailable):
            if found := parse_start(Path(file.name), kept.read_bytes(), file.size_bytes or 0):
                return found[0]
    read = read_start(repository, file)
    if read is None:
        return None
    if kept is not None:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(kept, read[1])
            _drop_oldest(kept.parent)
    return read[0]


def _drop_oldest(folder: Path) -> None:
    files = [(path.stat(), path) for path in folder.glob("*.gguf")]
    files.sort(key=lambda each: each[0].st_mtime_ns, reverse=True)
    left = _KEPT_BYTES
    for stat, path in files:
        left -= stat.st_size
        if left < 0:
            path.unlink(missing_ok=True)
